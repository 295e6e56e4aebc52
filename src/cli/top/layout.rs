//! How the lines of the screen are shared, and which columns of a table fit. Draws nothing.

/// Lines for each part, from top to bottom; 0: it is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    /// The title.
    pub title: u16,
    /// What is not well.
    pub problems: u16,
    /// The table of peers, with its header.
    pub peers: u16,
    /// What is known of the chosen peer's path.
    pub path: u16,
    /// The curves, each with a line above it.
    pub curves: u16,
    /// Gates or flows, with their header.
    pub below: u16,
    /// The keys.
    pub keys: u16,
}

/// What each part would like to have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    /// Things that are not well.
    pub problems: usize,
    /// Peers.
    pub peers: usize,
    /// Lines about the path.
    pub path: usize,
    /// Lines of gates or flows, with their header; 0: there are none.
    pub below: usize,
}

/// The most lines of a curve.
const CURVE_MAX: u16 = 6;
/// Curves.
pub(super) const CURVES: u16 = 2;

impl Lines {
    /// Shares `height` lines: what is not well and the peers come before all else.
    pub fn share(height: u16, wishes: Wishes) -> Self {
        let mut left = height;
        let mut take = |wanted: u16| {
            let taken = wanted.min(left);
            left -= taken;
            taken
        };
        let count = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
        let title = take(1);
        let keys = take(u16::from(height >= 6));
        // At least a peer stays in sight.
        let problems =
            take(count(wishes.problems).min((height / 6).max(1)).min(height.saturating_sub(title + keys + 2)));
        let peers_wanted = count(wishes.peers).saturating_add(1);
        // Many peers leave room for the rest, if there is some.
        let peers = take(peers_wanted.min((height / 3).max(3)));
        let below_least = take(count(wishes.below).min(if height >= 16 { 3 } else { 0 }));
        let path = take(count(wishes.path).min(if height >= 12 { 2 } else { 0 }));
        // A curve of one line, with the line above it, says something; less does not.
        let rows = if height >= 14 { (height / 10).clamp(1, CURVE_MAX) } else { 0 };
        let wanted = CURVES * (rows + 1);
        let curves = if rows > 0 { take(wanted) } else { 0 };
        let curves_used = if curves < 2 * CURVES { 0 } else { curves / CURVES * CURVES };
        let mut left = left + (curves - curves_used);
        let mut more = |has: u16, wanted: u16| {
            let added = wanted.saturating_sub(has).min(left);
            left -= added;
            has + added
        };
        let peers = more(peers, peers_wanted);
        let below = more(below_least, count(wishes.below));
        let curves_used = match curves_used {
            0 => 0,
            used => more(used, CURVES * (CURVE_MAX + 1)) / CURVES * CURVES,
        };
        Self { title, problems, peers, path, curves: curves_used, below, keys }
    }
}

/// Which of these columns fit into `width`, one space between two. Each has its width and its rank: the first rank is
/// kept longest. The first column gets what is left.
pub(super) fn fit(columns: &[(u16, u8)], width: u16) -> Vec<(usize, u16)> {
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(|at| columns[*at].1);
    let mut chosen: Vec<usize> = Vec::new();
    let mut used = 0_u16;
    for at in order {
        let needed = columns[at].0 + u16::from(!chosen.is_empty());
        if used + needed > width && !chosen.is_empty() {
            break;
        }
        used += needed;
        chosen.push(at);
    }
    chosen.sort_unstable();
    let spare = width.saturating_sub(used);
    let first = chosen.first().copied();
    // Only so much: numbers far from their names are hard to read.
    let widened = |at: usize| if Some(at) == first { columns[at].0 + spare.min(24) } else { columns[at].0 };
    chosen.into_iter().map(|at| (at, widened(at).min(width))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_every_screen_are_shared_without_one_too_many() {
        for height in 0..=120 {
            for (problems, peers, below) in [(0, 1, 0), (0, 1, 4), (3, 2, 4), (40, 300, 500), (1, 0, 0)] {
                let lines = Lines::share(height, Wishes { problems, peers, path: 2, below });
                let sum =
                    lines.title + lines.problems + lines.peers + lines.path + lines.curves + lines.below + lines.keys;
                assert!(sum <= height, "{lines:?} of {height}");
                assert_eq!(lines.curves % CURVES, 0);
                assert!(height < 4 || peers == 0 || lines.peers >= 2, "{lines:?} of {height}: a peer is in sight");
                assert!(height < 4 || problems == 0 || lines.problems > 0, "{lines:?} of {height}");
                assert!(height < 24 || peers == 0 || lines.curves >= 4, "{lines:?} of {height}");
                assert!(height < 24 || below == 0 || lines.below >= 3, "{lines:?} of {height}");
            }
        }
    }

    #[test]
    fn columns_are_left_out_by_their_rank() {
        let columns = [(8, 0), (6, 2), (5, 1)];
        for (width, chosen) in [
            (4, vec![(0, 4)]),
            (13, vec![(0, 13)]),
            (14, vec![(0, 8), (2, 5)]),
            (20, vec![(0, 14), (2, 5)]),
            (21, vec![(0, 8), (1, 6), (2, 5)]),
            (99, vec![(0, 32), (1, 6), (2, 5)]),
        ] {
            assert_eq!(fit(&columns, width), chosen, "{width}");
        }
    }
}

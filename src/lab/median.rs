//! The middle of a few measurements, and how far chance may have moved it.
//!
//! Nothing is assumed of how they scatter, so one that was disturbed counts no more than any other.

/// The middle one; of an even number the upper of the two. Zero of none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Two of the values between which the true median lies with 95 % certainty or more, as the sign test has it; of fewer
/// than six values none are so certain, and these are the lowest and the highest. For a thousand values at the most.
pub fn median_bounds(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let rank = rank(values.len());
    let at = |index: Option<usize>| index.and_then(|index| values.get(index)).copied().unwrap_or_default();
    [at(Some(rank)), at(values.len().checked_sub(rank + 1))]
}

/// How many values to leave out at each end: so many or fewer of `count` fall on one side of the median, by chance, in one
/// of forty cases at the most.
fn rank(count: usize) -> usize {
    debug_assert!(count <= 1000, "the share of one way in all would be too small a number");
    let mut rank = 0;
    // The share of all ways to fall that have exactly `rank` values on that side, then of those with so many or fewer.
    let mut exactly = 0.5_f64.powi(count as i32);
    let mut at_most = exactly;
    while rank < count / 2 && at_most <= 0.025 {
        exactly *= (count - rank) as f64 / (rank + 1) as f64;
        at_most += exactly;
        rank += 1;
    }
    rank.saturating_sub(usize::from(at_most > 0.025))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_are_those_of_the_tables() {
        // Ranks of the 95 % interval of a median, as tables have them; counted from 1 there, from 0 here.
        for (count, expected) in [(6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (21, 6), (30, 10), (50, 18)] {
            assert_eq!(rank(count) + 1, expected, "{count}");
        }
        for count in 0..6 {
            assert_eq!(rank(count), 0, "{count}");
        }
    }

    #[test]
    fn order_does_not_matter_and_few_values_are_told_whole() {
        let values: Vec<f64> = (0..20).map(|at| f64::from(at * 7 % 20)).collect();
        assert_eq!((median(values.clone()), median_bounds(values)), (10.0, [5.0, 14.0]));
        assert_eq!(median_bounds(vec![3.0, 1.0, 2.0]), [1.0, 3.0]);
        assert_eq!((median(vec![]), median_bounds(vec![])), (0.0, [0.0, 0.0]));
    }
}

//! The median of a few measurements, and its confidence interval.
//!
//! The distribution of the values is not assumed, so one disturbed measurement counts no more than any other.

/// The middle value; the upper of the two for an even number, zero for none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Two of the values that enclose the true median with 95 % confidence or more (sign test). Fewer than six values
/// cannot give that confidence; then these are the lowest and the highest value. For at most a thousand values.
pub fn median_bounds(mut values: Vec<f64>) -> [f64; 2] {
    values.sort_by(f64::total_cmp);
    let rank = rank(values.len());
    let at = |index: Option<usize>| index.and_then(|index| values.get(index)).copied().unwrap_or_default();
    [at(Some(rank)), at(values.len().checked_sub(rank + 1))]
}

/// How many values to leave out at each end: the largest number for which at most that many of `count` values fall on
/// one side of the median with a probability of at most 1 in 40.
fn rank(count: usize) -> usize {
    debug_assert!(count <= 1000, "the share of one way in all would be too small a number");
    let mut rank = 0;
    // The probability that exactly `rank` values fall on that side, and the probability of at most `rank`.
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
    fn the_ranks_equal_those_of_published_tables() {
        // Ranks of the 95 % interval of a median from published tables; the tables count from 1, this code from 0.
        for (count, expected) in [(6, 1), (8, 1), (9, 2), (12, 3), (15, 4), (20, 6), (21, 6), (30, 10), (50, 18)] {
            assert_eq!(rank(count) + 1, expected, "{count}");
        }
        for count in 0..6 {
            assert_eq!(rank(count), 0, "{count}");
        }
    }

    #[test]
    fn order_does_not_matter_and_few_values_are_bounded_by_their_extremes() {
        let values: Vec<f64> = (0..20).map(|at| f64::from(at * 7 % 20)).collect();
        assert_eq!((median(values.clone()), median_bounds(values)), (10.0, [5.0, 14.0]));
        assert_eq!(median_bounds(vec![3.0, 1.0, 2.0]), [1.0, 3.0]);
        assert_eq!((median(vec![]), median_bounds(vec![])), (0.0, [0.0, 0.0]));
    }
}

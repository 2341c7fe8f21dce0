//! Medians and spread of a handful of runs. No means: one run on a busy host must not move the figure.

use serde::{Deserialize, Serialize};

/// A figure over several runs
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Spread {
    /// The middle one, or the mean of the two in the middle
    pub median: f64,
    /// The smallest
    pub least: f64,
    /// The largest
    pub most: f64,
    /// How many
    pub count: usize,
}

impl Spread {
    /// Of these values; `None` of none
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        };
        Some(Self { median, least, most, count: sorted.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_the_outlier() {
        assert_eq!(Spread::of(&[]), None);
        let spread = Spread::of(&[5.0, 1.0, 100.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most, spread.count), (5.0, 1.0, 100.0, 3));
        assert_eq!(Spread::of(&[4.0, 2.0]).unwrap().median, 3.0);
    }
}

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

/// The middle of several runs and the half of them around it
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Quartiles {
    /// A quarter of the runs lies below
    pub lower: f64,
    /// Half of the runs lie below
    pub median: f64,
    /// Three quarters of the runs lie below
    pub upper: f64,
    /// How many
    pub count: usize,
}

impl Quartiles {
    /// Of these values, interpolated between neighbours (method 7 of Hyndman and Fan); `None` of none
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| {
            let place = part * last as f64;
            let below = place.floor() as usize;
            let above = (below + 1).min(last);
            sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
        };
        Some(Self { lower: at(0.25), median: at(0.5), upper: at(0.75), count: sorted.len() })
    }

    /// Lower and upper quartile
    pub fn ends(&self) -> [f64; 2] {
        [self.lower, self.upper]
    }

    /// Of a ratio: whether the middle half of the runs lies on both sides of 1, so that nothing is shown
    pub fn straddles_one(&self) -> bool {
        self.lower <= 1.0 && self.upper >= 1.0
    }

    /// Of a ratio: of the same ratio the other way up
    pub fn inverse(&self) -> Self {
        Self {
            lower: 1.0 / self.upper,
            median: 1.0 / self.median,
            upper: 1.0 / self.lower,
            count: self.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated_and_turn_over() {
        let of = |values: &[f64]| {
            let found = Quartiles::of(values).unwrap();
            [found.lower, found.median, found.upper]
        };
        assert_eq!(Quartiles::of(&[]), None);
        assert_eq!(of(&[3.0]), [3.0, 3.0, 3.0]);
        assert_eq!(of(&[5.0, 1.0, 3.0, 2.0, 4.0]), [2.0, 3.0, 4.0]);
        assert_eq!(of(&[4.0, 3.0, 2.0, 1.0]), [1.75, 2.5, 3.25]);
        let ratio = Quartiles::of(&[0.5, 0.5, 2.0]).unwrap();
        assert_eq!((ratio.lower, ratio.upper), (0.5, 1.25));
        assert_eq!((ratio.inverse().lower, ratio.inverse().upper), (0.8, 2.0));
        assert_eq!(ratio.inverse().median, 2.0);
    }

    #[test]
    fn noise_is_what_lies_on_both_sides_of_one() {
        let straddles = |values: &[f64]| Quartiles::of(values).unwrap().straddles_one();
        assert!(straddles(&[0.9, 1.0, 1.1]));
        assert!(straddles(&[1.0, 1.0]));
        assert!(!straddles(&[1.2, 1.3, 1.4]));
        // One outlier on the other side does not make noise of four that agree.
        assert!(!straddles(&[0.7, 1.2, 1.2, 1.3, 1.3]));
        assert!(!straddles(&[0.5, 0.6, 0.7, 0.8]));
    }

    #[test]
    fn the_median_ignores_the_outlier() {
        assert_eq!(Spread::of(&[]), None);
        let spread = Spread::of(&[5.0, 1.0, 100.0]).unwrap();
        assert_eq!((spread.median, spread.least, spread.most, spread.count), (5.0, 1.0, 100.0, 3));
        assert_eq!(Spread::of(&[4.0, 2.0]).unwrap().median, 3.0);
    }
}

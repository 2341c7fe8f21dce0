//! Quartiles of a handful of pairs. No means: one run on a busy host must not move the figure. What
//! the figures are of is `record`'s.

/// The middle of a set of figures and the half of them around it
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quartiles {
    /// A quarter of the figures lies below
    pub lower: f64,
    /// Half of the figures lies below
    pub median: f64,
    /// Three quarters of the figures lie below
    pub upper: f64,
}

impl Quartiles {
    /// Of these figures, interpolated between neighbours (method 7 of Hyndman and Fan); `None` of
    /// none
    pub fn of(figures: &[f64]) -> Option<Self> {
        let mut sorted = figures.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |part: f64| {
            let place = part * last as f64;
            let below = place.floor() as usize;
            let above = (below + 1).min(last);
            sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
        };
        Some(Self { lower: at(0.25), median: at(0.5), upper: at(0.75) })
    }

    /// Lower and upper quartile
    pub fn ends(&self) -> [f64; 2] {
        [self.lower, self.upper]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quartiles(figures: &[f64]) -> [f64; 3] {
        let found = Quartiles::of(figures).unwrap();
        [found.lower, found.median, found.upper]
    }

    #[test]
    fn quartiles_are_interpolated_and_do_not_depend_on_the_order() {
        assert_eq!(Quartiles::of(&[]), None);
        assert_eq!(quartiles(&[3.0]), [3.0, 3.0, 3.0]);
        assert_eq!(quartiles(&[2.0, 1.0]), [1.25, 1.5, 1.75]);
        assert_eq!(quartiles(&[5.0, 1.0, 3.0, 2.0, 4.0]), [2.0, 3.0, 4.0]);
        assert_eq!(quartiles(&[4.0, 3.0, 2.0, 1.0]), [1.75, 2.5, 3.25]);
    }

    #[test]
    fn one_outlier_moves_neither() {
        let calm = quartiles(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        assert_eq!(quartiles(&[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 900.0]), calm);
    }
}

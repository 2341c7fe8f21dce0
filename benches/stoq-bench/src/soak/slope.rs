//! A trend that outliers do not bend: the median of the slopes between all pairs of points (Theil and Sen).

/// Points that are compared pair by pair; of more, this many spread over all of them are
const POINTS: usize = 512;

/// The trend of `y` over `x`, as the median slope between pairs; `None` of fewer than three points
pub fn slope(points: &[(f64, f64)]) -> Option<f64> {
    if points.len() < 3 {
        return None;
    }
    let step = points.len().div_ceil(POINTS);
    let some: Vec<(f64, f64)> = points.iter().copied().step_by(step).collect();
    let mut slopes = Vec::with_capacity(some.len() * some.len() / 2);
    for (index, (x, y)) in some.iter().enumerate() {
        for (other_x, other_y) in &some[index + 1..] {
            if other_x > x {
                slopes.push((other_y - y) / (other_x - x));
            }
        }
    }
    slopes.sort_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(count: usize, rise: f64) -> Vec<(f64, f64)> {
        (0..count).map(|x| (x as f64, 100.0 + rise * x as f64)).collect()
    }

    #[test]
    fn a_line_has_its_own_slope() {
        assert_eq!(slope(&line(3, 2.0)), Some(2.0));
        assert_eq!(slope(&line(5_000, -0.5)), Some(-0.5));
        assert_eq!(slope(&line(100, 0.0)), Some(0.0));
        assert_eq!(slope(&line(2, 1.0)), None);
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None, "no time passes");
    }

    #[test]
    fn spikes_do_not_bend_it() {
        let mut points = line(180, 0.0);
        for index in [30, 60, 90, 170, 179] {
            points[index].1 = 1e9;
        }
        assert_eq!(slope(&points), Some(0.0));
        let leak = slope(&line(180, 3.0)).unwrap();
        let mut points = line(180, 3.0);
        points[179].1 = 0.0;
        assert!((slope(&points).unwrap() - leak).abs() < 0.1, "and do not hide it");
    }
}

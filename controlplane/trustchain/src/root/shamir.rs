//! Shamir's secret sharing over GF(2^8), octet by octet: any `threshold` of the shares give the secret, fewer say
//! nothing about it. Without tables, so that no access to memory depends on a secret. What a share is for, and
//! how it is kept, is not known here.

use boring::error::ErrorStack;
use zeroize::Zeroizing;

/// x^8 + x^4 + x^3 + x + 1, without its highest term
const REDUCTION: u8 = 0x1b;

/// One share: the value of every octet's polynomial at `index`
pub(super) struct Point {
    /// From 1; at 0 is the secret
    pub(super) index: u8,
    pub(super) values: Zeroizing<Vec<u8>>,
}

/// Shares 1 to `shares` of `secret`. The caller keeps 1 <= threshold <= shares.
pub(super) fn split(secret: &[u8], shares: u8, threshold: u8) -> Result<Vec<Point>, ErrorStack> {
    // The coefficients of each octet's polynomial above the constant one, which is the secret's octet.
    let random = usize::from(threshold.saturating_sub(1));
    let mut coefficients = Zeroizing::new(vec![0; random * secret.len()]);
    boring::rand::rand_bytes(&mut coefficients)?;
    let point = |index: u8| {
        let values = secret.iter().enumerate().map(|(at, octet)| {
            let own = &coefficients[at * random..(at + 1) * random];
            // Horner's rule, from the highest coefficient down to the constant.
            let above = own.iter().fold(0, |sum, coefficient| multiply(sum, index) ^ coefficient);
            multiply(above, index) ^ octet
        });
        Point { index, values: Zeroizing::new(values.collect()) }
    };
    Ok((1..=shares).map(point).collect())
}

/// The secret of these shares. None where two have one index, one has index 0, lengths differ or there are none.
/// Of too few shares, or of shares that do not belong together, comes something that is not the secret.
pub(super) fn join(points: &[Point]) -> Option<Zeroizing<Vec<u8>>> {
    let length = points.first()?.values.len();
    for (at, point) in points.iter().enumerate() {
        let twice = points[..at].iter().any(|other| other.index == point.index);
        if twice || point.index == 0 || point.values.len() != length {
            return None;
        }
    }
    let mut secret = Zeroizing::new(vec![0; length]);
    for point in points {
        // Lagrange's polynomial of this point, at 0; indices are no secret.
        let weight =
            points.iter().filter(|other| other.index != point.index).fold(1, |weight, other| {
                multiply(weight, multiply(other.index, inverse(other.index ^ point.index)))
            });
        for (octet, value) in secret.iter_mut().zip(point.values.iter()) {
            *octet ^= multiply(*value, weight);
        }
    }
    Some(secret)
}

fn multiply(mut a: u8, mut b: u8) -> u8 {
    let mut product = 0;
    for _ in 0..8 {
        product ^= a & (b & 1).wrapping_neg();
        let carry = (a >> 7).wrapping_neg();
        a = (a << 1) ^ (REDUCTION & carry);
        b >>= 1;
    }
    product
}

/// a^254; of 0 it is 0
fn inverse(a: u8) -> u8 {
    // Squares of a: a^2, a^4 ... a^128, multiplied.
    let mut square = a;
    let mut product = 1;
    for _ in 0..7 {
        square = multiply(square, square);
        product = multiply(product, square);
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(points: &[Point], chosen: &[usize]) -> Vec<Point> {
        let point =
            |at: &usize| Point { index: points[*at].index, values: points[*at].values.clone() };
        chosen.iter().map(point).collect()
    }

    #[test]
    fn the_field_is_the_one_of_aes() {
        // FIPS 197 section 4.2
        assert_eq!(multiply(0x57, 0x83), 0xc1);
        assert_eq!(multiply(0x57, 0x13), 0xfe);
        assert_eq!(inverse(0x53), 0xca);
        for a in 1..=255 {
            assert_eq!(multiply(a, inverse(a)), 1);
            assert_eq!(multiply(a, 1), a);
            assert_eq!(multiply(a, 0), 0);
        }
    }

    #[test]
    fn every_quorum_of_three_of_five_has_the_secret_and_no_two_have() {
        let secret: Vec<u8> = (0..48).map(|octet| octet * 5).collect();
        let points = split(&secret, 5, 3).unwrap();
        for a in 0..5 {
            for b in 0..5 {
                for c in 0..5 {
                    let joined = join(&copy(&points, &[a, b, c]));
                    match a != b && b != c && a != c {
                        true => assert_eq!(joined.unwrap().to_vec(), secret),
                        false => assert!(joined.is_none()),
                    }
                }
                if a != b {
                    assert_ne!(join(&copy(&points, &[a, b])).unwrap().to_vec(), secret);
                }
            }
        }
        assert_eq!(join(&copy(&points, &[4, 2, 0, 1, 3])).unwrap().to_vec(), secret);
    }

    #[test]
    fn fewer_shares_than_the_threshold_fit_every_secret() {
        // What two of three-of-n shares leave open: for each possible octet there is a third share that
        // gives it.
        let points = split(&[0x42], 3, 3).unwrap();
        let mut possible = std::collections::BTreeSet::new();
        for value in 0..=255 {
            let mut all = copy(&points, &[0, 1]);
            all.push(Point { index: 3, values: Zeroizing::new(vec![value]) });
            possible.insert(join(&all).unwrap()[0]);
        }
        assert_eq!(possible.len(), 256);
    }

    #[test]
    fn a_threshold_of_all_and_the_longest_set_work_and_nonsense_does_not() {
        let points = split(b"secret", 255, 255).unwrap();
        assert_eq!(join(&points).unwrap().to_vec(), b"secret");
        assert!(join(&[]).is_none());
        assert!(join(&[Point { index: 0, values: Zeroizing::new(vec![1]) }]).is_none());
        let uneven = [
            Point { index: 1, values: Zeroizing::new(vec![1]) },
            Point { index: 2, values: Zeroizing::new(vec![1, 2]) },
        ];
        assert!(join(&uneven).is_none());
    }

    #[test]
    fn two_splits_of_one_secret_share_no_share() {
        let (one, two) = (split(&[7; 48], 3, 2).unwrap(), split(&[7; 48], 3, 2).unwrap());
        for (one, two) in one.iter().zip(&two) {
            assert_ne!(*one.values, *two.values);
        }
    }
}

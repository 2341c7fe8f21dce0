//! Sizes, durations and lists of processors as they are written on a command line. Units are part of the
//! text: a bare number is refused where it could mean two things.

use std::time::Duration;

/// Reads an octet count: `1452`, `64KiB`, `16GiB`, `1MB`
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(format!("{text:?}: write a size as 1452, 64KiB, 16GiB or 1GB")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?}: a size is a whole number with a unit, as 16GiB"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} does not fit 64 bits"))
}

/// Reads a duration: `10s`, `500ms`, `2m`
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?}: write a duration as 500ms, 10s, 1.5s or 2m");
    let (number, unit) = split(text);
    let factor = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * factor).map_err(|_| wrong())
}

/// Reads processors: `0`, `0,2`, `0-3,6`
pub fn cores(text: &str) -> Result<Cores, String> {
    let wrong = |part: &str| format!("{part:?} is not a processor or range; write 0,2 or 0-3");
    let mut all = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| wrong(part))?;
        let last: usize = last.trim().parse().map_err(|_| wrong(part))?;
        if last < first || last - first > 1_023 {
            return Err(wrong(part));
        }
        all.extend(first..=last);
    }
    let mut sorted = all.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != all.len() {
        return Err(format!("{text:?} names a processor twice"));
    }
    Ok(Cores(all))
}

/// Processors in the order given
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cores(pub Vec<usize>);

impl std::fmt::Display for Cores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&text.join(","))
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_carry_their_unit() {
        assert_eq!(size_bytes("1452"), Ok(1_452));
        assert_eq!(size_bytes("64KiB"), Ok(65_536));
        assert_eq!(size_bytes("16GiB"), Ok(16 << 30));
        assert_eq!(size_bytes("1GB"), Ok(1_000_000_000));
        for wrong in ["", "GiB", "1gib", "-1", "1.5GiB", "99999999999TiB"] {
            assert!(size_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "10", "s", "-1s", "1e400s", "1d"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cores_are_lists_of_ranges_without_repetition() {
        assert_eq!(cores("0"), Ok(Cores(vec![0])));
        assert_eq!(cores("4,0-2"), Ok(Cores(vec![4, 0, 1, 2])));
        assert_eq!(cores("4,0-2").unwrap().to_string(), "4,0,1,2");
        for wrong in ["", "a", "2-1", "0,0", "0-9999", "1,,2"] {
            assert!(cores(wrong).is_err(), "{wrong}");
        }
    }
}

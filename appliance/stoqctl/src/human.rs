//! Quantities as people read them. JSON keeps base units; only text goes through here.

use std::time::{Duration, SystemTime};

/// `1.4 GiB`; one decimal from KiB on
pub(crate) fn bytes(amount: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if amount < 1_024 {
        return format!("{amount} B");
    }
    let mut scaled = amount as f64 / 1_024.0;
    let mut unit = 0;
    // What would round to 1024.0 is shown in the next unit.
    while scaled >= 1_023.95 && unit + 1 < UNITS.len() {
        scaled /= 1_024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// `350.2 MiB/s`
pub(crate) fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second.max(0.0) as u64))
}

/// `3 d 4 h`, `2 min 5 s`, `1.5 ms`: the two largest units
pub(crate) fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 1e-3 {
        return format!("{:.0} µs", seconds * 1e6);
    }
    if seconds < 1.0 {
        return format!("{:.1} ms", seconds * 1e3);
    }
    if seconds < 10.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds as u64;
    let (days, hours) = (whole / 86_400, whole / 3_600 % 24);
    let (minutes, rest) = (whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, _) => format!("{minutes} min {rest} s"),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `in 3 h 2 min` or `3 h 2 min ago`
pub(crate) fn moment(time: SystemTime, now: SystemTime) -> String {
    match time.duration_since(now) {
        Ok(left) => format!("in {}", duration(left.as_secs_f64())),
        Err(past) => format!("{} ago", duration(past.duration().as_secs_f64())),
    }
}

/// Time left at a rate, if it can be told
pub(crate) fn time_left(bytes_left: u64, bytes_per_second: f64) -> Option<Duration> {
    if bytes_per_second < 1.0 {
        return None;
    }
    Duration::try_from_secs_f64(bytes_left as f64 / bytes_per_second).ok()
}

/// `1 file`, `2 files`
pub(crate) fn count(amount: u64, one: &str) -> String {
    if amount == 1 { format!("1 {one}") } else { format!("{amount} {one}s") }
}

/// The text without anything that could steer a terminal: control characters and changes of direction are
/// shown as escapes
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let steers = character.is_control()
            || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if steers {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_change_unit_before_they_grow_long() {
        for (amount, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (3 << 30, "3.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(amount), text);
        }
    }

    #[test]
    fn durations_keep_two_units() {
        for (seconds, text) in [
            (-1.0, "0 µs"),
            (0.000_18, "180 µs"),
            (0.001_5, "1.5 ms"),
            (9.94, "9.9 s"),
            (59.0, "59 s"),
            (125.0, "2 min 5 s"),
            (3_725.0, "1 h 2 min"),
            (273_600.0, "3 d 4 h"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn nothing_reaches_the_terminal_that_steers_it() {
        assert_eq!(printable("a\u{1b}[31m\n"), "a\\u{1b}[31m\\u{a}");
        assert_eq!(printable("\u{202e}txt"), "\\u{202e}txt");
        assert_eq!(printable("grün"), "grün");
    }

    #[test]
    fn time_left_is_unknown_without_a_rate() {
        assert_eq!(time_left(100, 0.0), None);
        assert_eq!(time_left(100, 50.0), Some(Duration::from_secs(2)));
        assert_eq!(time_left(u64::MAX, f64::INFINITY), Some(Duration::ZERO));
    }
}

//! What kind of pages back a mapping, as the kernel reports it. This room asks and parses; the mapping
//! itself is made by the arena.

use std::fmt;
use std::io;

/// Size of the huge pages asked for
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Whether an arena is on huge pages: a statement for status pages, not a wish
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HugePages {
    /// Reserved 2 MiB pages (`vm.nr_hugepages`)
    Explicit,
    /// Transparent 2 MiB pages, counted after first touch
    Transparent,
    /// Ordinary pages, and why
    None(String),
}

impl fmt::Display for HugePages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Explicit => f.write_str("reserved 2 MiB pages"),
            Self::Transparent => f.write_str("transparent 2 MiB pages"),
            Self::None(reason) => write!(f, "ordinary pages: {reason}"),
        }
    }
}

/// Octets of ordinary pages
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf takes a plain number and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// Octets of physical memory of the host
pub(crate) fn host_memory_bytes() -> usize {
    // SAFETY: sysconf takes a plain number and touches no memory of ours.
    let pages = unsafe { libc::sysconf(libc::_SC_PHYS_PAGES) };
    usize::try_from(pages).unwrap_or(0).saturating_mul(page_bytes())
}

/// Octets of the mapping at `address` that are on transparent huge pages
pub(crate) fn transparent_huge_bytes(address: usize) -> io::Result<usize> {
    let smaps = std::fs::read_to_string("/proc/self/smaps")?;
    parse_smaps(&smaps, address)
        .ok_or_else(|| io::Error::other("/proc/self/smaps does not show the mapping"))
}

fn parse_smaps(smaps: &str, address: usize) -> Option<usize> {
    let mut inside = false;
    for line in smaps.lines() {
        if let Some((start, end)) = mapping_range(line) {
            inside = (start..end).contains(&address);
        } else if inside && let Some(rest) = line.strip_prefix("AnonHugePages:") {
            let kilobytes: usize = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
            return kilobytes.checked_mul(1024);
        }
    }
    None
}

fn mapping_range(line: &str) -> Option<(usize, usize)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \nRss:  0 kB\nAnonHugePages:      0 kB\n\
7f0000400000-7f0000a00000 rw-p 00000000 00:00 0 \nRss:  6144 kB\nAnonHugePages:      4096 kB\n";

    #[test]
    fn finds_the_mapping_and_its_huge_pages() {
        assert_eq!(parse_smaps(SMAPS, 0x7f00_0000_0000), Some(0));
        assert_eq!(parse_smaps(SMAPS, 0x7f00_0060_0000), Some(4096 * 1024));
        assert_eq!(parse_smaps(SMAPS, 0x7f00_0030_0000), None);
        assert_eq!(parse_smaps("garbage\n", 1), None);
    }

    #[test]
    fn pages_are_a_power_of_two() {
        assert!(page_bytes().is_power_of_two() && page_bytes() >= 4096);
    }
}

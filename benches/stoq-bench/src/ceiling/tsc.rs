//! How fast this host's time stamp counter runs, from what the processor, the hypervisor or the kernel says:
//! nanoseconds become cycles by it. Nothing is measured or assumed here; where nobody says, it is unknown.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// The time stamp counter
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Tsc {
    /// Ticks per nanosecond
    pub gigahertz: Option<f64>,
    /// Who says so, or why nobody does
    pub origin: String,
}

impl Tsc {
    /// Of this host
    pub fn of_this_host() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let scales = Path::new("/sys/devices/system/cpu/cpu0/cpufreq").exists();
        let (gigahertz, origin) = match (leaf_hertz(), from_cpuinfo(&info, scales)) {
            (Some(hertz), _) => (Some(hertz / 1e9), "cpuid".to_owned()),
            (None, Ok(gigahertz)) => (Some(gigahertz), "/proc/cpuinfo".to_owned()),
            (None, Err(reason)) => (None, reason.to_owned()),
        };
        Self { gigahertz, origin }
    }

    /// Ticks in so many nanoseconds
    pub fn cycles(&self, nanoseconds: f64) -> Option<f64> {
        self.gigahertz.map(|gigahertz| gigahertz * nanoseconds)
    }
}

/// What the processor says in leaf 0x15: crystal frequency times a ratio (Intel SDM, CPUID)
#[cfg(target_arch = "x86_64")]
fn leaf_hertz() -> Option<f64> {
    use std::arch::x86_64::__cpuid;
    if __cpuid(0).eax < 0x15 {
        return None;
    }
    let leaf = __cpuid(0x15);
    let known = leaf.eax > 0 && leaf.ebx > 0 && leaf.ecx > 0;
    known.then(|| f64::from(leaf.ecx) * f64::from(leaf.ebx) / f64::from(leaf.eax))
}

#[cfg(not(target_arch = "x86_64"))]
fn leaf_hertz() -> Option<f64> {
    None
}

/// The kernel prints the counter's frequency as that of the processor where it can tell no other: where the
/// processor neither counts its cycles (`aperfmperf`) nor has its frequency scaled
fn from_cpuinfo(info: &str, scales: bool) -> Result<f64, &'static str> {
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name))?;
        line.split_once(':').map(|(_, value)| value.trim())
    };
    let flags = field("flags").unwrap_or_default();
    let has = |flag: &str| flags.split(' ').any(|one| one == flag);
    if !has("constant_tsc") || !has("nonstop_tsc") {
        return Err("the time stamp counter of this processor does not run evenly");
    }
    if scales || has("aperfmperf") {
        return Err(
            "neither the processor nor the kernel tells how fast the time stamp counter runs",
        );
    }
    let megahertz = field("cpu MHz").and_then(|text| text.parse::<f64>().ok());
    megahertz
        .map(|megahertz| megahertz / 1e3)
        .ok_or("the kernel does not tell how fast the time stamp counter runs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure_counts_only_where_it_is_the_counters() {
        let info = |flags: &str| format!("cpu MHz\t\t: 2596.142\nflags\t\t: fpu {flags}\n");
        let even = "constant_tsc nonstop_tsc";
        assert!((from_cpuinfo(&info(even), false).unwrap() - 2.596142).abs() < 1e-9);
        assert!(from_cpuinfo(&info(even), true).is_err());
        assert!(from_cpuinfo(&info(&format!("{even} aperfmperf")), false).is_err());
        assert!(from_cpuinfo(&info("constant_tsc"), false).is_err());
        assert!(from_cpuinfo("", false).is_err());
    }

    #[test]
    fn cycles_follow_the_frequency_or_are_unknown() {
        let known = Tsc { gigahertz: Some(2.5), origin: String::new() };
        assert_eq!(known.cycles(2.0), Some(5.0));
        let host = Tsc::of_this_host();
        assert!(!host.origin.is_empty());
        assert!(host.gigahertz.is_none_or(|gigahertz| (0.1..10.0).contains(&gigahertz)));
        assert_eq!(host.cycles(1.0), host.gigahertz);
    }
}

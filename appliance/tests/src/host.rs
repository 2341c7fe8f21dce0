//! What tests ask of the host: memory of a process, descriptors, and the one way to wait for a condition.

use std::io::Write as _;
use std::time::{Duration, Instant};

/// Time between two looks at a condition that no event announces
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `condition` yields something; panics with `what` when `patience` ends first
pub fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let end = Instant::now() + patience;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < end, "within {patience:?} it did not come true: {what}");
        pause();
    }
}

/// The time between two looks
#[expect(
    clippy::disallowed_methods,
    reason = "what another process is like is looked at, not announced"
)]
fn pause() {
    std::thread::sleep(LOOK_INTERVAL);
}

/// Lets this process open as many files as the hard limit allows; returns that many
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may rise to the hard one");
    limit.maximum.unwrap_or(u64::MAX)
}

/// Resident memory of a process, in octets
pub fn resident_bytes(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: u64 = kilobytes.and_then(|text| text.trim().parse().ok()).expect("VmRSS in kB");
    kilobytes << 10
}

/// Says a figure to whoever runs the tests, also when the test passes
pub fn say(text: &str) {
    // The test runner captures what the print macros write, and this is meant to be seen.
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "    {text}").expect("the error stream is open");
}

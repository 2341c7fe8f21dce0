//! What the host does beside a run: processor time that neither this process nor any of its
//! children used. A comparison on a busy host compares how stacks get along with its scheduler, and
//! says so.

use std::path::Path;
use std::time::Instant;

use super::program::RunError;
use crate::process::ticks_per_second;

/// The instant a run began
pub struct Elsewhere {
    at: Instant,
    all: f64,
    own: f64,
}

impl Elsewhere {
    /// From now on
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn begin() -> Result<Self, RunError> {
        let read = || -> std::io::Result<Self> {
            let own = Path::new("/proc/self");
            let tick = ticks_per_second(own)?;
            let all = busy_ticks(&std::fs::read_to_string("/proc/stat")?);
            let own = own_ticks(&std::fs::read_to_string(own.join("stat"))?);
            let (Some(all), Some(own)) = (all, own) else {
                return Err(std::io::ErrorKind::InvalidData.into());
            };
            Ok(Self { at: Instant::now(), all: all as f64 / tick, own: own as f64 / tick })
        };
        read().map_err(|cause| RunError::Failed(format!("the host's processor time: {cause}")))
    }

    /// Processors that other work has kept busy until now; every child of the run must have ended
    /// and been waited for
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn end(&self) -> Result<f64, RunError> {
        let now = Self::begin()?;
        let other = (now.all - self.all) - (now.own - self.own);
        Ok((other / (now.at - self.at).as_secs_f64()).max(0.0))
    }
}

/// Ticks that all processors were busy, stolen ones included (proc_stat(5), first line)
fn busy_ticks(text: &str) -> Option<u64> {
    let first = text.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> =
        first.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    // User, nice, system; idle and waiting are not busy; interrupts, soft interrupts, stolen.
    [0, 1, 2, 5, 6, 7].iter().map(|place| fields.get(*place).copied()).sum()
}

/// Ticks of a process and of the children it has waited for (proc_pid_stat(5))
fn own_ticks(text: &str) -> Option<u64> {
    let rest = text.get(text.rfind(')')? + 1..)?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_busy_and_children_are_ones_own() {
        let text = "cpu  10 1 20 1000 500 2 3 4 7 7\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(text), Some(40));
        assert_eq!(busy_ticks("intr 1"), None);
        let line = "7 (a) b) R 1 1 1 0 -1 4194304 1 0 0 0 123 45 6 7 20 0 3 0 99 1 1";
        assert_eq!(own_ticks(line), Some(181));
        assert_eq!(own_ticks("7 (x) R 1"), None);
    }

    #[test]
    fn what_a_child_burns_is_not_elsewhere() {
        let elsewhere = Elsewhere::begin().unwrap();
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let status = std::process::Command::new("sh").args(["-c", burn]).status().unwrap();
        assert!(status.success());
        let now = Elsewhere::begin().unwrap();
        assert!(
            now.own > elsewhere.own && now.all - elsewhere.all >= now.own - elsewhere.own - 0.05
        );
        assert!(elsewhere.end().unwrap() <= 1_024.0);
    }
}

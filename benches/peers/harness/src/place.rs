//! Where this process runs and what it has used: binding to processors before any thread starts, and processor
//! time of all its threads.

use rustix::process::Pid;
use rustix::thread::CpuSet;
use rustix::time::{ClockId, clock_gettime};

use crate::Failure;

/// Binds this thread, and with it every thread it will start, to `cores`; to none: leaves it alone
///
/// # Errors
/// Where a processor does not exist or may not be used.
pub fn bind(cores: &[usize]) -> Result<(), Failure> {
    if cores.is_empty() {
        return Ok(());
    }
    let set = set_of(cores)?;
    rustix::thread::sched_setaffinity(None, &set).map_err(|cause| {
        format!("cannot bind to {cores:?}: {cause}; name processors that this process may use")
            .into()
    })
}

/// Binds every thread of this process to `cores`, whatever it is bound to: for stacks that place their own
///
/// # Errors
/// Where a processor does not exist or may not be used, or `/proc` cannot be read.
pub fn rebind(cores: &[usize]) -> Result<(), Failure> {
    if cores.is_empty() {
        return Ok(());
    }
    let set = set_of(cores)?;
    for entry in std::fs::read_dir("/proc/self/task")? {
        let Some(thread) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        match rustix::thread::sched_setaffinity(Pid::from_raw(thread), &set) {
            // A thread that has ended since the listing is bound to nothing any more.
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(cause) => return Err(format!("cannot bind to {cores:?}: {cause}").into()),
        }
    }
    Ok(())
}

fn set_of(cores: &[usize]) -> Result<CpuSet, Failure> {
    let mut set = CpuSet::new();
    for core in cores {
        if *core >= CpuSet::MAX_CPU {
            return Err(format!("processor {core} is beyond {}", CpuSet::MAX_CPU).into());
        }
        set.set(*core);
    }
    Ok(set)
}

/// Processor time of all threads of this process so far, in seconds
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_that_is_not_there_is_refused() {
        assert!(bind(&[100_000]).is_err());
        let failure = bind(&[CpuSet::MAX_CPU - 1]).unwrap_err().to_string();
        assert!(failure.contains("may use"), "{failure}");
    }

    #[test]
    fn work_takes_processor_time() {
        let before = cpu_seconds();
        let start = std::time::Instant::now();
        let mut state = 1u64;
        while start.elapsed().as_millis() < 20 {
            state = std::hint::black_box(state.wrapping_mul(3));
        }
        assert!(cpu_seconds() > before);
    }
}

//! Memory as the packet path meets it: copies inside the cache and out of it, and the way of a cache line
//! from one processor to the other and back.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{CeilingError, on_core};
use crate::compare::statistics::Spread;

const CACHED_BYTES: usize = 128 << 10;
/// Beyond the last-level cache slice of any processor this is likely to meet
const UNCACHED_BYTES: usize = 128 << 20;
/// Batches of round trips: their median is not moved by a thread that lost its processor for a while
const BATCHES: u64 = 41;
const ROUND_TRIPS: u64 = 500;

/// Copies
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Memory {
    /// Between two buffers of 128 KiB
    pub copy_cached_gigabytes_per_second: f64,
    /// Between two buffers of 128 MiB
    pub copy_uncached_gigabytes_per_second: f64,
}

/// Measures on the calling thread
pub(super) fn measure(time: Duration) -> Memory {
    Memory {
        copy_cached_gigabytes_per_second: copy(CACHED_BYTES, time / 4),
        copy_uncached_gigabytes_per_second: copy(UNCACHED_BYTES, time / 4),
    }
}

fn copy(bytes: usize, time: Duration) -> f64 {
    let from = vec![1u8; bytes];
    let mut to = vec![0u8; bytes];
    // Once without the clock: the pages come into being here.
    to.copy_from_slice(&from);
    let start = Instant::now();
    let mut rounds = 0u64;
    loop {
        black_box(&mut to).copy_from_slice(black_box(&from));
        rounds += 1;
        let spent = start.elapsed();
        if spent >= time {
            return (rounds * bytes as u64) as f64 / spent.as_nanos() as f64;
        }
    }
}

/// Alone on its cache line and on that line's prefetched neighbour
#[repr(align(128))]
struct Line(AtomicU64);

/// A cache line from one processor to the other and back; `None` where both are one
pub(super) fn round_trip_ns(cores: (usize, usize)) -> Result<Option<f64>, CeilingError> {
    if cores.0 == cores.1 {
        return Ok(None);
    }
    let line = Line(AtomicU64::new(0));
    let wait_for = |value: u64| {
        while line.0.load(Ordering::Acquire) != value {
            spin_loop();
        }
    };
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            on_core(cores.1, || {
                for turn in 0..BATCHES * ROUND_TRIPS {
                    wait_for(2 * turn + 1);
                    line.0.store(2 * turn + 2, Ordering::Release);
                }
                Ok(())
            })
        });
        let batches = on_core(cores.0, || {
            let mut batches = Vec::new();
            for batch in 0..BATCHES {
                let start = Instant::now();
                for turn in batch * ROUND_TRIPS..(batch + 1) * ROUND_TRIPS {
                    line.0.store(2 * turn + 1, Ordering::Release);
                    wait_for(2 * turn + 2);
                }
                batches.push(start.elapsed().as_nanos() as f64 / ROUND_TRIPS as f64);
            }
            Ok(batches)
        })?;
        echo.join().map_err(|_| CeilingError::Thread)??;
        Ok(Spread::of(&batches).map(|spread| spread.median))
    })
}

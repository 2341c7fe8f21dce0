//! What this host has, read from the kernel, in the units in which assets of each kind are registered: processors,
//! memory, file systems and interfaces. What is registered of it, and under which name, is the operator's decision;
//! accelerators and containers are known only to who runs them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::thread::CpuSet;

/// Processors one set can name
const CPUS_LIMIT: usize = CpuSet::MAX_CPU;
/// Octets of `/proc/meminfo` and of one file below `/sys/class/net` that are read
const FILE_LIMIT_BYTES: u64 = 64 << 10;
/// Interfaces one host may have
const INTERFACES_LIMIT: usize = 4_096;

/// Why something cannot be read
#[derive(Debug, thiserror::Error)]
pub enum ReadingError {
    /// The kernel refused
    #[error("{path}: {source}")]
    Io {
        /// What was to be read
        path: PathBuf,
        /// What the kernel said
        source: io::Error,
    },
    /// The kernel says something else than it used to
    #[error("{path} has no {what}")]
    Missing {
        /// What was read
        path: PathBuf,
        /// What it lacks
        what: &'static str,
    },
    /// The set of processors cannot be had
    #[error("the processors of this process: {0}")]
    Processors(io::Error),
}

/// Processors this process may run on, as `nproc` counts them
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CpuReading {
    /// Logical processors
    pub processors: u64,
}

impl CpuReading {
    /// In units of an asset: thousandths of a logical processor
    pub fn capacity(&self) -> u64 {
        self.processors * 1_000
    }
}

/// Reads the processors
pub fn cpu() -> Result<CpuReading, ReadingError> {
    let set = rustix::thread::sched_getaffinity(None)
        .map_err(|error| ReadingError::Processors(error.into()))?;
    let processors = (0..CPUS_LIMIT).filter(|cpu| set.is_set(*cpu)).count();
    Ok(CpuReading { processors: processors as u64 })
}

/// Main memory
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MemoryReading {
    /// What the kernel manages: `MemTotal`, the capacity of an asset
    pub total_bytes: u64,
    /// What could be had without swapping: `MemAvailable`
    pub available_bytes: u64,
}

/// Reads main memory from a `meminfo` of the kernel, which is `/proc/meminfo`
pub fn memory(meminfo: &Path) -> Result<MemoryReading, ReadingError> {
    let text = read(meminfo)?;
    let field = |name: &'static str| {
        kibibytes(&text, name)
            .ok_or_else(|| ReadingError::Missing { path: meminfo.to_owned(), what: name })
    };
    Ok(MemoryReading { total_bytes: field("MemTotal")?, available_bytes: field("MemAvailable")? })
}

/// A field of `/proc/meminfo`, in bytes
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let value = lines.into_iter().find(|(field, _)| *field == name)?.1;
    let number: u64 = value.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    number.checked_mul(1_024)
}

/// A file system
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StorageReading {
    /// All of it, the capacity of an asset
    pub total_bytes: u64,
    /// What is free for everyone
    pub available_bytes: u64,
}

/// Reads the file system that a path is on
pub fn storage(path: &Path) -> Result<StorageReading, ReadingError> {
    let found = rustix::fs::statvfs(path)
        .map_err(|error| ReadingError::Io { path: path.to_owned(), source: error.into() })?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
    Ok(StorageReading {
        total_bytes: bytes(found.f_blocks),
        available_bytes: bytes(found.f_bavail),
    })
}

/// A network interface
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkReading {
    /// Its name
    pub name: String,
    /// Whether it can carry packets now
    pub is_up: bool,
    /// Octets of the largest packet
    pub mtu_bytes: u64,
    /// The capacity of an asset. Not known of loopback and of interfaces without a link: nothing is made up then.
    pub bits_per_second: Option<u64>,
}

/// Reads all interfaces, in the order of their names, from a directory of the kernel, which is `/sys/class/net`
pub fn network(class_net: &Path) -> Result<Vec<NetworkReading>, ReadingError> {
    let in_directory = |source| ReadingError::Io { path: class_net.to_owned(), source };
    let mut readings = Vec::new();
    for entry in fs::read_dir(class_net).map_err(in_directory)?.take(INTERFACES_LIMIT) {
        let entry = entry.map_err(in_directory)?;
        // `bonding_masters` is a file among the interfaces.
        let directory = entry.path();
        if !directory.is_dir() {
            continue;
        }
        match interface(&directory, entry.file_name().to_string_lossy().into_owned()) {
            Ok(reading) => readings.push(reading),
            // It went away since it was listed.
            Err(_) if !directory.exists() => {}
            Err(error) => return Err(error),
        }
    }
    readings.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(readings)
}

fn interface(directory: &Path, name: String) -> Result<NetworkReading, ReadingError> {
    let state = read(&directory.join("operstate"))?;
    let mtu_path = directory.join("mtu");
    let mtu = read(&mtu_path)?;
    let mtu_bytes =
        mtu.trim().parse().map_err(|_| ReadingError::Missing { path: mtu_path, what: "number" })?;
    Ok(NetworkReading {
        name,
        // Loopback and tunnels have no carrier and say "unknown".
        is_up: matches!(state.trim(), "up" | "unknown"),
        mtu_bytes,
        bits_per_second: link_speed(&directory.join("speed"))?,
    })
}

/// In bits per second. The kernel tells megabits, -1 where there is no link, and an error where there never is one.
fn link_speed(path: &Path) -> Result<Option<u64>, ReadingError> {
    let text = match read(path) {
        Ok(text) => text,
        Err(ReadingError::Io { source, .. })
            if matches!(
                source.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::NotFound | io::ErrorKind::Unsupported
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let megabits: i64 = text
        .trim()
        .parse()
        .map_err(|_| ReadingError::Missing { path: path.to_owned(), what: "number" })?;
    Ok(u64::try_from(megabits)
        .ok()
        .filter(|megabits| *megabits > 0)
        .and_then(|megabits| megabits.checked_mul(1_000_000)))
}

fn read(path: &Path) -> Result<String, ReadingError> {
    use io::Read;
    let failed = |source| ReadingError::Io { path: path.to_owned(), source };
    let mut text = String::new();
    fs::File::open(path)
        .and_then(|file| file.take(FILE_LIMIT_BYTES).read_to_string(&mut text))
        .map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn said(program: &str, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn processors_are_those_that_nproc_counts() {
        // Neither variable is set here, and nproc goes by them where they are.
        let output = Command::new("nproc")
            .env_remove("OMP_NUM_THREADS")
            .env_remove("OMP_THREAD_LIMIT")
            .output()
            .unwrap();
        let counted: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
        let reading = cpu().unwrap();
        assert_eq!(reading.processors, counted);
        assert_eq!(reading.capacity(), counted * 1_000);
    }

    #[test]
    fn file_systems_are_those_that_df_shows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_str().unwrap();
        let shown = said("df", &["--block-size=1", "--output=size", path]);
        let size: u64 = shown.lines().nth(1).unwrap().trim().parse().unwrap();
        let reading = storage(directory.path()).unwrap();
        assert_eq!(reading.total_bytes, size);
        assert!(reading.available_bytes <= reading.total_bytes);
        assert!(matches!(storage(Path::new("/nowhere")), Err(ReadingError::Io { .. })));
    }

    #[test]
    fn memory_is_what_the_kernel_says() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("meminfo");
        fs::write(&path, "MemTotal:       24684096 kB\nMemFree: 1 kB\nMemAvailable:   12 kB\n")
            .unwrap();
        let reading = memory(&path).unwrap();
        assert_eq!(reading.total_bytes, 24_684_096 * 1_024);
        assert_eq!(reading.available_bytes, 12 * 1_024);
        for (text, lacks) in [
            ("MemAvailable: 1 kB\n", "MemTotal"),
            ("MemTotal: 1 kB\n", "MemAvailable"),
            ("MemTotal: x kB\nMemAvailable: 1 kB\n", "MemTotal"),
            ("MemTotal: 1 MB\nMemAvailable: 1 kB\n", "MemTotal"),
            ("MemTotal: 18446744073709551615 kB\n", "MemTotal"),
        ] {
            fs::write(&path, text).unwrap();
            let refused = memory(&path);
            assert!(
                matches!(refused, Err(ReadingError::Missing { what, .. }) if what == lacks),
                "{text}: {refused:?}"
            );
        }
        // The host itself, against another reader of the same file
        let total = said("awk", &["/^MemTotal:/ { print $2 }", "/proc/meminfo"]);
        let total: u64 = total.trim().parse().unwrap();
        assert_eq!(memory(Path::new("/proc/meminfo")).unwrap().total_bytes, total * 1_024);
    }

    #[test]
    fn interfaces_are_read_without_inventing_a_speed() {
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str, state: &str, speed: Option<&str>| {
            let at = directory.path().join(name);
            fs::create_dir(&at).unwrap();
            fs::write(at.join("operstate"), state).unwrap();
            fs::write(at.join("mtu"), "1500\n").unwrap();
            if let Some(speed) = speed {
                fs::write(at.join("speed"), speed).unwrap();
            }
        };
        make("eth1", "down\n", Some("-1\n"));
        make("eth0", "up\n", Some("40000\n"));
        make("lo", "unknown\n", None);
        fs::write(directory.path().join("bonding_masters"), "").unwrap();
        let readings = network(directory.path()).unwrap();
        let seen: Vec<_> = readings
            .iter()
            .map(|one| (one.name.as_str(), one.is_up, one.bits_per_second, one.mtu_bytes))
            .collect();
        assert_eq!(
            seen,
            [
                ("eth0", true, Some(40_000_000_000), 1_500),
                ("eth1", false, None, 1_500),
                ("lo", true, None, 1_500),
            ]
        );
        make("odd", "up\n", Some("fast\n"));
        let refused = network(directory.path());
        assert!(matches!(refused, Err(ReadingError::Missing { what: "number", .. })));
    }

    #[test]
    fn the_host_has_a_loopback_of_unknown_speed() {
        let readings = network(Path::new("/sys/class/net")).unwrap();
        let loopback = readings.iter().find(|reading| reading.name == "lo").unwrap();
        assert_eq!((loopback.bits_per_second, loopback.mtu_bytes > 0), (None, true));
    }
}

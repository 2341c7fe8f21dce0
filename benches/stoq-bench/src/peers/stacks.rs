//! One run of another QUIC or TLS stack, and one of ours beside it: a receiver and a sender as
//! fresh processes with the same certificates. The programs of the other stacks are found, or
//! built, here; which run when is `mod`'s.

use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Plan;
use super::program::{PATIENCE, Program, RunError, ask};
use super::record::Transfer;

/// What a run yields
pub struct Ran {
    /// The figures
    pub transfer: Transfer,
    /// Version of what ran
    pub version: String,
    /// What it says a reader must know
    pub notes: Vec<String>,
}

/// A line of a receiver's output: one of these, beside whatever else it says
#[derive(Debug, Deserialize)]
pub struct SinkLine {
    /// It is ready
    pub listening: Option<Listening>,
    /// Its measured time begins
    pub window: Option<Window>,
    /// A transfer has ended
    pub transfer: Option<End>,
    /// What a reader must know
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Where a receiver listens
#[derive(Debug, Deserialize)]
pub struct Listening {
    /// Address and port
    pub address: SocketAddrV6,
}

/// The mark at which a receiver's measured time begins
#[derive(Debug, Deserialize)]
pub struct Window {}

/// What one end measured, of the measured time; the digest is of the whole transfer
#[derive(Clone, Debug, Deserialize)]
pub struct End {
    /// Octets
    pub bytes: u64,
    /// The measured time
    pub seconds: f64,
    /// Goodput
    pub gbps: f64,
    /// Of everything from the first octet to the last
    pub digest: String,
    /// Processor time of the process
    pub cpu_seconds: f64,
}

/// What a sender prints
#[derive(Debug, Deserialize)]
pub struct LoadLine {
    /// Its figures
    #[serde(flatten)]
    pub end: End,
    /// What a reader must know
    pub notes: Vec<String>,
    /// Version of the stack
    pub version: String,
}

impl End {
    /// Processors kept busy
    pub fn cpu(&self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.cpu_seconds / self.seconds)
    }
}

/// Whether what arrived is what was sent, by the digests of both ends
///
/// # Errors
/// [`RunError::Unsound`] where not, [`RunError::Failed`] where nothing was measured.
pub fn verify(name: &str, sent: &End, taken: &End) -> Result<(), RunError> {
    if sent.digest.is_empty() || sent.digest != taken.digest {
        return Err(RunError::Unsound(name.to_owned()));
    }
    if taken.bytes == 0 || !taken.gbps.is_finite() || taken.gbps <= 0.0 {
        return Err(RunError::Failed(format!("{name}: nothing arrived in the measured time")));
    }
    Ok(())
}

/// The line that says where a receiver listens, and what else it says
pub async fn listening(sink: &mut Program) -> Result<(SocketAddrV6, Vec<String>), RunError> {
    match sink.hear::<SinkLine>(PATIENCE).await? {
        SinkLine { listening: Some(Listening { address }), notes, .. } => Ok((address, notes)),
        other => Err(sink.failed(&format!("says {other:?} before it listens"))),
    }
}

/// One transfer between two processes of a peer's program
///
/// # Errors
/// [`RunError`], naming the program.
pub async fn run_peer(program: &Path, plan: &Plan) -> Result<Ran, RunError> {
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let [near, far] = plan.cores;
    let common = |side: &str, core: usize| {
        let mut command = tokio::process::Command::new(program);
        command.args([side, "--identity", "-", "--payload", &plan.payload.to_string()]).args([
            "--core",
            &core.to_string(),
            "--omit",
            &seconds(plan.omit),
        ]);
        command
    };
    let mut command = common("sink", far);
    command.args(["--listen", "[::1]:0"]);
    let mut sink = Program::start(&format!("{name} sink"), command)?;
    sink.tell(&plan.bundles[0]).await?;
    let (address, mut notes) = listening(&mut sink).await?;
    let mut command = common("load", near);
    command.args(["--to", &address.to_string(), "--duration", &seconds(plan.duration)]);
    let mut load = Program::start(&format!("{name} load"), command)?;
    load.tell(&plan.bundles[1]).await?;
    let sent: LoadLine = load.hear(plan.patience()).await?;
    let taken = loop {
        if let Some(end) = sink.hear::<SinkLine>(PATIENCE).await?.transfer {
            break end;
        }
    };
    verify(&name, &sent.end, &taken)?;
    load.finish().await?;
    sink.finish().await?;
    let transfer = Transfer {
        gbps: taken.gbps,
        bytes: taken.bytes,
        seconds: taken.seconds,
        cpu_sender: sent.end.cpu(),
        cpu_receiver: taken.cpu(),
        other_cpu: None,
    };
    notes.extend(sent.notes);
    Ok(Ran { transfer, version: sent.version, notes })
}

/// A duration as every program here reads it
pub fn seconds(time: std::time::Duration) -> String {
    format!("{}s", time.as_secs_f64())
}

/// The part of a load report that is compared
#[derive(Debug, Deserialize)]
struct OurReport {
    bytes: u64,
    seconds: f64,
    goodput_gbps: f64,
    verified: bool,
    lost_bytes: Option<u64>,
    sender: OurSide,
    receiver: OurSide,
}

#[derive(Debug, Deserialize)]
struct OurSide {
    cpu: std::collections::BTreeMap<String, crate::load::report::CpuUse>,
}

impl OurSide {
    fn cpu(&self) -> Option<f64> {
        Some(self.cpu.values().map(|kind| kind.user_cores + kind.system_cores).sum())
    }
}

#[derive(Deserialize)]
struct Ready {
    address: SocketAddrV6,
}

/// One transfer between `stoq-bench sink` and `stoq-bench load`
///
/// # Errors
/// [`RunError`], naming the program.
pub async fn run_ours(plan: &Plan) -> Result<Ran, RunError> {
    let [near, far] = plan.cores;
    let payload = plan.payload.to_string();
    let common = |side: &str, core: usize| {
        let mut command = tokio::process::Command::new(&plan.own);
        command.args([side, "--payload", &payload, "--cores", &core.to_string()]);
        command
    };
    let mut command = common("sink", far);
    command.args(["--identity", "-", "--json", "--listen", "[::1]:0"]);
    let mut sink = Program::start("stoq-bench sink", command)?;
    sink.tell(&plan.bundles[0]).await?;
    let ready: Ready = sink.hear(PATIENCE).await?;
    let mut command = common("load", near);
    command
        .args(["--to", &ready.address.to_string(), "--json", "-", "--no-ceiling", "--identity"])
        .arg(plan.identity())
        .args(["--duration", &seconds(plan.duration), "--omit", &seconds(plan.omit)]);
    let mut load = Program::start("stoq-bench load", command)?;
    let report: OurReport = load.hear(plan.patience()).await?;
    if !report.verified || report.lost_bytes != Some(0) {
        return Err(RunError::Unsound("stoq-bench load".into()));
    }
    load.finish().await?;
    sink.finish().await?;
    let transfer = Transfer {
        gbps: report.goodput_gbps,
        bytes: report.bytes,
        seconds: report.seconds,
        cpu_sender: report.sender.cpu(),
        cpu_receiver: report.receiver.cpu(),
        other_cpu: None,
    };
    Ok(Ran { transfer, version: env!("CARGO_PKG_VERSION").into(), notes: Vec::new() })
}

/// Where the peers' programs are, or could be built
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
    manifest: Option<PathBuf>,
}

impl Programs {
    /// In `given`, or in the tree that this program or the working directory lies in
    ///
    /// # Errors
    /// Where neither is known.
    pub fn locate(given: Option<&Path>) -> Result<Self, RunError> {
        if let Some(directory) = given {
            return Ok(Self { directory: directory.to_owned(), manifest: None });
        }
        let places = [std::env::current_dir(), std::env::current_exe()];
        let manifest = places.into_iter().flatten().find_map(|place| manifest_above(&place));
        let manifest = manifest.ok_or_else(|| {
            RunError::Failed(
                "benches/peers is not above this program nor the working directory: run it in the \
                 source tree, or name the directory of the built peers with --peers-dir"
                    .into(),
            )
        })?;
        let directory = manifest.with_file_name("target").join("release");
        Ok(Self { directory, manifest: Some(manifest) })
    }

    /// The program of a peer, where it is built
    pub fn of(&self, peer: &str) -> Option<PathBuf> {
        Some(self.directory.join(format!("peer-{peer}"))).filter(|path| path.is_file())
    }

    /// What to type to build it; absent where it is not built from a tree
    pub fn remedy(&self, peer: &str) -> String {
        match &self.manifest {
            Some(manifest) => format!(
                "cargo build --release --manifest-path {} --package peer-{peer}",
                manifest.display()
            ),
            None => {
                format!("build benches/peers and copy peer-{peer} to {}", self.directory.display())
            }
        }
    }

    /// Whether the tree holds a package for this peer
    pub async fn is_packaged(&self, peer: &str) -> bool {
        let Some(manifest) = &self.manifest else { return false };
        let mut command = tokio::process::Command::new("cargo");
        command.args(["pkgid", "--offline", "--manifest-path"]).arg(manifest);
        command.args(["--package", &format!("peer-{peer}")]);
        ask("cargo pkgid", command).await.is_ok()
    }

    /// Why a peer's program is not there, with the remedy
    pub async fn absence(&self, peer: &str) -> String {
        if self.manifest.is_some() && !self.is_packaged(peer).await {
            return format!("benches/peers has no program peer-{peer}");
        }
        format!("peer-{peer} is not built: {}", self.remedy(peer))
    }

    /// Builds a peer's program; cargo's own progress goes to the error stream
    ///
    /// # Errors
    /// [`RunError`] with what to type.
    pub async fn build(&self, peer: &str) -> Result<PathBuf, RunError> {
        let failed = |cause: String| {
            RunError::Failed(format!(
                "peer-{peer} is not built ({cause}); type: {}",
                self.remedy(peer)
            ))
        };
        let Some(manifest) = &self.manifest else { return Err(failed("no source tree".into())) };
        let status = tokio::process::Command::new("cargo")
            .args(["build", "--release", "--manifest-path"])
            .arg(manifest)
            .args(["--package", &format!("peer-{peer}")])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .map_err(|cause| failed(format!("cargo does not start: {cause}")))?;
        self.of(peer).filter(|_| status.success()).ok_or_else(|| failed(status.to_string()))
    }
}

fn manifest_above(place: &Path) -> Option<PathBuf> {
    let candidates = place.ancestors().map(|above| above.join("benches/peers/Cargo.toml"));
    candidates.into_iter().find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_peer_are_read() {
        let line = r#"{"listening":{"address":"[::1]:4433"},"stack":"quinn","notes":["n"]}"#;
        let line: SinkLine = serde_json::from_str(line).unwrap();
        assert_eq!((line.listening.unwrap().address.port(), line.notes.len()), (4_433, 1));
        let line: SinkLine = serde_json::from_str(r#"{"window":{}}"#).unwrap();
        assert!(line.window.is_some() && line.transfer.is_none());
        let line = r#"{"transfer":{"bytes":8,"seconds":2.0,"digest":"ab","gbps":3.5,
                       "cpu_seconds":1.0,"more":1}}"#;
        let end = serde_json::from_str::<SinkLine>(line).unwrap().transfer.unwrap();
        assert_eq!((end.bytes, end.gbps, end.cpu()), (8, 3.5, Some(0.5)));
        let line = r#"{"bytes":8,"seconds":2.0,"gbps":3.5,"digest":"ab","cpu_seconds":1.0,
                       "notes":["GSO off"],"stack":"quinn","version":"0.11.12"}"#;
        let load: LoadLine = serde_json::from_str(line).unwrap();
        assert_eq!((load.version.as_str(), load.notes.len()), ("0.11.12", 1));
    }

    #[test]
    fn other_bytes_than_were_sent_are_a_defect_and_none_is_a_failure() {
        let end = |digest: &str, bytes| End {
            bytes,
            seconds: 1.0,
            gbps: bytes as f64,
            digest: digest.into(),
            cpu_seconds: 0.1,
        };
        verify("p", &end("a", 1), &end("a", 1)).unwrap();
        let unsound = |sent, taken| {
            let error = verify("peer-x", &end(sent, 1), &end(taken, 1)).unwrap_err();
            assert_eq!(error, RunError::Unsound("peer-x".into()));
        };
        unsound("a", "b");
        unsound("", "");
        let nothing = verify("peer-x", &end("a", 1), &end("a", 0)).unwrap_err();
        assert!(matches!(nothing, RunError::Failed(text) if text.contains("peer-x")));
    }

    #[test]
    fn the_remedy_names_what_to_type() {
        let there = tempfile::tempdir().unwrap();
        let given = Programs::locate(Some(there.path())).unwrap();
        assert_eq!(given.of("quinn"), None);
        assert!(given.remedy("quinn").contains("peer-quinn"));
        std::fs::write(there.path().join("peer-quinn"), "").unwrap();
        assert!(given.of("quinn").is_some());
        let manifest = there.path().join("benches/peers/Cargo.toml");
        std::fs::create_dir_all(manifest.parent().unwrap()).unwrap();
        std::fs::write(&manifest, "").unwrap();
        assert_eq!(manifest_above(&there.path().join("target/release/stoq-bench")), Some(manifest));
    }
}

//! The kernel's WireGuard between two namespaces. Whether the kernel has it is found by making such
//! a link, not by asking for a module's name. The keys are made for the run and go with the
//! namespaces.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::{Ends, Running, write};
use crate::peers::program::{PATIENCE, RunError, ask, find};
use crate::peers::site::VethPair;

/// Addresses inside the tunnel
pub(super) const INSIDE: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd77, 0x5708, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd77, 0x5708, 0, 0, 0, 0, 0, 2),
];
const DEVICE: &str = "wg0";
const PORT: u16 = 51_820;
/// Type, receiver, counter and tag of a data message
const WIREGUARD_BYTES: u64 = 32;

/// The `wg` program and the kernel's release, where this host can run it
///
/// # Errors
/// Why not, with the remedy.
pub async fn probe() -> Result<(PathBuf, String), String> {
    let cores = [0, 0];
    let link = VethPair::make(1_500, cores).await;
    let link = link.map_err(|error| format!("no network namespaces here (needs root): {error}"))?;
    let add = format!("-n {} link add {DEVICE} type wireguard", link.names()[0]);
    link.ip(&add).await.map_err(|error| format!("this kernel has no WireGuard: {error}"))?;
    let wg = find("wg").ok_or("`wg` is not installed: apt-get install wireguard-tools")?;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_err(|cause| format!("the kernel's release: {cause}"))?;
    Ok((wg, format!("kernel {}", release.trim())))
}

/// The public key of a private one
async fn public_key(wg: &Path, private: &str) -> Result<String, RunError> {
    let failed = |cause: std::io::Error| RunError::Failed(format!("`wg pubkey`: {cause}"));
    let mut child = Command::new(wg)
        .arg("pubkey")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(private.as_bytes()).await.map_err(failed)?;
    }
    let output = timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?;
    let output = output.map_err(failed)?;
    if !output.status.success() {
        return Err(RunError::Failed(format!("`wg pubkey` ended with {}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The link between the namespaces becomes the path of a tunnel
pub(super) async fn start(
    wg: &Path,
    ends: &Ends<'_>,
    running: &mut Running,
) -> Result<(), RunError> {
    let link = ends.link.ok_or_else(|| RunError::Failed("WireGuard needs namespaces".into()))?;
    for name in link.names() {
        link.ip(&format!("-n {name} link add {DEVICE} type wireguard")).await?;
    }
    configure(wg, link, ends).await?;
    running.entry = Some(SocketAddrV6::new(INSIDE[1], ends.service.port(), 0, 0));
    // The kernel's threads do the work, and their time is nobody's.
    running.counted = false;
    Ok(())
}

async fn configure(wg: &Path, link: &VethPair, ends: &Ends<'_>) -> Result<(), RunError> {
    let mut keys = Vec::with_capacity(2);
    for side in ["sender", "receiver"] {
        let mut command = Command::new(wg);
        command.arg("genkey");
        let private = ask("`wg genkey`", command).await?;
        let path = ends.directory.join(format!("{side}.wg"));
        write(&path, &private)?;
        keys.push((path, public_key(wg, &private).await?));
    }
    // An inner packet, padded to 16 octets, has to fit the payload of an outer one.
    let inner_mtu = (ends.plan.payload - WIREGUARD_BYTES) / 16 * 16;
    for side in [0, 1] {
        let name = &link.names()[side];
        let other = link.sites()[1 - side].address();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", name]).arg(wg).args(["set", DEVICE, "private-key"]);
        command.arg(&keys[side].0).args(["listen-port", &PORT.to_string()]);
        command.args(["peer", &keys[1 - side].1]);
        command.args(["allowed-ips", &format!("{}/128", INSIDE[1 - side])]);
        command.args(["endpoint", &format!("[{other}]:{PORT}")]);
        ask("`wg set`", command).await?;
        let inside = INSIDE[side];
        link.ip(&format!("-n {name} address add {inside}/64 dev {DEVICE} nodad")).await?;
        link.ip(&format!("-n {name} link set {DEVICE} mtu {inner_mtu} up")).await?;
    }
    Ok(())
}

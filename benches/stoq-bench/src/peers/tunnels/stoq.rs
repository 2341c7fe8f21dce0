//! Ours among the tunnels: two `stoqd` with one worker each, joined by a token, a service published
//! at one and attached at the other, as an operator would do it. Nothing here reaches into a
//! daemon; `stoqctl` does all.

use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

use super::{Ends, Running, socket, write};
use crate::peers::program::{Program, RunError, ask};
use crate::peers::site::Site;

/// Names of the nodes of the sending and the receiving side
const NAMES: [&str; 2] = ["alpha", "beta"];
/// Name of the service
const SERVICE: &str = "bench";

/// The directory of `stoqd` and `stoqctl`: beside this program
///
/// # Errors
/// What to type where they are not there.
pub fn find_programs() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|cause| format!("this program's path: {cause}"))?;
    // A test of this program lies in `deps` below it.
    let mut directories = own.ancestors().skip(1).take(2);
    let both =
        |directory: &&Path| ["stoqd", "stoqctl"].iter().all(|name| directory.join(name).is_file());
    directories.find(both).map(Path::to_owned).ok_or_else(|| {
        "stoqd and stoqctl are not beside this program: cargo build --profile dist --bin stoqd --bin \
         stoqctl"
            .to_owned()
    })
}

/// One daemon, as it is configured
struct Node<'a> {
    name: &'static str,
    programs: &'a Path,
    site: &'a Site,
    home: PathBuf,
}

impl Node<'_> {
    fn configure(&self, payload: u64) -> Result<PathBuf, RunError> {
        let home = self.home.display();
        let address = self.site.address();
        let listen = || self.site.free_port().map(|port| socket(address, port));
        let text = format!(
            "[node]\nname = \"{}\"\nstate_directory = \"{home}/state\"\n\
             [listen]\nstoq = \"{}\"\nenrollment = \"{}\"\nadmin_socket = \"{home}/sock\"\n\
             metrics = \"off\"\n[workers]\ncores = [{}]\n\
             [transport]\nmax_udp_payload_bytes = {payload}\n[log]\nfilter = \"warn\"\n",
            self.name,
            listen()?,
            listen()?,
            self.site.core(),
        );
        let failed = |e: std::io::Error| RunError::Failed(format!("{home}: {e}"));
        std::fs::create_dir(&self.home).map_err(failed)?;
        let path = self.home.join("stoqd.toml");
        write(&path, &text)?;
        Ok(path)
    }

    fn start(&self, payload: u64) -> Result<Program, RunError> {
        let mut command = self.site.command(&self.programs.join("stoqd"));
        command.args(["run", "--config"]).arg(self.configure(payload)?);
        Program::start(&format!("stoqd {}", self.name), command)
    }

    async fn ctl(&self, words: &[&str]) -> Result<Value, RunError> {
        let mut command = Command::new(self.programs.join("stoqctl"));
        command.args(["--json", "--socket"]).arg(self.home.join("sock")).args(words);
        let name = format!("stoqctl {} at {}", words[..2].join(" "), self.name);
        let told = ask(&name, command).await?;
        serde_json::from_str(&told)
            .map_err(|cause| RunError::Failed(format!("{name}: {cause}: {told}")))
    }
}

/// What an answer must hold
fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str, RunError> {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.ok_or_else(|| RunError::Failed(format!("stoqctl answers without {pointer}: {value}")))
}

/// Starts both daemons, joins them, publishes and attaches
pub(super) async fn start(
    programs: &Path,
    ends: &Ends<'_>,
    running: &mut Running,
) -> Result<(), RunError> {
    let node = |side: usize| Node {
        name: NAMES[side],
        programs,
        site: &ends.sites[side],
        home: ends.directory.join(NAMES[side]),
    };
    let (alpha, beta) = (node(0), node(1));
    running.near.push(alpha.start(ends.plan.payload)?);
    running.far.push(beta.start(ends.plan.payload)?);
    for (node, program) in [(&alpha, &mut running.near[0]), (&beta, &mut running.far[0])] {
        if let Err(error) = node.ctl(&["wait", "ready", "--timeout", "15s"]).await {
            if program.ended().is_some() {
                return Err(program.died("did not become ready").await);
            }
            return Err(error);
        }
    }
    let token = alpha.ctl(&["node", "token", "create", beta.name]).await?;
    beta.ctl(&["node", "join", text(&token, "/token")?]).await?;
    let to = socket(*ends.service.ip(), ends.service.port());
    beta.ctl(&["service", "publish", SERVICE, "--to", &to, "--allow", alpha.name]).await?;
    let service = format!("{SERVICE}@{}", beta.name);
    let attached = alpha.ctl(&["service", "attach", &service, "--listen", "[::1]:0"]).await?;
    let entry: SocketAddrV6 = text(&attached, "/attachment/listen")?
        .parse()
        .map_err(|cause| RunError::Failed(format!("stoqctl service attach: {cause}")))?;
    running.entry = Some(entry);
    running.counted = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_configured_for_one_core_and_the_payload() {
        let there = tempfile::tempdir().unwrap();
        let site = Site::loopback(1);
        let node = |name: &str| Node {
            name: NAMES[0],
            programs: Path::new("/nowhere"),
            site: &site,
            home: there.path().join(name),
        };
        let text = std::fs::read_to_string(node("a").configure(8_952).unwrap()).unwrap();
        assert!(text.contains("cores = [1]\n") && text.contains("payload_bytes = 8952\n"));
        assert!(text.contains("name = \"alpha\"\n") && text.contains("stoq = \"[::1]:"));
        assert!(node("a").configure(8_952).is_err(), "a used directory is taken");
    }

    #[test]
    fn an_answer_without_what_is_asked_is_an_error() {
        let answer = serde_json::json!({"attachment": {"listen": "[::1]:7"}});
        assert_eq!(text(&answer, "/attachment/listen").unwrap(), "[::1]:7");
        assert!(text(&answer, "/token").unwrap_err().to_string().contains("/token"));
    }
}

//! Where a node lives when the file does not say: name, state directory and control socket, decided from facts
//! that the caller looked up. Pure, so that every case can be tested without being that user.

use std::path::{Path, PathBuf};

use stoq_interface::NodeId;

use crate::Config;

/// Octets of a Unix socket's path (`sun_path` of unix(7) without its closing NUL)
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Facts about the process; the caller reads them, this room does not
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// Whether the effective user is root
    pub root: bool,
    /// The host's name (uname)
    pub host_name: Option<&'a str>,
    /// `STATE_DIRECTORY`, as systemd sets it
    pub state_directory: Option<&'a Path>,
    /// `RUNTIME_DIRECTORY`, as systemd sets it
    pub runtime_directory: Option<&'a Path>,
    /// `XDG_STATE_HOME`
    pub xdg_state_home: Option<&'a Path>,
    /// `XDG_RUNTIME_DIR`
    pub xdg_runtime_dir: Option<&'a Path>,
    /// `HOME`
    pub home: Option<&'a Path>,
}

/// Where a node lives
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placement {
    /// The node's name
    pub node: NodeId,
    /// Keys, certificates, journals
    pub state_directory: PathBuf,
    /// The Unix socket of `stoqctl`
    pub admin_socket: PathBuf,
}

/// Why the host gives no answer where the file gives none
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostProblem {
    /// The host's name gives no node name
    #[error(
        "node.name is \"auto\" and the host's name {0:?} holds no letter or digit; set node.name"
    )]
    NoName(String),
    /// Neither root nor a home
    #[error(
        "node.state_directory is \"auto\" and neither XDG_STATE_HOME nor HOME is set; set node.state_directory"
    )]
    NoStateDirectory,
    /// The socket's path does not fit
    #[error("the control socket {} is longer than the {SOCKET_PATH_BYTES_MAX} octets of a Unix socket's path; set listen.admin_socket to a shorter one", .0.display())]
    LongSocket(PathBuf),
}

impl Config {
    /// Where this node lives, from the file and, where it says "auto", from the surroundings
    pub fn place(&self, surroundings: &Surroundings<'_>) -> Result<Placement, HostProblem> {
        let node = match &self.node.name {
            Some(name) => name.clone(),
            None => {
                let host = surroundings.host_name.unwrap_or_default();
                node_name_from_host_name(host)
                    .ok_or_else(|| HostProblem::NoName(host.to_owned()))?
            }
        };
        let state_directory = match &self.node.state_directory {
            Some(path) => path.clone(),
            None => surroundings.state_home().ok_or(HostProblem::NoStateDirectory)?,
        };
        let admin_socket = match &self.listen.admin_socket {
            Some(path) => path.clone(),
            None => surroundings.admin_socket(&state_directory)?,
        };
        Ok(Placement { node, state_directory, admin_socket })
    }
}

impl Surroundings<'_> {
    /// The state directory of a node whose file does not name one
    pub fn state_home(&self) -> Option<PathBuf> {
        // The XDG specification has relative paths ignored.
        let absolute = |path: Option<&Path>| path.filter(|p| p.is_absolute()).map(Path::to_owned);
        if let Some(given) = absolute(self.state_directory) {
            return Some(given);
        }
        if self.root {
            return Some(PathBuf::from("/var/lib/stoq"));
        }
        absolute(self.xdg_state_home)
            .or_else(|| absolute(self.home).map(|home| home.join(".local/state")))
            .map(|state| state.join("stoq"))
    }

    /// The control socket of a node whose file does not name one: also how `stoqctl` finds the daemon
    pub fn admin_socket(&self, state_directory: &Path) -> Result<PathBuf, HostProblem> {
        let directory = match (self.runtime_directory, self.root, self.xdg_runtime_dir) {
            (Some(given), _, _) if given.is_absolute() => given.to_owned(),
            (_, true, _) => PathBuf::from("/run/stoq"),
            (_, false, Some(runtime)) if runtime.is_absolute() => runtime.join("stoq"),
            _ => state_directory.to_owned(),
        };
        let socket = directory.join("stoqd.sock");
        if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(HostProblem::LongSocket(socket));
        }
        Ok(socket)
    }
}

/// A node name from a host name: its first label, in lower case, with other characters as hyphens
pub fn node_name_from_host_name(host: &str) -> Option<NodeId> {
    let label = host.split('.').next().unwrap_or_default();
    let ldh: String = label
        .chars()
        .take(63)
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let trimmed = ldh.trim_matches('-');
    if trimmed.is_empty() {
        return None;
    }
    NodeId::new(trimmed).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(surroundings: Surroundings<'_>) -> (String, String) {
        let named = Surroundings { host_name: Some("alpha"), ..surroundings };
        let placement = Config::default().place(&named).unwrap();
        let text = |path: PathBuf| path.display().to_string();
        (text(placement.state_directory), text(placement.admin_socket))
    }

    #[test]
    fn each_kind_of_user_has_its_place() {
        let some = |text: &'static str| Some(Path::new(text));
        let root = Surroundings { root: true, home: some("/root"), ..Default::default() };
        assert_eq!(place(root), ("/var/lib/stoq".into(), "/run/stoq/stoqd.sock".into()));
        let home = Surroundings { home: some("/home/a"), ..Default::default() };
        let state = "/home/a/.local/state/stoq";
        assert_eq!(place(home), (state.into(), format!("{state}/stoqd.sock")));
        let xdg = Surroundings {
            xdg_state_home: some("/x/state"),
            xdg_runtime_dir: some("/run/user/1000"),
            ..home
        };
        let socket = "/run/user/1000/stoq/stoqd.sock";
        assert_eq!(place(xdg), ("/x/state/stoq".into(), socket.into()));
        let relative =
            Surroundings { xdg_state_home: some("x"), xdg_runtime_dir: some("y"), ..home };
        assert_eq!(place(relative), (state.into(), format!("{state}/stoqd.sock")));
        let service = Surroundings {
            state_directory: some("/var/lib/stoq"),
            runtime_directory: some("/run/stoq"),
            ..xdg
        };
        assert_eq!(place(service), ("/var/lib/stoq".into(), "/run/stoq/stoqd.sock".into()));
    }

    #[test]
    fn the_file_wins_over_the_surroundings() {
        let text = "[node]\nname = \"beta\"\nstate_directory = \"/s\"\n\
                    [listen]\nadmin_socket = \"/s/a.sock\"\n";
        let placement =
            Config::parse("test", text).unwrap().place(&Surroundings::default()).unwrap();
        assert_eq!(placement.node.as_str(), "beta");
        assert_eq!(placement.state_directory, Path::new("/s"));
        assert_eq!(placement.admin_socket, Path::new("/s/a.sock"));
    }

    #[test]
    fn what_cannot_be_decided_is_an_error_with_a_remedy() {
        let config = Config::default();
        let nameless = config.place(&Surroundings { root: true, ..Default::default() });
        assert_eq!(nameless, Err(HostProblem::NoName(String::new())));
        let homeless = Surroundings { host_name: Some("a"), ..Default::default() };
        assert_eq!(config.place(&homeless), Err(HostProblem::NoStateDirectory));
        let deep = PathBuf::from(format!("/{}", "d".repeat(120)));
        let deep = Surroundings { host_name: Some("a"), home: Some(&deep), ..Default::default() };
        assert!(matches!(config.place(&deep), Err(HostProblem::LongSocket(_))));
    }

    #[test]
    fn host_names_become_node_names() {
        for (host, node) in [
            ("alpha", Some("alpha")),
            ("Alpha.example.org", Some("alpha")),
            ("my_host", Some("my-host")),
            ("-x-", Some("x")),
            ("", None),
            ("...", None),
            ("__", None),
        ] {
            let made = node_name_from_host_name(host);
            assert_eq!(made.as_ref().map(NodeId::as_str), node, "{host}");
        }
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(62));
        assert_eq!(node_name_from_host_name(&long).unwrap().as_str(), "a".repeat(62));
    }
}

//! Where the two sides of a run are: both on `[::1]`, or in a network namespace each with a veth
//! pair between them. A namespace is made with `ip`, by name, and taken down by that name; nothing
//! else of the host is touched.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::program::{RunError, ask, find};

/// Octets of an IPv6 and a UDP header
pub const UDP_HEADERS_BYTES: u64 = 48;

/// One side of a run
#[derive(Clone, Debug)]
pub struct Site {
    namespace: Option<String>,
    core: usize,
    address: Ipv6Addr,
}

impl Site {
    /// On `[::1]`
    pub fn loopback(core: usize) -> Self {
        Self { namespace: None, core, address: Ipv6Addr::LOCALHOST }
    }

    /// The processor of everything that runs here
    pub fn core(&self) -> usize {
        self.core
    }

    /// Where the other side reaches this one
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// A program of this side, bound to its processor. The chain of programs replaces itself, so
    /// the child's process id is the program's own.
    pub fn command(&self, program: &Path) -> Command {
        let core = self.core.to_string();
        let mut command = match &self.namespace {
            Some(name) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "taskset"]);
                command
            }
            None => Command::new("taskset"),
        };
        command.args(["-c", &core]).arg(program);
        command
    }

    /// A port that is free here now
    ///
    /// # Errors
    /// Where the kernel has none left.
    pub fn free_port(&self) -> Result<u16, RunError> {
        // A namespace of one's own has them all; a port free on [::1] is as good there as any.
        let bound = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
        let port = bound.and_then(|listener| Ok(listener.local_addr()?.port()));
        port.map_err(|cause| RunError::Failed(format!("no free port on [::1]: {cause}")))
    }
}

/// Two namespaces and the pair of devices between them; gone when dropped
pub struct VethPair {
    ip: PathBuf,
    names: [String; 2],
    sites: [Site; 2],
}

/// Name of the device in either namespace
pub const DEVICE: &str = "stoq0";

impl VethPair {
    /// Makes both; `mtu` in octets
    ///
    /// # Errors
    /// [`RunError`] with the words of `ip`; needs root.
    pub async fn make(mtu: u64, cores: [usize; 2]) -> Result<Self, RunError> {
        let ip = find("ip").ok_or_else(|| {
            RunError::Failed("`ip` is not installed: apt-get install iproute2".into())
        })?;
        let names = ["a", "b"].map(|side| format!("stoq-bench-{}-{side}", std::process::id()));
        let address = |host: u16| Ipv6Addr::new(0xfd77, 0x5707, 0, 0, 0, 0, 0, host);
        let site = |side: usize, host| Site {
            namespace: Some(names[side].clone()),
            core: cores[side],
            address: address(host),
        };
        let sites = [site(0, 1), site(1, 2)];
        let link = Self { ip, names, sites };
        link.set_up(mtu).await?;
        Ok(link)
    }

    async fn set_up(&self, mtu: u64) -> Result<(), RunError> {
        let [a, b] = &self.names;
        for name in [a, b] {
            self.ip(&format!("netns add {name}")).await?;
        }
        let between = format!("link add {DEVICE} netns {a} type veth peer name {DEVICE} netns {b}");
        self.ip(&between).await?;
        for (name, site) in self.names.iter().zip(&self.sites) {
            let address = site.address;
            self.ip(&format!("-n {name} link set lo up")).await?;
            self.ip(&format!("-n {name} address add {address}/64 dev {DEVICE} nodad")).await?;
            self.ip(&format!("-n {name} link set {DEVICE} mtu {mtu} up")).await?;
        }
        Ok(())
    }

    /// Runs `ip` with these words
    ///
    /// # Errors
    /// [`RunError`] with its own words.
    pub async fn ip(&self, words: &str) -> Result<String, RunError> {
        let mut command = Command::new(&self.ip);
        command.args(words.split(' '));
        ask(&format!("`ip {words}`"), command).await
    }

    /// The namespaces' names
    pub fn names(&self) -> &[String; 2] {
        &self.names
    }

    /// Both sides
    pub fn sites(&self) -> &[Site; 2] {
        &self.sites
    }
}

impl Drop for VethPair {
    fn drop(&mut self) {
        for name in &self.names {
            // One that was never made cannot be deleted, and is not there either.
            let _not_there = std::process::Command::new(&self.ip)
                .args(["netns", "del", name])
                .stderr(std::process::Stdio::null())
                .status();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_bound_to_its_sides_processor_and_namespace() {
        let words = |site: &Site| {
            let command = site.command(Path::new("/bin/program"));
            let command = command.as_std();
            let words = std::iter::once(command.get_program()).chain(command.get_args());
            words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words(&Site::loopback(3)), "taskset -c 3 /bin/program");
        let inside = Site { namespace: Some("n".into()), ..Site::loopback(1) };
        assert_eq!(words(&inside), "ip netns exec n taskset -c 1 /bin/program");
        assert_ne!(Site::loopback(0).free_port().unwrap(), 0);
    }
}

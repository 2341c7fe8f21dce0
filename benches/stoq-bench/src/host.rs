//! What identifies the host a record comes from, and over what its packets went. Read from `/proc` and `/sys`;
//! what cannot be read is absent.

use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The schema of a record
pub const SCHEMA: &str = "stoq.bench.fingerprint/1";

/// A host
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Fingerprint {
    /// [`SCHEMA`]
    pub schema: String,
    /// Digest of everything below: equal on equal hosts
    pub id: String,
    /// Processor model
    pub cpu_model: Option<String>,
    /// Processing units
    pub cpus: usize,
    /// NUMA nodes
    pub numa_nodes: usize,
    /// Caches of the first processor: `L2 unified` to octets as the kernel writes them
    pub caches: BTreeMap<String, String>,
    /// Vector and cipher extensions that decide the AEAD's speed
    pub cpu_features: Vec<String>,
    /// Kernel release
    pub kernel: Option<String>,
    /// Octets of memory
    pub memory_bytes: Option<u64>,
    /// Whether a hypervisor lies below
    pub virtual_machine: Option<bool>,
}

const FEATURES: [&str; 7] =
    ["aes", "avx2", "avx512f", "avx512bw", "pclmulqdq", "vaes", "vpclmulqdq"];

fn text(path: impl AsRef<Path>) -> Option<String> {
    read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn caches() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for index in 0..8 {
        let base = format!("/sys/devices/system/cpu/cpu0/cache/index{index}");
        let base = Path::new(&base);
        let read = |name: &str| text(base.join(name));
        if let (Some(level), Some(kind), Some(size)) = (read("level"), read("type"), read("size")) {
            all.insert(format!("L{level} {}", kind.to_lowercase()), size);
        }
    }
    all
}

impl Fingerprint {
    /// Of this host
    ///
    /// # Errors
    /// Where the processors cannot be listed.
    pub fn read() -> Result<Self, stoq_memory::TopologyError> {
        let topology = stoq_memory::host_topology()?;
        let info = text("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find(|line| line.starts_with(name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        let flags = field("flags");
        let has = |flag: &str| flags.as_ref().map(|f| f.split(' ').any(|one| one == flag));
        let memory = text("/proc/meminfo").and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal"))?;
            line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
        });
        let mut host = Self {
            schema: SCHEMA.to_owned(),
            id: String::new(),
            cpu_model: field("model name"),
            cpus: topology.cores.len(),
            numa_nodes: topology.nodes.len(),
            caches: caches(),
            cpu_features: FEATURES
                .into_iter()
                .filter(|feature| has(feature) == Some(true))
                .map(str::to_owned)
                .collect(),
            kernel: text("/proc/sys/kernel/osrelease"),
            memory_bytes: memory.map(|kib| kib * 1_024),
            virtual_machine: has("hypervisor"),
        };
        host.id = host.digest();
        Ok(host)
    }

    fn digest(&self) -> String {
        let all = format!(
            "{:?}",
            (&self.cpu_model, self.cpus, self.numa_nodes, &self.caches, &self.cpu_features)
        ) + &format!("{:?}", (&self.kernel, self.memory_bytes, self.virtual_machine));
        blake3::hash(all.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// What packets to an address go over
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathKind {
    /// The kernel's loopback: no device, no segmentation
    Loopback,
    /// A virtual device, such as a veth pair
    Veth,
    /// A device on a bus
    Nic,
}

/// What packets to `to` go over; `None` where no route is known
pub fn path_to(to: SocketAddrV6) -> Option<PathKind> {
    let local = read_to_string("/proc/net/if_inet6").ok()?;
    let hex = format!("{:032x}", u128::from(*to.ip()));
    if to.ip().is_loopback() || local.lines().any(|line| line.starts_with(&hex)) {
        return Some(PathKind::Loopback);
    }
    let interface = interface_to(&read_to_string("/proc/net/ipv6_route").ok()?, *to.ip())?;
    let device = Path::new("/sys/class/net").join(interface).join("device");
    Some(if device.exists() { PathKind::Nic } else { PathKind::Veth })
}

/// The interface of the longest matching route (proc `ipv6_route`: destination, prefix, ..., interface)
fn interface_to(routes: &str, to: Ipv6Addr) -> Option<String> {
    let matching = routes.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let destination = u128::from_str_radix(fields.first()?, 16).ok()?;
        let length = u32::from_str_radix(fields.get(1)?, 16).ok()?;
        let name = *fields.last()?;
        let mask = u128::MAX.checked_shl(128 - length.min(128)).unwrap_or(0);
        (name != "lo" && u128::from(to) & mask == destination & mask).then_some((length, name))
    });
    matching.max_by_key(|(length, _)| *length).map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_a_stable_identity_that_depends_on_what_it_is() {
        let host = Fingerprint::read().unwrap();
        assert_eq!(host, Fingerprint::read().unwrap());
        assert_eq!(host.id.len(), 16);
        let other = Fingerprint { kernel: Some("0.0.1".into()), ..host.clone() };
        assert_ne!(other.digest(), host.id);
    }

    #[test]
    fn loopback_is_known_and_the_longest_route_wins() {
        assert_eq!(path_to("[::1]:1".parse().unwrap()), Some(PathKind::Loopback));
        let zero = "00000000000000000000000000000000";
        let rest = format!("{zero} 00 {zero} 00000400 00000001 00000000 00000001");
        let routes = format!(
            "fd770000000000000000000000000000 40 {rest} veth0\n{zero} 00 {rest} eth0\n\
             {zero} 00 {rest} lo\n"
        );
        let to = |text: &str| interface_to(&routes, text.parse().unwrap());
        assert_eq!(to("fd77::1").as_deref(), Some("veth0"));
        assert_eq!(to("2001:db8::1").as_deref(), Some("eth0"));
        assert_eq!(interface_to("", Ipv6Addr::LOCALHOST), None);
    }
}

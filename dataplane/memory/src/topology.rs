//! The host as the data plane needs it: processors, their NUMA nodes, and where the network interfaces
//! hang. Read through hwloc once per process. This room reports and binds; which processor a worker should
//! have is decided elsewhere.

use std::sync::OnceLock;

use hwlocality::Topology;
use hwlocality::cpu::binding::CpuBindingFlags;
use hwlocality::cpu::cpuset::CpuSet;
use hwlocality::memory::binding::{MemoryBindingFlags, MemoryBindingPolicy};
use hwlocality::memory::nodeset::NodeSet;
use hwlocality::object::TopologyObject;
use hwlocality::object::attributes::ObjectAttributes;
use hwlocality::object::types::{OSDeviceType, ObjectType};
use hwlocality::topology::builder::TypeFilter;

/// Why the topology could not be read or a thread not be bound
#[derive(Clone, Debug, thiserror::Error)]
pub enum TopologyError {
    /// hwloc could not read the host
    #[error("the processor topology could not be read: {0}; is /sys mounted in this container?")]
    Unreadable(String),
    /// The processor is not one this process may use
    #[error(
        "processor {core} does not exist or is outside this process's cpuset; \
         `stoqd topology` lists the usable ones"
    )]
    UnknownCore {
        /// Operating-system index asked for
        core: usize,
    },
    /// The kernel refused the binding
    #[error("this thread could not be bound to processor {core}: {reason}")]
    Refused {
        /// Operating-system index asked for
        core: usize,
        /// What hwloc reported
        reason: String,
    },
    /// The binding was accepted, yet the thread runs elsewhere
    #[error("this thread was bound to processor {core} but runs on {actual}")]
    Elsewhere {
        /// Operating-system index asked for
        core: usize,
        /// Operating-system index found
        actual: usize,
    },
    /// The NUMA node does not exist
    #[error("NUMA node {node} does not exist on this host")]
    UnknownNode {
        /// Operating-system index asked for
        node: usize,
    },
}

/// One processing unit: what the scheduler calls a CPU
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Core {
    /// Operating-system index, as in `taskset` and `/proc/cpuinfo`
    pub index: usize,
    /// Logical index of the physical core; siblings of one core (SMT) share it
    pub physical: usize,
    /// Operating-system index of the nearest NUMA node, where the host has any
    pub node: Option<usize>,
}

/// One network interface behind a bus; virtual ones (lo, veth) have no place and are not listed
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NetworkInterface {
    /// Interface name, as in `ip link`
    pub name: String,
    /// NUMA node the device is attached to
    pub node: Option<usize>,
}

/// The host, as far as this process may use it
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostTopology {
    /// Usable processing units in ascending order of their operating-system index
    pub cores: Vec<Core>,
    /// Operating-system indices of the NUMA nodes, ascending
    pub nodes: Vec<usize>,
    /// Network interfaces that sit on a bus
    pub interfaces: Vec<NetworkInterface>,
}

impl HostTopology {
    /// The NUMA node of a processing unit
    pub fn node_of(&self, core: usize) -> Option<usize> {
        self.cores.iter().find(|c| c.index == core).and_then(|c| c.node)
    }

    fn read(topology: &Topology) -> Self {
        let mut cores: Vec<Core> = topology
            .objects_with_type(ObjectType::PU)
            .filter_map(|unit| {
                let index = unit.os_index()?;
                let physical = unit
                    .first_ancestor_with_type(ObjectType::Core)
                    .map_or(index, TopologyObject::logical_index);
                Some(Core { index, physical, node: first_node(unit) })
            })
            .collect();
        cores.sort_by_key(|core| core.index);

        let mut nodes: Vec<usize> = topology
            .objects_with_type(ObjectType::NUMANode)
            .filter_map(TopologyObject::os_index)
            .collect();
        nodes.sort_unstable();

        let interfaces =
            topology.objects_with_type(ObjectType::OSDevice).filter_map(interface).collect();
        Self { cores, nodes, interfaces }
    }
}

fn first_node(object: &TopologyObject) -> Option<usize> {
    object.nodeset()?.first_set().map(usize::from)
}

fn interface(device: &TopologyObject) -> Option<NetworkInterface> {
    let Some(ObjectAttributes::OSDevice(attributes)) = device.attributes() else {
        return None;
    };
    if attributes.device_type() != OSDeviceType::Network {
        return None;
    }
    Some(NetworkInterface {
        name: device.name()?.to_string_lossy().into_owned(),
        node: device.first_non_io_ancestor().and_then(first_node),
    })
}

struct Host {
    topology: Topology,
    summary: HostTopology,
}

/// The default topology has no I/O objects; they have to be asked for.
fn load() -> Result<Host, TopologyError> {
    let unreadable = |error: &dyn std::fmt::Display| TopologyError::Unreadable(error.to_string());
    let topology = Topology::builder()
        .with_io_type_filter(TypeFilter::KeepImportant)
        .map_err(|error| unreadable(&error))?
        .build()
        .map_err(|error| unreadable(&error))?;
    let summary = HostTopology::read(&topology);
    Ok(Host { topology, summary })
}

fn host() -> Result<&'static Host, TopologyError> {
    static HOST: OnceLock<Result<Host, TopologyError>> = OnceLock::new();
    HOST.get_or_init(load).as_ref().map_err(Clone::clone)
}

/// The host's topology, read on first use and kept for the life of the process
pub fn host_topology() -> Result<&'static HostTopology, TopologyError> {
    host().map(|host| &host.summary)
}

/// The processor this thread runs on at this moment
pub fn current_core() -> Option<usize> {
    // SAFETY: sched_getcpu takes no argument and touches no memory of ours.
    let core = unsafe { libc::sched_getcpu() };
    usize::try_from(core).ok()
}

/// Binds the calling thread to one processing unit and checks that it runs there; threads it spawns later
/// inherit the binding
pub fn bind_current_thread(core: usize) -> Result<(), TopologyError> {
    let host = host()?;
    if !host.summary.cores.iter().any(|known| known.index == core) {
        return Err(TopologyError::UnknownCore { core });
    }
    let mut set = CpuSet::new();
    set.set(core);
    host.topology
        .bind_cpu(&set, CpuBindingFlags::THREAD)
        .map_err(|error| TopologyError::Refused { core, reason: error.to_string() })?;
    match current_core() {
        Some(actual) if actual != core => Err(TopologyError::Elsewhere { core, actual }),
        _ => Ok(()),
    }
}

/// Binds pages that were never touched to one NUMA node; fails rather than allocate elsewhere
pub(crate) fn bind_memory(memory: &[u8], node: usize) -> Result<(), String> {
    let host = host().map_err(|error| error.to_string())?;
    if !host.summary.nodes.contains(&node) {
        return Err(TopologyError::UnknownNode { node }.to_string());
    }
    let mut set = NodeSet::new();
    set.set(node);
    host.topology
        .bind_memory_area(memory, &set, MemoryBindingPolicy::Bind, MemoryBindingFlags::STRICT)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_the_processors_the_kernel_lists() {
        let topology = host_topology().unwrap();
        let available = std::thread::available_parallelism().unwrap().get();
        assert!(topology.cores.len() >= available, "{topology:?}");
        assert!(topology.cores.windows(2).all(|pair| pair[0].index < pair[1].index));
        for core in &topology.cores {
            if let Some(node) = core.node {
                assert!(topology.nodes.contains(&node));
                assert_eq!(topology.node_of(core.index), Some(node));
            }
        }
    }

    #[test]
    fn binds_to_each_processor_in_turn() {
        for core in &host_topology().unwrap().cores {
            let core = core.index;
            let found = std::thread::spawn(move || {
                bind_current_thread(core).unwrap();
                current_core()
            });
            assert_eq!(found.join().unwrap(), Some(core));
        }
    }

    #[test]
    fn refuses_a_processor_that_is_not_there() {
        let error = bind_current_thread(100_000).unwrap_err();
        assert!(matches!(error, TopologyError::UnknownCore { core: 100_000 }), "{error}");
    }

    #[test]
    fn reads_nodes_and_siblings_of_a_larger_host() {
        let topology = Topology::builder()
            .from_synthetic("package:2 [numa(memory=1GB)] l3:1 core:2 pu:2")
            .unwrap()
            .build()
            .unwrap();
        let summary = HostTopology::read(&topology);
        assert_eq!(summary.nodes, [0, 1]);
        assert_eq!(summary.cores.len(), 8);
        assert_eq!(summary.node_of(0), Some(0));
        assert_eq!(summary.node_of(7), Some(1));
        assert_eq!(summary.cores[0].physical, summary.cores[1].physical);
        assert_ne!(summary.cores[1].physical, summary.cores[2].physical);
        assert!(summary.interfaces.is_empty());
    }
}

//! Consensus as a whole: validators of a simulated network that repeats itself by its seed, with partitions, crashes,
//! loss and faulty validators; and validators on threads and in processes of their own.

#[path = "consensus/agreed.rs"]
mod agreed;
#[path = "consensus/byzantine.rs"]
mod byzantine;
#[path = "consensus/cluster.rs"]
mod cluster;
#[path = "consensus/epochs.rs"]
mod epochs;
#[path = "consensus/ledger.rs"]
mod ledger;
#[path = "consensus/member.rs"]
mod member;
#[path = "consensus/members.rs"]
mod members;
#[path = "consensus/process.rs"]
mod process;
#[path = "consensus/simulation.rs"]
mod simulation;
#[path = "consensus/sockets.rs"]
mod sockets;
#[path = "consensus/tamper.rs"]
mod tamper;
#[path = "consensus/world.rs"]
mod world;

//! Two hosts and a faulty network in memory: the data plane's endpoints under seeded loss, reordering,
//! duplication, delay, corruption, outages and killed connections, without sockets. For tests, for the
//! simulator's command and, by its throwaway identities, for benches. Never part of a running node.

#![forbid(unsafe_code)]

pub mod host;
pub mod network;
pub mod pattern;
pub mod pki;
pub mod runner;
pub mod scenario;

//! More than one authority in a mesh: two under one root that share their records in an etcd cluster, two that share
//! nothing, and the orders of operators that reach an authority over STOQ.

#![forbid(unsafe_code)]

mod orders;
mod scene;
mod several;
mod shared;

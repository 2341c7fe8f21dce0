//! Signing in a process of its own: the process with the keys serves a Unix socket (`server`), the authority
//! calls it (`client`). The protocol is `proto/signer.proto`; each end knows the other by its user.

mod client;
mod frame;
mod server;
mod wire;

pub use client::{RemoteSettings, RemoteSigner};
pub use server::{BindError, ServerSettings, SignerServer};

#[cfg(test)]
mod tests;

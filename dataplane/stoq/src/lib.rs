//! The library: open flows and make calls between authenticated nodes from Rust. An [`Endpoint`] owns pinned
//! workers; a [`Session`] is everything shared with one peer; a [`Flow`] is a reliable byte stream to a named
//! service there; a call is one request and one reply. Futures here need no runtime: they wake whoever polls.
//!
//! ```
//! use stoq::{Allow, Endpoint, NodeId, ServiceName};
//! use stoq_simulation::pki::Authority;
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! // A throwaway authority; a real node gets its identity by enrolment.
//! let authority = Authority::new();
//! let echo = ServiceName::new("echo")?;
//!
//! let mut snapshot = authority.snapshot("beta");
//! snapshot.services.insert(echo.clone(), Allow::AnyEnrolled);
//! let beta = Endpoint::builder().listen("[::1]:0".parse()?).snapshot(snapshot).build()?;
//! let mut incoming = beta.serve(echo.clone())?;
//!
//! let snapshot = authority.snapshot("alpha");
//! let alpha = Endpoint::builder().listen("[::1]:0".parse()?).snapshot(snapshot).build()?;
//! let session = alpha.connect(beta.local_address(), &NodeId::new("beta")?).await?;
//!
//! let mut flow = session.open(&echo);
//! flow.write_all(b"hello").await?;
//! flow.finish().await?;
//!
//! let mut served = incoming.next().await.ok_or("the endpoint is closed")?;
//! assert_eq!(served.peer().as_str(), "alpha");
//! let mut text = String::new();
//! served.read_to_string(&mut text).await?;
//! assert_eq!(text, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod call;
mod endpoint;
mod flow;
mod session;

pub use call::{CallError, CallRequest};
pub use endpoint::{Endpoint, EndpointBuilder, Incoming, IoPreference, WorkerPlan};
pub use flow::{Flow, FlowReader, FlowWriter};
pub use session::Session;

pub use stoq_interface::{
    Allow, CloseReason, ConnectionStatus, ControlSnapshot, FlowError, FlowStatus, Identity, Limits,
    ListenerStatus, NodeId, PeerRefusal, PrivateKey, ServiceName, SessionStatus, TransportSettings,
    TrustAnchor, WorkerCounters, WorkerStatus,
};
pub use stoq_transport::wire::CallStatus;
pub use stoq_udp::IoDescription;
pub use stoq_worker::{CallFailure, ConnectError, ServiceTaken, StartError};

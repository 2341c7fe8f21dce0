//! The library: open flows and make calls between authenticated nodes from Rust. An [`Endpoint`] owns pinned
//! workers; a [`Session`] is everything shared with one peer; a [`Flow`] is a reliable byte stream to a named
//! service there; a call is one request and one reply. Futures here need no runtime: they wake whoever polls.
//!
//! A flow:
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
//!
//! A call:
//!
//! ```
//! # use stoq::{Endpoint, NodeId};
//! # use stoq_simulation::pki::Authority;
//! use std::time::Duration;
//! use bytes::Bytes;
//! use stoq::{CallError, CallStatus};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! # let authority = Authority::new();
//! # let beta = Endpoint::builder().listen("[::1]:0".parse()?).snapshot(authority.snapshot("beta")).build()?;
//! # let alpha = Endpoint::builder().listen("[::1]:0".parse()?).snapshot(authority.snapshot("alpha")).build()?;
//! # let session = alpha.connect(beta.local_address(), &NodeId::new("beta")?).await?;
//! beta.serve_calls(|call| {
//!     // A handler passes long work on; the reply may come from anywhere.
//!     let sent = match call.method() {
//!         "greeter/hello" => {
//!             let name = call.peer().to_string();
//!             call.reply(Bytes::from(format!("hello, {name}")))
//!         }
//!         _ => call.refuse(CallStatus::Unknown, Bytes::new()),
//!     };
//!     assert!(sent, "only a worker that is overloaded does not take the answer");
//! });
//!
//! let deadline = Duration::from_secs(5);
//! let timer = || tokio::time::sleep(deadline);
//! let reply = session.call("greeter/hello", Bytes::new(), deadline, timer()).await?;
//! assert_eq!(reply, "hello, alpha");
//!
//! let refused = session.call("greeter/nothing", Bytes::new(), deadline, timer()).await;
//! assert_eq!(refused, Err(CallError::Status(CallStatus::Unknown, Bytes::new())));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod call;
mod channel;
mod endpoint;
mod flow;
mod session;
mod wakes;

pub use call::{CallError, CallRequest};
pub use channel::SessionCalls;
pub use endpoint::{Endpoint, EndpointBuilder, Incoming, IoPreference, WorkerPlan};
pub use flow::{Flow, FlowReader, FlowWriter};
pub use session::Session;

pub use stoq_interface::{
    Allow, CallChannel, CallEnd, CallStatus, CloseReason, ConnectionStatus, ControlSnapshot,
    FlowError, FlowStatus, Identity, Limits, ListenerStatus, NodeId, PeerCertificate, PeerRefusal,
    PrivateKey, ServiceName, SessionStatus, TransportSettings, TrustAnchor, WorkerCounters,
    WorkerStatus,
};
pub use stoq_udp::{IoDescription, IoSettings, SocketOptions, ZeroCopy};
pub use stoq_worker::{CallFailure, ConnectError, ServiceTaken, StartError};

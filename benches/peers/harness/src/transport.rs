//! What a stack with streams has to offer, and the four roles on top of it. A stack that calls back instead of
//! being called (tokio-quiche) does not come this way: it uses `perf` itself.

mod calls;
mod handshakes;
mod sink;

use std::future::Future;

use bytes::Bytes;

pub use calls::calls;
pub use handshakes::handshakes;
pub use sink::sink;

use crate::Failure;
use crate::command_line::LoadArgs;
use crate::perf::Outgoing;
use crate::report::LoadReport;

/// The sending half of a stream
pub trait Writer: Send + 'static {
    /// Hands octets over, waiting while the stack's own buffer is full
    fn write(&mut self, chunk: Bytes) -> impl Future<Output = Result<(), Failure>> + Send;
    /// Ends the stream
    fn finish(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// The receiving half of a stream
pub trait Reader: Send + 'static {
    /// Waits for octets and shows them piece by piece; `false` at the end of the stream
    fn read(
        &mut self,
        take: &mut (dyn FnMut(&[u8]) + Send),
    ) -> impl Future<Output = Result<bool, Failure>> + Send;
}

/// Opens streams on a connection
pub trait Opener: Clone + Send + 'static {
    /// The sending half
    type Writer: Writer;
    /// The receiving half
    type Reader: Reader;
    /// Opens a bidirectional stream
    fn open(
        &mut self,
    ) -> impl Future<Output = Result<(Self::Writer, Self::Reader), Failure>> + Send;
}

/// A stream of the other end, or none any more
pub type Arrival<W, R> = Result<Option<(W, R)>, Failure>;

/// An established connection
pub trait Connection: Send + 'static {
    /// The sending half of its streams
    type Writer: Writer;
    /// The receiving half of its streams
    type Reader: Reader;
    /// Opens streams on it
    type Opener: Opener<Writer = Self::Writer, Reader = Self::Reader>;
    /// Something that opens streams
    fn opener(&self) -> Self::Opener;
    /// Waits for a stream of the other end; `None` once the connection has ended
    fn accept(&mut self) -> impl Future<Output = Arrival<Self::Writer, Self::Reader>> + Send;
    /// Packets this end has declared lost, where the stack says so
    fn lost_packets(&self) -> Option<u64>;
    /// Ends the connection at once
    fn close(self);
}

/// Takes connections
pub trait Listener: Send + 'static {
    /// What it takes
    type Connection: Connection;
    /// A connection whose handshake is still going on
    type Pending: Send + 'static;
    /// Waits for the next attempt
    fn accept(&mut self) -> impl Future<Output = Result<Self::Pending, Failure>> + Send;
    /// Carries the handshake through, verdict on the other end's certificate included
    fn establish(
        pending: Self::Pending,
    ) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;
}

/// Makes connections
pub trait Dialer: Send + Sync + 'static {
    /// What it makes
    type Connection: Connection;
    /// Dials
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;
    /// Waits until closed connections have said so to the other end
    fn settle(&self) -> impl Future<Output = ()> + Send;
}

/// Sends one stream for the time that was asked and waits until the other end has all of it
///
/// # Errors
/// Where the connection cannot be had or breaks.
pub async fn load<D: Dialer, X: clap::Args>(
    dialer: &D,
    args: &LoadArgs<X>,
) -> Result<LoadReport, Failure> {
    let connection = dialer.connect().await?;
    let (mut writer, mut reader) = connection.opener().open().await?;
    writer.write(Outgoing::header()).await?;
    let mut outgoing = Outgoing::new(args.seed, args.omit, args.duration);
    while let Some(chunk) = outgoing.next_chunk() {
        writer.write(chunk).await?;
    }
    writer.finish().await?;
    while reader.read(&mut |_| ()).await? {}
    let report =
        LoadReport { transfer: outgoing.finish(), lost_packets: connection.lost_packets() };
    connection.close();
    dialer.settle().await;
    Ok(report)
}

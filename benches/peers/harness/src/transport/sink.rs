//! The sink: takes every connection that proves itself, drains uploads, answers calls.

use std::time::Duration;

use bytes::Bytes;

use super::{Connection, Listener, Reader, Writer};
use crate::Failure;
use crate::perf::{Incoming, Request};
use crate::report::{Event, Stack, tell, warn};

/// Octets of zero handed over at once in a response
const ZEROS_BYTES: usize = 64 << 10;
static ZEROS: [u8; ZEROS_BYTES] = [0; ZEROS_BYTES];

/// Serves until it is dropped
///
/// # Errors
/// Where no further connection can be taken at all.
pub async fn sink<L: Listener>(
    mut listener: L,
    stack: Stack,
    omit: Duration,
) -> Result<(), Failure> {
    loop {
        let pending = listener.accept().await?;
        tokio::spawn(async move {
            let outcome = match L::establish(pending).await {
                Ok(connection) => serve(connection, stack, omit).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = outcome {
                warn(&format!("a connection failed: {failure}"));
            }
        });
    }
}

async fn serve<C: Connection>(
    mut connection: C,
    stack: Stack,
    omit: Duration,
) -> Result<(), Failure> {
    while let Some((writer, reader)) = connection.accept().await? {
        tokio::spawn(async move {
            if let Err(failure) = stream(writer, reader, stack, omit).await {
                warn(&format!("a stream failed: {failure}"));
            }
        });
    }
    Ok(())
}

async fn stream<W: Writer, R: Reader>(
    mut writer: W,
    mut reader: R,
    stack: Stack,
    omit: Duration,
) -> Result<(), Failure> {
    let mut incoming = Incoming::new(omit);
    while reader.read(&mut |bytes| incoming.take(bytes)).await? {}
    match incoming.finish()? {
        Request::Empty => {}
        Request::Upload(transfer) => tell(stack, &Event::Transfer(transfer), &[])?,
        Request::Respond(octets) => {
            let mut left = octets;
            while left > 0 {
                let take = usize::try_from(left).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
                writer.write(Bytes::from_static(&ZEROS[..take])).await?;
                left -= take as u64;
            }
        }
    }
    writer.finish().await
}

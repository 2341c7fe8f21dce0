//! Full mutual handshakes, one after the other. A handshake counts once an empty exchange has come back over
//! the new connection: a client has its keys before the other end has judged its certificate, so only an
//! answer proves that both have accepted.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Connection, Dialer, Opener, Reader, Writer};
use crate::Failure;
use crate::command_line::HandshakesArgs;
use crate::perf::HEADER_BYTES;
use crate::place::cpu_seconds;
use crate::report::{HandshakesReport, warn};

/// Connects and closes until the time is over
///
/// # Errors
/// Where not a single connection was made: the first reason.
pub async fn handshakes<D: Dialer, X: clap::Args>(
    dialer: Arc<D>,
    args: &HandshakesArgs<X>,
) -> Result<HandshakesReport, Failure> {
    let (begun, cpu) = (Instant::now(), cpu_seconds());
    let end = begun + args.duration;
    let mut tasks = JoinSet::new();
    for _ in 0..args.in_flight {
        let dialer = Arc::clone(&dialer);
        tasks.spawn(async move {
            let (mut made, mut failures) = (0u64, Vec::new());
            while Instant::now() < end {
                match once(&*dialer).await {
                    Ok(()) => made += u64::from(Instant::now() <= end),
                    Err(failure) => failures.push(failure),
                }
            }
            (made, failures)
        });
    }
    let (mut made, mut failures) = (0, Vec::new());
    while let Some(task) = tasks.join_next().await {
        let (some, more) = task?;
        made += some;
        failures.extend(more);
    }
    let failed = failures.len() as u64;
    if let Some(failure) = failures.into_iter().next() {
        if made == 0 {
            return Err(failure);
        }
        warn(&format!("{failed} handshakes failed; the first: {failure}"));
    }
    Ok(HandshakesReport {
        handshakes: made,
        per_second: made as f64 / args.duration.as_secs_f64(),
        key_share: args.key_share,
        failed,
        cpu_seconds: cpu_seconds() - cpu,
    })
}

async fn once<D: Dialer>(dialer: &D) -> Result<(), Failure> {
    let connection = dialer.connect().await?;
    let (mut writer, mut reader) = connection.opener().open().await?;
    writer.write(Bytes::from_static(&[0; HEADER_BYTES])).await?;
    writer.finish().await?;
    while reader.read(&mut |_| ()).await? {}
    connection.close();
    Ok(())
}

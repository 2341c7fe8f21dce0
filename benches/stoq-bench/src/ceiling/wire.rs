//! Raw UDP through the product's own I/O provider, with the offloads it found: one bound thread sends full
//! trains as fast as the kernel takes them, another receives and counts.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stoq_memory::{bind_current_thread, host_topology};
use stoq_udp::{DatagramIo, IoSettings, MAX_TRAIN_BYTES, Socket, SocketOptions, Transmit, Wait};

use super::{CeilingError, Plan};
use crate::command_line::Io;
use crate::process::thread_cpu_ns;

/// Trains queued per submission: few stay in the cache
const TRAINS: usize = 2;

/// What raw UDP carries
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Wire {
    /// Provider of both ends
    pub io: String,
    /// Datagrams per send
    pub gso_segments: usize,
    /// Whether receives are merged
    pub gro: bool,
    /// Counted at the receiver
    pub received_gbps: f64,
    /// UDP payload octets counted at the receiver
    pub bytes_received: u64,
    /// Packets dropped because the receiver's socket was full
    pub socket_overflows: u64,
    /// Processor time of the sender per octet it sent
    pub sender_ns_per_byte: f64,
    /// Processor time of the receiver per octet it received
    pub receiver_ns_per_byte: f64,
}

struct End {
    cpu_ns: u64,
    bytes: u64,
}

fn provider(plan: &Plan, core: usize) -> Result<Box<dyn DatagramIo>, CeilingError> {
    bind_current_thread(core)?;
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let socket = Socket::bind(any, &SocketOptions::default())?;
    let settings = IoSettings {
        node: host_topology()?.node_of(core),
        receive_buffers: 16,
        system_calls_only: plan.io == Io::SystemCalls,
        ..IoSettings::default()
    };
    Ok(stoq_uring::open(socket, &settings)?.io)
}

fn send(plan: &Plan, to: SocketAddrV6, stop: &AtomicBool) -> Result<End, CeilingError> {
    let mut io = provider(plan, plan.sender_core)?;
    let segments = (MAX_TRAIN_BYTES / plan.payload_bytes).clamp(1, io.segment_limit());
    let bytes = segments * plan.payload_bytes;
    let transmit = Transmit { bytes, segment_bytes: plan.payload_bytes, to, from: None };
    let start = thread_cpu_ns()?;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..TRAINS {
            let Some(slab) = io.slab() else { break };
            io.send(slab, transmit);
        }
        io.submit(Wait::No)?;
        io.receive(&mut |_| {})?;
    }
    Ok(End { cpu_ns: thread_cpu_ns()? - start, bytes: io.counters().bytes_sent })
}

fn receive(plan: &Plan, tell: &mpsc::Sender<SocketAddrV6>) -> Result<(End, Wire), CeilingError> {
    let mut io = provider(plan, plan.receiver_core)?;
    if tell.send(io.local_address()).is_err() {
        return Err(CeilingError::Thread);
    }
    let (mut bytes, mut begun) = (0u64, None);
    loop {
        io.receive(&mut |train| bytes += train.bytes.len() as u64)?;
        let now = Instant::now();
        match begun {
            // The clocks start when the first trains have been counted, and the count behind them.
            None if bytes > 0 => begun = Some((now, thread_cpu_ns()?, bytes)),
            Some((start, cpu, before)) if now.duration_since(start) >= plan.time => {
                let end = End { cpu_ns: thread_cpu_ns()? - cpu, bytes: bytes - before };
                let about = io.describe();
                let wire = Wire {
                    io: about.provider.label().to_owned(),
                    gso_segments: about.gso_segments,
                    gro: about.gro,
                    received_gbps: end.bytes as f64 * 8.0
                        / now.duration_since(start).as_nanos() as f64,
                    bytes_received: end.bytes,
                    socket_overflows: io.counters().socket_overflows,
                    sender_ns_per_byte: 0.0,
                    receiver_ns_per_byte: 0.0,
                };
                return Ok((end, wire));
            }
            _ => {}
        }
        io.submit(Wait::Until(Some(Duration::from_millis(100))))?;
    }
}

/// Measures on two threads of its own
pub(super) fn measure(plan: &Plan) -> Result<Wire, CeilingError> {
    let stop = AtomicBool::new(false);
    let (tell, hear) = mpsc::channel();
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(plan, &tell.clone()));
        let sender = hear.recv().map(|to| {
            scope.spawn({
                let stop = &stop;
                move || send(plan, to, stop)
            })
        });
        let received = receiver.join();
        stop.store(true, Ordering::Relaxed);
        let sent = sender.map(|thread| thread.join());
        (sent, received)
    });
    let (end, wire) = received.map_err(|_| CeilingError::Thread)??;
    let sent = sent.map_err(|_| CeilingError::Thread)?.map_err(|_| CeilingError::Thread)??;
    let per_byte = |end: &End| end.cpu_ns as f64 / end.bytes.max(1) as f64;
    Ok(Wire { sender_ns_per_byte: per_byte(&sent), receiver_ns_per_byte: per_byte(&end), ..wire })
}

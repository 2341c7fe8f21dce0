//! A quick look at what raw UDP through the ring carries on this host: one pinned thread sends trains to
//! [::1], another receives and counts. A sanity check, not a benchmark: `stoq-bench ceiling` is that.
//!
//! `udp_ceiling [seconds] [sender core] [receiver core]`

#![expect(clippy::print_stdout, reason = "a program for a terminal")]

use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use stoq_memory::{bind_current_thread, host_topology};
use stoq_udp::{DatagramIo, IoCounters, IoSettings, Socket, SocketOptions, Transmit, Wait};
use stoq_uring::{UringIo, open};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Trains queued per submission
const TRAINS: usize = 2;

fn provider(core: usize, ring: bool) -> Result<Box<dyn DatagramIo>, Failure> {
    bind_current_thread(core)?;
    let node = host_topology()?.node_of(core);
    let any = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let socket = Socket::bind(any, &SocketOptions::default())?;
    let settings =
        IoSettings { node, send_slabs: 32, receive_buffers: 16, ..IoSettings::default() };
    if ring {
        return Ok(Box::new(UringIo::new(socket, &settings)?));
    }
    Ok(open(socket, &IoSettings { system_calls_only: true, ..settings })?.io)
}

fn send(
    core: usize,
    ring: bool,
    to: SocketAddrV6,
    segment_bytes: usize,
    stop: &AtomicBool,
) -> Result<IoCounters, Failure> {
    let mut io = provider(core, ring)?;
    let segments = (65_487 / segment_bytes).min(io.segment_limit());
    let transmit = Transmit { bytes: segments * segment_bytes, segment_bytes, to, from: None };
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..TRAINS {
            let Some(slab) = io.slab() else { break };
            io.send(slab, transmit);
        }
        io.submit(Wait::No)?;
        io.receive(&mut |_| {})?;
    }
    Ok(*io.counters())
}

fn measure(
    cores: (usize, usize),
    ring: bool,
    segment_bytes: usize,
    time: Duration,
) -> Result<(), Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let (tell, hear) = mpsc::channel();
    let receiver = std::thread::spawn(move || -> Result<(IoCounters, u64, f64), Failure> {
        let mut io = provider(cores.1, ring)?;
        tell.send(io.local_address())?;
        let (mut bytes, mut start) = (0u64, None);
        loop {
            io.receive(&mut |train| bytes += train.bytes.len() as u64)?;
            let now = Instant::now();
            match start {
                // The clock starts when the first trains have been counted, and the count behind them.
                None if bytes > 0 => start = Some((now, bytes)),
                Some((begun, before)) if now.duration_since(begun) >= time => {
                    let seconds = now.duration_since(begun).as_secs_f64();
                    return Ok((*io.counters(), bytes - before, seconds));
                }
                _ => {}
            }
            io.submit(Wait::Until(Some(Duration::from_millis(100))))?;
        }
    });
    let to = hear.recv()?;
    let sender = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || send(cores.0, ring, to, segment_bytes, &stop))
    };
    let received = receiver.join().map_err(|_| "the receiver panicked")??;
    stop.store(true, Ordering::Relaxed);
    let sent = sender.join().map_err(|_| "the sender panicked")??;
    let (counters, bytes, seconds) = received;
    println!(
        "{:>12} {segment_bytes:>6} octets: {:6.2} Gb/s received, {:.1} datagrams per train, {:.1} \
         datagrams per system call of the receiver and {:.1} of the sender, {} dropped",
        if ring { "io_uring" } else { "system calls" },
        bytes as f64 * 8.0 / seconds / 1e9,
        counters.datagrams_received as f64 / counters.trains_received.max(1) as f64,
        counters.datagrams_received as f64 / counters.system_calls.max(1) as f64,
        sent.datagrams_sent as f64 / sent.system_calls.max(1) as f64,
        counters.socket_overflows,
    );
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| -> Result<usize, Failure> {
        arguments.next().map_or(Ok(default), |text| Ok(text.parse()?))
    };
    let time = Duration::from_secs(number(3)? as u64);
    let cores = &host_topology()?.cores;
    let last = cores.last().ok_or("no core")?.index;
    let pair = (number(cores[0].index)?, number(last)?);
    println!("sender on core {}, receiver on core {}", pair.0, pair.1);
    for ring in [true, false] {
        for segment_bytes in [1452, 8952] {
            measure(pair, ring, segment_bytes, time)?;
        }
    }
    Ok(())
}

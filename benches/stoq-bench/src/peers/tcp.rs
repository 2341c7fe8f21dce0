//! The small TCP load that every tunnel carries: a source that sends the pattern and a sink that
//! digests it, each on one thread bound to one processor. They know nothing of the tunnel between
//! them.
//!
//! On the wire: frames of a length (four octets, big endian) and that many octets; a length of zero
//! ends the transfer, and the sink answers with one octet. Frames, because not every tunnel passes
//! on a half-closed socket.

use std::io::{IoSlice, Read, Write};
use std::net::{SocketAddrV6, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use crate::digest::{Digest, Verify};
use crate::pattern::Pattern;
use crate::process::{parse_stat, ticks_per_second};
use crate::render;
use crate::sink::Failure;
use crate::units::duration;

/// Longest frame that is taken
const FRAME_BYTES: u32 = 16 << 20;
/// Octets asked of a socket at once
const READ_BYTES: usize = 256 << 10;
/// Time a read or write may take before the transfer has failed
const SOCKET_PATIENCE: Duration = Duration::from_secs(20);
/// Seed of the pattern
const SEED: u64 = 0x7463_7000;
/// What the sink answers
const TAKEN: u8 = 1;

/// `stoq-bench tcp-sink`
#[derive(Args, Clone, Debug)]
pub struct SinkArgs {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, default_value = "[::1]:0", value_name = "ADDRESS")]
    pub listen: SocketAddrV6,
    /// Processor
    #[arg(long)]
    pub core: usize,
    /// Warm-up that is not measured
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
}

/// `stoq-bench tcp-source`
#[derive(Args, Clone, Debug)]
pub struct SourceArgs {
    /// Where the tunnel, or the sink, listens
    #[arg(long, value_name = "ADDRESS")]
    pub to: SocketAddrV6,
    /// Processor
    #[arg(long)]
    pub core: usize,
    /// Time to measure, after the warm-up
    #[arg(long, default_value = "4s", value_parser = duration, value_name = "TIME")]
    pub duration: Duration,
    /// Warm-up that is not measured
    #[arg(long, default_value = "1s", value_parser = duration, value_name = "TIME")]
    pub omit: Duration,
}

/// What one end measured
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    bytes: u64,
    seconds: f64,
    gbps: f64,
    digest: String,
    cpu_seconds: f64,
}

/// One line of the sink's output
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Event {
    Listening { address: String },
    Window {},
    Transfer(Measured),
}

/// Why a transfer is none
#[derive(Debug, thiserror::Error)]
enum TcpError {
    #[error("a frame of {0} octets: the other end is no tcp-source")]
    Frame(u32),
    #[error("the transfer ended within its warm-up of {0:?}")]
    OnlyWarmUp(Duration),
    #[error("the other end answered {0}, not {TAKEN}")]
    Answer(u8),
    #[error("the tunnel broke: {0}")]
    Io(#[from] std::io::Error),
}

fn tell(event: &Event) -> std::io::Result<()> {
    render::line(&serde_json::to_string(event).map_err(std::io::Error::from)?)
}

/// Processor time of this process so far
fn own_cpu_seconds() -> std::io::Result<f64> {
    let own = Path::new("/proc/self");
    let tick = ticks_per_second(own)?;
    let text = std::fs::read_to_string(own.join("stat"))?;
    let (_, user, system) = parse_stat(&text).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((user + system) as f64 / tick)
}

/// The time after the warm-up: begun once, measured once
struct Window {
    omit: Duration,
    first: Option<Instant>,
    begun: Option<(Instant, u64, f64)>,
}

impl Window {
    fn new(omit: Duration) -> Self {
        Self { omit, first: None, begun: None }
    }

    /// Octets have moved, `bytes` in all; true when that begins the measured time
    fn moved(&mut self, bytes: u64) -> std::io::Result<bool> {
        let now = Instant::now();
        let first = *self.first.get_or_insert(now);
        if self.begun.is_some() || now - first < self.omit {
            return Ok(false);
        }
        self.begun = Some((now, bytes, own_cpu_seconds()?));
        Ok(true)
    }

    fn measured(&self, digest: &Digest) -> Result<Measured, TcpError> {
        let only_warm_up = TcpError::OnlyWarmUp(self.omit);
        let Some((begun, before, cpu)) = self.begun else { return Err(only_warm_up) };
        let (bytes, seconds) = (digest.bytes() - before, begun.elapsed().as_secs_f64());
        if bytes == 0 {
            return Err(only_warm_up);
        }
        Ok(Measured {
            bytes,
            seconds,
            gbps: bytes as f64 * 8.0 / seconds / 1e9,
            digest: hex(&digest.trailer().digest[..16]),
            cpu_seconds: own_cpu_seconds()? - cpu,
        })
    }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// `stoq-bench tcp-sink`: ends when its standard input is closed
pub fn sink(args: &SinkArgs) -> Result<(), Failure> {
    let listener = TcpListener::bind(args.listen)?;
    let (core, omit) = (args.core, args.omit);
    tell(&Event::Listening { address: listener.local_addr()?.to_string() })?;
    std::thread::Builder::new().name("bench-app-0".into()).spawn(move || {
        if let Err(error) = take_all(&listener, core, omit) {
            render::warn(&error.to_string());
        }
    })?;
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    Ok(())
}

fn take_all(listener: &TcpListener, core: usize, omit: Duration) -> Result<(), Failure> {
    stoq_memory::bind_current_thread(core)?;
    loop {
        let (stream, _) = listener.accept()?;
        match take(stream, omit, &mut || tell(&Event::Window {})) {
            // A tunnel that looks whether its target lives connects and says nothing.
            Ok(None) => {}
            Ok(Some(measured)) => tell(&Event::Transfer(measured))?,
            Err(error) => render::warn(&format!("tcp-sink: {error}")),
        }
    }
}

/// Takes one transfer; `None` from a connection that closed without a word
fn take(
    mut stream: TcpStream,
    omit: Duration,
    begun: &mut dyn FnMut() -> std::io::Result<()>,
) -> Result<Option<Measured>, TcpError> {
    stream.set_read_timeout(Some(SOCKET_PATIENCE))?;
    let (mut digest, mut window) = (Digest::new(Verify::Xxh3), Window::new(omit));
    let mut buffer = vec![0; READ_BYTES];
    let mut spoken = false;
    loop {
        let mut head = [0; 4];
        match stream.read_exact(&mut head) {
            Err(error) if !spoken && error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Ok(None);
            }
            outcome => outcome?,
        }
        spoken = true;
        let length = u32::from_be_bytes(head);
        if length == 0 {
            let measured = window.measured(&digest)?;
            stream.write_all(&[TAKEN])?;
            return Ok(Some(measured));
        }
        if length > FRAME_BYTES {
            return Err(TcpError::Frame(length));
        }
        let mut left = length as usize;
        while left > 0 {
            let most = left.min(READ_BYTES);
            let got = stream.read(&mut buffer[..most])?;
            if got == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            digest.update(&buffer[..got]);
            left -= got;
        }
        if window.moved(digest.bytes())? {
            begun()?;
        }
    }
}

/// `stoq-bench tcp-source`
pub fn source(args: &SourceArgs) -> Result<(), Failure> {
    stoq_memory::bind_current_thread(args.core)?;
    let stream = TcpStream::connect(args.to)?;
    let measured = give(stream, args.duration, args.omit)?;
    let mut object = serde_json::to_value(&measured)?;
    object["notes"] = serde_json::json!([]);
    object["stack"] = "tcp".into();
    object["version"] = env!("CARGO_PKG_VERSION").into();
    render::line(&object.to_string())?;
    Ok(())
}

fn give(mut stream: TcpStream, time: Duration, omit: Duration) -> Result<Measured, TcpError> {
    stream.set_read_timeout(Some(SOCKET_PATIENCE))?;
    stream.set_write_timeout(Some(SOCKET_PATIENCE))?;
    let (mut digest, mut window) = (Digest::new(Verify::Xxh3), Window::new(omit));
    let mut pattern = Pattern::new(SEED);
    let start = Instant::now();
    while start.elapsed() < omit + time {
        let chunk = pattern.next_chunk(u64::MAX);
        let head = (chunk.len() as u32).to_be_bytes();
        write_both(&mut stream, &head, &chunk)?;
        digest.update(&chunk);
        window.moved(digest.bytes())?;
    }
    stream.write_all(&0_u32.to_be_bytes())?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer[0] != TAKEN {
        return Err(TcpError::Answer(answer[0]));
    }
    window.measured(&digest)
}

/// Writes a head and a body without joining them first
fn write_both(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> std::io::Result<()> {
    let mut parts = [IoSlice::new(head), IoSlice::new(body)];
    let mut left = parts.as_mut_slice();
    while !left.is_empty() {
        match stream.write_vectored(left) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut left, written),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OMIT: Duration = Duration::from_millis(20);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn both_ends_of_a_transfer_find_the_same_digest() {
        let (near, far) = pair();
        let sender = std::thread::spawn(|| give(near, Duration::from_millis(80), OMIT).unwrap());
        let mut windows = 0;
        let mut begun = || {
            windows += 1;
            Ok(())
        };
        let taken = take(far, OMIT, &mut begun).unwrap().unwrap();
        let given = sender.join().unwrap();
        assert_eq!(windows, 1);
        assert_eq!(taken.digest, given.digest);
        assert_eq!(taken.digest.len(), 32);
        assert!(taken.bytes > 0 && taken.gbps > 0.0 && taken.seconds >= 0.05);
        let gbps = taken.bytes as f64 * 8.0 / taken.seconds / 1e9;
        assert!((taken.gbps - gbps).abs() < 1e-9);
    }

    #[test]
    fn a_changed_octet_changes_the_digest_and_a_cut_is_an_error() {
        let digest_of = |body: &[u8]| {
            let (mut near, far) = pair();
            near.write_all(&[0, 0, 0, 4]).unwrap();
            near.write_all(body).unwrap();
            near.write_all(&[0, 0, 0, 4]).unwrap();
            near.write_all(b"more").unwrap();
            near.write_all(&[0; 4]).unwrap();
            take(far, Duration::ZERO, &mut || Ok(())).unwrap().unwrap().digest
        };
        assert_eq!(digest_of(b"abcd"), digest_of(b"abcd"));
        assert_ne!(digest_of(b"abcd"), digest_of(b"abce"));
        let (mut near, far) = pair();
        near.write_all(&[0, 0, 0, 4, b'a']).unwrap();
        drop(near);
        assert!(matches!(take(far, OMIT, &mut || Ok(())), Err(TcpError::Io(_))));
    }

    #[test]
    fn silence_is_no_transfer_and_nonsense_is_refused() {
        let (near, far) = pair();
        drop(near);
        assert_eq!(take(far, OMIT, &mut || Ok(())).unwrap(), None);
        let (mut near, far) = pair();
        near.write_all(b"GET / HTTP/1.1").unwrap();
        assert!(matches!(take(far, OMIT, &mut || Ok(())), Err(TcpError::Frame(_))));
        let (mut near, far) = pair();
        near.write_all(&[0, 0, 0, 1, 9, 0, 0, 0, 0]).unwrap();
        assert!(matches!(take(far, OMIT, &mut || Ok(())), Err(TcpError::OnlyWarmUp(_))));
    }
}

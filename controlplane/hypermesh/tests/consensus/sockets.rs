//! Frames between validators of different processes, over TCP on the loopback address: each end shows by its key who it
//! is, as the nodes of the product do by their certificates. A connection that breaks is made again.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::net::{Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ed25519_consensus::{Signature, SigningKey, VerificationKey};
use stoq_hypermesh::consensus::{Channel, Inbox, Sent, Wire};
use stoq_hypermesh::digest::{Digest, derive};
use stoq_hypermesh::operation::ValidatorKey;

use super::ledger::lock;

/// Frames that may wait for one validator
const WAITING: usize = 4_096;
/// Before a connection that could not be made is tried again
const AGAIN: Duration = Duration::from_millis(50);

/// Where a validator's frames come in, once it runs
pub type Door = Arc<OnceLock<Inbox>>;

fn message(nonce: &Digest, acceptor: &ValidatorKey) -> Digest {
    derive("hypermesh v1 test link", &[nonce, &acceptor.0])
}

fn read_exact<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut octets = [0; N];
    from.read_exact(&mut octets)?;
    Ok(octets)
}

/// Who is at the other end, if it can show it
fn authenticate(stream: &mut TcpStream, own: &ValidatorKey) -> io::Result<ValidatorKey> {
    let nonce: Digest = rand::random();
    stream.write_all(&nonce)?;
    let key = read_exact::<32>(stream)?;
    let signature = Signature::from(read_exact::<64>(stream)?);
    let refused = || io::Error::other("it is not who it says it is");
    let verifier = VerificationKey::try_from(key).map_err(|_| refused())?;
    verifier.verify(&signature, &message(&nonce, own)).map_err(|_| refused())?;
    Ok(ValidatorKey(key))
}

fn receive(mut stream: TcpStream, own: &ValidatorKey, door: &Door) -> io::Result<()> {
    let from = authenticate(&mut stream, own)?;
    let mut stream = BufReader::new(stream);
    loop {
        let [number, length @ ..] = read_exact::<5>(&mut stream)?;
        let channel = *Channel::ALL.get(usize::from(number)).ok_or(io::ErrorKind::InvalidData)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > channel.limit_bytes() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut frame = vec![0; length];
        stream.read_exact(&mut frame)?;
        // What comes before the validator runs waits for it, as it would in a session that nobody reads yet.
        door.wait().deliver(&from, channel, Bytes::from(frame));
    }
}

/// Takes connections of others; the port it listens on
pub fn listen(own: ValidatorKey, door: Door) -> u16 {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, door) = (stream.expect("a connection"), Arc::clone(&door));
            // A connection ends when its process does.
            thread::spawn(move || receive(stream, &own, &door));
        }
    });
    port
}

/// Where others listen; it changes when they come back
#[derive(Clone, Default)]
pub struct Ports(Arc<Mutex<BTreeMap<ValidatorKey, u16>>>);

impl Ports {
    pub fn set(&self, key: ValidatorKey, port: u16) {
        lock(&self.0).insert(key, port);
    }

    fn get(&self, key: &ValidatorKey) -> Option<u16> {
        lock(&self.0).get(key).copied()
    }
}

/// Sends frames to others
pub struct Links {
    queues: BTreeMap<ValidatorKey, SyncSender<(Channel, Bytes)>>,
}

fn connect(own: &SigningKey, to: &ValidatorKey, port: u16) -> io::Result<BufWriter<TcpStream>> {
    let mut stream = TcpStream::connect(SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0))?;
    stream.set_nodelay(true)?;
    let nonce = read_exact::<32>(&mut stream)?;
    stream.write_all(own.verification_key().as_bytes())?;
    stream.write_all(&own.sign(&message(&nonce, to)).to_bytes())?;
    Ok(BufWriter::new(stream))
}

fn pass_on(
    stream: &mut BufWriter<TcpStream>,
    queue: &Receiver<(Channel, Bytes)>,
) -> io::Result<bool> {
    let Ok(mut next) = queue.recv() else { return Ok(false) };
    loop {
        let (channel, frame) = next;
        stream.write_all(&[channel as u8])?;
        stream.write_all(&(frame.len() as u32).to_be_bytes())?;
        stream.write_all(&frame)?;
        match queue.try_recv() {
            Ok(more) => next = more,
            Err(_) => {
                stream.flush()?;
                return Ok(true);
            }
        }
    }
}

fn serve(own: &SigningKey, to: &ValidatorKey, ports: &Ports, queue: &Receiver<(Channel, Bytes)>) {
    loop {
        let connected = ports.get(to).map(|port| connect(own, to, port));
        let Some(Ok(mut stream)) = connected else {
            thread::park_timeout(AGAIN);
            continue;
        };
        // What was on its way when the connection broke is lost, as on any network.
        while let Ok(on) = pass_on(&mut stream, queue) {
            if !on {
                return;
            }
        }
    }
}

impl Links {
    /// To all of these but itself
    pub fn new(own: &SigningKey, keys: &[ValidatorKey], ports: &Ports) -> Self {
        let key = ValidatorKey(own.verification_key().to_bytes());
        let mut queues = BTreeMap::new();
        for to in keys.iter().copied().filter(|to| *to != key) {
            let (sender, queue) = sync_channel(WAITING);
            let (own, ports) = (own.clone(), ports.clone());
            thread::spawn(move || serve(&own, &to, &ports, &queue));
            queues.insert(to, sender);
        }
        Self { queues }
    }
}

impl Wire for Links {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let Some(queue) = self.queues.get(to) else { return Sent::Unreachable };
        match queue.try_send((channel, frame)) {
            Ok(()) => Sent::Queued,
            Err(TrySendError::Full(_)) => Sent::Full,
            Err(TrySendError::Disconnected(_)) => Sent::Unreachable,
        }
    }
}

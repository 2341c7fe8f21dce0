//! Frames of one row's validators between their processes: a STOQ session to each other validator and a flow for each
//! channel in it. The receiver takes the sender's name from the certificate of the session, as the daemon does.

use std::collections::HashMap;
use std::net::SocketAddrV6;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use stoq::{Allow, Endpoint, Flow, Incoming, NodeId, ServiceName, WorkerPlan};
use stoq_hypermesh::consensus::{Channel, Genesis, Inbox, Sent, Wire};
use stoq_hypermesh::operation::ValidatorKey;
use tokio::sync::mpsc;

use crate::exchange::read_exactly;
use crate::identity::Bundle;
use crate::render::warn;
use crate::sink::Failure;

/// The service of the flows
const SERVICE: &str = "bench-votes";
/// Frames that wait for one validator on one channel
const WAITING: usize = 4_096;
/// The same on the channel of blocks, whose frames are long
const BLOCKS_WAITING: usize = 256;
/// Before a session that could not be opened is tried again
const AGAIN: Duration = Duration::from_millis(50);

/// Whether the row is over, so that flows end
static ENDING: AtomicBool = AtomicBool::new(false);

/// Says whether the ends of flows are nothing to complain about
pub fn set_ending(ending: bool) {
    ENDING.store(ending, Ordering::Release);
}

fn complain(text: &str) {
    if !ENDING.load(Ordering::Acquire) {
        warn(text);
    }
}

/// What waits for one validator, by channel
type Queues = Vec<mpsc::Sender<Bytes>>;

/// A validator's way out to all others
pub struct Carrier {
    queues: HashMap<ValidatorKey, Queues>,
}

/// The other ends of the queues to one validator
pub struct Outlets {
    to: NodeId,
    frames: Vec<(Channel, mpsc::Receiver<Bytes>)>,
}

impl Carrier {
    /// To everyone but this one, and what is to be dialled for it
    pub fn new(genesis: &Genesis, own: &ValidatorKey) -> (Self, Vec<Outlets>) {
        let (mut queues, mut outlets) = (HashMap::new(), Vec::new());
        for other in genesis.validators().iter().filter(|one| one.key != *own) {
            let channels = Channel::ALL.map(|channel| {
                let waiting = if channel == Channel::Blocks { BLOCKS_WAITING } else { WAITING };
                let (sender, receiver) = mpsc::channel(waiting);
                (sender, (channel, receiver))
            });
            let (senders, frames) = channels.into_iter().unzip();
            queues.insert(other.key, senders);
            outlets.push(Outlets { to: other.name.clone(), frames });
        }
        (Self { queues }, outlets)
    }
}

impl Wire for Carrier {
    fn send(&self, to: &ValidatorKey, channel: Channel, frame: Bytes) -> Sent {
        let queue = self.queues.get(to).and_then(|queues| queues.get(channel as usize));
        match queue.map(|queue| queue.try_send(frame)) {
            Some(Ok(())) => Sent::Queued,
            Some(Err(mpsc::error::TrySendError::Full(_))) => Sent::Full,
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => Sent::Unreachable,
        }
    }
}

/// An endpoint that takes flows of validators on a free port of `[::1]`
pub fn endpoint(bundle: &Bundle) -> Result<Endpoint, Failure> {
    let mut snapshot = bundle.snapshot()?;
    snapshot.services.insert(ServiceName::new(SERVICE)?, Allow::AnyEnrolled);
    // As many processes as validators share the processors: none of them has one of its own.
    let plan = WorkerPlan { cores: vec![0], pinned: false, ..WorkerPlan::default() };
    let builder = Endpoint::builder().listen("[::1]:0".parse()?);
    Ok(builder.workers(plan).snapshot(snapshot).build()?)
}

/// Opens the flows to all others and feeds them, for as long as the runtime is there
pub fn dial(
    endpoint: &Arc<Endpoint>,
    outlets: Vec<Outlets>,
    addresses: &HashMap<String, SocketAddrV6>,
) -> Result<(), Failure> {
    for outlet in outlets {
        let address = addresses.get(outlet.to.as_str()).copied();
        let address = address.ok_or_else(|| format!("nobody said where {} is", outlet.to))?;
        let endpoint = Arc::clone(endpoint);
        tokio::spawn(async move {
            let session = loop {
                match endpoint.connect(address, &outlet.to).await {
                    Ok(session) => break session,
                    Err(error) => complain(&format!("{}: {error}", outlet.to)),
                }
                tokio::time::sleep(AGAIN).await;
            };
            let mut feeding = tokio::task::JoinSet::new();
            for (channel, frames) in outlet.frames {
                let Ok(service) = ServiceName::new(SERVICE) else { return };
                feeding.spawn(feed(session.open(&service), channel, frames));
            }
            while let Some(fed) = feeding.join_next().await {
                if let Ok(Err(error)) = fed {
                    complain(&format!("a flow to {} ended: {error}", outlet.to));
                }
            }
        });
    }
    Ok(())
}

async fn feed(
    flow: Flow,
    channel: Channel,
    mut frames: mpsc::Receiver<Bytes>,
) -> Result<(), stoq::FlowError> {
    // Nothing comes back.
    let (_reader, mut writer) = flow.split();
    writer.write_chunk(Bytes::copy_from_slice(&[channel as u8])).await?;
    while let Some(frame) = frames.recv().await {
        let mut octets = BytesMut::with_capacity(4 + frame.len());
        octets.put_u32(u32::try_from(frame.len()).unwrap_or(u32::MAX));
        octets.extend_from_slice(&frame);
        writer.write_chunk(octets.freeze()).await?;
    }
    Ok(())
}

/// Flows of others, from now on; they wait until they are taken
pub fn listen(endpoint: &Endpoint) -> Result<Incoming, Failure> {
    Ok(endpoint.serve(ServiceName::new(SERVICE)?)?)
}

/// Takes the flows of others, for as long as the runtime is there
pub fn serve(mut incoming: Incoming, genesis: &Arc<Genesis>, inbox: Inbox) {
    let genesis = Arc::clone(genesis);
    tokio::spawn(async move {
        while let Some(flow) = incoming.next().await {
            let of = genesis.validators().iter().find(|one| one.name == *flow.peer());
            let Some(key) = of.map(|one| one.key) else { continue };
            let inbox = inbox.clone();
            tokio::spawn(async move {
                if let Err(error) = take(flow, key, &inbox).await {
                    complain(&format!("a flow of validator {key} ended: {error}"));
                }
            });
        }
    });
}

async fn take(flow: Flow, from: ValidatorKey, inbox: &Inbox) -> Result<(), Failure> {
    let (mut reader, _writer) = flow.split();
    let mut rest = Bytes::new();
    let number = read_exactly(&mut reader, &mut rest, 1).await?[0];
    let channel = Channel::ALL.into_iter().find(|channel| *channel as u8 == number);
    let channel = channel.ok_or_else(|| format!("there is no channel {number}"))?;
    loop {
        let mut length = [0; 4];
        length.copy_from_slice(&read_exactly(&mut reader, &mut rest, 4).await?);
        let length = u32::from_be_bytes(length) as usize;
        if length > channel.limit_bytes() {
            return Err(format!("a frame of {length} octets").into());
        }
        inbox.deliver(&from, channel, read_exactly(&mut reader, &mut rest, length).await?);
    }
}

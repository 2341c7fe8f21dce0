//! The start of a transfer on either side: who wants what, whether it may, and which role each side takes.
//! From then on `drive` and the roles are at work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::drive::{Link, Role, drive};
use super::error::{CopyError, Failure};
use super::outbox::Outbox;
use super::place::{Place, local_destination, local_source};
use super::receive::{Input, Receiver};
use super::roots::{Permission, Roots};
use super::send::Sender;
use super::tally::{Progress, Summary, Tally};
use super::wire::{
    Component, Direction, ENTRIES_IN_FLIGHT_MAX, ErrorCode, Event, Hello, HelloOptions, Message,
    RemotePath, VERSION,
};
use super::{Options, QUEUE_PIECES, TRANSFERS_MAX};

/// How long a peer that opened a flow may take to say what it wants
const HELLO_MAX: Duration = Duration::from_secs(10);

/// How long a transfer may stand still. A receiver that hashes what it holds, and a sender that compares
/// it, are silent meanwhile: this is enough for a terabyte.
const STALL_MAX: Duration = Duration::from_secs(20 * 60);

/// The answers a conforming receiver can have under way: two for each entry on offer, and the last message
const ANSWERS_MAX: usize = 2 * ENTRIES_IN_FLIGHT_MAX + 1;

static TRANSFERS: Semaphore = Semaphore::const_new(TRANSFERS_MAX);

fn admit() -> Result<SemaphorePermit<'static>, CopyError> {
    TRANSFERS.try_acquire().map_err(|_| CopyError::Busy(TRANSFERS_MAX))
}

/// Copies `source` of this host to `remote_path` of the node at the other end of `flow`.
///
/// As `cp -r` does: into an existing directory under the source's own name, otherwise under the given name;
/// `source/.` means a directory's content. A remote path is absolute, or relative to the first directory
/// that node serves. `progress` is called on every step but coalesces under load; it must not block.
///
/// # Errors
/// [`CopyError::Incomplete`] if the transfer ran to its end but some entries were not copied: its summary
/// names them. After any other error the same call continues where this one stopped.
pub async fn push<F>(
    flow: F,
    source: &Path,
    remote_path: &str,
    options: Options,
    progress: impl Fn(Progress),
) -> Result<Summary, CopyError>
where
    F: AsyncRead + AsyncWrite + Unpin + Send,
{
    let _admitted = admit()?;
    let source = PathBuf::from(source);
    let (place, name) = blocking(move || local_source(&source)).await?;
    let link = greet(Link::new(flow), Direction::Push, remote_path, options).await?;
    send(link, place, name, progress).await
}

/// Copies `remote_path` of the node at the other end of `flow` to `destination` of this host, as [`push`]
/// does the other way round.
///
/// # Errors
/// As [`push`].
pub async fn pull<F>(
    flow: F,
    remote_path: &str,
    destination: &Path,
    options: Options,
    progress: impl Fn(Progress),
) -> Result<Summary, CopyError>
where
    F: AsyncRead + AsyncWrite + Unpin + Send,
{
    let _admitted = admit()?;
    let destination = PathBuf::from(destination);
    let place = blocking(move || local_destination(&destination)).await?;
    let link = greet(Link::new(flow), Direction::Pull, remote_path, options).await?;
    receive(link, place, options, progress).await
}

/// Serves one flow a peer opened to the copy service: reads what it wants and does it, if `permission` and
/// `roots` allow. A refusal reaches the peer with its reason.
///
/// # Errors
/// As [`push`]; [`CopyError::Refused`] if nothing was copied because it may not be.
pub async fn serve<F>(flow: F, roots: &Roots, permission: Permission) -> Result<Summary, CopyError>
where
    F: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut link = Link::new(flow);
    let admitted = async {
        let hello = hear(&mut link).await?;
        let permit = admit()?;
        let (place, name) = grant(&hello, roots, permission).await?;
        Ok((permit, hello, place, name))
    };
    let (_permit, hello, place, name) = match admitted.await {
        Ok(admitted) => admitted,
        Err(error) => return Err(link.refuse(error).await),
    };
    link.send(&Message::Welcome { version: VERSION }).await?;
    match hello.direction {
        Direction::Pull => send(link, place, name, |_| {}).await,
        Direction::Push => {
            let options = Options { verify_existing: hello.options.verify_existing };
            receive(link, place, options, |_| {}).await
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CopyError> + Send + 'static,
) -> Result<T, CopyError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(CopyError::Worker(error.to_string())))
}

/// The initiator's greeting
async fn greet<F>(
    mut link: Link<F>,
    direction: Direction,
    remote_path: &str,
    options: Options,
) -> Result<Link<F>, CopyError>
where
    F: AsyncRead + AsyncWrite,
{
    let path = RemotePath::parse(remote_path)
        .map_err(|cause| CopyError::RemotePath { path: remote_path.into(), cause })?;
    let options = HelloOptions { verify_existing: options.verify_existing };
    link.send(&Message::Hello(Hello { versions: vec![VERSION], direction, options, path })).await?;
    let error = match link.inbound.next().await {
        Ok(Some(Event::Message(Message::Welcome { version: VERSION }))) => return Ok(link),
        Ok(Some(Event::Message(Message::Error { code, text }))) => CopyError::Peer { code, text },
        Ok(Some(_)) => {
            CopyError::Protocol("it answers HELLO with neither WELCOME nor ERROR".into())
        }
        Ok(None) => CopyError::Truncated,
        Err(error) => error,
    };
    Err(link.refuse(error).await)
}

/// The server's end of the greeting
async fn hear<F: AsyncRead + AsyncWrite>(link: &mut Link<F>) -> Result<Hello, CopyError> {
    let heard = timeout(HELLO_MAX, link.inbound.next()).await;
    match heard.map_err(|_| CopyError::Silent(HELLO_MAX.as_secs()))?? {
        Some(Event::Message(Message::Hello(hello))) => Ok(hello),
        Some(_) => Err(CopyError::Protocol("its first message is not HELLO".into())),
        None => Err(CopyError::Truncated),
    }
}

/// Decides whether the peer gets what it wants, and where that is
async fn grant(
    hello: &Hello,
    roots: &Roots,
    permission: Permission,
) -> Result<(Place, Option<Component>), CopyError> {
    let refuse = |code, text: String| Err(Failure::new(code, text).into());
    if !hello.versions.contains(&VERSION) {
        let text = format!("this node speaks version {VERSION}, the peer {:?}", hello.versions);
        return refuse(ErrorCode::Version, text);
    }
    let path = hello.path.clone();
    let (allowed, action) = match hello.direction {
        Direction::Push => (permission.write, "write to"),
        Direction::Pull => (permission.read, "read"),
    };
    if !allowed {
        return refuse(ErrorCode::NotPermitted, format!("the peer may not {action} '{path}' here"));
    }
    let (roots, direction) = (roots.clone(), hello.direction);
    blocking(move || {
        let (place, name) = roots.resolve(&path)?;
        if direction == Direction::Pull {
            place.require(&path)?;
        }
        Ok((place, name))
    })
    .await
}

async fn send<F>(
    link: Link<F>,
    place: Place,
    name: Option<Component>,
    progress: impl Fn(Progress),
) -> Result<Summary, CopyError>
where
    F: AsyncRead + AsyncWrite,
{
    let (events, incoming) = mpsc::channel::<Event>(ANSWERS_MAX);
    let (outbox, packed) = mpsc::channel(QUEUE_PIECES);
    let (reports, watched) = watch::channel(Progress::default());
    let thread = spawn_blocking(move || {
        Sender::new(place, Outbox::new(outbox), incoming, Tally::new(reports)).run(name)
    });
    drive(link, Role { thread, events, packed, progress: watched, stall_max: STALL_MAX }, progress)
        .await
}

async fn receive<F>(
    link: Link<F>,
    place: Place,
    options: Options,
    progress: impl Fn(Progress),
) -> Result<Summary, CopyError>
where
    F: AsyncRead + AsyncWrite,
{
    let (events, input) = mpsc::channel::<Input>(QUEUE_PIECES);
    let again = events.downgrade();
    let (outbox, packed) = mpsc::channel(QUEUE_PIECES);
    let (reports, watched) = watch::channel(Progress::default());
    let runtime = Handle::current();
    let thread = spawn_blocking(move || {
        let (outbox, tally) = (Outbox::new(outbox), Tally::new(reports));
        Receiver::new(place, options, outbox, (input, again), runtime, tally).run()
    });
    drive(link, Role { thread, events, packed, progress: watched, stall_max: STALL_MAX }, progress)
        .await
}

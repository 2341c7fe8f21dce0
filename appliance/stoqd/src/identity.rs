//! Who this node is: its own authority's certificate, or the one it got by joining another node. Opening and
//! switching; what is issued to whom is `stoq-trustchain`'s, and renewing is `rotation`'s.

use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq::NodeId;
use stoq_trustchain::ca::IssuingAuthority;
use stoq_trustchain::ca::replay::{Replay, ReplayError};
use stoq_trustchain::key_slots::{Found, KeySlots};
use stoq_trustchain::node_identity::IdentityError;
use stoq_trustchain::root::refuse_root_key_on_node;
use stoq_trustchain::signer::{Signer, StateGuard};
use stoq_trustchain::{Fingerprint, NodeIdentity, Subject, TokenStore};

use crate::issuer::{self, Signing};

/// Remaining validity below which an operator is told: by then a successor should long be here
pub const WARN_BELOW: Duration = Duration::from_secs(6 * 3_600);

/// Where the journal of the own authority is, below its directory
pub const JOURNAL: &str = "ca/journal";
/// What a node in production is told that has neither joined nor an authority of its own
const NOBODY: &str = "it has joined no mesh, and production makes no root on a node: join with a token (`stoqctl node \
                      join TOKEN`), or have a root made elsewhere certify an authority here before stoqd starts \
                      (`stoqctl root request-issuing`, `sign-issuing`, `install-issuing`)";

/// Why there is no identity
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The authority
    #[error(transparent)]
    Authority(#[from] stoq_trustchain::authority::AuthorityError),
    /// The certificate
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The tokens
    #[error(transparent)]
    Token(#[from] stoq_trustchain::token::TokenError),
    /// The issuing authority
    #[error(transparent)]
    Issuing(#[from] stoq_trustchain::ca::IssuingError),
    /// The keys of the authority
    #[error(transparent)]
    Keys(#[from] stoq_trustchain::signer::BackendError),
    /// What signs with them
    #[error(transparent)]
    Signer(#[from] stoq_trustchain::signer::SignerError),
    /// The root, or its key where it does not belong
    #[error(transparent)]
    Root(#[from] stoq_trustchain::root::RootError),
    /// A certificate file
    #[error(transparent)]
    Certificate(#[from] stoq_trustchain::certificate::CertificateError),
    /// The request for another certificate of the issuing key
    #[error(transparent)]
    Request(#[from] stoq_trustchain::signer::IssuingKeyError),
    /// The authority's journal
    #[error(transparent)]
    Journal(#[from] ReplayError),
    /// The certificate's addresses
    #[error(transparent)]
    Subject(#[from] stoq_trustchain::profile::SubjectError),
    /// A directory
    #[error("{path}: {cause}")]
    Directory {
        /// The directory
        path: PathBuf,
        /// What the kernel said
        cause: std::io::Error,
    },
}

/// The authority of this node with its books
#[derive(Clone, Debug)]
pub struct OwnAuthority {
    /// Its certificate, root and key, as they were when the daemon started
    pub authority: Arc<IssuingAuthority>,
    /// What signs with its keys, as their states allow
    pub guard: Arc<StateGuard>,
    /// The keys themselves
    pub keys: Arc<dyn Signer>,
    /// Join tokens
    pub tokens: Arc<TokenStore>,
    /// Its directory: certificates, keys where they are in files, and its state
    pub home: PathBuf,
    subject: Subject,
    directory: PathBuf,
}

/// Where this node's identity comes from
#[derive(Clone, Debug)]
pub enum Source {
    /// Its own authority
    Own(OwnAuthority),
    /// Another node's authority, by a join token
    Joined,
}

/// The directory of an identity that was joined
pub fn joined_directory(state: &Path) -> PathBuf {
    state.join("joined")
}

/// Where an identity is made before it takes the place of the joined one
fn joining_directory(state: &Path) -> PathBuf {
    state.join("joining")
}

fn replaced_directory(state: &Path) -> PathBuf {
    state.join("joined.old")
}

impl Source {
    /// The keys and certificates of this node, below its state directory
    pub fn key_slots(&self, state: &Path) -> KeySlots {
        KeySlots::of(match self {
            Self::Own(own) => own.directory.clone(),
            Self::Joined => joined_directory(state),
        })
    }

    /// The certificates on disk that are this node's. Of its own authority those under another root or for
    /// another name are from before: the node was renamed, or its authority was made anew.
    pub fn find(&self, slots: &KeySlots, now: SystemTime) -> Result<Found, IdentityError> {
        let mut found = slots.find(now)?;
        let Self::Own(own) = self else { return Ok(found) };
        let (root, node) = (own.authority.root_fingerprint(), own.subject.node());
        let (ours, former): (Vec<_>, Vec<_>) = found.usable.into_iter().partition(|one| {
            one.identity.root_fingerprint() == root && one.identity.identity().node == *node
        });
        found.usable = ours;
        found.unusable.extend(former.into_iter().map(|one| {
            (one.slot, IdentityError::WrongNode { expected: format!("{node} under root {root}") })
        }));
        Ok(found)
    }

    /// The root this node trusts
    pub fn root(&self, state: &Path) -> Result<Fingerprint, IdentityError> {
        match self {
            Self::Own(own) => Ok(own.authority.root_fingerprint()),
            Self::Joined => self.key_slots(state).root(),
        }
    }
}

/// What a node is at start
pub struct Opened {
    /// Where its identity comes from
    pub source: Source,
    /// The identity in force; none where it has ended, or is still to be issued by the own authority
    pub identity: Option<NodeIdentity>,
    /// Why there is none
    pub problem: Option<String>,
    /// What the own authority's journal says, where there is one
    pub journal: Option<Replay>,
}

/// Opens what there is: a joined identity comes first; otherwise the own authority, made if need be. A joined
/// identity that cannot be used is not replaced by the own one: the node would be somebody else.
///
/// In production no root's key may be on the node, and so no authority is made: without one the node is nobody until
/// it joins.
pub fn open(
    state: &Path,
    node: &NodeId,
    stoq_address: SocketAddrV6,
    signer_socket: Option<&Path>,
    production: bool,
    now: SystemTime,
) -> Result<Opened, OpenError> {
    let home = state.join("authority");
    refuse_root_key_on_node(&home, production)?;
    let joined = joined_directory(state);
    if !joined.exists() && replaced_directory(state).exists() {
        // The last join was cut off between its two renames.
        rename(&replaced_directory(state), &joined)?;
    }
    let slots = KeySlots::of(joined);
    if slots.is_present() {
        return Ok(opened(Source::Joined, &slots, now));
    }
    if production && !home.join(issuer::CERTIFICATE_FILE).exists() {
        let (source, problem) = (Source::Joined, Some(NOBODY.to_owned()));
        return Ok(Opened { source, identity: None, problem, journal: None });
    }
    private_directory(&home)?;
    let journal = home.join(JOURNAL);
    let journal = journal.is_dir().then(|| Replay::read(&journal)).transpose()?;
    let Signing { authority, guard, keys } =
        issuer::open(&home, journal.as_ref(), signer_socket, now)?;
    let addresses = (!stoq_address.ip().is_unspecified()).then_some(*stoq_address.ip());
    let own = OwnAuthority {
        authority: Arc::new(authority),
        guard,
        keys,
        tokens: Arc::new(TokenStore::open(&state.join("tokens"))?),
        home,
        subject: Subject::new(node.clone(), addresses)?,
        directory: state.join("identity"),
    };
    let source = Source::Own(own);
    let slots = source.key_slots(state);
    Ok(Opened { problem: None, journal, ..opened(source, &slots, now) })
}

/// What the certificates on disk make of the node
fn opened(source: Source, slots: &KeySlots, now: SystemTime) -> Opened {
    let found = match source.find(slots, now) {
        Ok(found) => found,
        Err(error) => {
            let problem = Some(error.to_string());
            return Opened { source, identity: None, problem, journal: None };
        }
    };
    let identity = found.turns(now).0.map(|current| current.identity.clone());
    let last = || {
        let reason = found.unusable.last().map(|(_, error)| error.to_string());
        reason.unwrap_or_else(|| "none is in force; look at the clock of this host".into())
    };
    let problem = identity.is_none().then(last);
    Opened { source, identity, problem, journal: None }
}

/// Where the next join makes its identity: empty, but for what an interrupted join under way left
pub fn begin_join(state: &Path) -> Result<PathBuf, OpenError> {
    let joining = joining_directory(state);
    private_directory(&joining)?;
    Ok(joining)
}

/// Puts the identity that a join has made into the place of the former one; a crash leaves one of the two
pub fn finish_join(state: &Path) -> Result<(), OpenError> {
    let (joined, old) = (joined_directory(state), replaced_directory(state));
    if old.exists() {
        std::fs::remove_dir_all(&old)
            .map_err(|cause| OpenError::Directory { path: old.clone(), cause })?;
    }
    if joined.exists() {
        rename(&joined, &old)?;
    }
    rename(&joining_directory(state), &joined)?;
    let synced = std::fs::File::open(state).and_then(|directory| directory.sync_all());
    synced.map_err(|cause| OpenError::Directory { path: state.to_owned(), cause })?;
    if old.exists() {
        // The former key is of no use any more.
        std::fs::remove_dir_all(&old).map_err(|cause| OpenError::Directory { path: old, cause })?;
    }
    Ok(())
}

fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    std::fs::rename(from, to).map_err(|cause| OpenError::Directory { path: from.to_owned(), cause })
}

impl OwnAuthority {
    /// The node and the addresses its certificate carries
    pub fn subject(&self) -> &Subject {
        &self.subject
    }
}

/// Makes a directory that only this user may enter
pub fn private_directory(path: &Path) -> Result<(), OpenError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|cause| OpenError::Directory { path: path.to_owned(), cause })
}

//! Who this node is: its own authority's certificate, or the one it got by joining another node. Opening,
//! renewing and switching; what is issued to whom is `stoq-trustchain`'s.

use std::net::SocketAddrV6;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq::NodeId;
use stoq_trustchain::node_identity::IdentityError;
use stoq_trustchain::{Authority, Ipv6Subtree, NodeIdentity, Registry, Subject, TokenStore};

/// Remaining validity below which the node's own authority issues anew
const RENEW_BELOW: Duration = Duration::from_secs(8 * 3_600);
/// Remaining validity below which an operator is told that a joined node needs a new token
pub const WARN_BELOW: Duration = Duration::from_secs(6 * 3_600);

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
    /// The registry of enrolled nodes
    #[error(transparent)]
    Registry(#[from] stoq_trustchain::registry::RegistryError),
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
    /// Issues
    pub authority: Arc<Authority>,
    /// Join tokens
    pub tokens: Arc<TokenStore>,
    /// Nodes that have joined
    pub registry: Arc<Registry>,
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

/// What a node is at start
pub struct Opened {
    /// Where its identity comes from
    pub source: Source,
    /// The identity; a joined node whose certificate has ended has none until it joins again
    pub identity: Option<NodeIdentity>,
    /// Why there is none
    pub problem: Option<String>,
}

/// Opens what there is: a joined identity comes first; otherwise the own authority, made if need be. A joined
/// identity that cannot be used is not replaced by the own one: the node would be somebody else.
pub fn open(
    state: &Path,
    node: &NodeId,
    stoq_address: SocketAddrV6,
    now: SystemTime,
) -> Result<Opened, OpenError> {
    let joined = joined_directory(state);
    if !joined.exists() && replaced_directory(state).exists() {
        // The last join was cut off between its two renames.
        rename(&replaced_directory(state), &joined)?;
    }
    match NodeIdentity::load(&joined, now) {
        Ok(identity) => {
            let identity = Some(identity);
            return Ok(Opened { source: Source::Joined, identity, problem: None });
        }
        Err(IdentityError::Absent { .. }) => {}
        Err(error) => {
            let problem = Some(error.to_string());
            return Ok(Opened { source: Source::Joined, identity: None, problem });
        }
    }
    let directory = state.join("authority");
    private_directory(&directory)?;
    let authority = Arc::new(Authority::open_or_create(&directory, Ipv6Subtree::ALL, now)?);
    let addresses = (!stoq_address.ip().is_unspecified()).then_some(*stoq_address.ip());
    let own = OwnAuthority {
        authority,
        tokens: Arc::new(TokenStore::open(&state.join("tokens"))?),
        registry: Arc::new(Registry::open(&state.join("enrolled.json"))?),
        subject: Subject::new(node.clone(), addresses)?,
        directory: state.join("identity"),
    };
    let identity = Some(own.identity(now)?);
    Ok(Opened { source: Source::Own(own), identity, problem: None })
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
    /// The node's certificate: the one at hand while it lasts, a new one otherwise
    pub fn identity(&self, now: SystemTime) -> Result<NodeIdentity, OpenError> {
        private_directory(&self.directory)?;
        let root = self.authority.root_fingerprint();
        if let Ok(identity) = NodeIdentity::load(&self.directory, now)
            && identity.root_fingerprint() == root
            && identity.identity().node == *self.subject.node()
            && identity.identity().not_after > now + RENEW_BELOW
        {
            return Ok(identity);
        }
        Ok(NodeIdentity::issue_local(&self.directory, &self.authority, &self.subject, now)?)
    }

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

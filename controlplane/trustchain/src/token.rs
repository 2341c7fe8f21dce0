//! Join tokens: one operator's permission for one node to enrol once. The text carries everything the new
//! node needs, the authority keeps only a hash; using a token is one rename, so it happens at most once.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use boring::sha::sha256;
use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;
use zeroize::Zeroizing;

use crate::certificate::{Fingerprint, hex, unhex, unix_seconds};
use crate::files;
use crate::profile::{Subject, SubjectError};

/// How long a token is good for unless said otherwise
pub const DEFAULT_LIFETIME: Duration = Duration::from_secs(3_600);
/// The longest a token may be good for
pub const LONGEST_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3_600);
/// Tokens that may wait for use at one time
pub const OUTSTANDING_LIMIT: usize = 1_024;

const PREFIX: &str = "stoq-join-1.";
const TEXT_LIMIT_BYTES: usize = 2 << 10;
const RECORD_LIMIT_BYTES: u64 = 4 << 10;
const CHECKSUM_BYTES: usize = 4;

/// A join token as the new node holds it. Its text is a secret until used.
#[derive(Clone)]
pub struct JoinToken {
    /// The node that may enrol
    pub node: NodeId,
    /// Where the authority answers over HTTPS
    pub ca_address: SocketAddrV6,
    /// The authority's node
    pub ca_node: NodeId,
    /// Where that node answers over STOQ
    pub ca_stoq_address: SocketAddrV6,
    /// The only root the new node will trust
    pub root_fingerprint: Fingerprint,
    /// What proves the permission
    pub secret: Zeroizing<[u8; 32]>,
    /// When the permission ends
    pub expires: SystemTime,
}

/// Why a text is no token, or why a token is refused
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The text does not parse or fails its checksum
    #[error(
        "this is no complete join token; copy the whole line that `stoqctl node token create` printed"
    )]
    Malformed,
    /// No such token, now or ever
    #[error("the token is not known here; it may be for another authority, or withdrawn")]
    Unknown,
    /// It was used before
    #[error("the token was used before; ask for a new one (the node's key is kept)")]
    Used,
    /// It is too late
    #[error("the token has expired; ask for a new one")]
    Expired,
    /// More than the limit are waiting
    #[error("{OUTSTANDING_LIMIT} tokens are waiting for use, the limit; withdraw some")]
    TooMany,
    /// A lifetime of zero or beyond the longest
    #[error("a token lives between one second and seven days")]
    Lifetime,
    /// The grant names something no certificate may
    #[error(transparent)]
    Subject(#[from] SubjectError),
    /// A record is damaged
    #[error("{path} is damaged; remove it and ask for a new token")]
    Damaged {
        /// The file
        path: PathBuf,
    },
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file or directory
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
}

/// The part of a token's text behind the prefix
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    #[serde(with = "node_text")]
    node: NodeId,
    ca: SocketAddrV6,
    #[serde(with = "node_text")]
    ca_node: NodeId,
    ca_stoq: SocketAddrV6,
    root: String,
    secret: String,
    expires: u64,
}

impl JoinToken {
    /// The public name of the token, which follows from the secret and does not reveal it
    pub fn id(&self) -> String {
        token_id(&self.secret)
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let payload = Payload {
            node: self.node.clone(),
            ca: self.ca_address,
            ca_node: self.ca_node.clone(),
            ca_stoq: self.ca_stoq_address,
            root: self.root_fingerprint.to_string(),
            secret: hex(&self.secret[..]),
            expires: unix_seconds(self.expires),
        };
        let mut bytes = serde_json::to_vec(&payload).map_err(|_| fmt::Error)?;
        let checksum = sha256(&bytes);
        bytes.extend_from_slice(&checksum[..CHECKSUM_BYTES]);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        Self::parse(text.trim()).ok_or(TokenError::Malformed)
    }
}

impl JoinToken {
    fn parse(text: &str) -> Option<Self> {
        let encoded = text.strip_prefix(PREFIX).filter(|text| text.len() <= TEXT_LIMIT_BYTES)?;
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).ok()?);
        let (payload, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
        if sha256(payload)[..CHECKSUM_BYTES] != checksum[..] {
            return None;
        }
        let payload: Payload = serde_json::from_slice(payload).ok()?;
        Some(Self {
            node: payload.node,
            ca_address: payload.ca,
            ca_node: payload.ca_node,
            ca_stoq_address: payload.ca_stoq,
            root_fingerprint: payload.root.parse().ok()?,
            secret: Zeroizing::new(unhex(&payload.secret)?.try_into().ok()?),
            expires: UNIX_EPOCH.checked_add(Duration::from_secs(payload.expires))?,
        })
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({} for {}, ..)", self.id(), self.node)
    }
}

fn token_id(secret: &[u8; 32]) -> String {
    hex(&sha256(&[b"stoq-join-id", &secret[..]].concat())[..16])
}

/// What an operator grants with a token
#[derive(Clone, Debug)]
pub struct TokenGrant {
    /// The node and the addresses its certificate will carry
    pub subject: Subject,
    /// Where the authority answers over HTTPS
    pub ca_address: SocketAddrV6,
    /// The authority's node
    pub ca_node: NodeId,
    /// Where that node answers over STOQ
    pub ca_stoq_address: SocketAddrV6,
    /// The authority's root
    pub root_fingerprint: Fingerprint,
    /// How long the token is good for
    pub lifetime: Duration,
}

/// A token that waits for use, as it may be shown
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OutstandingToken {
    /// Its public name
    pub id: String,
    /// The node that may enrol
    pub node: NodeId,
    /// When the permission ends
    pub expires: SystemTime,
}

/// A token whose secret was shown
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RecognisedToken {
    /// Whom it enrols
    pub subject: Subject,
    /// When the permission ends, in seconds since 1970
    pub expires: u64,
    /// It was used
    pub used: bool,
}

/// What the authority keeps of a token
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Record {
    #[serde(with = "node_text")]
    node: NodeId,
    addresses: Vec<Ipv6Addr>,
    secret_sha256: String,
    expires: u64,
}

/// The tokens of one authority
#[derive(Debug)]
pub struct TokenStore {
    outstanding: PathBuf,
    used: PathBuf,
    /// Keeps the count honest; the rename alone decides who uses a token
    creating: Mutex<()>,
}

impl TokenStore {
    /// Opens or creates the store in `directory`
    pub fn open(directory: &Path) -> Result<Self, TokenError> {
        let (outstanding, used) = (directory.join("outstanding"), directory.join("used"));
        for path in [&outstanding, &used] {
            files::create_directory(path)
                .map_err(|source| TokenError::Io { path: path.clone(), source })?;
        }
        Ok(Self { outstanding, used, creating: Mutex::new(()) })
    }

    /// Makes a token; its hash is durable before this returns
    pub fn create(&self, grant: &TokenGrant, now: SystemTime) -> Result<JoinToken, TokenError> {
        let lived = grant.lifetime;
        if lived < Duration::from_secs(1) || lived > LONGEST_LIFETIME {
            return Err(TokenError::Lifetime);
        }
        let _one_at_a_time = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        self.sweep(now)?;
        if names(&self.outstanding)?.len() >= OUTSTANDING_LIMIT {
            return Err(TokenError::TooMany);
        }
        let mut secret = Zeroizing::new([0; 32]);
        let random = boring::rand::rand_bytes(&mut secret[..]).map_err(io::Error::other);
        let expires = now + lived;
        let record = Record {
            node: grant.subject.node().clone(),
            addresses: grant.subject.addresses().to_vec(),
            secret_sha256: hex(&sha256(&secret[..])),
            expires: unix_seconds(expires),
        };
        let path = file(&self.outstanding, &token_id(&secret));
        random
            .and_then(|()| serde_json::to_vec(&record).map_err(io::Error::other))
            .and_then(|bytes| files::create_new(&path, files::PRIVATE, &bytes))
            .map_err(|source| TokenError::Io { path, source })?;
        Ok(JoinToken {
            node: record.node,
            ca_address: grant.ca_address,
            ca_node: grant.ca_node.clone(),
            ca_stoq_address: grant.ca_stoq_address,
            root_fingerprint: grant.root_fingerprint,
            secret,
            expires: UNIX_EPOCH + Duration::from_secs(record.expires),
        })
    }

    /// Whom a token would enrol, without using it
    pub fn check(
        &self,
        id: &str,
        secret: &[u8; 32],
        now: SystemTime,
    ) -> Result<Subject, TokenError> {
        if token_id(secret) != id {
            return Err(TokenError::Unknown);
        }
        let Some(record) = read(&file(&self.outstanding, id))? else {
            let used = file(&self.used, id).exists();
            return Err(if used { TokenError::Used } else { TokenError::Unknown });
        };
        let kept = unhex(&record.secret_sha256).filter(|kept| kept.len() == 32);
        let kept = kept.ok_or_else(|| TokenError::Damaged { path: file(&self.outstanding, id) })?;
        // In constant time, so that no answer's delay tells how much of a guess was right
        if !boring::memcmp::eq(&kept, &sha256(secret)) {
            return Err(TokenError::Unknown);
        }
        if unix_seconds(now) > record.expires {
            return Err(TokenError::Expired);
        }
        Ok(Subject::new(record.node, record.addresses)?)
    }

    /// Uses a token: of any number of callers, in this process or after a crash, one succeeds. The use is
    /// durable before this returns.
    pub fn redeem(
        &self,
        id: &str,
        secret: &[u8; 32],
        now: SystemTime,
    ) -> Result<Subject, TokenError> {
        let subject = self.check(id, secret, now)?;
        let (from, to) = (file(&self.outstanding, id), file(&self.used, id));
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(TokenError::Used),
            Err(source) => return Err(TokenError::Io { path: from, source }),
        }
        for path in [&self.used, &self.outstanding] {
            files::sync_directory(path)
                .map_err(|source| TokenError::Io { path: path.clone(), source })?;
        }
        Ok(subject)
    }

    /// Whose token this is, used or not, without using it: for an authority whose journal says which tokens are
    /// used. One that was used is recognised as long as it might have been, and its time is not asked.
    pub fn recognise(
        &self,
        id: &str,
        secret: &[u8; 32],
        now: SystemTime,
    ) -> Result<RecognisedToken, TokenError> {
        match self.check(id, secret, now) {
            Err(TokenError::Used) => {}
            other => {
                let subject = other?;
                let record = read(&file(&self.outstanding, id))?;
                // Gone in between: another request has used it.
                let Some(record) = record else { return Err(TokenError::Used) };
                let expires = record.expires;
                return Ok(RecognisedToken { subject, expires, used: false });
            }
        }
        let path = file(&self.used, id);
        let record = read(&path)?.ok_or(TokenError::Unknown)?;
        let kept = unhex(&record.secret_sha256).filter(|kept| kept.len() == 32);
        let kept = kept.ok_or(TokenError::Damaged { path })?;
        if !boring::memcmp::eq(&kept, &sha256(secret)) {
            return Err(TokenError::Unknown);
        }
        let (subject, expires) = (Subject::new(record.node, record.addresses)?, record.expires);
        Ok(RecognisedToken { subject, expires, used: true })
    }

    /// Puts a token away that an authority's journal calls used; one that is put away already stays there.
    /// Durable when this returns, but nothing depends on that: the journal is asked.
    pub fn settle_used(&self, id: &str) -> Result<(), TokenError> {
        let (from, to) = (file(&self.outstanding, id), file(&self.used, id));
        match std::fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(TokenError::Io { path: from, source }),
            Ok(()) => {}
        }
        for path in [&self.used, &self.outstanding] {
            files::sync_directory(path)
                .map_err(|source| TokenError::Io { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Withdraws a token that was not used
    pub fn withdraw(&self, id: &str) -> Result<(), TokenError> {
        let path = file(&self.outstanding, id);
        match std::fs::remove_file(&path) {
            Ok(()) => files::sync_directory(&self.outstanding)
                .map_err(|source| TokenError::Io { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(TokenError::Unknown),
            Err(source) => Err(TokenError::Io { path, source }),
        }
    }

    /// The tokens that wait for use
    pub fn outstanding(&self, now: SystemTime) -> Result<Vec<OutstandingToken>, TokenError> {
        let mut tokens = Vec::new();
        for id in names(&self.outstanding)? {
            if let Some(record) = read(&file(&self.outstanding, &id))?
                && record.expires >= unix_seconds(now)
            {
                let expires = UNIX_EPOCH + Duration::from_secs(record.expires);
                tokens.push(OutstandingToken { id, node: record.node, expires });
            }
        }
        Ok(tokens)
    }

    /// Removes what can no longer be used. Used tokens go too once expired: then they are unknown.
    fn sweep(&self, now: SystemTime) -> Result<(), TokenError> {
        for directory in [&self.outstanding, &self.used] {
            for id in names(directory)? {
                let path = file(directory, &id);
                if read(&path)?.is_some_and(|record| record.expires < unix_seconds(now)) {
                    std::fs::remove_file(&path)
                        .map_err(|source| TokenError::Io { path, source })?;
                }
            }
        }
        Ok(())
    }
}

/// An id becomes part of a path only after it was recognised as 32 hexadecimal digits
fn file(directory: &Path, id: &str) -> PathBuf {
    let safe = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    directory.join(if safe { format!("{id}.json") } else { "no-such-token.json".to_owned() })
}

fn read(path: &Path) -> Result<Option<Record>, TokenError> {
    match files::read_limited(path, RECORD_LIMIT_BYTES) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|_| TokenError::Damaged { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TokenError::Io { path: path.to_owned(), source }),
    }
}

fn names(directory: &Path) -> Result<Vec<String>, TokenError> {
    let failed = |source| TokenError::Io { path: directory.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) {
            found.push(id.to_owned());
        }
    }
    Ok(found)
}

/// A node name as a JSON string
mod node_text {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};
    use stoq_interface::NodeId;

    pub(crate) fn serialize<S: Serializer>(node: &NodeId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(node.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<NodeId, D::Error> {
        NodeId::new(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;

//! A deny-list document: read, bounded, checked and verified before anything in it counts; written and signed
//! in the same terms. What a node does with one is in `deny_list`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use boring::error::ErrorStack;
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::PKey;
use boring::sha::Sha256;
use boring::sign::Verifier;
use prost::Message;
use rcgen::SigningKey;
use stoq_interface::NodeId;
use x509_parser::prelude::{FromDer as _, SubjectPublicKeyInfo};

use super::entry::{Entry, KeyId, is_reasonable};
use super::refusal::Refusal;
use super::wire;
use crate::certificate;
use crate::chain::settle;

/// Octets of the largest signed deny-list that is read
pub const DOCUMENT_LIMIT_BYTES: usize = 16 << 20;
/// Entries one list may have
pub const ENTRIES_LIMIT: usize = 100_000;
/// Authority instances whose lists are merged
pub const INSTANCES_LIMIT: usize = 64;
/// Issuing keys that may sign lists: each instance has one in use and some in preparation or on their way out
pub const KEYS_LIMIT: usize = 4 * INSTANCES_LIMIT;
/// The longest time between issue and next update
pub const VALIDITY_LIMIT: Duration = Duration::from_secs(7 * 24 * 3_600);
const VERSION: u32 = 1;
/// An ECDSA P-256 signature in DER has at most 72 octets
const SIGNATURE_LIMIT_BYTES: usize = 80;

/// What stands before the signed octets. It cannot begin a certificate or a CRL, which begin with 0x30.
const SIGNATURE_DOMAIN: [u8; 32] = domain(b"stoq-trustchain deny-list v1");
const CONTENT_DOMAIN: [u8; 32] = domain(b"stoq-trustchain deny-content v1");

const fn domain(text: &[u8]) -> [u8; 32] {
    let mut padded = [0; 32];
    let mut at = 0;
    while at < text.len() {
        padded[at] = text[at];
        at += 1;
    }
    padded
}

/// Whether a document has the whole list
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// All entries
    Full,
    /// What was added since an earlier epoch
    Delta {
        /// The earliest epoch it may be added to
        base_epoch: u64,
    },
}

/// A deny-list document whose parts fit together. That it was signed is known only where [`open`] made it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DenyListDocument {
    /// The instance whose list it is
    pub instance: NodeId,
    /// The key that signs it
    pub signer: KeyId,
    /// Its number
    pub epoch: u64,
    /// All of the list, or a change
    pub form: Form,
    /// Seconds since 1970
    pub issued_at: u64,
    /// The latest time of the next issue, seconds since 1970
    pub next_update: u64,
    /// Its entries, in order
    pub entries: Vec<Entry>,
    /// Entries of the whole list
    pub live: u64,
    /// Hash of the whole list
    pub content: [u8; 32],
}

/// An issuing key that may sign the list of an instance
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListSigner {
    instance: NodeId,
    key_id: KeyId,
    spki_der: Vec<u8>,
}

/// Why a key may not sign lists
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SignerError {
    /// The certificate does not parse
    #[error("the authority's certificate does not parse: {0}")]
    Certificate(String),
    /// Another kind of key
    #[error("the authority's key is no uncompressed P-256 key")]
    KeyKind,
    /// More than are kept
    #[error("more than {INSTANCES_LIMIT} authority instances or {KEYS_LIMIT} keys sign deny-lists")]
    TooMany,
    /// One key, two instances
    #[error(
        "key {key} belongs to instance {one} and to instance {other}; each instance has its own"
    )]
    Shared {
        /// The key
        key: KeyId,
        /// One instance
        one: NodeId,
        /// The other
        other: NodeId,
    },
}

impl ListSigner {
    /// The key in an issuing authority's certificate, which the caller has verified against the root
    pub fn from_certificate(instance: NodeId, authority_der: &[u8]) -> Result<Self, SignerError> {
        let parsed = certificate::parse(authority_der)
            .map_err(|error| SignerError::Certificate(error.to_string()))?;
        Self::of_key(instance, parsed.public_key())
    }

    /// A key that counted once, from its SubjectPublicKeyInfo in DER
    pub fn from_spki(instance: NodeId, spki_der: &[u8]) -> Result<Self, SignerError> {
        match SubjectPublicKeyInfo::from_der(spki_der) {
            Ok((&[], key)) => Self::of_key(instance, &key),
            _ => Err(SignerError::KeyKind),
        }
    }

    fn of_key(instance: NodeId, key: &SubjectPublicKeyInfo<'_>) -> Result<Self, SignerError> {
        let point = &key.subject_public_key.data;
        if point.len() != 65 || point[0] != 4 {
            return Err(SignerError::KeyKind);
        }
        let key_id = KeyId::of_public_point(point).map_err(|_| SignerError::KeyKind)?;
        Ok(Self { instance, key_id, spki_der: key.raw.to_vec() })
    }

    /// The key, SubjectPublicKeyInfo in DER
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// The key's identifier
    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// Whose key it is
    pub fn instance(&self) -> &NodeId {
        &self.instance
    }
}

/// Who may sign which list
#[derive(Clone, Debug, Default)]
pub struct Signers {
    by_key: BTreeMap<KeyId, ListSigner>,
}

impl Signers {
    /// A table of keys; a key belongs to one instance, an instance may have several
    pub fn new(signers: impl IntoIterator<Item = ListSigner>) -> Result<Self, SignerError> {
        let mut by_key: BTreeMap<KeyId, ListSigner> = BTreeMap::new();
        for signer in signers {
            if let Some(known) = by_key.get(&signer.key_id)
                && known.instance != signer.instance
            {
                let (one, other) = (known.instance.clone(), signer.instance);
                return Err(SignerError::Shared { key: signer.key_id, one, other });
            }
            by_key.insert(signer.key_id, signer);
        }
        let table = Self { by_key };
        if table.by_key.len() > KEYS_LIMIT || table.instances().len() > INSTANCES_LIMIT {
            return Err(SignerError::TooMany);
        }
        Ok(table)
    }

    /// The instances
    pub fn instances(&self) -> BTreeSet<&NodeId> {
        self.by_key.values().map(|signer| &signer.instance).collect()
    }
}

/// Reads a signed document, verifies its signature, and only then looks inside
pub fn open(bytes: &[u8], signers: &Signers) -> Result<DenyListDocument, Refusal> {
    if bytes.len() > DOCUMENT_LIMIT_BYTES {
        return Err(Refusal::TooLarge(bytes.len()));
    }
    let signed = wire::SignedDenyList::decode(bytes)
        .map_err(|_| Refusal::Malformed("it is no SignedDenyList"))?;
    let key_id = KeyId::from_bytes(&signed.signer_key_id)
        .map_err(|_| Refusal::Malformed("the signer's key identifier has not 20 octets"))?;
    let signer =
        signers.by_key.get(&key_id).ok_or_else(|| Refusal::UnknownSigner(key_id.to_string()))?;
    let verified = signed.signature.len() <= SIGNATURE_LIMIT_BYTES
        && settle(verifies(&signer.spki_der, &signed.document, &signed.signature));
    if !verified {
        return Err(Refusal::BadSignature);
    }
    let document = decode(&signed.document)?;
    if document.instance != signer.instance || document.signer != key_id {
        return Err(Refusal::WrongInstance {
            claimed: document.instance.to_string(),
            owner: signer.instance.to_string(),
        });
    }
    Ok(document)
}

/// Reads the inner part without a signature: for tools and tests; a node uses [`open`]
pub fn decode(document: &[u8]) -> Result<DenyListDocument, Refusal> {
    if document.len() > DOCUMENT_LIMIT_BYTES {
        return Err(Refusal::TooLarge(document.len()));
    }
    // Counted first: two octets on the wire would become two hundred in memory.
    let count = count_entries(document).ok_or(Refusal::Malformed("a field is cut short"))?;
    if count > ENTRIES_LIMIT {
        return Err(Refusal::TooManyEntries(count));
    }
    let list =
        wire::DenyList::decode(document).map_err(|_| Refusal::Malformed("it is no DenyList"))?;
    if list.version != VERSION {
        return Err(Refusal::Version(list.version));
    }
    let instance = NodeId::new(&list.instance)
        .map_err(|_| Refusal::Malformed("the instance's name is no LDH label"))?;
    let signer = KeyId::from_bytes(&list.signer_key_id)
        .map_err(|_| Refusal::Malformed("the signer's key identifier has not 20 octets"))?;
    let form = match (wire::Form::try_from(list.form), list.base_epoch) {
        (Ok(wire::Form::Full), 0) => Form::Full,
        (Ok(wire::Form::Delta), base_epoch) if base_epoch < list.epoch => {
            Form::Delta { base_epoch }
        }
        _ => return Err(Refusal::Malformed("form and epochs do not fit together")),
    };
    if list.epoch == 0 {
        return Err(Refusal::Malformed("epochs begin at one"));
    }
    check_times(list.issued_at, list.next_update)?;
    let content = list.content_sha256[..]
        .try_into()
        .map_err(|_| Refusal::Malformed("the hash of the content has not 32 octets"))?;
    let document = DenyListDocument {
        instance,
        signer,
        epoch: list.epoch,
        form,
        issued_at: list.issued_at,
        next_update: list.next_update,
        entries: read_entries(&list.entries)?,
        live: list.live,
        content,
    };
    check_content(&document)?;
    Ok(document)
}

fn check_times(issued_at: u64, next_update: u64) -> Result<(), Refusal> {
    let reasonable = is_reasonable(issued_at) && is_reasonable(next_update);
    let length = next_update.checked_sub(issued_at).filter(|length| *length > 0);
    match length {
        Some(length) if reasonable && length <= VALIDITY_LIMIT.as_secs() => Ok(()),
        _ => Err(Refusal::Times),
    }
}

fn read_entries(entries: &[wire::Entry]) -> Result<Vec<Entry>, Refusal> {
    let mut read: Vec<Entry> = Vec::with_capacity(entries.len());
    for (index, entry) in entries.iter().enumerate() {
        let entry = Entry::from_wire(entry).map_err(|error| Refusal::Entry { index, error })?;
        if read.last().is_some_and(|last| last.target >= entry.target) {
            return Err(Refusal::Order(index));
        }
        read.push(entry);
    }
    Ok(read)
}

/// What can be said of a document alone: a full list has what it counts. A change is judged where it is added.
fn check_content(document: &DenyListDocument) -> Result<(), Refusal> {
    let entries = document.entries.len() as u64;
    let issued = super::entry::seconds(document.issued_at);
    let fits = match document.form {
        Form::Full => {
            entries == document.live
                && document.entries.iter().all(|entry| entry.is_live(issued))
                && content_of(&document.entries) == document.content
        }
        Form::Delta { .. } => true,
    };
    if fits { Ok(()) } else { Err(Refusal::Inconsistent) }
}

/// The hash of a whole list, its entries in order
pub(super) fn content_of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(&CONTENT_DOMAIN);
    for entry in entries {
        hash.update(&entry.to_wire().encode_length_delimited_to_vec());
    }
    hash.finish()
}

/// Writes the inner part
pub(super) fn encode(document: &DenyListDocument) -> Vec<u8> {
    let (form, base_epoch) = match document.form {
        Form::Full => (wire::Form::Full, 0),
        Form::Delta { base_epoch } => (wire::Form::Delta, base_epoch),
    };
    wire::DenyList {
        version: VERSION,
        instance: document.instance.to_string(),
        signer_key_id: document.signer.as_bytes().to_vec(),
        epoch: document.epoch,
        form: form.into(),
        base_epoch,
        issued_at: document.issued_at,
        next_update: document.next_update,
        entries: document.entries.iter().map(Entry::to_wire).collect(),
        live: document.live,
        content_sha256: document.content.to_vec(),
    }
    .encode_to_vec()
}

/// Signs the inner part; the result is what travels
pub(super) fn seal(
    document: Vec<u8>,
    signer: KeyId,
    key: &impl SigningKey,
) -> Result<Vec<u8>, rcgen::Error> {
    let signature = key.sign(&[&SIGNATURE_DOMAIN[..], &document].concat())?;
    let signer_key_id = signer.as_bytes().to_vec();
    Ok(wire::SignedDenyList { document, signature, signer_key_id }.encode_to_vec())
}

fn verifies(spki_der: &[u8], document: &[u8], signature: &[u8]) -> Result<bool, ErrorStack> {
    let key = PKey::public_key_from_der(spki_der)?;
    if key.ec_key()?.group().curve_name() != Some(Nid::X9_62_PRIME256V1) {
        return Ok(false);
    }
    let message = [&SIGNATURE_DOMAIN[..], document].concat();
    Verifier::new(MessageDigest::sha256(), &key)?.verify_oneshot(signature, &message)
}

/// Counts the entries without decoding them; `None` where a field is cut short. Stops above the limit.
fn count_entries(mut rest: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !rest.is_empty() && count <= ENTRIES_LIMIT {
        let key = varint(&mut rest)?;
        let length = match key & 7 {
            0 => {
                varint(&mut rest)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)?).ok()?,
            5 => 4,
            // Groups are not used.
            _ => return None,
        };
        rest = rest.get(length..)?;
        count += usize::from(key >> 3 == u64::from(wire::ENTRIES_TAG));
    }
    Some(count)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

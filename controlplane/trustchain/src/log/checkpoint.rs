//! Checkpoints (C2SP tlog-checkpoint): the head of a tree as a signed note, signed by the log with an RFC 6962
//! TreeHeadSignature as static-ct-api says, and possibly cosigned by witnesses. Whether two checkpoints agree
//! is a matter of `verify`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boring::pkey::{PKey, Public};
use boring::sign::Verifier;
use rcgen::SigningKey;

use super::key::{self, LogSigner, LogVerifier, SignError};
use super::merkle::{Hash, TreeHead};
use super::note::{self, Note, NoteSignature, SIGNATURE_TYPE_COSIGNATURE, SIGNATURE_TYPE_ED25519};
use super::wire::{Malformed, Reader, Writer};
use super::{LOG_LIMIT_ENTRIES, NAME_LIMIT_BYTES};
use crate::chain::settle;

/// SubjectPublicKeyInfo DER of an Ed25519 key, before its 32 octets (RFC 8410 section 4)
const ED25519_SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// Why a checkpoint is not believed
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CheckpointError {
    /// Not a checkpoint
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Of another log
    #[error("the checkpoint is of the log `{found}`, not of `{expected}`")]
    Origin {
        /// The log it should be of
        expected: String,
        /// The log it is of
        found: String,
    },
    /// No signature by the log's key
    #[error(
        "the checkpoint carries no signature of this log's key: it was signed with another key"
    )]
    Unsigned,
    /// A signature of a known key is wrong
    #[error("the checkpoint's signature by `{0}` does not verify; do not trust it")]
    Signature(String),
}

/// The text of a checkpoint
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checkpoint {
    /// Identity of the log
    pub origin: String,
    /// The tree
    pub head: TreeHead,
    /// Further lines, which nobody needs
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// The text, with its last newline
    pub fn text(&self) -> String {
        let root = STANDARD.encode(self.head.root);
        let mut text = format!("{}\n{}\n{root}\n", self.origin, self.head.size);
        self.extensions.iter().for_each(|line| text += &format!("{line}\n"));
        text
    }

    /// Parses the text; any text may be given
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let malformed = Malformed("checkpoint");
        let mut lines = text.strip_suffix('\n').ok_or(malformed)?.split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty()).ok_or(malformed);
        let (origin, size, root) = (line()?, line()?, line()?);
        let parsed: u64 = size.parse().map_err(|_| malformed)?;
        let root = STANDARD.decode(root).ok().and_then(|root| Hash::try_from(root).ok());
        let root = root.ok_or(malformed)?;
        // `+1` and `01` are numbers to the parser and no sizes to the specification.
        let canonical = parsed.to_string() == size;
        if !canonical || parsed > LOG_LIMIT_ENTRIES || origin.len() > NAME_LIMIT_BYTES {
            return Err(malformed);
        }
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(malformed);
        }
        Ok(Self { origin: origin.into(), head: TreeHead { size: parsed, root }, extensions })
    }
}

/// A checkpoint whose signatures were verified
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedCheckpoint {
    /// The tree
    pub head: TreeHead,
    /// When the log signed it, in milliseconds since 1970
    pub timestamp_ms: u64,
    /// The witnesses that cosigned it
    pub witnesses: Vec<String>,
    note: String,
}

impl VerifiedCheckpoint {
    /// The signed note, as it was read
    pub fn note(&self) -> &str {
        &self.note
    }
}

/// A witness that is known by its Ed25519 key
#[derive(Clone, Debug)]
pub struct WitnessKey {
    name: String,
    key_id: u32,
    signature_type: u8,
    key: PKey<Public>,
}

impl WitnessKey {
    /// A witness by name and key; `signature_type` is that of Ed25519 signatures (0x01) or of cosignatures
    /// (0x04)
    pub fn new(name: &str, signature_type: u8, public_key: &[u8; 32]) -> Result<Self, Malformed> {
        let malformed = Malformed("witness key");
        let types = [SIGNATURE_TYPE_ED25519, SIGNATURE_TYPE_COSIGNATURE];
        if !note::is_key_name(name) || !types.contains(&signature_type) {
            return Err(malformed);
        }
        let spki = [&ED25519_SPKI_PREFIX[..], public_key].concat();
        let key = key::public_key(&spki).map_err(|_| malformed)?;
        let key_id = note::key_id(name, signature_type, public_key);
        Ok(Self { name: name.into(), key_id, signature_type, key })
    }

    /// A witness as signed notes write keys: name, identifier in hexadecimal, type and key in base64, with
    /// plus signs between them
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let malformed = Malformed("witness key");
        let mut parts = text.splitn(3, '+');
        let mut part = || parts.next().ok_or(malformed);
        let (name, identifier, encoded) = (part()?, part()?, part()?);
        let bytes = STANDARD.decode(encoded).map_err(|_| malformed)?;
        let (signature_type, key) = bytes.split_first().ok_or(malformed)?;
        let witness = Self::new(name, *signature_type, key.try_into().map_err(|_| malformed)?)?;
        let identified = format!("{:08x}", witness.key_id) == identifier;
        if identified { Ok(witness) } else { Err(malformed) }
    }

    fn verifies(&self, text: &str, signature: &[u8]) -> bool {
        let verify = |message: &[u8], signature: &[u8]| {
            settle(
                Verifier::new_without_digest(&self.key)
                    .and_then(|mut verifier| verifier.verify_oneshot(signature, message)),
            )
        };
        if self.signature_type == SIGNATURE_TYPE_ED25519 {
            return verify(text.as_bytes(), signature);
        }
        let Some((time, signature)) = signature.split_first_chunk::<8>() else { return false };
        let time = u64::from_be_bytes(*time);
        verify(format!("cosignature/v1\ntime {time}\n{text}").as_bytes(), signature)
    }
}

impl<S: SigningKey> LogSigner<S> {
    /// Signs the head of a tree; the result is the checkpoint as a note. Whether this head may be signed is
    /// the sequencer's to say, which is why nobody else can call this.
    pub(super) fn sign_head(&self, head: TreeHead, timestamp_ms: u64) -> Result<Note, SignError> {
        let origin = self.verifier().origin();
        let checkpoint = Checkpoint { origin: origin.into(), head, extensions: Vec::new() };
        let signed = self.sign(&tree_head_message(&head, timestamp_ms))?;
        let line = NoteSignature {
            name: origin.into(),
            key_id: self.verifier().key_id(),
            signature: Writer::default().integer(timestamp_ms, 8).put(&signed).finish(),
        };
        Ok(Note::new(checkpoint.text(), vec![line])?)
    }
}

impl LogVerifier {
    /// Judges a checkpoint: it must be this log's and carry its signature; witnesses that are known and
    /// signed are named. A wrong signature of any known key makes the whole checkpoint wrong; unknown keys
    /// say nothing.
    pub fn verify_checkpoint(
        &self,
        bytes: &[u8],
        witnesses: &[WitnessKey],
    ) -> Result<VerifiedCheckpoint, CheckpointError> {
        let note = Note::parse(bytes)?;
        let checkpoint = Checkpoint::parse(note.text())?;
        if checkpoint.origin != self.origin() {
            let (expected, found) = (self.origin().to_owned(), checkpoint.origin);
            return Err(CheckpointError::Origin { expected, found });
        }
        // A TreeHeadSignature does not cover extension lines (C2SP static-ct-api).
        if !checkpoint.extensions.is_empty() {
            return Err(Malformed("checkpoint").into());
        }
        let (mut timestamp_ms, mut cosigners) = (None, Vec::new());
        for line in note.signatures() {
            let wrong = || CheckpointError::Signature(line.name.clone());
            if line.name == self.origin() && line.key_id == self.key_id() {
                timestamp_ms = Some(self.judge(&checkpoint.head, line).ok_or_else(wrong)?);
                continue;
            }
            for witness in witnesses {
                if line.name == witness.name && line.key_id == witness.key_id {
                    if !witness.verifies(note.text(), &line.signature) {
                        return Err(wrong());
                    }
                    if !cosigners.contains(&witness.name) {
                        cosigners.push(witness.name.clone());
                    }
                }
            }
        }
        Ok(VerifiedCheckpoint {
            head: checkpoint.head,
            timestamp_ms: timestamp_ms.ok_or(CheckpointError::Unsigned)?,
            witnesses: cosigners,
            note: note.encode(),
        })
    }

    /// The timestamp of a tree head's signature, if it verifies
    fn judge(&self, head: &TreeHead, line: &NoteSignature) -> Option<u64> {
        let mut reader = Reader::new(&line.signature, "tree head signature");
        let timestamp_ms = reader.integer(8).ok()?;
        let message = tree_head_message(head, timestamp_ms);
        self.verifies(&message, reader.rest()).then_some(timestamp_ms)
    }
}

/// What a TreeHeadSignature is over (RFC 6962 section 3.5): version 1, tree_hash, time, size, root
fn tree_head_message(head: &TreeHead, timestamp_ms: u64) -> Vec<u8> {
    let writer = Writer::default().put(&[0, 1]).integer(timestamp_ms, 8);
    writer.integer(head.size, 8).put(&head.root).finish()
}

#[cfg(test)]
mod tests {
    use boring::pkey::Id;
    use boring::sign::Signer;

    use super::*;
    use crate::keys::{KeyKind, KeyPair};

    const HEAD: TreeHead = TreeHead { size: 20_852_163, root: [7; 32] };

    fn log() -> LogSigner<KeyPair> {
        LogSigner::new("log.example/one", KeyPair::generate(KeyKind::P256).unwrap()).unwrap()
    }

    struct Witness(PKey<boring::pkey::Private>, [u8; 32]);

    impl Witness {
        fn new() -> Self {
            let key = PKey::generate(Id::ED25519).unwrap();
            let mut public = [0; 32];
            key.raw_public_key(&mut public).unwrap();
            Self(key, public)
        }

        fn cosign(&self, text: &str, time: u64) -> Vec<u8> {
            let message = format!("cosignature/v1\ntime {time}\n{text}");
            let mut signer = Signer::new_without_digest(&self.0).unwrap();
            let signature = signer.sign_oneshot_to_vec(message.as_bytes()).unwrap();
            [&time.to_be_bytes()[..], &signature].concat()
        }
    }

    #[test]
    fn the_example_of_the_specification_parses() {
        let text = "example.com/behind-the-sofa\n20852163\n\
            CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let checkpoint = Checkpoint::parse(text).unwrap();
        assert_eq!(checkpoint.origin, "example.com/behind-the-sofa");
        assert_eq!(checkpoint.head.size, 20_852_163);
        assert_eq!(checkpoint.text(), text);
        let extended = format!("{text}more\n");
        assert_eq!(Checkpoint::parse(&extended).unwrap().extensions, ["more"]);
        for (from, to) in [
            ("20852163", "020852163"),
            ("20852163", "+20852163"),
            ("20852163", ""),
            ("20852163", "1099511627777"),
            ("q2I=", "q2J="),
            ("q2I=", ""),
            ("example.com/behind-the-sofa", ""),
            ("q2I=\n", "q2I="),
            ("q2I=\n", "q2I=\n\n"),
        ] {
            assert!(Checkpoint::parse(&text.replace(from, to)).is_err(), "{from} {to}");
        }
    }

    #[test]
    fn a_signed_head_verifies_and_no_flipped_bit_of_it_does() {
        let log = log();
        let note = log.sign_head(HEAD, 1_800_000_000_123).unwrap().encode();
        let verified = log.verifier().verify_checkpoint(note.as_bytes(), &[]).unwrap();
        assert_eq!((verified.head, verified.timestamp_ms), (HEAD, 1_800_000_000_123));
        assert_eq!(verified.note(), note);
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut wrong = note.clone().into_bytes();
                wrong[at] ^= 1 << bit;
                let judged = log.verifier().verify_checkpoint(&wrong, &[]);
                assert!(judged.is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn another_log_and_another_key_are_told_apart() {
        let (ours, theirs) = (log(), log());
        let note = theirs.sign_head(HEAD, 1).unwrap().encode();
        let judged = ours.verifier().verify_checkpoint(note.as_bytes(), &[]);
        assert_eq!(judged, Err(CheckpointError::Unsigned));
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let elsewhere = LogSigner::new("log.example/two", key).unwrap();
        let note = elsewhere.sign_head(HEAD, 1).unwrap().encode();
        let judged = ours.verifier().verify_checkpoint(note.as_bytes(), &[]);
        assert!(matches!(judged, Err(CheckpointError::Origin { .. })));
        // Extension lines are not covered by the signature, so they are not tolerated.
        let note = ours.sign_head(HEAD, 1).unwrap();
        let text = format!("{}extension\n", note.text());
        let extended = Note::new(text, note.signatures().to_vec()).unwrap().encode();
        let judged = ours.verifier().verify_checkpoint(extended.as_bytes(), &[]);
        assert!(matches!(judged, Err(CheckpointError::Malformed(_))));
    }

    #[test]
    fn known_witnesses_are_judged_and_unknown_ones_ignored() {
        let (log, witness, stranger) = (log(), Witness::new(), Witness::new());
        let name = "witness.example/w1";
        let key_id = note::key_id(name, SIGNATURE_TYPE_COSIGNATURE, &witness.1);
        let encoded = STANDARD.encode([&[SIGNATURE_TYPE_COSIGNATURE][..], &witness.1].concat());
        let known = WitnessKey::parse(&format!("{name}+{key_id:08x}+{encoded}")).unwrap();
        assert!(WitnessKey::parse(&format!("{name}+00000000+{encoded}")).is_err());
        let note = log.sign_head(HEAD, 1).unwrap();
        let with = |signature: Vec<u8>| {
            let line = NoteSignature { name: name.into(), key_id, signature };
            let lines = [note.signatures(), &[line]].concat();
            Note::new(note.text().into(), lines).unwrap().encode()
        };
        let good = with(witness.cosign(note.text(), 1_679_315_147));
        let bad = with(stranger.cosign(note.text(), 1_679_315_147));
        let judge = |note: &str, witnesses: &[WitnessKey]| {
            let judged = log.verifier().verify_checkpoint(note.as_bytes(), witnesses);
            judged.map(|verified| verified.witnesses)
        };
        assert_eq!(judge(&good, std::slice::from_ref(&known)), Ok(vec![name.to_owned()]));
        let refused = judge(&bad, std::slice::from_ref(&known));
        assert_eq!(refused, Err(CheckpointError::Signature(name.into())));
        assert_eq!(judge(&good, &[]), Ok(vec![]));
        assert_eq!(judge(&bad, &[]), Ok(vec![]));
        // A cosignature over another checkpoint is none over this one.
        let other = with(witness.cosign("log.example/one\n1\n", 1_679_315_147));
        assert!(judge(&other, &[known]).is_err());
    }
}

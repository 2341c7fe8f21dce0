//! Proofs that travel (C2SP tlog-proof): index, hashes and checkpoint in one text, made from the published
//! tiles and checked offline with nothing but the log's public key.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::checkpoint::{CheckpointError, VerifiedCheckpoint, WitnessKey};
use super::key::LogVerifier;
use super::merkle::{HASH_BYTES, Hash, TreeHead};
use super::note::NOTE_LIMIT_BYTES;
use super::sct::{self, SctError};
use super::store::{Published, StoreError, read_tile};
use super::tile::{ProofRangeError, TILE_WIDTH, TileKind, TilePath, TileTree};
use super::verify::{self, PROOF_LIMIT_HASHES, ProofError};
use super::wire::Malformed;

const FIRST_LINE: &str = "c2sp.org/tlog-proof@v1";
/// Size of the largest proof that is read
pub const BUNDLE_LIMIT_BYTES: usize = NOTE_LIMIT_BYTES + (16 << 10);
/// Octets of extra data that are read
pub const EXTRA_LIMIT_BYTES: usize = 4 << 10;

/// Why there is no proof
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// Beyond the tree
    #[error(transparent)]
    Range(#[from] ProofRangeError),
    /// A tile could not be read
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The tiles do not lead to the checkpoint
    #[error(
        "the published tiles do not lead to the published checkpoint ({0}); a tile is damaged, run \
         `stoqctl log fsck`"
    )]
    Damaged(ProofError),
}

/// Why a proof does not convince
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The checkpoint is not believed
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The entry is not under it
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The certificate is not logged
    #[error(transparent)]
    Sct(#[from] SctError),
    /// The proof is for another entry
    #[error("the proof is for entry {proof} and the certificate's SCT says {sct}")]
    OtherEntry {
        /// Index in the proof
        proof: u64,
        /// Index in the SCT
        sct: u64,
    },
    /// The checkpoint was made before the entry
    #[error("the checkpoint is older than the certificate's SCT")]
    Older,
}

/// A proof that an entry is in the log
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProofBundle {
    /// Data of the application, which nothing vouches for
    pub extra: Option<Vec<u8>>,
    /// Index of the entry
    pub index: u64,
    /// The inclusion proof, from the leaf's sibling to the root's child
    pub hashes: Vec<Hash>,
    /// The checkpoint, a signed note
    pub checkpoint: String,
}

impl ProofBundle {
    /// The text, to be kept as `.tlog-proof`
    pub fn encode(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        if let Some(extra) = &self.extra {
            text += &format!("extra {}\n", STANDARD.encode(extra));
        }
        text += &format!("index {}\n", self.index);
        self.hashes.iter().for_each(|hash| text += &format!("{}\n", STANDARD.encode(hash)));
        text + "\n" + &self.checkpoint
    }

    /// Parses the text; any octets may be given
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed("inclusion proof");
        if bytes.len() > BUNDLE_LIMIT_BYTES {
            return Err(malformed);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| malformed)?;
        let (proof, checkpoint) = text.split_once("\n\n").ok_or(malformed)?;
        let mut lines = proof.split('\n');
        if lines.next() != Some(FIRST_LINE) {
            return Err(malformed);
        }
        let mut line = lines.next().ok_or(malformed)?;
        let mut extra = None;
        if let Some(encoded) = line.strip_prefix("extra ") {
            let bytes = STANDARD.decode(encoded).map_err(|_| malformed)?;
            if bytes.len() > EXTRA_LIMIT_BYTES {
                return Err(malformed);
            }
            extra = Some(bytes);
            line = lines.next().ok_or(malformed)?;
        }
        let digits = line.strip_prefix("index ").ok_or(malformed)?;
        let index: u64 = digits.parse().map_err(|_| malformed)?;
        let hashes: Vec<Hash> = lines
            .take(PROOF_LIMIT_HASHES + 1)
            .map(|line| STANDARD.decode(line).ok().and_then(|hash| hash.try_into().ok()))
            .collect::<Option<_>>()
            .ok_or(malformed)?;
        if index.to_string() != digits || hashes.len() > PROOF_LIMIT_HASHES {
            return Err(malformed);
        }
        Ok(Self { extra, index, hashes, checkpoint: checkpoint.into() })
    }

    /// Checks that the entry with this leaf hash is in the log. A checkpoint of the log with more entries,
    /// such as witnesses have, is worth as much as this one.
    pub fn verify(
        &self,
        leaf_hash: &Hash,
        log: &LogVerifier,
        witnesses: &[WitnessKey],
    ) -> Result<VerifiedCheckpoint, BundleError> {
        let checkpoint = log.verify_checkpoint(self.checkpoint.as_bytes(), witnesses)?;
        verify::inclusion(leaf_hash, self.index, &checkpoint.head, &self.hashes)?;
        Ok(checkpoint)
    }

    /// Checks that a certificate is in the log: by its SCT, and by this proof for the place the SCT names.
    /// For `issuer_key_hash` and `latest_ms` see `sct::verify_embedded`.
    pub fn verify_certificate(
        &self,
        certificate_der: &[u8],
        issuer_key_hash: &Hash,
        log: &LogVerifier,
        latest_ms: u64,
    ) -> Result<VerifiedCheckpoint, BundleError> {
        let logs = std::slice::from_ref(log);
        let sct = sct::verify_embedded(certificate_der, issuer_key_hash, logs, latest_ms)?;
        if sct.leaf_index != self.index {
            return Err(BundleError::OtherEntry { proof: self.index, sct: sct.leaf_index });
        }
        let checkpoint = self.verify(&sct.leaf_hash, log, &[])?;
        if checkpoint.timestamp_ms < sct.timestamp_ms {
            return Err(BundleError::Older);
        }
        Ok(checkpoint)
    }
}

/// Proves entry `index` under a published checkpoint; the proof is checked before it is returned
pub fn prove(
    store: &(impl Published + ?Sized),
    checkpoint: &VerifiedCheckpoint,
    index: u64,
) -> Result<ProofBundle, ProveError> {
    let size = checkpoint.head.size;
    let hashes = tree(store, size).inclusion(index)?;
    let tile_index = index / u64::from(TILE_WIDTH);
    let width = (size - tile_index * u64::from(TILE_WIDTH)).min(u64::from(TILE_WIDTH)) as u16;
    let path =
        TilePath::new(TileKind::Hashes(0), tile_index, width).map_err(|_| ProofRangeError)?;
    let tile = read_tile(store, path)?;
    let (leaves, _) = tile.as_chunks::<HASH_BYTES>();
    let leaf = leaves.get((index % u64::from(TILE_WIDTH)) as usize).ok_or(ProofRangeError)?;
    verify::inclusion(leaf, index, &checkpoint.head, &hashes).map_err(ProveError::Damaged)?;
    let checkpoint = checkpoint.note().to_owned();
    Ok(ProofBundle { extra: None, index, hashes, checkpoint })
}

/// Proves that a published checkpoint continues an older head; the proof is checked before it is returned
pub fn prove_consistency(
    store: &(impl Published + ?Sized),
    old: &TreeHead,
    checkpoint: &VerifiedCheckpoint,
) -> Result<Vec<Hash>, ProveError> {
    let hashes = tree(store, checkpoint.head.size).consistency(old.size)?;
    verify::consistency(old, &checkpoint.head, &hashes).map_err(ProveError::Damaged)?;
    Ok(hashes)
}

fn tree(
    store: &(impl Published + ?Sized),
    size: u64,
) -> TileTree<impl FnMut(TilePath) -> Result<Vec<u8>, ProveError>> {
    TileTree::new(size, move |path| -> Result<Vec<u8>, ProveError> { Ok(read_tile(store, path)?) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bundle(extra: Option<Vec<u8>>, count: usize) -> ProofBundle {
        let checkpoint = "log.example\n1\nx\n\n\u{2014} log.example AAAAAAA=\n".to_owned();
        ProofBundle { extra, index: 73_894, hashes: vec![[7; 32]; count], checkpoint }
    }

    #[test]
    fn the_text_is_that_of_the_specification() {
        let text = bundle(Some(b"extra".to_vec()), 2).encode();
        let hash = STANDARD.encode([7; 32]);
        let wanted = format!(
            "c2sp.org/tlog-proof@v1\nextra ZXh0cmE=\nindex 73894\n{hash}\n{hash}\n\nlog.example\n1\nx\n\n\
             \u{2014} log.example AAAAAAA=\n"
        );
        assert_eq!(text, wanted);
        for (extra, count) in [(None, 0), (None, 1), (Some(vec![]), 3), (Some(vec![1; 9]), 64)] {
            let one = bundle(extra, count);
            assert_eq!(ProofBundle::parse(one.encode().as_bytes()), Ok(one));
        }
    }

    #[test]
    fn nothing_else_is_a_proof() {
        let good = bundle(None, 1).encode();
        for (from, to) in [
            ("@v1", "@v2"),
            ("index 73894", "index 073894"),
            ("index 73894", "index +73894"),
            ("index 73894", "index"),
            ("index 73894\n", ""),
            ("BwcH", "BwcHBwcH"),
            ("BwcH", "!wcH"),
            ("\n\n", "\n"),
            ("index", "extra !\nindex"),
        ] {
            let bad = good.replace(from, to);
            assert!(ProofBundle::parse(bad.as_bytes()).is_err(), "{from} {to}");
        }
        assert!(
            ProofBundle::parse(bundle(None, PROOF_LIMIT_HASHES + 1).encode().as_bytes()).is_err()
        );
        let large = bundle(Some(vec![0; EXTRA_LIMIT_BYTES + 1]), 1).encode();
        assert!(ProofBundle::parse(large.as_bytes()).is_err());
        assert!(ProofBundle::parse(&vec![b'a'; BUNDLE_LIMIT_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn what_parses_is_written_the_same(text in "[ -~\n]{0,80}") {
            let sample = format!("{FIRST_LINE}\n{text}\n\nrest");
            if let Ok(bundle) = ProofBundle::parse(sample.as_bytes()) {
                prop_assert_eq!(bundle.encode(), sample);
            }
        }
    }
}

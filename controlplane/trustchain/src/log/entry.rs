//! Entries of the log: what is hashed into the tree (RFC 6962 section 3.4), what lies in a data tile
//! (C2SP static-ct-api, `TileLeaf`), and the leaf_index extension both carry. How an entry comes to be is in
//! `submission` and `sequencer`.

use super::merkle::{self, HASH_BYTES, Hash};
use super::wire::{Malformed, Reader, Writer};
use super::{CERTIFICATE_LIMIT_BYTES, CHAIN_LIMIT, LOG_LIMIT_ENTRIES};

const X509_ENTRY: u64 = 0;
const PRECERT_ENTRY: u64 = 1;
const LEAF_INDEX: u8 = 0;
const LEAF_INDEX_OCTETS: usize = 5;

/// Octets in front of an entry in a MerkleTreeLeaf: version 1 and timestamped_entry. The signed part of an SCT
/// begins with version 1 and certificate_timestamp, which are the same two octets, and goes on the same.
const LEAF_PREFIX: [u8; 2] = [0, 0];

/// What was logged, as it is hashed
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SignedEntry {
    /// A certificate; its SCT travels beside it
    Certificate {
        /// The certificate
        der: Vec<u8>,
    },
    /// A certificate that is to be; its SCT is embedded in it
    Precertificate {
        /// SHA-256 of the issuer's SubjectPublicKeyInfo
        issuer_key_hash: Hash,
        /// TBSCertificate without poison and without SCTs
        tbs_der: Vec<u8>,
    },
}

/// An entry with its time and place
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TimestampedEntry {
    /// Milliseconds since 1970
    pub timestamp_ms: u64,
    /// What was logged
    pub signed: SignedEntry,
    /// Its index in the log
    pub leaf_index: u64,
}

/// An entry as a data tile has it
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogEntry {
    /// What is hashed
    pub timestamped: TimestampedEntry,
    /// The precertificate; `None` for certificates
    pub precertificate_der: Option<Vec<u8>>,
    /// SHA-256 of each certificate of the issuing chain, the issuer first
    pub chain: Vec<Hash>,
}

impl TimestampedEntry {
    /// What is hashed into the tree and, the same octets, what an SCT signs
    /// (RFC 6962 sections 3.4 and 3.2)
    pub fn leaf(&self) -> Result<Vec<u8>, Malformed> {
        Ok(self.write(Writer::default().put(&LEAF_PREFIX))?.finish())
    }

    /// Hash of the leaf
    pub fn leaf_hash(&self) -> Result<Hash, Malformed> {
        Ok(merkle::leaf_hash(&self.leaf()?))
    }

    fn write(&self, writer: Writer) -> Result<Writer, Malformed> {
        let writer = writer.integer(self.timestamp_ms, 8);
        let writer = match &self.signed {
            SignedEntry::Certificate { der } => {
                writer.integer(X509_ENTRY, 2).vector(limited(der)?, 3, "certificate")?
            }
            SignedEntry::Precertificate { issuer_key_hash, tbs_der } => {
                let writer = writer.integer(PRECERT_ENTRY, 2).put(issuer_key_hash);
                writer.vector(limited(tbs_der)?, 3, "TBSCertificate")?
            }
        };
        writer.vector(&leaf_index_extension(self.leaf_index)?, 2, "extensions")
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let timestamp_ms = reader.integer(8)?;
        let signed = match reader.integer(2)? {
            X509_ENTRY => SignedEntry::Certificate { der: limited(reader.vector(3)?)?.to_vec() },
            PRECERT_ENTRY => SignedEntry::Precertificate {
                issuer_key_hash: reader.array()?,
                tbs_der: limited(reader.vector(3)?)?.to_vec(),
            },
            _ => return reader.malformed(),
        };
        let extensions = reader.vector(2)?;
        let leaf_index = leaf_index(extensions)?;
        // This log writes nothing but the index, so that every entry has one encoding.
        if extensions.len() != 3 + LEAF_INDEX_OCTETS {
            return reader.malformed();
        }
        Ok(Self { timestamp_ms, signed, leaf_index })
    }
}

impl LogEntry {
    /// As a data tile has it
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        if self.chain.is_empty() || self.chain.len() > CHAIN_LIMIT {
            return Err(Malformed("issuing chain"));
        }
        let writer = self.timestamped.write(Writer::default())?;
        let writer = match (&self.timestamped.signed, &self.precertificate_der) {
            (SignedEntry::Certificate { .. }, None) => writer,
            (SignedEntry::Precertificate { .. }, Some(der)) => {
                writer.vector(limited(der)?, 3, "precertificate")?
            }
            _ => return Err(Malformed("log entry")),
        };
        Ok(writer.vector(&self.chain.concat(), 2, "issuing chain")?.finish())
    }

    /// Reads every entry of a data tile, or of a part of one that ends between entries
    pub fn decode_all(bytes: &[u8]) -> Result<Vec<Self>, Malformed> {
        let mut reader = Reader::new(bytes, "log entry");
        let mut entries = Vec::new();
        while !reader.is_empty() {
            entries.push(Self::read(&mut reader)?);
        }
        Ok(entries)
    }

    /// Where the first `count` entries end
    pub fn prefix_bytes(bytes: &[u8], count: u16) -> Result<usize, Malformed> {
        let mut reader = Reader::new(bytes, "log entry");
        for _ in 0..count {
            Self::read(&mut reader)?;
        }
        Ok(bytes.len() - reader.rest().len())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let timestamped = TimestampedEntry::read(reader)?;
        let precertificate_der = match timestamped.signed {
            SignedEntry::Certificate { .. } => None,
            SignedEntry::Precertificate { .. } => Some(limited(reader.vector(3)?)?.to_vec()),
        };
        let (chain, rest) = reader.vector(2)?.as_chunks::<HASH_BYTES>();
        if chain.is_empty() || chain.len() > CHAIN_LIMIT || !rest.is_empty() {
            return reader.malformed();
        }
        Ok(Self { timestamped, precertificate_der, chain: chain.to_vec() })
    }
}

/// The extensions of an SCT or entry of this log: its index and nothing else
pub fn leaf_index_extension(leaf_index: u64) -> Result<Vec<u8>, Malformed> {
    if leaf_index >= LOG_LIMIT_ENTRIES {
        return Err(Malformed("leaf index"));
    }
    let index = Writer::default().integer(leaf_index, LEAF_INDEX_OCTETS).finish();
    let writer = Writer::default().put(&[LEAF_INDEX]);
    Ok(writer.vector(&index, 2, "leaf index")?.finish())
}

/// The index in the extensions of an SCT or entry; unknown extensions are skipped, repeated ones are not
/// tolerated
pub fn leaf_index(extensions: &[u8]) -> Result<u64, Malformed> {
    let mut reader = Reader::new(extensions, "leaf index");
    let (mut index, mut seen) = (None, Vec::new());
    while !reader.is_empty() {
        let kind = reader.octet()?;
        let mut data = Reader::new(reader.vector(2)?, "leaf index");
        if seen.contains(&kind) {
            return reader.malformed();
        }
        seen.push(kind);
        if kind == LEAF_INDEX {
            index = Some(data.integer(LEAF_INDEX_OCTETS)?);
            data.finish()?;
        }
    }
    index.ok_or(Malformed("leaf index"))
}

fn limited(der: &[u8]) -> Result<&[u8], Malformed> {
    let fits = !der.is_empty() && der.len() <= CERTIFICATE_LIMIT_BYTES;
    if fits { Ok(der) } else { Err(Malformed("certificate")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn precertificate() -> LogEntry {
        LogEntry {
            timestamped: TimestampedEntry {
                timestamp_ms: 0x0102_0304_0506_0708,
                signed: SignedEntry::Precertificate {
                    issuer_key_hash: [0xaa; 32],
                    tbs_der: vec![0xbb; 3],
                },
                leaf_index: 0x01_0203_0405,
            },
            precertificate_der: Some(vec![0xcc; 2]),
            chain: vec![[0xdd; 32], [0xee; 32]],
        }
    }

    fn certificate() -> LogEntry {
        let mut entry = precertificate();
        entry.timestamped.signed = SignedEntry::Certificate { der: vec![0xbb; 3] };
        entry.precertificate_der = None;
        entry
    }

    #[test]
    fn the_encoding_is_that_of_the_specification() {
        let extensions = [0, 8, 0, 0, 5, 1, 2, 3, 4, 5];
        let hashed = [
            &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1][..],
            &[0xaa; 32],
            &[0, 0, 3, 0xbb, 0xbb, 0xbb],
            &extensions,
        ]
        .concat();
        let entry = precertificate();
        assert_eq!(entry.timestamped.leaf().unwrap(), [&[0, 0][..], &hashed].concat());
        let tail = [&[0, 0, 2, 0xcc, 0xcc, 0, 64][..], &[0xdd; 32], &[0xee; 32]].concat();
        assert_eq!(entry.encode().unwrap(), [hashed, tail].concat());

        let hashed =
            [&[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 3, 0xbb, 0xbb, 0xbb][..], &extensions].concat();
        let tail = [&[0, 64][..], &[0xdd; 32], &[0xee; 32]].concat();
        assert_eq!(certificate().encode().unwrap(), [hashed, tail].concat());
    }

    #[test]
    fn entries_read_back_and_no_cut_does() {
        let entries = vec![precertificate(), certificate(), precertificate()];
        let encoded: Vec<Vec<u8>> = entries.iter().map(|one| one.encode().unwrap()).collect();
        let tile = encoded.concat();
        assert_eq!(LogEntry::decode_all(&tile).unwrap(), entries);
        let first = encoded[0].len();
        assert_eq!(LogEntry::prefix_bytes(&tile, 1), Ok(first));
        assert_eq!(LogEntry::prefix_bytes(&tile, 3), Ok(tile.len()));
        assert!(LogEntry::prefix_bytes(&tile, 4).is_err());
        for length in 1..first {
            assert!(LogEntry::decode_all(&tile[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn what_exceeds_a_limit_is_not_written() {
        let mut large = certificate();
        let der = vec![0; CERTIFICATE_LIMIT_BYTES + 1];
        large.timestamped.signed = SignedEntry::Certificate { der };
        assert!(large.encode().is_err());
        let mut far = certificate();
        far.timestamped.leaf_index = LOG_LIMIT_ENTRIES;
        assert!(far.encode().is_err());
        for chain in [vec![], vec![[0; 32]; CHAIN_LIMIT + 1]] {
            assert!(LogEntry { chain, ..certificate() }.encode().is_err());
        }
        assert!(LogEntry { precertificate_der: None, ..precertificate() }.encode().is_err());
    }

    #[test]
    fn the_index_is_found_among_other_extensions() {
        assert_eq!(leaf_index(&leaf_index_extension(77).unwrap()), Ok(77));
        let known = leaf_index_extension(77).unwrap();
        let unknown = [9, 0, 2, 1, 1];
        assert_eq!(leaf_index(&[&unknown[..], &known].concat()), Ok(77));
        assert!(leaf_index(&unknown).is_err());
        assert!(leaf_index(&[]).is_err());
        assert!(leaf_index(&[&known[..], &known].concat()).is_err());
        assert!(leaf_index(&[0, 0, 4, 0, 0, 0, 1]).is_err());
        assert!(leaf_index(&[0, 0, 6, 0, 0, 0, 0, 0, 1]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)
        ) {
            let entries = [precertificate(), certificate()];
            let mut tile: Vec<u8> =
                entries.iter().flat_map(|one| one.encode().unwrap()).collect();
            for (at, value) in flips {
                let at = at.index(tile.len());
                tile[at] = value;
            }
            if let Ok(entries) = LogEntry::decode_all(&tile) {
                let written: Result<Vec<_>, _> = entries.iter().map(LogEntry::encode).collect();
                prop_assert_eq!(written.unwrap().concat(), tile);
            }
        }
    }
}

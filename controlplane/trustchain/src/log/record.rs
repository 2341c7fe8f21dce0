//! The log's records in the journal: how they are written and read back. In which order they make sense is
//! known to `recovery`.

use super::LOG_LIMIT_ENTRIES;
use super::entry::LogEntry;
use super::merkle::Hash;
use super::wire::{Malformed, Reader, Writer};

/// Size of the largest record; with its frame it fits into one mebibyte
pub const RECORD_LIMIT_BYTES: usize = (1 << 20) - (4 << 10);
/// Octets of a batch that are no entries
pub(crate) const BATCH_OVERHEAD_BYTES: usize = 1 + 8 + 32;

const FORMAT_VERSION: u8 = 1;
const CREATED: u8 = 1;
const ISSUER: u8 = 2;
const BATCH: u8 = 3;
const HEAD: u8 = 4;

/// One record
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Record {
    /// The first record: which log this is
    Created {
        /// Its origin
        origin: String,
        /// Its public key
        spki_der: Vec<u8>,
        /// When it was made, in milliseconds since 1970
        created_ms: u64,
    },
    /// A certificate that chains refer to from here on
    Issuer {
        /// The certificate
        der: Vec<u8>,
    },
    /// Entries with one timestamp
    Batch {
        /// Index of the first
        first_index: u64,
        /// Root of the tree with all of them
        root: Hash,
        /// The entries, at least one
        entries: Vec<LogEntry>,
    },
    /// A signed head, as checkpoint
    Head {
        /// The signed note
        note: Vec<u8>,
    },
}

impl Record {
    /// The octets of the record
    pub fn encode(&self) -> Result<Vec<u8>, Malformed> {
        match self {
            Self::Created { origin, spki_der, created_ms } => {
                let writer = Writer::default().put(&[CREATED, FORMAT_VERSION]);
                let writer = writer.vector(origin.as_bytes(), 2, "origin")?;
                let writer = writer.vector(spki_der, 2, "public key")?;
                Ok(writer.integer(*created_ms, 8).finish())
            }
            Self::Issuer { der } => Ok(Writer::default().put(&[ISSUER]).put(der).finish()),
            Self::Batch { first_index, root, entries } => {
                let leaves: Result<Vec<_>, _> = entries.iter().map(LogEntry::encode).collect();
                Ok(encode_batch(*first_index, root, &leaves?))
            }
            Self::Head { note } => Ok(Writer::default().put(&[HEAD]).put(note).finish()),
        }
    }

    /// Reads a record; any octets may be given
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes, "journal record");
        if bytes.len() > RECORD_LIMIT_BYTES {
            return reader.malformed();
        }
        match reader.octet()? {
            CREATED => {
                if reader.octet()? != FORMAT_VERSION {
                    return Err(Malformed("journal record: written by another version"));
                }
                let origin = String::from_utf8(reader.vector(2)?.to_vec())
                    .map_err(|_| Malformed("journal record"))?;
                let spki_der = reader.vector(2)?.to_vec();
                let created_ms = reader.integer(8)?;
                reader.finish()?;
                Ok(Self::Created { origin, spki_der, created_ms })
            }
            ISSUER => Ok(Self::Issuer { der: reader.rest().to_vec() }),
            BATCH => {
                let (first_index, root) = (reader.integer(8)?, reader.array()?);
                let entries = LogEntry::decode_all(reader.rest())?;
                if entries.is_empty() || first_index >= LOG_LIMIT_ENTRIES {
                    return reader.malformed();
                }
                Ok(Self::Batch { first_index, root, entries })
            }
            HEAD => Ok(Self::Head { note: reader.rest().to_vec() }),
            _ => reader.malformed(),
        }
    }
}

/// A batch of entries that are encoded already
pub(crate) fn encode_batch(first_index: u64, root: &Hash, entries: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let writer = Writer::default().put(&[BATCH]).integer(first_index, 8).put(root);
    entries.iter().fold(writer, |writer, entry| writer.put(entry.as_ref())).finish()
}

#[cfg(test)]
mod tests {
    use super::super::entry::{SignedEntry, TimestampedEntry};
    use super::*;

    fn records() -> Vec<Record> {
        let entry = LogEntry {
            timestamped: TimestampedEntry {
                timestamp_ms: 5,
                signed: SignedEntry::Certificate { der: vec![1, 2, 3] },
                leaf_index: 7,
            },
            precertificate_der: None,
            chain: vec![[9; 32]],
        };
        let entries = vec![entry.clone(), entry];
        vec![
            Record::Created { origin: "log".into(), spki_der: vec![1], created_ms: 2 },
            Record::Issuer { der: vec![1, 2] },
            Record::Batch { first_index: 7, root: [3; 32], entries },
            Record::Head { note: b"note".to_vec() },
        ]
    }

    #[test]
    fn records_read_back() {
        for record in records() {
            let written = record.encode().unwrap();
            assert_eq!(Record::decode(&written), Ok(record));
        }
    }

    #[test]
    fn nothing_else_is_a_record() {
        for junk in [&[][..], &[0], &[5, 1, 2], &[CREATED, 9], &[BATCH; 41]] {
            assert!(Record::decode(junk).is_err(), "{junk:?}");
        }
        let batch = records()[2].encode().unwrap();
        assert!(Record::decode(&batch[..batch.len() - 1]).is_err());
        assert!(Record::decode(&batch[..BATCH_OVERHEAD_BYTES]).is_err());
        assert!(Record::decode(&vec![ISSUER; RECORD_LIMIT_BYTES + 1]).is_err());
    }
}

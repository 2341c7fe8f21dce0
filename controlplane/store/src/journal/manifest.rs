//! The small file that says which journal a directory holds and what was durable when it was last written: at
//! opening, at every new segment and at closing. It makes a lost last segment and a shortened tail visible,
//! and keeps a lost journal from being begun again in silence.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::format::{Chain, FORMAT_VERSION, Fault, Fields, JournalId, checksum};

const MAGIC: [u8; 8] = *b"STOQMANI";
const MANIFEST_BYTES: usize = 80;
const CHECKSUM_BYTES: usize = 16;

/// What is in the file
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Manifest {
    pub(super) journal: JournalId,
    /// The segment that entries go to
    pub(super) last_segment: u64,
    /// The last entry that was durable; zero if there was none
    pub(super) known_sequence: u64,
    /// Where the chain stood after it
    pub(super) known_chain: Chain,
    /// The journal was closed in order: nothing follows the known entry
    pub(super) clean: bool,
}

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MANIFEST_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.clean).to_le_bytes());
        bytes.extend_from_slice(self.journal.as_bytes());
        bytes.extend_from_slice(&self.last_segment.to_le_bytes());
        bytes.extend_from_slice(&self.known_sequence.to_le_bytes());
        bytes.extend_from_slice(&self.known_chain.0);
        bytes.extend_from_slice(&checksum::<CHECKSUM_BYTES>(&[&bytes]));
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() != MANIFEST_BYTES {
            return Err(Fault::Manifest);
        }
        let (said, sum) = bytes.split_at(MANIFEST_BYTES - CHECKSUM_BYTES);
        let mut fields = Fields(said);
        if fields.take() != Some(MAGIC) || checksum::<CHECKSUM_BYTES>(&[said]) != *sum {
            return Err(Fault::Manifest);
        }
        let version = fields.u32().ok_or(Fault::Manifest)?;
        if version != FORMAT_VERSION {
            return Err(Fault::Version(version));
        }
        let decode = |fields: &mut Fields<'_>| {
            let clean = fields.u32()? != 0;
            Some(Self {
                journal: JournalId::from_bytes(fields.take()?),
                last_segment: fields.u64()?,
                known_sequence: fields.u64()?,
                known_chain: Chain(fields.take()?),
                clean,
            })
        };
        decode(&mut fields).ok_or(Fault::Manifest)
    }

    /// Reads the file of a directory; the inner error is damage
    pub(super) fn read(directory: &Path) -> io::Result<Result<Self, Fault>> {
        let mut bytes = Vec::new();
        File::open(path(directory))?.take(MANIFEST_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(Self::decode(&bytes))
    }
}

pub(super) fn path(directory: &Path) -> PathBuf {
    directory.join("manifest")
}

/// Where the next manifest is written before it takes the place of the old one
pub(super) fn next_path(directory: &Path) -> PathBuf {
    directory.join("manifest.new")
}

/// Writes a file of its own, replacing what was there, and makes its content durable; the directory entry is
/// not durable yet
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes created, renamed and removed entries of a directory durable
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            journal: JournalId::from_bytes([4; 16]),
            last_segment: 9,
            known_sequence: 1_000,
            known_chain: Chain([6; 16]),
            clean: true,
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let bytes = sample().encode();
        assert_eq!(Manifest::decode(&bytes), Ok(sample()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Manifest::decode(&flipped), Err(Fault::Manifest), "bit {bit}");
        }
        assert_eq!(Manifest::decode(&bytes[1..]), Err(Fault::Manifest));
        assert_eq!(Manifest::decode(&[]), Err(Fault::Manifest));
    }

    #[test]
    fn another_version_is_named() {
        let mut bytes = sample().encode();
        bytes[8] = 7;
        let sum = checksum::<CHECKSUM_BYTES>(&[&bytes[..MANIFEST_BYTES - CHECKSUM_BYTES]]);
        bytes[MANIFEST_BYTES - CHECKSUM_BYTES..].copy_from_slice(&sum);
        assert_eq!(Manifest::decode(&bytes), Err(Fault::Version(7)));
    }
}

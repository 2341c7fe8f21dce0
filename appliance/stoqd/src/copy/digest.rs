//! The BLAKE3 of one file while it passes by. Small files are hashed where they are read or written; from
//! some size on a thread of its own hashes, so that hashing overlaps with file and flow.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;

use super::wire::Digest;

/// Octets hashed in place before a thread takes over
const LANE_AFTER_BYTES: u64 = 4 << 20;

/// Pieces waiting for the hashing thread
const LANE_QUEUE_PIECES: usize = 8;

enum Place {
    Here(Box<blake3::Hasher>),
    Lane { pieces: SyncSender<Bytes>, thread: JoinHandle<Box<blake3::Hasher>> },
}

/// The digest of the bytes so far
pub(super) struct FileDigest {
    place: Option<Place>,
    bytes: u64,
}

fn lost() -> io::Error {
    io::Error::other("the hashing thread ended before its file")
}

impl FileDigest {
    pub fn new() -> Self {
        Self { place: Some(Place::Here(Box::new(blake3::Hasher::new()))), bytes: 0 }
    }

    /// Adds a piece; may wait for the hashing thread
    pub fn update(&mut self, piece: Bytes) -> io::Result<()> {
        self.bytes += piece.len() as u64;
        self.place = Some(match self.place.take().ok_or_else(lost)? {
            Place::Here(hasher) if self.bytes > LANE_AFTER_BYTES => Self::lane(hasher, piece)?,
            Place::Here(mut hasher) => {
                hasher.update(&piece);
                Place::Here(hasher)
            }
            Place::Lane { pieces, thread } => {
                pieces.send(piece).map_err(|_| lost())?;
                Place::Lane { pieces, thread }
            }
        });
        Ok(())
    }

    fn lane(mut hasher: Box<blake3::Hasher>, first: Bytes) -> io::Result<Place> {
        let (pieces, queue) = sync_channel::<Bytes>(LANE_QUEUE_PIECES);
        let thread = thread::Builder::new().name("copy-digest".into()).spawn(move || {
            for piece in queue {
                hasher.update(&piece);
            }
            hasher
        })?;
        pieces.send(first).map_err(|_| lost())?;
        Ok(Place::Lane { pieces, thread })
    }

    /// The digest of everything added; more may be added afterwards
    pub fn current(&mut self) -> io::Result<Digest> {
        let hasher = match self.place.take().ok_or_else(lost)? {
            Place::Here(hasher) => hasher,
            Place::Lane { pieces, thread } => {
                drop(pieces);
                thread.join().map_err(|_| lost())?
            }
        };
        let digest = *hasher.finalize().as_bytes();
        self.place = Some(Place::Here(hasher));
        Ok(digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_same_in_place_and_in_the_lane() {
        let content: Vec<u8> = (0..10_000_000_u32).map(|index| ((index * 7) >> 3) as u8).collect();
        let mut digest = FileDigest::new();
        let mut done = 0;
        for piece in content.chunks(1_234_567) {
            digest.update(Bytes::copy_from_slice(piece)).unwrap();
            done += piece.len();
            if done < 3_000_000 || done == content.len() {
                let expected = blake3::hash(&content[..done]);
                assert_eq!(digest.current().unwrap(), *expected.as_bytes(), "{done}");
            }
        }
        assert!(matches!(digest.place, Some(Place::Here(_))));
    }
}

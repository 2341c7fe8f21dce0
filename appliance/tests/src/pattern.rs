//! Bytes that tell what they are: a stream of octets per seed, a target that answers with the digest of all it
//! got, and the client that compares.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::local::{Server, Stream};

const PIECE_BYTES: usize = 64 << 10;

/// The octets of a seed from an offset on
pub fn fill(seed: u64, offset: u64, out: &mut [u8]) {
    let mut octets = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    octets.set_position(offset);
    octets.fill(out);
}

/// The digest of the first `length` octets of a seed
pub fn digest_of(seed: u64, length: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for_pieces(seed, length, |piece| {
        hasher.update(piece);
    });
    *hasher.finalize().as_bytes()
}

fn for_pieces(seed: u64, length: u64, mut each: impl FnMut(&[u8])) {
    let mut octets = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut piece = vec![0; PIECE_BYTES];
    let mut left = length;
    while left > 0 {
        let now = left.min(PIECE_BYTES as u64) as usize;
        octets.fill(&mut piece[..now]);
        each(&piece[..now]);
        left -= now as u64;
    }
}

/// A target that reads until the end and then answers with the BLAKE3 of what it read
pub struct DigestSink {
    server: Server,
    read: Arc<AtomicU64>,
}

impl DigestSink {
    /// Behind a Unix socket at `path`
    pub fn start(path: &Path) -> Self {
        let read = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&read);
        let server = Server::unix(path, move |stream| serve(stream, &count));
        Self { server, read }
    }

    /// What `service publish --to` takes
    pub fn target(&self) -> String {
        self.server.target()
    }

    /// Octets read so far, over all connections
    pub fn bytes_read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

fn serve(mut stream: Stream, read: &AtomicU64) {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&piece[..count]);
                read.fetch_add(count as u64, Ordering::Relaxed);
            }
            // The flow was cut: the client's side of the test says so.
            Err(_) => return,
        }
    }
    // The client compares the answer, so that a lost one fails there.
    let _ = stream.write_all(hasher.finalize().as_bytes());
}

/// Sends the first `length` octets of a seed, half-closes, and says whether the digest that comes back is theirs
pub fn exchange_digest(mut stream: Stream, seed: u64, length: u64) -> std::io::Result<bool> {
    let mut failure = None;
    for_pieces(seed, length, |piece| {
        if failure.is_none() {
            failure = stream.write_all(piece).err();
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    stream.shut_write()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer == digest_of(seed, length))
}

/// Sends octets until told to stop, half-closes, and says how many they were and whether the digest is theirs
pub fn exchange_until(mut stream: Stream, stop: &AtomicBool) -> std::io::Result<(u64, bool)> {
    let mut octets = blake3::Hasher::new().finalize_xof();
    let mut piece = vec![0; PIECE_BYTES];
    octets.fill(&mut piece);
    let mut hasher = blake3::Hasher::new();
    let mut sent: u64 = 0;
    while !stop.load(Ordering::Acquire) {
        // Cheaper than a stream of its own, and no two pieces are the same.
        piece[..8].copy_from_slice(&sent.to_le_bytes());
        stream.write_all(&piece)?;
        hasher.update(&piece);
        sent += piece.len() as u64;
    }
    stream.shut_write()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok((sent, answer == hasher.finalize().as_bytes()))
}

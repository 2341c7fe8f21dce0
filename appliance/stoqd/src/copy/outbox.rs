//! The way from a role's file thread to the flow: small messages are packed together, large content goes as
//! it is, and a bounded queue holds the thread back while the flow is slower than the disk.

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::error::CopyError;
use super::wire::{Message, encode_data_header};

/// Octets packed before they are sent on
const PACK_BYTES: usize = 64 * 1024;

/// Content up to this length is copied into the pack, which is cheaper than a write of its own
const COPY_BYTES_MAX: usize = 16 * 1024;

pub(super) struct Outbox {
    packed: BytesMut,
    flow: mpsc::Sender<Bytes>,
    closed: bool,
}

impl Outbox {
    pub fn new(flow: mpsc::Sender<Bytes>) -> Self {
        Self { packed: BytesMut::new(), flow, closed: false }
    }

    /// Whether the flow takes nothing any more: what was queued since is lost
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    pub fn message(&mut self, message: &Message) -> Result<(), CopyError> {
        message.encode(&mut self.packed)?;
        if self.packed.len() >= PACK_BYTES {
            self.flush();
        }
        Ok(())
    }

    /// Content of the current file, at most [`super::wire::DATA_BYTES_MAX`] octets
    pub fn content(&mut self, content: Bytes) -> Result<(), CopyError> {
        encode_data_header(content.len(), &mut self.packed)?;
        if content.len() <= COPY_BYTES_MAX {
            self.packed.extend_from_slice(&content);
            if self.packed.len() >= PACK_BYTES {
                self.flush();
            }
        } else {
            self.flush();
            self.send(content);
        }
        Ok(())
    }

    /// Sends what is packed; to be called before the thread waits for the peer
    pub fn flush(&mut self) {
        if !self.packed.is_empty() {
            let packed = self.packed.split().freeze();
            self.send(packed);
        }
    }

    fn send(&mut self, piece: Bytes) {
        if !self.closed {
            self.closed = self.flow.blocking_send(piece).is_err();
        }
    }
}

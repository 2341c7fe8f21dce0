//! The bytes of `stoq/1.0`, encoded and parsed: variable-length integers, control frames, leg records
//! and call headers. Pure functions and incremental parsers over slices; what the values mean is decided
//! in `session` and `endpoint`. `PROTOCOL.md` is the specification; every parser here has a fuzz target.

mod call;
mod frame;
mod leg;
pub mod measure;
mod varint;

pub use call::{CallHeader, CallReader, CallReply};
pub use frame::{Frame, FrameReader, Hello, SessionId, VERSION};
pub use leg::{LegHeader, LegItem, LegReader, encode_record, encode_record_header};
pub use stoq_interface::CallStatus;
pub use varint::{put_varint, take_varint, varint_length};

/// Why bytes from a peer do not parse; each is a protocol error of the connection they came on
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    /// A frame is longer than this host accepts
    #[error("frame exceeds the limit")]
    FrameTooLong,
    /// A frame ends before its fields do, or goes on after them
    #[error("frame length disagrees with its content")]
    FrameLength,
    /// A frame type that must be understood is not
    #[error("unknown frame that must not be skipped")]
    UnknownFrame,
    /// A name is not one LDH label
    #[error("invalid name")]
    Name,
    /// A stream opens with an unknown type
    #[error("unknown stream type")]
    StreamType,
    /// Offset and length exceed 2^62-1
    #[error("offset overflows")]
    Overflow,
    /// A stream ended in the middle of a header or record
    #[error("stream ended inside a record")]
    Truncated,
    /// A call's body is longer than this host accepts
    #[error("call body exceeds the limit")]
    CallTooLong,
    /// A leg was stopped by its receiver, which the protocol has no use for
    #[error("leg stopped by its receiver")]
    LegStopped,
    /// A value outside its range
    #[error("value out of range")]
    Value,
}

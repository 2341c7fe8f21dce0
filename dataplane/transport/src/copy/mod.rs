//! The wire of the built-in `copy` service, sans-IO: what travels on the flow when files and trees are
//! copied, byte by byte as `COPY.md` beside this crate describes it. It turns bytes into messages and
//! messages into bytes and enforces every length. It neither reads nor writes files, keeps no state of a
//! transfer and knows no sockets; that is the engine's part in the daemon.

mod code;
mod decoder;
mod encode;
mod message;
mod path;
mod payload;
mod text;
mod varint;

pub use code::ErrorCode;
pub use decoder::{DecodeError, Decoder, Event};
pub use encode::{EncodeError, encode_data_header};
pub use message::{
    Digest, Direction, Entry, EntryKind, Held, Hello, HelloOptions, Message, Modified, Outcome,
    Source, Totals,
};
pub use path::{Component, EntryPath, PathError, RemotePath};
pub use text::{Escaped, LinkTarget, LinkTargetError, Text};
pub use varint::VARINT_MAX;

/// The protocol version this module speaks, as listed in HELLO
pub const VERSION: u64 = 1;

/// The most versions one HELLO may list
pub const VERSIONS_MAX: usize = 16;

/// The most octets of file content in one DATA message
pub const DATA_BYTES_MAX: usize = 1 << 20;

/// The most octets in the payload of any message but DATA, skippable ones included
pub const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// The most octets of one name inside a directory, the limit of every Linux file system
pub const COMPONENT_BYTES_MAX: usize = 255;

/// The most octets of a path, counting one separator between each two components
pub const PATH_BYTES_MAX: usize = 4096;

/// The most components of a path
pub const PATH_DEPTH_MAX: usize = 256;

/// The most octets of a symbolic link's target, one less than Linux's `PATH_MAX`
pub const TARGET_BYTES_MAX: usize = 4095;

/// The most octets of an error text
pub const TEXT_BYTES_MAX: usize = 1024;

/// The most entries a sender may have offered without having received their verdicts
pub const ENTRIES_IN_FLIGHT_MAX: usize = 1024;

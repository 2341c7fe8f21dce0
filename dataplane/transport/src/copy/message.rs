//! The messages of the copy protocol as types. How they are written is in `encode`, how they are read back
//! in `decoder` and `payload`; what order they may come in is the engine's knowledge.

use super::code::ErrorCode;
use super::path::{Component, EntryPath, RemotePath};
use super::text::{LinkTarget, Text};

/// A BLAKE3 digest
pub type Digest = [u8; 32];

/// The message types of COPY.md section 3. An odd number marks a type a receiver may skip; none is
/// defined yet.
pub(super) mod kind {
    pub(in super::super) const DATA: u64 = 0x00;
    pub(in super::super) const HELLO: u64 = 0x02;
    pub(in super::super) const WELCOME: u64 = 0x04;
    pub(in super::super) const SOURCE: u64 = 0x06;
    pub(in super::super) const ENTRY: u64 = 0x08;
    pub(in super::super) const PROBLEM: u64 = 0x0a;
    pub(in super::super) const END_OF_ENTRIES: u64 = 0x0c;
    pub(in super::super) const WANT: u64 = 0x0e;
    pub(in super::super) const BEGIN: u64 = 0x10;
    pub(in super::super) const END: u64 = 0x12;
    pub(in super::super) const ABORT: u64 = 0x14;
    pub(in super::super) const VERDICT: u64 = 0x16;
    pub(in super::super) const SUMMARY: u64 = 0x18;
    pub(in super::super) const ERROR: u64 = 0x1a;
}

/// Which way the files travel, seen from the side that opened the flow
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// The initiator sends
    Push,
    /// The initiator receives
    Pull,
}

/// What the initiator asks for
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct HelloOptions {
    /// The receiver compares files that look unchanged by content rather than by size and time
    pub verify_existing: bool,
}

/// The first message of the initiator
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// The versions it speaks, best first, 1 to [`super::VERSIONS_MAX`] of them
    pub versions: Vec<u64>,
    /// Which way the files travel
    pub direction: Direction,
    /// How
    pub options: HelloOptions,
    /// Where on the serving node
    pub path: RemotePath,
}

/// What the sender is about to send
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// The name under which it goes into an existing directory; `None`: its entries go there without one
    pub name: Option<Component>,
    /// Files counted before the transfer
    pub files: u64,
    /// Octets of their content
    pub bytes: u64,
}

/// A modification time as seconds and nanoseconds since 1970 UTC
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Modified {
    /// Whole seconds, negative before 1970; between -2^61 and 2^61 - 1
    pub seconds: i64,
    /// Nanoseconds after that, below 10^9
    pub nanoseconds: u32,
}

/// What an entry is
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum EntryKind {
    /// A directory; its content follows until [`EntryKind::DirectoryEnd`]
    Directory,
    /// A regular file of that many octets
    File {
        /// Octets of content
        size: u64,
    },
    /// A symbolic link
    Symlink {
        /// What it points at
        target: LinkTarget,
    },
    /// Everything inside the directory has been offered: its mode and time can be set
    DirectoryEnd,
}

/// One entry on offer. Entries are numbered from 0 in the order of their messages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Where, below the root of the transfer
    pub path: EntryPath,
    /// Permission bits, at most 0o7777
    pub mode: u16,
    /// Modification time
    pub modified: Modified,
    /// What it is
    pub kind: EntryKind,
}

/// What the receiver already holds of a file
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Held {
    /// Octets from the file's start, at least 1
    pub bytes: u64,
    /// Their BLAKE3
    pub digest: Digest,
}

/// How an entry ended
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The file arrived, its digest is right and it stands at its place
    Verified,
    /// The file was there already
    Unchanged,
    /// The directory, its end or the symbolic link is done
    Done,
    /// It is not there, or not as it should be
    Failed {
        /// Why
        code: ErrorCode,
        /// Why, for a reader
        text: Text,
    },
}

/// What a transfer came to, counted by the receiver
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Files whose content arrived and was verified
    pub files_verified: u64,
    /// Files that were there already
    pub files_unchanged: u64,
    /// Directories made or found
    pub directories: u64,
    /// Symbolic links made or found
    pub symlinks: u64,
    /// Entries that failed, PROBLEM messages included
    pub failed: u64,
    /// Octets of DATA, whatever became of them
    pub bytes_transferred: u64,
}

/// Every message but DATA, whose payload is handed on without being held
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Initiator: what is wanted
    Hello(Hello),
    /// Server: it is granted
    Welcome {
        /// The version chosen from HELLO
        version: u64,
    },
    /// Sender: what is coming
    Source(Source),
    /// Sender: one entry on offer
    Entry(Entry),
    /// Sender: something it cannot offer
    Problem {
        /// Where
        path: EntryPath,
        /// Why
        code: ErrorCode,
        /// Why, for a reader
        text: Text,
    },
    /// Sender: no further ENTRY or PROBLEM
    EndOfEntries,
    /// Receiver: send this file
    Want {
        /// The entry's number
        entry: u64,
        /// What need not be sent, if the sender finds it to be right
        held: Option<Held>,
    },
    /// Sender: the DATA that follows belongs to this file
    Begin {
        /// The entry's number
        entry: u64,
        /// Where in the file it starts: what the receiver holds, or 0
        offset: u64,
    },
    /// Sender: the file is complete
    End {
        /// BLAKE3 of the whole file
        digest: Digest,
    },
    /// Sender: the file cannot be sent, instead of BEGIN or of END
    Abort {
        /// The entry's number
        entry: u64,
        /// Why
        code: ErrorCode,
        /// Why, for a reader
        text: Text,
    },
    /// Receiver: how an entry ended; exactly one for each entry
    Verdict {
        /// The entry's number
        entry: u64,
        /// How
        outcome: Outcome,
    },
    /// Receiver: everything is settled and on stable storage
    Summary(Totals),
    /// Either side: the transfer ends here
    Error {
        /// Why
        code: ErrorCode,
        /// Why, for a reader
        text: Text,
    },
}

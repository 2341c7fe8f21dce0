//! The file a receiver writes before the real one takes its place: `.<name>.stoq-partial-<id>` beside it,
//! locked while a transfer is at work, left behind when it is interrupted, renamed only after its digest
//! was found to be right.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{self, AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::READ_BYTES;
use super::digest::FileDigest;
use super::error::Failure;
use super::metadata::{self, Metadata};
use super::wire::{COMPONENT_BYTES_MAX, Digest, EntryPath, ErrorCode, Held, Modified};

const MARK: &[u8] = b".stoq-partial-";
const ID_OCTETS: usize = 8;
const NAME_BYTES_MAX: usize = COMPONENT_BYTES_MAX - 1 - MARK.len() - 2 * ID_OCTETS;

/// Smaller files are not preallocated: the file system places them well when it writes them out.
const PREALLOCATE_FROM_BYTES: u64 = 1 << 20;

/// The name of the partial file for `name`: the id is the start of the name's BLAKE3, so that a name too
/// long to be held whole still has a partial file of its own
pub(super) fn name_for(name: &[u8]) -> Vec<u8> {
    let id = blake3::hash(name).to_hex();
    let mut partial = vec![b'.'];
    partial.extend_from_slice(&name[..name.len().min(NAME_BYTES_MAX)]);
    partial.extend_from_slice(MARK);
    partial.extend_from_slice(&id.as_bytes()[..2 * ID_OCTETS]);
    partial
}

/// Whether a name is one that [`name_for`] gives
pub(super) fn is_reserved(name: &[u8]) -> bool {
    let Some((front, id)) = name.split_at_checked(name.len().saturating_sub(2 * ID_OCTETS)) else {
        return false;
    };
    front.first() == Some(&b'.')
        && front.ends_with(MARK)
        && id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Reads at most `limit` octets, fewer only at the end of the file
pub(super) fn read_piece(file: &File, limit: u64) -> io::Result<Bytes> {
    let limit = limit.min(READ_BYTES as u64);
    let mut piece = Vec::with_capacity(limit as usize);
    file.take(limit).read_to_end(&mut piece)?;
    Ok(piece.into())
}

/// Hashes the first `bytes` octets from the file's position on; false if the file is shorter
pub(super) fn hash_prefix(file: &File, bytes: u64, digest: &mut FileDigest) -> io::Result<bool> {
    let mut remaining = bytes;
    while remaining > 0 {
        let piece = read_piece(file, remaining)?;
        if piece.is_empty() {
            return Ok(false);
        }
        remaining -= piece.len() as u64;
        digest.update(piece)?;
    }
    Ok(true)
}

/// Where a file goes and what it will be
#[derive(Clone)]
pub(super) struct Target {
    pub parent: Arc<OwnedFd>,
    pub name: Vec<u8>,
    pub path: EntryPath,
    pub size: u64,
    pub mode: u16,
    pub modified: Modified,
}

/// A partial file being written
pub(super) struct Partial {
    target: Target,
    partial_name: Vec<u8>,
    file: File,
    digest: FileDigest,
    written: u64,
}

impl Partial {
    /// Takes up what an interrupted transfer left, if there is anything of use
    pub fn resume(target: &Target) -> Result<Option<(Self, Held)>, Failure> {
        let partial_name = name_for(&target.name);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(&target.parent, &*partial_name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            // Whatever cannot be opened is of no use here; `start` says what is wrong with it.
            Err(_) => return Ok(None),
        };
        let failed = |error| Failure::io("read the partial file of", &target.path, error);
        let metadata = Metadata::of(&file).map_err(|error| failed(error.into()))?;
        let usable = is_ours(&metadata) && (1..=target.size).contains(&metadata.size);
        if !usable {
            return Ok(None);
        }
        lock(&file, &target.path)?;
        let mut digest = FileDigest::new();
        if !hash_prefix(&file, metadata.size, &mut digest).map_err(failed)? {
            return Ok(None);
        }
        let held = Held { bytes: metadata.size, digest: digest.current().map_err(failed)? };
        let (target, written) = (target.clone(), metadata.size);
        Ok(Some((Self { target, partial_name, file, digest, written }, held)))
    }

    /// An empty partial file, whatever was there before
    pub fn start(target: Target) -> Result<Self, Failure> {
        let partial_name = name_for(&target.name);
        let file = create(&target, &partial_name)?;
        let digest = FileDigest::new();
        Ok(Self { target, partial_name, file, digest, written: 0 })
    }

    /// Forgets what was held
    pub fn restart(mut self) -> Result<Self, Failure> {
        let failed = |error| Failure::io("truncate the partial file of", &self.target.path, error);
        self.file.set_len(0).map_err(failed)?;
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        self.digest = FileDigest::new();
        self.written = 0;
        Ok(self)
    }

    /// Octets in the file so far
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes sure there is room for the rest, so that a full disk is found before the data travels
    pub fn reserve(&self) -> Result<(), Failure> {
        let missing = self.target.size.saturating_sub(self.written);
        if missing < PREALLOCATE_FROM_BYTES {
            return Ok(());
        }
        let path = &self.target.path;
        let room = fs::fstatvfs(&self.file)
            .map_err(|error| Failure::io("ask for the free space for", path, error))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        // Some network file systems report no blocks at all; only a write will tell there.
        if room.f_blocks > 0 && free < missing {
            let text = format_args!("no space for '{path}': {missing} octets needed, {free} free");
            return Err(Failure::new(ErrorCode::NoSpace, text));
        }
        match fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.written, missing) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(Failure::io("reserve space for", path, error)),
        }
    }

    /// Appends content; the caller has made sure that it does not exceed the file's size
    pub fn write(&mut self, piece: Bytes) -> Result<(), Failure> {
        let failed = |error| Failure::io("write", &self.target.path, error);
        self.digest.update(piece.clone()).map_err(failed)?;
        self.file.write_all(&piece).map_err(failed)?;
        self.written += piece.len() as u64;
        Ok(())
    }

    /// Verifies the content and puts the file in its place. On a wrong digest the partial file is removed.
    pub fn finish(mut self, expected: Digest) -> Result<(), Failure> {
        let path = self.target.path.clone();
        let failed = |action: &'static str| {
            let path = path.clone();
            move |error: io::Error| Failure::io(action, &path, error)
        };
        let actual = self.digest.current().map_err(failed("hash"))?;
        if actual != expected {
            self.remove()?;
            return Err(Failure::new(
                ErrorCode::DigestMismatch,
                format_args!(
                    "'{path}' arrived with BLAKE3 {} where {} was announced; it was discarded",
                    blake3::Hash::from_bytes(actual),
                    blake3::Hash::from_bytes(expected)
                ),
            ));
        }
        metadata::apply_to_file(&self.file, self.target.mode, self.target.modified)
            .map_err(|error| failed("set mode and time of")(error.into()))?;
        self.file.sync_all().map_err(failed("flush"))?;
        let written = Metadata::of(&self.file).map_err(|error| failed("read")(error.into()))?;
        let named = Metadata::at(&self.target.parent, &self.partial_name);
        let named = named.map_err(|error| failed("read")(error.into()))?;
        if named.map(|metadata| metadata.inode) != Some(written.inode) {
            let text = format_args!("the partial file of '{path}' was replaced while in use");
            return Err(Failure::new(ErrorCode::Busy, text));
        }
        let Target { parent, name, .. } = &self.target;
        fs::renameat(parent, &*self.partial_name, parent, &**name)
            .map_err(|error| failed("put in place")(error.into()))
    }

    /// Removes the partial file
    pub fn remove(self) -> Result<(), Failure> {
        fs::unlinkat(&self.target.parent, &*self.partial_name, AtFlags::empty())
            .map_err(|error| Failure::io("remove the partial file of", &self.target.path, error))
    }

    /// Ends without the file being complete: what is held stays for the next run, an empty file does not
    pub fn leave(self) -> Result<(), Failure> {
        if self.written == 0 { self.remove() } else { Ok(()) }
    }
}

/// Whether an existing file may be written to: nobody else can reach or own it
fn is_ours(metadata: &Metadata) -> bool {
    metadata.kind == FileType::RegularFile
        && metadata.links == 1
        && metadata.owner == rustix::process::geteuid().as_raw()
}

fn lock(file: &File, path: &EntryPath) -> Result<(), Failure> {
    match fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::WOULDBLOCK) => {
            let text = format_args!("another copy is writing '{path}'");
            Err(Failure::new(ErrorCode::Busy, text))
        }
        Err(error) => Err(Failure::io("lock the partial file of", path, error)),
    }
}

/// Opens the partial file empty and locked
fn create(target: &Target, partial_name: &[u8]) -> Result<File, Failure> {
    let failed = |error| Failure::io("create the partial file of", &target.path, error);
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let owner_only = Mode::RUSR | Mode::WUSR;
    let opened = fs::openat(&target.parent, partial_name, flags, owner_only);
    let usable = match opened {
        Ok(file) => is_ours(&Metadata::of(&file).map_err(failed)?).then_some(file),
        Err(Errno::LOOP | Errno::NXIO) => None,
        Err(error) => return Err(failed(error)),
    };
    let file = match usable {
        Some(file) => file,
        None => {
            // A link, a device or somebody else's file stands there: it goes, what it refers to stays.
            fs::unlinkat(&target.parent, partial_name, AtFlags::empty()).map_err(failed)?;
            fs::openat(&target.parent, partial_name, flags | OFlags::EXCL, owner_only)
                .map_err(failed)?
        }
    };
    let file = File::from(file);
    lock(&file, &target.path)?;
    file.set_len(0)
        .map_err(|error| Failure::io("truncate the partial file of", &target.path, error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(room: &tempfile::TempDir, name: &[u8], size: u64) -> Target {
        let parent = Arc::new(OwnedFd::from(File::open(room.path()).unwrap()));
        let path = EntryPath::root().join(name).unwrap();
        let modified = Modified { seconds: 1_000, nanoseconds: 5 };
        Target { parent, name: name.to_vec(), path, size, mode: 0o4755, modified }
    }

    fn refused<T>(result: Result<T, Failure>) -> Failure {
        result.err().expect("this must be refused")
    }

    #[test]
    fn partial_names_are_legal_distinct_and_recognised() {
        let long = [b'x'; 255];
        let mut other = long;
        other[254] = b'y';
        assert_ne!(name_for(&long), name_for(&other));
        for name in [b"a".as_slice(), &long, b"\xff"] {
            assert!(name_for(name).len() <= 255);
            assert!(is_reserved(&name_for(name)));
        }
        assert!(name_for(b"a").starts_with(b".a.stoq-partial-"));
        for ordinary in
            [b"a".as_slice(), b".stoq-partial-", b".a.stoq-partial-123456789abcdeFG", b""]
        {
            assert!(!is_reserved(ordinary));
        }
    }

    #[test]
    fn a_wrong_digest_leaves_nothing_behind_and_names_the_file() {
        let room = tempfile::tempdir().unwrap();
        let mut partial = Partial::start(target(&room, b"a", 3)).unwrap();
        partial.write(Bytes::from_static(b"abc")).unwrap();
        let failure = refused(partial.finish([0; 32]));
        assert_eq!(failure.code, ErrorCode::DigestMismatch);
        assert!(failure.text.as_str().contains("'a'"));
        assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_remainder_is_taken_up_and_set_user_id_is_dropped() {
        use std::os::unix::fs::MetadataExt as _;
        let room = tempfile::tempdir().unwrap();
        let target = target(&room, b"a", 6);
        let mut partial = Partial::start(target.clone()).unwrap();
        partial.write(Bytes::from_static(b"abc")).unwrap();
        partial.leave().unwrap();
        let (mut partial, held) = Partial::resume(&target).unwrap().unwrap();
        assert_eq!(held, Held { bytes: 3, digest: *blake3::hash(b"abc").as_bytes() });
        partial.write(Bytes::from_static(b"def")).unwrap();
        partial.finish(*blake3::hash(b"abcdef").as_bytes()).unwrap();
        let metadata = std::fs::metadata(room.path().join("a")).unwrap();
        assert_eq!(
            (metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()),
            (0o755, 1_000, 5)
        );
        assert_eq!(std::fs::read(room.path().join("a")).unwrap(), b"abcdef");
        assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), 1);
    }

    #[test]
    fn two_copies_do_not_write_the_same_file() {
        let room = tempfile::tempdir().unwrap();
        let target = target(&room, b"a", 6);
        let mut first = Partial::start(target.clone()).unwrap();
        first.write(Bytes::from_static(b"abc")).unwrap();
        assert_eq!(refused(Partial::start(target.clone())).code, ErrorCode::Busy);
        assert_eq!(refused(Partial::resume(&target)).code, ErrorCode::Busy);
        first.leave().unwrap();
        assert!(Partial::start(target).is_ok());
    }

    #[test]
    fn a_planted_partial_file_does_not_lead_elsewhere() {
        let room = tempfile::tempdir().unwrap();
        let victim = room.path().join("victim");
        std::fs::write(&victim, "precious").unwrap();
        let target = target(&room, b"a", 3);
        let planted = room.path().join(str::from_utf8(&name_for(b"a")).unwrap());
        std::os::unix::fs::symlink(&victim, &planted).unwrap();
        drop(Partial::start(target.clone()).unwrap());
        std::fs::remove_file(&planted).unwrap();
        std::fs::hard_link(&victim, &planted).unwrap();
        assert!(Partial::resume(&target).unwrap().is_none());
        drop(Partial::start(target).unwrap());
        assert_eq!(std::fs::read(&victim).unwrap(), b"precious");
    }

    #[test]
    fn more_than_the_disk_holds_is_refused_beforehand_with_figures() {
        let room = tempfile::tempdir().unwrap();
        let partial = Partial::start(target(&room, b"huge", 1 << 60)).unwrap();
        let failure = refused(partial.reserve());
        assert_eq!(failure.code, ErrorCode::NoSpace);
        assert!(failure.text.as_str().contains(&(1_u64 << 60).to_string()), "{}", failure.text);
    }
}

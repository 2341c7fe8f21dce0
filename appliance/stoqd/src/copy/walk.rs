//! The sender's walk over a tree: depth first, one open directory per level, nothing followed and nothing
//! collected, so memory does not grow with the tree. What cannot be copied is named, never passed over.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, Dir, FileType};

use super::error::Failure;
use super::metadata::{Metadata, special_name};
use super::partial;
use super::place::{Place, explain, open_directory, reopen};
use super::wire::{Entry, EntryKind, EntryPath, ErrorCode, LinkTarget};

/// What the walk meets
pub(super) enum Step {
    Entry(Entry),
    Problem(EntryPath, Failure),
}

struct Level {
    directory: Dir,
    path: EntryPath,
    metadata: Metadata,
}

/// A walk in progress; an iterator over its steps
pub(super) struct Walk {
    levels: Vec<Level>,
    /// The root's step, found when the walk was set up
    first: Option<Step>,
}

fn entry(path: &EntryPath, metadata: &Metadata, kind: EntryKind) -> Step {
    let Metadata { mode, modified, .. } = *metadata;
    Step::Entry(Entry { path: path.clone(), mode, modified, kind })
}

impl Walk {
    /// A walk from `place` downwards
    pub fn new(place: &Place) -> Self {
        let root = EntryPath::root();
        let mut walk = Self { levels: Vec::new(), first: None };
        let first = match place {
            Place::Directory(directory) => reopen(directory)
                .and_then(|directory| walk.enter(directory, &root))
                .unwrap_or_else(|error| Step::Problem(root, Failure::io("read", ".", error))),
            Place::Leaf { parent, name, .. } => walk.visit(parent.as_fd(), name.as_bytes(), root),
        };
        walk.first = Some(first);
        walk
    }

    /// Counts the files a walk from `place` meets, and their octets
    pub fn count(place: &Place) -> (u64, u64) {
        Self::new(place).fold((0, 0), |(files, bytes), step| match step {
            Step::Entry(Entry { kind: EntryKind::File { size }, .. }) => {
                (files + 1, u64::saturating_add(bytes, size))
            }
            _ => (files, bytes),
        })
    }

    fn enter(
        &mut self,
        directory: std::os::fd::OwnedFd,
        path: &EntryPath,
    ) -> Result<Step, rustix::io::Errno> {
        let metadata = Metadata::of(&directory)?;
        let step = entry(path, &metadata, EntryKind::Directory);
        self.levels.push(Level { directory: Dir::new(directory)?, path: path.clone(), metadata });
        Ok(step)
    }

    /// The step for one name in a directory; a directory becomes the next level
    fn visit(&mut self, parent: BorrowedFd<'_>, name: &[u8], path: EntryPath) -> Step {
        match self.look(parent, name, &path) {
            Ok(step) => step,
            Err(failure) => Step::Problem(path, failure),
        }
    }

    fn look(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: &EntryPath,
    ) -> Result<Step, Failure> {
        if partial::is_reserved(name) {
            let text = format_args!("'{path}' is the remainder of another copy");
            return Err(Failure::new(ErrorCode::NameReserved, text));
        }
        let metadata = Metadata::at(parent, name)
            .and_then(|found| found.ok_or(rustix::io::Errno::NOENT))
            .map_err(|error| Failure::io("read", path, error))?;
        match metadata.kind {
            FileType::RegularFile => {
                Ok(entry(path, &metadata, EntryKind::File { size: metadata.size }))
            }
            FileType::Directory => open_directory(parent, name)
                .and_then(|directory| self.enter(directory, path))
                .map_err(|error| explain(parent, name, path, error)),
            FileType::Symlink => {
                let target = fs::readlinkat(parent, name, Vec::new())
                    .map_err(|error| Failure::io("read the link", path, error))?;
                let target = LinkTarget::new(target.as_bytes()).map_err(|error| {
                    Failure::new(ErrorCode::Limit, format_args!("'{path}': {error}"))
                })?;
                Ok(entry(path, &metadata, EntryKind::Symlink { target }))
            }
            special => Err(Failure::new(
                ErrorCode::SpecialFile,
                format_args!("'{path}' is {}, which has no content", special_name(special)),
            )),
        }
    }

    /// The next name of the deepest level, or the end of that level
    fn advance(&mut self) -> Option<Step> {
        let mut level = self.levels.pop()?;
        let found = loop {
            match level.directory.read() {
                Some(Ok(found)) if matches!(found.file_name().to_bytes(), b"." | b"..") => {}
                other => break other,
            }
        };
        let found = match found {
            None => return Some(entry(&level.path, &level.metadata, EntryKind::DirectoryEnd)),
            Some(Ok(found)) => found,
            Some(Err(error)) => {
                // The iterator ends after its first error; the level's end comes with the next step.
                let path = level.path.clone();
                self.levels.push(level);
                let failure = Failure::io("read the directory", &path, error);
                return Some(Step::Problem(path, failure));
            }
        };
        let name = found.file_name().to_bytes();
        let depth = self.levels.len();
        let step = match (level.path.join(name), level.directory.fd()) {
            (Ok(path), Ok(directory)) => self.visit(directory, name, path),
            (Err(error), _) => {
                let text = format_args!("an entry of '{}' is left out: {error}", level.path);
                Step::Problem(level.path.clone(), Failure::new(ErrorCode::Limit, text))
            }
            (_, Err(error)) => {
                let failure = Failure::io("read the directory", &level.path, error);
                Step::Problem(level.path.clone(), failure)
            }
        };
        // Below the level that `visit` may have added.
        self.levels.insert(depth, level);
        Some(step)
    }
}

impl Iterator for Walk {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        self.first.take().or_else(|| self.advance())
    }
}

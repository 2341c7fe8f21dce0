//! Directories as open descriptors. Paths that a peer influences are resolved from such a descriptor
//! component by component, and a symbolic link on the way is refused: nothing a peer says, and nothing that
//! lies in a served directory, leads out of it. Paths the operator of this host gives are resolved as the
//! shell would.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::error::{CopyError, Failure};
use super::metadata::Metadata;
use super::wire::{Component, EntryPath, ErrorCode};

/// Where a transfer starts or ends on this host
#[derive(Debug)]
pub(super) enum Place {
    /// A directory that exists
    Directory(OwnedFd),
    /// A name in a directory, there or not
    Leaf {
        parent: OwnedFd,
        name: Component,
        /// The path was written with a slash at its end
        directory_required: bool,
    },
}

impl Place {
    /// Fails unless something is there
    pub fn require(&self, path: impl std::fmt::Display) -> Result<(), Failure> {
        let Self::Leaf { parent, name, .. } = self else { return Ok(()) };
        match Metadata::at(parent, name.as_bytes()) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                Err(Failure::new(ErrorCode::NotFound, format_args!("there is no '{path}'")))
            }
            Err(error) => Err(Failure::io("read", path, error)),
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory whose path the operator of this host gave
fn open_trusted(path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    fs::open(path, DIRECTORY, Mode::empty())
}

/// Opens the directory `name`, which must not be a symbolic link
pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens a directory once more, with a reading position of its own
pub(super) fn reopen(directory: impl AsFd) -> Result<OwnedFd, Errno> {
    fs::openat(directory, ".", DIRECTORY, Mode::empty())
}

/// Opens the directory `path` below `base` without following a symbolic link anywhere
pub(super) fn open_beneath(base: BorrowedFd<'_>, path: &EntryPath) -> Result<OwnedFd, Failure> {
    let mut current = reopen(base).map_err(|error| Failure::io("open", path, error))?;
    let mut walked = EntryPath::root();
    for component in path.components() {
        walked = walked
            .join(component)
            .map_err(|error| Failure::new(ErrorCode::Limit, format_args!("'{path}': {error}")))?;
        current = open_directory(current.as_fd(), component)
            .map_err(|error| explain(current.as_fd(), component, &walked, error))?;
    }
    Ok(current)
}

/// Says why a component could not be opened as a directory
pub(super) fn explain(
    parent: BorrowedFd<'_>,
    name: &[u8],
    path: &EntryPath,
    error: Errno,
) -> Failure {
    let kind = Metadata::at(parent, name).ok().flatten().map(|metadata| metadata.kind);
    match (error, kind) {
        (Errno::NOTDIR | Errno::LOOP, Some(FileType::Symlink)) => Failure::new(
            ErrorCode::SymlinkInPath,
            format_args!("'{path}' is a symbolic link; a copy follows none, name its target"),
        ),
        (Errno::NOTDIR, Some(_)) => {
            Failure::new(ErrorCode::NotADirectory, format_args!("'{path}' is not a directory"))
        }
        _ => Failure::io("open the directory", path, error),
    }
}

/// A tree below an open directory. The directory used last is kept open, as entries come in tree order.
pub(super) struct Tree {
    base: Arc<OwnedFd>,
    last: Option<(EntryPath, Arc<OwnedFd>)>,
}

impl Tree {
    pub fn new(base: OwnedFd) -> Self {
        Self { base: Arc::new(base), last: None }
    }

    /// The directory `path`
    pub fn directory(&mut self, path: &EntryPath) -> Result<Arc<OwnedFd>, Failure> {
        if path.is_root() {
            return Ok(Arc::clone(&self.base));
        }
        if let Some((last, directory)) = &self.last
            && last == path
        {
            return Ok(Arc::clone(directory));
        }
        let directory = Arc::new(open_beneath(self.base.as_fd(), path)?);
        self.last = Some((path.clone(), Arc::clone(&directory)));
        Ok(directory)
    }
}

/// How a path the operator typed ends
struct Typed<'a> {
    parent: &'a Path,
    /// `None` if the path names a directory's content: `.`, `..`, `/`, or anything ending in `/.`
    name: Option<&'a [u8]>,
    slash: bool,
}

fn read_typed(path: &Path) -> Typed<'_> {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let contents = bytes[..end] == *b"." || bytes[..end].ends_with(b"/.");
    Typed {
        parent: path.parent().unwrap_or(Path::new("")),
        name: path.file_name().filter(|_| !contents).map(OsStrExt::as_bytes),
        slash: end < bytes.len(),
    }
}

fn local(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> CopyError {
    let path = PathBuf::from(path);
    move |error| CopyError::Local { action, path, cause: error.into() }
}

fn leaf(path: &Path, typed: &Typed<'_>, name: &[u8]) -> Result<Place, CopyError> {
    let parent = open_trusted(typed.parent).map_err(local("open the directory of", path))?;
    let name = Component::new(name).map_err(|error| CopyError::Local {
        action: "use the name of",
        path: path.into(),
        cause: io::Error::new(io::ErrorKind::InvalidInput, error),
    })?;
    Ok(Place::Leaf { parent, name, directory_required: typed.slash })
}

/// The source of a push, and the name it has there. As with `cp -r`: a symbolic link is itself the source
/// unless it is written with a slash at its end.
pub(super) fn local_source(path: &Path) -> Result<(Place, Option<Component>), CopyError> {
    let typed = read_typed(path);
    let open = || open_trusted(path).map_err(local("open the directory", path));
    match typed.name {
        None => Ok((Place::Directory(open()?), None)),
        Some(name) => match leaf(path, &typed, name)? {
            Place::Leaf { name, .. } if typed.slash => Ok((Place::Directory(open()?), Some(name))),
            Place::Leaf { parent, name, directory_required } => {
                let found = Metadata::at(&parent, name.as_bytes());
                if found.map_err(local("read", path))?.is_none() {
                    return Err(local("read", path)(Errno::NOENT));
                }
                let label = Some(name.clone());
                Ok((Place::Leaf { parent, name, directory_required }, label))
            }
            directory @ Place::Directory(_) => Ok((directory, None)),
        },
    }
}

/// The destination of a pull: an existing directory, reached through symbolic links if need be, or a name
/// in one
pub(super) fn local_destination(path: &Path) -> Result<Place, CopyError> {
    let typed = read_typed(path);
    match (open_trusted(path), typed.name) {
        (Ok(directory), _) => Ok(Place::Directory(directory)),
        (Err(Errno::NOENT | Errno::NOTDIR), Some(name)) => leaf(path, &typed, name),
        (Err(error), _) => Err(local("open the directory", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn typed_paths_end_as_cp_reads_them() {
        for (path, name, slash) in [
            ("a/b", Some("b"), false),
            ("a/b/", Some("b"), true),
            ("a/.", None, false),
            ("a/./", None, true),
            (".", None, false),
            ("..", None, false),
            ("/", None, true),
            ("b", Some("b"), false),
        ] {
            let typed = read_typed(Path::new(path));
            assert_eq!(typed.name, name.map(str::as_bytes), "{path}");
            assert_eq!(typed.slash, slash, "{path}");
        }
    }

    #[test]
    fn a_link_on_the_way_is_refused_by_name() {
        let room = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(room.path().join("a/b")).unwrap();
        std::fs::write(room.path().join("a/file"), "x").unwrap();
        symlink("b", room.path().join("a/link")).unwrap();
        let base = open_trusted(room.path()).unwrap();
        let open = |names: &[&[u8]]| {
            open_beneath(base.as_fd(), &EntryPath::from_components(names.iter().copied()).unwrap())
        };
        assert!(open(&[b"a", b"b"]).is_ok());
        let refused = open(&[b"a", b"link"]).unwrap_err();
        assert_eq!(refused.code, ErrorCode::SymlinkInPath);
        assert!(refused.text.as_str().contains("'a/link'"), "{}", refused.text);
        assert_eq!(open(&[b"a", b"file"]).unwrap_err().code, ErrorCode::NotADirectory);
        assert_eq!(open(&[b"a", b"none"]).unwrap_err().code, ErrorCode::NotFound);
    }
}

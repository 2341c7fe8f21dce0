//! Which directories of this node peers may copy from and to, and how a peer's path is resolved in them.
//! Who may come at all is decided before.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{self, Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags};

use super::error::{CopyError, Failure};
use super::metadata::Metadata;
use super::place::{Place, open_beneath, open_directory};
use super::wire::{Component, EntryPath, ErrorCode, RemotePath};

/// What the peer of one flow may do
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Permission {
    /// Pull files from this node
    pub read: bool,
    /// Push files to this node
    pub write: bool,
}

/// The directories of this node that the copy service reaches. A peer's absolute path must lie in one of
/// them; its relative path starts in the first.
#[derive(Clone, Debug)]
pub struct Roots {
    directories: Vec<PathBuf>,
}

impl Roots {
    /// Takes absolute paths without `..`. They are opened anew for each transfer and, as the operator's own
    /// words, may lead through symbolic links.
    pub fn new(directories: impl IntoIterator<Item = PathBuf>) -> Result<Self, CopyError> {
        let directories: Vec<PathBuf> = directories.into_iter().collect();
        let climbs = |path: &Path| {
            path.components().any(|component| component == path::Component::ParentDir)
        };
        match directories.iter().find(|path| !path.is_absolute() || climbs(path)) {
            Some(unfit) => Err(CopyError::Root(unfit.clone())),
            None => Ok(Self { directories }),
        }
    }

    /// The root a path lies in and the rest of the path
    fn locate(&self, remote: &RemotePath) -> Result<(&Path, EntryPath), Failure> {
        let outside = || {
            let served: Vec<_> =
                self.directories.iter().map(|path| path.display().to_string()).collect();
            Failure::new(
                ErrorCode::OutsideRoots,
                format_args!(
                    "'{remote}' lies in no directory this node serves ({})",
                    if served.is_empty() { "none".into() } else { served.join(", ") }
                ),
            )
        };
        if !remote.absolute {
            let first = self.directories.first().ok_or_else(outside)?;
            return Ok((first, remote.path.clone()));
        }
        let asked: Vec<&[u8]> = remote.path.components().collect();
        let deepest = self
            .directories
            .iter()
            .map(|root| (root, names(root)))
            .filter(|(_, names)| asked.starts_with(names))
            .max_by_key(|(_, names)| names.len());
        let (root, names) = deepest.ok_or_else(outside)?;
        let rest = EntryPath::from_components(asked[names.len()..].iter().copied())
            .map_err(|error| Failure::new(ErrorCode::Limit, error))?;
        Ok((root, rest))
    }

    /// The place a peer's path means, and the name it has there
    pub(super) fn resolve(
        &self,
        remote: &RemotePath,
    ) -> Result<(Place, Option<Component>), Failure> {
        let (root, path) = self.locate(remote)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = fs::open(root, flags, Mode::empty())
            .map_err(|error| Failure::io("open the served directory", root.display(), error))?;
        let Some((above, name)) = path.split_last() else {
            let label = names(root).pop().filter(|_| remote.absolute && !remote.contents);
            let label = label.and_then(|name| Component::new(name).ok());
            return Ok((Place::Directory(base), label));
        };
        let parent = open_beneath(base.as_fd(), &above)?;
        let label = Some(name.clone()).filter(|_| !remote.contents);
        Ok((leaf(parent, name, remote)?, label))
    }
}

/// The last component: a directory that exists, or a name
fn leaf(parent: OwnedFd, name: Component, remote: &RemotePath) -> Result<Place, Failure> {
    let fail = |error| Failure::io("open", remote, error);
    let found = Metadata::at(&parent, name.as_bytes()).map_err(fail)?;
    match found.map(|metadata| metadata.kind) {
        Some(FileType::Directory) => {
            open_directory(parent.as_fd(), name.as_bytes()).map(Place::Directory).map_err(fail)
        }
        Some(FileType::Symlink) if remote.directory => Err(Failure::new(
            ErrorCode::SymlinkInPath,
            format_args!("'{remote}' is a symbolic link; a copy follows none, name its target"),
        )),
        Some(_) if remote.directory => {
            let text = format_args!("'{remote}' is not a directory");
            Err(Failure::new(ErrorCode::NotADirectory, text))
        }
        _ => Ok(Place::Leaf { parent, name, directory_required: remote.directory }),
    }
}

/// The components of a root
fn names(root: &Path) -> Vec<&[u8]> {
    root.components()
        .filter_map(|component| match component {
            path::Component::Normal(name) => Some(name.as_bytes()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(roots: &Roots, text: &str) -> Result<(PathBuf, String), ErrorCode> {
        let remote = RemotePath::parse(text).unwrap();
        roots
            .locate(&remote)
            .map(|(root, path)| (root.to_path_buf(), path.to_string()))
            .map_err(|failure| failure.code)
    }

    #[test]
    fn a_path_belongs_to_the_deepest_root_around_it() {
        let roots = ["/srv", "/srv/deep/er", "/home/data"].map(PathBuf::from);
        let roots = Roots::new(roots).unwrap();
        assert_eq!(located(&roots, "/srv/x/y"), Ok(("/srv".into(), "x/y".into())));
        assert_eq!(located(&roots, "/srv/deep/er/z"), Ok(("/srv/deep/er".into(), "z".into())));
        assert_eq!(located(&roots, "/home/data"), Ok(("/home/data".into(), ".".into())));
        assert_eq!(located(&roots, "x"), Ok(("/srv".into(), "x".into())));
        for outside in ["/srvx", "/home", "/", "/etc/passwd"] {
            assert_eq!(located(&roots, outside), Err(ErrorCode::OutsideRoots), "{outside}");
        }
        let none = Roots::new([]).unwrap();
        assert_eq!(located(&none, "x"), Err(ErrorCode::OutsideRoots));
    }

    #[test]
    fn roots_are_absolute_and_do_not_climb() {
        for unfit in ["srv", "/srv/../etc", ""] {
            assert!(matches!(Roots::new([unfit.into()]), Err(CopyError::Root(_))), "{unfit}");
        }
    }
}

//! Where a receiver puts things: the directory or name the transfer's root maps to, and the directories and
//! symbolic links below it. Files are the business of `partial` and `existing`.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Mode};
use rustix::io::Errno;

use super::error::Failure;
use super::existing::refuse_irreplaceable;
use super::metadata::{self, Metadata};
use super::partial::{self, Target};
use super::place::{Place, Tree, explain, open_directory};
use super::wire::{Component, Entry, EntryKind, EntryPath, ErrorCode, LinkTarget, Modified};

/// The name the root of the transfer gets, and the directory it is in
struct Leaf {
    parent: Arc<OwnedFd>,
    name: Component,
    directory_required: bool,
}

pub(super) struct Destination {
    /// `None`: the root's entries go straight into an existing directory
    leaf: Option<Leaf>,
    /// There once the root's directory is
    tree: Option<Tree>,
}

/// A directory whose entries are all settled
pub(super) struct Ending {
    directory: Arc<OwnedFd>,
    path: EntryPath,
    /// `None`: it was there before and is not the sender's to change
    attributes: Option<(u16, Modified)>,
}

impl Destination {
    /// As `cp -r` decides: into an existing directory under the source's name, else under the given name
    pub fn new(place: Place, source: Option<Component>) -> Self {
        match (place, source) {
            (Place::Directory(directory), Some(name)) => {
                let parent = Arc::new(directory);
                Self { leaf: Some(Leaf { parent, name, directory_required: false }), tree: None }
            }
            (Place::Directory(directory), None) => {
                Self { leaf: None, tree: Some(Tree::new(directory)) }
            }
            (Place::Leaf { parent, name, directory_required }, _) => {
                let parent = Arc::new(parent);
                Self { leaf: Some(Leaf { parent, name, directory_required }), tree: None }
            }
        }
    }

    /// The directory an entry goes into, and its name there
    fn locate(&mut self, entry: &Entry) -> Result<(Arc<OwnedFd>, Vec<u8>), Failure> {
        let path = &entry.path;
        let (parent, name) = match (path.split_last(), &self.leaf, &mut self.tree) {
            (None, Some(leaf), _) => {
                if leaf.directory_required && entry.kind != EntryKind::Directory {
                    let text = format_args!("'{}/' is not a directory", leaf.name);
                    return Err(Failure::new(ErrorCode::NotADirectory, text));
                }
                (Arc::clone(&leaf.parent), leaf.name.clone())
            }
            (None, None, _) => {
                let text = "a directory's content was announced, but something else came";
                return Err(Failure::new(ErrorCode::IsADirectory, text));
            }
            (Some((above, name)), _, Some(tree)) => (tree.directory(&above)?, name),
            (Some(_), _, None) => {
                let text = format_args!("the directory of '{path}' is not there");
                return Err(Failure::new(ErrorCode::NotADirectory, text));
            }
        };
        if partial::is_reserved(name.as_bytes()) {
            let text = format_args!("'{path}': such names are reserved for unfinished copies");
            return Err(Failure::new(ErrorCode::NameReserved, text));
        }
        Ok((parent, name.as_bytes().to_vec()))
    }

    /// Where a file goes
    pub fn target(&mut self, entry: &Entry, size: u64) -> Result<Target, Failure> {
        let (parent, name) = self.locate(entry)?;
        let Entry { path, mode, modified, .. } = entry.clone();
        Ok(Target { parent, name, path, size, mode, modified })
    }

    /// Makes a directory, or finds it there. Until its end it is the owner's alone if it is new.
    pub fn make_directory(&mut self, entry: &Entry) -> Result<(), Failure> {
        let path = &entry.path;
        if path.is_root() && self.leaf.is_none() {
            return Ok(());
        }
        let (parent, name) = self.locate(entry)?;
        let failed = |error| Failure::io("make the directory", path, error);
        match fs::mkdirat(&parent, &*name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed(error)),
        }
        let directory = open_directory(parent.as_fd(), &name)
            .map_err(|error| explain(parent.as_fd(), &name, path, error))?;
        let mode = Metadata::of(&directory).map_err(failed)?.mode;
        if mode & 0o700 != 0o700 {
            let writable = Mode::from_raw_mode(u32::from(mode | 0o700));
            fs::fchmod(&directory, writable).map_err(failed)?;
        }
        if path.is_root() {
            self.tree = Some(Tree::new(directory));
        }
        Ok(())
    }

    /// The directory whose end has come
    pub fn ending(&mut self, entry: &Entry) -> Result<Ending, Failure> {
        let path = &entry.path;
        let Some(tree) = &mut self.tree else {
            let text = format_args!("the directory '{path}' is not there");
            return Err(Failure::new(ErrorCode::NotADirectory, text));
        };
        let directory = tree.directory(path)?;
        let given = path.is_root() && self.leaf.is_none();
        let attributes = if given { None } else { Some((entry.mode, entry.modified)) };
        Ok(Ending { directory, path: path.clone(), attributes })
    }

    /// Makes a symbolic link, or finds it there
    pub fn make_link(&mut self, entry: &Entry, link: &LinkTarget) -> Result<(), Failure> {
        let target = self.target(entry, 0)?;
        let Target { parent, name, path, modified, .. } = &target;
        let failed = |error| Failure::io("make the symbolic link", path, error);
        if let Some(found) = Metadata::at(parent, name).map_err(failed)? {
            refuse_irreplaceable(&target, &found)?;
            let there = fs::readlinkat(parent, &**name, Vec::new());
            if there.is_ok_and(|there| there.as_bytes() == link.as_bytes()) {
                return metadata::apply_to_link(parent, name, *modified).map_err(failed);
            }
        }
        let partial_name = partial::name_for(name);
        match fs::unlinkat(parent, &*partial_name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error)),
        }
        fs::symlinkat(link.as_bytes(), parent, &*partial_name).map_err(failed)?;
        metadata::apply_to_link(parent, &partial_name, *modified)
            .and_then(|()| fs::renameat(parent, &*partial_name, parent, &**name))
            .map_err(failed)
    }

    /// Brings the root's own name to stable storage
    pub fn sync(&self) -> Result<(), Failure> {
        match &self.leaf {
            Some(leaf) => fs::fsync(&leaf.parent)
                .map_err(|error| Failure::io("flush the directory of", &leaf.name, error)),
            None => Ok(()),
        }
    }
}

impl Ending {
    /// Gives the directory its permission bits and time and brings it to stable storage
    pub fn finish(self) -> Result<(), Failure> {
        let result = match self.attributes {
            Some((mode, modified)) => metadata::apply_to_directory(&self.directory, mode, modified),
            None => Ok(()),
        };
        result
            .and_then(|()| fs::fsync(&self.directory))
            .map_err(|error| Failure::io("finish the directory", &self.path, error))
    }
}

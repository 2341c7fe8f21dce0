//! Copying a journal, in use or not, for a backup: what is durable now is in the copy, and the copy opens as after
//! a crash. Which other files belong to it is not known here.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::error::{Damage, OpenError};
use super::manifest::{self, Manifest};
use super::scan::segment_path;

fn io_error(path: &Path) -> impl Fn(io::Error) -> OpenError + '_ {
    |source| OpenError::Io { path: path.to_owned(), source }
}

/// Copies the journal in `directory` into `target`, which must not exist; durable when this returns. Check the
/// copy with [`super::fsck`] before relying on it.
pub fn copy(directory: &Path, target: &Path) -> Result<(), OpenError> {
    // The manifest first: segments that come into use while copying are left out whole.
    let path = manifest::path(directory);
    let manifest = match Manifest::read(directory) {
        Ok(Ok(manifest)) => manifest,
        Ok(Err(fault)) => return Err(Damage { file: path, offset: 0, fault }.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::NotThere(directory.to_owned()));
        }
        Err(error) => return Err(io_error(&path)(error)),
    };
    DirBuilder::new().mode(0o700).create(target).map_err(io_error(target))?;
    for index in 1..=manifest.last_segment {
        let (from, to) = (segment_path(directory, index), segment_path(target, index));
        let mut source = File::open(&from).map_err(io_error(&from))?;
        let created = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to);
        let mut copied = created.map_err(io_error(&to))?;
        io::copy(&mut source, &mut copied).map_err(io_error(&to))?;
        copied.sync_all().map_err(io_error(&to))?;
    }
    // Entries may have come in behind what the manifest knows, so it does not say that nothing has.
    let path = manifest::path(target);
    let manifest = Manifest { clean: false, ..manifest };
    manifest::write_file(&path, &manifest.encode()).map_err(io_error(&path))?;
    manifest::sync_directory(target).map_err(io_error(target))
}

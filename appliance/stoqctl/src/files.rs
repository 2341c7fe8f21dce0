//! Files that commands read and write on this host, with limits, and errors that say what to do.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use stoq_admin::{ApiError, ExitCode, decode_pem};

/// Octets of the longest certificate, key, proof or request that is read
pub(crate) const SMALL_FILE_BYTES: u64 = 256 << 10;

/// The content of a file; `-` is the standard input
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ApiError> {
    read_up_to(path, SMALL_FILE_BYTES)
}

/// The same with a limit of its own
pub(crate) fn read_up_to(path: &Path, limit_bytes: u64) -> Result<Vec<u8>, ApiError> {
    let mut content = Vec::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(limit_bytes + 1).read_to_end(&mut content)
    } else {
        File::open(path).and_then(|file| file.take(limit_bytes + 1).read_to_end(&mut content))
    };
    read.map_err(|error| failed("read", path, &error))?;
    if content.len() as u64 > limit_bytes {
        return Err(ApiError::usage(
            "file-too-large",
            format!("{} has more than {limit_bytes} bytes", path.display()),
            "name a file of the kind that the command takes",
        ));
    }
    Ok(content)
}

/// The same as text
pub(crate) fn read_text(path: &Path) -> Result<String, ApiError> {
    String::from_utf8(read(path)?).map_err(|_| {
        ApiError::usage("not-text", format!("{} is no text", path.display()), "name a PEM file")
    })
}

/// The blocks with this label of a PEM file
pub(crate) fn read_pem(label: &str, path: &Path) -> Result<Vec<Vec<u8>>, ApiError> {
    decode_pem(label, &read_text(path)?).map_err(|error| {
        ApiError::usage(
            "bad-pem",
            format!("{}: {error}", path.display()),
            format!("name a PEM file with {label}"),
        )
    })
}

/// Writes a file that does not exist yet, durably
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), ApiError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| {
            file.write_all(content)?;
            file.sync_all()
        })
        .map_err(|error| failed("write", path, &error))
}

/// What the kernel said about a file
pub(crate) fn failed(action: &str, path: &Path, error: &io::Error) -> ApiError {
    let (exit, remedy) = match error.kind() {
        ErrorKind::PermissionDenied => {
            (ExitCode::Permission, "run as a user who may, or with sudo")
        }
        ErrorKind::AlreadyExists => (ExitCode::Conflict, "choose another name, or move it away"),
        _ => (ExitCode::Failed, "check the path"),
    };
    let message = format!("cannot {action} {}: {error}", path.display());
    ApiError::new(exit, "file-failed", message, remedy)
}

//! What the nouns `consensus`, `asset` and `proof` share: the files of the agreement, and its refusals as errors.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use stoq_admin::{ApiError, ExitCode};
use stoq_hypermesh::consensus::Genesis;
use stoq_hypermesh::consensus::genesis_file::FILE_LIMIT_BYTES;
pub(crate) use stoq_hypermesh::digest::to_hex;
use stoq_hypermesh::proof::Policy;
use stoq_hypermesh::requester::{KeyError, RequesterKey};

use crate::files;

/// Reads a genesis
pub(crate) fn genesis(path: &Path) -> Result<Arc<Genesis>, ApiError> {
    let octets = files::read_up_to(path, FILE_LIMIT_BYTES as u64)?;
    Genesis::read(&octets).map(Arc::new).map_err(|error| {
        ApiError::usage(
            "bad-genesis",
            format!("{}: {error}", path.display()),
            "name the genesis of the network: `stoqctl consensus genesis make` writes one",
        )
    })
}

/// Reads a key
pub(crate) fn key(path: &Path) -> Result<RequesterKey, ApiError> {
    RequesterKey::read(path).map_err(|error| key_failed(&error))
}

/// Why there is no key, and what to do
pub(crate) fn key_failed(error: &KeyError) -> ApiError {
    match error {
        KeyError::Io { path, source } => files::failed("use", path, source),
        KeyError::NotKey(_) => ApiError::usage("bad-key", error.to_string(), "name a key file"),
        KeyError::Readable { .. } => {
            ApiError::new(ExitCode::Permission, "key-readable", error.to_string(), "")
        }
    }
}

/// Octets as the daemon sends them
pub(crate) fn from_hex(text: &str) -> Result<Vec<u8>, ApiError> {
    let odd = || ApiError::failed("bad-reply", "stoqd sent octets that are no hexadecimal", "");
    let pair = |at: usize| text.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    if !text.len().is_multiple_of(2) {
        return Err(odd());
    }
    (0..text.len()).step_by(2).map(|at| pair(at).ok_or_else(odd)).collect()
}

/// Writes a receipt where it was asked for
pub(crate) fn write_receipt(file: Option<&Path>, octets: &[u8]) -> Result<(), ApiError> {
    file.map_or(Ok(()), |file| files::write_new(file, octets))
}

/// A policy by its name
pub(crate) fn parse_policy(text: &str) -> Result<Policy, String> {
    match text {
        "test" => Ok(Policy::TEST),
        "default" => Ok(Policy::DEFAULT),
        "production" => Ok(Policy::PRODUCTION),
        _ => Err("test, default or production".to_owned()),
    }
}

/// Milliseconds since 1970
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_have_names_and_octets_are_read_strictly() {
        assert_eq!(parse_policy("production"), Ok(Policy::PRODUCTION));
        assert!(parse_policy("strict").is_err());
        assert_eq!(from_hex("0aff").unwrap(), [10, 255]);
        for wrong in ["0", "0g", "é"] {
            assert!(from_hex(wrong).is_err(), "{wrong}");
        }
    }
}

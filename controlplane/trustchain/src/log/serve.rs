//! The read side of the log (C2SP static-ct-api, "Monitoring APIs") as a function from path to bytes and
//! headers. Listening, compression and who may read are the servers' business.

use super::merkle::Hash;
use super::publisher::issuer_path;
use super::store::{CHECKPOINT_PATH, ISSUER_PREFIX, Published, StoreError, read_tile};
use super::tile::TilePath;
use crate::certificate::{hex, unhex};

/// What a path names
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resource {
    /// The latest checkpoint
    Checkpoint,
    /// A tile of hashes or entries
    Tile(TilePath),
    /// An issuing certificate by its SHA-256
    Issuer(Hash),
}

/// An answer
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Served {
    /// The body
    pub bytes: Vec<u8>,
    /// Value of the field Content-Type
    pub content_type: &'static str,
    /// Value of the field Cache-Control
    pub cache_control: &'static str,
}

impl Resource {
    /// What a path below the log's prefix names, without a slash in front; `None` for anything else
    pub fn parse(path: &str) -> Option<Self> {
        if path == CHECKPOINT_PATH {
            return Some(Self::Checkpoint);
        }
        if let Some(digits) = path.strip_prefix(ISSUER_PREFIX) {
            let fingerprint: Hash = unhex(digits)?.try_into().ok()?;
            // One certificate, one path: capital digits name nothing.
            return (hex(&fingerprint) == digits).then_some(Self::Issuer(fingerprint));
        }
        path.parse().ok().map(Self::Tile)
    }

    /// Value of the field Content-Type
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::Checkpoint => "text/plain; charset=utf-8",
            Self::Tile(_) => "application/octet-stream",
            Self::Issuer(_) => "application/pkix-cert",
        }
    }

    /// Value of the field Cache-Control: everything but the checkpoint never changes
    pub fn cache_control(&self) -> &'static str {
        match self {
            Self::Checkpoint => "no-cache",
            Self::Tile(_) | Self::Issuer(_) => "public, max-age=31536000, immutable",
        }
    }
}

/// Answers a request for a path below the log's prefix; `None` is "not found". A partial tile that was removed
/// is cut from the full one.
pub fn read(store: &(impl Published + ?Sized), path: &str) -> Result<Option<Served>, StoreError> {
    let Some(resource) = Resource::parse(path) else { return Ok(None) };
    let bytes = match resource {
        Resource::Checkpoint => store.read(CHECKPOINT_PATH)?,
        Resource::Issuer(fingerprint) => store.read(&issuer_path(&fingerprint))?,
        Resource::Tile(tile) => match read_tile(store, tile) {
            Ok(bytes) => Some(bytes),
            Err(StoreError::Missing { .. }) => None,
            Err(error) => return Err(error),
        },
    };
    let (content_type, cache_control) = (resource.content_type(), resource.cache_control());
    Ok(bytes.map(|bytes| Served { bytes, content_type, cache_control }))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Memory;
    use super::*;

    #[test]
    fn paths_name_what_the_specification_says_and_nothing_else() {
        assert_eq!(Resource::parse("checkpoint"), Some(Resource::Checkpoint));
        let issuer = format!("issuer/{}", "ab".repeat(32));
        assert_eq!(Resource::parse(&issuer), Some(Resource::Issuer([0xab; 32])));
        let tile = "tile/data/x001/000.p/3";
        assert_eq!(Resource::parse(tile), Some(Resource::Tile(tile.parse().unwrap())));
        for path in [
            "",
            "/checkpoint",
            "checkpoint/",
            "../checkpoint",
            "issuer/",
            "issuer/ab",
            &issuer.to_uppercase(),
            &issuer.replace("ab", "AB"),
            "tile/0/../../etc/passwd",
            ".lock",
        ] {
            assert_eq!(Resource::parse(path), None, "{path}");
        }
    }

    #[test]
    fn answers_carry_their_headers_and_only_the_checkpoint_may_change() {
        let mut store = Memory::default();
        store.replace("checkpoint", b"note").unwrap();
        let full: Vec<u8> = (0..256u32 * 32).map(|octet| octet as u8).collect();
        store.create("tile/0/000", &full).unwrap();
        let served = read(&store, "checkpoint").unwrap().unwrap();
        assert_eq!(served.bytes, b"note");
        assert_eq!(served.content_type, "text/plain; charset=utf-8");
        assert_eq!(served.cache_control, "no-cache");
        let served = read(&store, "tile/0/000.p/3").unwrap().unwrap();
        assert_eq!(served.bytes, full[..96]);
        assert!(served.cache_control.contains("immutable"));
        assert_eq!(read(&store, "tile/0/001").unwrap(), None);
        assert_eq!(read(&store, "tile/data/000.p/1").unwrap(), None);
        assert_eq!(read(&store, "nothing").unwrap(), None);
    }
}

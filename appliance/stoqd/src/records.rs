//! Where the records of this node's authority are: a file of its own, or a cluster that several authorities share.
//! Paths and files are known here; what a record is, `stoq-store` knows.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use stoq_config::Etcd;
use stoq_store::Records;
use stoq_store::records::etcd::{Dial, LoopbackDial, TlsDial, TlsMaterial};
use stoq_store::records::{EtcdOptions, EtcdRecords, RecordsError, SqliteOptions, SqliteRecords};

/// Octets of the largest file of certificates or of a key that is read
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// Why there are no records
#[derive(Debug, thiserror::Error)]
pub enum RecordsProblem {
    /// The store
    #[error("the inventory: {0}")]
    Records(#[from] RecordsError),
    /// The cluster's certificates or key
    #[error("[store.etcd]: {0}")]
    Tls(io::Error),
}

/// Opens the records. A cluster need not be there yet: what it has is read when it answers. Call it where a runtime
/// is.
pub fn open(etcd: &Etcd, directory: &Path) -> Result<Arc<dyn Records>, RecordsProblem> {
    if etcd.endpoints.is_empty() {
        let file = directory.join("inventory.db");
        let start = &stoq_store::named_thread;
        return Ok(Arc::new(SqliteRecords::open(&file, SqliteOptions::default(), start)?));
    }
    let dial: Arc<dyn Dial> = match etcd.tls() {
        None => Arc::new(LoopbackDial),
        Some(files) => {
            let paths = [files.ca, files.certificate, files.key].map(Path::to_owned);
            let source = move || material(&paths);
            let name = etcd.server_name.as_deref();
            Arc::new(TlsDial::new(Arc::new(source), name).map_err(RecordsProblem::Tls)?)
        }
    };
    let prefix = etcd.prefix.clone();
    let options = EtcdOptions { prefix, ..EtcdOptions::new(etcd.endpoints.clone()) };
    tracing::info!(members = etcd.endpoints.len(), tls = etcd.tls().is_some(), "shared records");
    Ok(Arc::new(EtcdRecords::begin(&options, dial)?))
}

fn material(paths: &[PathBuf; 3]) -> io::Result<TlsMaterial> {
    let [authorities, certificate, key] = paths;
    Ok(TlsMaterial {
        authorities: read(authorities)?,
        certificate: read(certificate)?,
        key: read(key)?,
    })
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(named)?;
    file.take(FILE_LIMIT_BYTES).read_to_end(&mut octets).map_err(named)?;
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_is_missing_is_named_before_anything_is_dialled() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("ca.pem");
        let etcd = Etcd {
            endpoints: vec!["[2001:db8::1]:2379".parse().unwrap()],
            ca: Some(missing.clone()),
            certificate: Some(missing.clone()),
            key: Some(missing.clone()),
            ..Etcd::default()
        };
        let refused = open(&etcd, directory.path()).err().unwrap().to_string();
        assert!(refused.contains(&missing.display().to_string()), "{refused}");
        std::fs::write(&missing, "no certificate").unwrap();
        let refused = open(&etcd, directory.path()).err().unwrap().to_string();
        assert!(refused.contains("authorities"), "{refused}");
        assert!(open(&Etcd::default(), directory.path()).is_ok());
        assert!(directory.path().join("inventory.db").exists());
    }
}

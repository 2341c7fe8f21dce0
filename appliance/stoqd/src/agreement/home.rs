//! The files behind this node's part in HyperMesh: genesis, key, plots and the directory of what was agreed on. Those that
//! the configuration does not name are made at the first start, for a network of this node alone.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use stoq::NodeId;
use stoq_config::{Config, HypermeshPolicy, Issuance};
use stoq_hypermesh::consensus::Genesis;
use stoq_hypermesh::consensus::genesis::GenesisError;
use stoq_hypermesh::consensus::genesis_file::FILE_LIMIT_BYTES;
use stoq_hypermesh::operation::Validator;
use stoq_hypermesh::proof::Policy;
use stoq_hypermesh::registry::GenesisStake;
use stoq_hypermesh::requester::{KeyError, RequesterKey};

use crate::authority::milliseconds;
use crate::identity::private_directory;

/// The genesis of a network of this node alone, below the data directory
const GENESIS_FILE: &str = "genesis.json";
/// The key that is made at the first start
const KEY_FILE: &str = "node.key";
/// The plot that is made when one is first needed
const PLOT_FILE: &str = "node.plot";
/// Blocks of an epoch in a network of this node alone
const EPOCH_BLOCKS: u64 = 4_096;
/// What this node has at stake in a network of its own
const STAKE: u64 = 1_000;

/// Why the files cannot be used
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The system refused
    #[error("{path}: {cause}; check hypermesh.genesis and hypermesh.data_directory")]
    Io {
        /// Which file
        path: PathBuf,
        /// What the kernel said
        cause: io::Error,
    },
    /// The directory
    #[error(transparent)]
    Directory(#[from] crate::identity::OpenError),
    /// The key
    #[error("hypermesh.key: {0}")]
    Key(#[from] KeyError),
    /// The genesis
    #[error("{path}: {cause}; `stoqctl consensus genesis make` writes one")]
    Genesis {
        /// Which file
        path: PathBuf,
        /// What is wrong with it
        cause: GenesisError,
    },
    /// Proofs for tests count for nothing
    #[error(
        "the network has the policy for tests, and TRUSTCHAIN_MODE=production refuses it; make another genesis"
    )]
    TestPolicy,
}

/// What HyperMesh is started with
#[derive(Clone, Debug)]
pub struct Home {
    /// The network
    pub genesis: Arc<Genesis>,
    /// Of this node
    pub key: RequesterKey,
    /// Where everything is that is not named
    pub directory: PathBuf,
    /// Plots behind this node's operations; the last may have to be made first
    pub plots: Vec<PathBuf>,
    /// Whether certificates need agreement, and how long one waits for it
    pub issuance: (Issuance, Duration),
}

impl Home {
    /// Opens what the configuration names and makes the rest; none where this node takes no part
    pub fn open(
        config: &Config,
        state: &Path,
        node: &NodeId,
        production: bool,
        now: SystemTime,
    ) -> Result<Option<Self>, HomeError> {
        let hypermesh = &config.hypermesh;
        if !hypermesh.enabled {
            return Ok(None);
        }
        let directory = hypermesh.data_directory.clone().unwrap_or_else(|| state.join("hypermesh"));
        private_directory(&directory)?;
        let key = match &hypermesh.key {
            Some(file) => RequesterKey::read(file)?,
            None => own_key(&directory.join(KEY_FILE))?,
        };
        let genesis = match &hypermesh.genesis {
            Some(file) => read_genesis(file)?,
            None => {
                let file = directory.join(GENESIS_FILE);
                if !file.try_exists().map_err(|cause| failed(&file, cause))? {
                    let made = alone(node, &key, hypermesh.policy, now);
                    let made =
                        made.map_err(|cause| HomeError::Genesis { path: file.clone(), cause })?;
                    write_new(&file, made.write().as_bytes())?;
                }
                read_genesis(&file)?
            }
        };
        let parameters = genesis.parameters();
        let in_force = [parameters.operations_policy, parameters.certificates_policy];
        if production && in_force.contains(&Policy::TEST_ID) {
            return Err(HomeError::TestPolicy);
        }
        let plots = match hypermesh.plots.as_slice() {
            [] => vec![directory.join(PLOT_FILE)],
            plots => plots.to_vec(),
        };
        let issuance = (hypermesh.issuance, hypermesh.wait);
        Ok(Some(Self { genesis: Arc::new(genesis), key, directory, plots, issuance }))
    }
}

fn failed(path: &Path, cause: io::Error) -> HomeError {
    HomeError::Io { path: path.to_owned(), cause }
}

fn own_key(file: &Path) -> Result<RequesterKey, HomeError> {
    if file.try_exists().map_err(|cause| failed(file, cause))? {
        return Ok(RequesterKey::read(file)?);
    }
    let key = RequesterKey::random();
    key.write_new(file)?;
    Ok(key)
}

fn read_genesis(file: &Path) -> Result<Genesis, HomeError> {
    let mut octets = Vec::new();
    File::open(file)
        .and_then(|open| open.take(FILE_LIMIT_BYTES as u64 + 1).read_to_end(&mut octets))
        .map_err(|cause| failed(file, cause))?;
    Genesis::read(&octets).map_err(|cause| HomeError::Genesis { path: file.to_owned(), cause })
}

fn write_new(file: &Path, octets: &[u8]) -> Result<(), HomeError> {
    let partial = file.with_extension("partial");
    let write = || {
        let mut open = OpenOptions::new().write(true).create(true).truncate(true).open(&partial)?;
        open.write_all(octets)?;
        open.sync_all()?;
        fs::rename(&partial, file)
    };
    write().map_err(|cause| failed(file, cause))
}

/// One validator, which has all stake
fn alone(
    node: &NodeId,
    key: &RequesterKey,
    policy: HypermeshPolicy,
    now: SystemTime,
) -> Result<Genesis, GenesisError> {
    let policy = match policy {
        HypermeshPolicy::Default => Policy::DEFAULT,
        HypermeshPolicy::Test => Policy::TEST,
        HypermeshPolicy::Production => Policy::PRODUCTION,
    };
    let validator = Validator { name: node.clone(), key: key.validator() };
    Genesis::new(node.clone(), milliseconds(now), EPOCH_BLOCKS, vec![validator])?
        .with_stakes(vec![GenesisStake { key: key.public(), amount: STAKE }])?
        .with_policies(vec![policy])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str, state: &Path, production: bool) -> Result<Option<Home>, HomeError> {
        let config = Config::parse("test", text).unwrap();
        Home::open(&config, state, &NodeId::new("alpha").unwrap(), production, SystemTime::now())
    }

    #[test]
    fn what_is_not_named_is_made_once() {
        let state = tempfile::tempdir().unwrap();
        assert!(open("", state.path(), false).unwrap().is_none());
        let text = "[hypermesh]\nenabled = true\npolicy = \"test\"\n";
        let first = open(text, state.path(), false).unwrap().unwrap();
        let again = open(text, state.path(), false).unwrap().unwrap();
        assert_eq!(first.genesis.network(), again.genesis.network());
        assert_eq!(first.key.public(), again.key.public());
        assert_eq!(first.genesis.validators().len(), 1);
        assert_eq!(first.plots, [first.directory.join(PLOT_FILE)]);
        assert!(matches!(open(text, state.path(), true), Err(HomeError::TestPolicy)));
    }

    #[test]
    fn a_named_file_that_is_none_is_refused() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("genesis.json");
        let text = format!("[hypermesh]\nenabled = true\ngenesis = \"{}\"\n", file.display());
        assert!(matches!(open(&text, state.path(), false), Err(HomeError::Io { .. })));
        fs::write(&file, "{}").unwrap();
        assert!(matches!(open(&text, state.path(), false), Err(HomeError::Genesis { .. })));
    }
}

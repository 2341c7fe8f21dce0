//! Keys in files, signing in this process: a directory with `<name>.key` for each. As safe as the process and
//! the directory; where the authority must not hold its keys, the process is `stoqd signer`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use boring::ec::EcKeyRef;
use boring::pkey::Private;
use rcgen::SigningKey;

use super::backend::{Backend, BackendError, OpenBackend};
use super::{KEYS_LIMIT, KeyInfo, KeyName};
use crate::keys::{KeyError, KeyKind, KeyPair};

/// A private scalar with fewer significant bits than this was not drawn at random: the chance is 2^-64
const SCALAR_BITS_MIN: i32 = 192;

/// Where soft keys are
#[derive(Clone)]
pub struct SoftSettings {
    directory: PathBuf,
    keys: Arc<RwLock<Keys>>,
}

type Keys = BTreeMap<KeyName, Arc<(KeyPair, KeyInfo)>>;

impl fmt::Debug for SoftSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftSettings").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl SoftSettings {
    /// Reads the keys in `directory`. Files that are named after no key are not looked at.
    pub fn read(directory: &Path) -> Result<Self, BackendError> {
        let mut keys = Keys::new();
        for name in names_in(directory)? {
            let loaded = load(directory, &name)?;
            keys.insert(name, Arc::new(loaded));
        }
        if keys.len() > KEYS_LIMIT {
            let message = format!(
                "{} has {} keys and the limit is {KEYS_LIMIT}; move those that are revoked away",
                directory.display(),
                keys.len()
            );
            return Err(BackendError::Refused(message));
        }
        Ok(Self { directory: directory.into(), keys: Arc::new(RwLock::new(keys)) })
    }

    /// Reads the keys in `directory`, and makes those of `names` that are not there
    pub fn read_or_create(directory: &Path, names: &[KeyName]) -> Result<Self, BackendError> {
        crate::files::create_directory(directory)
            .map_err(|error| BackendError::Refused(format!("{}: {error}", directory.display())))?;
        let settings = Self::read(directory)?;
        for name in names {
            if settings.find(name).is_none() {
                settings.create(name)?;
            }
        }
        Ok(settings)
    }

    fn find(&self, name: &KeyName) -> Option<Arc<(KeyPair, KeyInfo)>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    fn create(&self, name: &KeyName) -> Result<KeyInfo, BackendError> {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(name) {
            return Err(BackendError::Exists(name.to_string()));
        }
        let key = KeyPair::create(&file_of(&self.directory, name), KeyKind::P256);
        let key = key.map_err(|error| match error {
            KeyError::Exists { .. } => BackendError::Exists(name.to_string()),
            other => BackendError::Refused(other.to_string()),
        })?;
        let public = public_of(&key, name)?;
        keys.insert(name.clone(), Arc::new((key, public.clone())));
        Ok(public)
    }
}

impl OpenBackend for SoftSettings {
    fn label(&self) -> &'static str {
        "soft"
    }

    fn open(&self) -> Result<Box<dyn Backend>, BackendError> {
        Ok(Box::new(self.clone()))
    }
}

impl Backend for SoftSettings {
    fn keys(&mut self) -> Result<Vec<KeyInfo>, BackendError> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.values().map(|key| key.1.clone()).collect())
    }

    fn sign(&mut self, key: &KeyInfo, message: &[u8]) -> Result<Vec<u8>, BackendError> {
        let name = key.name();
        let key = self.find(name).ok_or_else(|| BackendError::UnknownKey(name.to_string()))?;
        key.0.sign(message).map_err(|error| BackendError::Refused(format!("BoringSSL: {error}")))
    }

    fn create(&mut self, name: &KeyName) -> Result<KeyInfo, BackendError> {
        SoftSettings::create(self, name)
    }

    fn reopen(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
}

fn file_of(directory: &Path, name: &KeyName) -> PathBuf {
    directory.join(format!("{name}.key"))
}

fn names_in(directory: &Path) -> Result<Vec<KeyName>, BackendError> {
    let failed = |error: std::io::Error| {
        BackendError::Refused(format!(
            "{}: {error}; make the directory, mode 0700",
            directory.display()
        ))
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let file_name = entry.map_err(failed)?.file_name();
        let name = file_name.to_str().and_then(|name| name.strip_suffix(".key"));
        names.extend(name.and_then(|name| KeyName::new(name).ok()));
    }
    Ok(names)
}

fn load(directory: &Path, name: &KeyName) -> Result<(KeyPair, KeyInfo), BackendError> {
    let path = file_of(directory, name);
    let key = KeyPair::load(&path).map_err(|error| BackendError::Refused(error.to_string()))?;
    let public = public_of(&key, name)?;
    let weak = key.boring_key().ec_key().map(|key| is_weak(&key));
    if weak.map_err(|error| BackendError::Refused(error.to_string()))? {
        let message = format!("{} holds a weak key; make a new one", path.display());
        return Err(BackendError::Refused(message));
    }
    Ok((key, public))
}

fn is_weak(key: &EcKeyRef<Private>) -> bool {
    key.private_key().num_bits() < SCALAR_BITS_MIN
}

fn public_of(key: &KeyPair, name: &KeyName) -> Result<KeyInfo, BackendError> {
    Ok(KeyInfo::from_point(name.clone(), key.public_point())?)
}

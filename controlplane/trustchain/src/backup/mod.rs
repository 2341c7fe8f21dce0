//! Backup and restore of an authority, and what `doctor` looks at. A restore cannot un-revoke and cannot fork the
//! transparency log: the highest state that ever left the host is remembered apart from the journal, and a state
//! with less of anything is refused. Keys are in it only when asked for, and encrypted.

pub mod doctor;
mod high_water;
mod keys;
mod restore;
mod take;

pub use high_water::{Behind, HighWater, HighWaterFile, crl_name, key_states};
pub use keys::{BackupKeysError, KEYS_FILE};
pub use restore::{RestoreError, Restored, restore, verify, verify_keys};
pub use take::{BackupError, BackupFile, BackupManifest, BackupSource, MANIFEST_FILE, take};

//! Backup and restore of an authority, and what `doctor` looks at. A restore cannot un-revoke and cannot fork the
//! transparency log: the highest state that ever left the host is remembered apart from the journal, and a state
//! with less of anything is refused. Keys are copied only when asked for.

pub mod doctor;
mod high_water;
mod restore;
mod take;

pub use high_water::{Behind, HighWater, HighWaterFile, crl_name};
pub use restore::{RestoreError, Restored, restore, verify};
pub use take::{BackupError, BackupFile, BackupManifest, BackupSource, MANIFEST_FILE, take};

//! A node's keys and certificates on disk while they take turns: one directory per key slot below the identity's
//! own, which is slot 0 and holds the key the node enrolled with. That key outlives its certificate: with it the
//! node proves who it is when no certificate in force is left. Which slot is in force is `rotation`'s to say.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use stoq_interface::NodeId;

use crate::certificate::{self, Fingerprint};
use crate::csr;
use crate::files;
use crate::keys::KeyPair;
use crate::node_identity::{self, Certificates, IdentityError, NodeIdentity, prepare_key};
use crate::rotation::KeySlot;

/// The slot of the identity's own directory
pub const ENROLLED: KeySlot = KeySlot(0);

const SLOTS: &str = "slots";
const ACTIVE_FILE: &str = "active";
const KEY_FILE: &str = "node.key";
const CHAIN_FILE: &str = "node.pem";
const ROOT_FILE: &str = "root.pem";
/// Slots that are looked at; rotation keeps eight besides the two it uses
const SLOTS_LIMIT: usize = 1_024;
const ACTIVE_FILE_LIMIT_BYTES: u64 = 32;

/// A certificate with its key's slot
#[derive(Clone, Debug)]
pub struct Slotted {
    /// Where its key is
    pub slot: KeySlot,
    /// The identity, verified
    pub identity: NodeIdentity,
}

/// What the slots hold
#[derive(Debug)]
pub struct Found {
    /// Usable certificates, the earliest beginning first
    pub usable: Vec<Slotted>,
    /// Slots whose certificate has ended or is unusable, and why
    pub unusable: Vec<(KeySlot, IdentityError)>,
    /// The slot that was put into force last
    pub active: Option<KeySlot>,
    /// The first slot that no key was ever made for
    pub next: KeySlot,
}

impl Found {
    /// The certificate to begin with and the one that waits: the one put into force last, where it can still be
    /// used, else the first that is in force now; and of the others the one that ends last, if it ends later
    pub fn turns(&self, now: SystemTime) -> (Option<&Slotted>, Option<&Slotted>) {
        let begun = |one: &&Slotted| one.identity.facts().not_before <= now;
        let last = self.usable.iter().find(|one| Some(one.slot) == self.active);
        let current = last.filter(begun).or_else(|| self.usable.iter().find(begun));
        let end = |one: &Slotted| one.identity.identity().not_after;
        let waiting = self.usable.iter().filter(|one| {
            current.is_none_or(|current| one.slot != current.slot && end(one) > end(current))
        });
        (current, waiting.max_by_key(|one| end(one)))
    }
}

/// The slots of one identity
#[derive(Clone, Debug)]
pub struct KeySlots {
    directory: PathBuf,
}

impl KeySlots {
    /// The slots of the identity in `directory`; nothing is read yet
    pub fn of(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Whether there is an identity, or was one: its key is there
    pub fn is_present(&self) -> bool {
        self.directory.join(KEY_FILE).exists()
    }

    /// The identity's own directory
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks at every slot
    pub fn find(&self, now: SystemTime) -> Result<Found, IdentityError> {
        let mut slots = self.numbers().map_err(|source| self.failed(source))?;
        slots.push(ENROLLED);
        slots.sort_unstable();
        let next = KeySlot(slots.last().map_or(0, |last| last.0) + 1);
        let mut found = Found { usable: Vec::new(), unusable: Vec::new(), active: None, next };
        for slot in slots {
            match NodeIdentity::load_staged(&self.path(slot), now) {
                Ok(identity) => found.usable.push(Slotted { slot, identity }),
                // A key whose certificate was still to come when the host went down.
                Err(IdentityError::Absent { .. }) => {}
                Err(error) => found.unusable.push((slot, error)),
            }
        }
        found.usable.sort_by_key(|one| one.identity.facts().not_before);
        found.active = self.active().map_err(|source| self.failed(source))?;
        Ok(found)
    }

    /// Makes the key of a slot, durable and private, where there is none; returns the request for it
    pub fn request(&self, slot: KeySlot) -> Result<Vec<u8>, IdentityError> {
        if slot != ENROLLED {
            files::create_directory(&self.directory.join(SLOTS))
                .map_err(|source| self.failed(source))?;
        }
        Ok(csr::request(&prepare_key(&self.path(slot))?)?)
    }

    /// Verifies a certificate for the key of a slot, at its own beginning where that lies ahead, and stores it.
    /// `root` is the root the node trusts: another one is refused.
    pub fn install(
        &self,
        slot: KeySlot,
        node: &NodeId,
        chain: [&[u8]; 3],
        root: &Fingerprint,
        now: SystemTime,
    ) -> Result<Slotted, IdentityError> {
        let [leaf_der, issuing_der, root_der] = chain;
        let certificates = Certificates { leaf_der, issuing_der, root_der };
        let path = self.path(slot);
        let identity = NodeIdentity::store_staged(&path, node, &certificates, root, now)?;
        Ok(Slotted { slot, identity })
    }

    /// Notes which slot is in force; durable when this returns
    pub fn activate(&self, slot: KeySlot) -> io::Result<()> {
        let text = format!("{}\n", slot.0);
        files::replace(&self.directory.join(ACTIVE_FILE), files::PRIVATE, text.as_bytes())
    }

    /// Destroys a slot. Of slot 0 only the certificate goes: its key is the node's proof of itself.
    pub fn discard(&self, slot: KeySlot) -> io::Result<()> {
        let path = self.path(slot);
        let gone = if slot == ENROLLED {
            std::fs::remove_file(path.join(CHAIN_FILE))
        } else {
            std::fs::remove_dir_all(&path)
        };
        match gone {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            outcome => outcome?,
        }
        files::sync_directory(files::parent(&path))
    }

    /// The root that the node was enrolled under; its certificate stays when the node's have ended
    pub fn root(&self) -> Result<Fingerprint, IdentityError> {
        Ok(Fingerprint::of(&certificate::read_pem(&self.directory.join(ROOT_FILE))?))
    }

    /// The node that the certificate last put into force names, whether it can still be used or not
    pub fn named(&self) -> Option<NodeId> {
        node_identity::named_in(&self.last_leaf()?)
    }

    /// The certificate last put into force, whether it can still be used or not; nothing of it is verified
    pub fn last_leaf(&self) -> Option<Vec<u8>> {
        let last = self.active().ok().flatten().unwrap_or(ENROLLED);
        let [leaf, _issuing] = certificate::read_pem_chain(&self.path(last).join(CHAIN_FILE))
            .or_else(|_| certificate::read_pem_chain(&self.directory.join(CHAIN_FILE)))
            .ok()?;
        Some(leaf)
    }

    /// The key the node enrolled with
    pub fn enrolled_key(&self) -> Result<KeyPair, IdentityError> {
        Ok(KeyPair::load(&self.directory.join(KEY_FILE))?)
    }

    fn path(&self, slot: KeySlot) -> PathBuf {
        if slot == ENROLLED {
            return self.directory.clone();
        }
        self.directory.join(SLOTS).join(slot.0.to_string())
    }

    fn numbers(&self) -> io::Result<Vec<KeySlot>> {
        let entries = match std::fs::read_dir(self.directory.join(SLOTS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut slots = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            // Anything else there is not ours, and number 0 is another place.
            slots.extend(number.filter(|number| *number > 0).map(KeySlot));
            if slots.len() > SLOTS_LIMIT {
                return Err(io::Error::other(format!("more than {SLOTS_LIMIT} key slots")));
            }
        }
        Ok(slots)
    }

    fn active(&self) -> io::Result<Option<KeySlot>> {
        let path = self.directory.join(ACTIVE_FILE);
        match files::read_limited(&path, ACTIVE_FILE_LIMIT_BYTES) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // Without it the first certificate in force is taken, which is never wrong for long.
            bytes => Ok(std::str::from_utf8(&bytes?)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .map(KeySlot)),
        }
    }

    fn failed(&self, source: io::Error) -> IdentityError {
        IdentityError::Io { path: self.directory.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::csr::ProvenKey;
    use crate::testing::LooseAuthority;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    struct World {
        _directory: tempfile::TempDir,
        authority: LooseAuthority,
        node: NodeId,
        slots: KeySlots,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let authority = LooseAuthority::make(&directory.path().join("ca"), now());
            let node = NodeId::new("alpha").unwrap();
            let own = directory.path().join("node");
            let slots = KeySlots::of(own.clone());
            assert!(!slots.is_present());
            authority.identity(&own, &node, now());
            Self { _directory: directory, authority, node, slots }
        }

        /// Certifies the key of a slot as of `at` and installs it at `now`
        fn certify(&self, slot: u64, at: SystemTime, now: SystemTime) -> Slotted {
            let slot = KeySlot(slot);
            let key = ProvenKey::from_csr(&self.slots.request(slot).unwrap()).unwrap();
            let leaf = self.authority.leaf(&self.node, &key, at);
            let authority = &self.authority;
            let chain = [&leaf[..], authority.certificate_der(), authority.root_der()];
            let root = authority.root_fingerprint();
            self.slots.install(slot, &self.node, chain, &root, now).unwrap()
        }
    }

    #[test]
    fn certificates_take_turns_and_are_found_again() {
        let world = World::new();
        assert!(world.slots.is_present());
        let found = world.slots.find(now()).unwrap();
        let (current, waiting) = found.turns(now());
        assert_eq!((current.unwrap().slot, found.next), (ENROLLED, KeySlot(1)));
        assert!(waiting.is_none());

        // A successor that begins in the future is stored, and waits.
        let staged = world.certify(1, now() + 20 * HOUR, now() + 16 * HOUR);
        let at = now() + 17 * HOUR;
        let found = world.slots.find(at).unwrap();
        let (current, waiting) = found.turns(at);
        assert_eq!(current.unwrap().slot, ENROLLED);
        assert_eq!(waiting.unwrap().identity.identity().serial, staged.identity.identity().serial);

        world.slots.activate(KeySlot(1)).unwrap();
        let at = now() + 21 * HOUR;
        let found = world.slots.find(at).unwrap();
        let (current, waiting) = found.turns(at);
        assert_eq!(current.unwrap().slot, KeySlot(1));
        assert!(waiting.is_none(), "what ends earlier is no successor");
        assert_eq!(found.next, KeySlot(2));

        // What has ended is reported and not used.
        assert_eq!(world.slots.named(), NodeId::new("alpha").ok());
        let late = now() + 25 * HOUR;
        let found = world.slots.find(late).unwrap();
        assert_eq!(found.unusable.len(), 1);
        assert_eq!(found.turns(late).0.unwrap().slot, KeySlot(1));
    }

    #[test]
    fn discarded_slots_are_gone_and_the_enrolled_key_stays() {
        let world = World::new();
        let enrolled = world.slots.enrolled_key().unwrap().spki_der().unwrap();
        world.certify(1, now(), now());
        world.slots.request(KeySlot(2)).unwrap();
        for slot in [0, 1, 2, 7] {
            world.slots.discard(KeySlot(slot)).unwrap();
        }
        let found = world.slots.find(now()).unwrap();
        assert!(found.usable.is_empty() && found.unusable.is_empty());
        assert_eq!(world.slots.enrolled_key().unwrap().spki_der().unwrap(), enrolled);
        assert_eq!(world.slots.root().unwrap(), world.authority.root_fingerprint());
        assert!(world.slots.is_present());
    }

    #[test]
    fn another_root_another_node_and_another_key_are_not_installed() {
        let (world, other) = (World::new(), World::new());
        let key = ProvenKey::from_csr(&world.slots.request(KeySlot(1)).unwrap()).unwrap();
        let root = world.authority.root_fingerprint();
        let install = |from: &World, node: &NodeId, slot| {
            let leaf = from.authority.leaf(node, &key, now());
            let (issuing, its_root) = (from.authority.certificate_der(), from.authority.root_der());
            let chain = [&leaf[..], issuing, its_root];
            world.slots.install(KeySlot(slot), &world.node, chain, &root, now())
        };
        let foreign = install(&other, &world.node, 1).unwrap_err();
        assert!(matches!(foreign, IdentityError::WrongRoot { .. }), "{foreign}");
        let beta = NodeId::new("beta").unwrap();
        let renamed = install(&world, &beta, 1).unwrap_err();
        assert!(matches!(renamed, IdentityError::WrongNode { .. }), "{renamed}");
        world.slots.request(KeySlot(2)).unwrap();
        let mismatch = install(&world, &world.node, 2).unwrap_err();
        assert!(matches!(mismatch, IdentityError::Mismatch { .. }), "{mismatch}");
        assert_eq!(world.slots.find(now()).unwrap().usable.len(), 1);
        install(&world, &world.node, 1).unwrap();
    }
}

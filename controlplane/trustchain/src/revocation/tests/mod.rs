//! The deny-list from the authority to the node and back: what is taken, what is refused and by which name.

mod documents;
mod time;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa};
use stoq_interface::NodeId;

use super::document::{DenyListDocument, content_of, encode, seal};
use super::*;
use crate::keys::{KeyKind, KeyPair};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(24 * 3_600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An authority instance with its key and list
struct Ca {
    name: NodeId,
    key: KeyPair,
    signer: ListSigner,
    list: DenyListIssuer,
}

fn signer(name: &NodeId, key: &KeyPair) -> ListSigner {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.serial_number = Some(1_u64.into());
    let certificate = params.self_signed(key).unwrap();
    ListSigner::from_certificate(name.clone(), certificate.der()).unwrap()
}

impl Ca {
    fn new(name: &str) -> Self {
        let name = NodeId::new(name).unwrap();
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let signer = signer(&name, &key);
        let list = DenyListIssuer::new(name.clone(), IssuerSettings::default()).unwrap();
        Self { name, key, signer, list }
    }

    fn entry(&self, serial: u32, ends: SystemTime) -> Entry {
        let serial = SerialNumber::from_bytes(&serial.to_be_bytes()).unwrap();
        let target = Target::certificate(self.signer.key_id(), serial);
        Entry::new(target, Reason::KeyCompromise, now(), ends)
    }

    fn revoke(&mut self, serial: u32) {
        let entry = self.entry(serial, now() + DAY);
        assert_eq!(self.list.revoke(entry, now()), Ok(true));
    }

    fn publish(&mut self, at: SystemTime) -> Publication {
        self.list.publish(&self.key, at).unwrap()
    }

    /// A document with these entries, whatever the list says
    fn document(&self, epoch: u64, at: SystemTime, entries: Vec<Entry>) -> DenyListDocument {
        DenyListDocument {
            instance: self.name.clone(),
            signer: self.signer.key_id(),
            epoch,
            form: Form::Full,
            issued_at: seconds(at),
            next_update: seconds(at) + 900,
            live: entries.len() as u64,
            content: content_of(&entries),
            entries,
        }
    }

    fn sealed(&self, document: &DenyListDocument) -> Vec<u8> {
        seal(encode(document), self.signer.key_id(), &self.key).unwrap()
    }

    fn refuses(&self, node: &DenyList, serial: u32) -> bool {
        let serial = SerialNumber::from_bytes(&serial.to_be_bytes()).unwrap();
        let spki = SpkiHash::of(b"of nobody");
        node.check(&self.signer.key_id(), &serial, &spki).is_some()
    }
}

fn signers(authorities: &[&Ca]) -> Signers {
    Signers::new(authorities.iter().map(|ca| ca.signer.clone())).unwrap()
}

fn node(authorities: &[&Ca]) -> DenyList {
    let mut node = DenyList::new(DenyListSettings::default(), signers(authorities), now());
    drain(&mut node);
    node
}

fn drain(node: &mut DenyList) -> Vec<DenyListAction> {
    std::iter::from_fn(|| node.poll_action()).collect()
}

fn asked(actions: &[DenyListAction]) -> Vec<u64> {
    let asked = actions.iter().filter_map(|action| match action {
        DenyListAction::AskFull { held_epoch, .. } => Some(*held_epoch),
        _ => None,
    });
    asked.collect()
}

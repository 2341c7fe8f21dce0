//! For the tests of the log: an authority that makes precertificates, and storage in memory that loses power
//! at any step. Not part of the product.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer};

use super::der::{POISON_CONTENT, POISON_OID_ARCS, SCT_LIST_OID_ARCS};
use super::entry::TimestampedEntry;
use super::key::LogSigner;
use super::merkle::Hash;
use super::record::Record;
use super::release::DurableEntry;
use super::sct::{Sct, sct_list_content};
use super::store::{Journal, Published};
use super::submission::{IssuerChain, IssuerSignature, Submission};
use crate::keys::{KeyKind, KeyPair};

pub(crate) const ORIGIN: &str = "ca.trust.hypermesh/log";

pub(crate) fn signer() -> LogSigner<KeyPair> {
    LogSigner::new(ORIGIN, KeyPair::generate(KeyKind::P256).unwrap()).unwrap()
}

pub(crate) fn created(signer: &LogSigner<KeyPair>, created_ms: u64) -> Record {
    let (origin, spki_der) = (ORIGIN.to_owned(), signer.verifier().spki_der().to_vec());
    Record::Created { origin, spki_der, created_ms }
}

/// An issuing authority under a root, both in memory
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    leaf_key: KeyPair,
    chain: IssuerChain,
}

/// A certificate that is to be
pub(crate) struct Draft(u64);

impl Authority {
    pub(crate) fn new() -> Self {
        let keys = [KeyKind::P256; 3].map(|kind| KeyPair::generate(kind).unwrap());
        let [root_key, key, leaf_key] = keys;
        let mut params = CertificateParams::default();
        params.serial_number = Some(vec![1].into());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(params.clone(), root_key);
        params.serial_number = Some(vec![2].into());
        let issuing = params.signed_by(&key, &root_issuer).unwrap();
        let chain = IssuerChain::new(&[issuing.der(), root.der()]).unwrap();
        Self { issuer: Issuer::new(params, key), leaf_key, chain }
    }

    pub(crate) fn chain(&self) -> &IssuerChain {
        &self.chain
    }

    pub(crate) fn key_hash(&self) -> Hash {
        *self.chain.key_hash()
    }

    pub(crate) fn draft(&self, serial: u64) -> Draft {
        Draft(serial)
    }

    pub(crate) fn precertificate(&self, draft: &Draft) -> Vec<u8> {
        let mut poison =
            CustomExtension::from_oid_content(&POISON_OID_ARCS, POISON_CONTENT.to_vec());
        poison.set_criticality(true);
        self.sign(draft, Some(poison))
    }

    pub(crate) fn certificate(&self, draft: &Draft, scts: Option<&[Sct]>) -> Vec<u8> {
        let list = scts.map(|scts| sct_list_content(scts).unwrap());
        let extension =
            list.map(|list| CustomExtension::from_oid_content(&SCT_LIST_OID_ARCS, list));
        self.sign(draft, extension)
    }

    fn sign(&self, draft: &Draft, extension: Option<CustomExtension>) -> Vec<u8> {
        let name = format!("n{}.nodes.hypermesh", draft.0);
        let mut params = CertificateParams::new([name]).unwrap();
        params.serial_number = Some((1 << 40 | draft.0).to_be_bytes().to_vec().into());
        params.is_ca = IsCa::ExplicitNoCa;
        params.custom_extensions.extend(extension);
        params.signed_by(&self.leaf_key, &self.issuer).unwrap().der().to_vec()
    }
}

/// A certificate with the SCT of an entry at any place
pub(crate) fn logged(
    authority: &Authority,
    signer: &LogSigner<KeyPair>,
    draft: &Draft,
    leaf_index: u64,
    timestamp_ms: u64,
) -> (Vec<u8>, TimestampedEntry) {
    let der = authority.precertificate(draft);
    let submission =
        Submission::precertificate(&der, authority.chain(), IssuerSignature::Check).unwrap();
    let entry = submission.into_entry(timestamp_ms, leaf_index).timestamped;
    let sct = DurableEntry::for_test(entry.clone()).sign_sct(signer).unwrap();
    (authority.certificate(draft, Some(&[sct])), entry)
}

/// When the power goes, seen from a write
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum When {
    /// Nothing of the write is there
    Before,
    /// The write is there and nobody was told
    After,
}

/// Journal and published files in memory; clones share them, as processes share a disk
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) records: Vec<Vec<u8>>,
    steps: usize,
    crash: Option<(usize, When)>,
    dead: bool,
}

impl Memory {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A disk with the same content
    pub(crate) fn copy(&self) -> Self {
        let state = self.state();
        let (files, records) = (state.files.clone(), state.records.clone());
        let state = Arc::new(Mutex::new(State { files, records, ..State::default() }));
        Self { state }
    }

    /// The power will go at the write of this number, counted from 1
    pub(crate) fn crash_at(&self, step: usize, when: When) {
        self.state().crash = Some((step, when));
    }

    /// The power is back
    pub(crate) fn reboot(&self) {
        let mut state = self.state();
        (state.crash, state.dead, state.steps) = (None, false, 0);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.state().dead
    }

    fn write(&self, apply: impl FnOnce(&mut State)) -> io::Result<()> {
        let mut state = self.state();
        if state.dead {
            return Err(io::Error::other("no power"));
        }
        state.steps += 1;
        let crash = state.crash.filter(|(step, _)| *step == state.steps).map(|(_, when)| when);
        if crash != Some(When::Before) {
            apply(&mut state);
        }
        state.dead = crash.is_some();
        if state.dead { Err(io::Error::other("power lost")) } else { Ok(()) }
    }
}

impl Journal for Memory {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.write(|state| state.records.push(record.to_vec()))
    }

    fn replay(&mut self) -> io::Result<Box<dyn Iterator<Item = io::Result<Vec<u8>>> + '_>> {
        Ok(Box::new(self.state().records.clone().into_iter().map(Ok)))
    }
}

impl Published for Memory {
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().files.get(path).cloned())
    }

    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        if self.state().files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.replace(path, bytes)
    }

    fn replace(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.write(|state| {
            state.files.insert(path.to_owned(), bytes.to_vec());
        })
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.write(|state| {
            state.files.remove(path);
        })
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        Ok(state.files.keys().filter(|path| path.starts_with(prefix)).cloned().collect())
    }
}

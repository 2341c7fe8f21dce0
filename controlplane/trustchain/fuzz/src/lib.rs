//! What every fuzz target does with its octets, as plain functions: the fuzzer's programs call them, and so does a test
//! of `stoq-trustchain` with the seeds and mutations of them, on every run of the tests. Each is true where something
//! was accepted, so that a seed that has gone stale is noticed. None may panic on any octets.

#![forbid(unsafe_code)]

use std::time::{Duration, UNIX_EPOCH};

use prost::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use stoq_trustchain::calls::{retry_after, wire};
use stoq_trustchain::csr::{CSR_LIMIT_BYTES, ProvenKey};
use stoq_trustchain::enrollment::protocol::{
    EnrollRequest, EnrollResponse, ErrorResponse, RenewRequest, RootResponse,
};
use stoq_trustchain::http::{Credentials, Route, est};
use stoq_trustchain::log::der::{POISON_OID, SCT_LIST_OID, tbs_of, without_extension};
use stoq_trustchain::log::note::Note;
use stoq_trustchain::log::record::Record;
use stoq_trustchain::log::serve::Resource;
use stoq_trustchain::log::tile::TilePath;
use stoq_trustchain::log::{Checkpoint, LogEntry, ProofBundle, WitnessKey, sct};
use stoq_trustchain::mesh::{AuthorityStatement, StatementRefusal};
use stoq_trustchain::revocation::{self, Refusal, Signers};
use stoq_trustchain::{JoinToken, certificate as certificates};

/// Kinds of messages that [`call_messages`] tells apart by its first octet
const MESSAGES: u8 = 22;

/// The name of a program, and what it does with its octets: whether they were what it looks for
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// Every target by the name of its program
pub const TARGETS: &[Target] = &[
    ("authority_statement", authority_statement),
    ("call_messages", call_messages),
    ("certificate", certificate),
    ("csr", csr),
    ("deny_list", deny_list),
    ("enrollment", enrollment),
    ("http_request", http_request),
    ("join_token", join_token),
    ("log_entry", log_entry),
    ("log_note", log_note),
    ("log_sct_list", log_sct_list),
    ("log_tile_path", log_tile_path),
];

/// Requests of nodes and replies of authorities: what parses is written and read again. The first octet chooses the
/// message.
pub fn call_messages(data: &[u8]) -> bool {
    fn read<T: Message + Default + PartialEq + std::fmt::Debug>(octets: &[u8]) -> bool {
        let Ok(message) = T::decode(octets) else { return false };
        let again = T::decode(message.encode_to_vec().as_slice());
        assert_eq!(again.expect("what was written can be read"), message);
        true
    }
    let Some((kind, octets)) = data.split_first() else { return false };
    match kind % MESSAGES {
        0 => read::<wire::CertifyRequest>(octets),
        1 => read::<wire::CertifyReply>(octets),
        2 => read::<wire::RenewalInformationRequest>(octets),
        3 => read::<wire::RenewalInformationReply>(octets),
        4 => read::<wire::RevokeRequest>(octets),
        5 => read::<wire::RevokeReply>(octets),
        6 => read::<wire::DenyListRequest>(octets),
        7 => read::<wire::DenyListReply>(octets),
        8 => read::<wire::TileRequest>(octets),
        9 => read::<wire::TileReply>(octets),
        10 => read::<wire::ProofRequest>(octets),
        11 => read::<wire::StatusReply>(octets),
        12 => read::<wire::Refusal>(octets),
        13 => retry_after(octets).is_some(),
        14 => read::<wire::OperateRequest>(octets),
        15 => read::<wire::OperatorOrder>(octets),
        16 => read::<wire::RegisterRequest>(octets),
        17 => read::<wire::UnregisterRequest>(octets),
        18 => read::<wire::AuthoritiesReply>(octets),
        19 => read::<wire::SignedAuthority>(octets),
        20 => read::<wire::IssuingKeysReply>(octets),
        _ => read::<wire::AuthorityStatement>(octets),
    }
}

/// What anybody says an authority has said of itself, read against a root that nobody has. It goes as far as its
/// certificate at best.
pub fn authority_statement(data: &[u8]) -> bool {
    let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let opened = AuthorityStatement::open(data, &[], now);
    match opened.expect_err("a statement under no root was believed") {
        StatementRefusal::Malformed(_) => false,
        refused => !refused.to_string().is_empty(),
    }
}

/// Certificates as a peer or a file may hold them
pub fn certificate(data: &[u8]) -> bool {
    certificates::parse(data).is_ok_and(|parsed| certificates::validity(&parsed).is_ok())
}

/// Certification requests of nodes that nobody knows yet: what is accepted was signed by its own key
pub fn csr(data: &[u8]) -> bool {
    ProvenKey::from_csr(data).is_ok()
}

/// Deny-lists as a peer may send them, signed or not
pub fn deny_list(data: &[u8]) -> bool {
    // The outer part, for a node that knows no authority: at best it finds out that it does not know this one.
    let opened = revocation::open(data, &Signers::default());
    let opened = opened.expect_err("a list of nobody was believed");
    // The inner part, which a node reads only behind a good signature
    let Ok(document) = revocation::decode(data) else {
        return matches!(opened, Refusal::UnknownSigner(_));
    };
    assert!(document.epoch > 0 && document.next_update > document.issued_at);
    true
}

/// The bodies of enrolment, in both directions: what parses is written and read again
pub fn enrollment(data: &[u8]) -> bool {
    let asked = read_json::<EnrollRequest>(data);
    let answered = read_json::<EnrollResponse>(data);
    let root = serde_json::from_slice::<RootResponse>(data).is_ok();
    let error = serde_json::from_slice::<ErrorResponse>(data).is_ok();
    asked || answered || root || error
}

fn read_json<T: DeserializeOwned + Serialize>(data: &[u8]) -> bool {
    let Ok(read) = serde_json::from_slice::<T>(data) else { return false };
    let written = serde_json::to_vec(&read).expect("what was read can be written");
    serde_json::from_slice::<T>(&written).expect("what was written can be read");
    true
}

/// What strangers send over HTTPS: paths, credentials, EST bodies. What is accepted is what it seems.
pub fn http_request(data: &[u8]) -> bool {
    let mut accepted = read_json::<RenewRequest>(data);
    if let Ok(der) = est::request_der(data) {
        assert!(!der.is_empty() && der.len() < 2 * CSR_LIMIT_BYTES);
        assert_eq!(est::request_der(&est::lines(&der)).as_deref(), Ok(&der[..]));
        accepted = true;
    }
    let Ok(text) = std::str::from_utf8(data) else { return accepted };
    let route = Route::parse(text);
    if let Some(Route::Crl(key, _) | Route::Authority(key)) = &route {
        assert!(key.len() == 40 && key.bytes().all(|octet| octet.is_ascii_hexdigit()));
    }
    let credentials = Credentials::parse(text);
    if let Ok(credentials) = &credentials {
        assert!(credentials.token_id.bytes().all(|octet| octet.is_ascii_hexdigit()));
    }
    accepted || route.is_some() || credentials.is_ok()
}

/// Join tokens as an operator may paste them: what parses is printed as the same token
pub fn join_token(data: &[u8]) -> bool {
    let text = std::str::from_utf8(data).unwrap_or_default();
    let Ok(token) = text.parse::<JoinToken>() else { return false };
    let printed = token.to_string();
    let again: JoinToken = printed.parse().expect("a printed token parses");
    assert_eq!(again.to_string(), printed);
    true
}

/// Data tiles and journal records: what is read is written as it was
pub fn log_entry(data: &[u8]) -> bool {
    let entries = LogEntry::decode_all(data);
    if let Ok(entries) = &entries {
        let written: Vec<u8> = entries
            .iter()
            .flat_map(|entry| entry.encode().expect("what was read can be written"))
            .collect();
        assert_eq!(written, data);
        for entry in entries {
            entry.timestamped.leaf_hash().expect("what was read can be hashed");
        }
    }
    let record = Record::decode(data);
    if let Ok(record) = &record {
        assert_eq!(record.encode().expect("what was read can be written"), data);
    }
    // No octets are a tile without entries.
    record.is_ok() || entries.is_ok_and(|entries| !entries.is_empty())
}

/// Signed notes, checkpoints and inclusion proofs as a log, a witness or a file may send them: what parses is written
/// as it was
pub fn log_note(data: &[u8]) -> bool {
    let mut accepted = false;
    if let Ok(note) = Note::parse(data) {
        assert_eq!(note.encode().as_bytes(), data);
        if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
            assert_eq!(checkpoint.text(), note.text());
            accepted = true;
        }
    }
    if let Ok(bundle) = ProofBundle::parse(data) {
        assert_eq!(bundle.encode().as_bytes(), data);
        accepted = true;
    }
    let text = std::str::from_utf8(data).unwrap_or_default();
    accepted || WitnessKey::parse(text).is_ok()
}

/// SCT lists, and the surgery on certificates that verifies them, as a peer in a handshake may send both
pub fn log_sct_list(data: &[u8]) -> bool {
    let scts = sct::parse_sct_list(data);
    for one in scts.iter().flatten() {
        let written = one.encode().expect("what was read can be written");
        let again = sct::Sct::decode(&written).expect("what was written can be read");
        assert_eq!(again.as_ref(), Some(one));
    }
    let tbs = tbs_of(data);
    for oid in [SCT_LIST_OID, POISON_OID] {
        if let Ok(tbs) = tbs
            && let Ok(Some((rest, _))) = without_extension(tbs, &oid)
        {
            assert!(rest.len() < tbs.len());
            assert_eq!(without_extension(&rest, &oid), Ok(None));
        }
    }
    let nobody = sct::verify_embedded(data, &[0; 32], &[], u64::MAX);
    assert!(nobody.is_err(), "a promise of no log was believed");
    tbs.is_ok() || scts.is_ok()
}

/// Paths as anyone may ask for them: one resource has one path, and no path leaves the log
pub fn log_tile_path(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    if let Ok(tile) = text.parse::<TilePath>() {
        assert_eq!(tile.to_string(), text);
        assert!(tile.complete_at() > 0);
    }
    let resource = Resource::parse(text);
    if let Some(Resource::Issuer(_) | Resource::Tile(_)) = resource {
        assert!(!text.contains(".."));
    }
    resource.is_some()
}

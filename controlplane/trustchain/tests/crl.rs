//! Sharded CRLs: on their timer, with their numbers, and as OpenSSL reads and applies them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, CrlDistributionPoint, DnType, IsCa, Issuer, KeyIdMethod,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber as RcgenSerial,
};
use stoq_trustchain::certificate::write_pem;
use stoq_trustchain::revocation::crl::{
    CrlError, CrlPublisher, CrlSettings, IssuedCrl, Sharding, ShardingError,
};
use stoq_trustchain::revocation::{KeyId, Reason, SerialNumber};
use stoq_trustchain::{KeyKind, KeyPair};
use x509_parser::extensions::{DistributionPointName, GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

const HOUR: Duration = Duration::from_secs(3_600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// An issuing authority, self-signed here so that one file is all OpenSSL needs
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    key_id: KeyId,
    certificate_der: Vec<u8>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let key_id = KeyId::of_public_point(key.public_point()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("issuing {key_id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.serial_number = Some(1_u64.into());
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.key_identifier_method = KeyIdMethod::PreSpecified(key_id.as_bytes().to_vec());
        let certificate_der = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), key_id, certificate_der }
    }

    fn publisher(&self) -> CrlPublisher {
        let settings = CrlSettings {
            sharding: Sharding::DEFAULT,
            interval: HOUR,
            validity: 4 * HOUR,
            base_uri: "http://[fd77::1]:8443/crl/".to_owned(),
        };
        CrlPublisher::new(settings, self.key_id).unwrap()
    }

    fn leaf(&self, serial: &SerialNumber, distribution_point: String) -> Vec<u8> {
        let key = KeyPair::generate(KeyKind::P256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(RcgenSerial::from(serial.as_bytes().to_vec()));
        params.subject_alt_names =
            vec![SanType::DnsName("alpha.nodes.hypermesh".try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.key_identifier_method = KeyIdMethod::PreSpecified(key.der_bytes()[..20].to_vec());
        params.crl_distribution_points =
            vec![CrlDistributionPoint { uris: vec![distribution_point] }];
        params.signed_by(&key, &self.issuer).unwrap().der().to_vec()
    }
}

/// A serial number whose first octet is given
fn serial(first: u8, last: u8) -> SerialNumber {
    let mut octets = [0x5a; 16];
    (octets[0], octets[15]) = (first, last);
    SerialNumber::from_bytes(&octets).unwrap()
}

#[test]
fn a_shard_follows_from_the_serial_number_and_all_are_used() {
    let eight = Sharding::DEFAULT;
    assert_eq!(eight.shard_of(&serial(0x1f, 0)), 0);
    assert_eq!(eight.shard_of(&serial(0x20, 0)), 1);
    assert_eq!(eight.shard_of(&serial(0xff, 0)), 7);
    // A serial number whose first octets are zero is written without them.
    assert_eq!(eight.shard_of(&serial(0, 9)), 0);
    assert_eq!(eight.shard_of(&SerialNumber::from_text("ff").unwrap()), 0);
    let second = Sharding::new(8, 1).unwrap();
    let mut octets = [0x11; 16];
    octets[1] = 0xe0;
    assert_eq!(second.shard_of(&SerialNumber::from_bytes(&octets).unwrap()), 7);
    octets[0] = 0;
    assert_eq!(second.shard_of(&SerialNumber::from_bytes(&octets).unwrap()), 7);
    let mut used = BTreeMap::new();
    for first in 0..=255 {
        *used.entry(eight.shard_of(&serial(first, 1))).or_insert(0) += 1;
    }
    assert_eq!(used, (0..8).map(|shard| (shard, 32)).collect());
    assert_eq!(Sharding::new(1, 0).unwrap().shard_of(&serial(0xff, 0)), 0);
    for (shards, skipped) in [(0, 0), (3, 0), (8, 16)] {
        assert_eq!(Sharding::new(shards, skipped), Err(ShardingError));
    }
}

#[test]
fn lists_are_issued_on_their_timer_even_when_nothing_changes() {
    let ca = Ca::new();
    let mut publisher = ca.publisher();
    let all: Vec<u8> = (0..8).collect();
    assert_eq!(publisher.due(now()), all);
    assert_eq!(publisher.next_due(), None);
    let first: Vec<_> =
        all.iter().map(|shard| publisher.issue(*shard, &ca.issuer, now()).unwrap()).collect();
    assert_eq!(publisher.due(now() + HOUR - Duration::from_secs(1)), Vec::<u8>::new());
    assert_eq!(publisher.next_due(), Some(now() + HOUR));
    assert_eq!(publisher.due(now() + HOUR), all);
    let again = publisher.issue(3, &ca.issuer, now() + HOUR).unwrap();
    assert!(again.number > first[3].number);
    assert_eq!(again.next_update, now() + 5 * HOUR);
    // A revocation makes its shard due at once, and only that.
    let revoked = serial(0x45, 1);
    let ends = now() + 24 * HOUR;
    assert!(publisher.revoke(revoked.clone(), Reason::Superseded, now(), ends).unwrap());
    assert!(!publisher.revoke(revoked.clone(), Reason::KeyCompromise, now(), ends).unwrap());
    assert_eq!(publisher.due(now()), [2]);
    // Twice in the same second: the number grows all the same.
    let one = publisher.issue(2, &ca.issuer, now()).unwrap();
    let two = publisher.issue(2, &ca.issuer, now()).unwrap();
    assert_eq!((one.number, two.number), (first[2].number + 1, first[2].number + 2));
    let back = publisher.issue(3, &ca.issuer, now()).unwrap_err();
    assert!(matches!(back, CrlError::ClockWentBack { shard: 3 }), "{back}");
    assert!(matches!(publisher.issue(8, &ca.issuer, now()), Err(CrlError::NoShard(8))));
    let other = Ca::new();
    let foreign = publisher.issue(0, &other.issuer, now()).unwrap_err();
    assert!(matches!(foreign, CrlError::WrongKey(_)), "{foreign}");
    publisher.restore_number(3, u64::from(u32::MAX)).unwrap();
    let restored = publisher.issue(3, &ca.issuer, now() + 2 * HOUR).unwrap();
    assert_eq!(restored.number, u64::from(u32::MAX) + 1);
}

#[test]
fn an_ended_certificate_leaves_after_one_list_beyond_its_end() {
    let ca = Ca::new();
    let mut publisher = ca.publisher();
    let ends = now() + 2 * HOUR;
    publisher.revoke(serial(1, 1), Reason::Unspecified, now(), ends).unwrap();
    let mut listed = |hours: u32| {
        let issued = publisher.issue(0, &ca.issuer, now() + hours * HOUR).unwrap();
        let (_, list) = CertificateRevocationList::from_der(&issued.der).unwrap();
        list.iter_revoked_certificates().count()
    };
    // Hour 3 is the first list after the end (RFC 5280 section 3.3).
    assert_eq!([0, 1, 2, 3, 4, 5].map(&mut listed), [1, 1, 1, 1, 0, 0]);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let good = CrlSettings {
        sharding: Sharding::DEFAULT,
        interval: HOUR,
        validity: 4 * HOUR,
        base_uri: "https://[fd77::1]/crl/".to_owned(),
    };
    let key = Ca::new().key_id;
    let wrong = [
        CrlSettings { interval: Duration::ZERO, ..good.clone() },
        CrlSettings { interval: 4 * HOUR, ..good.clone() },
        CrlSettings { base_uri: "https://[fd77::1]/crl".to_owned(), ..good.clone() },
        CrlSettings { base_uri: "ftp://[fd77::1]/".to_owned(), ..good.clone() },
        CrlSettings { base_uri: "http:///".to_owned(), ..good.clone() },
    ];
    for settings in wrong {
        let refused = CrlPublisher::new(settings.clone(), key);
        assert!(matches!(refused, Err(CrlError::Settings)), "{settings:?}");
    }
    assert!(CrlPublisher::new(good, key).is_ok());
}

#[test]
fn the_list_says_what_was_revoked_and_where_it_is_found() {
    let ca = Ca::new();
    let mut publisher = ca.publisher();
    let (one, two) = (serial(0xe1, 1), serial(0xe1, 2));
    let ends = now() + 24 * HOUR;
    publisher.revoke(two.clone(), Reason::KeyCompromise, now(), ends).unwrap();
    publisher.revoke(one.clone(), Reason::Unspecified, now(), ends).unwrap();
    let issued = publisher.issue(7, &ca.issuer, now()).unwrap();
    let (_, list) = CertificateRevocationList::from_der(&issued.der).unwrap();
    let found: Vec<_> = list
        .iter_revoked_certificates()
        .map(|entry| (entry.serial().to_bytes_be(), entry.reason_code().map(|reason| reason.1.0)))
        .collect();
    // RFC 5280 section 5.3.1: the reason is absent instead of unspecified.
    let expected = [(one.as_bytes().to_vec(), None), (two.as_bytes().to_vec(), Some(1))];
    assert_eq!(found, expected);
    let uri = publisher.distribution_point(&one);
    assert_eq!(uri, format!("http://[fd77::1]:8443/crl/{}-7.crl", ca.key_id));
    let point = list.extensions().iter().find_map(|it| match it.parsed_extension() {
        ParsedExtension::IssuingDistributionPoint(point) => Some((it.critical, point)),
        _ => None,
    });
    let (critical, point) = point.unwrap();
    assert!(critical && point.only_contains_user_certs);
    let names = DistributionPointName::FullName(vec![GeneralName::URI(&uri)]);
    assert_eq!(point.distribution_point.as_ref(), Some(&names));
}

fn openssl(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Option<Output> {
    let mut command = Command::new("openssl");
    command.args(arguments.iter().map(|argument| argument.as_ref()));
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Straight to the terminal: the test harness would swallow it.
            let mut terminal = io::stderr();
            writeln!(terminal, "SKIPPED: no openssl binary to read CRLs with").unwrap();
            None
        }
        Err(error) => panic!("openssl did not run: {error}"),
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Writes the list as PEM, having OpenSSL verify its signature and print it; `None` without OpenSSL
fn to_pem(directory: &Path, ca: &Path, issued: &IssuedCrl) -> Option<std::path::PathBuf> {
    let der = directory.join(format!("{}.crl", issued.shard));
    let pem = directory.join(format!("{}.pem", issued.shard));
    std::fs::write(&der, &issued.der).unwrap();
    let output = openssl(&[
        &"crl", &"-inform", &"DER", &"-in", &der, &"-CAfile", &ca, &"-text", &"-out", &pem,
    ])?;
    let told = said(&output);
    assert!(output.status.success() && told.contains("verify OK"), "{told}");
    let text = std::fs::read_to_string(&pem).unwrap();
    assert!(text.contains("X509v3 Issuing Distribution Point: critical"), "{text}");
    assert!(text.contains("Only User Certificates"), "{text}");
    assert!(text.contains("X509v3 CRL Number"), "{text}");
    Some(pem)
}

#[test]
fn openssl_verifies_the_lists_and_refuses_what_they_revoke() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let ca = Ca::new();
    let ca_file = path("ca.pem");
    write_pem(&ca_file, &ca.certificate_der).unwrap();
    let mut publisher = ca.publisher();
    // openssl judges by the real clock.
    let now = SystemTime::now();
    let (bad, good, elsewhere) = (serial(0x21, 1), serial(0x22, 2), serial(0xf0, 3));
    let mut files = BTreeMap::new();
    for (name, serial) in [("bad", &bad), ("good", &good), ("elsewhere", &elsewhere)] {
        let file = path(&format!("{name}.leaf.pem"));
        let leaf = ca.leaf(serial, publisher.distribution_point(serial));
        write_pem(&file, &leaf).unwrap();
        files.insert(name, file);
    }
    publisher.revoke(bad, Reason::KeyCompromise, now, now + 24 * HOUR).unwrap();
    let first = publisher.issue(1, &ca.issuer, now).unwrap();
    let last = publisher.issue(7, &ca.issuer, now).unwrap();
    let Some(first) = to_pem(directory.path(), &ca_file, &first) else { return };
    let Some(last) = to_pem(directory.path(), &ca_file, &last) else { return };
    let verify = |leaf: &str, list: &Path| {
        let leaf = &files[leaf];
        let output = openssl(&[
            &"verify",
            &"-x509_strict",
            &"-crl_check",
            &"-CAfile",
            &ca_file,
            &"-CRLfile",
            &list,
            &leaf,
        ]);
        let output = output.expect("openssl ran a moment ago");
        (output.status.success(), said(&output))
    };
    let (accepted, told) = verify("good", &first);
    assert!(accepted, "{told}");
    let (accepted, told) = verify("bad", &first);
    assert!(!accepted && told.contains("certificate revoked"), "{told}");
    let (accepted, told) = verify("elsewhere", &last);
    assert!(accepted, "{told}");
    // The list of another shard says nothing about a certificate.
    let (accepted, told) = verify("elsewhere", &first);
    assert!(!accepted && told.contains("different CRL scope"), "{told}");
}

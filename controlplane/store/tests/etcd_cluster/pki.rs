//! Certificates for a cluster that speaks TLS: a throwaway authority, its members' and its clients' leaves, as files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use boring::asn1::Asn1Time;
use boring::bn::BigNum;
use boring::ec::{EcGroup, EcKey};
use boring::hash::MessageDigest;
use boring::nid::Nid;
use boring::pkey::{PKey, Private};
use boring::x509::extension::{
    BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
};
use boring::x509::{X509, X509Builder, X509Name, X509NameBuilder};
use stoq_store::records::etcd::{TlsDial, TlsMaterial};

/// DNS name of the members' certificates, beside their address
pub const NAME: &str = "etcd.example";

/// Files in a directory: `authority.pem`, and `.pem` and `.key` of the leaves
pub struct Pki {
    directory: PathBuf,
    key: PKey<Private>,
    authority: X509,
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn name(text: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, text).unwrap();
    name.build()
}

fn blank(subject: &str, key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(120, boring::bn::MsbOption::MAYBE_ZERO, true).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(&name(subject)).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(2).unwrap()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder
}

impl Pki {
    /// An authority, and leaves `member` and `client`
    pub fn make(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let key = key();
        let mut builder = blank("cluster authority", &key);
        builder.set_issuer_name(&name("cluster authority")).unwrap();
        let constraints = BasicConstraints::new().critical().ca().build().unwrap();
        builder.append_extension(&constraints).unwrap();
        let usage = KeyUsage::new().critical().key_cert_sign().build().unwrap();
        builder.append_extension(&usage).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        let authority = builder.build();
        let pki = Self { directory: directory.to_owned(), key, authority };
        std::fs::write(pki.path("authority.pem"), pki.authority.to_pem().unwrap()).unwrap();
        pki.leaf("member", "::1", Some(NAME));
        pki.leaf("client", "::1", None);
        pki
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    /// A leaf for a server and a client, in `<file>.pem` and `<file>.key`
    pub fn leaf(&self, file: &str, address: &str, dns: Option<&str>) {
        let key = key();
        let mut builder = blank(file, &key);
        builder.set_issuer_name(self.authority.subject_name()).unwrap();
        let context = builder.x509v3_context(Some(&self.authority), None);
        let mut names = SubjectAlternativeName::new();
        names.ip(address);
        if let Some(dns) = dns {
            names.dns(dns);
        }
        let names = names.build(&context).unwrap();
        builder.append_extension(&names).unwrap();
        let usage = ExtendedKeyUsage::new().server_auth().client_auth().build().unwrap();
        builder.append_extension(&usage).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        std::fs::write(self.path(&format!("{file}.pem")), builder.build().to_pem().unwrap())
            .unwrap();
        let key = key.private_key_to_pem_pkcs8().unwrap();
        std::fs::write(self.path(&format!("{file}.key")), key).unwrap();
    }

    /// A dialler that shows the leaf `client` of this authority and trusts `authority`
    pub fn dial(&self, authority: &Pki, client: &str, name: Option<&str>) -> Arc<TlsDial> {
        let files = [
            authority.path("authority.pem"),
            self.path(&format!("{client}.pem")),
            self.path(&format!("{client}.key")),
        ];
        let source = move || {
            let [authorities, certificate, key] = &files;
            Ok(TlsMaterial {
                authorities: std::fs::read(authorities)?,
                certificate: std::fs::read(certificate)?,
                key: std::fs::read(key)?,
            })
        };
        Arc::new(TlsDial::new(Arc::new(source), name).unwrap())
    }
}

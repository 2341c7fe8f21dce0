//! Connections to members of the cluster over TLS 1.3: the member's certificate must come from the given authorities
//! and be for the member that was dialled, and this client shows one of its own. Certificates and key are asked for
//! anew with each connection, so that renewed ones need no restart. Where they lie is the composition root's to know.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddrV6};
use std::sync::Arc;

use boring::error::ErrorStack;
use boring::pkey::PKey;
use boring::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslMode, SslOptions, SslVerifyMode, SslVersion,
};
use boring::x509::X509;
use boring::x509::store::X509StoreBuilder;
use boring::x509::verify::X509CheckFlags;
use tokio::net::TcpStream;
use tokio_boring::SslStreamBuilder;

use super::dial::{Dial, Dialling, EtcdStream};

/// Key exchange groups, most wanted first; members are other people's programs and may know the last ones only
const GROUPS: &str = "X25519MLKEM768:X25519:P-256:P-384";
/// What gRPC is spoken over, as ALPN names it (RFC 9113 section 3.2)
const ALPN_WIRE: &[u8] = b"\x02h2";
const ALPN: &[u8] = b"h2";
/// Longest name of a member's certificate
const NAME_LIMIT_BYTES: usize = 253;

/// What a connection is made with, each in PEM
#[derive(Clone)]
pub struct TlsMaterial {
    /// The authorities that members' certificates come from, one or more; nobody else is trusted
    pub authorities: Vec<u8>,
    /// This client's certificate, and those between it and its authority
    pub certificate: Vec<u8>,
    /// Its private key, not encrypted
    pub key: Vec<u8>,
}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsMaterial(..)")
    }
}

/// Where the material comes from, each time; may read files
pub type TlsSource = Arc<dyn Fn() -> io::Result<TlsMaterial> + Send + Sync>;

/// TLS 1.3 over TCP, both ends with certificates
#[derive(Clone)]
pub struct TlsDial {
    source: TlsSource,
    name: Option<Arc<str>>,
}

impl fmt::Debug for TlsDial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsDial").field("name", &self.name).finish_non_exhaustive()
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text.into())
}

fn failed(what: &str, cause: &ErrorStack) -> io::Error {
    invalid(format!("{what}: {cause}"))
}

impl TlsDial {
    /// Members' certificates are for `name`, or where there is none for the address that is dialled. The material
    /// is looked at once, so that a mistake shows here and not as a cluster that is away. Blocks as the source
    /// does.
    pub fn new(source: TlsSource, name: Option<&str>) -> io::Result<Self> {
        if let Some(name) = name {
            let fits = |label: &str| {
                !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            if name.len() > NAME_LIMIT_BYTES || !name.split('.').all(fits) {
                return Err(invalid(format!("{name:?} is no DNS name of a member's certificate")));
            }
        }
        context(&source()?)?;
        Ok(Self { source, name: name.map(Arc::from) })
    }

    /// What the handshake with a member needs
    fn prepare(&self, member: SocketAddrV6) -> io::Result<Ssl> {
        let refused = |error: ErrorStack| failed("TLS cannot begin", &error);
        let context = context(&(self.source)()?)?;
        let mut ssl = Ssl::new(&context).map_err(refused)?;
        match &self.name {
            Some(name) => {
                ssl.set_hostname(name).map_err(refused)?;
                let wanted = ssl.verify_param_mut();
                wanted.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
                wanted.set_host(name).map_err(refused)?;
            }
            None => {
                ssl.verify_param_mut().set_ip(IpAddr::V6(*member.ip())).map_err(refused)?;
            }
        }
        Ok(ssl)
    }
}

fn context(material: &TlsMaterial) -> io::Result<SslContext> {
    let refused = |error: ErrorStack| failed("TLS cannot be set up", &error);
    let mut builder = SslContextBuilder::new(SslMethod::tls()).map_err(refused)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3)).map_err(refused)?;
    builder.set_max_proto_version(Some(SslVersion::TLS1_3)).map_err(refused)?;
    // Nothing is resumed unverified, and a write may come back with the same octets at another place.
    builder.set_options(SslOptions::NO_TICKET);
    builder.set_mode(SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER);
    builder.set_curves_list(GROUPS).map_err(refused)?;
    builder.set_alpn_protos(ALPN_WIRE).map_err(refused)?;
    trust(&mut builder, &material.authorities)?;
    present(&mut builder, material)?;
    Ok(builder.build())
}

/// The given authorities and no others: not those of the host
fn trust(builder: &mut SslContextBuilder, authorities: &[u8]) -> io::Result<()> {
    let refused = |error: ErrorStack| failed("the cluster's authorities are unusable", &error);
    let certificates = X509::stack_from_pem(authorities).map_err(refused)?;
    if certificates.is_empty() {
        return Err(invalid("the file of the cluster's authorities holds no certificate in PEM"));
    }
    let mut store = X509StoreBuilder::new().map_err(refused)?;
    for certificate in &certificates {
        store.add_cert(certificate).map_err(refused)?;
    }
    builder.set_cert_store(store.build());
    builder.set_verify(SslVerifyMode::PEER);
    Ok(())
}

/// This client's chain and key
fn present(builder: &mut SslContextBuilder, material: &TlsMaterial) -> io::Result<()> {
    let refused = |error: ErrorStack| failed("the certificate for the cluster is unusable", &error);
    let mut chain = X509::stack_from_pem(&material.certificate).map_err(refused)?.into_iter();
    let leaf = chain.next().ok_or_else(|| {
        invalid("the file of the certificate for the cluster holds no certificate in PEM")
    })?;
    builder.set_certificate(&leaf).map_err(refused)?;
    for certificate in chain {
        builder.add_extra_chain_cert(certificate).map_err(refused)?;
    }
    let refused = |error: ErrorStack| {
        failed("the key for the cluster is no private key in PEM without a passphrase", &error)
    };
    let key = PKey::private_key_from_pem(&material.key).map_err(refused)?;
    builder.set_private_key(&key).map_err(refused)?;
    builder
        .check_private_key()
        .map_err(|error| failed("the key for the cluster is not that of its certificate", &error))
}

impl Dial for TlsDial {
    fn dial(&self, member: SocketAddrV6) -> Dialling<'_> {
        Box::pin(async move {
            let preparing = self.clone();
            let ssl = tokio::task::spawn_blocking(move || preparing.prepare(member))
                .await
                .map_err(io::Error::other)??;
            let stream = TcpStream::connect(member).await?;
            stream.set_nodelay(true)?;
            let handshake = SslStreamBuilder::new(ssl, stream).connect().await;
            let stream = handshake.map_err(|error| {
                let text = format!("{member} did not prove itself, or did not speak TLS: {error}");
                io::Error::new(io::ErrorKind::PermissionDenied, text)
            })?;
            if stream.ssl().selected_alpn_protocol() != Some(ALPN) {
                let text = format!("{member} speaks TLS, but not gRPC (no ALPN `h2`)");
                return Err(io::Error::new(io::ErrorKind::Unsupported, text));
            }
            Ok(Box::new(stream) as Box<dyn EtcdStream>)
        })
    }
}

#[cfg(test)]
mod tests {
    use boring::asn1::Asn1Time;
    use boring::bn::BigNum;
    use boring::ec::{EcGroup, EcKey};
    use boring::hash::MessageDigest;
    use boring::nid::Nid;

    use super::*;

    /// A key and a certificate for it that it signs itself
    fn self_signed() -> (Vec<u8>, Vec<u8>) {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(1).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        (builder.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap())
    }

    fn made(material: &TlsMaterial, name: Option<&str>) -> Result<(), String> {
        let material = material.clone();
        let made = TlsDial::new(Arc::new(move || Ok(material.clone())), name);
        made.map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn each_mistake_in_the_files_is_named_at_once() {
        let (certificate, key) = self_signed();
        let good = TlsMaterial { authorities: certificate.clone(), certificate, key };
        assert_eq!(made(&good, Some("etcd.example")), Ok(()));
        let (_, other) = self_signed();
        let spoilt = [
            (TlsMaterial { authorities: b"nothing".to_vec(), ..good.clone() }, "authorities"),
            (TlsMaterial { certificate: Vec::new(), ..good.clone() }, "holds no certificate"),
            (TlsMaterial { key: b"nothing".to_vec(), ..good.clone() }, "no private key"),
            (TlsMaterial { key: other, ..good.clone() }, "KEY_VALUES_MISMATCH"),
        ];
        for (material, word) in spoilt {
            let refused = made(&material, None).unwrap_err();
            assert!(refused.contains(word), "{word}: {refused}");
        }
        for name in ["", "a..b", "*.example", "[::1]", &"a".repeat(254)] {
            assert!(made(&good, Some(name)).unwrap_err().contains("DNS name"), "{name}");
        }
        let none = TlsDial::new(Arc::new(|| Err(io::ErrorKind::NotFound.into())), None);
        assert_eq!(none.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

//! Mutual TLS 1.3 for the peers that use rustls: TLS_AES_128_GCM_SHA256 alone, no tickets, and a verdict on the
//! other end that is the product's: a path to a trusted certificate, found by webpki, and the one URI name
//! that was expected. A DNS name is neither needed nor looked at.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use webpki::{EndEntityCert, KeyUsage};

use crate::command_line::KeyShare;
use crate::identity::Identity;
use crate::{ALPN, Failure};

/// Judges the other end of a handshake
#[derive(Debug)]
struct Verdict {
    anchors: Vec<TrustAnchor<'static>>,
    peer_uri: String,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verdict {
    fn new(identity: &Identity) -> Result<Self, Failure> {
        let mut anchors = Vec::new();
        for certificate in certificates(&identity.authority_pem)? {
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|cause| format!("the authority's certificate is unusable: {cause}"))?;
            anchors.push(anchor.to_owned());
        }
        if anchors.is_empty() {
            return Err("the identity trusts nobody; put a certificate into authority_pem".into());
        }
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        Ok(Self { anchors, peer_uri: identity.peer_uri(), algorithms })
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        let refuse = |cause: webpki::Error| match cause {
            webpki::Error::CertExpired { .. } => CertificateError::Expired.into(),
            webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer.into(),
            other => Error::General(format!("the other end's certificate is refused: {other}")),
        };
        let leaf = EndEntityCert::try_from(leaf).map_err(refuse)?;
        leaf.verify_for_usage(self.algorithms.all, &self.anchors, rest, now, usage, None, None)
            .map_err(refuse)?;
        let mut names = leaf.valid_uri_names();
        match (names.next(), names.next()) {
            (Some(name), None) if name == self.peer_uri => Ok(()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }
}

/// No peer of this workspace may fall back to TLS 1.2
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".into()))
}

impl ServerCertVerifier for Verdict {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now, KeyUsage::server_auth())
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ClientCertVerifier for Verdict {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, now, KeyUsage::client_auth())
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|cause| format!("a certificate of the identity does not parse: {cause}").into())
}

fn key(identity: &Identity) -> Result<PrivateKeyDer<'static>, Failure> {
    PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes())
        .map_err(|cause| format!("the key of {} does not parse: {cause}", identity.node).into())
}

fn provider(key_share: Option<KeyShare>) -> Arc<CryptoProvider> {
    let (hybrid, plain) = (aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519);
    let kx_groups = match key_share {
        None => vec![hybrid, plain],
        Some(KeyShare::X25519mlkem768) => vec![hybrid],
        Some(KeyShare::X25519) => vec![plain],
    };
    let cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    CryptoProvider { cipher_suites, kx_groups, ..aws_lc_rs::default_provider() }.into()
}

/// The configuration of an end that accepts
///
/// # Errors
/// Where the identity is unusable.
pub fn server(identity: &Identity) -> Result<ServerConfig, Failure> {
    let mut config = ServerConfig::builder_with_provider(provider(None))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Verdict::new(identity)?))
        .with_single_cert(certificates(&identity.certificate_pem)?, key(identity)?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // Every handshake is a full one.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

/// The configuration of an end that dials
///
/// # Errors
/// Where the identity is unusable.
pub fn client(identity: &Identity, key_share: Option<KeyShare>) -> Result<ClientConfig, Failure> {
    let builder = ClientConfig::builder_with_provider(provider(key_share))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verdict::new(identity)?));
    let mut config = if identity.anonymous {
        builder.with_no_client_auth()
    } else {
        builder.with_client_auth_cert(certificates(&identity.certificate_pem)?, key(identity)?)?
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(config)
}

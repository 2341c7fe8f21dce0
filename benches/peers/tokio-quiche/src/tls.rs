//! Mutual TLS for tokio-quiche through its connection hook, the one place where it lets an application make
//! the context. BoringSSL finds the path to the authority; the one URI name of the leaf is compared here.
//! BoringSSL chooses the cipher itself: AES-128-GCM first where the processor has AES instructions.

use boring::error::ErrorStack;
use boring::pkey::{PKey, Private};
use boring::ssl::{
    SslContextBuilder, SslMethod, SslOptions, SslSignatureAlgorithm, SslVerifyMode, SslVersion,
};
use boring::x509::store::X509StoreBuilder;
use boring::x509::{X509, X509Ref};
use peer_harness::Failure;
use peer_harness::command_line::KeyShare;
use peer_harness::identity::Identity;
use peer_harness::report::warn;
use tokio_quiche::quic::ConnectionHook;
use tokio_quiche::settings::TlsCertificatePaths;

/// Makes the context of one end
pub struct Hook {
    authorities: Vec<X509>,
    chain: Vec<X509>,
    key: PKey<Private>,
    peer_uri: String,
    groups: String,
    anonymous: bool,
}

impl Hook {
    /// Reads the identity
    ///
    /// # Errors
    /// Where the identity, or a context of it, is unusable.
    pub fn new(identity: &Identity, key_share: Option<KeyShare>) -> Result<Self, Failure> {
        let unusable = |cause: ErrorStack| -> Failure {
            let node = &identity.node;
            format!("the identity of {node} is unusable: {cause}; make a new one").into()
        };
        let stack = |pem: &str| X509::stack_from_pem(pem.as_bytes()).map_err(unusable);
        let groups = match key_share {
            Some(share) => share.group().to_owned(),
            None => [KeyShare::X25519mlkem768, KeyShare::X25519].map(KeyShare::group).join(":"),
        };
        let hook = Self {
            authorities: stack(&identity.authority_pem)?,
            chain: stack(&identity.certificate_pem)?,
            key: PKey::private_key_from_pem(identity.key_pem.as_bytes()).map_err(unusable)?,
            peer_uri: identity.peer_uri(),
            groups,
            anonymous: identity.anonymous,
        };
        // tokio-quiche asks later and takes no error for an answer: what cannot work fails here.
        let _works = hook.context().map_err(unusable)?;
        Ok(hook)
    }

    fn context(&self) -> Result<SslContextBuilder, ErrorStack> {
        let mut builder = SslContextBuilder::new(SslMethod::tls())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
        builder.set_max_proto_version(Some(SslVersion::TLS1_3))?;
        // Every handshake is a full one.
        builder.set_options(SslOptions::NO_TICKET);
        builder.set_curves_list(&self.groups)?;
        builder.set_verify_algorithm_prefs(&[SslSignatureAlgorithm::ECDSA_SECP256R1_SHA256])?;
        let mut store = X509StoreBuilder::new()?;
        for authority in &self.authorities {
            store.add_cert(authority)?;
        }
        builder.set_cert_store(store.build());
        let expected = self.peer_uri.clone();
        builder.set_verify_callback(
            SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
            move |path_is_good, context| {
                let leaf = context.error_depth() == 0;
                let named = || context.current_cert().is_some_and(|c| carries(c, &expected));
                path_is_good && (!leaf || named())
            },
        );
        if !self.anonymous
            && let Some((leaf, rest)) = self.chain.split_first()
        {
            builder.set_certificate(leaf)?;
            for authority in rest {
                builder.add_extra_chain_cert(authority.clone())?;
            }
            builder.set_private_key(&self.key)?;
            builder.check_private_key()?;
        }
        Ok(builder)
    }
}

/// Whether the one URI name of a certificate is `expected`
fn carries(certificate: &X509Ref, expected: &str) -> bool {
    let names = certificate.subject_alt_names();
    let mut uris = names.iter().flatten().filter_map(|name| name.uri());
    uris.next() == Some(expected) && uris.next().is_none()
}

impl ConnectionHook for Hook {
    fn create_custom_ssl_context_builder(
        &self,
        _settings: TlsCertificatePaths<'_>,
    ) -> Option<SslContextBuilder> {
        match self.context() {
            Ok(builder) => Some(builder),
            Err(cause) => {
                // Without a context tokio-quiche looks for files that do not exist, and refuses as well.
                warn(&format!("BoringSSL refuses a context it has made before: {cause}"));
                None
            }
        }
    }
}

//! Who asks: a join token, a certificate in force, the key a node enrolled with, or the operator. What they may have
//! is decided in `pipeline`.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::api::{Credential, Holder, Refusal, STATEMENT_TOLERANCE, enrolled_key_statement};
use super::authority::IssuingAuthority;
use super::entry::Registered;
use super::issuing_keys::KeyRegister;
use super::service::Service;
use crate::certificate::{self, unix_seconds};
use crate::chain;
use crate::profile::Subject;
use crate::revocation::KeyId;
use crate::token::TokenError;

/// How far the start of a certificate may lie ahead of the clock here
const NOT_BEFORE_TOLERANCE_SECONDS: u64 = 60;

/// Who asks
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// What it is counted and written down as
    pub(super) identity: String,
    /// Its profile and name; `None`: an operator
    pub(super) holder: Option<(String, String)>,
    /// The operator of this host, whom the validators' agreement does not bind
    pub(super) at_hand: bool,
    /// The certificate shown
    pub(super) current: Option<Current>,
    /// The token shown
    pub(super) token: Option<Token>,
    /// What has to be registered first: a node of another authority of the mesh
    pub(super) adopted: Option<Registered>,
}

/// The dates of the certificate shown, in seconds since 1970
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) not_before: u64,
}

/// A token that was recognised
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) id: String,
    pub(super) subject: Subject,
    pub(super) expires: u64,
    /// Its file says that it was used
    pub(super) used: bool,
}

impl Caller {
    fn operator(name: &str, at_hand: bool) -> Self {
        Self {
            identity: format!("operator {name}"),
            holder: None,
            at_hand,
            current: None,
            token: None,
            adopted: None,
        }
    }
}

impl Service {
    pub(super) fn holder_of(&self, leaf_der: &[u8]) -> Result<Holder, Refusal> {
        let Caller { holder, .. } = self.by_certificate(leaf_der)?;
        let (profile, subject) =
            holder.ok_or(Refusal::Unauthenticated("the certificate names nobody of this mesh"))?;
        if self.shared().state().registration(&profile, &subject).is_none() {
            return Err(Refusal::NotRegistered { profile, subject });
        }
        Ok(Holder { profile, subject })
    }

    pub(super) async fn authenticate(
        &self,
        credential: &Credential,
        csr_der: &[u8],
    ) -> Result<Caller, Refusal> {
        match credential {
            Credential::Operator { name } => Ok(Caller::operator(name, true)),
            Credential::Order { name } => Ok(Caller::operator(name, false)),
            Credential::Token { id, secret } => {
                let (tokens, now) = (self.tokens().clone(), self.now());
                let (asked, secret) = (id.clone(), secret.clone());
                let recognise = move || tokens.recognise(&asked, &secret, now);
                let recognised = tokio::task::spawn_blocking(recognise).await;
                let recognised =
                    recognised.map_err(|error| Refusal::Internal(error.to_string()))?;
                let found = recognised.map_err(token_refusal)?;
                let enrolment = self.profiles().enrolment();
                let enrolment = enrolment.ok_or(Refusal::NotPermitted("nobody enrols here"))?;
                let node = found.subject.node().to_string();
                Ok(Caller {
                    identity: format!("token {id}"),
                    holder: Some((enrolment.name.clone(), node)),
                    at_hand: false,
                    current: None,
                    token: Some(Token {
                        id: id.clone(),
                        subject: found.subject,
                        expires: found.expires,
                        used: found.used,
                    }),
                    adopted: None,
                })
            }
            Credential::Certificate { leaf_der } => self.by_certificate(leaf_der),
            Credential::EnrolledKey { node, signed_at, signature } => {
                let statement = enrolled_key_statement(self.instance(), node, csr_der, *signed_at);
                self.by_enrolled_key(node.as_str(), *signed_at, &statement, signature)
            }
        }
    }

    fn by_certificate(&self, leaf_der: &[u8]) -> Result<Caller, Refusal> {
        let refuse = |reason| Err(Refusal::Unauthenticated(reason));
        let Ok(leaf) = certificate::parse(leaf_der) else {
            return refuse("what was shown is no certificate");
        };
        let spki_sha256 = boring::sha::sha256(leaf.public_key().raw);
        let now = unix_seconds(self.now());
        let state = self.shared().state();
        if state.is_revoked(leaf.raw_serial(), &spki_sha256) {
            return Err(Refusal::Revoked);
        }
        if let Some(live) = state.live(leaf.raw_serial())
            && is_named(&leaf, state.issuing_keys(), &self.authority(), &live.issuer)
        {
            if state.is_issuer_revoked(&live.issuer) {
                return Err(Refusal::Revoked);
            }
            // Who holds the key of a certificate of this serial number is whom the journal says it was issued
            // to; nothing else of what was shown is read, so nothing else need be verified.
            if live.spki_sha256 != spki_sha256 {
                return refuse("the certificate's key is not the one it was issued for");
            }
            in_force(live.not_before, live.not_after, now)?;
            let holder = (live.profile.to_string(), live.subject.to_string());
            if state.is_barred(&holder.0, &holder.1) {
                return Err(Refusal::Revoked);
            }
            let current = Some(Current { not_before: live.not_before });
            return Ok(Caller {
                identity: format!("{}/{}", holder.0, holder.1),
                holder: Some(holder),
                at_hand: false,
                current,
                token: None,
                adopted: None,
            });
        }
        // What follows takes milliseconds, and nobody waits for it.
        drop(state);
        self.of_a_sibling(leaf_der)
    }

    /// A certificate that another authority under the same root issued
    fn of_a_sibling(&self, leaf_der: &[u8]) -> Result<Caller, Refusal> {
        let refuse = |reason| Err(Refusal::Unauthenticated(reason));
        let now = self.now();
        let usage = chain::Usage::Client;
        let authority = self.authority();
        let root = authority.root_der();
        let issued =
            |sibling: &&Vec<u8>| chain::check_leaf(leaf_der, sibling, root, usage, now).is_ok();
        let own = authority.certificate_der().to_vec();
        let siblings = self.siblings();
        if [&own].into_iter().chain(siblings.iter()).find(issued).is_none() {
            return refuse(
                "no authority of this mesh issued the certificate, or it is not in force",
            );
        }
        let malformed = Refusal::Unauthenticated("the certificate names nobody of this mesh");
        let leaf = certificate::parse(leaf_der).map_err(|_| malformed.clone())?;
        let issuer = KeyId::of_issuer(&leaf).map_err(|_| malformed.clone())?;
        if self.shared().state().is_issuer_revoked(&issuer) {
            return Err(Refusal::Revoked);
        }
        let names = leaf.subject_alternative_name().ok().flatten().ok_or(malformed.clone())?;
        let enrolment = self.profiles().enrolment().ok_or(malformed.clone())?;
        let prefix = stoq_interface::SPIFFE_NODE_PREFIX;
        let mut addresses = Vec::new();
        let mut node = None;
        for name in &names.value.general_names {
            match name {
                GeneralName::URI(uri) => node = uri.strip_prefix(prefix),
                GeneralName::IPAddress(octets) => {
                    let octets: [u8; 16] = (*octets).try_into().map_err(|_| malformed.clone())?;
                    addresses.push(std::net::Ipv6Addr::from(octets).to_string());
                }
                _ => {}
            }
        }
        let subject = node.ok_or(malformed)?.to_owned();
        let profile = enrolment.name.clone();
        let (from, _) = certificate::validity(&leaf)
            .map_err(|_| Refusal::Unauthenticated("the certificate's dates"))?;
        // The sibling has it from an operator; here it is written down as if it had been registered.
        let unknown = self.shared().state().registration(&profile, &subject).is_none();
        let adopted = unknown.then(|| Registered {
            profile: profile.clone(),
            subject: subject.clone(),
            owner: String::new(),
            addresses,
            alternative_names: false,
        });
        Ok(Caller {
            identity: format!("{profile}/{subject}"),
            holder: Some((profile, subject)),
            at_hand: false,
            current: Some(Current { not_before: unix_seconds(from) }),
            token: None,
            adopted,
        })
    }

    fn by_enrolled_key(
        &self,
        node: &str,
        signed_at: u64,
        statement: &[u8],
        signature: &[u8],
    ) -> Result<Caller, Refusal> {
        let refuse = |reason| Err(Refusal::Unauthenticated(reason));
        let now = unix_seconds(self.now());
        if now.abs_diff(signed_at) > STATEMENT_TOLERANCE.as_secs() {
            return refuse(
                "the statement was signed more than five minutes from now; check both clocks",
            );
        }
        let (key, not_after) = {
            let state = self.shared().state();
            let Some((key, not_after)) = state.enrolled_key(node) else {
                return refuse("no node of that name has enrolled here");
            };
            let hash = boring::sha::sha256(&key);
            let enrolment = self.profiles().enrolment().map_or("", |profile| &profile.name);
            if state.is_revoked(&[], &hash) || state.is_barred(enrolment, node) {
                return Err(Refusal::Revoked);
            }
            (key, not_after)
        };
        if now > not_after.saturating_add(self.enrolled_key_grace().as_secs()) {
            return refuse(
                "the node's last certificate ended too long ago; enrol it with a new token",
            );
        }
        if !chain::is_signed_with(&key, statement, signature) {
            return refuse("the statement is not signed with the key that the node enrolled with");
        }
        let profile = self.profiles().enrolment().map(|profile| profile.name.clone());
        let profile = profile.ok_or(Refusal::NotPermitted("nobody enrols here"))?;
        Ok(Caller {
            identity: format!("{profile}/{node}"),
            holder: Some((profile, node.to_owned())),
            at_hand: false,
            current: None,
            token: None,
            adopted: None,
        })
    }
}

/// Whether a certificate names one of this instance's issuing keys as its issuer: the name follows from the key
fn is_named(
    leaf: &X509Certificate<'_>,
    keys: &KeyRegister,
    current: &IssuingAuthority,
    issuer: &KeyId,
) -> bool {
    let certificate_der = match keys.by_id(issuer) {
        Some(key) => key.certificate_der.as_slice(),
        None if current.key_id() == *issuer => current.certificate_der(),
        None => return false,
    };
    let parsed = certificate::parse(certificate_der);
    parsed.is_ok_and(|parsed| parsed.subject().as_raw() == leaf.issuer().as_raw())
}

fn in_force(not_before: u64, not_after: u64, now: u64) -> Result<(), Refusal> {
    if now > not_after {
        return Err(Refusal::Unauthenticated(
            "the certificate has ended; use the key that the node enrolled with",
        ));
    }
    if now + NOT_BEFORE_TOLERANCE_SECONDS < not_before {
        return Err(Refusal::Unauthenticated("the certificate is not valid yet"));
    }
    Ok(())
}

fn token_refusal(error: TokenError) -> Refusal {
    match error {
        TokenError::Unknown | TokenError::Malformed => Refusal::TokenUnknown,
        TokenError::Used => Refusal::TokenUsed,
        TokenError::Expired => Refusal::TokenExpired,
        other => Refusal::Internal(other.to_string()),
    }
}

//! The issue pipeline, in its one order: admission, authentication, request and key, consensus, policy, build and
//! lint, precertificate, commit, SCT, final certificate. A step that fails ends it; nothing is released before the
//! commit, and whatever was committed can be finished again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::{OwnedMutexGuard, oneshot};

use super::api::{
    Activation, CONSENSUS_PROOF_LIMIT_BYTES, IDEMPOTENCY_KEY_LIMIT_BYTES, IssueRequest,
    IssuedCertificate, Refusal, Registration,
};
use super::authenticate::Caller;
use super::build::{self, Order};
use super::commit::{HeldToken, Holds, IssueCommit, Message};
use super::entry::{Enrolled, Entry, Issued, TokenUsed};
use super::profile::{Names, Profile};
use super::service::Service;
use super::settings::{Consensus, ConsensusProof, NotAgreed, ToAgree};
use super::state::{Committed, Remembered, RequestId, instant};
use crate::certificate::{hex, unix_seconds, whole_seconds};
use crate::csr::ProvenKey;
use crate::log::{IssuerSignature, Submission};
use crate::revocation::SerialNumber;
use crate::root::random_serial;
use crate::signer::{KeyName, Signer, SignerError, signed_object};

/// How often a signature is asked for again after the commit, where the certificate is there but for that
const FINISH_ATTEMPTS: u32 = 5;
const FINISH_PAUSE: Duration = Duration::from_millis(20);

/// What was agreed to issue
struct Grant<'a> {
    profile: &'a Profile,
    registration: Registration,
    names: Names,
    others: Vec<Entry>,
}

impl Service {
    pub(super) async fn issue(&self, request: IssueRequest) -> Result<IssuedCertificate, Refusal> {
        let credential = request.credential.label();
        let profile = request.profile.clone();
        let outcome = self.run(request).await;
        match &outcome {
            Ok(issued) => {
                let counters = self.counters();
                let counter = if issued.repeated { &counters.repeated } else { &counters.issued };
                counter.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(serial = issued.serial, profile, credential, "certificate issued");
            }
            Err(refusal) => {
                self.counters().refused(refusal.code());
                tracing::info!(%refusal, profile, credential, "no certificate issued");
            }
        }
        outcome
    }

    async fn run(&self, request: IssueRequest) -> Result<IssuedCertificate, Refusal> {
        // 1: admission
        let place = self.admission().enter()?;
        // The issuing key is one and the same until the validators are asked, and from then on until the end.
        let one_key = self.turnover.read().await;
        self.check_issuing()?;
        check_sizes(&request)?;
        // 2: who asks
        let mut caller = self.authenticate(&request.credential, &request.csr_der).await?;
        if caller.holder.is_some() {
            self.admission().count(&caller.identity)?;
        }
        let profile = self.profiles().get(&request.profile);
        let profile = profile.ok_or_else(|| Refusal::UnknownProfile(request.profile.clone()))?;
        let subject = subject_of(&request, &caller)?;
        // 3: the request's key, and whether all this was answered before
        let key = ProvenKey::from_csr(&request.csr_der).map_err(|e| Refusal::Csr(Arc::new(e)))?;
        let spki_sha256 = boring::sha::sha256(key.spki_der());
        let id = request_id(&spki_sha256, &request, &subject);
        if self.shared().state().is_revoked(&[], &spki_sha256) {
            return Err(Refusal::Revoked);
        }
        let turn = self.turn(id).await;
        let before = self.shared().state().remembered(&id);
        if let Some(before) = before.filter(|before| self.may_finish(before)) {
            drop(turn);
            // Still only for whoever may have it, and of a token only what it was used for
            self.grant(&caller, profile, &subject)?;
            let user =
                caller.token.as_ref().map(|token| self.shared().state().token_user(&token.id));
            if user.is_some_and(|user| user != Some(id)) {
                return Err(Refusal::TokenUsed);
            }
            return self.finish(&id, before, true).await;
        }
        let (token, spent) = self.hold_token(&caller, &id)?;
        // 4: consensus, 5: policy
        let mut grant = self.grant(&caller, profile, &subject)?;
        let mut _one_key = one_key;
        if let Consensus::Required(judge) = self.consensus() {
            drop(_one_key);
            self.agreed(&**judge, &request, &caller, &grant, &spki_sha256).await?;
            // That may have taken as long as validators were away. Whoever was let in before may be revoked by now.
            _one_key = self.turnover.read().await;
            self.check_issuing()?;
            caller = self.authenticate(&request.credential, &request.csr_der).await?;
            if self.shared().state().is_revoked(&[], &spki_sha256) {
                return Err(Refusal::Revoked);
            }
            grant = self.grant(&caller, profile, &subject)?;
        }
        if self.shared().state().is_anothers_key(&spki_sha256, &profile.name, &subject) {
            return Err(Refusal::KeyInUse);
        }
        if let Some(token) = caller.token.as_ref().filter(|_| !spent) {
            grant.others.push(Entry::TokenUsed(TokenUsed {
                id: token.id.clone(),
                expires: token.expires,
                request: id.to_vec(),
            }));
            grant.others.push(Entry::Enrolled(Enrolled {
                node: subject.clone(),
                addresses: token.subject.addresses().iter().map(ToString::to_string).collect(),
                key_spki_der: key.spki_der().to_vec(),
            }));
        }
        // 6: build and lint, 7: precertificate
        let (issued, tbs) = self.build(&request, &caller, &grant, &key, id)?;
        let issuer = self.issuer();
        let (signer, name) = (issuer.authority.signer(), issuer.authority.key().name());
        let signature = signer.sign(name, tbs.clone()).await?;
        let precertificate = signed_object(&tbs, &signature);
        let submission =
            Submission::precertificate(&precertificate, &issuer.chain, IssuerSignature::Checked)
                .map_err(|error| Refusal::Internal(error.to_string()))?;
        // 8: the commit point
        let holds = Holds { _token: token, _turn: turn };
        let committed = self.commit(submission, issued, grant.others, holds).await?;
        if let Some(token) = &caller.token {
            self.settle_token(token.id.clone());
        }
        // 9: SCT and final certificate
        let finished = self.finish(&id, Remembered::Committed(committed), false).await?;
        self.admission().took(&place);
        Ok(finished)
    }

    /// Waits until no other request of the same id is under way
    async fn turn(&self, id: RequestId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut turns = self.turns();
            if turns.len() > 2 * self.shared().limits.in_flight {
                turns.retain(|_, lock| Arc::strong_count(lock) > 1);
            }
            turns.entry(id).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Whether what was committed for a request can still be made a certificate: of an issuing key that was replaced
    /// in between it cannot, and the request is answered anew
    fn may_finish(&self, before: &Remembered) -> bool {
        match before {
            Remembered::Done(_) => true,
            Remembered::Committed(committed) => {
                self.authority().key_id().as_bytes()[..] == committed.issued.issuer_key_id[..]
            }
        }
    }

    /// The token, set aside for this request; and whether this very request has used it already
    fn hold_token(
        &self,
        caller: &Caller,
        id: &RequestId,
    ) -> Result<(Option<HeldToken>, bool), Refusal> {
        let Some(token) = &caller.token else { return Ok((None, false)) };
        let mut state = self.shared().state();
        let user = state.token_user(&token.id);
        let spent = user == Some(*id);
        // The same request would have been answered above, were its certificate not of another issuing key.
        let used = (token.used || user.is_some()) && !spent;
        if used || !state.reserve_token(&token.id) {
            return Err(Refusal::TokenUsed);
        }
        drop(state);
        let held = HeldToken { shared: self.shared().clone(), id: token.id.clone() };
        Ok((Some(held), spent))
    }

    /// What the caller may have
    fn grant<'a>(
        &self,
        caller: &Caller,
        profile: &'a Profile,
        subject: &str,
    ) -> Result<Grant<'a>, Refusal> {
        let mut others = Vec::new();
        let registered = self.shared().state().registration(&profile.name, subject).cloned();
        let registration = match &caller.token {
            // The token is the registration, and takes the place of an earlier one.
            Some(token) => {
                if !self.shared().state().has_room_for(&profile.name, subject) {
                    return Err(Refusal::RegistryFull);
                }
                Registration {
                    profile: profile.name.clone(),
                    subject: subject.to_owned(),
                    owner: None,
                    addresses: token.subject.addresses().to_vec(),
                    alternative_names: false,
                }
            }
            None => match (registered, &caller.adopted) {
                (Some(registered), _) => registered,
                (None, Some(adopted)) if adopted.subject == subject => {
                    others.push(Entry::Registered(adopted.clone()));
                    let addresses = adopted.addresses.iter().filter_map(|text| text.parse().ok());
                    Registration {
                        profile: profile.name.clone(),
                        subject: subject.to_owned(),
                        owner: None,
                        addresses: addresses.collect(),
                        alternative_names: false,
                    }
                }
                (None, _) => {
                    let (profile, subject) = (profile.name.clone(), subject.to_owned());
                    return Err(Refusal::NotRegistered { profile, subject });
                }
            },
        };
        let own = caller.holder.as_ref().is_none_or(|(holder_profile, holder)| {
            (holder_profile.as_str(), holder.as_str()) == (profile.name.as_str(), subject)
        });
        if !own {
            let node = caller.holder.as_ref().filter(|(holder_profile, _)| {
                self.profiles().enrolment().is_some_and(|node| node.name == *holder_profile)
            });
            let owner = registration.owner.as_ref();
            let owns = node.zip(owner).is_some_and(|((_, node), owner)| owner.as_str() == node);
            if !owns || caller.token.is_some() {
                return Err(Refusal::NotPermitted("it is registered to somebody else"));
            }
        }
        let names = profile.names(&registration).map_err(Refusal::Malformed)?;
        let authority = self.authority();
        if let Some(address) = names.addresses.iter().find(|one| !authority.may_name(**one)) {
            return Err(Refusal::Malformed(format!(
                "{address} is not within the network this authority may name"
            )));
        }
        if !self.shared().state().has_room() {
            return Err(Refusal::NotIssuing("it remembers as many certificates as it can".into()));
        }
        Ok(Grant { profile, registration, names, others })
    }

    async fn agreed(
        &self,
        judge: &dyn ConsensusProof,
        request: &IssueRequest,
        caller: &Caller,
        grant: &Grant<'_>,
        spki_sha256: &[u8; 32],
    ) -> Result<(), Refusal> {
        let statement = consensus_statement(
            self.instance().as_str(),
            &grant.profile.name,
            &grant.registration.subject,
            &grant.names,
            spki_sha256,
            &request.idempotency_key,
        );
        let asked = ToAgree {
            statement,
            csr_der: request.csr_der.clone(),
            profile: grant.profile.name.clone(),
            subject: grant.registration.subject.clone(),
            proof: request.consensus_proof.clone(),
            at_hand: caller.at_hand,
        };
        judge.verify(asked, self.now()).await.map_err(|reason| match reason {
            NotAgreed::Refused(reason) => Refusal::Consensus(reason),
            NotAgreed::Unavailable(reason) => Refusal::NoConsensus(reason),
        })
    }

    /// The to-be-signed octets of the precertificate, and what the journal will say of it
    fn build(
        &self,
        request: &IssueRequest,
        caller: &Caller,
        grant: &Grant<'_>,
        key: &ProvenKey,
        id: RequestId,
    ) -> Result<(Issued, Vec<u8>), Refusal> {
        let internal = |error: &dyn std::fmt::Display| Refusal::Internal(error.to_string());
        let profile = grant.profile;
        let (not_before, not_after) = self.dates(request, caller, profile)?;
        let serial = loop {
            let drawn = random_serial().map_err(|error| internal(&error))?;
            if !self.shared().state().knows_serial(&drawn) {
                break drawn;
            }
        };
        let number = SerialNumber::from_bytes(&serial).map_err(|error| internal(&error))?;
        let shard = self.sharding().shard_of(&number);
        let issuer = self.issuer();
        let order = Order {
            authority: &issuer.authority,
            profile,
            names: &grant.names,
            key,
            serial,
            not_before,
            not_after,
            crl_uri: issuer.crl_uri(shard),
            authority_uri: issuer.authority_uri(),
        };
        let tbs = order.precertificate_tbs().map_err(|error| match error {
            build::BuildError::Lint(field) => Refusal::Lint(field),
            other => internal(&other),
        })?;
        let stoq_address = request.stoq_address.map(|address| address.to_string());
        let issued = Issued {
            serial: number.as_bytes().to_vec(),
            profile: profile.name.clone(),
            subject: grant.registration.subject.clone(),
            dns_names: grant.names.dns.clone(),
            spki_sha256: boring::sha::sha256(key.spki_der()).to_vec(),
            issuer_key_id: issuer.authority.key_id().as_bytes().to_vec(),
            not_before: unix_seconds(not_before),
            not_after: unix_seconds(not_after),
            leaf_index: 0,
            timestamp_ms: 0,
            request: id.to_vec(),
            credential: request.credential.label().into(),
            requested_by: caller.identity.clone(),
            crl_shard: shard.into(),
            stoq_address: stoq_address.unwrap_or_default(),
        };
        Ok((issued, tbs))
    }

    /// First and last instant of validity
    fn dates(
        &self,
        request: &IssueRequest,
        caller: &Caller,
        profile: &Profile,
    ) -> Result<(SystemTime, SystemTime), Refusal> {
        let now = whole_seconds(self.now());
        let mut not_before = now - profile.backdate();
        if request.activation == Activation::Successor
            && let Some(current) = caller.current
            && caller.holder.as_ref().is_some_and(|(holder, _)| *holder == profile.name)
            && request.subject.is_none()
        {
            // The present one counts from the time it was issued, which is its tolerance after its start; the
            // successor is what would be issued at its activation, so it begins that tolerance before it.
            let activation = instant(current.not_before) + profile.activate_at();
            let ahead = activation.duration_since(now).unwrap_or_default();
            if ahead <= Duration::from_secs(profile.stage_ahead_limit_seconds) {
                not_before = not_before.max(activation);
            }
        }
        // Both ends count, so a lifetime of n seconds ends n - 1 after its first.
        let lifetime = Duration::from_secs(profile.lifetime_seconds - 1);
        let not_after = (not_before + lifetime).min(self.authority().not_after());
        if not_after <= now.max(not_before) {
            let reason = "its issuing certificate ends too soon; renew it first";
            return Err(Refusal::NotIssuing(reason.into()));
        }
        Ok((not_before, not_after))
    }

    async fn commit(
        &self,
        submission: Submission,
        issued: Issued,
        others: Vec<Entry>,
        holds: Holds,
    ) -> Result<Arc<Committed>, Refusal> {
        let (done, outcome) = oneshot::channel();
        let issue = IssueCommit { issued, others, holds, done };
        self.send(Message::Issue(submission, Box::new(issue)))?;
        let patience = self.shared().limits.commit_patience;
        match tokio::time::timeout(patience, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_gone)) => Err(Refusal::Stopped("it ended early".into())),
            // It may still be issued; the same request again finds it then.
            Err(_late) => {
                self.shared().check_running()?;
                Err(self.admission().busy(Duration::from_secs(1)))
            }
        }
    }

    /// Makes of what is committed what is released; the same however often it is asked
    async fn finish(
        &self,
        id: &RequestId,
        before: Remembered,
        repeated: bool,
    ) -> Result<IssuedCertificate, Refusal> {
        let committed = match before {
            Remembered::Done(done) => {
                return Ok(IssuedCertificate { repeated, ..(*done).clone() });
            }
            Remembered::Committed(committed) => committed,
        };
        let internal = |error: &dyn std::fmt::Display| Refusal::Internal(error.to_string());
        let durable = &committed.durable;
        let message = durable.sct_message().map_err(|error| internal(&error))?;
        let (signer, name) = self.log_key();
        let signature = sign_patiently(signer, name, message).await?;
        let sct = durable.sct_with(self.log(), &signature).map_err(|error| internal(&error))?;
        let tbs = build::final_tbs(durable, &sct).map_err(|error| internal(&error))?;
        let authority = self.authority();
        let (signer, name) = (authority.signer(), authority.key().name());
        let signature = sign_patiently(signer, name, tbs.clone()).await?;
        let certificate_der = signed_object(&tbs, &signature);
        build::lint_final(&certificate_der, durable, &sct).map_err(|error| match error {
            build::BuildError::Lint(field) => Refusal::Lint(field),
            other => internal(&other),
        })?;
        let issued = &committed.issued;
        let finished = IssuedCertificate {
            certificate_der,
            issuing_der: authority.certificate_der().to_vec(),
            root_der: authority.root_der().to_vec(),
            serial: hex(&issued.serial),
            profile: issued.profile.clone(),
            subject: issued.subject.clone(),
            not_before: instant(issued.not_before),
            not_after: instant(issued.not_after),
            leaf_index: issued.leaf_index,
            timestamp_ms: issued.timestamp_ms,
            window: self.window(
                &issued.profile,
                (issued.not_before, issued.not_after),
                issued.timestamp_ms,
            ),
            sequence: committed.sequence,
            repeated: false,
        };
        let first = self.shared().state().finished(id, finished);
        Ok(IssuedCertificate { repeated, ..(*first).clone() })
    }

    /// Puts a used token away. The journal knows already, and a start puts away what this does not.
    fn settle_token(&self, id: String) {
        let tokens = self.tokens().clone();
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = tokens.settle_used(&id) {
                tracing::warn!(%error, token = id, "a used token was not put away; the next start does");
            }
        }));
    }
}

/// What a consensus proof has to agree to: this key, these names, this profile, at this authority, for this
/// request
pub fn consensus_statement(
    instance: &str,
    profile: &str,
    subject: &str,
    names: &Names,
    spki_sha256: &[u8; 32],
    idempotency_key: &[u8],
) -> [u8; 32] {
    let mut hasher = boring::sha::Sha256::new();
    hasher.update(b"stoq-trustchain consensus v1\0");
    let mut field = |octets: &[u8]| {
        // Whatever is cut off in between cannot be put together in another way.
        hasher.update(&(octets.len() as u64).to_be_bytes());
        hasher.update(octets);
    };
    for text in [instance, profile, subject] {
        field(text.as_bytes());
    }
    field(&(names.dns.len() as u64).to_be_bytes());
    names.dns.iter().for_each(|name| field(name.as_bytes()));
    field(&(names.addresses.len() as u64).to_be_bytes());
    names.addresses.iter().for_each(|address| field(&address.octets()));
    field(names.uri.as_deref().unwrap_or_default().as_bytes());
    field(spki_sha256);
    field(idempotency_key);
    hasher.finish()
}

fn check_sizes(request: &IssueRequest) -> Result<(), Refusal> {
    if request.idempotency_key.len() > IDEMPOTENCY_KEY_LIMIT_BYTES {
        let text = format!("an idempotency key has at most {IDEMPOTENCY_KEY_LIMIT_BYTES} bytes");
        return Err(Refusal::Malformed(text));
    }
    let proof = request.consensus_proof.as_ref().map_or(0, Vec::len);
    if proof > CONSENSUS_PROOF_LIMIT_BYTES {
        let text = format!("a consensus proof has at most {CONSENSUS_PROOF_LIMIT_BYTES} bytes");
        return Err(Refusal::Malformed(text));
    }
    Ok(())
}

/// Whom the certificate is for
fn subject_of(request: &IssueRequest, caller: &Caller) -> Result<String, Refusal> {
    match (&request.subject, &caller.holder) {
        (Some(subject), _) => Ok(subject.clone()),
        (None, Some((profile, subject))) if *profile == request.profile => Ok(subject.clone()),
        (None, Some(_)) => Err(Refusal::NotPermitted(
            "the credential is of another profile; name the subject that is asked for",
        )),
        (None, None) => Err(Refusal::Malformed("the operator names the subject".into())),
    }
}

/// What the request is known by
fn request_id(spki_sha256: &[u8; 32], request: &IssueRequest, subject: &str) -> RequestId {
    let mut hasher = boring::sha::Sha256::new();
    hasher.update(b"stoq-trustchain request v1\0");
    hasher.update(spki_sha256);
    for field in [request.profile.as_bytes(), subject.as_bytes(), &request.idempotency_key] {
        hasher.update(&(field.len() as u64).to_be_bytes());
        hasher.update(field);
    }
    hasher.finish()
}

/// A signature for something that is committed: worth waiting for
async fn sign_patiently(
    signer: &Arc<dyn Signer>,
    name: &KeyName,
    message: Vec<u8>,
) -> Result<Vec<u8>, SignerError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match signer.sign(name, message.clone()).await {
            Err(error) if error.is_transient() && attempts < FINISH_ATTEMPTS => {
                let pause = match &error {
                    SignerError::Busy { retry_after, .. } => *retry_after,
                    _ => FINISH_PAUSE * 2u32.pow(attempts),
                };
                tokio::time::sleep(pause).await;
            }
            other => return other,
        }
    }
}

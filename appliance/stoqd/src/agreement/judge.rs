//! Whether the validators have agreed to a certificate: TrustChain asks here before it issues. A receipt is judged with the
//! genesis and with the block that is final here; that the asset is still the requester's, with the registry. Where nothing is agreed on at the moment
//! a request waits or is refused, as configured.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use stoq::NodeId;
use stoq_config::Issuance;
use stoq_hypermesh::consensus::{Genesis, SubmitError};
use stoq_hypermesh::operation::{
    AssetId, CertificateRequest, Operation, OperationBody, csr_statement,
};
use stoq_hypermesh::receipt::{Receipt, VerifiedReceipt, Verifier};
use stoq_hypermesh::registry::Registry;
use stoq_trustchain::ca::{Agreeing, ConsensusProof, NotAgreed, ToAgree};
use tokio::time::Instant;

use super::{Agreement, Later, RequestError, SubmitRefused};
use crate::authority::milliseconds;

/// The profile whose certificates name assets
const ASSET_PROFILE: &str = "asset";
/// The profiles of the certificates without which the authority's node does not run: its own, and its HTTPS server's
const OWN_PROFILES: [&str; 2] = ["node", "server"];
/// A receipt may be this far ahead of the authority's clock
const CLOCK_TOLERANCE_MS: u64 = 60_000;
/// A registry whose last block is older is catching up, whatever the difference of the clocks: what it says of an owner
/// may be over
const STALE_MS: u64 = CLOCK_TOLERANCE_MS + 5_000;
/// How often it is looked whether this node's part has started, of which there is no event
const LOOK: Duration = Duration::from_millis(200);

/// Judges for this node's authority
#[derive(Clone)]
pub struct Judge {
    shared: Arc<Shared>,
}

struct Shared {
    verifier: Mutex<Verifier>,
    node: NodeId,
    agreement: Later,
    issuance: Issuance,
    wait: Duration,
}

impl Judge {
    /// By this genesis, and by what is final on this node once the agreement runs
    pub fn new(
        genesis: Arc<Genesis>,
        node: NodeId,
        (issuance, wait): (Issuance, Duration),
        agreement: Later,
    ) -> Self {
        let verifier = Mutex::new(Verifier::new(genesis));
        Self { shared: Arc::new(Shared { verifier, node, agreement, issuance, wait }) }
    }
}

impl ConsensusProof for Judge {
    fn verify(&self, asked: ToAgree, now: SystemTime) -> Agreeing {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.judge(asked, now).await })
    }
}

fn refused<T>(reason: impl Into<String>) -> Result<T, NotAgreed> {
    Err(NotAgreed::Refused(reason.into()))
}

impl Shared {
    async fn judge(&self, asked: ToAgree, now: SystemTime) -> Result<(), NotAgreed> {
        let of_asset = asked.profile == ASSET_PROFILE;
        // Nobody owns an asset but by agreement.
        if !of_asset && !self.demands(&asked).await {
            return Ok(());
        }
        let statement = csr_statement(&asked.csr_der);
        let octets = match &asked.proof {
            Some(octets) => octets.clone(),
            // Whoever takes no part, or has no certificate, cannot ask the validators: this node does, with what it has at
            // stake.
            None if !of_asset => self.vouch(statement).await?,
            None => {
                return refused(
                    "no receipt was shown; ask the validators for this very request first, as its owner, with \
                     `stoqctl asset certificate` or `stoqctl proof make --csr`",
                );
            }
        };
        let (verified, receipt) = self.verify_receipt(&octets)?;
        let operation = Operation::decode(&verified.operation).map_err(|error| {
            NotAgreed::Refused(format!("the receipt is of no operation: {error}"))
        })?;
        let Some(request) = operation.body.certificate_request(&statement) else {
            return refused("the receipt is for another certificate request than this one");
        };
        check_subject(&asked, request)?;
        let agreement = self.agreeing(receipt.header.height).await?;
        check_place(&agreement, &verified).await?;
        check_age(&agreement.view.registry(), &verified, now)?;
        check_owner(&agreement.view.registry(), &operation, request)
    }

    /// Whether a certificate that is no asset's needs an agreement. Not while there is nobody to ask: the validators
    /// of a network get their first certificates before its first block, and the authority's node its own in any case,
    /// since without one it reaches nobody.
    async fn demands(&self, asked: &ToAgree) -> bool {
        let own = asked.at_hand
            && OWN_PROFILES.contains(&asked.profile.as_str())
            && asked.subject == self.node.as_str();
        if self.issuance == Issuance::Off || own {
            return false;
        }
        let Some(agreement) = self.agreement.get() else { return true };
        // A node that has no block yet of a network that has some is behind, not in a network without any.
        let unborn = agreement.view.registry().last_height() == 0
            && agreement.status().await.is_some_and(|status| status.heard == 0);
        !unborn
    }

    fn verify_receipt(&self, octets: &[u8]) -> Result<(VerifiedReceipt, Receipt), NotAgreed> {
        let receipt =
            Receipt::decode(octets).map_err(|error| NotAgreed::Refused(error.to_string()))?;
        let mut verifier = self.verifier.lock().unwrap_or_else(PoisonError::into_inner);
        let verified = verifier.verify(&receipt);
        Ok((verified.map_err(|error| NotAgreed::Refused(error.to_string()))?, receipt))
    }

    /// The agreement, once it has come to this height and is alive; waits for that as configured
    async fn agreeing(&self, height: u64) -> Result<Arc<Agreement>, NotAgreed> {
        let deadline = Instant::now() + self.wait;
        loop {
            let agreement = self.agreement.get();
            // From before it is looked, so that no block between is missed
            let pulse = agreement.map(|agreement| agreement.pulse());
            let problem = match agreement {
                None => "HyperMesh is starting on the authority's node".to_owned(),
                Some(agreement) => match agreement.problem() {
                    Some(problem) => problem,
                    None if agreement.view.registry().last_height() < height => {
                        format!("the authority's node has not come to height {height} yet")
                    }
                    None if is_stale(agreement.view.registry().last_time_ms()) => {
                        "the authority's node has not caught up with the validators yet".to_owned()
                    }
                    None => return Ok(Arc::clone(agreement)),
                },
            };
            if self.issuance == Issuance::Refuse || Instant::now() >= deadline {
                return Err(NotAgreed::Unavailable(problem));
            }
            let next_block = async {
                match pulse {
                    Some(mut pulse) => drop(pulse.changed().await),
                    None => tokio::time::sleep(LOOK).await,
                }
            };
            // When it is too late is found above.
            let _ = tokio::time::timeout_at(deadline, next_block).await;
        }
    }

    /// Asks the validators in the name of this node
    async fn vouch(&self, csr_statement: [u8; 32]) -> Result<Vec<u8>, NotAgreed> {
        let agreement = self.agreeing(0).await?;
        let body =
            OperationBody::RequestCertificate(CertificateRequest { asset: None, csr_statement });
        match tokio::time::timeout(self.wait, agreement.requester.perform(body)).await {
            Ok(Ok(done)) => Ok(done.receipt.to_vec()),
            Ok(Err(RequestError::Submit(SubmitRefused(SubmitError::Refused(reason))))) => {
                refused(format!("the validators refuse: {reason}"))
            }
            Ok(Err(error)) => Err(NotAgreed::Unavailable(error.to_string())),
            Err(_) => Err(NotAgreed::Unavailable(format!(
                "the validators did not agree within {} s",
                self.wait.as_secs()
            ))),
        }
    }
}

fn is_stale(last_time_ms: u64) -> bool {
    milliseconds(SystemTime::now()).saturating_sub(last_time_ms) > STALE_MS
}

/// The receipt is of the very block that is final here. The genesis alone cannot tell who validates by now: a key that was
/// replaced signs what it likes.
async fn check_place(agreement: &Agreement, verified: &VerifiedReceipt) -> Result<(), NotAgreed> {
    let Some(block) = agreement.client.block(verified.height).await else {
        return refused(format!(
            "the authority's node has no block {} any more; ask the validators again",
            verified.height
        ));
    };
    if block.block.header.digest() != verified.block {
        return refused("the receipt is of another block than the one that is final");
    }
    Ok(())
}

/// The receipt names the asset that the certificate shall name, or none where it shall name none
fn check_subject(asked: &ToAgree, request: &CertificateRequest) -> Result<(), NotAgreed> {
    match (asked.profile == ASSET_PROFILE, &request.asset) {
        (false, None) => Ok(()),
        (true, Some(asset)) if asked.subject == asset.to_string() => Ok(()),
        (true, Some(asset)) => {
            refused(format!("the receipt is for asset {asset}, and {} is asked for", asked.subject))
        }
        (true, None) => {
            refused("the receipt names no asset, and a certificate of one is asked for")
        }
        (false, Some(_)) => refused(format!(
            "the receipt is for an asset's certificate, not one of `{}`",
            asked.profile
        )),
    }
}

/// A receipt is good for as long as the certificate that it is for
fn check_age(
    registry: &Registry,
    verified: &VerifiedReceipt,
    now: SystemTime,
) -> Result<(), NotAgreed> {
    let (agreed_ms, now_ms) = (verified.time_ms, milliseconds(now));
    let good_for_ms = registry.parameters().certificate_lifetime_ms;
    if agreed_ms.saturating_add(good_for_ms) <= now_ms {
        return refused("the receipt is too old; ask the validators again");
    }
    if agreed_ms > now_ms.saturating_add(CLOCK_TOLERANCE_MS) {
        return refused(
            "the receipt is of the future; compare the clocks of validators and authority",
        );
    }
    Ok(())
}

/// The asset is still the requester's, and this is still the one certificate it was granted
fn check_owner(
    registry: &Registry,
    operation: &Operation,
    request: &CertificateRequest,
) -> Result<(), NotAgreed> {
    let Some(id) = &request.asset else { return Ok(()) };
    let gone = |id: &AssetId| refused(format!("there is no asset {id} any more"));
    let Some(asset) = registry.asset(id).filter(|asset| !asset.retired) else { return gone(id) };
    if asset.owner != operation.requester() {
        return refused(format!("asset {id} is registered to another owner"));
    }
    match &asset.certificate {
        Some(granted) if granted.csr_statement == request.csr_statement => Ok(()),
        _ => {
            refused(format!("asset {id} was granted another certificate since, or this one ended"))
        }
    }
}

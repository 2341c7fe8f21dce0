//! Offences: votes are held against each other, evidence is verified, kept, shown to the application and to others; and
//! with more culprits than agreement can bear, nothing is agreed on any more.

use std::sync::Arc;

use bytes::Bytes;

use super::super::application::{Application, Validity};
use super::super::chain::{Chain, Fault, Lineage, Verdict};
use super::super::docket::Case;
use super::super::engine::Runtime;
use super::super::evidence::{Evidence, EvidenceRefusal, Judge, Judgement};
use super::super::header::{Block, Header};
use super::super::message::Message;
use super::super::network::Channel;
use super::super::quorum::Quorum;
use super::super::vote::{SignedVote, Statement};
use super::super::witness::{AHEAD_LIMIT, Invalid};
use super::{Core, NodeError};
use crate::digest::Digest;
use crate::operation::ValidatorKey;

/// Judges blocks that others show, as far as the states at hand allow
struct Bench<'a> {
    application: &'a mut dyn Application,
    chain: &'a Chain,
}

impl Judge for Bench<'_> {
    fn operation(&mut self, header: &Header, operation: &[u8]) -> Judgement {
        self.application.judge(header, operation)
    }

    fn block(&mut self, header: &Header, operations: &[Bytes]) -> Judgement {
        let digest = header.digest();
        match self.chain.get(&digest).map(|pending| &pending.verdict) {
            Some(Verdict::Valid) => return Judgement::Valid,
            Some(Verdict::Invalid(fault)) => return Judgement::Invalid(fault.reason()),
            Some(Verdict::Open) | None => {}
        }
        // The application can judge only what follows a block it called valid.
        let parent_judged = header.parent == *self.chain.tip_digest()
            || matches!(
                self.chain.get(&header.parent).map(|pending| &pending.verdict),
                Some(Verdict::Valid)
            ) && matches!(self.chain.lineage(&header.parent), Lineage::Whole(_));
        if !parent_judged {
            return Judgement::Unknown;
        }
        match self.application.validate(header, operations) {
            Validity::Valid => Judgement::Valid,
            Validity::Invalid(invalidity) => Judgement::Invalid(invalidity.reason),
            Validity::Later => Judgement::Unknown,
        }
    }
}

impl<E: Runtime> Core<E> {
    pub(super) async fn on_vote(&mut self, vote: Option<SignedVote>) -> Result<(), NodeError> {
        let Some(vote) = vote else { return Ok(()) };
        let round = (vote.statement.epoch(), vote.statement.view());
        if let Some(block) = vote.statement.block() {
            self.chain.voted(block);
        }
        let notarize = matches!(vote.statement, Statement::Notarize(_));
        let set = Arc::clone(self.trust.validators(round.0));
        let found = self.witness.observe(vote, None, &set);
        self.convict_all(found).await?;
        if notarize && self.witness.is_split(round, &set) {
            let told = self.witness.tell(round, None, &set);
            self.tell(told);
        }
        Ok(())
    }

    pub(super) async fn on_quorum(&mut self, quorum: &Quorum) -> Result<(), NodeError> {
        let round = (quorum.statement.epoch(), quorum.statement.view());
        let set = Arc::clone(self.trust.validators(round.0));
        let found = self.witness.observe_quorum(quorum, &set);
        self.convict_all(found).await?;
        if self.witness.is_split(round, &set) {
            let told = self.witness.tell(round, None, &set);
            self.tell(told);
        }
        Ok(())
    }

    /// A view went by without a block. If its leader had proposed one, it may have proposed another to others.
    pub(super) fn tell_of_leader(&mut self, statement: &Statement) {
        let (epoch, view) = (statement.epoch(), statement.view());
        let set = Arc::clone(self.trust.validators(epoch));
        let leader = set.index(&set.leader(epoch, view).key);
        let told = self.witness.tell((epoch, view), leader, &set);
        self.tell(told);
    }

    fn tell(&self, votes: Vec<SignedVote>) {
        if !votes.is_empty() {
            self.outlet.broadcast(Channel::Blocks, &Message::Votes(votes).to_bytes());
        }
    }

    /// Votes that another saw. An honest validator passes on only what is signed.
    pub(super) async fn on_votes(
        &mut self,
        from: &ValidatorKey,
        votes: Vec<SignedVote>,
    ) -> Result<(), NodeError> {
        for vote in votes {
            let round = (vote.statement.epoch(), vote.statement.view());
            let current = round.0 == self.epoch && round.1 <= self.view + AHEAD_LIMIT;
            if !(current || self.witness.is_current(round)) || self.witness.knows(&vote) {
                continue;
            }
            let set = Arc::clone(self.trust.validators(round.0));
            let network = self.trust.genesis().network();
            if !vote.is_valid(&network, &set) {
                self.inbox.block(from, "it passed on a vote that nobody signed");
                return Ok(());
            }
            let found = self.witness.observe(vote, Some(true), &set);
            self.convict_all(found).await?;
        }
        Ok(())
    }

    /// A block was found invalid: whoever voted for it is convicted, now and when more votes come
    pub(super) async fn on_invalid(
        &mut self,
        digest: Digest,
        block: &Arc<Block>,
        parent: &Header,
        fault: Fault,
    ) -> Result<(), NodeError> {
        let header = &block.header;
        let (height, reason) = (header.height, fault.reason());
        tracing::warn!(height, reason, "a block is invalid");
        let invalid = match &fault {
            Fault::Header(_) => Invalid::Header {
                header: Box::new(header.clone()),
                parent: Box::new(parent.clone()),
            },
            Fault::Validators => Invalid::Block(Arc::clone(block)),
            Fault::Application(invalidity) => {
                let place = invalidity.operation.and_then(|index| {
                    let operation = block.operations.get(usize::try_from(index).ok()?)?;
                    let judged = self.application.judge(header, operation);
                    matches!(judged, Judgement::Invalid(_)).then_some(index)
                });
                match place {
                    Some(index) => Invalid::Operation { block: Arc::clone(block), index },
                    None => Invalid::Block(Arc::clone(block)),
                }
            }
        };
        let set = Arc::clone(self.trust.validators(header.epoch));
        let found = self.witness.invalid(digest, invalid, header.epoch, &set);
        self.convict_all(found).await
    }

    async fn convict_all(&mut self, found: Vec<Evidence>) -> Result<(), NodeError> {
        for evidence in found {
            if let Err(refusal) = self.convict(evidence).await? {
                tracing::debug!(%refusal, "what looked like evidence is none");
            }
        }
        Ok(())
    }

    /// Verifies evidence, and keeps, applies and passes on what is new of it
    async fn convict(
        &mut self,
        evidence: Evidence,
    ) -> Result<Result<(), EvidenceRefusal>, NodeError> {
        let set = Arc::clone(self.trust.validators(evidence.vote().statement.epoch()));
        match evidence.charge(&set) {
            Ok(charge) if !self.docket.has_room(&charge) => return Ok(Ok(())),
            Ok(_) => {}
            Err(refusal) => return Ok(Err(refusal)),
        }
        let genesis = Arc::clone(self.trust.genesis());
        let mut bench = Bench { application: &mut *self.application, chain: &self.chain };
        let finding = match evidence.verify_in(&genesis, &set, &mut bench) {
            Ok(finding) => finding,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (name, offence) = (&finding.validator.name, finding.offence.name());
        tracing::warn!(validator = %name, offence, view = finding.view, "a validator is convicted");
        self.store.keep_evidence(&evidence).await?;
        self.application.evidence(&evidence);
        let message = Message::Evidence(Box::new(evidence.clone()));
        self.outlet.broadcast(Channel::Blocks, &message.to_bytes());
        let found_ms = self.now_ms();
        self.docket.file(Case {
            id: evidence.id(),
            finding,
            found_ms,
            evidence: Arc::new(evidence),
        });
        self.halt_if_too_many();
        Ok(Ok(()))
    }

    /// Evidence that another shows
    pub(super) async fn on_evidence(
        &mut self,
        from: &ValidatorKey,
        evidence: Evidence,
    ) -> Result<(), NodeError> {
        // Who is of an epoch that is not known here yet cannot be looked up.
        if evidence.vote().statement.epoch() > self.epoch {
            return Ok(());
        }
        match self.convict(evidence).await? {
            Ok(()) => {}
            // Judged from here, a block may look other than from there: too little of the chain is at hand.
            Err(EvidenceRefusal::Unjudged { .. } | EvidenceRefusal::Valid) => {}
            Err(refusal) => {
                tracing::warn!(validator = %from, %refusal, "evidence is refused");
                self.inbox.block(from, "it showed evidence that does not hold");
            }
        }
        Ok(())
    }

    pub(super) fn restore_evidence(&mut self, kept: Vec<Evidence>) {
        for evidence in kept {
            let set = self.trust.validators(evidence.vote().statement.epoch());
            // It was verified when it was kept.
            let Ok(finding) = evidence.charge(set) else { continue };
            self.application.evidence(&evidence);
            let id = evidence.id();
            self.docket.file(Case { id, finding, found_ms: 0, evidence: Arc::new(evidence) });
        }
    }

    pub(super) fn halt_if_too_many(&mut self) {
        let (culprits, faults) = (self.docket.culprits(&self.set), self.set.faults());
        if culprits > faults {
            self.halt(&format!(
                "{culprits} validators are convicted and agreement bears {faults}: what they sign \
                 could not be trusted; begin a network without them"
            ));
        }
    }

    /// Agrees on nothing any more: to stop is better than to call final what others do not
    pub(super) fn halt(&mut self, reason: &str) {
        if self.halted.is_none() {
            tracing::error!(reason, "consensus halts");
            self.halted = Some(reason.to_owned());
        }
    }
}

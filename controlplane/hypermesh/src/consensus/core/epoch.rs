//! From one epoch to the next: the engine of the last one is stopped, that of the next one started with its validators,
//! or none if this node is not among them. Votes of an epoch that is over are forgotten, and never cast again.

use std::sync::Arc;

use super::super::convert;
use super::super::engine::{self, Runtime, Start};
use super::super::ports::Outlet;
use super::super::store::StoreError;
use super::{Core, NodeError};
use crate::digest::Digest;
use crate::operation::ValidatorKey;

/// Epochs before the last one whose votes are looked for on disk, to remove them
const LEFTOVER_EPOCHS: u64 = 4;

impl<E: Runtime> Core<E> {
    /// Goes on to the epoch of the next block, if that is another
    pub(super) async fn follow_epoch(&mut self) -> Result<(), NodeError> {
        let epoch = self.trust.genesis().epoch(self.delivered + 1);
        if epoch == self.epoch {
            return Ok(());
        }
        self.open_epoch(epoch).await
    }

    pub(super) async fn open_epoch(&mut self, epoch: u64) -> Result<(), NodeError> {
        if let Some(engine) = self.engine.take() {
            engine.abort();
        }
        self.epoch = epoch;
        self.view = 0;
        self.set = Arc::clone(self.trust.validators(epoch));
        self.forget_epoch();
        self.outlet = Outlet::new(Arc::clone(&self.wire), self.inbox.clone(), &self.set, &self.own);
        self.announce_ms = 0;
        let network = self.trust.genesis().network();
        let Some(scheme) = convert::signer(&network, &self.set, self.secret.clone()) else {
            tracing::info!(epoch, "not a validator of this epoch; following it");
            self.inbox.close_epoch();
            return Ok(());
        };
        let floor = self
            .last_certificate
            .as_ref()
            .filter(|(of, _)| *of == epoch)
            .and_then(|(_, quorum)| convert::engine_finalization(quorum, &self.set));
        let start = Start {
            number: epoch,
            scheme,
            base: self.base(epoch).await?,
            floor,
            partition: self.partition(epoch),
            timing: self.settings.timing,
            inbox: self.inbox.clone(),
            outlet: self.outlet.clone(),
            questions: self.questions.0.clone(),
            listener: self.listener(),
        };
        let receivers = self.inbox.open_epoch(epoch, &self.set);
        let context = self.context.child("engine").with_attribute("epoch", epoch);
        self.engine = Some(engine::start(context, start, receivers));
        tracing::info!(epoch, validators = self.set.len(), "an epoch begins");
        self.remove_votes(epoch).await;
        Ok(())
    }

    fn forget_epoch(&mut self) {
        self.proposing = None;
        self.verifying.clear();
        self.certifying.clear();
        self.settling.clear();
        self.quorums.clear();
        self.holds.clear();
        self.turns.clear();
        self.wants.clear();
        self.witness.forget_below((self.epoch.saturating_sub(1), 0));
        let set = Arc::clone(&self.set);
        self.attendance.retain(|validator| set.contains(validator));
        if self.halted.is_some() {
            // The culprits may be out by now.
            self.halted = None;
        }
        self.halt_if_too_many();
    }

    /// Where this key's votes are: another's, which came with a copy of its blocks, are not taken for its own
    fn partition(&self, epoch: u64) -> String {
        format!("{}-votes-{}-{epoch}", self.prefix, self.own)
    }

    /// The block that the first one of an epoch follows
    async fn base(&mut self, epoch: u64) -> Result<Digest, NodeError> {
        let genesis = self.trust.genesis();
        let height = epoch * genesis.epoch_blocks();
        if height == 0 {
            return Ok(genesis.header().digest());
        }
        if height == self.chain.tip().height {
            return Ok(*self.chain.tip_digest());
        }
        let found = self.store.final_block(height).await?;
        Ok(found.ok_or(StoreError::Gap { height })?.block.header.digest())
    }

    /// Removes votes of old epochs. Those of the last one stay until the next, since its engine may still be ending.
    async fn remove_votes(&mut self, epoch: u64) {
        let last = epoch.saturating_sub(1);
        for old in last.saturating_sub(LEFTOVER_EPOCHS)..last {
            match self.context.remove(&self.partition(old), None).await {
                Ok(()) | Err(commonware_runtime::Error::PartitionMissing(_)) => {}
                Err(error) => tracing::warn!(old, %error, "votes of an old epoch remain on disk"),
            }
        }
    }

    /// Everyone who is to be told how far this node is
    pub(super) fn neighbours(&self) -> Vec<ValidatorKey> {
        let mut all: Vec<_> = self.outlet.others().to_vec();
        all.extend(self.contacts.iter().filter(|contact| **contact != self.own));
        all.sort();
        all.dedup();
        all
    }
}

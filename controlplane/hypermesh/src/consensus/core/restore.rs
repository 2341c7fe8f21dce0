//! From what is stored to where consensus goes on: the application is brought up to the last final block, blocks that
//! were called valid are taken in again, and evidence is shown again.

use super::super::application::Validity;
use super::super::chain::{self, Chain};
use super::super::engine::Runtime;
use super::super::message::FinalBlock;
use super::super::store::{Kept, StoreError};
use super::{Core, NodeError};

impl<E: Runtime> Core<E> {
    pub(super) async fn restore(&mut self, kept: Kept) -> Result<(), NodeError> {
        for transition in kept.transitions {
            self.trust.extend(&transition).map_err(|_| NodeError::OtherNetwork)?;
            self.transitions.push(transition);
        }
        let journal = kept.tip.as_ref().map_or(0, |tip| tip.block.header.height);
        let application = self.application.height();
        if application > journal {
            return Err(NodeError::Ahead { application, journal });
        }
        if let Some(tip) = &kept.tip
            && tip.block.header.network != self.trust.genesis().network()
        {
            return Err(NodeError::OtherNetwork);
        }
        self.delivered = application;
        if application > 0 {
            let block = self.stored(application).await?;
            self.chain = Chain::new(block.block.header);
        }
        for height in application + 1..=journal {
            let block = self.stored(height).await?;
            self.replay(block)?;
        }
        if let Some(tip) = kept.tip {
            self.last_certificate = Some((tip.block.header.epoch, tip.certificate.quorum));
        }
        for block in kept.open {
            let digest = block.header.digest();
            if self.chain.insert(digest, block, None) {
                self.chain.certified(&digest);
                if let Some(pending) = self.chain.get_mut(&digest) {
                    pending.kept = chain::Kept::Durable;
                }
            }
        }
        self.restore_evidence(kept.evidence);
        Ok(())
    }

    async fn stored(&mut self, height: u64) -> Result<FinalBlock, NodeError> {
        let found = self.store.final_block(height).await?;
        Ok(found.ok_or(StoreError::Gap { height })?)
    }

    fn replay(&mut self, block: FinalBlock) -> Result<(), NodeError> {
        let header = block.block.header.clone();
        let height = header.height;
        match self.application.validate(&header, &block.block.operations) {
            Validity::Valid => {}
            Validity::Invalid(invalidity) => {
                return Err(NodeError::Diverged { height, reason: invalidity.reason });
            }
            Validity::Later => {
                let reason = "it cannot be judged, though its parent was applied".to_owned();
                return Err(NodeError::Diverged { height, reason });
            }
        }
        self.application.finalise(&block.block, &block.certificate.to_vec());
        self.chain.advance(header);
        self.delivered = height;
        Ok(())
    }
}

//! Who judges what consensus holds for mere octets: the application, the registry, or nobody where only the genesis is at
//! hand.

use std::sync::Arc;

use bytes::Bytes;

use super::evidence::{Evidence, Finding};
use super::genesis::Genesis;
use super::header::Header;
use super::validators::ValidatorSet;
use crate::operation::{NetworkId, Validator};
use crate::registry;

/// What is said of an operation or a block
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Judgement {
    /// Nothing is wrong with it
    Valid,
    /// It is invalid, for this reason, and everyone who can judge it finds so
    Invalid(String),
    /// It cannot be judged here
    Unknown,
}

/// Whoever can judge what this crate's consensus holds for mere octets
pub trait Judge {
    /// Whether an operation is invalid in every block under this header, whatever the state
    fn operation(&mut self, header: &Header, operation: &[u8]) -> Judgement;

    /// Whether a block is invalid on the state after its parent
    fn block(&mut self, header: &Header, operations: &[Bytes]) -> Judgement;
}

/// Judges nothing: enough for contradictions and for headers that do not follow
#[derive(Clone, Copy, Debug)]
pub struct GenesisOnly;

impl Judge for GenesisOnly {
    fn operation(&mut self, _: &Header, _: &[u8]) -> Judgement {
        Judgement::Unknown
    }

    fn block(&mut self, _: &Header, _: &[Bytes]) -> Judgement {
        Judgement::Unknown
    }
}

/// Judges evidence for the registry, from the genesis and what the registry hands over.
///
/// What takes the state after an earlier block cannot be judged so: not every validator has that state any more, and
/// they must all answer alike. Such evidence still names its culprit to everyone who saw the block.
#[derive(Clone, Debug)]
pub struct RegistryJudge {
    genesis: Arc<Genesis>,
}

impl RegistryJudge {
    /// For the network of a genesis
    pub fn new(genesis: Arc<Genesis>) -> Self {
        Self { genesis }
    }
}

impl Judge for RegistryJudge {
    fn operation(&mut self, header: &Header, operation: &[u8]) -> Judgement {
        let octets = Bytes::copy_from_slice(operation);
        let network = self.genesis.network();
        match registry::check_stateless(&network, header.epoch, header.height, &octets) {
            Ok(()) => Judgement::Valid,
            Err(refusal) => Judgement::Invalid(refusal.to_string()),
        }
    }

    fn block(&mut self, _: &Header, _: &[Bytes]) -> Judgement {
        Judgement::Unknown
    }
}

impl registry::EvidenceJudge for RegistryJudge {
    fn judge(
        &self,
        network: &NetworkId,
        validators: &dyn Fn(u64) -> Vec<Validator>,
        octets: &[u8],
    ) -> Result<registry::Finding, String> {
        if *network != self.genesis.network() {
            return Err("the evidence is judged by the genesis of another network".to_owned());
        }
        let evidence =
            Evidence::from_bytes(&Bytes::copy_from_slice(octets)).map_err(|e| e.to_string())?;
        let epoch = evidence.vote().statement.epoch();
        let set = ValidatorSet::new(validators(epoch)).map_err(|error| error.to_string())?;
        let found = evidence
            .verify_in(&self.genesis, &set, &mut self.clone())
            .map_err(|refusal| refusal.to_string())?;
        let Finding { validator, offence, epoch, view, .. } = found;
        Ok(registry::Finding { culprit: validator.key, offence, epoch, view })
    }
}

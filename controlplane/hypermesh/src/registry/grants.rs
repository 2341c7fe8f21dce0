//! What is granted rather than done: certificates of assets and nodes, tickets, and stake from one requester to
//! another. Each checks everything before it changes anything.

use super::authorise::Basis;
use super::block::{BlockFacts, Effect};
use super::execute::{Asking, Execution};
use super::is_key;
use super::parameters::{REQUESTERS_LIMIT, TICKETS_LIMIT};
use super::records::{AssetCertificate, Requester};
use super::refusal::Refusal;
use crate::operation::{AssetId, CertificateRequest, OperationBody, requester_id};
use crate::proof::TicketState;

impl Execution<'_> {
    pub(super) fn certify(
        &mut self,
        asking: &Asking<'_>,
        request: &CertificateRequest,
    ) -> Result<Effect, Refusal> {
        let CertificateRequest { asset, csr_statement } = *request;
        let BlockFacts { height, time_ms, .. } = *self.facts;
        let rules = &self.state.parameters;
        let expires_ms = time_ms.saturating_add(rules.certificate_lifetime_ms);
        let renewal = rules.certificate_renewal_ms;
        if let Some(id) = &asset {
            if let Some(active) = &self.state.owned_asset(asking, id)?.certificate {
                let renewal_ms = active.granted_ms.saturating_add(renewal);
                if time_ms < renewal_ms {
                    return Err(Refusal::CertificateActive { renewal_ms });
                }
            }
            let granted =
                AssetCertificate { csr_statement, granted_height: height, granted_ms: time_ms };
            self.state.change_asset(id, |asset| asset.certificate = Some(granted));
        }
        let requester = asking.requester;
        Ok(Effect::CertificateGranted { asset, requester, csr_statement, expires_ms })
    }

    pub(super) fn end_certificate(
        &mut self,
        asking: &Asking<'_>,
        id: &AssetId,
    ) -> Result<Effect, Refusal> {
        let certificate = &self.state.owned_asset(asking, id)?.certificate;
        let csr_statement = certificate.as_ref().ok_or(Refusal::NoCertificate)?.csr_statement;
        self.state.change_asset(id, |asset| asset.certificate = None);
        Ok(Effect::CertificateEnded { asset: *id, csr_statement })
    }

    pub(super) fn grant_ticket(&mut self, asking: &Asking<'_>) -> Result<Effect, Refusal> {
        let Basis::Full(verified) = asking.basis else {
            return Err(Refusal::NeedsFullProof { what: OperationBody::RequestTicket.name() });
        };
        let policy = self.state.policies.get(&verified.policy);
        let ticket = policy.and_then(|policy| TicketState::grant(verified, policy));
        let ticket = ticket.ok_or(Refusal::NoTickets { policy: verified.policy })?;
        if self.state.tickets.len() >= TICKETS_LIMIT {
            return Err(Refusal::Full { what: "tickets", limit: TICKETS_LIMIT });
        }
        if self.state.tickets.contains(asking.operation) {
            return Err(Refusal::TicketTwice);
        }
        self.state.tickets.insert(*asking.operation, ticket);
        Ok(Effect::TicketGranted { ticket: *asking.operation, granted: ticket })
    }

    pub(super) fn give_stake(
        &mut self,
        asking: &Asking<'_>,
        to_key: &[u8; 32],
        amount: u64,
    ) -> Result<Effect, Refusal> {
        let (from, to) = (asking.requester, requester_id(to_key));
        if from == to {
            return Err(Refusal::StakeToSelf);
        }
        if !is_key(to_key) {
            return Err(Refusal::BadKey);
        }
        let min = self.state.parameters.stake_min;
        let stake = self.state.requesters.get(&from).map_or(0, |giver| giver.stake);
        let left = stake.checked_sub(amount).ok_or(Refusal::StakeTooSmall { stake })?;
        let receiver = self.state.requesters.get(&to);
        let has = receiver.map_or(0, |receiver| receiver.stake);
        let gets = has.checked_add(amount).ok_or(Refusal::StakeOverflow)?;
        if amount == 0 || (left > 0 && left < min) || gets < min {
            return Err(Refusal::StakeBelowLeast { min });
        }
        if receiver.is_none() {
            if self.state.requesters.len() >= REQUESTERS_LIMIT {
                return Err(Refusal::Full { what: "requesters", limit: REQUESTERS_LIMIT });
            }
            self.state.requesters.insert(to, Requester::new(*to_key));
        }
        self.state.change_requester(&from, |giver| giver.stake = left);
        self.state.change_requester(&to, |receiver| receiver.stake = gets);
        Ok(Effect::StakeGiven { from, to, amount })
    }
}

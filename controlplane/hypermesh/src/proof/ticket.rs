//! Tickets: one full proof, finalised, pays for many single operations of the same requester until the epoch ends.
//! Making a space proof for each would take the prover tens of milliseconds. Where tickets are kept and when they are
//! granted is the registry's.

use crate::digest::Digest;
use crate::operation::{NetworkId, RequesterId, requester_id, ticket_message};
use crate::wire::{Reader, WireError, Writer};

use super::policy::Policy;
use super::refusal::ProofRefusal;
use super::stake;
use super::verify::{Verified, check_expiry};
use super::view::ChainView;

/// A ticket as finalised state holds it
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TicketState {
    /// Who may use it
    pub requester: RequesterId,
    /// The policy whose thresholds the full proof reached
    pub policy: u32,
    /// The epoch it is good for
    pub epoch: u64,
    /// Operations it still pays for
    pub remaining: u64,
}

impl TicketState {
    /// The ticket that a full proof under this policy buys; none where the policy has no tickets
    pub fn grant(verified: &Verified, policy: &Policy) -> Option<Self> {
        (policy.ticket_operations > 0).then_some(Self {
            requester: verified.requester,
            policy: verified.policy,
            epoch: verified.epoch,
            remaining: policy.ticket_operations,
        })
    }

    /// Pays for one operation
    pub fn spend(&mut self) -> Result<(), ProofRefusal> {
        self.remaining = self.remaining.checked_sub(1).ok_or(ProofRefusal::ReplayTicketSpent)?;
        Ok(())
    }

    /// Writes the canonical encoding
    pub fn encode(&self, writer: &mut Writer) {
        writer.fixed(&self.requester).u32(self.policy).u64(self.epoch).u64(self.remaining);
    }

    /// Reads what [`TicketState::encode`] wrote
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            requester: reader.fixed()?,
            policy: reader.u32()?,
            epoch: reader.u64()?,
            remaining: reader.u64()?,
        })
    }
}

/// One operation that a ticket shall pay for
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TicketUse {
    /// The ticket
    pub ticket: Digest,
    /// The network of the operation
    pub network: NetworkId,
    /// The key of the requester
    pub requester_key: [u8; 32],
    /// The operation without its authorisation, as one digest; it covers all the other fields but the ticket
    pub subject: Digest,
    /// The requester's own count of operations
    pub sequence: u64,
    /// The last height at which the operation may enter a block
    pub not_after_height: u64,
}

impl TicketUse {
    /// All but the signature, for callers that judge many signatures together
    pub fn check(&self, view: &dyn ChainView) -> Result<TicketState, ProofRefusal> {
        if self.network != view.network() {
            return Err(ProofRefusal::BindingNetwork);
        }
        check_expiry(self.not_after_height, view)?;
        let requester = requester_id(&self.requester_key);
        view.last_sequence_window(&requester).check(self.sequence)?;
        let ticket = view.ticket(&self.ticket).ok_or(ProofRefusal::BindingTicket)?;
        if ticket.requester != requester {
            return Err(ProofRefusal::BindingTicketRequester);
        }
        let current = view.epoch();
        if ticket.epoch != current {
            return Err(ProofRefusal::TimeTicketEpoch { granted: ticket.epoch, current });
        }
        if ticket.remaining == 0 {
            return Err(ProofRefusal::ReplayTicketSpent);
        }
        if view.policy(ticket.policy).is_none() {
            return Err(ProofRefusal::BindingPolicy { policy: ticket.policy });
        }
        Ok(ticket)
    }
}

/// Whether the ticket pays for this operation, and the requester says so.
///
/// The ticket as it stands before is returned; spending it is the registry's.
pub fn verify_ticket(
    usage: &TicketUse,
    signature: &[u8; 64],
    view: &dyn ChainView,
) -> Result<TicketState, ProofRefusal> {
    let ticket = usage.check(view)?;
    let message = ticket_message(&usage.ticket, &usage.subject);
    if !stake::is_signed(&usage.requester_key, &message, signature) {
        return Err(ProofRefusal::BindingSignature);
    }
    Ok(ticket)
}

#[cfg(test)]
mod tests {
    use ed25519_consensus::SigningKey;

    use super::super::testing::{self, View};
    use super::*;

    const TICKET: Digest = [7; 32];

    fn key() -> SigningKey {
        SigningKey::from([42; 32])
    }

    fn signed(usage: &TicketUse, key: &SigningKey) -> [u8; 64] {
        key.sign(&ticket_message(&usage.ticket, &usage.subject)).to_bytes()
    }

    fn ready() -> (View, TicketUse) {
        let mut view = testing::case().view;
        let requester_key = key().verification_key().to_bytes();
        let granted = TicketState {
            requester: requester_id(&requester_key),
            policy: Policy::TEST_ID,
            epoch: view.epoch,
            remaining: 2,
        };
        view.tickets.insert(TICKET, granted);
        let usage = TicketUse {
            ticket: TICKET,
            network: view.network,
            requester_key,
            subject: [8; 32],
            sequence: 1,
            not_after_height: view.height,
        };
        (view, usage)
    }

    #[test]
    fn a_ticket_pays_for_what_its_owner_signs() {
        let (view, usage) = ready();
        let ticket = verify_ticket(&usage, &signed(&usage, &key()), &view);
        assert_eq!(ticket, Ok(view.tickets[&TICKET]));
    }

    #[test]
    fn every_single_fault_is_refused_by_name() {
        let (view, usage) = ready();
        let other_key = SigningKey::from([43; 32]);
        let judge = |view: &View, usage: TicketUse, key: &SigningKey| {
            verify_ticket(&usage, &signed(&usage, key), view).map(|_| ()).unwrap_err().label()
        };
        let altered = |change: fn(&mut TicketUse)| {
            let mut altered = usage;
            change(&mut altered);
            judge(&view, altered, &key())
        };
        assert_eq!(altered(|usage| usage.network = [0; 32]), "E_BINDING_NETWORK");
        assert_eq!(altered(|usage| usage.ticket = [0; 32]), "E_BINDING_TICKET");
        assert_eq!(altered(|usage| usage.sequence = 0), "E_REPLAY_SEQUENCE_OLD");
        assert_eq!(altered(|usage| usage.not_after_height -= 1), "E_TIME_EXPIRED");
        assert_eq!(judge(&view, usage, &other_key), "E_BINDING_SIGNATURE");

        let stranger =
            TicketUse { requester_key: other_key.verification_key().to_bytes(), ..usage };
        assert_eq!(judge(&view, stranger, &other_key), "E_BINDING_TICKET_REQUESTER");

        // A signature for one operation or ticket is none for another.
        let signature = signed(&usage, &key());
        let elsewhere = TicketUse { subject: [9; 32], ..usage };
        let refused = Err(ProofRefusal::BindingSignature);
        assert_eq!(verify_ticket(&elsewhere, &signature, &view), refused);

        let in_view = |change: fn(&mut View)| {
            let mut view = view.clone();
            change(&mut view);
            judge(&view, usage, &key())
        };
        assert_eq!(in_view(|view| view.epoch += 1), "E_TIME_TICKET_EPOCH");
        assert_eq!(
            in_view(|view| view.tickets.get_mut(&TICKET).unwrap().remaining = 0),
            "E_REPLAY_TICKET_SPENT"
        );
        assert_eq!(in_view(|view| view.policies.clear()), "E_BINDING_POLICY");
        let mut used = view.clone();
        used.windows.entry(requester_id(&usage.requester_key)).or_default().mark(1).unwrap();
        assert_eq!(judge(&used, usage, &key()), "E_REPLAY_SEQUENCE_USED");
    }

    #[test]
    fn a_ticket_is_spent_as_often_as_the_policy_says_and_no_more() {
        let verified = Verified {
            statement: [1; 32],
            requester: [2; 32],
            policy: Policy::TEST_ID,
            epoch: 3,
            weight: 4,
            stake_key: [5; 32],
        };
        let policy = Policy { ticket_operations: 2, ..Policy::TEST };
        let mut ticket = TicketState::grant(&verified, &policy).unwrap();
        assert_eq!([ticket.spend(), ticket.spend()], [Ok(()), Ok(())]);
        assert_eq!(ticket.spend(), Err(ProofRefusal::ReplayTicketSpent));
        let none = Policy { ticket_operations: 0, ..Policy::TEST };
        assert_eq!(TicketState::grant(&verified, &none), None);
    }

    #[test]
    fn encodings_are_read_back() {
        let (view, _usage) = ready();
        let ticket = view.tickets[&TICKET];
        let mut writer = Writer::new();
        ticket.encode(&mut writer);
        assert_eq!(TicketState::decode(&mut Reader::new(writer.as_slice())), Ok(ticket));
    }
}

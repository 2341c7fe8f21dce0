//! Operations that wait for a block: in the order they came, each once, within limits for all and for each requester.
//! Whether an operation may come at all is asked before it is put here; what becomes of it in a block, when one is made.

use std::collections::{BTreeMap, HashMap};

use crate::digest::Digest;
use crate::operation::{Candidate, RequesterId};

/// One requester may fill this part of what may wait
const REQUESTER_SHARE: usize = 4;

/// An operation that waits
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) candidate: Candidate,
    /// The last final block when it came, or when it was last tried
    pub(super) tried_height: u64,
}

/// Operations that wait
#[derive(Debug)]
pub(super) struct Pool {
    waiting: BTreeMap<u64, Waiting>,
    places: HashMap<Digest, u64>,
    requesters: HashMap<RequesterId, usize>,
    next: u64,
    bytes: usize,
    limit: usize,
    limit_bytes: usize,
}

impl Pool {
    pub(super) fn new(limit: usize, limit_bytes: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            places: HashMap::new(),
            requesters: HashMap::new(),
            next: 0,
            bytes: 0,
            limit,
            limit_bytes,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn get(&self, operation: &Digest) -> Option<&Candidate> {
        self.waiting.get(self.places.get(operation)?).map(|waiting| &waiting.candidate)
    }

    /// Whether there is room for one more
    pub(super) fn has_room(&self, candidate: &Candidate) -> bool {
        let of_requester = self.requesters.get(candidate.requester()).copied().unwrap_or(0);
        self.waiting.len() < self.limit
            && self.bytes + candidate.octets().len() <= self.limit_bytes
            && of_requester < self.limit.div_ceil(REQUESTER_SHARE)
    }

    /// Takes one in, at the end
    pub(super) fn insert(&mut self, candidate: Candidate, height: u64) {
        if self.places.contains_key(candidate.id()) {
            return;
        }
        self.bytes += candidate.octets().len();
        *self.requesters.entry(*candidate.requester()).or_default() += 1;
        self.places.insert(*candidate.id(), self.next);
        self.waiting.insert(self.next, Waiting { candidate, tried_height: height });
        self.next += 1;
    }

    /// Takes one out
    pub(super) fn remove(&mut self, operation: &Digest) -> Option<Candidate> {
        let Waiting { candidate, .. } = self.waiting.remove(&self.places.remove(operation)?)?;
        self.bytes -= candidate.octets().len();
        if let Some(count) = self.requesters.get_mut(candidate.requester()) {
            *count -= 1;
            if *count == 0 {
                self.requesters.remove(candidate.requester());
            }
        }
        Some(candidate)
    }

    /// All, in the order they came
    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.waiting.values().map(|waiting| &waiting.candidate)
    }

    /// Those that were not tried since a height, which count as tried at another from now on
    pub(super) fn untried_since(&mut self, height: u64, now_height: u64) -> Vec<Candidate> {
        let due = self.waiting.values_mut().filter(|waiting| waiting.tried_height < height);
        due.map(|waiting| {
            waiting.tried_height = now_height;
            waiting.candidate.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::testing::{unproven, with_ticket};
    use crate::operation::{Operation, OperationBody};

    fn candidate(requester: u8, sequence: u64) -> Candidate {
        let operation = unproven([1; 32], requester, OperationBody::RequestTicket);
        let operation = Operation { sequence, ..operation };
        Candidate::new(&with_ticket(operation, [3; 32], requester)).unwrap()
    }

    #[test]
    fn operations_wait_in_their_order_and_each_once() {
        let mut pool = Pool::new(8, 1 << 20);
        for sequence in [3, 1, 2, 1] {
            pool.insert(candidate(2, sequence), 0);
        }
        let order: Vec<_> = pool.iter().map(|one| one.operation().sequence).collect();
        assert_eq!((order, pool.len()), (vec![3, 1, 2], 3));
        let removed = pool.remove(candidate(2, 1).id()).unwrap();
        assert_eq!(removed.operation().sequence, 1);
        assert!(
            pool.get(candidate(2, 1).id()).is_none() && pool.get(candidate(2, 2).id()).is_some()
        );
        assert!(pool.remove(candidate(2, 1).id()).is_none());
    }

    #[test]
    fn limits_hold_for_all_for_each_and_for_octets() {
        let mut pool = Pool::new(8, 1 << 20);
        for sequence in 1..=2 {
            assert!(pool.has_room(&candidate(2, sequence)));
            pool.insert(candidate(2, sequence), 0);
        }
        assert!(!pool.has_room(&candidate(2, 3)), "a quarter is one requester's");
        for requester in 3..=5 {
            pool.insert(candidate(requester, 1), 0);
            pool.insert(candidate(requester, 2), 0);
        }
        assert!(!pool.has_room(&candidate(9, 1)), "eight wait");
        pool.remove(candidate(2, 1).id());
        assert!(pool.has_room(&candidate(9, 1)) && pool.has_room(&candidate(2, 1)));
        let small = Pool::new(8, candidate(2, 1).octets().len() - 1);
        assert!(!small.has_room(&candidate(2, 1)));
    }

    #[test]
    fn what_was_not_tried_for_long_is_due_once() {
        let mut pool = Pool::new(8, 1 << 20);
        pool.insert(candidate(2, 1), 1);
        pool.insert(candidate(2, 2), 5);
        assert_eq!(pool.untried_since(5, 9).len(), 1);
        assert_eq!(pool.untried_since(5, 9).len(), 0);
        assert_eq!(pool.untried_since(10, 11).len(), 2);
    }
}

//! What is agreed on in these tests: a list in which nothing stands twice. An operation that begins with "bad" is invalid
//! in itself, one that stands in the list already is invalid on that state, and "members" with numbers names the
//! validators of the next epoch.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use stoq_hypermesh::consensus::evidence::Judgement;
use stoq_hypermesh::consensus::{
    Application, Block, Evidence, Genesis, Header, Invalidity, Offer, Proposal, Validity,
};
use stoq_hypermesh::digest::{Digest, derive};
use stoq_hypermesh::operation::Validator;

use super::world::validator;

/// Operations that wait at most
const BACKLOG_LIMIT: usize = 1_000;
/// Operations of a block at most
const BLOCK_LIMIT: usize = 50;

#[derive(Clone, Debug)]
struct State {
    height: u64,
    root: Digest,
    list: BTreeSet<Bytes>,
    members: Option<Vec<Validator>>,
}

impl State {
    fn apply(&mut self, operation: &Bytes) -> bool {
        if let Some(numbers) = operation.strip_prefix(b"members ") {
            let numbers = String::from_utf8_lossy(numbers);
            let read = numbers.split(' ').map(|number| number.parse().map(validator));
            self.members = read.collect::<Result<_, _>>().ok();
        }
        self.root = derive("hypermesh v1 test state", &[&self.root, operation]);
        self.list.insert(operation.clone())
    }
}

/// What a validator was told is final, over all its lives
#[derive(Debug, Default)]
pub struct Book {
    /// Digests of final blocks by height
    pub blocks: BTreeMap<u64, Digest>,
    /// Final operations and where they are
    pub operations: BTreeMap<Bytes, u64>,
    /// How often evidence was shown
    pub evidence: usize,
}

/// Faults of an application
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Faults {
    /// Proposes an operation that is invalid in itself
    pub proposes_invalid: bool,
    /// Calls every block valid
    pub accepts_all: bool,
}

/// The list
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    faults: Faults,
    last: (Digest, State),
    open: HashMap<Digest, State>,
    waiting: VecDeque<Bytes>,
    proposals: u64,
    /// Blocks it called valid though they are not
    pub bad: Arc<Mutex<BTreeSet<Digest>>>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with it")
}

impl Ledger {
    /// Begins anew and writes down what is final. What it knew before is replayed to it.
    pub fn new(genesis: &Genesis, book: Arc<Mutex<Book>>, faults: Faults) -> Self {
        let state = State { height: 0, root: [0; 32], list: BTreeSet::new(), members: None };
        Self {
            book,
            faults,
            last: (genesis.header().digest(), state),
            open: HashMap::new(),
            waiting: VecDeque::new(),
            proposals: 0,
            bad: Arc::default(),
        }
    }

    fn offer_one(&mut self, operation: &Bytes) -> Offer {
        if operation.starts_with(b"bad") {
            return Offer::Refused("it begins with bad".to_owned());
        }
        if self.last.1.list.contains(operation) {
            return Offer::Refused("it stands there already".to_owned());
        }
        if self.waiting.len() >= BACKLOG_LIMIT {
            return Offer::Busy { retry_after_ms: 100 };
        }
        if !self.waiting.contains(operation) {
            self.waiting.push_back(operation.clone());
        }
        Offer::Accepted
    }

    fn state(&self, block: &Digest) -> Option<&State> {
        if *block == self.last.0 { Some(&self.last.1) } else { self.open.get(block) }
    }
}

impl Application for Ledger {
    fn height(&self) -> u64 {
        self.last.1.height
    }

    fn durable_height(&self) -> u64 {
        // It begins anew in each life.
        0
    }

    fn offer(&mut self, operations: &[Bytes], _: u64) -> Vec<Offer> {
        operations.iter().map(|operation| self.offer_one(operation)).collect()
    }

    fn backlog(&self) -> usize {
        self.waiting.len() + usize::from(self.faults.proposes_invalid)
    }

    fn propose(&mut self, parent: &Header, _: u64) -> Option<Proposal> {
        let mut state = self.state(&parent.digest()).expect("the parent was judged").clone();
        let mut operations = Vec::new();
        for operation in &self.waiting {
            if operations.len() < BLOCK_LIMIT && !state.list.contains(operation) {
                state.apply(operation);
                operations.push(operation.clone());
            }
        }
        if self.faults.proposes_invalid {
            self.proposals += 1;
            let bad = Bytes::from(format!("bad {} {}", self.proposals, parent.height));
            state.apply(&bad);
            operations.push(bad);
        }
        Some(Proposal {
            operations,
            state_root: state.root,
            evidence_root: [0; 32],
            validators: state.members,
        })
    }

    fn validate(&mut self, header: &Header, operations: &[Bytes]) -> Validity {
        let Some(parent) = self.state(&header.parent) else { return Validity::Later };
        let mut state = parent.clone();
        state.height = header.height;
        let lenient = self.faults.accepts_all;
        if operations.iter().any(|operation| operation.starts_with(b"bad")) {
            lock(&self.bad).insert(header.digest());
        }
        for (place, operation) in (0..).zip(operations) {
            if operation.starts_with(b"bad") && !lenient {
                return Validity::Invalid(Invalidity::of_operation(place, "it begins with bad"));
            }
            if !state.apply(operation) && !lenient {
                return Validity::Invalid(Invalidity::of_block(
                    "an operation stands there already",
                ));
            }
        }
        if state.root != header.state_root && !lenient {
            return Validity::Invalid(Invalidity::of_block("another state follows"));
        }
        self.open.insert(header.digest(), state);
        Validity::Valid
    }

    fn validators(&mut self, header: &Header) -> Option<Vec<Validator>> {
        self.state(&header.digest())?.members.clone()
    }

    fn finalise(&mut self, block: &Block, certificate: &[u8]) {
        assert!(!certificate.is_empty());
        let digest = block.header.digest();
        assert_eq!(block.header.parent, self.last.0, "blocks come in their order");
        let state = self.open.remove(&digest).expect("it was judged in this life");
        let height = block.header.height;
        self.open.retain(|_, state| state.height > height);
        self.waiting.retain(|operation| !state.list.contains(operation));
        self.last = (digest, state);
        let mut book = lock(&self.book);
        let known = book.blocks.insert(height, digest);
        assert!(known.is_none_or(|known| known == digest), "what was final is not any more");
        for operation in &block.operations {
            let known = book.operations.insert(operation.clone(), height);
            assert!(known.is_none_or(|known| known == height), "an operation is final twice");
        }
    }

    fn evidence(&mut self, _: &Evidence) {
        lock(&self.book).evidence += 1;
    }

    fn judge(&self, _: &Header, operation: &[u8]) -> Judgement {
        if operation.starts_with(b"bad") {
            Judgement::Invalid("it begins with bad".to_owned())
        } else {
            Judgement::Unknown
        }
    }
}

//! A map from digests to values that knows its root: a radix tree of 16 branches whose shape follows from what it
//! holds, not from how that came to be. Hashes are kept in the nodes and made again only along changed paths. Nodes
//! are shared, so a copy of the whole map costs nothing and pays for what it changes: blocks are tried on copies.

use std::sync::{Arc, OnceLock};

use crate::digest::{Digest, Domain};
use crate::wire::{Reader, WireError, Writer};

static LEAF: Domain = Domain::new("hypermesh v1 state leaf");
static BRANCH: Domain = Domain::new("hypermesh v1 state branch");
static ROOT: Domain = Domain::new("hypermesh v1 state map");

/// Hexadecimal digits of a key: the greatest depth
const DEPTH_LIMIT: usize = 64;
const FAN_OUT: usize = 16;

/// What a [`Tree`] holds
pub(crate) trait Value: Clone {
    /// The one encoding
    fn encode(&self, writer: &mut Writer);
    /// Reads what `encode` wrote, and nothing else
    fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// The map
#[derive(Clone, Debug)]
pub(crate) struct Tree<V> {
    top: Option<Arc<Node<V>>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Node<V> {
    /// Unset where something below has changed
    hash: OnceLock<Digest>,
    kind: Kind<V>,
}

#[derive(Clone, Debug)]
enum Kind<V> {
    Leaf {
        key: Digest,
        value: V,
    },
    /// At least two entries below; bit `n` of the set is there for the child of digit `n`
    Branch {
        set: u16,
        children: Vec<Arc<Node<V>>>,
    },
}

impl<V> Default for Tree<V> {
    fn default() -> Self {
        Self { top: None, len: 0 }
    }
}

fn digit(key: &Digest, depth: usize) -> usize {
    let octet = key[depth / 2];
    usize::from(if depth.is_multiple_of(2) { octet >> 4 } else { octet & 15 })
}

/// Where the child of a digit stands among those that are there
fn place(set: u16, digit: usize) -> usize {
    (set & ((1 << digit) - 1)).count_ones() as usize
}

fn holds(set: u16, digit: usize) -> bool {
    set & (1 << digit) != 0
}

impl<V> Node<V> {
    fn new(kind: Kind<V>) -> Self {
        Self { hash: OnceLock::new(), kind }
    }

    fn leaf(key: Digest, value: V) -> Self {
        Self::new(Kind::Leaf { key, value })
    }

    /// The branch of two leaves, and as many branches above it as they have digits in common from `depth` on
    fn fork(
        first: Arc<Self>,
        first_key: &Digest,
        second: Arc<Self>,
        second_key: &Digest,
        depth: usize,
    ) -> Self {
        let digits = (digit(first_key, depth), digit(second_key, depth));
        let set = (1 << digits.0) | (1 << digits.1);
        let children = match digits.0.cmp(&digits.1) {
            std::cmp::Ordering::Less => vec![first, second],
            std::cmp::Ordering::Greater => vec![second, first],
            std::cmp::Ordering::Equal => {
                vec![Arc::new(Self::fork(first, first_key, second, second_key, depth + 1))]
            }
        };
        Self::new(Kind::Branch { set, children })
    }
}

impl<V: Value> Node<V> {
    fn hash(&self, scratch: &mut Writer) -> Digest {
        if let Some(hash) = self.hash.get() {
            return *hash;
        }
        let hash = match &self.kind {
            Kind::Leaf { key, value } => {
                scratch.clear();
                scratch.fixed(key);
                value.encode(scratch);
                LEAF.hash(scratch.as_slice())
            }
            Kind::Branch { set, children } => {
                let mut octets = [0; 2 + FAN_OUT * 32];
                octets[..2].copy_from_slice(&set.to_be_bytes());
                let end = 2 + children.len() * 32;
                for (room, child) in octets[2..end].chunks_exact_mut(32).zip(children) {
                    room.copy_from_slice(&child.hash(scratch));
                }
                BRANCH.hash(&octets[..end])
            }
        };
        *self.hash.get_or_init(|| hash)
    }

    fn get<'a>(mut self: &'a Self, key: &Digest) -> Option<&'a V> {
        for depth in 0..=DEPTH_LIMIT {
            match &self.kind {
                Kind::Leaf { key: found, value } => return (found == key).then_some(value),
                Kind::Branch { set, children } => {
                    let digit = digit(key, depth);
                    if !holds(*set, digit) {
                        return None;
                    }
                    self = &children[place(*set, digit)];
                }
            }
        }
        None
    }

    /// For changing what is there; the caller knows that it is
    fn get_mut<'a>(node: &'a mut Arc<Self>, key: &Digest, depth: usize) -> Option<&'a mut V> {
        let node = Arc::make_mut(node);
        node.hash.take();
        match &mut node.kind {
            Kind::Leaf { value, .. } => Some(value),
            Kind::Branch { set, children } => {
                let child = children.get_mut(place(*set, digit(key, depth)))?;
                Self::get_mut(child, key, depth + 1)
            }
        }
    }

    /// The value that was there before
    fn insert(node: &mut Arc<Self>, key: Digest, value: V, depth: usize) -> Option<V> {
        let other = match &node.kind {
            Kind::Leaf { key: other, .. } if *other != key => Some(*other),
            _ => None,
        };
        if let Some(other) = other {
            let leaf = Arc::new(Self::leaf(key, value));
            *node = Arc::new(Self::fork(node.clone(), &other, leaf, &key, depth));
            return None;
        }
        let node = Arc::make_mut(node);
        node.hash.take();
        match &mut node.kind {
            Kind::Leaf { value: before, .. } => Some(std::mem::replace(before, value)),
            Kind::Branch { set, children } => {
                let digit = digit(&key, depth);
                let place = place(*set, digit);
                if holds(*set, digit) {
                    return Self::insert(&mut children[place], key, value, depth + 1);
                }
                *set |= 1 << digit;
                children.insert(place, Arc::new(Self::leaf(key, value)));
                None
            }
        }
    }

    /// Takes out what is there, below a branch; the caller knows that it is. A branch that is left with a single leaf
    /// becomes that leaf, so that the shape is the one the remaining entries have.
    fn remove(node: &mut Arc<Self>, key: &Digest, depth: usize) {
        let changed = Arc::make_mut(node);
        changed.hash.take();
        let Kind::Branch { set, children } = &mut changed.kind else { return };
        let digit = digit(key, depth);
        let place = place(*set, digit);
        match &children[place].kind {
            Kind::Leaf { .. } => {
                children.remove(place);
                *set &= !(1 << digit);
            }
            Kind::Branch { .. } => Self::remove(&mut children[place], key, depth + 1),
        }
        if let [only] = children.as_slice()
            && matches!(only.kind, Kind::Leaf { .. })
        {
            *node = only.clone();
        }
    }
}

impl<V: Value> Tree<V> {
    /// How many entries there are
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The value of a key
    pub(crate) fn get(&self, key: &Digest) -> Option<&V> {
        self.top.as_ref()?.get(key)
    }

    /// Whether a key has a value
    pub(crate) fn contains(&self, key: &Digest) -> bool {
        self.get(key).is_some()
    }

    /// The value of a key, to be changed
    pub(crate) fn get_mut(&mut self, key: &Digest) -> Option<&mut V> {
        // Looked up first: what is not there must not cost the hashes along its path.
        if !self.contains(key) {
            return None;
        }
        Node::get_mut(self.top.as_mut()?, key, 0)
    }

    /// Sets the value of a key; the one before
    pub(crate) fn insert(&mut self, key: Digest, value: V) -> Option<V> {
        let before = match &mut self.top {
            Some(top) => Node::insert(top, key, value, 0),
            None => {
                self.top = Some(Arc::new(Node::leaf(key, value)));
                None
            }
        };
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes out the value of a key
    pub(crate) fn remove(&mut self, key: &Digest) -> Option<V> {
        let value = self.get(key)?.clone();
        self.len -= 1;
        match &mut self.top {
            Some(top) if self.len > 0 => Node::remove(top, key, 0),
            _last => self.top = None,
        }
        Some(value)
    }

    /// The digest of everything in the map
    pub(crate) fn root(&self) -> Digest {
        let mut scratch = Writer::new();
        let count = (self.len as u64).to_be_bytes();
        match &self.top {
            Some(top) => ROOT.derive(&[&count, &top.hash(&mut scratch)]),
            None => ROOT.derive(&[&count]),
        }
    }

    /// All entries in the order of their keys
    pub(crate) fn iter(&self) -> Iter<'_, V> {
        Iter { pending: self.top.iter().map(AsRef::as_ref).collect() }
    }

    /// Writes all entries
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.u64(self.len as u64);
        for (key, value) in self.iter() {
            writer.fixed(key);
            value.encode(writer);
        }
    }

    /// Reads what `encode` wrote: at most `limit` entries, in the order of their keys
    pub(crate) fn decode(reader: &mut Reader<'_>, limit: usize) -> Result<Self, WireError> {
        let count = reader.u64()?;
        if count > limit as u64 {
            return Err(WireError::TooLong { limit });
        }
        let mut tree = Self::default();
        let mut last: Option<Digest> = None;
        for _entry in 0..count {
            let key = reader.fixed()?;
            if last.is_some_and(|last| last >= key) {
                return Err(WireError::NotCanonical { what: "order of a state map" });
            }
            tree.insert(key, V::decode(reader)?);
            last = Some(key);
        }
        Ok(tree)
    }
}

/// The entries of a [`Tree`]
#[derive(Debug)]
pub(crate) struct Iter<'a, V> {
    /// The next one stands last
    pending: Vec<&'a Node<V>>,
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a Digest, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match &self.pending.pop()?.kind {
                Kind::Leaf { key, value } => return Some((key, value)),
                Kind::Branch { children, .. } => {
                    self.pending.extend(children.iter().rev().map(AsRef::as_ref));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Value for u64 {
        fn encode(&self, writer: &mut Writer) {
            writer.u64(*self);
        }

        fn decode(reader: &mut Reader<'_>) -> Result<Self, WireError> {
            reader.u64()
        }
    }

    /// Few keys with long common beginnings: branches far down, and collisions
    fn key(number: u16) -> Digest {
        let mut key = [0; 32];
        key[0] = (number & 3) as u8;
        key[20] = (number >> 2 & 3) as u8;
        key[31] = (number >> 4 & 15) as u8;
        key
    }

    /// The tree of a map, built in the order of its keys
    fn built(map: &BTreeMap<Digest, u64>) -> Tree<u64> {
        let mut tree = Tree::default();
        for (key, value) in map {
            tree.insert(*key, *value);
        }
        tree
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u16, u64),
        Remove(u16),
        Change(u16, u64),
        Root,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..256u16, any::<u64>()).prop_map(|(key, value)| Step::Insert(key, value)),
            2 => (0..256u16).prop_map(Step::Remove),
            2 => (0..256u16, any::<u64>()).prop_map(|(key, value)| Step::Change(key, value)),
            1 => Just(Step::Root),
        ]
    }

    fn apply(tree: &mut Tree<u64>, map: &mut BTreeMap<Digest, u64>, step: Step) {
        match step {
            Step::Insert(number, value) => {
                assert_eq!(tree.insert(key(number), value), map.insert(key(number), value));
            }
            Step::Remove(number) => {
                assert_eq!(tree.remove(&key(number)), map.remove(&key(number)));
            }
            Step::Change(number, value) => {
                let (mine, theirs) = (tree.get_mut(&key(number)), map.get_mut(&key(number)));
                assert_eq!(mine, theirs);
                if let (Some(mine), Some(theirs)) = (mine, theirs) {
                    (*mine, *theirs) = (value, value);
                }
            }
            Step::Root => {
                let _kept_in_the_nodes = tree.root();
            }
        }
    }

    proptest! {
        /// Goal: content alone decides shape and root, whatever happened before and whichever hashes were kept.
        /// Method: a random history against a sorted map; then a tree built from the map alone.
        #[test]
        fn the_root_follows_from_the_content(steps in prop::collection::vec(step(), 0..300)) {
            let (mut tree, mut map) = (Tree::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                apply(&mut tree, &mut map, step);
                if number % 64 == 0 {
                    copies.push((tree.clone(), map.clone()));
                }
            }
            copies.push((tree, map));
            for (tree, map) in copies {
                prop_assert_eq!(tree.len(), map.len());
                prop_assert!(tree.iter().eq(&map));
                prop_assert_eq!(tree.root(), built(&map).root());
                let mut writer = Writer::new();
                tree.encode(&mut writer);
                let mut reader = Reader::new(writer.as_slice());
                let again = Tree::<u64>::decode(&mut reader, 256).unwrap();
                prop_assert_eq!(reader.finish(), Ok(()));
                prop_assert_eq!(again.root(), tree.root());
            }
        }
    }

    #[test]
    fn every_key_and_value_counts() {
        let map: BTreeMap<_, _> = (0..256).map(|number| (key(number), 7)).collect();
        let root = built(&map).root();
        for number in 0..256 {
            let mut changed = map.clone();
            changed.insert(key(number), 8);
            assert_ne!(built(&changed).root(), root);
            changed.remove(&key(number));
            assert_ne!(built(&changed).root(), root);
        }
        assert_ne!(Tree::<u64>::default().root(), root);
    }

    #[test]
    fn only_the_order_of_the_keys_is_read() {
        let encode = |keys: &[u16]| {
            let mut writer = Writer::new();
            writer.u64(keys.len() as u64);
            for number in keys {
                writer.fixed(&key(*number)).u64(1);
            }
            writer.into_vec()
        };
        let read = |octets: &[u8], limit| {
            Tree::<u64>::decode(&mut Reader::new(octets), limit).map(|tree| tree.len())
        };
        assert_eq!(read(&encode(&[0, 1, 2]), 3), Ok(3));
        assert_eq!(read(&encode(&[0, 1, 2]), 2), Err(WireError::TooLong { limit: 2 }));
        let order = Err(WireError::NotCanonical { what: "order of a state map" });
        assert_eq!(read(&encode(&[1, 0]), 3), order);
        assert_eq!(read(&encode(&[1, 1]), 3), order);
        assert_eq!(read(&encode(&[0, 1])[..50], 3), Err(WireError::Truncated));
    }
}

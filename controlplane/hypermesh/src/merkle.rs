//! Merkle trees over a list that is known at once: the operations of a block, the stakes of an epoch. Shape of RFC
//! 9162 section 2.1: no leaf is ever doubled. Leaves, nodes and the root each have a domain of their own, and the root
//! binds the count, so a path proves the place as well as the content. State that changes is in `registry::tree`.

use crate::digest::{Digest, Domain};

static LEAF: Domain = Domain::new("hypermesh v1 merkle leaf");
static NODE: Domain = Domain::new("hypermesh v1 merkle node");
static ROOT: Domain = Domain::new("hypermesh v1 merkle root");

/// Hashes in the longest path a tree of 2^64 leaves has
pub const PATH_LIMIT: usize = 64;

fn node(left: &Digest, right: &Digest) -> Digest {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    NODE.hash(&both)
}

fn bind(count: u64, top: &[u8]) -> Digest {
    ROOT.derive(&[&count.to_be_bytes(), top])
}

/// One level up; a node without a sibling moves up as it is
fn raise(level: &mut Vec<Digest>) {
    let pairs = level.len() / 2;
    for pair in 0..pairs {
        level[pair] = node(&level[2 * pair], &level[2 * pair + 1]);
    }
    if level.len() % 2 == 1 {
        level[pairs] = level[2 * pairs];
    }
    level.truncate(level.len().div_ceil(2));
}

fn hashed(leaves: &[Digest]) -> Vec<Digest> {
    leaves.iter().map(|leaf| LEAF.hash(leaf)).collect()
}

/// The root of a list; that of the empty list is a constant
pub fn root(leaves: &[Digest]) -> Digest {
    let mut level = hashed(leaves);
    while level.len() > 1 {
        raise(&mut level);
    }
    bind(leaves.len() as u64, level.first().map_or(&[], |top| top.as_slice()))
}

/// What [`verify`] needs to show that `leaves[index]` is in the list; none if there is no such leaf. Who wants several
/// paths makes a [`Tree`].
pub fn path(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    Tree::new(leaves).path(index)
}

/// All paths of a list, for the price of one: the paths of a block's receipts
pub fn paths(leaves: &[Digest]) -> Vec<Vec<Digest>> {
    let tree = Tree::new(leaves);
    (0..leaves.len()).filter_map(|index| tree.path(index)).collect()
}

/// A list with all the hashes over it: a path is then read, not computed. It takes 64 octets for each leaf.
#[derive(Clone, Debug)]
pub struct Tree {
    /// From the hashes of the leaves to the one over all
    levels: Vec<Vec<Digest>>,
}

impl Tree {
    /// The tree over a list
    pub fn new(leaves: &[Digest]) -> Self {
        let mut levels = vec![hashed(leaves)];
        while let Some(last) = levels.last()
            && last.len() > 1
        {
            let mut next = last.clone();
            raise(&mut next);
            levels.push(next);
        }
        Self { levels }
    }

    /// How many leaves there are
    pub fn count(&self) -> u64 {
        self.levels.first().map_or(0, Vec::len) as u64
    }

    /// [`root`] of the list
    pub fn root(&self) -> Digest {
        let top = self.levels.last().and_then(|level| level.first());
        bind(self.count(), top.map_or(&[], |top| top.as_slice()))
    }

    /// [`path`] of a leaf
    pub fn path(&self, index: usize) -> Option<Vec<Digest>> {
        let leaves = self.levels.first()?;
        let siblings =
            |(height, level): (usize, &Vec<Digest>)| level.get((index >> height) ^ 1).copied();
        (index < leaves.len())
            .then(|| self.levels.iter().enumerate().filter_map(siblings).collect())
    }
}

/// Whether `leaf` stands at `index` in the list of `count` leaves that has this root.
///
/// `path` must have exactly the length that this place has (RFC 9162 section 2.1.3.2).
pub fn verify(root: &Digest, count: u64, index: u64, leaf: &Digest, path: &[Digest]) -> bool {
    if index >= count || path.len() > PATH_LIMIT {
        return false;
    }
    let (mut at, mut last) = (index, count - 1);
    let mut top = LEAF.hash(leaf);
    let mut siblings = path.iter();
    while last > 0 {
        // The last node of a level has a sibling only if its place is odd; without one it moves up as it is.
        if at % 2 == 1 || at < last {
            let Some(sibling) = siblings.next() else { return false };
            top = if at % 2 == 1 { node(sibling, &top) } else { node(&top, sibling) };
        }
        at /= 2;
        last /= 2;
    }
    siblings.next().is_none() && bind(count, &top) == *root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count)
            .map(|index| Domain::new("hypermesh v1 test").hash(&index.to_be_bytes()))
            .collect()
    }

    /// The definition of RFC 9162 section 2.1.1, by recursion
    fn by_definition(leaves: &[Digest]) -> Digest {
        if let [leaf] = leaves {
            return LEAF.hash(leaf);
        }
        let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
        node(&by_definition(left), &by_definition(right))
    }

    #[test]
    fn the_shape_is_that_of_rfc_9162() {
        for count in 1..70 {
            let leaves = leaves(count);
            assert_eq!(root(&leaves), bind(count as u64, &by_definition(&leaves)), "{count}");
        }
    }

    #[test]
    fn every_leaf_is_proven_at_its_place_and_nowhere_else() {
        for count in [1, 2, 3, 4, 5, 7, 8, 9, 13, 64, 65] {
            let leaves = leaves(count);
            let (root, all) = (root(&leaves), paths(&leaves));
            let tree = Tree::new(&leaves);
            assert_eq!((tree.root(), tree.count()), (root, count as u64));
            for (index, leaf) in leaves.iter().enumerate() {
                let path = path(&leaves, index).unwrap();
                assert_eq!(path, all[index]);
                for place in 0..count as u64 + 2 {
                    let proven = verify(&root, count as u64, place, leaf, &path);
                    assert_eq!(proven, place == index as u64, "{count} {index} {place}");
                }
            }
            assert_eq!(path(&leaves, count), None);
        }
    }

    #[test]
    fn no_other_count_root_leaf_or_path_passes() {
        let leaves = leaves(6);
        let (root, path) = (root(&leaves), path(&leaves, 4).unwrap());
        assert!(verify(&root, 6, 4, &leaves[4], &path));
        for count in [0, 4, 5, 7, 8, u64::MAX] {
            assert!(!verify(&root, count, 4, &leaves[4], &path), "{count}");
        }
        assert!(!verify(&leaves[0], 6, 4, &leaves[4], &path));
        assert!(!verify(&root, 6, 4, &leaves[5], &path));
        assert!(!verify(&root, 6, 4, &leaves[4], &path[1..]));
        let mut longer = path.clone();
        longer.push([0; 32]);
        assert!(!verify(&root, 6, 4, &leaves[4], &longer));
        for hash in 0..path.len() {
            let mut flipped = path.clone();
            flipped[hash][31] ^= 1;
            assert!(!verify(&root, 6, 4, &leaves[4], &flipped), "{hash}");
        }
    }

    #[test]
    fn a_list_and_the_same_with_its_last_leaf_doubled_have_different_roots() {
        for count in 1..9 {
            let mut list = leaves(count);
            let before = root(&list);
            list.push(list[count - 1]);
            assert_ne!(root(&list), before, "{count}");
        }
        assert_ne!(root(&[]), root(&[[0; 32]]));
        assert_eq!(Tree::new(&[]).root(), root(&[]));
        assert_eq!(Tree::new(&[]).path(0), None);
    }

    #[test]
    fn a_node_is_no_leaf() {
        // The list of the two upper nodes must not have the root of the four leaves below them.
        let four = leaves(4);
        let hashes = hashed(&four);
        let upper = [node(&hashes[0], &hashes[1]), node(&hashes[2], &hashes[3])];
        assert_ne!(root(&upper), root(&four));
        assert_ne!(bind(4, &node(&LEAF.hash(&upper[0]), &LEAF.hash(&upper[1]))), root(&four));
    }
}

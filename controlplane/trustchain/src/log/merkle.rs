//! The Merkle tree of RFC 6962 section 2: hashes of leaves and nodes, and a tree that grows by its right edge
//! and keeps nothing else. Proofs are computed from tiles (`tile`) and checked in `verify`.

use boring::sha::{Sha256, sha256};

/// SHA-256
pub type Hash = [u8; 32];

/// Octets of a hash
pub const HASH_BYTES: usize = 32;

/// Hash of a leaf: SHA-256 over a zero octet and the leaf (RFC 6962 section 2.1)
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(&[0]);
    hasher.update(leaf);
    hasher.finish()
}

/// Hash of an inner node: SHA-256 over an octet of one and both children (RFC 6962 section 2.1)
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut message = [1; 1 + 2 * HASH_BYTES];
    message[1..1 + HASH_BYTES].copy_from_slice(left);
    message[1 + HASH_BYTES..].copy_from_slice(right);
    sha256(&message)
}

/// The root of the tree without leaves: SHA-256 of nothing
pub fn empty_root() -> Hash {
    sha256(b"")
}

/// Size and root of a tree: two heads of equal size and different roots are a split view
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TreeHead {
    /// Number of leaves
    pub size: u64,
    /// Root hash
    pub root: Hash,
}

/// A tree that only grows. It keeps the roots of its perfect subtrees, one for each bit set in its size,
/// the largest first; that is all that is needed for the root and for more leaves.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    size: u64,
    edge: Vec<Hash>,
}

impl Tree {
    /// Number of leaves
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf by its hash
    pub fn push(&mut self, leaf: Hash) {
        let mut carried = leaf;
        // Each one at the end of the size is a perfect subtree that the new leaf completes to a larger one.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.edge.pop() {
                carried = node_hash(&left, &carried);
            }
        }
        self.edge.push(carried);
        self.size += 1;
    }

    /// The root hash
    pub fn root(&self) -> Hash {
        let folded = self.edge.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
        folded.unwrap_or_else(empty_root)
    }

    /// Size and root
    pub fn head(&self) -> TreeHead {
        TreeHead { size: self.size, root: self.root() }
    }
}

/// The root over leaf hashes, as a tree of its own
pub fn root_of(hashes: &[Hash]) -> Hash {
    let mut tree = Tree::default();
    hashes.iter().for_each(|hash| tree.push(*hash));
    tree.root()
}

/// The largest power of two below `size`, which is where RFC 6962 splits a tree of more than one leaf
pub(crate) fn split_point(size: u64) -> u64 {
    debug_assert!(size > 1);
    1 << (63 - (size - 1).leading_zeros())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::certificate::unhex;

    /// The eight leaves that implementations of RFC 6962 have shared since the first one
    pub(crate) const LEAVES: [&str; 8] = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];

    /// Their roots by size
    pub(crate) const ROOTS: [&str; 9] = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    pub(crate) fn hash(hex: &str) -> Hash {
        unhex(hex).unwrap().try_into().unwrap()
    }

    pub(crate) fn leaf_hashes() -> Vec<Hash> {
        LEAVES.iter().map(|leaf| leaf_hash(&unhex(leaf).unwrap())).collect()
    }

    /// RFC 6962 section 2.1, word by word
    pub(crate) fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [leaf] => *leaf,
            _ => {
                let mut middle = 1;
                while middle * 2 < leaves.len() {
                    middle *= 2;
                }
                let (left, right) = leaves.split_at(middle);
                node_hash(&naive_root(left), &naive_root(right))
            }
        }
    }

    #[test]
    fn the_roots_are_the_known_ones() {
        let mut tree = Tree::default();
        assert_eq!(tree.root(), hash(ROOTS[0]));
        for (leaf, root) in leaf_hashes().into_iter().zip(&ROOTS[1..]) {
            tree.push(leaf);
            assert_eq!(tree.root(), hash(root), "size {}", tree.size());
        }
    }

    #[test]
    fn the_edge_gives_the_root_of_the_definition() {
        let leaves: Vec<Hash> = (0..600u32).map(|n| leaf_hash(&n.to_be_bytes())).collect();
        let mut tree = Tree::default();
        for size in 0..=leaves.len() {
            assert_eq!(tree.root(), naive_root(&leaves[..size]), "size {size}");
            assert_eq!(tree.size(), size as u64);
            assert_eq!(tree.edge.len() as u32, tree.size().count_ones());
            if let Some(leaf) = leaves.get(size) {
                tree.push(*leaf);
            }
        }
    }

    #[test]
    fn trees_are_split_at_the_largest_power_of_two_below() {
        for (size, point) in [(2, 1), (3, 2), (4, 2), (5, 4), (256, 128), (257, 256)] {
            assert_eq!(split_point(size), point, "{size}");
        }
    }
}

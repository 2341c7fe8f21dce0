//! Judging proofs (RFC 9162 sections 2.1.3.2 and 2.1.4.2): plain functions over hashes, for nodes, witnesses
//! and the log itself before it releases a proof. Whether a root is to be believed is decided in
//! `checkpoint`.

use super::merkle::{Hash, TreeHead, node_hash};

/// Hashes the longest proof can have
pub const PROOF_LIMIT_HASHES: usize = 64;

/// Why a proof proves nothing
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProofError {
    /// The index is not in the tree
    #[error("index {index} is not in a tree of {size} entries")]
    OutOfRange {
        /// The leaf's index
        index: u64,
        /// The tree's size
        size: u64,
    },
    /// The newer tree is the smaller one
    #[error("a tree of {new} entries cannot continue one of {old}")]
    Shrunk {
        /// Size of the older tree
        old: u64,
        /// Size of the newer tree
        new: u64,
    },
    /// Too many or too few hashes for these sizes
    #[error("the proof has the wrong number of hashes")]
    Length,
    /// The proof leads to another root
    #[error("the proof leads to another root: the entry is not in this tree")]
    Root,
    /// The trees differ in what the older one had
    #[error("the trees are inconsistent: the log has shown different histories")]
    Inconsistent,
}

/// Checks that the leaf with this hash is entry `index` of the tree
pub fn inclusion(
    leaf: &Hash,
    index: u64,
    head: &TreeHead,
    proof: &[Hash],
) -> Result<(), ProofError> {
    if index >= head.size {
        return Err(ProofError::OutOfRange { index, size: head.size });
    }
    let (mut node, mut last, mut computed) = (index, head.size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            computed = node_hash(sibling, &computed);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            computed = node_hash(&computed, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    if computed == head.root { Ok(()) } else { Err(ProofError::Root) }
}

/// Checks that the newer tree begins with everything the older one had
pub fn consistency(old: &TreeHead, new: &TreeHead, proof: &[Hash]) -> Result<(), ProofError> {
    if old.size > new.size {
        return Err(ProofError::Shrunk { old: old.size, new: new.size });
    }
    if old.size == new.size || old.size == 0 {
        return match proof {
            [] if old.size == new.size && old.root != new.root => Err(ProofError::Inconsistent),
            [] if old.size == 0 && old.root != super::merkle::empty_root() => {
                Err(ProofError::Inconsistent)
            }
            [] => Ok(()),
            _ => Err(ProofError::Length),
        };
    }
    // A perfect older tree is a node of the newer one; its root is then not repeated in the proof.
    let (first, rest) = match proof.split_first() {
        _ if old.size.is_power_of_two() => (old.root, proof),
        Some((first, rest)) => (*first, rest),
        None => return Err(ProofError::Length),
    };
    let (mut node, mut last) = (old.size - 1, new.size - 1);
    let shift = node.trailing_ones();
    node >>= shift;
    last >>= shift;
    let (mut old_computed, mut new_computed) = (first, first);
    for sibling in rest {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if node & 1 == 1 || node == last {
            old_computed = node_hash(sibling, &old_computed);
            new_computed = node_hash(sibling, &new_computed);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new_computed = node_hash(&new_computed, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last != 0 {
        return Err(ProofError::Length);
    }
    let agree = old_computed == old.root && new_computed == new.root;
    if agree { Ok(()) } else { Err(ProofError::Inconsistent) }
}

#[cfg(test)]
mod tests {
    use super::super::merkle::tests::{ROOTS, hash, leaf_hashes};
    use super::*;

    fn head(size: usize) -> TreeHead {
        TreeHead { size: size as u64, root: hash(ROOTS[size]) }
    }

    const A: &str = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7";
    const B: &str = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e";
    const C: &str = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4";
    const D: &str = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b";
    const E: &str = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0";
    const F: &str = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a";

    #[test]
    fn the_known_inclusion_proofs_verify_and_nothing_near_them() {
        let known: [(u64, usize, &[&str]); 5] = [
            (0, 1, &[]),
            (0, 8, &[A, B, C]),
            (5, 8, &[D, E, ROOTS[4]]),
            (2, 3, &[ROOTS[2]]),
            (1, 5, &[ROOTS[1], B, D]),
        ];
        for (index, size, proof) in known {
            let leaf = leaf_hashes()[index as usize];
            let proof: Vec<Hash> = proof.iter().map(|text| hash(text)).collect();
            assert_eq!(inclusion(&leaf, index, &head(size), &proof), Ok(()), "{index} {size}");
            assert!(inclusion(&leaf_hashes()[7], index, &head(size), &proof).is_err());
            for other in 0..=size as u64 {
                let judged = inclusion(&leaf, other, &head(size), &proof);
                assert_eq!(judged.is_ok(), other == index, "{index} {size} {other}");
            }
            let longer = [&proof[..], &[leaf]].concat();
            assert_eq!(inclusion(&leaf, index, &head(size), &longer), Err(ProofError::Length));
            if let Some((_, shorter)) = proof.split_last() {
                assert_eq!(inclusion(&leaf, index, &head(size), shorter), Err(ProofError::Length));
            }
            for at in 0..proof.len() {
                let mut wrong = proof.clone();
                wrong[at][9] ^= 0x10;
                assert_eq!(inclusion(&leaf, index, &head(size), &wrong), Err(ProofError::Root));
            }
        }
    }

    #[test]
    fn the_known_consistency_proofs_verify_and_nothing_near_them() {
        let known: [(usize, usize, &[&str]); 4] =
            [(1, 8, &[A, B, C]), (6, 8, &[F, E, ROOTS[4]]), (2, 5, &[B, D]), (8, 8, &[])];
        for (old, new, proof) in known {
            let proof: Vec<Hash> = proof.iter().map(|text| hash(text)).collect();
            assert_eq!(consistency(&head(old), &head(new), &proof), Ok(()), "{old} {new}");
            let mut other = head(old);
            other.root[0] ^= 1;
            assert_eq!(consistency(&other, &head(new), &proof), Err(ProofError::Inconsistent));
            let mut other = head(new);
            other.root[0] ^= 1;
            assert_eq!(consistency(&head(old), &other, &proof), Err(ProofError::Inconsistent));
            let longer = [&proof[..], &[[0; 32]]].concat();
            assert_eq!(consistency(&head(old), &head(new), &longer), Err(ProofError::Length));
            for at in 0..proof.len() {
                let mut wrong = proof.clone();
                wrong[at][9] ^= 0x10;
                assert!(consistency(&head(old), &head(new), &wrong).is_err());
                let shorter = [&proof[..at], &proof[at + 1..]].concat();
                assert!(consistency(&head(old), &head(new), &shorter).is_err());
            }
        }
        assert_eq!(consistency(&head(0), &head(8), &[]), Ok(()));
        let bogus = TreeHead { size: 0, root: [7; 32] };
        assert_eq!(consistency(&bogus, &head(8), &[]), Err(ProofError::Inconsistent));
        assert_eq!(
            consistency(&head(8), &head(6), &[]),
            Err(ProofError::Shrunk { old: 8, new: 6 })
        );
    }
}

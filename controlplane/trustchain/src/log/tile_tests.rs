//! Tests of tiles: paths against the examples of the specification, tiles against its definition, proofs
//! against a naive tree. Not part of the product.

use proptest::prelude::*;

use super::super::merkle::tests::naive_root;
use super::super::merkle::{TreeHead, leaf_hash};
use super::super::verify;
use super::*;

/// RFC 6962 section 2.1.1, word by word
fn naive_inclusion(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split_point(leaves.len() as u64) as usize);
    let (mut path, sibling) = if index < left.len() {
        (naive_inclusion(index, left), naive_root(right))
    } else {
        (naive_inclusion(index - left.len(), right), naive_root(left))
    };
    path.push(sibling);
    path
}

/// RFC 6962 section 2.1.2, word by word
fn naive_consistency(old: usize, leaves: &[Hash], known: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if known { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let (left, right) = leaves.split_at(split_point(leaves.len() as u64) as usize);
    let (mut path, other) = if old <= left.len() {
        (naive_consistency(old, left, known), naive_root(right))
    } else {
        (naive_consistency(old - left.len(), right, false), naive_root(left))
    };
    path.push(other);
    path
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count as u64).map(|n| leaf_hash(&n.to_be_bytes())).collect()
}

fn build(leaves: &[Hash]) -> (TileBuilder, HashMap<TilePath, Vec<u8>>) {
    let (mut builder, mut full) = (TileBuilder::default(), Vec::new());
    for leaf in leaves {
        builder.push(*leaf, &leaf[..3], &mut full);
    }
    full.extend(builder.partial());
    (builder, full.into_iter().map(|tile| (tile.path, tile.bytes)).collect())
}

fn tree(
    size: u64,
    tiles: &HashMap<TilePath, Vec<u8>>,
) -> TileTree<impl FnMut(TilePath) -> Result<Vec<u8>, ProofRangeError> + '_> {
    TileTree::new(size, move |path| tiles.get(&path).cloned().ok_or(ProofRangeError))
}

#[test]
fn paths_are_those_of_the_specification() {
    let cases = [
        (TileKind::Hashes(0), 1_234_067, 256, "tile/0/x001/x234/067"),
        (TileKind::Hashes(1), 0, 256, "tile/1/000"),
        (TileKind::Hashes(2), 7, 17, "tile/2/007.p/17"),
        (TileKind::Entries, 273, 112, "tile/data/273.p/112"),
        (TileKind::Entries, 1_000, 256, "tile/data/x001/000"),
    ];
    for (kind, index, width, text) in cases {
        let tile = TilePath::new(kind, index, width).unwrap();
        assert_eq!(tile.to_string(), text);
        assert_eq!(text.parse(), Ok(tile));
    }
}

#[test]
fn any_other_path_is_refused() {
    for text in [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "tile/00/000",
        "tile/6/000",
        "tile/+1/000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/0/001/002",
        "tile/0/+01",
        "tile/0/x00é/001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p/1/",
        "tile/0/../000",
        "tile/data/x001/x234/x067",
        "tile/entries/000",
        "tile/5/000.p/2",
        "tile/0/x999/x999/x999/x999/x999/x999/999",
        "/tile/0/000",
    ] {
        assert_eq!(text.parse::<TilePath>(), Err(TilePathError), "{text}");
    }
    assert!("tile/5/000.p/1".parse::<TilePath>().is_ok());
}

#[test]
fn the_tiles_of_seventy_thousand_entries_are_those_of_the_specification() {
    let leaves = leaves(70_000);
    let (_, tiles) = build(&leaves);
    let count = |kind| tiles.keys().filter(|path| path.kind == kind && path.is_full()).count();
    assert_eq!(count(TileKind::Hashes(0)), 273);
    assert_eq!(count(TileKind::Entries), 273);
    assert_eq!(count(TileKind::Hashes(1)), 1);
    let mut partial: Vec<_> =
        tiles.keys().filter(|path| !path.is_full()).map(TilePath::to_string).collect();
    partial.sort();
    let wanted = ["tile/0/273.p/112", "tile/1/001.p/17", "tile/2/000.p/1", "tile/data/273.p/112"];
    assert_eq!(partial, wanted);
    let one = &tiles[&"tile/2/000.p/1".parse().unwrap()];
    assert_eq!(one[..], naive_root(&leaves[..65_536]));
    let second = &tiles[&"tile/1/000".parse().unwrap()][32..64];
    assert_eq!(*second, naive_root(&leaves[256..512]));
    assert_eq!(tree(70_000, &tiles).root(), Ok(naive_root(&leaves)));
    for index in [0, 255, 256, 65_535, 65_536, 69_999] {
        let proof = tree(70_000, &tiles).inclusion(index as u64).unwrap();
        assert_eq!(proof, naive_inclusion(index, &leaves), "{index}");
    }
    for old in [1, 255, 256, 257, 65_536, 65_537, 69_999] {
        let proof = tree(70_000, &tiles).consistency(old as u64).unwrap();
        assert_eq!(proof, naive_consistency(old, &leaves, true), "{old}");
    }
}

#[test]
fn a_tree_of_256_has_a_full_tile_and_one_hash_above() {
    let (_, tiles) = build(&leaves(256));
    let mut paths: Vec<_> = tiles.keys().map(TilePath::to_string).collect();
    paths.sort();
    assert_eq!(paths, ["tile/0/000", "tile/1/000.p/1", "tile/data/000"]);
}

#[test]
fn tiles_say_from_which_size_on_they_are_complete() {
    let complete = |text: &str| text.parse::<TilePath>().unwrap().complete_at();
    assert_eq!(complete("tile/0/000"), 256);
    assert_eq!(complete("tile/data/001.p/3"), 259);
    assert_eq!(complete("tile/1/000.p/2"), 512);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn proofs_are_those_of_a_naive_tree(
        size in 1usize..=600,
        a in any::<usize>(),
        b in any::<usize>(),
    ) {
        let leaves = leaves(size);
        let (builder, tiles) = build(&leaves);
        prop_assert_eq!(builder.size(), size as u64);
        let new = TreeHead { size: size as u64, root: naive_root(&leaves) };
        prop_assert_eq!(tree(new.size, &tiles).root().unwrap(), new.root);

        let index = a % size;
        let proof = tree(new.size, &tiles).inclusion(index as u64).unwrap();
        prop_assert_eq!(&proof, &naive_inclusion(index, &leaves));
        prop_assert_eq!(verify::inclusion(&leaves[index], index as u64, &new, &proof), Ok(()));
        let wrong = (index + 1) % size;
        if wrong != index {
            prop_assert!(verify::inclusion(&leaves[wrong], index as u64, &new, &proof).is_err());
            prop_assert!(verify::inclusion(&leaves[index], wrong as u64, &new, &proof).is_err());
        }

        let old = b % (size + 1);
        let proof = tree(new.size, &tiles).consistency(old as u64).unwrap();
        if old > 0 {
            prop_assert_eq!(&proof, &naive_consistency(old, &leaves, true));
        }
        let mut head = TreeHead { size: old as u64, root: naive_root(&leaves[..old]) };
        prop_assert_eq!(verify::consistency(&head, &new, &proof), Ok(()));
        head.root[31] ^= 1;
        prop_assert!(verify::consistency(&head, &new, &proof).is_err());
    }

    #[test]
    fn a_path_reads_back(
        level in 0u8..=4,
        index in 0u64..1 << 20,
        width in 1u16..=256,
        data in any::<bool>(),
    ) {
        let kind = if data { TileKind::Entries } else { TileKind::Hashes(level) };
        if let Ok(tile) = TilePath::new(kind, index, width) {
            prop_assert_eq!(tile.to_string().parse(), Ok(tile));
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,80}") {
        if let Ok(tile) = text.parse::<TilePath>() {
            prop_assert_eq!(tile.to_string(), text);
        }
    }
}

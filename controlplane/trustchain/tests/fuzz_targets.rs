//! Every fuzz target's function with its seeds and with thousands of mutations of them, the same on every run: what the
//! fuzzer looks for by the hour (`deploy/fuzz`) stays looked for a little by every run of the tests.

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use targets::TARGETS;

/// Mutations of each target's seeds
const MUTATIONS: usize = 20_000;
/// Changes that one mutation makes at most
const CHANGES: usize = 4;
/// Octets beyond which nothing is inserted any more
const LENGTH_MAX: usize = 64 << 10;
/// Where the sequence of mutations begins
const SEED: u64 = 0x5707_4c04;
/// Octets that mean something to many parsers: ends of ranges, tags and lengths of DER, separators of text
const TELLING: &[u8] = &[0, 1, 0x7f, 0x80, 0x81, 0x82, 0xff, 0x30, 0x04, 0xa3, b'/', b'\n', b' '];

fn fuzz_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The seeds of a target, with their names
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz_directory().join("seeds").join(target);
    let files = std::fs::read_dir(&directory);
    let files = files.unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    // Directories come in any order, and a finding has to come again.
    paths.sort();
    let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
    paths.iter().map(|path| (name(path), std::fs::read(path).unwrap())).collect()
}

/// Runs a target; what it panics with is reported with the octets that did it
fn run(name: &str, target: fn(&[u8]) -> bool, octets: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| target(octets))).unwrap_or_else(|_| {
        let hex: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
        panic!("{name} panics with these octets: {hex}")
    })
}

/// Changes something: bits, octets, the length, the order
fn mutate(octets: &mut Vec<u8>, others: &[Vec<u8>], random: &mut StdRng) {
    for _ in 0..random.random_range(1..=CHANGES) {
        let at = random.random_range(0..=octets.len());
        let end = (at + random.random_range(1..=16)).min(octets.len());
        match random.random_range(0..8) {
            0 if at < octets.len() => octets[at] ^= 1 << random.random_range(0..8),
            1 if at < octets.len() => octets[at] = random.random(),
            2 if at < octets.len() => {
                octets[at] = TELLING[random.random_range(0..TELLING.len())];
            }
            3 if octets.len() < LENGTH_MAX => octets.insert(at, random.random()),
            4 => drop(octets.drain(at..end)),
            5 => octets.truncate(at),
            6 if octets.len() < LENGTH_MAX => {
                let copy = octets[at..end].to_vec();
                octets.splice(at..at, copy);
            }
            _ => {
                let other = &others[random.random_range(0..others.len())];
                let from = random.random_range(0..=other.len());
                octets.truncate(at);
                octets.extend_from_slice(&other[from..]);
            }
        }
    }
}

#[test]
fn the_programs_of_the_fuzzer_are_those_that_are_run_here() {
    let manifest = std::fs::read_to_string(fuzz_directory().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter();
    let programs: BTreeSet<_> = programs.map(|bin| bin["name"].as_str().unwrap()).collect();
    let targets: BTreeSet<_> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(programs, targets);
    for name in targets {
        let source = fuzz_directory().join(format!("fuzz_targets/{name}.rs"));
        let source = std::fs::read_to_string(&source).unwrap();
        assert!(source.contains(&format!("stoq_trustchain_fuzz::{name}(data)")), "{name}");
    }
}

#[test]
fn every_seed_is_something_that_its_target_accepts() {
    let mut stale = Vec::new();
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seed");
        let refused = seeds.into_iter().filter(|(_, seed)| !run(name, *target, seed));
        stale.extend(refused.map(|(seed, _)| format!("{name}/{seed}")));
    }
    assert_eq!(stale, [""; 0], "these seeds are refused at the door and lead a fuzzer nowhere");
}

#[test]
fn no_mutation_of_a_seed_makes_a_target_panic() {
    for (name, target) in TARGETS {
        let seeds: Vec<_> = seeds(name).into_iter().map(|(_, seed)| seed).collect();
        let mut random = StdRng::seed_from_u64(SEED);
        run(name, *target, &[]);
        let mut accepted = 0;
        for number in 0..MUTATIONS {
            let mut octets = seeds[number % seeds.len()].clone();
            mutate(&mut octets, &seeds, &mut random);
            accepted += usize::from(run(name, *target, &octets));
        }
        assert!(accepted < MUTATIONS, "{name} accepts whatever it is shown");
    }
}

//! The judge of space proofs is a C++ library: any values of any size and strength come back with a verdict, and
//! none make it crash.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stoq_hypermesh::proof::{SpaceProof, policy};

fuzz_target!(|data: &[u8]| {
    let Some((&[k, strength, attempt], values)) = data.split_first_chunk::<3>() else { return };
    let fuzzed = SpaceProof {
        salt: [1; 32],
        k,
        // Stronger ones than any policy takes only cost more.
        strength: strength % (policy::SPACE_STRENGTH_CEILING + 1),
        attempt,
        proof: values.to_vec(),
    };
    let mut fitting = fuzzed.clone();
    fitting.k = policy::SPACE_K_FLOOR + 2 * (k % 6);
    fitting.proof.resize(16 * usize::from(fitting.k), 0x5a);
    for proof in [fuzzed, fitting] {
        assert!(proof.verify(&[2; 32], &[3; 32], &[4; 32]).is_err());
    }
});

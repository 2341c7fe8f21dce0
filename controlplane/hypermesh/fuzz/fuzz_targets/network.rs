//! The network that receipts, messages and evidence are judged by: the one that the seeds are of.

use std::sync::{Arc, OnceLock};

use stoq_hypermesh::consensus::Genesis;

/// As `seeds/genesis/validators` has it
pub fn genesis() -> Arc<Genesis> {
    static GENESIS: OnceLock<Arc<Genesis>> = OnceLock::new();
    let read = || {
        let file = include_bytes!("../seeds/genesis/validators");
        Arc::new(Genesis::read(file).expect("a genesis"))
    };
    Arc::clone(GENESIS.get_or_init(read))
}

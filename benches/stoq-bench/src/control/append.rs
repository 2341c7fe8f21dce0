//! How many entries the transparency log makes durable in a second: its own driver on the control plane's
//! journal, batches as the authority makes them, heads signed and tiles written as often as it does.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use stoq_store::journal::{Journal, Options};
use stoq_trustchain::ca::LogJournal;
use stoq_trustchain::log::sequencer::Limits;
use stoq_trustchain::log::{
    Directory, IssuerChain, IssuerSignature, Log, LogSigner, Outcome, Submission,
};
use stoq_trustchain::{KeyKind, KeyPair};

use crate::sink::Failure;

/// Entries of one batch, as the authority has them
const BATCH: usize = 256;
/// Time from checkpoint to checkpoint, as the authority has it
const CHECKPOINT: Duration = Duration::from_millis(250);
/// Octets of an entry: about what a certificate has
const ENTRY: usize = 1_000;

/// Entries a second for about `time`
pub fn measure(
    directory: &Path,
    chain: &[&[u8]],
    leaf: &[u8],
    time: Duration,
) -> Result<f64, Failure> {
    let (journal, published) = (directory.join("append-journal"), directory.join("append-log"));
    Journal::create(&journal)?;
    let options = Options { group_bytes: 2 << 20, ..Options::default() };
    let (store, _) = Journal::open(&journal, options, &stoq_store::named_thread, |_| Ok(()))?;
    let signer = LogSigner::new("bench.example/log", KeyPair::generate(KeyKind::P256)?)?;
    let limits = Limits { pool_entries: BATCH, batch_entries: BATCH, remembered_entries: 0 };
    let files = Directory::open(&published)?;
    let mut log = Log::create(LogJournal::new(&store), files, signer, limits, now_ms())?;
    let chain = IssuerChain::new(chain)?;
    log.register(&chain)?;
    let (begun, mut entries) = (Instant::now(), 0u64);
    let mut published_at = begun;
    while begun.elapsed() < time {
        for _ in 0..BATCH {
            let der = other_leaf(leaf, entries)?;
            let submission = Submission::certificate(&der, &chain, IssuerSignature::Checked)?;
            if !matches!(log.submit(submission)?, Outcome::Waiting(_)) {
                return Err("an entry was taken for one that is logged already".into());
            }
            entries += 1;
        }
        for release in log.commit(now_ms())? {
            release.sct?;
        }
        if published_at.elapsed() >= CHECKPOINT {
            log.publish(now_ms())?;
            published_at = Instant::now();
        }
    }
    log.publish(now_ms())?;
    Ok(entries as f64 / begun.elapsed().as_secs_f64())
}

/// A certificate of the usual size that is no other's: the end of its signature counts up
fn other_leaf(leaf: &[u8], number: u64) -> Result<Vec<u8>, Failure> {
    let mut der = leaf.to_vec();
    let end = der.len().checked_sub(8).ok_or("a certificate has more than eight octets")?;
    der[end..].copy_from_slice(&number.to_be_bytes());
    if der.len() * 2 < ENTRY {
        return Err("the certificate is smaller than certificates are".into());
    }
    Ok(der)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

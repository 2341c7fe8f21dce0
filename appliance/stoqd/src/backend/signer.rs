//! `stoqctl signer`: how signing goes, and a test of every key.

use std::time::{Instant, SystemTime};

use stoq_admin::ApiError;
use stoq_admin::api::{SignerShow, SignerStatus, SignerTest, SignerTested, SignerTestedKey};
use stoq_trustchain::signer::KeyPurpose;

use super::Admin;
use super::authority::{broken, desk};

pub async fn show(admin: &Admin, _request: SignerShow) -> Result<SignerStatus, ApiError> {
    let desk = desk(admin)?;
    let status = desk.keys.status().await;
    status.map_err(|error| broken("signer-failed", error))
}

pub async fn test(admin: &Admin, _request: SignerTest) -> Result<SignerTested, ApiError> {
    let desk = desk(admin)?;
    // The keys, not the door before them: whether a key can sign does not depend on what it may sign.
    let signer = &desk.keys;
    let mut keys = Vec::new();
    for key in signer.keys() {
        let started = Instant::now();
        // The signer verifies what it made before it answers.
        let outcome = signer.sign(key.name(), sample(key.name().purpose())).await;
        keys.push(SignerTestedKey {
            name: key.name().to_string(),
            milliseconds: started.elapsed().as_secs_f64() * 1e3,
            error: outcome.err().map(|error| error.to_string()),
        });
    }
    Ok(SignerTested { keys })
}

/// A message that a key of this purpose signs and that means nothing to anybody: another each time, and of the
/// log's key too short for a tree head (50 octets, RFC 6962 section 3.5) and for an SCT
fn sample(purpose: KeyPurpose) -> Vec<u8> {
    let now = format!("{:?}", SystemTime::now());
    let once = blake3::hash(now.as_bytes());
    let lead: &[u8] = match purpose {
        KeyPurpose::Issuing => b"stoq-trustchain operator-test v1 ",
        KeyPurpose::Log => &[0, 1],
    };
    [lead, once.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_what_their_keys_sign_and_nothing_that_counts() {
        for purpose in [KeyPurpose::Issuing, KeyPurpose::Log] {
            assert!(purpose.accepts(&sample(purpose)));
        }
        assert!(sample(KeyPurpose::Log).len() < 50);
        assert!(!KeyPurpose::Log.accepts(&sample(KeyPurpose::Issuing)));
    }
}

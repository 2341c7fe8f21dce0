//! `stoqctl ca key`: the issuing keys and the steps of their lives. Which step may follow is decided in
//! `stoq_trustchain`; here are the words for it, and the root that a node without configuration keeps.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_admin::api::{
    CaKey, CaKeyActivate, CaKeyChanged, CaKeyList, CaKeyPrepare, CaKeyRequest, CaKeyRequested,
    CaKeyRevoke, CaKeyRevoked, CaKeyTaint, CaKeysListed,
};
use stoq_admin::{ApiError, ExitCode, decode_pem, encode_pem};
use stoq_trustchain::ca::IssuingKey;
use stoq_trustchain::ca::keys::KeyError;
use stoq_trustchain::ca::revoke::RevokeError;
use stoq_trustchain::pinning::{AuthorityState, CutOff, Pin, StateError, TaintReason};
use stoq_trustchain::revocation::KeyId;
use stoq_trustchain::signer::{KeyInfo, KeyName, SignerError};

use super::Admin;
use super::authority::{Desk, broken, desk, refused as not_done};
use crate::issuer;

pub async fn list(admin: &Admin, _request: CaKeyList) -> Result<CaKeysListed, ApiError> {
    let desk = desk(admin)?;
    let in_force = desk.ca.authority().key_id();
    let keys = desk.issuing_keys.list();
    Ok(CaKeysListed { keys: keys.into_iter().map(|key| shown(key, in_force)).collect() })
}

fn shown(key: IssuingKey, in_force: KeyId) -> CaKey {
    let at = |seconds: u64| -> SystemTime { UNIX_EPOCH + Duration::from_secs(seconds) };
    let record = key.record;
    CaKey {
        name: key.name.to_string(),
        state: record.state.to_string(),
        since: at(record.since),
        taint: record.taint.map(|taint| {
            let word = match taint {
                TaintReason::Replaced => "replaced",
                TaintReason::Compromised => "compromised",
            };
            word.to_owned()
        }),
        pin: record.key.to_string(),
        key_id: key.key_id.to_string(),
        not_after: at(record.not_after),
        last_leaf_ends: (record.last_leaf_ends > 0).then(|| at(record.last_leaf_ends)),
        signs_lists: key.key_id == in_force && record.state != AuthorityState::Revoked,
    }
}

fn changed(desk: &Desk, key: IssuingKey) -> CaKeyChanged {
    CaKeyChanged { key: shown(key, desk.ca.authority().key_id()) }
}

fn named(name: &str) -> Result<KeyName, ApiError> {
    KeyName::new(name).map_err(|error| {
        ApiError::usage("bad-key-name", error.to_string(), "name it as `issuing-2`")
    })
}

/// What is begun is finished, also when the asker leaves: keys and journal must not part
async fn carried_out<T: Send + 'static>(
    step: impl Future<Output = Result<T, KeyError>> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::spawn(step).await.map_err(|error| broken("step-failed", error))?;
    done.map_err(|error| refused(&error))
}

pub async fn request(admin: &Admin, request: CaKeyRequest) -> Result<CaKeyRequested, ApiError> {
    let desk = desk(admin)?;
    let name = named(&request.name)?;
    let (keys, of) = (desk.issuing_keys.clone(), name.clone());
    let csr_der = carried_out(async move { keys.request(&of).await }).await?;
    let key: Option<KeyInfo> = desk.keys.key(&name);
    let key = key.ok_or_else(|| broken("step-failed", format!("key `{name}` is gone again")))?;
    Ok(CaKeyRequested {
        name: name.to_string(),
        pin: Pin::of_spki(key.spki_der()).to_string(),
        request_pem: encode_pem("CERTIFICATE REQUEST", &csr_der),
    })
}

pub async fn prepare(admin: &Admin, request: CaKeyPrepare) -> Result<CaKeyChanged, ApiError> {
    let desk = desk(admin)?;
    let name = named(&request.name)?;
    let given = request.certificate_pem.as_deref().map(certificate).transpose()?;
    let (home, now, actor) = (desk.home.clone(), desk.ca.now(), admin.actor());
    let keys = desk.issuing_keys.clone();
    let certificate_der = match given {
        Some(certificate_der) => certificate_der,
        None => {
            let (requesting, of) = (keys.clone(), name.clone());
            let csr_der = carried_out(async move { requesting.request(&of).await }).await?;
            let certified =
                tokio::task::spawn_blocking(move || issuer::certify_here(&home, &csr_der, now));
            let certified = certified.await.map_err(|error| broken("step-failed", error))?;
            let certified = certified.map_err(|error| broken("root-failed", error))?;
            certified.ok_or_else(|| no_root(&name))?
        }
    };
    let step = async move { keys.prepare(&name, &certificate_der, &actor).await };
    Ok(changed(&desk, carried_out(step).await?))
}

fn no_root(name: &KeyName) -> ApiError {
    ApiError::usage(
        "no-root-here",
        "the root's key is not on this node, so it cannot certify the key",
        format!(
            "`stoqctl ca key request {name} --out FILE`, take the file to the root (`stoqctl root sign-issuing`), and \
             come back with --certificate"
        ),
    )
}

/// The one certificate of a file
fn certificate(text: &str) -> Result<Vec<u8>, ApiError> {
    let bad = |why: String| {
        let remedy = "give the certificate that `stoqctl root sign-issuing` made for this key";
        ApiError::usage("bad-certificate", why, remedy)
    };
    let blocks = decode_pem("CERTIFICATE", text).map_err(|error| bad(error.to_string()))?;
    let count = blocks.len();
    let [certificate_der] = <[Vec<u8>; 1]>::try_from(blocks)
        .map_err(|_| bad(format!("it holds {count} certificates")))?;
    Ok(certificate_der)
}

pub async fn activate(admin: &Admin, request: CaKeyActivate) -> Result<CaKeyChanged, ApiError> {
    let desk = desk(admin)?;
    let name = named(&request.name)?;
    let (keys, actor) = (desk.issuing_keys.clone(), admin.actor());
    let step = async move { keys.activate(&name, request.at_once, &actor).await };
    Ok(changed(&desk, carried_out(step).await?))
}

pub async fn taint(admin: &Admin, request: CaKeyTaint) -> Result<CaKeyChanged, ApiError> {
    let desk = desk(admin)?;
    let name = named(&request.name)?;
    let reason = if request.compromised { TaintReason::Compromised } else { TaintReason::Replaced };
    let (keys, actor) = (desk.issuing_keys.clone(), admin.actor());
    let step = async move { keys.taint(&name, reason, &actor).await };
    Ok(changed(&desk, carried_out(step).await?))
}

pub async fn revoke(admin: &Admin, request: CaKeyRevoke) -> Result<CaKeyRevoked, ApiError> {
    let desk: Arc<Desk> = desk(admin)?;
    let name = named(&request.name)?;
    let cut_off = if request.cut_off { CutOff::Accept } else { CutOff::Refuse };
    let (keys, actor) = (desk.issuing_keys.clone(), admin.actor());
    let step = async move { keys.revoke(&name, cut_off, &actor).await };
    let revoked = carried_out(step).await?;
    let key = shown(revoked.key, desk.ca.authority().key_id());
    Ok(CaKeyRevoked { key, deny_list_epoch: revoked.epoch })
}

/// A refusal as `stoqctl` says it
fn refused(error: &KeyError) -> ApiError {
    let message = error.to_string();
    let conflict = |code, remedy: &str| ApiError::conflict(code, message.clone(), remedy);
    match error {
        KeyError::Unknown(name) => ApiError::not_found("issuing key", name, "stoqctl ca key list"),
        KeyError::Purpose(_) => ApiError::usage("bad-key-name", message, "name it as `issuing-2`"),
        KeyError::NameTaken(_) => conflict("name-taken", "`stoqctl ca key list` shows the names"),
        KeyError::NobodySigns(_) => {
            conflict("nobody-signs", "`stoqctl ca key prepare`, then `ca key activate`")
        }
        KeyError::Step(step) => of_step(step, message),
        KeyError::Guard(_) => conflict("no-such-step", "`stoqctl ca key list` shows the states"),
        KeyError::Issuing(_) | KeyError::Certificate(_) => ApiError::usage(
            "certificate-refused",
            message,
            "have this authority's root sign the request of this key (`stoqctl ca key request`)",
        ),
        KeyError::Signer(SignerError::Busy { .. }) => {
            ApiError::timed_out(message, "try again in a second")
        }
        KeyError::Refused(refusal) => not_done(refusal),
        KeyError::Lists(RevokeError::Busy) => ApiError::timed_out(message, "try again in a second"),
        KeyError::Request(_)
        | KeyError::Signer(_)
        | KeyError::Chain(_)
        | KeyError::Record(_)
        | KeyError::Lists(_)
        | KeyError::Broken(_) => broken("step-failed", message),
    }
}

fn of_step(step: &StateError, message: String) -> ApiError {
    let (code, remedy) = match step {
        StateError::TooFresh { .. } => (
            "too-fresh",
            "wait, so that every node can learn of the key; --at-once does not, for when the key in force is in \
             other hands",
        ),
        StateError::LeavesInForce { .. } => (
            "leaves-in-force",
            "wait until they have ended; --cut-off does not, and has their holders certified again",
        ),
        _ => ("no-such-step", "`stoqctl ca key list` shows the states"),
    };
    ApiError::new(ExitCode::Conflict, code, message, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_certificate() {
        let one = encode_pem("CERTIFICATE", &[1, 2]);
        assert_eq!(certificate(&one).unwrap(), [1, 2]);
        for wrong in [String::new(), format!("{one}{one}"), encode_pem("PRIVATE KEY", &[1])] {
            assert_eq!(certificate(&wrong).unwrap_err().code, "bad-certificate", "{wrong}");
        }
    }

    #[test]
    fn refusals_say_what_helps() {
        let name = KeyName::new("issuing-2").unwrap();
        let unknown = refused(&KeyError::Unknown(name.clone()));
        assert_eq!((&*unknown.code, unknown.exit_code), ("not-found", ExitCode::Failed));
        let alone = refused(&KeyError::NobodySigns(name.clone()));
        assert_eq!((&*alone.code, alone.exit_code), ("nobody-signs", ExitCode::Conflict));
        assert!(no_root(&name).remedy.contains("ca key request issuing-2"));
        assert_eq!(refused(&KeyError::Lists(RevokeError::Busy)).exit_code, ExitCode::TimedOut);
    }
}

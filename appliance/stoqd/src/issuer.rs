//! What the own authority signs with when it starts: its keys, the states the journal has them in, and the certificate
//! of the one that is in force. Steps from state to state are `stoq_trustchain`'s.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stoq_trustchain::authority::RENEW_BELOW;
use stoq_trustchain::ca::replay::Replay;
use stoq_trustchain::ca::{IssuingAuthority, IssuingKey, KeyRegister};
use stoq_trustchain::certificate::read_pem;
use stoq_trustchain::pinning::AuthorityState;
use stoq_trustchain::signer::remote::RemoteSettings;
use stoq_trustchain::signer::{
    KeyName, Pool, PoolSettings, RemoteSigner, Signer, SoftSettings, StateGuard, request_with,
};
use stoq_trustchain::{Authority, Ipv6Subtree, Root, sign_issuing};

use crate::identity::OpenError;

/// The authority's certificate: with it the directory is an authority's
pub const CERTIFICATE_FILE: &str = "issuing.pem";
const ROOT_FILE: &str = "root.pem";
/// Where a root is that was made with the authority
const EMBEDDED_ROOT: &str = "root";
const ROOT_KEY_FILE: &str = "root.key";

/// What signs for the authority
pub struct Signing {
    /// With which certificate
    pub authority: IssuingAuthority,
    /// The door before the keys, which knows their states
    pub guard: Arc<StateGuard>,
    /// The keys
    pub keys: Arc<dyn Signer>,
}

/// Opens the keys of the authority in `directory`. `journal` is what its journal says, where there is one; `socket`
/// that of a process that keeps the keys.
pub fn open(
    directory: &Path,
    journal: Option<&Replay>,
    socket: Option<&Path>,
    now: SystemTime,
) -> Result<Signing, OpenError> {
    let none = KeyRegister::default();
    let known = journal.map_or(&none, |journal| &journal.issuing_keys);
    // The ordinary key has its certificate in a file, where `stoqctl root` installs it; the others have theirs in
    // the journal, and so has a key that has stopped issuing.
    let another = known
        .in_force()
        .filter(|key| key.name != KeyName::issuing() || key.record.state != AuthorityState::Active);
    let keys = open_keys(directory, socket, another.is_none(), now)?;
    let guard = Arc::new(StateGuard::new(Arc::clone(&keys), known.states()));
    let signer: Arc<dyn Signer> = guard.clone();
    let authority = match another {
        None => IssuingAuthority::load(directory, signer, &KeyName::issuing(), now)?,
        Some(key) => of_journal(directory, key, signer, now)?,
    };
    Ok(Signing { authority, guard, keys })
}

/// The keys: in a process of its own where one is named, else in files. Only then is the root kept here too, made
/// with the authority where there is none yet.
fn open_keys(
    directory: &Path,
    socket: Option<&Path>,
    ordinary: bool,
    now: SystemTime,
) -> Result<Arc<dyn Signer>, OpenError> {
    if let Some(socket) = socket {
        let uid = std::os::unix::fs::MetadataExt::uid(
            &std::fs::metadata(socket)
                .map_err(|cause| OpenError::Directory { path: socket.to_owned(), cause })?,
        );
        let settings = RemoteSettings::new(socket.to_owned(), uid);
        return Ok(Arc::new(RemoteSigner::connect(settings)?));
    }
    let mut names = vec![KeyName::log()];
    if ordinary {
        // Makes root and authority, and renews the authority's certificate while the root is at hand.
        drop(Authority::open_or_create(directory, Ipv6Subtree::ALL, now)?);
        names.push(KeyName::issuing());
    }
    let keys = SoftSettings::read_or_create(directory, &names)?;
    Ok(Arc::new(Pool::start(Arc::new(keys), PoolSettings::default())?))
}

/// The authority with a key whose certificate is in the journal. With the root at hand that of a key that issues is
/// renewed here, like the ordinary one's.
fn of_journal(
    directory: &Path,
    key: &IssuingKey,
    signer: Arc<dyn Signer>,
    now: SystemTime,
) -> Result<IssuingAuthority, OpenError> {
    let root_der = read_pem(&directory.join(ROOT_FILE))?;
    let embedded = directory.join(EMBEDDED_ROOT);
    let at_hand = embedded.join(ROOT_KEY_FILE).exists();
    let ends = UNIX_EPOCH + Duration::from_secs(key.record.not_after);
    let renewed =
        if at_hand && key.record.state == AuthorityState::Active && now + RENEW_BELOW > ends {
            let request = request_with(&signer, &key.name)?;
            let root = Root::open(&embedded, now)?;
            Some(sign_issuing(&root, &request, Ipv6Subtree::ALL, now)?)
        } else {
            None
        };
    let certificate_der = renewed.as_ref().unwrap_or(&key.certificate_der);
    let authority = IssuingAuthority::new(certificate_der, &root_der, signer, &key.name, now)?;
    Ok(if at_hand { authority.with_root_at_hand() } else { authority })
}

/// Has the root on this node certify a key; `None` where there is no root's key
pub fn certify_here(
    directory: &Path,
    request_der: &[u8],
    now: SystemTime,
) -> Result<Option<Vec<u8>>, OpenError> {
    let embedded = directory.join(EMBEDDED_ROOT);
    if !embedded.join(ROOT_KEY_FILE).exists() {
        return Ok(None);
    }
    let root = Root::open(&embedded, now)?;
    Ok(Some(sign_issuing(&root, request_der, Ipv6Subtree::ALL, now)?))
}

#[cfg(test)]
mod tests {
    use stoq_trustchain::pinning::{AuthorityKey, Pin};
    use stoq_trustchain::revocation::KeyId;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn the_certificate_of_a_key_from_the_journal_is_renewed_while_the_root_is_at_hand() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path();
        drop(Authority::open_or_create(home, Ipv6Subtree::ALL, now()).unwrap());
        let name = KeyName::new("issuing-2").unwrap();
        let keys = SoftSettings::read_or_create(home, &[KeyName::log(), name.clone()]).unwrap();
        let keys = Pool::start(Arc::new(keys), PoolSettings::default()).unwrap();
        let keys: Arc<dyn Signer> = Arc::new(keys);
        let request = request_with(&keys, &name).unwrap();
        let certificate_der = certify_here(home, &request, now()).unwrap().unwrap();
        let parsed = stoq_trustchain::certificate::parse(&certificate_der).unwrap();
        let (_, ends) = stoq_trustchain::certificate::validity(&parsed).unwrap();
        let point = &parsed.public_key().subject_public_key.data;
        let key_id = KeyId::of_public_point(point).unwrap();
        let mut key = IssuingKey {
            name: name.clone(),
            certificate_der: certificate_der.clone(),
            key_id,
            record: AuthorityKey {
                key: Pin::of_certificate(&certificate_der).unwrap(),
                state: AuthorityState::Active,
                since: 0,
                not_after: ends.duration_since(UNIX_EPOCH).unwrap().as_secs(),
                last_leaf_ends: 0,
                taint: None,
            },
        };
        let open = |key: &IssuingKey, at| {
            let states = [(name.clone(), key.record.state)].into();
            let guard = Arc::new(StateGuard::new(Arc::clone(&keys), states));
            of_journal(home, key, guard, at).map(|authority| authority.not_after())
        };
        assert_eq!(open(&key, ends - RENEW_BELOW).unwrap(), ends);
        let late = ends - RENEW_BELOW + Duration::from_secs(1);
        assert!(open(&key, late).unwrap() > ends + Duration::from_secs(24 * 3_600));
        // What has stopped issuing ends when it ends.
        key.record.state = AuthorityState::Tainted;
        assert_eq!(open(&key, late).unwrap(), ends);
        std::fs::remove_file(home.join(EMBEDDED_ROOT).join(ROOT_KEY_FILE)).unwrap();
        key.record.state = AuthorityState::Active;
        assert_eq!(open(&key, late).unwrap(), ends);
        assert!(certify_here(home, &request, late).unwrap().is_none());
    }
}

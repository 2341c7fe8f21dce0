//! A root whose key lies nowhere: made in memory, shared among holders, and put together for as long as one
//! ceremony takes.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::share::{Sealed, ShareError, ShareHeader, any_twice, seal};
use super::{CERTIFICATE_FILE, Root, RootError, self_signed, shamir};
use crate::certificate::{self, Fingerprint};
use crate::chain;
use crate::files;
use crate::keys::{KeyKind, KeyPair};
use crate::sealing::Passphrase;

/// How many shares a root's key has, and how many are needed
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shares {
    /// All
    pub shares: u8,
    /// Needed
    pub threshold: u8,
}

/// Makes a root in `directory`: `root.pem`, and a file `share-<n>.json` for each holder, encrypted with the
/// passphrase at that place. The key itself is written nowhere and is gone when this returns.
///
/// The files are read back and opened before the certificate is written: its presence says that the shares work.
/// Returns the root's fingerprint and the shares' files.
pub fn init_shared_root(
    directory: &Path,
    Shares { shares, threshold }: Shares,
    passphrases: &[Passphrase],
    now: SystemTime,
) -> Result<(Fingerprint, Vec<PathBuf>), RootError> {
    ShareHeader::check_numbers(shares, threshold)?;
    let (expected, found) = (usize::from(shares), passphrases.len());
    if expected != found {
        return Err(ShareError::Passphrases { expected, found }.into());
    }
    if any_twice(passphrases) {
        return Err(ShareError::SamePassphrase.into());
    }
    let path = directory.to_owned();
    if directory.join(CERTIFICATE_FILE).exists() {
        return Err(RootError::Exists { path });
    }
    files::create_directory(directory).map_err(|source| RootError::Io { path, source })?;
    let key = KeyPair::generate(KeyKind::P384)?;
    let certificate_der = self_signed(&key, now)?;
    let root = Fingerprint::of(&certificate_der);
    let points = shamir::split(&key.scalar()?, shares, threshold).map_err(ShareError::from)?;
    let mut written = Vec::new();
    for (point, passphrase) in points.iter().zip(passphrases) {
        let header = ShareHeader { root, shares, threshold, index: point.index };
        let file = directory.join(format!("share-{}.json", point.index));
        seal(&file, &header, point, passphrase)?;
        written.push(file);
    }
    let holders: Vec<_> = written.iter().cloned().zip(passphrases.iter().cloned()).collect();
    let quorum = usize::from(threshold);
    for first in (0..holders.len()).step_by(quorum) {
        let first = first.min(holders.len() - quorum);
        join(&certificate_der, &holders[first..first + quorum])?;
    }
    certificate::write_pem(&directory.join(CERTIFICATE_FILE), &certificate_der)?;
    Ok((root, written))
}

/// Puts the key of the root in `certificate` (a PEM file) together from its shares
pub fn open_shared_root(
    certificate: &Path,
    shares: &[(PathBuf, Passphrase)],
    now: SystemTime,
) -> Result<Root, RootError> {
    let certificate_der = certificate::read_pem(certificate)?;
    chain::check_root(&certificate_der, now)?;
    let key = join(&certificate_der, shares)?;
    Ok(Root { key, certificate_der })
}

fn join(certificate_der: &[u8], shares: &[(PathBuf, Passphrase)]) -> Result<KeyPair, RootError> {
    let expected = Fingerprint::of(certificate_der);
    let mut sealed: Vec<(Sealed, &Passphrase)> = Vec::new();
    for (path, passphrase) in shares {
        let share = Sealed::read(path)?;
        let found = share.header.root;
        if found != expected {
            let path = share.path().to_owned();
            return Err(ShareError::OtherRoot { path, found, expected }.into());
        }
        // The same share twice is one share.
        if sealed.iter().all(|(other, _)| other.header.index != share.header.index) {
            sealed.push((share, passphrase));
        }
    }
    let threshold = sealed.iter().map(|(share, _)| share.header.threshold).max().unwrap_or(2);
    if sealed.len() < usize::from(threshold) {
        return Err(ShareError::TooFew { given: sealed.len(), threshold }.into());
    }
    let mut points = Vec::new();
    for (share, passphrase) in &sealed {
        points.push(share.open(passphrase)?);
    }
    let scalar = shamir::join(&points).ok_or(ShareError::NotTheKey)?;
    let key = KeyPair::from_scalar(KeyKind::P384, &scalar).map_err(|_| ShareError::NotTheKey)?;
    if certificate::parse(certificate_der)?.public_key().raw != key.spki_der()? {
        return Err(ShareError::NotTheKey.into());
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::authority::{install_issuing, issuing_csr, sign_issuing};
    use crate::profile::Ipv6Subtree;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn phrase(holder: &str) -> Passphrase {
        Passphrase::new(format!("{holder} has a long passphrase")).unwrap()
    }

    #[test]
    fn two_of_three_holders_sign_an_authority_and_one_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("root");
        let holders = ["ann", "bob", "cyd"].map(phrase);
        let (fingerprint, files) =
            init_shared_root(&home, Shares { shares: 3, threshold: 2 }, &holders, now()).unwrap();
        let names: std::collections::BTreeSet<_> =
            std::fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let expected = ["root.pem", "share-1.json", "share-2.json", "share-3.json"];
        assert!(names.iter().eq(expected.iter()), "no key lies there: {names:?}");
        let pem = home.join("root.pem");
        let share = |at: usize, holder: &str| (files[at].clone(), phrase(holder));
        let open = |shares: &[_]| open_shared_root(&pem, shares, now());

        let root = open(&[share(2, "cyd"), share(0, "ann")]).unwrap();
        assert_eq!(root.fingerprint(), fingerprint);
        let state = directory.path().join("state");
        let signed =
            sign_issuing(&root, &issuing_csr(&state).unwrap(), Ipv6Subtree::ALL, now()).unwrap();
        install_issuing(&state, &signed, root.certificate_der(), &fingerprint, now()).unwrap();

        let refused = |shares: &[_]| match open(shares).unwrap_err() {
            RootError::Share(error) => error,
            other => panic!("{other}"),
        };
        assert!(matches!(refused(&[]), ShareError::TooFew { given: 0, .. }));
        let twice = [share(0, "ann"), share(0, "ann")];
        assert!(matches!(refused(&twice), ShareError::TooFew { given: 1, threshold: 2 }));
        let wrong = [share(0, "ann"), share(1, "cyd")];
        assert!(matches!(refused(&wrong), ShareError::Sealed { .. }));

        // A share of another root, and a share that says it is another one.
        let other = directory.path().join("other");
        let (_, others) =
            init_shared_root(&other, Shares { shares: 2, threshold: 2 }, &holders[..2], now())
                .unwrap();
        let foreign = [share(0, "ann"), (others[1].clone(), phrase("bob"))];
        assert!(matches!(refused(&foreign), ShareError::OtherRoot { .. }));
        let text = std::fs::read_to_string(&files[1]).unwrap();
        std::fs::write(&files[1], text.replace("\"index\": 2", "\"index\": 3")).unwrap();
        let renumbered = [share(0, "ann"), share(1, "bob")];
        assert!(matches!(refused(&renumbered), ShareError::Sealed { .. }));
        let again = init_shared_root(&home, Shares { shares: 3, threshold: 2 }, &holders, now());
        assert!(matches!(again, Err(RootError::Exists { .. })));
    }

    #[test]
    fn numbers_and_passphrases_that_protect_nothing_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let holders = ["ann", "bob", "cyd"].map(phrase);
        let init = |shares, threshold, holders: &[Passphrase]| {
            init_shared_root(directory.path(), Shares { shares, threshold }, holders, now())
        };
        for (shares, threshold) in [(1, 1), (3, 1), (3, 4), (17, 2)] {
            let refused = init(shares, threshold, &holders);
            assert!(matches!(refused, Err(RootError::Share(ShareError::Numbers { .. }))));
        }
        let refused = init(2, 2, &holders);
        assert!(matches!(refused, Err(RootError::Share(ShareError::Passphrases { .. }))));
        let refused = init(2, 2, &[phrase("ann"), phrase("ann")]);
        assert!(matches!(refused, Err(RootError::Share(ShareError::SamePassphrase))));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_changed_file_is_a_share() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("share");
        let good = r#"{"schema":"stoq.root-share/1","root":"sha256:ROOT","shares":3,"threshold":2,
            "index":1,"scrypt":{"n":131072,"r":8,"p":1},"salt":"SALT","nonce":"NONCE","ciphertext":"TEXT"}"#
            .replace("ROOT", &"ab".repeat(32))
            .replace("SALT", &"00".repeat(32))
            .replace("NONCE", &"00".repeat(12))
            .replace("TEXT", &"00".repeat(64));
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Sealed::read(&path)
        };
        assert_eq!(read(&good).unwrap().header.threshold, 2);
        let changes = [
            ("share/1", "share/2"),
            ("sha256:", "sha1:"),
            ("\"shares\":3", "\"shares\":1"),
            ("\"threshold\":2", "\"threshold\":9"),
            ("\"index\":1", "\"index\":0"),
            ("\"index\":1", "\"index\":4"),
            ("131072", "131073"),
            ("131072", "1152921504606846976"),
            ("131072", "2"),
            ("\"r\":8", "\"r\":1024"),
            ("\"p\":1", "\"p\":99"),
            ("\"salt\":\"00", "\"salt\":\""),
            ("\"nonce\":\"00", "\"nonce\":\"zz"),
            ("}", ",\"more\":1}"),
        ];
        for (from, to) in changes {
            let changed = good.replacen(from, to, 1);
            assert!(matches!(read(&changed), Err(ShareError::Malformed { .. })), "{from} {to}");
        }
    }
}

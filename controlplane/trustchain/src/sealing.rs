//! What is encrypted with a passphrase: scrypt makes the key, AES-256-GCM seals the content and binds to it whatever
//! else must not change. Shares of a root's key and the keys of a backup are sealed so; files are their owners'.

use boring::error::ErrorStack;
use boring::symm::{Cipher, decrypt_aead, encrypt_aead};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::certificate::{hex, unhex};

/// Characters of the shortest passphrase
const PASSPHRASE_MIN: usize = 12;
/// Octets of the longest passphrase
const PASSPHRASE_LIMIT_BYTES: usize = 1_024;
/// scrypt (RFC 7914): 128 MiB and about half a second for each guess. Unit tests take the least that is read.
pub(crate) const SCRYPT: Scrypt =
    Scrypt { n: if cfg!(test) { 1 << 14 } else { 1 << 17 }, r: 8, p: 1 };
/// The most that a file may make us spend, and the least that is a hindrance
const SCRYPT_N: std::ops::RangeInclusive<u64> = 1 << 14..=1 << 20;
const SALT_BYTES: usize = 32;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// What somebody encrypts with. It is not printed and is erased when dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

/// The passphrase is none
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "a passphrase has at least {PASSPHRASE_MIN} characters and at most {PASSPHRASE_LIMIT_BYTES} octets; \
     six random words are good"
)]
pub struct PassphraseError;

impl Passphrase {
    /// A passphrase of at least 12 characters
    pub fn new(text: String) -> Result<Self, PassphraseError> {
        let text = Zeroizing::new(text);
        match text.chars().count() >= PASSPHRASE_MIN && text.len() <= PASSPHRASE_LIMIT_BYTES {
            true => Ok(Self(text)),
            false => Err(PassphraseError),
        }
    }

    /// The text, for whoever passes it on to where something is encrypted
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Whether two are the same
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(..)")
    }
}

/// Parameters of scrypt
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scrypt {
    pub(crate) n: u64,
    pub(crate) r: u64,
    pub(crate) p: u64,
}

/// Something sealed as it stands in a file: octets in hexadecimal
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SealedText {
    pub(crate) scrypt: Scrypt,
    pub(crate) salt: String,
    pub(crate) nonce: String,
    pub(crate) ciphertext: String,
}

/// Something sealed whose parts have their right lengths
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    scrypt: Scrypt,
    salt: Vec<u8>,
    nonce: Vec<u8>,
    ciphertext: Vec<u8>,
}

/// Why something sealed does not open
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Another passphrase, or changed
    Sealed,
    /// BoringSSL failed
    Boring(ErrorStack),
}

impl From<ErrorStack> for OpenError {
    fn from(error: ErrorStack) -> Self {
        Self::Boring(error)
    }
}

impl Sealed {
    /// Encrypts `content`; it opens only together with `bound`
    pub(crate) fn seal(
        content: &[u8],
        bound: &[u8],
        passphrase: &Passphrase,
    ) -> Result<Self, ErrorStack> {
        let (mut salt, mut nonce) = (vec![0; SALT_BYTES], vec![0; NONCE_BYTES]);
        boring::rand::rand_bytes(&mut salt)?;
        boring::rand::rand_bytes(&mut nonce)?;
        let key = derive(passphrase, &salt, SCRYPT)?;
        let mut tag = [0; TAG_BYTES];
        let cipher = Cipher::aes_256_gcm();
        let mut ciphertext =
            encrypt_aead(cipher, &key[..], Some(&nonce), bound, content, &mut tag)?;
        ciphertext.extend(tag);
        Ok(Self { scrypt: SCRYPT, salt, nonce, ciphertext })
    }

    /// Decrypts it
    pub(crate) fn open(
        &self,
        bound: &[u8],
        passphrase: &Passphrase,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let key = derive(passphrase, &self.salt, self.scrypt)?;
        let (octets, tag) = self.ciphertext.split_at(self.ciphertext.len() - TAG_BYTES);
        let cipher = Cipher::aes_256_gcm();
        let opened = decrypt_aead(cipher, &key[..], Some(&self.nonce), bound, octets, tag);
        opened.map(Zeroizing::new).map_err(|_| {
            // A wrong passphrase is an answer, not a failure of BoringSSL.
            let _answered: ErrorStack = ErrorStack::get();
            OpenError::Sealed
        })
    }

    /// As it is written
    pub(crate) fn to_text(&self) -> SealedText {
        SealedText {
            scrypt: self.scrypt,
            salt: hex(&self.salt),
            nonce: hex(&self.nonce),
            ciphertext: hex(&self.ciphertext),
        }
    }

    /// As it was read. The error is what is wrong with it.
    pub(crate) fn from_text(text: &SealedText) -> Result<Self, &'static str> {
        let Scrypt { n, r, p } = text.scrypt;
        if !(n.is_power_of_two() && SCRYPT_N.contains(&n) && r == 8 && (1..=4).contains(&p)) {
            return Err("its scrypt parameters are out of range");
        }
        let octets = |text: &str| unhex(text).ok_or("it has a wrong digit");
        let (salt, nonce) = (octets(&text.salt)?, octets(&text.nonce)?);
        let ciphertext = octets(&text.ciphertext)?;
        if salt.len() != SALT_BYTES || nonce.len() != NONCE_BYTES || ciphertext.len() <= TAG_BYTES {
            return Err("a part of it has a wrong length");
        }
        Ok(Self { scrypt: text.scrypt, salt, nonce, ciphertext })
    }
}

fn derive(
    passphrase: &Passphrase,
    salt: &[u8],
    scrypt: Scrypt,
) -> Result<Zeroizing<[u8; 32]>, ErrorStack> {
    let mut key = Zeroizing::new([0; 32]);
    let Scrypt { n, r, p } = scrypt;
    // 128 * n * r octets, and a little for the rest.
    let memory = usize::try_from(n * r * 160 + (1 << 20)).unwrap_or(usize::MAX);
    boring::pkcs5::scrypt(passphrase.0.as_bytes(), salt, n, r, p, memory, &mut key[..])?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_with_its_passphrase_and_with_what_is_bound_to_it_and_not_otherwise() {
        let phrase = |text: &str| Passphrase::new(text.to_owned()).unwrap();
        let (ours, theirs) = (phrase("correct horse battery"), phrase("incorrect horse"));
        let sealed = Sealed::seal(b"secret", b"alpha", &ours).unwrap();
        let read = Sealed::from_text(&sealed.to_text()).unwrap();
        assert_eq!(&read.open(b"alpha", &ours).unwrap()[..], b"secret");
        assert!(matches!(read.open(b"alpha", &theirs), Err(OpenError::Sealed)));
        assert!(matches!(read.open(b"beta", &ours), Err(OpenError::Sealed)));
        let mut changed = sealed.to_text();
        changed
            .ciphertext
            .replace_range(0..1, if changed.ciphertext.starts_with('0') { "1" } else { "0" });
        let changed = Sealed::from_text(&changed).unwrap();
        assert!(matches!(changed.open(b"alpha", &ours), Err(OpenError::Sealed)));
        // Two of the same are not alike.
        assert_ne!(Sealed::seal(b"secret", b"alpha", &ours).unwrap().to_text(), sealed.to_text());
        assert_eq!(Passphrase::new("too short".into()).unwrap_err(), PassphraseError);
        assert_eq!(Passphrase::new("x".repeat(2_000)).unwrap_err(), PassphraseError);
    }
}

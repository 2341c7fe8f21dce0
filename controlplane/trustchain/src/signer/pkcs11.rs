//! Keys in a PKCS #11 token, through the vendor's module. A key never leaves the token: digests go in,
//! signatures come out. Which slot has the token, sessions and logins are `token`'s.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use boring::bn::BigNum;
use boring::ecdsa::EcdsaSig;
use boring::error::ErrorStack;
use boring::sha::sha256;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState};
use zeroize::Zeroizing;

use super::backend::{Backend, BackendError, OpenBackend};
use super::{KeyInfo, KeyName};

mod token;

use token::{Token, failure};

/// OBJECT IDENTIFIER of P-256 (RFC 5480 section 2.1.1.1), in DER
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// OCTET STRING of 65 octets, around the point in CKA_EC_POINT
const POINT_HEADER: [u8; 2] = [0x04, 0x41];
/// Octets of r and of s in a raw P-256 signature
const SCALAR_BYTES: usize = 32;
/// Octets of the longest PIN
const PIN_LIMIT_BYTES: u64 = 255;

/// A user PIN. It is not printed and is erased when dropped.
#[derive(Clone)]
pub struct TokenPin(Zeroizing<String>);

impl TokenPin {
    /// A PIN
    pub fn new(pin: String) -> Self {
        Self(Zeroizing::new(pin))
    }

    /// The PIN in a file that only its owner may read, without the line break at its end
    pub fn read(path: &Path) -> Result<Self, BackendError> {
        use std::os::unix::fs::MetadataExt as _;
        let refused = |reason: String| {
            BackendError::Refused(format!("the PIN in {}: {reason}", path.display()))
        };
        let file = std::fs::File::open(path).map_err(|error| refused(error.to_string()))?;
        let mode = file.metadata().map_err(|error| refused(error.to_string()))?.mode();
        if mode & 0o077 != 0 {
            return Err(refused("others may read it; `chmod 600` it and change the PIN".into()));
        }
        let octets = crate::files::read_open_file(file, PIN_LIMIT_BYTES)
            .map_err(|error| refused(error.to_string()))?;
        let octets = Zeroizing::new(octets);
        let text = std::str::from_utf8(&octets).map_err(|_| refused("it is not UTF-8".into()))?;
        Ok(Self::new(text.trim_end_matches(['\n', '\r']).to_owned()))
    }
}

impl fmt::Debug for TokenPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenPin(..)")
    }
}

/// Which token, and what is demanded of its keys
#[derive(Clone, Debug)]
pub struct Pkcs11Settings {
    /// The vendor's module, a shared library
    pub module: PathBuf,
    /// Label of the token
    pub token: String,
    /// PIN of its user
    pub pin: TokenPin,
    /// Refuses keys that could have been outside the token: extractable, not sensitive, or imported
    pub production: bool,
}

impl Pkcs11Settings {
    /// Loads the module and logs in. The module is initialised once for each process and stays so.
    pub fn open(self) -> Result<impl OpenBackend, BackendError> {
        Ok(Slots(Arc::new(Token::open(self)?)))
    }
}

struct Slots(Arc<Token>);

impl OpenBackend for Slots {
    fn label(&self) -> &'static str {
        "pkcs11"
    }

    fn open(&self) -> Result<Box<dyn Backend>, BackendError> {
        let token = Arc::clone(&self.0);
        let session = Some(token.session()?);
        Ok(Box::new(Pkcs11 { token, session, handles: BTreeMap::new() }))
    }
}

/// One session
struct Pkcs11 {
    token: Arc<Token>,
    session: Option<Session>,
    handles: BTreeMap<KeyName, ObjectHandle>,
}

impl Pkcs11 {
    fn session(&self) -> Result<&Session, BackendError> {
        self.session.as_ref().ok_or_else(|| BackendError::Lost("the session is closed".into()))
    }

    fn handle(&mut self, name: &KeyName) -> Result<ObjectHandle, BackendError> {
        if let Some(handle) = self.handles.get(name) {
            return Ok(*handle);
        }
        let session = self.session()?;
        let found = only(session, ObjectClass::PRIVATE_KEY, name)?;
        let handle = found.ok_or_else(|| {
            // Without a login a token shows no private key, which does not mean that there is none.
            let state = session.get_session_info().map(|info| info.session_state());
            match state.ok() {
                Some(SessionState::RoUser | SessionState::RwUser) => {
                    BackendError::UnknownKey(name.to_string())
                }
                _ => BackendError::Lost("the login was lost".into()),
            }
        })?;
        self.handles.insert(name.clone(), handle);
        Ok(handle)
    }
}

impl Backend for Pkcs11 {
    fn keys(&mut self) -> Result<Vec<KeyInfo>, BackendError> {
        let session = self.session()?;
        let template =
            [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::EC)];
        let mut names = Vec::new();
        for handle in session.find_objects(&template).map_err(failure)? {
            let found = session.get_attributes(handle, &[AttributeType::Label]).map_err(failure)?;
            let label = found.iter().find_map(|attribute| match attribute {
                Attribute::Label(label) => std::str::from_utf8(label).ok(),
                _ => None,
            });
            // Keys of other programs in the same token are none of this one's business.
            let Some(name) = label.and_then(|label| KeyName::new(label).ok()) else { continue };
            self.token.judge(session, handle, &name)?;
            names.push(name);
        }
        names.sort();
        if let Some(two) = names.windows(2).find(|two| two[0] == two[1]) {
            return Err(ambiguous(&two[0]));
        }
        names.into_iter().map(|name| public_key(session, name)).collect()
    }

    fn sign(&mut self, key: &KeyInfo, message: &[u8]) -> Result<Vec<u8>, BackendError> {
        let handle = self.handle(key.name())?;
        let raw = self.session()?.sign(&Mechanism::Ecdsa, handle, &sha256(message));
        let raw = raw.map_err(failure)?;
        der_of(&raw).map_err(BackendError::Refused)
    }

    fn create(&mut self, name: &KeyName) -> Result<KeyInfo, BackendError> {
        let _one_at_a_time = self.token.creating();
        let session = self.token.read_write_session()?;
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            if only(&session, class, name)?.is_some() {
                return Err(BackendError::Exists(name.to_string()));
            }
        }
        let (label, id) = (name.as_str().as_bytes().to_vec(), name.as_str().as_bytes().to_vec());
        let public = [
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::KeyType(KeyType::EC),
            Attribute::EcParams(P256.to_vec()),
            Attribute::Label(label.clone()),
            Attribute::Id(id.clone()),
        ];
        let private = [
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
            Attribute::Derive(false),
            Attribute::Decrypt(false),
            Attribute::KeyType(KeyType::EC),
            Attribute::Label(label),
            Attribute::Id(id),
        ];
        let made = session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private);
        let (_public, private) = made.map_err(failure)?;
        self.token.judge(&session, private, name)?;
        public_key(&session, name.clone())
    }

    fn reopen(&mut self) -> Result<(), BackendError> {
        // Closed first: a token that counts its handles anew might give the old number to the new session.
        self.session = None;
        self.handles.clear();
        self.session = Some(self.token.session()?);
        Ok(())
    }
}

/// The one object of that class and name
fn only(
    session: &Session,
    class: ObjectClass,
    name: &KeyName,
) -> Result<Option<ObjectHandle>, BackendError> {
    let label = Attribute::Label(name.as_str().as_bytes().to_vec());
    let found = session.find_objects(&[Attribute::Class(class), label]).map_err(failure)?;
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        _ => Err(ambiguous(name)),
    }
}

fn ambiguous(name: &KeyName) -> BackendError {
    BackendError::Refused(format!(
        "the token has more than one key `{name}`; remove or rename all but one"
    ))
}

fn public_key(session: &Session, name: KeyName) -> Result<KeyInfo, BackendError> {
    let missing = || {
        BackendError::Refused(format!(
            "the token has the private key `{name}` without its public key; import it with the same label"
        ))
    };
    let handle = only(session, ObjectClass::PUBLIC_KEY, &name)?.ok_or_else(missing)?;
    let found = session.get_attributes(handle, &[AttributeType::EcPoint]).map_err(failure)?;
    let octets = found.into_iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(octets) => Some(octets),
        _ => None,
    });
    let octets = octets.ok_or_else(missing)?;
    // Some tokens leave the OCTET STRING around the point out.
    let point = octets.strip_prefix(&POINT_HEADER).unwrap_or(&octets);
    Ok(KeyInfo::from_point(name, point)?)
}

/// The DER of a raw signature r || s (PKCS #11 section 6.3.12)
fn der_of(raw: &[u8]) -> Result<Vec<u8>, String> {
    if raw.len() != 2 * SCALAR_BYTES {
        return Err(format!("the token returned a signature of {} octets", raw.len()));
    }
    let (r, s) = raw.split_at(SCALAR_BYTES);
    let encoded = || -> Result<Vec<u8>, ErrorStack> {
        let (r, s) = (BigNum::from_slice(r)?, BigNum::from_slice(s)?);
        EcdsaSig::from_private_components(r, s)?.to_der()
    };
    encoded().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_raw_signature_becomes_minimal_der() {
        let mut raw = [0; 64];
        raw[31] = 0x7f;
        raw[63] = 0x80;
        assert_eq!(der_of(&raw).unwrap(), [0x30, 7, 2, 1, 0x7f, 2, 2, 0, 0x80]);
        raw[0] = 0x80;
        let der = der_of(&raw).unwrap();
        assert_eq!(der[..6], [0x30, 39, 2, 33, 0, 0x80]);
        for length in [0, 63, 65, 96] {
            assert!(der_of(&vec![1; length]).is_err());
        }
    }

    #[test]
    fn a_pin_is_read_from_a_private_file_and_never_printed() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        crate::files::create_new(&path, 0o600, b"12345678\n").unwrap();
        let pin = TokenPin::read(&path).unwrap();
        assert_eq!(pin.0.as_str(), "12345678");
        assert!(!format!("{pin:?}").contains("1234"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(TokenPin::read(&path).unwrap_err().to_string().contains("chmod 600"));
    }
}

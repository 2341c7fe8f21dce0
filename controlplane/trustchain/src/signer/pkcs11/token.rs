//! A token: its module, its slot, its login and the session that stays open. What its keys sign is above.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::Pkcs11Settings;
use crate::signer::KeyName;
use crate::signer::backend::BackendError;

/// Modules of this process. C_Initialize is called once for each and C_Finalize never: calling either again
/// while sessions exist is undefined in more than one vendor's module.
static MODULES: Mutex<Vec<(PathBuf, Pkcs11)>> = Mutex::new(Vec::new());

pub(super) struct Token {
    settings: Pkcs11Settings,
    module: Pkcs11,
    /// Holds the login: with the last session of a token goes the login of all, and closing the last while
    /// another is opened is a race in SoftHSM. So one is never closed.
    keep: Mutex<Option<Session>>,
    creating: Mutex<()>,
    /// The token said that the PIN is wrong. Asking again would lock it.
    pin_refused: AtomicBool,
}

impl Token {
    pub(super) fn open(settings: Pkcs11Settings) -> Result<Self, BackendError> {
        let module = module_at(&settings.module)?;
        let token = Self {
            settings,
            module,
            keep: Mutex::new(None),
            creating: Mutex::new(()),
            pin_refused: AtomicBool::new(false),
        };
        token.log_in()?;
        Ok(token)
    }

    /// A session to sign with
    pub(super) fn session(&self) -> Result<Session, BackendError> {
        let slot = self.log_in()?;
        self.module.open_ro_session(slot).map_err(failure)
    }

    /// A session to make keys with
    pub(super) fn read_write_session(&self) -> Result<Session, BackendError> {
        let slot = self.log_in()?;
        self.module.open_rw_session(slot).map_err(failure)
    }

    /// Held while a key is made: looking for the name and taking it are two calls
    pub(super) fn creating(&self) -> MutexGuard<'_, ()> {
        self.creating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the session that stays open is, and that it is logged in
    fn log_in(&self) -> Result<Slot, BackendError> {
        let mut keep = self.keep.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = self.slot()?;
        if keep.as_ref().is_some_and(|session| session.get_session_info().is_err()) {
            *keep = None;
        }
        let session = match keep.take() {
            Some(session) => session,
            None => self.module.open_ro_session(slot).map_err(failure)?,
        };
        if self.pin_refused.load(Ordering::Relaxed) {
            return Err(BackendError::Refused(
                "the token refused the PIN before and is not asked again, which would lock it; correct the \
                 PIN and restart the signer"
                    .into(),
            ));
        }
        let pin = AuthPin::from(self.settings.pin.0.as_str().to_owned());
        match session.login(UserType::User, Some(&pin)) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => {
                if let Error::Pkcs11(
                    RvError::PinIncorrect
                    | RvError::PinLocked
                    | RvError::PinExpired
                    | RvError::PinInvalid
                    | RvError::PinLenRange,
                    _,
                ) = &error
                {
                    self.pin_refused.store(true, Ordering::Relaxed);
                }
                return Err(failure(error));
            }
        }
        *keep = Some(session);
        Ok(slot)
    }

    /// The slot with the token. Looked for each time: a token that went away may come back in another.
    fn slot(&self) -> Result<Slot, BackendError> {
        let label = &self.settings.token;
        let mut found = Vec::new();
        for slot in self.module.get_slots_with_token().map_err(failure)? {
            // A slot whose token is being taken out answers with an error; it is not the one.
            if self.module.get_token_info(slot).is_ok_and(|info| info.label() == label) {
                found.push(slot);
            }
        }
        match found[..] {
            [one] => Ok(one),
            [] => Err(BackendError::Lost(format!("there is no token `{label}` in any slot"))),
            _ => Err(BackendError::Refused(format!("more than one token is labelled `{label}`"))),
        }
    }

    /// Whether a private key may be used: in production, only one that never was outside its token
    pub(super) fn judge(
        &self,
        session: &Session,
        key: ObjectHandle,
        name: &KeyName,
    ) -> Result<(), BackendError> {
        let wanted = [
            AttributeType::Sensitive,
            AttributeType::AlwaysSensitive,
            AttributeType::Extractable,
            AttributeType::NeverExtractable,
            AttributeType::Local,
        ];
        let found = session.get_attributes(key, &wanted).map_err(failure)?;
        let mut secure = 0;
        for attribute in &found {
            secure += usize::from(matches!(
                attribute,
                Attribute::Sensitive(true)
                    | Attribute::AlwaysSensitive(true)
                    | Attribute::Extractable(false)
                    | Attribute::NeverExtractable(true)
                    | Attribute::Local(true)
            ));
        }
        if secure == wanted.len() {
            return Ok(());
        }
        if self.settings.production {
            return Err(BackendError::Refused(format!(
                "key `{name}` could have been outside its token (it is extractable, not sensitive, or was \
                 imported); in production, make one in the token: `stoqd signer` does it with --create"
            )));
        }
        tracing::warn!(key = %name, "this key could have been outside its token; production refuses it");
        Ok(())
    }
}

fn module_at(path: &Path) -> Result<Pkcs11, BackendError> {
    let refused = |reason: String| {
        let message = format!("the PKCS #11 module {}: {reason}", path.display());
        BackendError::Refused(message)
    };
    let path = path.canonicalize().map_err(|error| refused(error.to_string()))?;
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, module)) = modules.iter().find(|(known, _)| *known == path) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(&path).map_err(|error| refused(error.to_string()))?;
    module
        .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
        .map_err(|error| refused(error.to_string()))?;
    modules.push((path, module.clone()));
    Ok(module)
}

/// Whether it helps to open the session again
pub(super) fn failure(error: Error) -> BackendError {
    use RvError as R;
    let text = error.to_string();
    match error {
        // Another part of the process, or a token that lost its power, ended what was open.
        Error::Pkcs11(
            R::SessionHandleInvalid
            | R::SessionClosed
            | R::SessionCount
            | R::DeviceError
            | R::DeviceRemoved
            | R::DeviceMemory
            | R::TokenNotPresent
            | R::TokenNotRecognized
            | R::SlotIdInvalid
            | R::UserNotLoggedIn
            | R::KeyHandleInvalid
            | R::ObjectHandleInvalid
            | R::GeneralError
            | R::FunctionFailed
            | R::HostMemory
            | R::CryptokiNotInitialized
            | R::OperationActive,
            _,
        ) => BackendError::Lost(text),
        _ => BackendError::Refused(text),
    }
}

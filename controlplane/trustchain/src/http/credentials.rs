//! HTTP Basic credentials (RFC 7617) as EST clients send them: a join token as user and password. Read
//! strictly and bounded; whether the token is good is the token store's to say.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::certificate::unhex;
use crate::token::JoinToken;

/// Length of the longest value of the field Authorization that is read: a whole join token, twice encoded
pub const CREDENTIALS_LIMIT_BYTES: usize = 6 << 10;

/// A join token's name and secret
#[derive(Clone)]
pub struct Credentials {
    /// The token's public name
    pub token_id: String,
    /// What proves the permission
    pub secret: Zeroizing<[u8; 32]>,
}

/// Why the field Authorization is of no use
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CredentialsError {
    /// Not Basic
    #[error("only the scheme Basic is understood")]
    Scheme,
    /// Longer than is read
    #[error("more than {CREDENTIALS_LIMIT_BYTES} octets of credentials")]
    TooLong,
    /// Neither of the two forms
    #[error(
        "the credentials are no join token: give the whole token as the password, or its id as the user and its \
         64 digits as the password"
    )]
    Malformed,
}

impl Credentials {
    /// Reads the value of the field Authorization. The password is the whole text of a join token (the user is
    /// then not looked at), or the 64 hexadecimal digits of its secret with its id as the user.
    pub fn parse(field: &str) -> Result<Self, CredentialsError> {
        if field.len() > CREDENTIALS_LIMIT_BYTES {
            return Err(CredentialsError::TooLong);
        }
        let (scheme, encoded) = field.split_once(' ').ok_or(CredentialsError::Scheme)?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(CredentialsError::Scheme);
        }
        let decoded = STANDARD.decode(encoded.trim()).map_err(|_| CredentialsError::Malformed)?;
        let decoded = Zeroizing::new(decoded);
        let text = std::str::from_utf8(&decoded).map_err(|_| CredentialsError::Malformed)?;
        let (user, password) = text.split_once(':').ok_or(CredentialsError::Malformed)?;
        if let Ok(token) = password.parse::<JoinToken>() {
            return Ok(Self { token_id: token.id(), secret: token.secret });
        }
        let secret = unhex(password).map(Zeroizing::new).ok_or(CredentialsError::Malformed)?;
        let secret = <[u8; 32]>::try_from(secret.as_slice());
        let secret = Zeroizing::new(secret.map_err(|_| CredentialsError::Malformed)?);
        if user.len() != 32 || !user.bytes().all(|octet| octet.is_ascii_hexdigit()) {
            return Err(CredentialsError::Malformed);
        }
        Ok(Self { token_id: user.to_owned(), secret })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, ..)", self.token_id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use stoq_interface::NodeId;

    use super::*;
    use crate::certificate::{Fingerprint, hex};

    fn field(text: &str) -> String {
        format!("Basic {}", STANDARD.encode(text))
    }

    #[test]
    fn both_forms_name_the_same_token() {
        let token = JoinToken {
            node: NodeId::new("beta").unwrap(),
            ca_address: "[::1]:8443".parse().unwrap(),
            ca_node: NodeId::new("alpha").unwrap(),
            ca_stoq_address: "[::1]:8444".parse().unwrap(),
            root_fingerprint: Fingerprint::of(b"root"),
            secret: Zeroizing::new([7; 32]),
            expires: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        let whole = Credentials::parse(&field(&format!("anybody:{token}"))).unwrap();
        let parts = field(&format!("{}:{}", token.id(), hex(&token.secret[..])));
        let parts = Credentials::parse(&parts.replace("Basic", "bAsIc")).unwrap();
        for read in [whole, parts] {
            assert_eq!(read.token_id, token.id());
            assert_eq!(read.secret, token.secret);
            assert!(!format!("{read:?}").contains("0707"));
        }
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        let id = "ab".repeat(16);
        let digits = "cd".repeat(32);
        for (text, why) in [
            ("Bearer abc", CredentialsError::Scheme),
            ("", CredentialsError::Scheme),
            ("Basic !", CredentialsError::Malformed),
            (&field("no colon"), CredentialsError::Malformed),
            (&field(&format!("{id}:{digits}00")), CredentialsError::Malformed),
            (&field(&format!("../{id}:{digits}")), CredentialsError::Malformed),
            (&field(&format!("{id}:")), CredentialsError::Malformed),
            (&"x".repeat(CREDENTIALS_LIMIT_BYTES + 1), CredentialsError::TooLong),
        ] {
            assert_eq!(Credentials::parse(text).unwrap_err(), why, "{text}");
        }
    }
}

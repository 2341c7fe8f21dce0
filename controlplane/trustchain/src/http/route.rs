//! What the paths of the HTTPS interface name. A function from text to a route; the octets behind a route and
//! who may have them are the server's business.

use std::str::FromStr;

use hyper::Method;

use crate::enrollment::protocol::{
    DENY_LIST_PATH, ENROLL_PATH, ISSUING_KEYS_PATH, RENEW_PATH, ROOT_PATH,
};
use crate::log::LOG_LIMIT_ENTRIES;

/// Length of the longest path that is looked at
pub const PATH_LIMIT_BYTES: usize = 256;
/// Where CRLs are: `<key identifier>-<shard>.crl` below it
pub const CRL_PREFIX: &str = "/crl/";
/// Where certificates of authorities are: `<key identifier>.crt` below it, and `root.crt`
pub const AUTHORITY_PREFIX: &str = "/ca/";
/// Where the transparency log is (the "monitoring prefix" of static-ct-api)
pub const LOG_PREFIX: &str = "/log/";
/// The log's public key, which is no part of static-ct-api: DER, to compare with what was pinned
pub const LOG_KEY_PATH: &str = "/v1/log-key";
/// Where inclusion proofs are, by the entry's index, which the certificate's SCT names
pub const PROOF_PREFIX: &str = "/v1/proof/";
/// Where renewal windows are, by the certificate's serial number
pub const RENEWAL_INFORMATION_PREFIX: &str = "/v1/renewal-information/";
/// Where EST is (RFC 7030 section 3.2.2)
pub const EST_PREFIX: &str = "/.well-known/est/";
/// Octets of the longest serial number in hexadecimal digits
const SERIAL_LIMIT_DIGITS: usize = 40;

/// What a path names
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Route {
    /// Enrolment of a STOQ node by a join token
    Enroll,
    /// A node's next certificate, by its certificate or by the key it enrolled with
    Renew,
    /// The root with its fingerprint, as JSON
    Root,
    /// The root's certificate
    RootCertificate,
    /// The certificate of an issuing authority, by its key identifier in lower-case hexadecimal
    Authority(String),
    /// A CRL: key identifier of the issuer in lower-case hexadecimal, shard
    Crl(String, u8),
    /// A path below the log's prefix
    Log(String),
    /// The log's public key
    LogKey,
    /// The certificates of the issuing keys whose leaves are good, as JSON
    IssuingKeys,
    /// The inclusion proof of the entry with this index
    Proof(u64),
    /// When to renew the certificate with this serial number, lower-case hexadecimal
    RenewalInformation(String),
    /// The deny-list
    DenyList,
    /// EST: the certificates of authority
    EstCertificates,
    /// EST: what a request should have
    EstAttributes,
    /// EST: a first certificate
    EstEnroll,
    /// EST: a further certificate
    EstReenroll,
}

impl Route {
    /// What a path names; `None` for anything else
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > PATH_LIMIT_BYTES {
            return None;
        }
        match path {
            ENROLL_PATH => return Some(Self::Enroll),
            RENEW_PATH => return Some(Self::Renew),
            LOG_KEY_PATH => return Some(Self::LogKey),
            ISSUING_KEYS_PATH => return Some(Self::IssuingKeys),
            ROOT_PATH => return Some(Self::Root),
            DENY_LIST_PATH => return Some(Self::DenyList),
            _ => {}
        }
        if let Some(operation) = path.strip_prefix(EST_PREFIX) {
            return Some(match operation {
                "cacerts" => Self::EstCertificates,
                "csrattrs" => Self::EstAttributes,
                "simpleenroll" => Self::EstEnroll,
                "simplereenroll" => Self::EstReenroll,
                _ => return None,
            });
        }
        if let Some(file) = path.strip_prefix(AUTHORITY_PREFIX) {
            return match file.strip_suffix(".crt")? {
                "root" => Some(Self::RootCertificate),
                key => key_identifier(key).map(Self::Authority),
            };
        }
        if let Some(file) = path.strip_prefix(CRL_PREFIX) {
            let (key, shard) = file.strip_suffix(".crl")?.split_once('-')?;
            return Some(Self::Crl(key_identifier(key)?, canonical(shard)?));
        }
        if let Some(rest) = path.strip_prefix(LOG_PREFIX) {
            return (!rest.is_empty()).then(|| Self::Log(rest.to_owned()));
        }
        if let Some(index) = path.strip_prefix(PROOF_PREFIX) {
            return canonical(index).filter(|index| *index < LOG_LIMIT_ENTRIES).map(Self::Proof);
        }
        let serial = path.strip_prefix(RENEWAL_INFORMATION_PREFIX)?;
        let fits = (2..=SERIAL_LIMIT_DIGITS).contains(&serial.len());
        (fits && is_hex(serial)).then(|| Self::RenewalInformation(serial.to_owned()))
    }

    /// Whether it is one of EST's
    pub fn is_est(&self) -> bool {
        matches!(
            self,
            Self::EstCertificates | Self::EstAttributes | Self::EstEnroll | Self::EstReenroll
        )
    }

    /// The method it is asked with
    pub fn method(&self) -> Method {
        match self {
            Self::Enroll | Self::Renew | Self::EstEnroll | Self::EstReenroll => Method::POST,
            _ => Method::GET,
        }
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|octet| octet.is_ascii_digit() || (b'a'..=b'f').contains(&octet))
}

fn key_identifier(text: &str) -> Option<String> {
    (text.len() == 40 && is_hex(text)).then(|| text.to_owned())
}

/// A number in its one spelling
fn canonical<T: FromStr + ToString>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_its_path_and_method() {
        let key = "0123456789abcdef0123456789abcdef01234567";
        for (path, route, method) in [
            ("/v1/enroll".to_owned(), Route::Enroll, Method::POST),
            ("/v1/root".into(), Route::Root, Method::GET),
            ("/v1/deny-list".into(), Route::DenyList, Method::GET),
            ("/v1/renew".into(), Route::Renew, Method::POST),
            ("/v1/log-key".into(), Route::LogKey, Method::GET),
            ("/v1/issuing-keys".into(), Route::IssuingKeys, Method::GET),
            ("/v1/proof/70000".into(), Route::Proof(70_000), Method::GET),
            (
                "/v1/renewal-information/00ff".into(),
                Route::RenewalInformation("00ff".into()),
                Method::GET,
            ),
            ("/ca/root.crt".into(), Route::RootCertificate, Method::GET),
            (format!("/ca/{key}.crt"), Route::Authority(key.into()), Method::GET),
            (format!("/crl/{key}-7.crl"), Route::Crl(key.into(), 7), Method::GET),
            ("/log/checkpoint".into(), Route::Log("checkpoint".into()), Method::GET),
            (
                "/log/tile/0/x001/000.p/3".into(),
                Route::Log("tile/0/x001/000.p/3".into()),
                Method::GET,
            ),
            ("/.well-known/est/cacerts".into(), Route::EstCertificates, Method::GET),
            ("/.well-known/est/csrattrs".into(), Route::EstAttributes, Method::GET),
            ("/.well-known/est/simpleenroll".into(), Route::EstEnroll, Method::POST),
            ("/.well-known/est/simplereenroll".into(), Route::EstReenroll, Method::POST),
        ] {
            let parsed = Route::parse(&path).unwrap();
            assert_eq!((&parsed, parsed.method()), (&route, method), "{path}");
        }
    }

    #[test]
    fn nothing_else_is_a_route() {
        let key = "0123456789abcdef0123456789abcdef01234567";
        for path in [
            "".to_owned(),
            "/".into(),
            "/v1/enroll/".into(),
            "//v1/enroll".into(),
            "/ca/../root.crt".into(),
            format!("/ca/{}.crt", key.to_uppercase()),
            format!("/crl/{key}-07.crl"),
            format!("/crl/{key}-256.crl"),
            format!("/crl/{key}.crl"),
            format!("/crl/{key}-1"),
            "/log/".into(),
            "/v1/proof/".into(),
            "/v1/proof/01".into(),
            "/v1/proof/-1".into(),
            format!("/v1/proof/{}", LOG_LIMIT_ENTRIES),
            "/v1/renewal-information/".into(),
            "/v1/renewal-information/..".into(),
            "/v1/renewal-information/0".into(),
            format!("/v1/renewal-information/{}", "a".repeat(41)),
            "/.well-known/est/".into(),
            "/.well-known/est/node/simpleenroll".into(),
            format!("/log/{}", "a".repeat(PATH_LIMIT_BYTES)),
        ] {
            assert_eq!(Route::parse(&path), None, "{path}");
        }
    }
}

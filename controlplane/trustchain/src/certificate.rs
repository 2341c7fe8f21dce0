//! Reading certificates this crate made or was given: fingerprint, serial, dates, PEM files. What a
//! certificate may be used for is decided in `chain` and `lint`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boring::error::ErrorStack;
use boring::sha::sha256;
use boring::x509::X509;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::files;

/// Size of the largest certificate file that is read
const CERTIFICATE_FILE_LIMIT_BYTES: u64 = 64 << 10;

/// id-ad-caIssuers
const CA_ISSUERS: &str = "1.3.6.1.5.5.7.48.2";

/// Why a certificate could not be read or written
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The bytes are no X.509 certificate
    #[error("not an X.509 certificate: {0}")]
    Malformed(String),
    /// The file system refused
    #[error("{path}: {source}")]
    Io {
        /// The file
        path: PathBuf,
        /// What it said
        source: io::Error,
    },
    /// The file holds another number of PEM certificates
    #[error("{path} must hold {expected} PEM certificates and holds {found}")]
    Count {
        /// The file
        path: PathBuf,
        /// How many it should hold
        expected: usize,
        /// How many it holds
        found: usize,
    },
    /// BoringSSL failed
    #[error("BoringSSL failed: {0}")]
    Boring(#[from] ErrorStack),
}

/// SHA-256 of a certificate's DER, written `sha256:` and 64 hexadecimal digits
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate
    pub fn of(certificate_der: &[u8]) -> Self {
        Self(sha256(certificate_der))
    }

    /// The 32 octets
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no `sha256:` fingerprint
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "a fingerprint is `sha256:` and 64 hexadecimal digits, as `stoqctl root fingerprint` prints it"
)]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, FingerprintError> {
        let digits = text.strip_prefix("sha256:").ok_or(FingerprintError)?;
        let octets = unhex(digits).ok_or(FingerprintError)?;
        octets.try_into().map(Self).map_err(|_| FingerprintError)
    }
}

/// Lower-case hexadecimal, two digits an octet
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// The octets behind hexadecimal digits
pub(crate) fn unhex(digits: &str) -> Option<Vec<u8>> {
    if !digits.len().is_multiple_of(2) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}

/// Parses one certificate and nothing after it
pub fn parse(der: &[u8]) -> Result<X509Certificate<'_>, CertificateError> {
    let (rest, certificate) = X509Certificate::from_der(der)
        .map_err(|error| CertificateError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CertificateError::Malformed("bytes after the certificate".into()));
    }
    Ok(certificate)
}

/// The serial number as text: lower-case hexadecimal, two digits an octet, no leading zero octets
pub fn serial_text(certificate: &X509Certificate<'_>) -> String {
    let octets = certificate.raw_serial();
    hex(&octets[octets.iter().take_while(|octet| **octet == 0).count()..])
}

/// Where a certificate says that its issuer's certificate is (RFC 5280 section 4.2.2.1)
pub fn issuer_uris(certificate: &X509Certificate<'_>) -> Vec<String> {
    let access =
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityInfoAccess(access) => Some(access),
            _ => None,
        });
    let descriptions = access.map(|access| access.accessdescs.as_slice()).unwrap_or_default();
    let uris = descriptions.iter().filter_map(|one| match &one.access_location {
        GeneralName::URI(uri) if one.access_method.to_id_string() == CA_ISSUERS => {
            Some((*uri).to_owned())
        }
        _ => None,
    });
    uris.collect()
}

/// First and last instant of validity, both included (RFC 5280 section 4.1.2.5)
pub fn validity(
    certificate: &X509Certificate<'_>,
) -> Result<(SystemTime, SystemTime), CertificateError> {
    let validity = certificate.validity();
    Ok((instant(validity.not_before)?, instant(validity.not_after)?))
}

fn instant(time: ASN1Time) -> Result<SystemTime, CertificateError> {
    u64::try_from(time.timestamp())
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or_else(|| CertificateError::Malformed("a date before 1970".into()))
}

/// Seconds since 1970; zero for a clock before that
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The instant cut to whole seconds, as certificates carry it
pub(crate) fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix_seconds(time))
}

/// Reads a file with one PEM certificate; returns its DER
pub fn read_pem(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let [certificate] = read_pem_chain(path)?;
    Ok(certificate)
}

/// Writes one PEM certificate, durable before this returns; an older one is replaced in one step
pub fn write_pem(path: &Path, der: &[u8]) -> Result<(), CertificateError> {
    write_pem_chain(path, &[der])
}

/// Reads a file with exactly `N` PEM certificates
pub(crate) fn read_pem_chain<const N: usize>(
    path: &Path,
) -> Result<[Vec<u8>; N], CertificateError> {
    let failed = |source| CertificateError::Io { path: path.to_owned(), source };
    let pem = files::read_limited(path, CERTIFICATE_FILE_LIMIT_BYTES).map_err(failed)?;
    let found = X509::stack_from_pem(&pem)?;
    let found = found.iter().map(|one| one.to_der()).collect::<Result<Vec<_>, _>>()?;
    found.try_into().map_err(|found: Vec<_>| CertificateError::Count {
        path: path.to_owned(),
        expected: N,
        found: found.len(),
    })
}

/// Writes PEM certificates into one file, replacing an older one in one step
pub(crate) fn write_pem_chain(path: &Path, chain: &[&[u8]]) -> Result<(), CertificateError> {
    let mut pem = Vec::new();
    for der in chain {
        pem.extend(X509::from_der(der)?.to_pem()?);
    }
    files::replace(path, files::PUBLIC, &pem)
        .map_err(|source| CertificateError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_round_trip_and_nothing_else_parses() {
        let print = Fingerprint::of(b"certificate");
        assert_eq!(print.to_string().parse(), Ok(print));
        let text = print.to_string();
        for wrong in [&text[7..], &text[..70], "sha256:", "sha1:00", &format!("{text}00")] {
            assert_eq!(wrong.parse::<Fingerprint>(), Err(FingerprintError), "{wrong}");
        }
        assert_eq!(
            format!("sha256:{}", "+f".repeat(32)).parse::<Fingerprint>(),
            Err(FingerprintError)
        );
        assert_eq!("sha256:é".parse::<Fingerprint>(), Err(FingerprintError));
    }

    #[test]
    fn junk_is_no_certificate() {
        for junk in [&[][..], &[0x30, 0x03, 1, 2, 3], &[0xff; 40]] {
            assert!(matches!(parse(junk), Err(CertificateError::Malformed(_))));
        }
    }
}

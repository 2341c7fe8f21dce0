//! Whether a certificate was logged: the SCTs in it (RFC 6962 section 3.3) against the logs of the snapshot.
//! Reads what a peer sent after its signature was verified; asks no log and knows no tree.

use boring::ec::EcKey;
use boring::ecdsa::EcdsaSig;
use boring::error::ErrorStack;
use boring::nid::Nid;
use boring::pkey::Public;
use boring::sha::sha256;
use stoq_interface::{LogKey, PeerRefusal, SpkiSha256};

use super::TlsError;

/// SCTs of one certificate that are read
const SCTS_LIMIT: usize = 8;
/// Content of the object identifier 1.3.6.1.4.1.11129.2.4.2: the list of SCTs in a certificate
const SCT_LIST: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xd6, 0x79, 0x02, 0x04, 0x02];
/// HashAlgorithm sha256 and SignatureAlgorithm ecdsa (RFC 5246 section 7.4.1.4.1)
const ECDSA_SHA256: &[u8] = &[4, 3];
/// Version 1 and certificate_timestamp in front of what is signed (RFC 6962 section 3.2)
const SIGNED_PREFIX: [u8; 2] = [0, 0];
/// LogEntryType precert_entry
const PRECERT_ENTRY: [u8; 2] = [0, 1];
/// Largest TBSCertificate that a 24-bit length can carry
const TBS_LIMIT_BYTES: usize = (1 << 24) - 1;

const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
/// `[3] EXPLICIT`, the extensions of a TBSCertificate
const EXTENSIONS: u8 = 0xa3;

/// The logs whose promises count
pub(super) struct Logs(Vec<([u8; 32], EcKey<Public>)>);

impl Logs {
    /// Reads the keys: P-256 only, each under the hash of itself
    pub(super) fn new(logs: &[LogKey]) -> Result<Self, TlsError> {
        let read = |(index, log): (usize, &LogKey)| {
            let unusable = |cause| TlsError::Log { index, cause };
            let key = EcKey::<Public>::public_key_from_der(&log.spki_der).map_err(|_| {
                // What BoringSSL noted about it is said by this error already.
                super::drain_error_queue();
                unusable("it is no elliptic curve key")
            })?;
            if key.group().curve_name() != Some(Nid::X9_62_PRIME256V1) {
                return Err(unusable("it is not on P-256"));
            }
            if sha256(&log.spki_der) != log.log_id {
                return Err(unusable("its identifier is not the hash of it"));
            }
            Ok((log.log_id, key))
        };
        logs.iter().enumerate().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Judges a certificate that `issuer` signed: one SCT of one of these logs must verify over the certificate
    /// as it was before the SCTs came in, and must not be from later than `latest_ms`
    pub(super) fn judge(
        &self,
        certificate: &[u8],
        issuer: &SpkiSha256,
        latest_ms: u64,
    ) -> Result<(), PeerRefusal> {
        let (tbs, list) = take_list_out(certificate).ok_or(PeerRefusal::BadTimestamp)?;
        let list = list.ok_or(PeerRefusal::Unlogged)?;
        let mut refusal = PeerRefusal::UnknownLog;
        for sct in parse_list(list).ok_or(PeerRefusal::BadTimestamp)? {
            let Some((_, key)) = self.0.iter().find(|(id, _)| id == sct.log_id) else { continue };
            if sct.timestamp_ms <= latest_ms && sct.verifies(key, issuer, &tbs) {
                return Ok(());
            }
            refusal = PeerRefusal::BadTimestamp;
        }
        Err(refusal)
    }
}

/// One SCT of version 1
struct Sct<'a> {
    log_id: &'a [u8],
    timestamp: &'a [u8],
    timestamp_ms: u64,
    extensions: &'a [u8],
    signature: &'a [u8],
}

impl Sct<'_> {
    fn verifies(&self, key: &EcKey<Public>, issuer: &SpkiSha256, tbs: &[u8]) -> bool {
        let extensions_bytes = (self.extensions.len() as u16).to_be_bytes();
        let message = [
            &SIGNED_PREFIX,
            self.timestamp,
            &PRECERT_ENTRY,
            issuer,
            &(tbs.len() as u32).to_be_bytes()[1..],
            tbs,
            &extensions_bytes,
            self.extensions,
        ]
        .concat();
        let verified = EcdsaSig::from_der(self.signature)
            .and_then(|signature| signature.verify(&sha256(&message), key));
        let verified: Result<bool, ErrorStack> = verified;
        if !matches!(verified, Ok(true)) {
            // A mismatch is an answer: BoringSSL's note of it must not outlive this call.
            super::drain_error_queue();
        }
        matches!(verified, Ok(true))
    }
}

/// Takes so many octets off the front
fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

/// Takes a vector with a length of two octets off the front
fn vector<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = u16::from_be_bytes(take(rest, 2)?.try_into().ok()?);
    take(rest, usize::from(length))
}

/// The SCTs of an extension's content: an OCTET STRING around the list. Later versions are passed over.
fn parse_list(content: &[u8]) -> Option<Vec<Sct<'_>>> {
    let mut outer = only(content, OCTET_STRING)?;
    let mut list = vector(&mut outer)?;
    if !outer.is_empty() || list.is_empty() {
        return None;
    }
    let mut scts = Vec::new();
    let mut read = 0;
    while !list.is_empty() {
        let mut sct = vector(&mut list)?;
        read += 1;
        if read > SCTS_LIMIT {
            return None;
        }
        if take(&mut sct, 1)? != [0] {
            continue;
        }
        let (log_id, timestamp) = (take(&mut sct, 32)?, take(&mut sct, 8)?);
        let extensions = vector(&mut sct)?;
        let algorithms = take(&mut sct, 2)?;
        let signature = vector(&mut sct)?;
        if !sct.is_empty() {
            return None;
        }
        // The logs here sign with one algorithm; another one's signature can only fail.
        let signature = if algorithms == ECDSA_SHA256 { signature } else { &[] };
        let timestamp_ms = u64::from_be_bytes(timestamp.try_into().ok()?);
        scts.push(Sct { log_id, timestamp, timestamp_ms, extensions, signature });
    }
    Some(scts)
}

/// One element: all of it, and what is inside
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    whole: &'a [u8],
    content: &'a [u8],
}

/// Takes the first element off: short tags, definite lengths as short as they can be (X.690 section 10.1)
fn next<'a>(rest: &mut &'a [u8]) -> Option<Element<'a>> {
    let all = *rest;
    let (&[tag, first], mut after) = all.split_first_chunk::<2>()?;
    let length = match first {
        0..=0x7f => usize::from(first),
        0x81..=0x83 => {
            let octets = take(&mut after, usize::from(first & 0x7f))?;
            let length = octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet));
            let shortest = length >= 0x80 && octets[0] != 0;
            if !shortest {
                return None;
            }
            length
        }
        _ => return None,
    };
    let header = all.len() - after.len();
    let content = take(&mut after, length)?;
    if tag & 0x1f == 0x1f {
        return None;
    }
    *rest = after;
    Some(Element { tag, whole: &all[..header + length], content })
}

/// The content of the one element with this tag that the octets are
fn only(mut bytes: &[u8], tag: u8) -> Option<&[u8]> {
    let element = next(&mut bytes)?;
    (element.tag == tag && bytes.is_empty()).then_some(element.content)
}

/// An element around this content
fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().take_while(|octet| **octet == 0).count()..];
    let mut element = vec![tag];
    match significant {
        [] => element.push(0),
        [one] if *one < 0x80 => element.push(*one),
        octets => {
            element.push(0x80 | octets.len() as u8);
            element.extend_from_slice(octets);
        }
    }
    element.extend_from_slice(content);
    element
}

/// The TBSCertificate without its list of SCTs, and the content of that extension where there is one; `None`
/// where the certificate is not what it should be, which covers a list that is critical or there twice
fn take_list_out(certificate: &[u8]) -> Option<(Vec<u8>, Option<&[u8]>)> {
    let mut outer = only(certificate, SEQUENCE)?;
    let tbs = next(&mut outer)?;
    if tbs.tag != SEQUENCE || tbs.whole.len() > TBS_LIMIT_BYTES {
        return None;
    }
    let mut rest = tbs.content;
    while !rest.is_empty() {
        let before = &tbs.content[..tbs.content.len() - rest.len()];
        let field = next(&mut rest)?;
        if field.tag != EXTENSIONS {
            continue;
        }
        // Nothing comes after the extensions (RFC 5280 section 4.1).
        if !rest.is_empty() {
            return None;
        }
        let mut extensions = only(field.content, SEQUENCE)?;
        let (mut kept, mut list) = (Vec::new(), None);
        while !extensions.is_empty() {
            let extension = next(&mut extensions)?;
            match list_content(extension)? {
                None => kept.extend_from_slice(extension.whole),
                Some(content) if list.is_none() => list = Some(content),
                Some(_twice) => return None,
            }
        }
        let mut inside = before.to_vec();
        if !kept.is_empty() {
            inside.extend(wrap(EXTENSIONS, &wrap(SEQUENCE, &kept)));
        }
        return Some((wrap(SEQUENCE, &inside), list));
    }
    Some((tbs.whole.to_vec(), None))
}

/// The content of the extension where it is the list of SCTs: `None` for what is no extension
#[expect(clippy::option_option, reason = "no extension, another extension, and the list differ")]
fn list_content(extension: Element<'_>) -> Option<Option<&[u8]>> {
    let mut inside = extension.content;
    let identifier = next(&mut inside)?;
    let mut value = next(&mut inside)?;
    let critical = value.tag == BOOLEAN;
    if critical {
        value = next(&mut inside)?;
    }
    let tags = (extension.tag, identifier.tag, value.tag);
    if tags != (SEQUENCE, OBJECT_IDENTIFIER, OCTET_STRING) || !inside.is_empty() {
        return None;
    }
    match (identifier.content == SCT_LIST, critical) {
        (false, _) => Some(None),
        (true, false) => Some(Some(value.content)),
        (true, true) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestAuthority, TestLog, now};
    use super::*;

    const LATE: u64 = u64::MAX;

    #[test]
    fn elements_of_every_length_read_back_and_loose_ones_do_not() {
        for length in [0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let content = vec![7; length];
            assert_eq!(only(&wrap(OCTET_STRING, &content), OCTET_STRING), Some(&content[..]));
        }
        for loose in [&[4, 0x81, 1, 9][..], &[4, 0x82, 0, 0x80], &[4, 0x80, 0, 0], &[0x1f, 1, 9]] {
            assert_eq!(only(loose, loose[0]), None, "{loose:?}");
        }
    }

    #[test]
    fn only_the_log_that_took_it_vouches_for_a_certificate() {
        let (authority, log) = (TestAuthority::new(), TestLog::new());
        let logged = authority.issue_logged("beta", &log, now(), |_| {});
        let der = &logged.chain_der[0];
        let issuer = authority.spki_sha256();
        let logs = Logs::new(&[TestLog::new().key(), log.key()]).unwrap();
        assert_eq!(logs.judge(der, &issuer, LATE), Ok(()));
        assert_eq!(logs.judge(der, &[0; 32], LATE), Err(PeerRefusal::BadTimestamp));
        let strangers = Logs::new(&[TestLog::new().key()]).unwrap();
        assert_eq!(strangers.judge(der, &issuer, LATE), Err(PeerRefusal::UnknownLog));
        let none = Logs::new(&[]).unwrap();
        assert_eq!(none.judge(der, &issuer, LATE), Err(PeerRefusal::UnknownLog));
        let plain = authority.issue("beta", |_| {});
        let judged = logs.judge(&plain.chain_der[0], &issuer, LATE);
        assert_eq!(judged, Err(PeerRefusal::Unlogged));
        let made = now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
        assert_eq!(logs.judge(der, &issuer, made), Ok(()));
        assert_eq!(logs.judge(der, &issuer, made - 1), Err(PeerRefusal::BadTimestamp));
    }

    #[test]
    fn no_octet_of_a_logged_certificate_may_change() {
        let (authority, log) = (TestAuthority::new(), TestLog::new());
        let logged = authority.issue_logged("beta", &log, now(), |_| {});
        let der = &logged.chain_der[0];
        let logs = Logs::new(&[log.key()]).unwrap();
        let mut outer = only(der, SEQUENCE).unwrap();
        let tbs = next(&mut outer).unwrap().whole.len();
        let start = der.len() - outer.len() - tbs;
        for at in start..start + tbs {
            for bit in [0, 3, 7] {
                let mut changed = der.clone();
                changed[at] ^= 1 << bit;
                let judged = logs.judge(&changed, &authority.spki_sha256(), LATE);
                assert!(judged.is_err(), "octet {at} bit {bit}");
            }
        }
        for length in 0..der.len() {
            assert!(logs.judge(&der[..length], &authority.spki_sha256(), LATE).is_err());
        }
        assert!(ErrorStack::get().errors().is_empty(), "the queue was not emptied");
    }

    #[test]
    fn a_log_is_a_p256_key_under_its_own_hash() {
        let good = TestLog::new().key();
        let wrong_name = LogKey { log_id: [0; 32], ..good.clone() };
        let mut cut = good.clone();
        cut.spki_der.truncate(20);
        for bad in [wrong_name, cut] {
            let refused = Logs::new(&[good.clone(), bad]).err().unwrap();
            assert!(matches!(refused, TlsError::Log { index: 1, .. }), "{refused}");
        }
    }
}

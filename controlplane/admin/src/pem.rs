//! PEM (RFC 7468) as the admin interface carries certificates, keys and CRLs: text that can be pasted into a file and
//! read by every other tool. What the octets mean is not known here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Characters of one line
const LINE: usize = 64;
/// Blocks one text may hold
const BLOCKS_MAX: usize = 16;

/// Why a text is no PEM of the kind that is wanted
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PemError {
    /// No such block
    #[error("there is no -----BEGIN {0}----- in it")]
    Absent(String),
    /// More blocks than are read
    #[error("it holds more than {BLOCKS_MAX} blocks")]
    TooMany,
    /// A block that does not end, or is no base64
    #[error("its block of {0} is damaged")]
    Damaged(String),
}

/// One block
pub fn encode_pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

/// The content of every block with this label, at least one; other blocks and text between them are passed over
pub fn decode_pem(label: &str, text: &str) -> Result<Vec<Vec<u8>>, PemError> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let damaged = || PemError::Damaged(label.to_owned());
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&begin) {
        let (body, after) = after.split_once(&end).ok_or_else(damaged)?;
        if blocks.len() == BLOCKS_MAX {
            return Err(PemError::TooMany);
        }
        let packed: String = body.chars().filter(|one| !one.is_ascii_whitespace()).collect();
        blocks.push(STANDARD.decode(packed).map_err(|_| damaged())?);
        rest = after;
    }
    if blocks.is_empty() { Err(PemError::Absent(label.to_owned())) } else { Ok(blocks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_back_whatever_stands_between_them() {
        for length in [0, 1, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..length).map(|octet| octet as u8).collect();
            let text = encode_pem("PUBLIC KEY", &der);
            assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
            let twice = format!("a note\n{text}\r\n{}{text}", encode_pem("OTHER", b"x"));
            assert_eq!(decode_pem("PUBLIC KEY", &twice).unwrap(), [der.clone(), der]);
        }
    }

    #[test]
    fn what_is_no_pem_is_told_apart() {
        let good = encode_pem("CERTIFICATE", b"abc");
        let absent = decode_pem("PUBLIC KEY", &good).unwrap_err();
        assert!(matches!(absent, PemError::Absent(_)), "{absent}");
        for bad in [good.replace("YWJj", "YW%j"), good.replace("-----END", "-----FIN")] {
            let damaged = decode_pem("CERTIFICATE", &bad).unwrap_err();
            assert!(matches!(damaged, PemError::Damaged(_)), "{damaged}");
        }
        assert_eq!(decode_pem("CERTIFICATE", &good.repeat(17)), Err(PemError::TooMany));
    }
}

//! Signed notes (C2SP signed-note): a text and lines of signatures under it, written and parsed. Whose
//! signatures count, and over what, is decided in `checkpoint`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use boring::sha::sha256;

use super::NAME_LIMIT_BYTES;
use super::wire::Malformed;

/// Size of the largest note that is read: sixteen signatures of any kind fit
pub const NOTE_LIMIT_BYTES: usize = 128 << 10;
/// Signatures of one note that are read
pub const SIGNATURES_LIMIT: usize = 64;

/// Type of Ed25519 signatures over the text
pub const SIGNATURE_TYPE_ED25519: u8 = 0x01;
/// Type of timestamped Ed25519 cosignatures (C2SP tlog-cosignature)
pub const SIGNATURE_TYPE_COSIGNATURE: u8 = 0x04;
/// Type of RFC 6962 TreeHeadSignatures (C2SP static-ct-api)
pub const SIGNATURE_TYPE_TREE_HEAD: u8 = 0x05;

/// What a signature line begins with: an em dash and a space
const LINE_START: &str = "\u{2014} ";

/// A text with signatures, none of them judged yet
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

/// One signature line
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoteSignature {
    /// Name of the key
    pub name: String,
    /// Identifier of the key
    pub key_id: u32,
    /// The signature, without the identifier
    pub signature: Vec<u8>,
}

/// Identifier of a key: the first four octets of SHA-256 over name, newline, type and public key
pub fn key_id(name: &str, signature_type: u8, public_key: &[u8]) -> u32 {
    let message = [name.as_bytes(), b"\n", &[signature_type], public_key].concat();
    let hash = sha256(&message);
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// Whether a text can be the name of a key: not empty, no space of any script, no plus, no control character
pub fn is_key_name(name: &str) -> bool {
    let wrong =
        |character: char| character == '+' || character.is_whitespace() || character.is_control();
    !name.is_empty() && name.len() <= NAME_LIMIT_BYTES && !name.contains(wrong)
}

impl Note {
    /// A text, which ends with a newline, and at least one signature
    pub fn new(text: String, signatures: Vec<NoteSignature>) -> Result<Self, Malformed> {
        let named = signatures.iter().all(|line| is_key_name(&line.name));
        let signed = signatures.iter().all(|line| !line.signature.is_empty());
        let counted = !signatures.is_empty() && signatures.len() <= SIGNATURES_LIMIT;
        let text_ok = text.ends_with('\n') && !text.contains(is_forbidden);
        if named && signed && counted && text_ok {
            Ok(Self { text, signatures })
        } else {
            Err(Malformed("signed note"))
        }
    }

    /// Parses a note; any octets may be given
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed("signed note");
        if bytes.len() > NOTE_LIMIT_BYTES {
            return Err(malformed);
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| malformed)?;
        // The last empty line is the one that separates; the text may have others.
        let end_of_text = whole.rfind("\n\n").ok_or(malformed)? + 1;
        let (text, lines) = (&whole[..end_of_text], &whole[end_of_text + 1..]);
        let lines = lines.strip_suffix('\n').ok_or(malformed)?;
        let signatures = lines
            .split('\n')
            .take(SIGNATURES_LIMIT + 1)
            .map(|line| parse_line(line).ok_or(malformed))
            .collect::<Result<_, _>>()?;
        Self::new(text.into(), signatures)
    }

    /// The note as it is published
    pub fn encode(&self) -> String {
        let mut note = format!("{}\n", self.text);
        for line in &self.signatures {
            let bytes = [&line.key_id.to_be_bytes()[..], &line.signature].concat();
            note += &format!("{LINE_START}{} {}\n", line.name, STANDARD.encode(bytes));
        }
        note
    }

    /// The text, with its last newline
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }
}

fn parse_line(line: &str) -> Option<NoteSignature> {
    let (name, encoded) = line.strip_prefix(LINE_START)?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (key_id, signature) = bytes.split_first_chunk::<4>()?;
    let key_id = u32::from_be_bytes(*key_id);
    Some(NoteSignature { name: name.into(), key_id, signature: signature.into() })
}

/// ASCII control characters other than newline
fn is_forbidden(character: char) -> bool {
    character < ' ' && character != '\n'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the specification
    const EXAMPLE: &str = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\n\
        ed è subito sera.\n\n— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/\
        5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";

    #[test]
    fn the_example_of_the_specification_parses() {
        let note = Note::parse(EXAMPLE.as_bytes()).unwrap();
        assert!(note.text().ends_with("\n\ned è subito sera.\n"));
        let [line] = note.signatures() else { panic!("one signature") };
        assert_eq!(line.name, "quasimodo.example/salvatore");
        assert_eq!(line.key_id, 0x367b_a04b);
        assert_eq!(line.signature.len(), 64);
        assert_eq!(note.encode(), EXAMPLE);
    }

    #[test]
    fn anything_else_is_refused() {
        let line = "\u{2014} a AAAAAAA=\n";
        let good = format!("text\n\n{line}");
        assert!(Note::parse(good.as_bytes()).is_ok());
        for bad in [
            String::new(),
            "text\n\n".into(),
            format!("text\n{line}"),
            format!("text\n\n{}", line.trim_end()),
            format!("text\t\n\n{line}"),
            format!("text\r\n\n{line}"),
            format!("text\n\n{line}\n"),
            "text\n\n- a AAAAAAA=\n".into(),
            "text\n\n\u{2014} a+b AAAAAAA=\n".into(),
            "text\n\n\u{2014}  AAAAAAA=\n".into(),
            "text\n\n\u{2014} a\u{2003}b AAAAAAA=\n".into(),
            "text\n\n\u{2014} a AAAA\n".into(),
            "text\n\n\u{2014} a AAAAAA==\n".into(),
            "text\n\n\u{2014} a AAAAAAB=\n".into(),
            "text\n\n\u{2014} a AAAAAAA\n".into(),
            "text\n\n\u{2014} a AAAAAAA= \n".into(),
            format!("text\n\n{}", line.repeat(SIGNATURES_LIMIT + 1)),
            format!("{}\n\n{line}", "t".repeat(NOTE_LIMIT_BYTES)),
        ] {
            assert!(Note::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Note::parse(b"text\xff\n\n\xe2\x80\x94 a AAAAAAA=\n").is_err());
        assert!(Note::parse(format!("text\n\n{}", line.repeat(16)).as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn what_parses_is_written_the_same(text in "[ -~\n\u{2014}é]{0,60}", tail in ".{0,20}") {
            let sample = format!("{text}\n\n\u{2014} {tail} AAAAAAA=\n");
            if let Ok(note) = Note::parse(sample.as_bytes()) {
                prop_assert_eq!(note.encode(), sample);
            }
        }
    }
}

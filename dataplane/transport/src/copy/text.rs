//! Octets that come from a peer or a file system and end up before an operator's eyes: bounded error texts,
//! link targets, and the escaped form in which any of them may be printed.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use super::{TARGET_BYTES_MAX, TEXT_BYTES_MAX};

/// Prints octets so that no name can move the cursor, colour the terminal or hide itself: valid printable
/// UTF-8 as it is, backslashes doubled, everything else as `\xNN` or `\u{N}`
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a [u8]);

fn is_unprintable(character: char) -> bool {
    // Beside control characters: zero-width and direction-changing ones, which reorder what is read.
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}')
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                match character {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_ascii_control() => write!(f, "\\x{:02x}", c as u32)?,
                    c if is_unprintable(c) => write!(f, "\\u{{{:x}}}", c as u32)?,
                    c => f.write_char(c)?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// An error text: at most [`TEXT_BYTES_MAX`] octets of UTF-8 without control characters
#[derive(Clone, Eq, PartialEq)]
pub struct Text(Box<str>);

impl Text {
    /// Makes a text of anything: unprintable characters become spaces, the end is cut at the limit
    pub fn new(text: &str) -> Self {
        let mut clean = String::with_capacity(text.len().min(TEXT_BYTES_MAX));
        for character in text.chars() {
            let character = if is_unprintable(character) { ' ' } else { character };
            if clean.len() + character.len_utf8() > TEXT_BYTES_MAX {
                break;
            }
            clean.push(character);
        }
        Self(clean.into_boxed_str())
    }

    /// A text from the wire; `None` if it breaks a rule [`Text::new`] would have mended
    pub(super) fn from_wire(bytes: &[u8]) -> Option<Self> {
        let text = str::from_utf8(bytes).ok()?;
        let fits = text.len() <= TEXT_BYTES_MAX && !text.chars().any(is_unprintable);
        fits.then(|| Self(text.into()))
    }

    /// The text
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why octets are not the target of a symbolic link
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LinkTargetError {
    /// Linux has no empty symbolic links
    #[error("a symbolic link's target is empty")]
    Empty,
    /// Longer than [`TARGET_BYTES_MAX`]
    #[error("a symbolic link's target has {0} octets, more than {TARGET_BYTES_MAX}")]
    TooLong(usize),
    /// A NUL would end the target early
    #[error("a symbolic link's target holds a NUL")]
    Nul,
}

/// What a symbolic link points at: 1 to [`TARGET_BYTES_MAX`] octets without NUL, never followed by either side
#[derive(Clone, Eq, PartialEq)]
pub struct LinkTarget(Arc<[u8]>);

impl LinkTarget {
    /// Checks the octets of a target
    pub fn new(bytes: &[u8]) -> Result<Self, LinkTargetError> {
        match bytes.len() {
            0 => Err(LinkTargetError::Empty),
            length if length > TARGET_BYTES_MAX => Err(LinkTargetError::TooLong(length)),
            _ if bytes.contains(&0) => Err(LinkTargetError::Nul),
            _ => Ok(Self(bytes.into())),
        }
    }

    /// The octets of the target
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for LinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Escaped(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_unprintable_reaches_the_terminal() {
        let shown = Escaped(b"a \x1b[31m\\\xff\xc3\xa4\xe2\x80\xae").to_string();
        assert_eq!(shown, "a \\x1b[31m\\\\\\xff\u{e4}\\u{202e}");
        assert_eq!(Text::new("line\nbreak\x1b").as_str(), "line break ");
    }

    #[test]
    fn texts_are_cut_at_a_character_and_refused_beyond_the_limit() {
        let long = "\u{e4}".repeat(TEXT_BYTES_MAX);
        assert_eq!(Text::new(&long).as_str().len(), TEXT_BYTES_MAX);
        assert_eq!(Text::new(&format!("a{long}")).as_str().len(), TEXT_BYTES_MAX - 1);
        assert!(Text::from_wire(&[b'a'; TEXT_BYTES_MAX]).is_some());
        assert!(Text::from_wire(&[b'a'; TEXT_BYTES_MAX + 1]).is_none());
        assert!(Text::from_wire(b"\xff").is_none());
        assert!(Text::from_wire(b"\n").is_none());
    }

    #[test]
    fn link_targets_are_bounded() {
        assert_eq!(LinkTarget::new(b""), Err(LinkTargetError::Empty));
        assert_eq!(LinkTarget::new(b"a\0"), Err(LinkTargetError::Nul));
        assert_eq!(LinkTarget::new(&[b'a'; 4096]), Err(LinkTargetError::TooLong(4096)));
        assert!(LinkTarget::new(&[b'a'; 4095]).is_ok());
    }
}

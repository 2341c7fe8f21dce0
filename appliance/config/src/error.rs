//! What is said about a wrong file: where, which key, why, and what to write instead. Messages are for an
//! operator who has the file open in an editor; `file:line:column` is what editors jump to.

use std::fmt;
use std::path::PathBuf;

/// One mistake in a file
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The file as it was named to the parser
    pub file: String,
    /// Line, counted from 1
    pub line: usize,
    /// Column in characters, counted from 1
    pub column: usize,
    /// The dotted key, or `syntax` and `file` where the text has none
    pub key: String,
    /// What is wrong
    pub reason: String,
    /// What to do about it
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, key, reason, remedy } = self;
        write!(f, "{file}:{line}:{column}: {key}: {reason}; {remedy}")
    }
}

impl std::error::Error for ConfigError {}

/// All mistakes of a file in the order of their lines; never empty
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Mistakes reported at most; a file with more is not the file that was meant
    pub const MAX: usize = 64;

    pub(crate) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(|error| (error.line, error.column));
        errors.truncate(Self::MAX);
        Self(errors)
    }

    /// The mistakes
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Why a file could not be used
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read
    #[error("{}: cannot be read ({source}); check the path and that this user may read it", path.display())]
    Read {
        /// The file
        path: PathBuf,
        /// What the system said
        source: std::io::Error,
    },
    /// The file was read and is wrong
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
}

/// Why one value is refused, before it is known where it stands
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) reason: String,
    pub(crate) remedy: String,
}

impl Refusal {
    pub(crate) fn new(reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { reason: reason.into(), remedy: remedy.into() }
    }
}

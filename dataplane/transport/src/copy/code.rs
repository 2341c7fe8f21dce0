//! The error codes of the copy protocol with their numbers and labels; what a code means for a transfer is
//! decided by whoever receives it.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $label:literal;)*) => {
        /// Why an entry or a whole transfer failed. A number that is not listed is read as
        /// [`ErrorCode::Failed`]: the text beside it tells the rest.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u64)]
        pub enum ErrorCode { $($(#[$doc])* $variant = $code,)* }

        impl ErrorCode {
            /// Every code, in the order of its number
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The label used in logs and JSON
            pub const fn label(self) -> &'static str {
                match self { $(ErrorCode::$variant => $label,)* }
            }

            /// The number that stands for the code on the wire
            pub const fn code(self) -> u64 {
                self as u64
            }

            /// The code behind a wire number; an unknown one is [`ErrorCode::Failed`]
            pub const fn from_code(code: u64) -> Self {
                match code { $($code => ErrorCode::$variant,)* _ => ErrorCode::Failed }
            }
        }

        impl fmt::Display for ErrorCode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.label())
            }
        }
    };
}

codes! {
    /// A failure without a code of its own
    Failed = 0x00, "failed";
    /// The peer broke a rule of COPY.md
    Protocol = 0x01, "protocol";
    /// No common protocol version
    Version = 0x02, "version";
    /// The peer may not read, or may not write, here
    NotPermitted = 0x03, "not_permitted";
    /// The path lies outside every directory the node serves
    OutsideRoots = 0x04, "outside_roots";
    /// Nothing is there
    NotFound = 0x05, "not_found";
    /// A symbolic link stands where a directory of the path was expected
    SymlinkInPath = 0x06, "symlink_in_path";
    /// Something else stands where a directory was expected
    NotADirectory = 0x07, "not_a_directory";
    /// A directory stands where the file would go
    IsADirectory = 0x08, "is_a_directory";
    /// A socket, pipe or device: it has no content to copy
    SpecialFile = 0x09, "special_file";
    /// No space left, or the quota is used up
    NoSpace = 0x0a, "no_space";
    /// The operating system reported an input or output error
    InputOutput = 0x0b, "input_output";
    /// The received content does not have the digest the sender stated
    DigestMismatch = 0x0c, "digest_mismatch";
    /// The file changed while it was read
    SourceChanged = 0x0d, "source_changed";
    /// The name is reserved for the partial files of this service
    NameReserved = 0x0e, "name_reserved";
    /// Another transfer is at work there, or too many are
    Busy = 0x0f, "busy";
    /// A named limit was reached
    Limit = 0x10, "limit";
    /// The operating system denies access
    AccessDenied = 0x11, "access_denied";
    /// The sender gave the entry up
    Cancelled = 0x12, "cancelled";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_unknown_ones_read_as_failed() {
        let mut labels: Vec<_> = ErrorCode::ALL.iter().map(|code| code.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_code(code.code()), *code);
        }
        assert_eq!(ErrorCode::from_code(0x4242), ErrorCode::Failed);
    }
}

//! `copy`: the one operation that takes long and so answers with a stream of JSON lines. Not the copying
//! itself.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use stoq_interface::NodeId;
use tokio::sync::watch;

use super::Request;
use crate::ApiError;
use crate::text::plain;

/// Longest path at either end: Linux's PATH_MAX
pub const COPY_PATH_BYTES_MAX: usize = 4_096;

/// One end of a copy
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CopyEnd {
    /// A path on the host of the daemon that is asked; absolute, because the daemon's working directory is
    /// not the caller's
    Local(PathBuf),
    /// A path on another node
    Remote {
        /// The node
        #[serde(with = "plain")]
        node: NodeId,
        /// The path there; what a relative one means is that node's decision
        path: String,
    },
}

impl fmt::Display for CopyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::Remote { node, path } => write!(f, "{node}:{path}"),
        }
    }
}

impl FromStr for CopyEnd {
    type Err = String;
    /// `NODE:PATH`, or a path; `./a:b` is a path, because a slash comes before the colon
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("an empty path".to_owned());
        }
        if text.len() > COPY_PATH_BYTES_MAX || text.contains('\0') {
            return Err(format!(
                "a path has at most {COPY_PATH_BYTES_MAX} octets and no zero octet"
            ));
        }
        let Some((node, path)) = text.split_once(':') else {
            return Ok(Self::Local(PathBuf::from(text)));
        };
        if node.contains('/') {
            return Ok(Self::Local(PathBuf::from(text)));
        }
        let node = NodeId::new(node).map_err(|error| {
            format!("'{node}' is not a node: {error}; write ./{text} for a local path")
        })?;
        if path.is_empty() {
            return Err(format!("no path after '{node}:'"));
        }
        Ok(Self::Remote { node, path: path.to_owned() })
    }
}

/// How to copy
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CopyOptions {
    /// Compare files that are there by content; without it equal size and time suffice
    pub verify_existing: bool,
}

/// Copies a file or a tree
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CopyRun {
    /// From
    pub source: CopyEnd,
    /// To
    pub destination: CopyEnd,
    /// How
    #[serde(default)]
    pub options: CopyOptions,
}

impl Request for CopyRun {
    const NOUN: &'static str = "copy";
    const VERB: &'static str = "run";
    type Reply = CopyDone;
}

impl CopyRun {
    /// Exactly one end is on another node, and the local one is absolute
    pub fn validate(&self) -> Result<(), ApiError> {
        let local = match (&self.source, &self.destination) {
            (CopyEnd::Local(path), CopyEnd::Remote { .. })
            | (CopyEnd::Remote { .. }, CopyEnd::Local(path)) => path,
            _ => {
                return Err(ApiError::usage(
                    "copy-ends",
                    "exactly one side of a copy is on another node",
                    "write it like `stoqctl copy ./file beta:/srv/file`",
                ));
            }
        };
        if !Path::is_absolute(local) {
            return Err(ApiError::usage(
                "relative-path",
                format!("{} is not an absolute path", local.display()),
                "the daemon has another working directory: give the whole path",
            ));
        }
        Ok(())
    }
}

/// How far a copy is
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct CopyProgress {
    /// Bytes in place, those of an earlier copy included
    pub bytes_done: u64,
    /// Bytes in all, as far as the tree has been walked
    pub bytes_total: u64,
    /// Files in place
    pub files_done: u64,
    /// Files in all, as far as the tree has been walked
    pub files_total: u64,
    /// The file being copied
    pub current: Option<String>,
    /// Rate over the last interval
    pub bytes_per_second: f64,
}

/// How a copy ended
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CopyDone {
    /// Bytes of all files
    pub bytes: u64,
    /// Of those, bytes that were in place before
    pub bytes_resumed: u64,
    /// Files of the tree
    pub files: u64,
    /// Files whose BLAKE3 was compared at the receiver before the rename
    pub files_verified: u64,
    /// Time it took
    pub seconds: f64,
    /// Bytes moved by this copy, over the time
    pub bytes_per_second: f64,
}

/// One line of the stream: progress lines, then exactly one of the others
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum CopyEvent {
    /// How far it is; also sent unchanged now and then, as a sign of life
    Progress(CopyProgress),
    /// The end
    Result(CopyDone),
    /// The end, without success
    Error {
        /// Why
        error: ApiError,
    },
}

/// Where a copy reports how far it is; keeps only the newest report, so it never waits and never grows
#[derive(Debug)]
pub struct ProgressSink(watch::Sender<CopyProgress>);

impl ProgressSink {
    /// A sink and the place where its newest report is read
    pub fn channel() -> (Self, watch::Receiver<CopyProgress>) {
        let (sender, receiver) = watch::channel(CopyProgress::default());
        (Self(sender), receiver)
    }

    /// Replaces the last report
    pub fn report(&self, progress: CopyProgress) {
        self.0.send_replace(progress);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_before_any_slash_names_a_node() {
        let remote = CopyEnd::Remote { node: NodeId::new("beta").unwrap(), path: "/a:b".into() };
        assert_eq!("beta:/a:b".parse(), Ok(remote));
        assert_eq!("./a:b".parse(), Ok(CopyEnd::Local("./a:b".into())));
        assert_eq!("/a".parse(), Ok(CopyEnd::Local("/a".into())));
        for text in ["", "beta:", ":/a", "Beta:/a", "be.ta:/a"] {
            assert!(text.parse::<CopyEnd>().is_err(), "{text}");
        }
        assert!("a".repeat(COPY_PATH_BYTES_MAX + 1).parse::<CopyEnd>().is_err());
    }

    #[test]
    fn one_end_is_remote_and_the_other_absolute() {
        let run = |source: &str, destination: &str| CopyRun {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            options: CopyOptions::default(),
        };
        assert_eq!(run("/a", "beta:b").validate(), Ok(()));
        assert_eq!(run("beta:b", "/a").validate(), Ok(()));
        assert_eq!(run("/a", "/b").validate().unwrap_err().code, "copy-ends");
        assert_eq!(run("beta:a", "beta:b").validate().unwrap_err().code, "copy-ends");
        assert_eq!(run("a", "beta:b").validate().unwrap_err().code, "relative-path");
    }

    #[test]
    fn a_line_of_the_stream_names_its_event() {
        let line = serde_json::to_value(CopyEvent::Progress(CopyProgress::default())).unwrap();
        assert_eq!(line["event"], "progress");
        assert_eq!(line["bytes_done"], 0);
    }
}

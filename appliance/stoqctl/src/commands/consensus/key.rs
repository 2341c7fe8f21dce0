//! `stoqctl consensus key`: the Ed25519 keys of validators and requesters.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;
use stoq_admin::ApiError;
use stoq_hypermesh::digest::to_hex;
use stoq_hypermesh::requester::RequesterKey;

use crate::commands::agreement;
use crate::context::Context;
use crate::render::{Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Makes a key that only its owner can read
    #[command(after_help = "Example:\n  stoqctl consensus key make node.key")]
    Make {
        /// The key; must not exist yet
        file: PathBuf,
    },
    /// Shows the public half of a key, which a genesis names, and the requester it stands for
    Show {
        /// The key
        file: PathBuf,
    },
}

#[derive(Serialize)]
struct Shown {
    file: String,
    public_key: String,
    requester: String,
}

impl Key {
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::Make { .. } => "key-make",
            Self::Show { .. } => "key-show",
        }
    }

    pub(super) fn run(self, context: &Context) -> Result<Report, ApiError> {
        let (key, file) = match self {
            Self::Make { file } => {
                let key = RequesterKey::random();
                key.write_new(&file).map_err(|error| agreement::key_failed(&error))?;
                (key, file)
            }
            Self::Show { file } => (agreement::key(&file)?, file),
        };
        let shown = Shown {
            file: file.display().to_string(),
            public_key: to_hex(&key.public()),
            requester: to_hex(&key.requester()),
        };
        Ok(context
            .report(&shown)?
            .fields(vec![("key", cell(&shown.public_key)), ("requester", cell(&shown.requester))]))
    }
}

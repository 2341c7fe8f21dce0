//! `stoqctl consensus evidence`: what shows that a validator broke the protocol, listed, taken along and judged anywhere.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Subcommand;
use serde::Serialize;
use stoq_admin::api::{ConsensusEvidence, ConsensusEvidenceExport};
use stoq_admin::{ApiError, ExitCode, show_time};
use stoq_hypermesh::consensus::EvidenceFile;
use stoq_hypermesh::consensus::evidence::RegistryJudge;

use crate::commands::agreement::{self, from_hex};
use crate::commands::name_of;
use crate::context::Context;
use crate::files;
use crate::render::{Cell, Report, Tone, cell};

/// Octets of the longest file of evidence
const EVIDENCE_LIMIT_BYTES: u64 = 64 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum Evidence {
    /// Lists what was found
    List,
    /// Writes one piece with all that is needed to judge it elsewhere
    Export {
        /// Its name (`stoqctl consensus evidence list`)
        id: String,
        /// The file; must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Judges a piece of evidence; works without stoqd. 3 where it shows nothing
    Verify {
        /// What `export` wrote; `-` is the standard input
        file: PathBuf,
        /// The network
        #[arg(long, value_name = "FILE")]
        genesis: PathBuf,
    },
}

#[derive(Serialize)]
struct Exported {
    id: String,
    file: String,
    bytes: usize,
}

#[derive(Serialize)]
struct Judged {
    holds: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validator: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offence: Option<&'static str>,
}

impl Evidence {
    pub(super) fn verb(&self) -> &'static str {
        match self {
            Self::List => name_of::<ConsensusEvidence>().1,
            Self::Export { .. } => name_of::<ConsensusEvidenceExport>().1,
            Self::Verify { .. } => "evidence-verify",
        }
    }

    pub(super) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::List => list(context).await,
            Self::Export { id, out } => {
                let exported = context.call(ConsensusEvidenceExport { id }).await?;
                let octets = from_hex(&exported.file)?;
                files::write_new(&out, &octets)?;
                let file = out.display().to_string();
                let done = Exported { id: exported.id, file, bytes: octets.len() };
                Ok(context.report(&done)?.fields(vec![("file", cell(&done.file))]))
            }
            Self::Verify { file, genesis } => verify(context, &file, &genesis),
        }
    }
}

async fn list(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(ConsensusEvidence {}).await?;
    let row = |case: &stoq_admin::api::EvidenceCase| {
        vec![
            cell(&case.id),
            cell(&case.offence),
            cell(&case.validator),
            Cell::figure(case.epoch),
            Cell::figure(case.view),
            cell(show_time(case.found_at)),
            cell(&case.reason),
        ]
    };
    let rows = listed.cases.iter().map(row).collect();
    let head = ["id", "offence", "validator", "epoch", "view", "found", "reason"];
    Ok(context.report(&listed)?.table(&head, rows, "no validator was found to break the protocol"))
}

fn verify(context: &Context, file: &Path, genesis: &Path) -> Result<Report, ApiError> {
    let genesis = agreement::genesis(genesis)?;
    let octets = Bytes::from(files::read_up_to(file, EVIDENCE_LIMIT_BYTES)?);
    let read = EvidenceFile::from_bytes(&octets).map_err(|error| {
        ApiError::usage(
            "not-evidence",
            format!("{}: {error}", file.display()),
            "name what `stoqctl consensus evidence export` wrote",
        )
    })?;
    let mut judge = RegistryJudge::new(std::sync::Arc::clone(&genesis));
    match read.verify(&genesis, &mut judge) {
        Ok(finding) => {
            let judged = Judged {
                holds: true,
                reason: Some(finding.reason.clone()),
                validator: Some(finding.validator.key.to_string()),
                node: Some(finding.validator.name.to_string()),
                offence: Some(finding.offence.name()),
            };
            Ok(context.report(&judged)?.fields(vec![
                ("verdict", Cell::toned(finding.offence.name(), Tone::Bad)),
                ("validator", cell(finding.validator.key)),
                ("node", cell(&finding.validator.name)),
                ("epoch", cell(finding.epoch)),
                ("view", cell(finding.view)),
                ("reason", cell(&finding.reason)),
            ]))
        }
        Err(refusal) => {
            let reason = refusal.to_string();
            let judged = Judged {
                holds: false,
                reason: Some(reason.clone()),
                validator: None,
                node: None,
                offence: None,
            };
            let verdict = Cell::toned(format!("shows nothing: {reason}"), Tone::Warning);
            Ok(context
                .report(&judged)?
                .fields(vec![("verdict", verdict)])
                .exit(ExitCode::Unhealthy))
        }
    }
}

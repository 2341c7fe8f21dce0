//! `stoqctl crl`: the certificate revocation lists of this node's authority, for everybody who is no node.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Subcommand;
use stoq_admin::api::{Crl as List, CrlList, CrlShow};
use stoq_admin::{ApiError, ExitCode};

use super::name_of;
use crate::context::Context;
use crate::files;
use crate::human;
use crate::render::{Cell, Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Crl {
    /// Lists the revocation lists in force; they are made anew on a timer, and when something is revoked
    List,
    /// Prints one revocation list, as PEM
    #[command(after_help = "\
Example:
  stoqctl crl show 3 | openssl crl -noout -text")]
    Show {
        /// Which, as `stoqctl crl list` shows it
        shard: u8,
        /// Of this issuing key, as `stoqctl crl list` shows it; without it of the one in force
        #[arg(long, value_name = "KEY")]
        issuer: Option<String>,
        /// Writes it to this file, which must not exist yet, instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

impl Crl {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::List => name_of::<CrlList>(),
            Self::Show { .. } => name_of::<CrlShow>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let now = SystemTime::now();
        match self {
            Self::List => {
                let listed = context.call(CrlList {}).await?;
                let epoch = format!(
                    "the deny-list of the nodes has the number {} and {} entries",
                    listed.deny_list_epoch, listed.deny_list_entries
                );
                let report = table(context.report(&listed)?, &listed.crls, now).note(epoch);
                Ok(match &listed.problem {
                    Some(problem) => report.note(problem).exit(ExitCode::Unhealthy),
                    None => report,
                })
            }
            Self::Show { shard, issuer, out } => {
                let shown = context.call(CrlShow { shard, issuer_key_id: issuer }).await?;
                let report = context.report(&shown)?;
                match out {
                    None => Ok(report.text(&shown.pem)),
                    Some(file) => {
                        files::write_new(&file, shown.pem.as_bytes())?;
                        Ok(report.fields(vec![("written", cell(file.display()))]))
                    }
                }
            }
        }
    }
}

fn table(report: Report, crls: &[List], now: SystemTime) -> Report {
    let row = |one: &List| {
        vec![
            Cell::figure(one.shard),
            Cell::figure(one.number),
            Cell::figure(human::bytes(one.bytes as u64)),
            cell(human::moment(one.this_update, now)),
            cell(human::moment(one.next_update, now)),
            cell(&one.issuer_key_id),
        ]
    };
    let rows = crls.iter().map(row).collect();
    let head = ["shard", "number", "size", "made", "next", "issuing key"];
    report.table(&head, rows, "there is no list yet")
}

//! `stoqctl version`: what this program is, and what runs.

use clap::Args;
use serde::Serialize;
use stoq_admin::ApiError;
use stoq_admin::api::{VersionShow, VersionShown};

use crate::context::Context;
use crate::render::{Report, cell};

/// Shows the versions of stoqctl and of the running stoqd
#[derive(Args, Debug)]
pub(crate) struct Version {}

/// Both programs; why nothing is known of the daemon is said where that is so
#[derive(Serialize)]
struct Versions {
    stoqctl: Own,
    stoqd: Option<VersionShown>,
    stoqd_error: Option<ApiError>,
}

#[derive(Serialize)]
struct Own {
    version: &'static str,
    commit: Option<&'static str>,
}

impl Version {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        super::name_of::<VersionShow>()
    }

    /// A daemon that is not there is an answer here, and no failure
    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let own = Own { version: env!("CARGO_PKG_VERSION"), commit: option_env!("STOQ_COMMIT") };
        let own_text = described(own.version, own.commit);
        let (stoqd, stoqd_error) = match context.call(VersionShow {}).await {
            Ok(version) => (Some(version), None),
            Err(error) => (None, Some(error)),
        };
        let daemon_text = match (&stoqd, &stoqd_error) {
            (Some(stoqd), _) => described(&stoqd.version, stoqd.commit.as_deref()),
            (None, Some(error)) => format!("unknown: {}", error.message),
            (None, None) => "unknown".to_owned(),
        };
        let versions = Versions { stoqctl: own, stoqd, stoqd_error };
        Ok(context
            .report(&versions)?
            .fields(vec![("stoqctl", cell(own_text)), ("stoqd", cell(daemon_text))]))
    }
}

fn described(version: &str, commit: Option<&str>) -> String {
    match commit {
        Some(commit) => format!("{version} ({commit})"),
        None => version.to_owned(),
    }
}

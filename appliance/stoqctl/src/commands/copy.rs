//! `stoqctl copy`: a file or a tree to another node, or from one.

use std::path::PathBuf;

use clap::Args;
use stoq_admin::api::{CopyDone, CopyEnd, CopyEvent, CopyOptions, CopyRun, Request};
use stoq_admin::{ApiError, ExitCode};

use crate::context::Context;
use crate::human;
use crate::render::{Report, cell};

/// Copies a file or a tree to another node, or from one
#[derive(Args, Debug)]
#[command(after_help = "\
One side is NODE:PATH, the other a path on the host of stoqd; ./a:b is a path, a:b is b on node a.
Every file is verified by its BLAKE3 before it gets its name. An interrupted copy goes on where it
stopped. With --json each line is an object; the last has \"event\":\"result\" or \"event\":\"error\".

Examples:
  stoqctl copy ./photos beta:/srv/photos
  stoqctl copy beta:/var/log/app.log ./app.log")]
pub(crate) struct Copy {
    /// From: PATH or NODE:PATH
    source: CopyEnd,
    /// To: NODE:PATH or PATH
    destination: CopyEnd,
    /// Compares files that are there by content; without it equal size and time suffice
    #[arg(long)]
    verify_existing: bool,
}

impl Copy {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        super::name_of::<CopyRun>()
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let request = match self.request() {
            Ok(request) => request,
            Err(error) => return failed(context, error),
        };
        let mut progress = context.output().progress(&CopyRun::schema());
        let copied = context.client()?.copy(&request, |report| progress.show(report)).await;
        let shown = progress.end();
        let done = match copied {
            Ok(done) => done,
            Err(error) => return failed(context, error.into()),
        };
        shown.map_err(|error| {
            let message = format!("the copy is done, but its progress cannot be printed: {error}");
            ApiError::failed("unprintable-progress", message, "")
        })?;
        let report = context.report_line(&CopyEvent::Result(done.clone()))?;
        Ok(described(report, &done))
    }
}

impl Copy {
    fn request(self) -> Result<CopyRun, ApiError> {
        let request = CopyRun {
            source: absolute(self.source)?,
            destination: absolute(self.destination)?,
            options: CopyOptions { verify_existing: self.verify_existing },
        };
        request.validate()?;
        Ok(request)
    }
}

/// The daemon has another working directory than the caller
fn absolute(end: CopyEnd) -> Result<CopyEnd, ApiError> {
    let CopyEnd::Local(path) = end else { return Ok(end) };
    let resolved: PathBuf = std::path::absolute(&path).map_err(|error| {
        let message = format!("cannot make {} absolute: {error}", path.display());
        ApiError::failed("relative-path", message, "give the whole path")
    })?;
    // `SRC/.` means the content of a directory and `DST/` demands one: endings that a path loses when it is
    // made absolute.
    let written = path.as_os_str().as_encoded_bytes();
    Ok(CopyEnd::Local(match written {
        b"." => resolved.join("."),
        _ if written.ends_with(b"/.") => resolved.join("."),
        _ if written.ends_with(b"/") => resolved.join(""),
        _ => resolved,
    }))
}

/// The last line of the stream says that and why it failed; a refusal before the first line does too
fn failed(context: &Context, error: ApiError) -> Result<Report, ApiError> {
    let report = context.report_line(&CopyEvent::Error { error: error.clone() })?;
    Ok(report.failure(error))
}

fn described(report: Report, done: &CopyDone) -> Report {
    let unverified = done.files.saturating_sub(done.files_verified);
    let mut report = report.fields(vec![
        (
            "copied",
            cell(format!("{} in {}", human::bytes(done.bytes), human::count(done.files, "file"))),
        ),
        ("verified", cell(human::count(done.files_verified, "file"))),
        ("in place before", cell(human::bytes(done.bytes_resumed))),
        ("time", cell(human::duration(done.seconds))),
        ("rate", cell(human::rate(done.bytes_per_second))),
    ]);
    if unverified > 0 {
        let note = format!("{} not verified", human::count(unverified, "file"));
        report = report.note(note).exit(ExitCode::Unhealthy);
    }
    report
}

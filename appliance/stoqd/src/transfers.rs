//! The `copy` service of this node and the copies its operator asks for: who may, over which flow, and how far.
//! The engine is `copy`'s.

use std::sync::Arc;
use std::time::Instant;

use stoq::ServiceName;
use stoq_admin::ApiError;
use stoq_admin::api::{CopyDone, CopyEnd, CopyProgress, CopyRun, ProgressSink};

use crate::copy::{self, CopyError, Options, Permission, Progress, Summary};
use crate::node::Node;

/// Serves copies to the peers that the configuration allows
pub async fn serve(node: Arc<Node>) {
    let Ok(name) = ServiceName::new(stoq_config::COPY_SERVICE) else { return };
    let mut incoming = match node.endpoint.serve(name) {
        Ok(incoming) => incoming,
        Err(error) => return tracing::error!(%error, "the copy service could not start"),
    };
    while let Some(flow) = incoming.next().await {
        let node = Arc::clone(&node);
        tokio::spawn(async move {
            let peer = flow.peer().clone();
            let roots = node.roots();
            let permission = Permission { read: true, write: true };
            match copy::serve(flow, &roots, permission).await {
                Ok(summary) => tracing::info!(%peer, files = summary.files_verified, "copy served"),
                Err(error) => tracing::warn!(%peer, %error, "a copy failed"),
            }
        });
    }
}

/// Runs one copy for the operator
pub async fn run(
    node: &Node,
    request: CopyRun,
    progress: ProgressSink,
) -> Result<CopyDone, ApiError> {
    let started = Instant::now();
    let peer = match (&request.source, &request.destination) {
        (CopyEnd::Remote { node, .. }, _) | (_, CopyEnd::Remote { node, .. }) => node.clone(),
        (CopyEnd::Local(_), CopyEnd::Local(_)) => {
            return Err(ApiError::usage(
                "no-remote-side",
                "neither side of the copy names a node",
                "write one side as NODE:PATH; for local copies use cp",
            ));
        }
    };
    let session = node.peers.session(&peer).await.map_err(|error| unreachable(&error))?;
    let service = ServiceName::new(stoq_config::COPY_SERVICE).map_err(|error| {
        ApiError::failed("bad-service-name", error.to_string(), "report this as a defect")
    })?;
    let flow = session.open(&service);
    let report = |progress_now: Progress| {
        let seconds = started.elapsed().as_secs_f64();
        let rate =
            if seconds > 0.0 { progress_now.bytes_transferred as f64 / seconds } else { 0.0 };
        progress.report(CopyProgress {
            bytes_done: progress_now.bytes_done,
            bytes_total: progress_now.bytes_total,
            files_done: progress_now.files_done,
            files_total: progress_now.files_total,
            current: progress_now.current.map(|path| path.to_string()),
            bytes_per_second: rate,
        });
    };
    let options = Options { verify_existing: request.options.verify_existing };
    let outcome = match (&request.source, &request.destination) {
        (CopyEnd::Local(source), CopyEnd::Remote { path, .. }) => {
            copy::push(flow, source, path, options, report).await
        }
        (CopyEnd::Remote { path, .. }, CopyEnd::Local(destination)) => {
            copy::pull(flow, path, destination, options, report).await
        }
        _ => {
            return Err(ApiError::usage(
                "two-remote-sides",
                "both sides of the copy name a node",
                "copy to this node first, then on to the other",
            ));
        }
    };
    match outcome {
        Ok(summary) => Ok(done(&summary)),
        Err(error) => Err(failed(&error)),
    }
}

fn done(summary: &Summary) -> CopyDone {
    let seconds = summary.elapsed.as_secs_f64();
    let files = summary.files_verified + summary.files_unchanged;
    CopyDone {
        bytes: summary.bytes_in_place,
        bytes_resumed: summary.bytes_in_place.saturating_sub(summary.bytes_transferred),
        files,
        files_verified: files,
        seconds,
        bytes_per_second: if seconds > 0.0 {
            summary.bytes_transferred as f64 / seconds
        } else {
            0.0
        },
    }
}

fn unreachable(error: &crate::peers::ReachError) -> ApiError {
    ApiError::failed(
        "node-unreachable",
        error.to_string(),
        "check `stoqctl node list` and that stoqd runs there",
    )
}

fn failed(error: &CopyError) -> ApiError {
    let remedy = match error {
        CopyError::Flow(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            "the other node does not serve copies: set copy.roots and copy.allow in its stoqd.toml"
        }
        CopyError::Flow(cause) if cause.kind() == std::io::ErrorKind::PermissionDenied => {
            "this node may not copy there: add it to copy.allow in the other node's stoqd.toml"
        }
        CopyError::Incomplete(_) => "the named files were not copied; the rest is in place",
        _ => "run the copy again: it continues where it stopped",
    };
    ApiError::failed("copy-failed", error.to_string(), remedy)
}

//! What a command needs besides its own arguments: where `stoqd` is, and how its report is written.

use std::env;
use std::path::{Path, PathBuf};

use serde::Serialize;
use stoq_admin::api::{Envelope, Request};
use stoq_admin::{ApiError, Client};
use stoq_config::Surroundings;

use crate::command_line::Flags;
use crate::render::{Output, Report};

pub(crate) struct Context {
    schema: String,
    socket: Option<PathBuf>,
    output: Output,
}

impl Context {
    pub(crate) fn new(schema: String, flags: &Flags, output: Output) -> Self {
        Self { schema, socket: flags.socket.clone(), output }
    }

    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    pub(crate) fn output(&self) -> &Output {
        &self.output
    }

    /// A client of the daemon that was named, or of the one of this user
    pub(crate) fn client(&self) -> Result<Client, ApiError> {
        match &self.socket {
            Some(socket) => Ok(Client::new(socket)),
            None => default_socket().map(Client::new),
        }
    }

    /// Asks the daemon for one operation
    pub(crate) async fn call<R: Request>(&self, request: R) -> Result<R::Reply, ApiError> {
        Ok(self.client()?.call(&request).await?)
    }

    /// A report that prints `body` as JSON; what people read is added to it
    pub(crate) fn report<T: Serialize>(&self, body: &T) -> Result<Report, ApiError> {
        let envelope = Envelope { schema: self.schema.clone(), body };
        serde_json::to_string_pretty(&envelope).map(Report::new).map_err(unprintable)
    }

    /// The same on one line, for the last line of a stream
    pub(crate) fn report_line<T: Serialize>(&self, body: &T) -> Result<Report, ApiError> {
        let envelope = Envelope { schema: self.schema.clone(), body };
        serde_json::to_string(&envelope).map(Report::new).map_err(unprintable)
    }
}

fn unprintable(error: serde_json::Error) -> ApiError {
    ApiError::failed("unprintable-reply", format!("cannot be written as JSON: {error}"), "")
}

/// Where this user's daemon has its socket when its file does not say
fn default_socket() -> Result<PathBuf, ApiError> {
    let variable = |name| env::var_os(name).map(PathBuf::from);
    let [state, runtime, home] = ["XDG_STATE_HOME", "XDG_RUNTIME_DIR", "HOME"].map(variable);
    let surroundings = Surroundings {
        root: rustix::process::geteuid().is_root(),
        xdg_state_home: state.as_deref(),
        xdg_runtime_dir: runtime.as_deref(),
        home: home.as_deref(),
        ..Surroundings::default()
    };
    let unknown = |why: String| {
        ApiError::usage("no-socket", why, "name the socket with --socket PATH or STOQ_SOCKET")
    };
    let state_home = surroundings
        .state_home()
        .ok_or_else(|| unknown("neither XDG_RUNTIME_DIR nor HOME is set".to_owned()))?;
    surroundings
        .admin_socket(Path::new(&state_home))
        .map_err(|problem| unknown(problem.to_string()))
}

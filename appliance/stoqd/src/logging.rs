//! Logs: human or JSON lines on standard error, with a level that can be changed while running and returns by
//! itself.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use stoq_config::LogFormat;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

type Handle = reload::Handle<EnvFilter, Registry>;

/// The way to the running filter
#[derive(Debug)]
pub struct Logging {
    handle: Handle,
    /// What applies when nothing is overridden, and until when something is
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    configured: String,
    active: String,
    reverts_at: Option<SystemTime>,
    /// Tells a newer override from the one a timer was set for
    change: u64,
}

/// Starts logging; the filter's syntax was checked with the configuration
pub fn start(format: LogFormat, filter: &str) -> Result<Logging, String> {
    let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let (layer, handle) = reload::Layer::new(parsed);
    let registry = tracing_subscriber::registry().with(layer);
    // Colours are for a person's terminal: in a file or the journal they are noise.
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let outcome = match format {
        LogFormat::Json => registry.with(lines.json()).try_init(),
        LogFormat::Human => registry.with(lines.with_target(false)).try_init(),
    };
    outcome.map_err(|error| error.to_string())?;
    let state = State {
        configured: filter.to_owned(),
        active: filter.to_owned(),
        reverts_at: None,
        change: 0,
    };
    Ok(Logging { handle, state: Mutex::new(state) })
}

impl Logging {
    /// The filter in force, and when it returns to the configured one
    pub fn active(&self) -> (String, Option<SystemTime>) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.active.clone(), state.reverts_at)
    }

    fn apply(&self, filter: &str, reverts_at: Option<SystemTime>) -> Result<u64, String> {
        let parsed = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
        self.handle.reload(parsed).map_err(|error| error.to_string())?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        filter.clone_into(&mut state.active);
        state.reverts_at = reverts_at;
        state.change += 1;
        Ok(state.change)
    }

    /// Takes over the filter of a changed configuration
    pub fn configure(&self, filter: &str) -> Result<(), String> {
        self.apply(filter, None)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        filter.clone_into(&mut state.configured);
        Ok(())
    }

    /// Overrides the filter, for a while where `lasting` says so
    pub fn set(
        self: &std::sync::Arc<Self>,
        filter: &str,
        lasting: Option<Duration>,
    ) -> Result<Option<SystemTime>, String> {
        let reverts_at = lasting.map(|lasting| SystemTime::now() + lasting);
        let change = self.apply(filter, reverts_at)?;
        if let Some(lasting) = lasting {
            let logging = std::sync::Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(lasting).await;
                logging.revert(change);
            });
        }
        Ok(reverts_at)
    }

    fn revert(&self, change: u64) {
        let configured = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.change != change {
                return;
            }
            state.configured.clone()
        };
        if let Err(error) = self.apply(&configured, None) {
            tracing::error!(%error, "the log filter could not be restored");
        }
    }
}

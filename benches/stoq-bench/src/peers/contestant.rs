//! Who takes part in a comparison: finds what a peer needs on this host, builds what can be built,
//! and starts one run of either side. When it runs and what the figures mean is decided elsewhere.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::Serialize;

use super::elsewhere::Elsewhere;
use super::program::RunError;
use super::stacks::{self, Programs, Ran};
use super::tunnels::{self, Tool, Tunnel};
use super::{Peer, Plan, say};

/// A peer that can run here
pub enum Contestant {
    /// A program of `benches/peers`, beside `stoq-bench load`
    Stack(PathBuf),
    /// A tunnel beside two `stoqd`
    Tunnel {
        /// Ours
        ours: Tool,
        /// Theirs
        theirs: Tool,
    },
}

impl Contestant {
    /// Finds, or builds, what a peer needs
    pub async fn find(peer: Peer, programs: Option<&Path>) -> Result<Self, NoContestant> {
        if let Some(tunnel) = peer.tunnel() {
            let theirs = Tool::find(tunnel).await.map_err(NoContestant::Absent)?;
            let ours = Tool::find(Tunnel::Stoq).await.map_err(NoContestant::Absent)?;
            return Ok(Self::Tunnel { ours, theirs });
        }
        let absent = |error: RunError| NoContestant::Absent(error.to_string());
        let (name, found) = (peer.name(), Programs::locate(programs).map_err(absent)?);
        if let Some(program) = found.of(&name) {
            return Ok(Self::Stack(program));
        }
        if programs.is_some() || !found.is_packaged(&name).await {
            return Err(NoContestant::Absent(found.absence(&name).await));
        }
        say(&format!("building peer-{name}: {}", found.remedy(&name)));
        let built = found.build(&name).await;
        built.map(Self::Stack).map_err(|error| NoContestant::Failed(error.to_string()))
    }

    /// What packets go over
    pub fn path(&self) -> &'static str {
        match self {
            Self::Stack(_) => "loopback",
            Self::Tunnel { theirs, .. } => theirs.path(),
        }
    }

    /// One run of ours
    pub async fn ours(&self, plan: &Plan) -> Result<Ran, RunError> {
        let elsewhere = Elsewhere::begin()?;
        let mut ran = match self {
            Self::Stack(_) => stacks::run_ours(plan).await,
            Self::Tunnel { ours, .. } => tunnels::run(ours, self.path(), plan).await,
        }?;
        ran.transfer.other_cpu = Some(elsewhere.end()?);
        Ok(ran)
    }

    /// One run of theirs
    pub async fn theirs(&self, plan: &Plan) -> Result<Ran, RunError> {
        let elsewhere = Elsewhere::begin()?;
        let mut ran = match self {
            Self::Stack(program) => stacks::run_peer(program, plan).await,
            Self::Tunnel { theirs, .. } => tunnels::run(theirs, self.path(), plan).await,
        }?;
        // Where the kernel's own threads do the work, it cannot be told from other work.
        let other = elsewhere.end()?;
        ran.transfer.other_cpu = ran.transfer.cpu_sender.map(|_| other);
        Ok(ran)
    }
}

/// Why a peer does not run
pub enum NoContestant {
    /// This host does not have it
    Absent(String),
    /// It should be there
    Failed(String),
}

/// A peer and whether it could run here now
#[derive(Debug, Serialize)]
pub struct Presence {
    /// The peer
    pub name: String,
    /// What is missing, or would be built first; absent where nothing is
    pub missing: Option<String>,
}

/// Every peer with what it lacks on this host; nothing is built
pub async fn presence() -> Vec<Presence> {
    let mut all = Vec::new();
    for peer in Peer::value_variants() {
        let name = peer.name();
        let missing = match peer.tunnel() {
            Some(tunnel) => match Tool::find(tunnel).await {
                Ok(_) => tunnels::find_stoq().err(),
                Err(why) => Some(why),
            },
            None => match Programs::locate(None) {
                Ok(found) if found.of(&name).is_some() => None,
                Ok(found) => Some(found.absence(&name).await),
                Err(error) => Some(error.to_string()),
            },
        };
        all.push(Presence { name, missing });
    }
    all
}

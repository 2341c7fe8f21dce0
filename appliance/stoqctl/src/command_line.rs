//! The command line as a whole: flags that every command takes, and the nouns. What a noun takes is in its
//! own file under `commands`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use stoq_admin::ApiError;

use crate::commands::{
    asset, audit, backup, ca, certificate, completion, config, connection, consensus, copy, crl,
    doctor, drain, listener, log, measure, node, proof, root, service, session, signer, status,
    token, version, wait, worker,
};
use crate::context::Context;
use crate::render::Report;

/// Operates a STOQ node: asks its daemon, stoqd, over a local socket
#[derive(Debug, Parser)]
#[command(
    name = "stoqctl",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  stoqctl status                                        how this node is
  stoqctl service publish web --to [::1]:8080 --allow any-enrolled
  stoqctl service attach web@beta --listen [::1]:9000   reach beta's web at [::1]:9000
  stoqctl copy ./photos beta:/srv/photos                copy a tree, verified
  stoqctl token create gamma                            let a node join
  stoqctl certificate revoke 3f9a...                    end a node, everywhere, now

Exit codes:
  0 done   1 failed   2 usage   3 unhealthy or different   4 restart or operator needed
  5 permission   6 stoqd unreachable   7 timed out   8 conflict"
)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) flags: Flags,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes
#[derive(Args, Debug)]
pub(crate) struct Flags {
    /// Prints one JSON object {"schema":"stoqctl.<noun>.<verb>/1",...} instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Says nothing but the data that was asked for, and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Prints without colours; the environment variable NO_COLOR does the same
    #[arg(long, global = true)]
    pub(crate) no_color: bool,
    /// The socket of stoqd [default: /run/stoq/stoqd.sock for root, else in XDG_RUNTIME_DIR]
    #[arg(long, global = true, value_name = "PATH", env = "STOQ_SOCKET", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Status(status::Status),
    /// This node's identity, the nodes it knows, and enrolment
    #[command(subcommand)]
    Node(node::Node),
    /// Sessions with other nodes
    #[command(subcommand)]
    Session(session::Session),
    /// QUIC connections
    #[command(subcommand)]
    Connection(connection::Connection),
    /// The threads of the data plane
    #[command(subcommand)]
    Worker(worker::Worker),
    /// Bound addresses
    #[command(subcommand)]
    Listener(listener::Listener),
    /// Local sockets published to other nodes, and theirs attached here
    #[command(subcommand)]
    Service(service::Service),
    Copy(copy::Copy),
    Measure(measure::Measure),
    Doctor(doctor::Doctor),
    /// The root of trust; works without stoqd
    #[command(subcommand)]
    Root(root::Root),
    /// The certificate authority of this node
    #[command(subcommand)]
    Ca(ca::Ca),
    /// Certificates: the inventory, issuing, revoking, judging
    #[command(subcommand)]
    Certificate(certificate::Certificate),
    /// The agreement of the validators: its keys and beginning, how it stands, evidence and blocks
    #[command(subcommand)]
    Consensus(consensus::Consensus),
    /// Assets and what the validators agreed on about them
    #[command(subcommand)]
    Asset(asset::Asset),
    /// The four proofs of an operation; works without stoqd
    #[command(subcommand)]
    Proof(proof::Proof),
    /// Join tokens
    #[command(subcommand)]
    Token(token::Token),
    /// stoqd.toml and the configuration in force
    #[command(subcommand)]
    Config(config::Config),
    /// The transparency log of certificates; and `level`, how much stoqd logs about itself
    #[command(subcommand)]
    Log(log::Log),
    /// Certificate revocation lists
    #[command(subcommand)]
    Crl(crl::Crl),
    /// What was done with the authority, and by whom
    #[command(subcommand)]
    Audit(audit::Audit),
    /// What signs for the authority
    #[command(subcommand)]
    Signer(signer::Signer),
    /// Copies of the authority
    #[command(subcommand)]
    Backup(backup::Backup),
    Drain(drain::Drain),
    /// Waits until something is so
    #[command(subcommand)]
    Wait(wait::Wait),
    Completion(completion::Completion),
    Version(version::Version),
}

/// Applies one expression to whichever noun was given
macro_rules! each {
    ($command:expr, $noun:ident => $body:expr) => {
        match $command {
            Command::Status($noun) => $body,
            Command::Node($noun) => $body,
            Command::Session($noun) => $body,
            Command::Connection($noun) => $body,
            Command::Worker($noun) => $body,
            Command::Listener($noun) => $body,
            Command::Service($noun) => $body,
            Command::Copy($noun) => $body,
            Command::Measure($noun) => $body,
            Command::Doctor($noun) => $body,
            Command::Root($noun) => $body,
            Command::Ca($noun) => $body,
            Command::Certificate($noun) => $body,
            Command::Consensus($noun) => $body,
            Command::Asset($noun) => $body,
            Command::Proof($noun) => $body,
            Command::Token($noun) => $body,
            Command::Config($noun) => $body,
            Command::Log($noun) => $body,
            Command::Crl($noun) => $body,
            Command::Audit($noun) => $body,
            Command::Signer($noun) => $body,
            Command::Backup($noun) => $body,
            Command::Drain($noun) => $body,
            Command::Wait($noun) => $body,
            Command::Completion($noun) => $body,
            Command::Version($noun) => $body,
        }
    };
}

impl Command {
    /// Noun and verb, as in the schema of what is printed
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        each!(self, noun => noun.name())
    }

    /// Runs the command; the report holds its JSON and its text alike, so no command can lack one of them
    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        each!(self, noun => noun.run(context).await)
    }
}

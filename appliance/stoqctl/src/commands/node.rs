//! `stoqctl node`: this node's identity, the nodes it knows, and how nodes enrol with one another.

use std::io::Read;
use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use stoq_admin::api::{
    NodeAdd, NodeJoin, NodeList, NodeRemove, NodeShow, NodeTokenCreate, Peer, PeerSource,
};
use stoq_admin::{ApiError, ExitCode, parse_duration, parse_remote_address};
use stoq_interface::NodeId;

use super::status::certificate;
use super::{name_of, or_dash};
use crate::context::Context;
use crate::human;
use crate::render::{Cell, Report, cell};

/// Longest token file that is read
const TOKEN_BYTES_MAX: u64 = 16 << 10;

#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    /// Shows who this node is
    Show,
    /// Lists the nodes this one knows
    List,
    /// Remembers where a node is reached
    #[command(after_help = "\
The address says only where to look: the node must prove its name with its certificate.

Example:
  stoqctl node add beta [fd00::2]:8444")]
    Add {
        /// The node's name
        node: NodeId,
        /// Where it listens: [address]:port
        #[arg(value_parser = parse_remote_address)]
        address: SocketAddrV6,
    },
    /// Forgets a node that was added or enrolled
    Remove {
        /// The node's name
        node: NodeId,
    },
    /// Join tokens
    #[command(subcommand)]
    Token(Token),
    Join(Join),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a token with which one named node may enrol once
    #[command(after_help = "\
The token is a secret until it is used: it is the only thing printed, so that it can be piped.

Example:
  stoqctl node token create beta --lifetime 10m | ssh beta stoqctl node join --token-file -")]
    Create {
        /// The node that may enrol
        node: NodeId,
        /// Time until the token expires, with its unit: 30s, 15m, 24h or 7d
        #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
        lifetime: Duration,
    },
}

/// Enrols this node with the one that made the token, and switches to the new identity
#[derive(Args, Debug)]
#[command(after_help = "\
A token in a file or on the standard input is not seen by other users of this host; one on the command
line is, until it is used.

Examples:
  stoqctl node join --token-file /run/token
  stoqctl node join STOQ-TOKEN")]
#[group(required = true, multiple = false)]
pub(crate) struct Join {
    /// What `stoqctl node token create` printed on the other node
    token: Option<String>,
    /// Reads the token from a file; - is the standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Node {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Show => name_of::<NodeShow>(),
            Self::List => name_of::<NodeList>(),
            Self::Add { .. } => name_of::<NodeAdd>(),
            Self::Remove { .. } => name_of::<NodeRemove>(),
            Self::Token(Token::Create { .. }) => name_of::<NodeTokenCreate>(),
            Self::Join(_) => name_of::<NodeJoin>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Show => show(context).await,
            Self::List => list(context).await,
            Self::Add { node, address } => {
                let added = context.call(NodeAdd { node, address }).await?;
                let note = format!("{} is looked for at {address}", added.peer.node);
                Ok(context.report(&added)?.note(note))
            }
            Self::Remove { node } => {
                let removed = context.call(NodeRemove { node }).await?;
                let note = format!("{} is forgotten", removed.peer.node);
                Ok(context.report(&removed)?.note(note))
            }
            Self::Token(Token::Create { node, lifetime }) => token(context, node, lifetime).await,
            Self::Join(join) => join.run(context).await,
        }
    }
}

async fn show(context: &Context) -> Result<Report, ApiError> {
    let shown = context.call(NodeShow {}).await?;
    let now = SystemTime::now();
    let addresses: Vec<_> = shown.addresses.iter().map(ToString::to_string).collect();
    let fingerprint = shown.certificate.as_ref().map(|one| one.fingerprint.as_str());
    Ok(context.report(&shown)?.fields(vec![
        ("node", cell(&shown.node)),
        ("certificate", certificate(shown.certificate.as_ref(), now)),
        ("fingerprint", cell(or_dash(fingerprint))),
        ("issued by", cell(or_dash(shown.issuer.as_ref()))),
        ("root", cell(or_dash(shown.root_fingerprint.as_ref()))),
        ("root pin", cell(or_dash(shown.pins.as_ref().map(|pins| &pins.root)))),
        ("issuing pin", cell(or_dash(shown.pins.as_ref().map(|pins| &pins.issuing)))),
        ("addresses", cell(addresses.join(", "))),
    ]))
}

async fn list(context: &Context) -> Result<Report, ApiError> {
    let listed = context.call(NodeList {}).await?;
    let rows = listed.peers.iter().map(peer_row).collect();
    let empty =
        "no node is known; `stoqctl node add` names one, `stoqctl node token create` enrols one";
    Ok(context.report(&listed)?.table(&["node", "address", "source", "sessions"], rows, empty))
}

fn peer_row(peer: &Peer) -> Vec<Cell> {
    let source = match peer.source {
        PeerSource::Config => "config",
        PeerSource::Enrolled => "enrolled",
        PeerSource::Added => "added",
        PeerSource::Authority => "authority",
    };
    vec![cell(&peer.node), cell(or_dash(peer.address)), cell(source), Cell::figure(peer.sessions)]
}

async fn token(context: &Context, node: NodeId, lifetime: Duration) -> Result<Report, ApiError> {
    let lifetime_seconds = lifetime.as_secs();
    if lifetime_seconds == 0 {
        return Err(ApiError::usage(
            "short-lifetime",
            "a token must live for a second at least",
            "give --lifetime as 30s, 15m or 1h",
        ));
    }
    let made = context.call(NodeTokenCreate { node, lifetime_seconds }).await?;
    let expires = human::moment(made.expires_at, SystemTime::now());
    let note = format!("with this token {} may enrol once; it expires {expires}:", made.node);
    Ok(context.report(&made)?.note(note).text(&made.token))
}

impl Join {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let token = match (self.token, self.token_file) {
            (Some(token), _) => token,
            (None, Some(file)) => read_token(&file)?,
            (None, None) => String::new(),
        };
        let token = token.trim().to_owned();
        if token.is_empty() {
            return Err(ApiError::usage(
                "no-token",
                "the token is empty",
                "`stoqctl node token create NODE` on the other node prints one",
            ));
        }
        let joined = context.call(NodeJoin { token }).await?;
        let now = SystemTime::now();
        Ok(context.report(&joined)?.fields(vec![
            ("node", cell(&joined.node)),
            ("issued by", cell(&joined.issuer)),
            ("certificate", certificate(Some(&joined.certificate), now)),
            ("root", cell(&joined.root_fingerprint)),
        ]))
    }
}

fn read_token(file: &PathBuf) -> Result<String, ApiError> {
    let mut token = String::new();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut token)
    } else {
        std::fs::File::open(file)
            .and_then(|opened| opened.take(TOKEN_BYTES_MAX).read_to_string(&mut token))
    };
    read.map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ExitCode::Permission,
            _ => ExitCode::Failed,
        };
        let message = format!("cannot read the token from {}: {error}", file.display());
        ApiError::new(exit, "unreadable-token", message, "check the path and who may read it")
    })?;
    Ok(token)
}

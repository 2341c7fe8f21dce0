//! `stoqctl token`: join tokens of this node's authority. `stoqctl node token create` makes them as well.

use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use stoq_admin::api::{TokenCreate, TokenList, TokenRevoke, WaitingToken};
use stoq_admin::{ApiError, parse_duration};
use stoq_interface::NodeId;

use super::name_of;
use crate::context::Context;
use crate::human;
use crate::render::{Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    Create(Create),
    /// Lists the tokens that wait for use; never their secrets
    List,
    /// Takes a token back: nobody can enrol with it any more
    #[command(after_help = "\
Example:
  stoqctl token revoke 4f9c2a7d1e0b6c83aa51bd0973c4e2f6    # an ID of `stoqctl token list`")]
    Revoke {
        /// Its ID, as `stoqctl token list` shows it
        id: String,
    },
}

/// Makes a token with which one named node may enrol once
#[derive(Args, Debug)]
#[command(after_help = "\
The token is a secret until it is used: it is the only thing printed, so that it can be piped.

Examples:
  stoqctl token create beta --lifetime 10m | ssh beta stoqctl node join --token-file -
  stoqctl token create beta --address 2001:db8::b      beta's certificates will prove this address as well")]
pub(crate) struct Create {
    /// The node that may enrol
    node: NodeId,
    /// Time until the token expires, with its unit: 30s, 15m, 24h or 7d
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_duration)]
    lifetime: Duration,
    /// An address that the node's certificates will carry; may be given more than once
    #[arg(long = "address", value_name = "ADDRESS")]
    addresses: Vec<Ipv6Addr>,
}

impl Token {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Create(_) => name_of::<TokenCreate>(),
            Self::List => name_of::<TokenList>(),
            Self::Revoke { .. } => name_of::<TokenRevoke>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let now = SystemTime::now();
        match self {
            Self::Create(create) => create.run(context, now).await,
            Self::List => {
                let listed = context.call(TokenList {}).await?;
                let row = |one: &WaitingToken| {
                    vec![cell(&one.id), cell(&one.node), cell(human::moment(one.expires_at, now))]
                };
                let rows = listed.tokens.iter().map(row).collect();
                let empty = "no token waits for use; `stoqctl token create NODE` makes one";
                Ok(context.report(&listed)?.table(&["id", "node", "expires"], rows, empty))
            }
            Self::Revoke { id } => {
                let revoked = context.call(TokenRevoke { id }).await?;
                let note = format!("{} cannot enrol with it any more", revoked.token.node);
                Ok(context.report(&revoked)?.note(note))
            }
        }
    }
}

impl Create {
    async fn run(self, context: &Context, now: SystemTime) -> Result<Report, ApiError> {
        let Self { node, lifetime, addresses } = self;
        let lifetime_seconds = lifetime.as_secs();
        if lifetime_seconds == 0 {
            return Err(ApiError::usage(
                "short-lifetime",
                "a token must live for a second at least",
                "give --lifetime as 30s, 15m or 1h",
            ));
        }
        let made = context.call(TokenCreate { node, lifetime_seconds, addresses }).await?;
        let expires = human::moment(made.expires_at, now);
        let note = format!("with this token {} may enrol once; it expires {expires}:", made.node);
        Ok(context.report(&made)?.note(note).text(&made.token))
    }
}

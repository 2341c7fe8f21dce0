//! Giving a command to the authority of another node: signed here with an operator's key, passed on by this node's
//! daemon over its session with that node. The key is read here and goes nowhere.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use prost::Message;
use stoq_admin::api::{CaOperate, NodeShow, ORDER_LABEL, REPLY_LABEL};
use stoq_admin::{ApiError, decode_pem, encode_pem};
use stoq_interface::NodeId;
use stoq_trustchain::KeyPair;
use stoq_trustchain::calls::Operator;

use crate::context::Context;
use crate::files;

/// To whom a command is given
#[derive(Args, Debug)]
pub(crate) struct Elsewhere {
    /// Has the authority of this node do it instead, by order of an operator
    #[arg(long, value_name = "NODE", requires = "operator", requires = "operator_key")]
    at: Option<NodeId>,
    /// The operator's certificate: what `stoqctl certificate issue --profile operator` wrote on that node
    #[arg(long, value_name = "FILE", requires = "at")]
    operator: Option<PathBuf>,
    /// The operator's key; it stays on this host
    #[arg(long, value_name = "FILE", requires = "at")]
    operator_key: Option<PathBuf>,
}

impl Elsewhere {
    /// Whether the command is for another node
    pub(crate) fn is_meant(&self) -> bool {
        self.at.is_some()
    }

    /// Gives it
    pub(crate) async fn order<R: Message + Default>(
        &self,
        context: &Context,
        method: &str,
        request: &impl Message,
    ) -> Result<R, ApiError> {
        let (Some(at), Some(certificate), Some(key)) =
            (&self.at, &self.operator, &self.operator_key)
        else {
            return Err(ApiError::usage(
                "no-operator",
                "an order needs a node, a certificate and a key",
                "give --at, --operator and --operator-key together",
            ));
        };
        let operator = operator(certificate, key)?;
        // The order names the node that passes it on, so that nobody else can.
        let over = context.call(NodeShow {}).await?.node;
        let order = operator.order(at, &over, method, request, SystemTime::now());
        let order = order.map_err(|error| {
            ApiError::failed("not-signed", error.to_string(), "check the operator's files")
        })?;
        let order_pem = encode_pem(ORDER_LABEL, &order.encode_to_vec());
        let operated = context.call(CaOperate { authority: at.clone(), order_pem }).await?;
        let reply = decode_pem(REPLY_LABEL, &operated.reply_pem).ok();
        let reply = reply.and_then(|blocks| R::decode(blocks.first()?.as_slice()).ok());
        reply.ok_or_else(|| {
            ApiError::failed(
                "bad-reply",
                "the authority's reply is not one to this order",
                "stoqctl and that node's stoqd may be of different versions",
            )
        })
    }
}

fn operator(certificate: &Path, key: &Path) -> Result<Operator, ApiError> {
    let blocks = files::read_pem("CERTIFICATE", certificate)?;
    let leaf = blocks.into_iter().next().unwrap_or_default();
    let bad = |error: String| {
        let remedy = "name the operator's certificate and the key it was issued for";
        ApiError::usage("bad-operator", error, remedy)
    };
    let key = KeyPair::load(key).map_err(|error| bad(error.to_string()))?;
    Operator::new(leaf, key).map_err(|error| bad(error.to_string()))
}

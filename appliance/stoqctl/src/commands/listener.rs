//! `stoqctl listener`: bound addresses.

use clap::Subcommand;
use stoq_admin::ApiError;
use stoq_admin::api::ListenerList;

use crate::context::Context;
use crate::render::{Cell, Report, cell};

#[derive(Debug, Subcommand)]
pub(crate) enum Listener {
    /// Lists the addresses on which this node listens
    List,
}

impl Listener {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::List => super::name_of::<ListenerList>(),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self::List = self;
        let listed = context.call(ListenerList {}).await?;
        let rows = listed
            .listeners
            .iter()
            .map(|one| {
                let steered = cell(super::yes(one.steered));
                vec![cell(one.address), Cell::figure(one.sockets), steered]
            })
            .collect();
        let empty = "this node listens nowhere";
        Ok(context.report(&listed)?.table(&["address", "sockets", "steered"], rows, empty))
    }
}

//! `stoqctl proof`: plots, and the four proofs of an operation, made and judged on this host alone.

use clap::Subcommand;
use stoq_admin::ApiError;

use crate::context::Context;
use crate::render::Report;

mod make;
mod plot;
mod verify;

pub(super) use make::read_csr;

#[derive(Debug, Subcommand)]
pub(crate) enum Proof {
    Plot(plot::Plot),
    Make(make::Make),
    Verify(verify::Verify),
}

impl Proof {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        let verb = match self {
            Self::Plot(_) => "plot",
            Self::Make(_) => "make",
            Self::Verify(_) => "verify",
        };
        ("proof", verb)
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Plot(plot) => plot.run(context),
            Self::Make(make) => make.run(context),
            Self::Verify(verify) => verify.run(context),
        }
    }
}

//! `stoqctl asset`: assets by agreement of the validators, and the receipts that show it.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use stoq_admin::api::{
    AssetAction, AssetCertificate, AssetDone, AssetKind, AssetList, AssetOperate, AssetRegister,
    AssetRelease, AssetShow, AssetTransfer,
};
use stoq_admin::{ApiError, encode_pem, show_time};
use stoq_hypermesh::receipt::RECEIPT_LIMIT_BYTES;

use super::name_of;
use crate::commands::agreement::{from_hex, to_hex, write_receipt};
use crate::commands::proof::read_csr;
use crate::context::Context;
use crate::files;
use crate::render::{Report, cell};

mod receipt;
mod show;

#[derive(Debug, Subcommand)]
pub(crate) enum Asset {
    Register(Register),
    /// Lists registered assets
    List {
        /// Of this kind alone
        #[arg(long, value_enum)]
        kind: Option<Kind>,
        /// Of this requester alone
        #[arg(long, value_name = "REQUESTER", conflicts_with = "own")]
        owner: Option<String>,
        /// Of this node's key alone
        #[arg(long)]
        own: bool,
        /// At most so many [default: 100]
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Shows an asset and what is taken of it
    Show {
        /// Its name (`stoqctl asset list`)
        asset: String,
    },
    /// Takes of an asset, uses what was taken, says that it failed, restores, retires
    #[command(subcommand)]
    Operate(Operate),
    /// Gives an asset to another owner; its certificate ends
    Transfer {
        /// Its name
        asset: String,
        /// The requester that shall own it (`stoqctl consensus key show`)
        #[arg(long, value_name = "REQUESTER")]
        to: String,
        #[command(flatten)]
        proof: Shown,
    },
    /// Gives back what was allocated
    Release {
        /// What (`stoqctl asset show`)
        allocation: String,
        #[command(flatten)]
        proof: Shown,
    },
    Certificate(Certificate),
    /// Receipts of operations
    #[command(subcommand)]
    Receipt(receipt::Receipt),
}

/// Where the receipt goes
#[derive(Args, Debug)]
pub(crate) struct Shown {
    /// Writes the receipt there, which shows the agreement to anyone; must not exist yet
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

/// What an asset is
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// Processor time, in thousandths of a logical processor
    Cpu,
    /// Whole accelerators
    Gpu,
    /// Main memory, in bytes
    Memory,
    /// A file system, in bytes
    Storage,
    /// An interface, in bits per second
    Network,
    /// Instances of a container
    Container,
}

impl From<Kind> for AssetKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Cpu => Self::Cpu,
            Kind::Gpu => Self::Gpu,
            Kind::Memory => Self::Memory,
            Kind::Storage => Self::Storage,
            Kind::Network => Self::Network,
            Kind::Container => Self::Container,
        }
    }
}

/// Has the validators register something of this host
#[derive(Args, Debug)]
#[command(after_help = "\
How much there is of cpu, memory, storage and network is read from the host unless --capacity says it.

Examples:
  stoqctl asset register cpu main
  stoqctl asset register storage data --path /srv --receipt data.receipt
  stoqctl asset register gpu accelerators --capacity 2 --shared")]
pub(crate) struct Register {
    /// What it is
    #[arg(value_enum)]
    kind: Kind,
    /// What this node calls it: 1 to 63 of a-z, 0-9 and -
    name: String,
    /// How much there is, in units of its kind
    #[arg(long, value_name = "N")]
    capacity: Option<u64>,
    /// Storage: a directory on the file system
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Network: the interface
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Every requester may take of it for itself, not only its owner
    #[arg(long)]
    shared: bool,
    #[command(flatten)]
    proof: Shown,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operate {
    /// Takes of what is available
    Allocate {
        /// Of which asset
        asset: String,
        /// How much, in units of its kind
        #[arg(long, value_name = "N")]
        quantity: u64,
        /// For which requester [default: this node]
        #[arg(long = "for", value_name = "REQUESTER")]
        holder: Option<String>,
        #[command(flatten)]
        proof: Shown,
    },
    /// Begins to use what was allocated
    Use {
        /// What
        allocation: String,
        #[command(flatten)]
        proof: Shown,
    },
    /// Says that what was allocated does not work
    Fail {
        /// What
        allocation: String,
        #[command(flatten)]
        proof: Shown,
    },
    /// Makes what failed available again
    Restore {
        /// Of which asset
        asset: String,
        #[command(flatten)]
        proof: Shown,
    },
    /// Takes an asset out of the registry, of which nothing is allocated
    Retire {
        /// Which
        asset: String,
        #[command(flatten)]
        proof: Shown,
    },
    /// Ends an asset's certificate before its time
    EndCertificate {
        /// Of which asset
        asset: String,
        #[command(flatten)]
        proof: Shown,
    },
}

/// Has an asset of this node certified: the validators agree to the request, then the authority issues
#[derive(Args, Debug)]
#[command(after_help = "\
Only the registered owner gets a certificate, and an asset has one at a time.

Example:
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout disk.key -subj / -out disk.csr
  stoqctl asset certificate storage-mfz... --csr disk.csr --out disk.pem --receipt disk.receipt")]
pub(crate) struct Certificate {
    /// Its name
    asset: String,
    /// The request for it, PKCS #10 in PEM or DER
    #[arg(long, value_name = "FILE")]
    csr: PathBuf,
    /// The agreement to this request, where there is one already (`stoqctl consensus submit --receipt`)
    #[arg(long, value_name = "FILE")]
    agreed: Option<PathBuf>,
    /// Certificate and issuing authority; must not exist yet
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    proof: Shown,
}

impl Asset {
    pub(crate) fn name(&self) -> (&'static str, &'static str) {
        match self {
            Self::Register(_) => name_of::<AssetRegister>(),
            Self::List { .. } => name_of::<AssetList>(),
            Self::Show { .. } => name_of::<AssetShow>(),
            Self::Operate(_) => name_of::<AssetOperate>(),
            Self::Transfer { .. } => name_of::<AssetTransfer>(),
            Self::Release { .. } => name_of::<AssetRelease>(),
            Self::Certificate(_) => name_of::<AssetCertificate>(),
            Self::Receipt(receipt) => ("asset", receipt.verb()),
        }
    }

    pub(crate) async fn run(self, context: &Context) -> Result<Report, ApiError> {
        match self {
            Self::Register(register) => register.run(context).await,
            Self::List { kind, owner, own, limit } => {
                let kind = kind.map(AssetKind::from);
                show::list(context, AssetList { kind, owner, own, limit }).await
            }
            Self::Show { asset } => show::asset(context, asset).await,
            Self::Operate(operate) => operate.run(context).await,
            Self::Transfer { asset, to, proof } => {
                let done = context.call(AssetTransfer { asset, to }).await?;
                agreed(context, &done, &proof)
            }
            Self::Release { allocation, proof } => {
                let done = context.call(AssetRelease { allocation }).await?;
                agreed(context, &done, &proof)
            }
            Self::Certificate(certificate) => certificate.run(context).await,
            Self::Receipt(receipt) => receipt.run(context).await,
        }
    }
}

impl Register {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { kind, name, capacity, path, interface, shared, proof } = self;
        let path = path.map(|path| absolute(&path)).transpose()?;
        let kind = kind.into();
        let request = AssetRegister { kind, name, capacity, path, interface, shared };
        let done = context.call(request).await?;
        agreed(context, &done, &proof)
    }
}

/// The daemon has another working directory than the caller
fn absolute(path: &Path) -> Result<PathBuf, ApiError> {
    std::path::absolute(path).map_err(|error| files::failed("resolve", path, &error))
}

impl Operate {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let (action, proof) = match self {
            Self::Allocate { asset, quantity, holder, proof } => {
                (AssetAction::Allocate { asset, quantity, holder }, proof)
            }
            Self::Use { allocation, proof } => (AssetAction::Use { allocation }, proof),
            Self::Fail { allocation, proof } => (AssetAction::Fail { allocation }, proof),
            Self::Restore { asset, proof } => (AssetAction::Restore { asset }, proof),
            Self::Retire { asset, proof } => (AssetAction::Retire { asset }, proof),
            Self::EndCertificate { asset, proof } => (AssetAction::EndCertificate { asset }, proof),
        };
        let done = context.call(AssetOperate { action }).await?;
        agreed(context, &done, &proof)
    }
}

impl Certificate {
    async fn run(self, context: &Context) -> Result<Report, ApiError> {
        let Self { asset, csr, agreed, out, proof } = self;
        let request_pem = encode_pem("CERTIFICATE REQUEST", &read_csr(&csr)?);
        let receipt = match &agreed {
            Some(file) => Some(to_hex(&files::read_up_to(file, RECEIPT_LIMIT_BYTES as u64)?)),
            None => None,
        };
        let done = context.call(AssetCertificate { asset, request_pem, receipt }).await?;
        write_receipt(proof.receipt.as_deref(), &from_hex(&done.receipt)?)?;
        let report = context.report(&done)?;
        match &out {
            Some(file) => {
                files::write_new(file, done.chain_pem.as_bytes())?;
                Ok(report.fields(vec![
                    ("serial", cell(&done.serial)),
                    ("ends", cell(show_time(done.not_after))),
                    ("file", cell(file.display())),
                ]))
            }
            None => Ok(report.text(&done.chain_pem)),
        }
    }
}

fn agreed(context: &Context, done: &AssetDone, proof: &Shown) -> Result<Report, ApiError> {
    write_receipt(proof.receipt.as_deref(), &from_hex(&done.receipt)?)?;
    let mut fields = vec![
        ("did", cell(done.effects.join(", "))),
        ("operation", cell(&done.operation)),
        ("block", cell(done.height)),
        ("place", cell(done.index)),
        ("time", cell(show_time(done.time))),
    ];
    if let Some(asset) = &done.asset {
        fields.insert(1, ("asset", cell(asset)));
    }
    if let Some(allocation) = &done.allocation {
        fields.insert(1, ("allocation", cell(allocation)));
    }
    Ok(context.report(done)?.fields(fields))
}

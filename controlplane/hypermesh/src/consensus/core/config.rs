//! What a node is started with, and why it ends.

use std::sync::Arc;

use super::super::genesis::Genesis;
use super::super::settings::{Settings, SettingsError};
use super::super::store::StoreError;
use crate::operation::ValidatorKey;

/// Why consensus ended
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The settings cannot be used
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The secret key is none
    #[error("the validator's key is no Ed25519 key; make one with `stoqctl consensus key`")]
    Key,
    /// What is stored cannot be used
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory belongs to another network
    #[error("the consensus journal is of another network than the genesis; use another directory")]
    OtherNetwork,
    /// The application has more than the journal
    #[error(
        "the registry is at block {application} and the consensus journal at {journal}: the journal \
         was lost, and with it this key's votes; begin with a copy of another node's blocks and registry, under a \
         new key"
    )]
    Ahead {
        /// The application's height
        application: u64,
        /// The journal's
        journal: u64,
    },
    /// The application finds fault with what a quorum agreed on
    #[error(
        "block {height} is final, and this validator finds it invalid: {reason}. Its state differs \
         from the others'; keep it to report this, and begin with a copy of another node's blocks and registry, \
         under a new key"
    )]
    Diverged {
        /// The block's height
        height: u64,
        /// What the application says
        reason: String,
    },
    /// The engine ended by itself
    #[error("the agreement engine has ended: {0}")]
    Engine(String),
}

/// What a validator, or an observer, is started with
pub struct NodeConfig {
    /// The network
    pub genesis: Arc<Genesis>,
    /// The secret half of the validator's Ed25519 key
    pub secret: [u8; 32],
    /// Its pace
    pub settings: Settings,
    /// Before the name of everything it stores, where several share a storage
    pub prefix: String,
    /// Whom to ask beside the validators it knows of: those that joined while it was away
    pub contacts: Vec<ValidatorKey>,
}

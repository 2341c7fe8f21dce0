//! The requester's side: its key as a file, what of the chain its proofs are made from, and operations as it makes and
//! signs them. Proofs themselves are `proof`'s, and whether an operation is granted is `registry`'s to say.

mod ground;
mod key;
mod make;

pub use ground::{GROUND_LIMIT_BYTES, Ground, GroundError};
pub use key::{KEY_FILE_LIMIT_BYTES, KeyError, RequesterKey};
pub use make::{LIFETIME_HEIGHTS, MakeError, Maker};

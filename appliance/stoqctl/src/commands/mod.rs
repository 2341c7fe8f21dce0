//! One file per noun: its arguments, the request they become, and the report its reply becomes.

pub(crate) mod agreement;
pub(crate) mod asset;
pub(crate) mod audit;
pub(crate) mod backup;
pub(crate) mod ca;
pub(crate) mod certificate;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod connection;
pub(crate) mod consensus;
pub(crate) mod copy;
pub(crate) mod crl;
pub(crate) mod doctor;
pub(crate) mod drain;
pub(crate) mod listener;
pub(crate) mod log;
pub(crate) mod measure;
pub(crate) mod node;
pub(crate) mod order;
pub(crate) mod passphrases;
pub(crate) mod proof;
pub(crate) mod root;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod signer;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod version;
pub(crate) mod wait;
pub(crate) mod worker;

use stoq_admin::api::Request;

/// Noun and verb of a command that is one operation of the daemon
fn name_of<R: Request>() -> (&'static str, &'static str) {
    (R::NOUN, R::VERB)
}

/// `yes` or `no`
fn yes(answer: bool) -> &'static str {
    if answer { "yes" } else { "no" }
}

/// A value, or a dash where there is none
fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// What is said when a list was cut
fn cut_note(shown: usize, total: usize) -> Option<String> {
    (shown < total).then(|| format!("{shown} of {total} shown; --limit shows more"))
}

//! What other implementations say about the authority: OpenSSL, GnuTLS, Python's `cryptography`, pkilint, and a verifier
//! of the transparency log that shares no line with it (deploy/verify-log). The authority is a real daemon's, and
//! what it published is judged as a stranger would: from its files, its addresses and its certificates.

#![forbid(unsafe_code)]

mod handshake;
mod judges;
mod lint;
mod log;
mod requests;
mod scene;

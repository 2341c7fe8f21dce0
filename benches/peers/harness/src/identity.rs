//! One node's identity as the product's harness writes it: a line of JSON with PEM inside. Only text here;
//! each TLS stack reads the PEM with its own parser.

use std::io::BufRead;
use std::path::Path;

use serde::Deserialize;

use crate::Failure;

/// The node that receives
pub const SINK: &str = "bench-sink";
/// The node that sends
pub const LOAD: &str = "bench-load";
/// Longest identity line, in octets
const LINE_BYTES: u64 = 1 << 20;
/// What a node's URI name begins with
const NODE_PREFIX: &str = "spiffe://hypermesh/node/";

/// The role of this end of a handshake
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Dials
    Client,
    /// Accepts
    Server,
}

/// One node's identity and whom it trusts
#[derive(Clone, Debug, Deserialize)]
pub struct Identity {
    /// The node's name
    pub node: String,
    /// Certificates that are trusted, PEM
    pub authority_pem: String,
    /// The node's certificate and what leads to the authority, PEM
    pub certificate_pem: String,
    /// The node's key, PKCS #8 PEM
    pub key_pem: String,
    /// The node that must be at the other end
    #[serde(skip)]
    pub peer: String,
    /// Whether this end presents its certificate
    #[serde(skip)]
    pub anonymous: bool,
}

impl Identity {
    /// Reads one line of `path`, or of standard input for `-`
    ///
    /// # Errors
    /// Where nothing is there, or what is there is no identity.
    pub fn read(path: &Path, role: Role, peer: Option<&str>) -> Result<Self, Failure> {
        let mut line = String::new();
        if path == Path::new("-") {
            std::io::Read::take(std::io::stdin().lock(), LINE_BYTES).read_line(&mut line)?;
        } else {
            line = std::fs::read_to_string(path)
                .map_err(|cause| format!("{}: {cause}; name a readable file", path.display()))?;
        }
        let mut identity: Self = serde_json::from_str(&line).map_err(|cause| {
            format!(
                "the identity does not parse: {cause}; write one line of JSON with node, \
                 authority_pem, certificate_pem and key_pem"
            )
        })?;
        let default = if role == Role::Client { SINK } else { LOAD };
        identity.peer = peer.unwrap_or(default).to_owned();
        Ok(identity)
    }

    /// The URI name that the certificate of the other end must carry
    pub fn peer_uri(&self) -> String {
        format!("{NODE_PREFIX}{}", self.peer)
    }

    /// The DNS name of the other end, for stacks that want one to dial
    pub fn peer_dns_name(&self) -> String {
        format!("{}.nodes.hypermesh", self.peer)
    }
}

impl Identity {
    /// No identity, for runs without certificates
    pub fn none() -> Self {
        let none = String::new;
        Self {
            node: none(),
            authority_pem: none(),
            certificate_pem: none(),
            key_pem: none(),
            peer: none(),
            anonymous: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_is_named_by_role_unless_it_is_named() {
        let file = std::env::temp_dir().join(format!("peer-identity-{}", std::process::id()));
        let line = r#"{"node":"a","authority_pem":"","certificate_pem":"","key_pem":""}"#;
        std::fs::write(&file, line).unwrap();
        let read = |role, peer| Identity::read(&file, role, peer).unwrap().peer_uri();
        assert_eq!(read(Role::Client, None), "spiffe://hypermesh/node/bench-sink");
        assert_eq!(read(Role::Server, None), "spiffe://hypermesh/node/bench-load");
        assert_eq!(read(Role::Server, Some("x")), "spiffe://hypermesh/node/x");
        std::fs::write(&file, "{}").unwrap();
        let failure = Identity::read(&file, Role::Client, None).unwrap_err().to_string();
        std::fs::remove_file(&file).unwrap();
        assert!(failure.contains("authority_pem"), "{failure}");
        assert!(Identity::read(&file, Role::Client, None).is_err());
    }
}

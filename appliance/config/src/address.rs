//! Addresses an operator writes: IPv6 sockets, Unix sockets, and services on nodes. IPv4 is refused with a
//! sentence that says so, because a bare parse error would send the reader looking for a typing mistake.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::str::FromStr;

use stoq_interface::{NameError, NodeId, ServiceName};

use crate::place::SOCKET_PATH_BYTES_MAX;

/// Why a text is no address
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AddressError {
    /// An IPv4 address, or one mapped into IPv6
    #[error(
        "{0:?} is an IPv4 address and this product speaks IPv6 only; write an IPv6 address such as \"[::1]:8080\""
    )]
    NotIpv6(String),
    /// No port
    #[error("{0:?} has no port; write \"[address]:port\" such as \"[::1]:8080\"")]
    NoPort(String),
    /// A host name
    #[error(
        "{0:?} is no IPv6 address and names are not looked up here; write \"[address]:port\" such as \"[::1]:8080\""
    )]
    NotAnAddress(String),
    /// A multicast address
    #[error("{0:?} is a multicast address; write the address of one host")]
    Multicast(String),
    /// Port 0 or `::` where something must be reached
    #[error("{0:?} cannot be reached; write the address and port of the program")]
    Unreachable(String),
    /// A path that is not absolute
    #[error(
        "{0:?} is not an absolute path; write \"unix:/path\" with every directory from the root"
    )]
    RelativePath(String),
    /// A path that does not fit a socket address
    #[error(
        "{0:?} is longer than the {SOCKET_PATH_BYTES_MAX} octets of a Unix socket's path; choose a shorter directory"
    )]
    LongPath(String),
    /// A path with a NUL
    #[error("the path holds a NUL character; remove it")]
    Nul,
    /// `name@node` without the `@`
    #[error("{0:?} names no node; write \"service@node\" such as \"web@beta\"")]
    NoNode(String),
    /// One of the two names is wrong
    #[error("{name:?} is not a name ({source}); write \"service@node\" such as \"web@beta\"")]
    Name {
        /// The wrong name
        name: String,
        /// What is wrong with it
        source: NameError,
    },
}

/// Where a local program is reached, or where a local program reaches a remote service
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Target {
    /// A TCP port
    Tcp(SocketAddrV6),
    /// A Unix stream socket
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("unix:") {
            Some(path) => Ok(Self::Unix(parse_socket_path(path)?)),
            None => Ok(Self::Tcp(parse_listen_address(text)?)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// Whether only programs of this host can reach it
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// A service of a node, as written `name@node`
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceAddress {
    /// The service
    pub service: ServiceName,
    /// The node that publishes it
    pub node: NodeId,
}

impl FromStr for ServiceAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (service, node) =
            text.split_once('@').ok_or_else(|| AddressError::NoNode(text.to_owned()))?;
        let wrong = |name: &str, source| AddressError::Name { name: name.to_owned(), source };
        Ok(Self {
            service: ServiceName::new(service).map_err(|e| wrong(service, e))?,
            node: NodeId::new(node).map_err(|e| wrong(node, e))?,
        })
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.service, self.node)
    }
}

/// Parses `[address]:port`; port 0 lets the kernel choose one
pub fn parse_listen_address(text: &str) -> Result<SocketAddrV6, AddressError> {
    let owned = || text.to_owned();
    match text.parse::<SocketAddr>() {
        Ok(SocketAddr::V6(address)) if address.ip().to_ipv4_mapped().is_some() => {
            Err(AddressError::NotIpv6(owned()))
        }
        Ok(SocketAddr::V6(address)) if address.ip().is_multicast() => {
            Err(AddressError::Multicast(owned()))
        }
        Ok(SocketAddr::V6(address)) => Ok(address),
        Ok(SocketAddr::V4(_)) => Err(AddressError::NotIpv6(owned())),
        Err(_) => match text.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
            Ok(address) if address.is_ipv4() => Err(AddressError::NotIpv6(owned())),
            Ok(_) => Err(AddressError::NoPort(owned())),
            Err(_) => Err(AddressError::NotAnAddress(owned())),
        },
    }
}

/// Parses `[address]:port` of something that is to be reached: neither `::` nor port 0
pub(crate) fn parse_remote_address(text: &str) -> Result<SocketAddrV6, AddressError> {
    let address = parse_listen_address(text)?;
    if address.port() == 0 || address.ip().is_unspecified() {
        return Err(AddressError::Unreachable(text.to_owned()));
    }
    Ok(address)
}

/// Parses what a published service connects to
pub(crate) fn parse_destination(text: &str) -> Result<Target, AddressError> {
    match text.parse()? {
        Target::Tcp(_) => parse_remote_address(text).map(Target::Tcp),
        unix => Ok(unix),
    }
}

/// Parses the path of a Unix socket
pub(crate) fn parse_socket_path(path: &str) -> Result<PathBuf, AddressError> {
    if path.len() > SOCKET_PATH_BYTES_MAX {
        return Err(AddressError::LongPath(path.to_owned()));
    }
    parse_absolute_path(path)
}

/// Parses an absolute path without NUL and without `..`, which would make it mean another place
pub(crate) fn parse_absolute_path(path: &str) -> Result<PathBuf, AddressError> {
    if path.contains('\0') {
        return Err(AddressError::Nul);
    }
    let parsed = PathBuf::from(path);
    let climbs = parsed.components().any(|part| part == std::path::Component::ParentDir);
    if climbs || !parsed.is_absolute() {
        return Err(AddressError::RelativePath(path.to_owned()));
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_is_refused_with_a_sentence_in_every_spelling() {
        for text in ["127.0.0.1:80", "10.0.0.1", "[::ffff:10.0.0.1]:80", "[10.0.0.1]"] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error, AddressError::NotIpv6(text.to_owned()), "{text}");
            assert!(error.to_string().contains("IPv6 only"), "{error}");
        }
    }

    #[test]
    fn every_other_mistake_has_its_own_name() {
        let parse = |text: &str| parse_destination(text).unwrap_err();
        assert!(matches!(parse("[::1]"), AddressError::NoPort(_)));
        assert!(matches!(parse("::1"), AddressError::NoPort(_)));
        assert!(matches!(parse("localhost:80"), AddressError::NotAnAddress(_)));
        assert!(matches!(parse("[::1]:70000"), AddressError::NotAnAddress(_)));
        assert!(matches!(parse("[ff02::1]:80"), AddressError::Multicast(_)));
        assert!(matches!(parse("[::1]:0"), AddressError::Unreachable(_)));
        assert!(matches!(parse("[::]:80"), AddressError::Unreachable(_)));
        assert!(matches!(parse("unix:run/x"), AddressError::RelativePath(_)));
        assert!(matches!(parse("unix:/run/../x"), AddressError::RelativePath(_)));
        assert!(matches!(parse("unix:/a\0b"), AddressError::Nul));
        let long = format!("unix:/{}", "a".repeat(SOCKET_PATH_BYTES_MAX));
        assert!(matches!(parse(&long), AddressError::LongPath(_)));
        let fits = format!("unix:/{}", "a".repeat(SOCKET_PATH_BYTES_MAX - 1));
        assert!(fits.parse::<Target>().is_ok());
    }

    #[test]
    fn what_is_printed_parses_again() {
        for text in ["[::1]:8080", "[fe80::1%3]:80", "unix:/run/x.sock"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        assert_eq!("web@beta".parse::<ServiceAddress>().unwrap().to_string(), "web@beta");
    }

    #[test]
    fn a_service_address_needs_two_names() {
        assert!(matches!("web".parse::<ServiceAddress>(), Err(AddressError::NoNode(_))));
        for text in ["@b", "a@", "a@b@c", "A@b", "a@b.c"] {
            assert!(
                matches!(text.parse::<ServiceAddress>(), Err(AddressError::Name { .. })),
                "{text}"
            );
        }
    }
}

//! IPv6 socket addresses as the kernel writes them, in both directions. No other family passes.

use std::net::{Ipv6Addr, SocketAddrV6};

/// Octets of the kernel's `sockaddr_in6`
pub const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// The address as the kernel wants it
pub fn to_kernel(address: &SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: address.port().to_be(),
        sin6_flowinfo: address.flowinfo(),
        sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
        sin6_scope_id: address.scope_id(),
    }
}

/// The address the kernel gave; `None` if it is of another family
pub fn from_kernel(address: &libc::sockaddr_in6) -> Option<SocketAddrV6> {
    (libc::c_int::from(address.sin6_family) == libc::AF_INET6).then(|| {
        SocketAddrV6::new(
            Ipv6Addr::from(address.sin6_addr.s6_addr),
            u16::from_be(address.sin6_port),
            address.sin6_flowinfo,
            address.sin6_scope_id,
        )
    })
}

/// The address in the octets of a `sockaddr_in6`; `None` if there are too few or of another family
pub fn parse(octets: &[u8]) -> Option<SocketAddrV6> {
    let (family, rest) = octets.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (flow, rest) = rest.split_first_chunk::<4>()?;
    let (ip, rest) = rest.split_first_chunk::<16>()?;
    let scope = rest.first_chunk::<4>()?;
    (libc::c_int::from(u16::from_ne_bytes(*family)) == libc::AF_INET6).then(|| {
        SocketAddrV6::new(
            Ipv6Addr::from(*ip),
            u16::from_be_bytes(*port),
            u32::from_ne_bytes(*flow),
            u32::from_ne_bytes(*scope),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets(address: &libc::sockaddr_in6) -> Vec<u8> {
        let mut octets = address.sin6_family.to_ne_bytes().to_vec();
        octets.extend(address.sin6_port.to_ne_bytes());
        octets.extend(address.sin6_flowinfo.to_ne_bytes());
        octets.extend(address.sin6_addr.s6_addr);
        octets.extend(address.sin6_scope_id.to_ne_bytes());
        octets
    }

    #[test]
    fn an_address_survives_the_kernel_form() {
        let address = SocketAddrV6::new("fe80::1:2".parse().unwrap(), 8444, 7, 3);
        let kernel = to_kernel(&address);
        assert_eq!(from_kernel(&kernel), Some(address));
        let octets = octets(&kernel);
        assert_eq!(octets.len(), ADDRESS_BYTES);
        assert_eq!(parse(&octets), Some(address));
    }

    #[test]
    fn other_families_and_short_octets_are_nothing() {
        let mut kernel = to_kernel(&SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0, 0));
        let whole = octets(&kernel);
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None);
        }
        kernel.sin6_family = libc::AF_UNIX as libc::sa_family_t;
        assert_eq!(from_kernel(&kernel), None);
        assert_eq!(parse(&octets(&kernel)), None);
    }
}

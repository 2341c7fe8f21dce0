//! One IPv6 UDP socket, made the way the data plane needs it: IPv6 only before it is bound, never
//! fragmenting, with receive offload, local addresses and drop counts switched on. Moving datagrams is the
//! business of the I/O providers.

use std::io;
use std::net::SocketAddrV6;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::address::{ADDRESS_BYTES, from_kernel, to_kernel};
use crate::{SocketError, gro, overflow, pktinfo};

/// How a socket is made
#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// Receive buffer asked for; less than 32 MiB loses packets at tens of Gb/s
    pub receive_buffer_bytes: usize,
    /// Send buffer asked for; holds what waits in the network device's queue
    pub send_buffer_bytes: usize,
    /// Join, or allow others to join, a reuseport group
    pub reuse_port: bool,
    /// Receive offload
    pub gro: bool,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            receive_buffer_bytes: 32 << 20,
            send_buffer_bytes: 8 << 20,
            reuse_port: false,
            gro: true,
        }
    }
}

/// A bound, non-blocking IPv6 UDP socket; closed on drop and on exec
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    local: SocketAddrV6,
    receive_buffer_bytes: usize,
    gro: bool,
}

impl Socket {
    /// Makes and binds a socket; port 0 takes a free one
    pub fn bind(address: SocketAddrV6, options: &SocketOptions) -> Result<Self, SocketError> {
        let mut socket = Self::create(address)?;
        socket.configure(options)?;
        let kernel = to_kernel(&address);
        // SAFETY: the address is a whole sockaddr_in6 that lives during the call, and its size is given.
        let done = unsafe {
            libc::bind(socket.raw(), (&raw const kernel).cast(), ADDRESS_BYTES as libc::socklen_t)
        };
        if done != 0 {
            let source = io::Error::last_os_error();
            return Err(match source.raw_os_error() {
                Some(libc::EADDRINUSE) => SocketError::PortInUse { address },
                _ => SocketError::Bind { address, source },
            });
        }
        socket.local = socket.bound_address().map_err(named("getsockname"))?;
        Ok(socket)
    }

    fn create(local: SocketAddrV6) -> Result<Self, SocketError> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes plain numbers.
        let fd = unsafe { libc::socket(libc::AF_INET6, kind, libc::IPPROTO_UDP) };
        if fd < 0 {
            return Err(SocketError::Create(io::Error::last_os_error()));
        }
        // SAFETY: the descriptor was made just now and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, local, receive_buffer_bytes: 0, gro: false })
    }

    fn configure(&mut self, options: &SocketOptions) -> Result<(), SocketError> {
        // First of all, and before the bind: no IPv4, not even mapped.
        self.set_option(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1).map_err(named("IPV6_V6ONLY"))?;
        if options.reuse_port {
            self.allow_sharing()?;
        }
        // QUIC forbids fragments (RFC 9000 section 14). PROBE sends with what the interface allows and
        // ignores what routers claim; the transport finds the path's limit itself.
        self.set_option(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
            .map_err(named("IPV6_MTU_DISCOVER"))?;
        self.set_option(libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1)
            .map_err(named("IPV6_DONTFRAG"))?;
        pktinfo::enable(self).map_err(named("IPV6_RECVPKTINFO"))?;
        overflow::enable(self).map_err(named("SO_RXQ_OVFL"))?;
        if options.gro {
            match gro::enable(self) {
                Ok(()) => self.gro = true,
                Err(error) => tracing::warn!(
                    %error,
                    "the kernel refused UDP_GRO; every datagram will be received on its own"
                ),
            }
        }
        self.set_buffer(
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
            options.send_buffer_bytes,
            "SO_SNDBUF",
        )?;
        self.receive_buffer_bytes = self.set_buffer(
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            options.receive_buffer_bytes,
            "SO_RCVBUF",
        )?;
        if self.receive_buffer_bytes < options.receive_buffer_bytes {
            tracing::warn!(
                asked_bytes = options.receive_buffer_bytes,
                granted_bytes = self.receive_buffer_bytes,
                "the kernel granted a smaller receive buffer and packets will be lost at high rates; \
                 raise net.core.rmem_max or grant CAP_NET_ADMIN"
            );
        }
        Ok(())
    }

    /// Sets a buffer size past the host's limit where that is allowed, within it otherwise, and reads back
    /// what was granted. The kernel doubles the number for its own book-keeping; the half is returned.
    fn set_buffer(
        &self,
        (forced, limited): (libc::c_int, libc::c_int),
        bytes: usize,
        option: &'static str,
    ) -> Result<usize, SocketError> {
        let asked = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX / 2);
        let outcome = match self.set_option(libc::SOL_SOCKET, forced, asked) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.set_option(libc::SOL_SOCKET, limited, asked)
            }
            outcome => outcome,
        };
        outcome.map_err(named(option))?;
        let granted = self.option(libc::SOL_SOCKET, limited).map_err(named(option))?;
        Ok(usize::try_from(granted).unwrap_or(0) / 2)
    }

    /// Lets further sockets of this user bind the same address
    pub(crate) fn allow_sharing(&self) -> Result<(), SocketError> {
        self.set_option(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).map_err(named("SO_REUSEPORT"))
    }

    /// The bound address, with the port the kernel chose where 0 was asked for
    pub fn local_address(&self) -> SocketAddrV6 {
        self.local
    }

    /// Receive buffer in octets as granted, without the kernel's doubling
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// Whether the kernel merges received segments
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Switches receive offload off, where the self-test found that it cannot be trusted
    pub fn disable_gro(&mut self) -> io::Result<()> {
        if self.gro {
            self.set_option(libc::SOL_UDP, libc::UDP_GRO, 0)?;
            self.gro = false;
        }
        Ok(())
    }

    /// Sets an option whose value is an `int`
    pub fn set_option(
        &self,
        level: libc::c_int,
        name: libc::c_int,
        value: libc::c_int,
    ) -> io::Result<()> {
        // SAFETY: the value is an int that lives during the call, and its size is given.
        let done = unsafe {
            libc::setsockopt(
                self.raw(),
                level,
                name,
                (&raw const value).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Reads an option whose value is an `int`
    pub fn option(&self, level: libc::c_int, name: libc::c_int) -> io::Result<libc::c_int> {
        let mut value: libc::c_int = 0;
        let mut bytes = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: value and size live during the call; the kernel writes no more than the size given.
        let done = unsafe {
            libc::getsockopt(self.raw(), level, name, (&raw mut value).cast(), &raw mut bytes)
        };
        if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends one message: for tests and probes, not for the data path
    pub fn send_message(
        &self,
        to: &libc::sockaddr_in6,
        payload: &[u8],
        control: &[u8],
    ) -> io::Result<()> {
        let mut vector =
            libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
        // SAFETY: an all-zero msghdr is a valid one without address, data and control messages.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = std::ptr::from_ref(to).cast_mut().cast();
        message.msg_namelen = ADDRESS_BYTES as libc::socklen_t;
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        if !control.is_empty() {
            message.msg_control = control.as_ptr().cast_mut().cast();
            message.msg_controllen = control.len();
        }
        // SAFETY: every pointer in the message refers to memory that lives during the call, with its length;
        // sendmsg only reads them.
        let sent = unsafe { libc::sendmsg(self.raw(), &raw const message, libc::MSG_DONTWAIT) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn bound_address(&self) -> io::Result<SocketAddrV6> {
        let mut kernel = to_kernel(&self.local);
        let mut bytes = ADDRESS_BYTES as libc::socklen_t;
        // SAFETY: address and size live during the call; the kernel writes no more than the size given.
        let done =
            unsafe { libc::getsockname(self.raw(), (&raw mut kernel).cast(), &raw mut bytes) };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        from_kernel(&kernel).ok_or_else(|| io::Error::other("the kernel named no IPv6 address"))
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.fd
    }
}

fn named(option: &'static str) -> impl FnOnce(io::Error) -> SocketError {
    move |source| SocketError::Option { option, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv6Addr, UdpSocket};

    fn loopback(options: &SocketOptions) -> Socket {
        Socket::bind(SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0), options).unwrap()
    }

    #[test]
    fn is_made_as_asked() {
        let socket = loopback(&SocketOptions::default());
        assert_ne!(socket.local_address().port(), 0);
        assert!(socket.gro());
        for (level, name, expected) in [
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1),
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE),
            (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, 1),
            (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT, 0),
            (libc::SOL_UDP, libc::UDP_GRO, 1),
        ] {
            assert_eq!(socket.option(level, name).unwrap(), expected, "option {level}/{name}");
        }
    }

    #[test]
    fn tells_the_receive_buffer_the_kernel_granted() {
        let asked = 300_000;
        let options = SocketOptions { receive_buffer_bytes: asked, ..SocketOptions::default() };
        let socket = loopback(&options);
        let kernel = socket.option(libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap() as usize;
        assert_eq!(socket.receive_buffer_bytes(), kernel / 2);
        assert!(socket.receive_buffer_bytes() <= asked);
    }

    #[test]
    fn reaches_no_ipv4_address_even_mapped() {
        let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0);
        let socket = Socket::bind(any, &SocketOptions::default()).unwrap();
        let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x7f00, 1);
        let target = SocketAddrV6::new(mapped, socket.local_address().port(), 0, 0);
        let error = socket.send_message(&to_kernel(&target), b"no", &[]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
        let plain = UdpSocket::from(OwnedFd::from(socket));
        assert!(plain.connect(target).is_err());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = loopback(&SocketOptions::default());
        let error = Socket::bind(first.local_address(), &SocketOptions::default()).unwrap_err();
        assert!(matches!(&error, SocketError::PortInUse { .. }), "{error}");
        assert!(error.to_string().contains(&first.local_address().port().to_string()));
        let elsewhere = SocketAddrV6::new("2001:db8::1".parse().unwrap(), 0, 0, 0);
        let error = Socket::bind(elsewhere, &SocketOptions::default()).unwrap_err();
        assert!(matches!(error, SocketError::Bind { .. }));
    }
}

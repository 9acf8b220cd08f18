//! The other end's address, as each session keeps it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// A [`SocketAddr`] in three quarters of its room: without an IPv6 address's flow label, which
/// getpeername(2) does not tell.
#[derive(Clone, Copy)]
pub(crate) struct Peer {
    ip: [u8; 16],
    scope_id: u32,
    port: u16,
    is_v4: bool,
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        let port = address.port();
        match address {
            SocketAddr::V4(v4) => {
                let ip = v4.ip().to_ipv6_mapped().octets();
                Self { ip, scope_id: 0, port, is_v4: true }
            }
            SocketAddr::V6(v6) => {
                Self { ip: v6.ip().octets(), scope_id: v6.scope_id(), port, is_v4: false }
            }
        }
    }
}

impl From<Peer> for SocketAddr {
    fn from(peer: Peer) -> Self {
        let Peer { ip, scope_id, port, is_v4 } = peer;
        if is_v4 {
            let [.., a, b, c, d] = ip;
            return (Ipv4Addr::new(a, b, c, d), port).into();
        }
        SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope_id).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was() {
        for text in
            ["1.2.3.4:65535", "0.0.0.0:1", "[::1]:80", "[fe80::1%7]:9000", "[::ffff:1.2.3.4]:5"]
        {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SocketAddr::from(Peer::from(address)), address);
        }
        assert!(size_of::<Peer>() <= 24);
    }
}

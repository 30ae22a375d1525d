//! The address of this machine that others most likely reach, found without a packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The address from which this machine would send to the world, by its own routes; loopback where
/// it has none. Behind address translation or inside a container renters need another one, which
/// only the operator can know: `network.public_address`.
pub(super) fn own() -> IpAddr {
    // Addresses set aside for documentation (RFC 5737, RFC 3849): routed like any other.
    let v4 = source_towards(IpAddr::from([192, 0, 2, 1]), Ipv4Addr::UNSPECIFIED.into());
    let v6 = || {
        let documentation = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
        source_towards(documentation.into(), Ipv6Addr::UNSPECIFIED.into())
    };
    v4.or_else(v6).unwrap_or(Ipv4Addr::LOCALHOST.into())
}

/// Connecting a UDP socket chooses its source address and sends nothing.
fn source_towards(target: IpAddr, any: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(target, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified() && !source.is_loopback()).then_some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_address_is_one_that_can_be_bound() {
        assert!(UdpSocket::bind(SocketAddr::new(own(), 0)).is_ok());
    }

    #[test]
    fn loopback_is_no_address_for_others() {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(source_towards(loopback, Ipv4Addr::UNSPECIFIED.into()), None);
    }
}

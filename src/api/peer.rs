//! Who is at the other end, before anything is read of what it says.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net};

use crate::clock::Seldom;

/// Where a request comes from.
#[derive(Debug, Clone)]
pub(super) enum Peer {
    /// Over TCP, from an address that may ask.
    Network,
    /// The machine's owner.
    Owner,
}

/// Connections that are turned away before anything is read of them. They are said at once, and then
/// at most once a minute: who knocks all the time does not fill the log.
#[derive(Debug, Default)]
pub(super) struct TurnedAway {
    seldom: Seldom,
    unsaid: u64,
}

impl TurnedAway {
    /// One more, at this time of the boot-time clock; how many there were since they were last said,
    /// when it is time to say so.
    pub(super) fn one_more(&mut self, boot: Duration) -> Option<u64> {
        self.unsaid = self.unsaid.saturating_add(1);
        let say = self.seldom.goes_on(boot);
        say.then(|| std::mem::take(&mut self.unsaid))
    }
}

/// The rentals' own networks: what the host listens on can be reached from there.
#[derive(Debug, Clone)]
pub(super) struct Neighbours(Option<Ipv4Net>);

impl Neighbours {
    /// `subnet` is the rentals', where the configuration names it.
    pub(super) fn new(subnet: Option<Ipv4Net>) -> Self {
        Self(subnet)
    }

    /// Whether this address is a container's on one of the engine's bridges.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let IpAddr::V4(address) = address.to_canonical() else {
            return false;
        };
        if address.is_loopback() {
            return false;
        }
        let configured = self.0.is_some_and(|net| net.contains(&address));
        configured || bridges().iter().any(|net| net.contains(&address))
    }
}

/// Networks behind the engine's bridges, as the kernel routes them. The file is the kernel's own and
/// small, so that it is read anew each time.
fn bridges() -> Vec<Ipv4Net> {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    routes.lines().skip(1).filter_map(bridge).collect()
}

/// A line of `/proc/net/route`, where it is of a bridge that the engine made.
fn bridge(line: &str) -> Option<Ipv4Net> {
    let mut fields = line.split_whitespace();
    let (interface, destination) = (fields.next()?, fields.next()?);
    let mask = fields.nth(5)?;
    let made_by_engine = interface == "docker0"
        || interface
            .strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit()));
    // In the byte order of the machine, which is the network's read from the other end.
    let address = |hex: &str| {
        let number = u32::from_str_radix(hex, 16).ok()?;
        Some(Ipv4Addr::from(number.to_ne_bytes()))
    };
    let net = Ipv4Net::with_netmask(address(destination)?, address(mask)?).ok()?;
    made_by_engine.then_some(net)
}

/// Whether `http.allowed_ips` has this address.
pub(super) fn is_allowed(allowed: Option<&[IpNet]>, address: IpAddr) -> bool {
    let address = address.to_canonical();
    allowed.is_none_or(|nets| nets.iter().any(|net| net.contains(&address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engines_bridges_are_known_by_their_routes() {
        let line = |interface: &str| {
            format!("{interface}\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0")
        };
        let net = "172.17.0.0/16".parse().unwrap();
        assert_eq!(bridge(&line("docker0")), Some(net));
        assert_eq!(bridge(&line("br-0123456789ab")), Some(net));
        for other in ["eth0", "br-lan", "br0", "br-0123456789xy"] {
            assert_eq!(bridge(&line(other)), None, "{other}");
        }
    }

    #[test]
    fn what_rentals_are_given_is_no_place_to_call_from() {
        let neighbours = Neighbours::new(Some("172.30.0.0/16".parse().unwrap()));
        assert!(neighbours.has("172.30.0.9".parse().unwrap()));
        assert!(neighbours.has("::ffff:172.30.0.9".parse().unwrap()));
        assert!(!neighbours.has("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn who_is_turned_away_all_the_time_is_said_once_a_minute_with_how_often() {
        let mut rentals = TurnedAway::default();
        let said: Vec<_> = (0..=1200)
            .filter_map(|tenth| rentals.one_more(Duration::from_millis(tenth * 100)))
            .collect();
        assert_eq!(said, [1, 600, 600]);
    }

    #[test]
    fn an_address_is_allowed_by_a_network_that_has_it() {
        let nets: [IpNet; 1] = ["10.0.0.0/24".parse().unwrap()];
        assert!(is_allowed(Some(&nets), "10.0.0.7".parse().unwrap()));
        assert!(is_allowed(Some(&nets), "::ffff:10.0.0.7".parse().unwrap()));
        assert!(!is_allowed(Some(&nets), "10.0.1.7".parse().unwrap()));
        assert!(!is_allowed(Some(&[]), "127.0.0.1".parse().unwrap()));
        assert!(is_allowed(None, "10.0.1.7".parse().unwrap()));
    }
}

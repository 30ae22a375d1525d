//! `[network]`: how rentals are reached.

use std::net::IpAddr;

use ipnet::Ipv4Net;
use url::Host;

use super::{
    super::{Network, fault::Faults, raw},
    is_engine_name,
};
use crate::protocol::record::PortRange;

pub(super) fn check(raw: raw::Network, faults: &mut Faults) -> Option<Network> {
    let reserved = ["host", "bridge", "none", "default"].contains(&raw.name.as_str());
    let named = is_engine_name(&raw.name) && !reserved;
    if !named {
        let remedy = "write a name of its own: 1 to 63 of [A-Za-z0-9_.-], the first alphanumeric";
        faults.shown(
            "network.name",
            &raw.name,
            "is no name for a network",
            remedy,
        );
    }
    let subnet = raw.subnet.map(|text| subnet(&text, faults));
    let port_range = port_range(&raw.port_range, faults);
    let address = raw.public_address.as_deref();
    let reachable = address.is_none_or(|address| public_address(address, faults));
    Some(Network {
        name: named.then_some(raw.name)?,
        // Unset is fine, wrong is not.
        subnet: match subnet {
            Some(subnet) => Some(subnet?),
            None => None,
        },
        port_range: port_range?,
        public_address: reachable.then_some(raw.public_address)?,
    })
}

fn subnet(text: &str, faults: &mut Faults) -> Option<Ipv4Net> {
    let reason = match text.parse::<Ipv4Net>() {
        Err(_) => "is no IPv4 subnet",
        Ok(net) if net.addr() != net.network() => "has bits set after its prefix",
        Ok(net) if !(16..=28).contains(&net.prefix_len()) => "is not between /16 and /28",
        Ok(net) if !net.network().is_private() || !net.broadcast().is_private() => "is not private",
        Ok(net) => return Some(net),
    };
    let remedy = "write a private one that nothing else here uses, like 172.30.0.0/16";
    faults.shown("network.subnet", text, reason, remedy);
    None
}

fn port_range(text: &str, faults: &mut Faults) -> Option<PortRange> {
    let parsed = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let reason = match parsed {
        None => "is no range of ports",
        Some((first, last)) if first > last => "ends before it begins",
        Some((0..1024, _)) => "begins below 1024, where the system's own ports are",
        Some((first, last)) => return Some(PortRange { first, last }),
    };
    let remedy = "write FIRST-LAST, like 30000-31000";
    faults.shown("network.port_range", text, reason, remedy);
    None
}

fn public_address(text: &str, faults: &mut Faults) -> bool {
    let good = match text.parse::<IpAddr>() {
        Ok(address) => !address.is_unspecified() && !address.is_multicast(),
        // In brackets it would be a URL's spelling of an IPv6 address.
        Err(_) => !text.starts_with('[') && matches!(Host::parse(text), Ok(Host::Domain(_))),
    };
    if !good {
        let reason = "is neither an IP address nor a host's name";
        let remedy = "write only the address, without scheme and port, like 203.0.113.7";
        faults.shown("network.public_address", text, reason, remedy);
    }
    good
}

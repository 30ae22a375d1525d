//! The proxy on the way to the server, by the variables that everybody uses: HTTPS_PROXY for wss,
//! HTTP_PROXY for ws, NO_PROXY for exceptions; each also in lower case, all of them weaker in `.env`.

use std::{collections::BTreeMap, net::IpAddr};

use base64::{Engine, prelude::BASE64_STANDARD};
use ipnet::IpNet;
use url::{Host, Url};

use super::{
    Proxy,
    env_file::EnvFile,
    fault::{Faults, Source},
};

const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const NO: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The variables that name proxies, by name, each from its strongest place.
#[derive(Default)]
pub(super) struct Variables(BTreeMap<&'static str, Variable>);

struct Variable {
    value: String,
    source: Source,
    origin: String,
}

impl Variables {
    /// Those of the environment, else of `.env`. An empty one is unset.
    pub(super) fn of(env: &BTreeMap<String, String>, file: Option<&EnvFile>) -> Self {
        let mut found = BTreeMap::new();
        for name in HTTPS.into_iter().chain(HTTP).chain(NO) {
            let set = |value: &&String| !value.is_empty();
            let of_env = env.get(name).filter(set).map(|value| Variable {
                value: value.clone(),
                source: Source::Environment,
                origin: name.to_owned(),
            });
            let of_file = || {
                let file = file?;
                let mut named = file.variables.iter().filter(|one| one.name == name);
                let variable = named.next().filter(|one| !one.value.is_empty())?;
                Some(Variable {
                    value: variable.value.clone(),
                    source: Source::EnvFile,
                    origin: format!("{}, line {}", file.path.display(), variable.line),
                })
            };
            found.extend(of_env.or_else(of_file).map(|variable| (name, variable)));
        }
        Self(found)
    }

    /// Where the variable of this name was read.
    pub(super) fn place(&self, name: &str) -> Option<(Source, &str)> {
        let variable = self.0.get(name)?;
        Some((variable.source, &variable.origin))
    }

    /// A stronger place counts more than the case of a name, and that by the order given.
    fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, &Variable)> {
        let set = names
            .into_iter()
            .filter_map(|name| Some((name, self.0.get(name)?)));
        set.rev()
            .max_by_key(|(_, variable)| variable.source == Source::Environment)
    }
}

/// The proxy for this URL, if there is one. A host of the machine itself is never asked for through
/// one, as with most other programs.
pub(super) fn choose(url: &Url, variables: &Variables, faults: &mut Faults) -> Option<Proxy> {
    let names = match url.scheme() {
        "wss" => HTTPS,
        _ => HTTP,
    };
    let (name, variable) = variables.first(names)?;
    let (host, port) = (url.host()?, url.port_or_known_default()?);
    let exceptions = variables
        .first(NO)
        .map(|(_, variable)| variable.value.as_str());
    if super::validate::is_loopback(url) || excepted(&host, port, exceptions.unwrap_or_default()) {
        return None;
    }
    match parse(&variable.value) {
        Ok((host, port, authorization)) => Some(Proxy {
            host,
            port,
            authorization: authorization.map(Into::into),
            variable: name,
        }),
        Err(reason) => {
            // Not shown: it may hold a password.
            let remedy = "write http://[USER:PASSWORD@]HOST[:PORT], or name the server in NO_PROXY";
            faults.at_source(name, &variable.origin, reason, remedy);
            None
        }
    }
}

type Parsed = (Host, u16, Option<String>);

fn parse(text: &str) -> Result<Parsed, &'static str> {
    let text = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = Url::parse(&text).map_err(|_| "is no URL of a proxy (the value is not shown)")?;
    if url.scheme() != "http" {
        return Err("names a proxy that is not spoken to by plain HTTP, which is not supported");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err("has something after the proxy's address (the value is not shown)");
    }
    let host = url.host().ok_or("names no host")?.to_owned();
    let port = url.port_or_known_default().ok_or("names no port")?;
    let named = !url.username().is_empty() || url.password().is_some();
    let authorization = named.then(|| {
        let user = decoded(url.username());
        let password = decoded(url.password().unwrap_or_default());
        let both = [user.as_slice(), b":", &password].concat();
        format!("Basic {}", BASE64_STANDARD.encode(both))
    });
    Ok((host, port, authorization))
}

/// Without percent signs and what they stand for.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend(before.bytes());
        let byte = after
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(b'%'));
        rest = match byte {
            Some(_) => after.get(2..).unwrap_or_default(),
            None => after,
        };
    }
    bytes.extend(rest.bytes());
    bytes
}

/// Whether one of the exceptions means this server: `*`, a name (and all below it), `.suffix` (only
/// what is below), an address, a network; each but `*` and networks also with a port.
fn excepted(host: &Host<&str>, port: u16, exceptions: &str) -> bool {
    let entries = exceptions.split([',', ' ', '\t']).map(str::trim);
    entries
        .filter(|entry| !entry.is_empty())
        .any(|entry| matches_entry(host, port, &entry.to_ascii_lowercase()))
}

fn matches_entry(host: &Host<&str>, port: u16, entry: &str) -> bool {
    if entry == "*" {
        return true;
    }
    let address: Option<IpAddr> = match host {
        Host::Ipv4(address) => Some((*address).into()),
        Host::Ipv6(address) => Some((*address).into()),
        Host::Domain(_) => None,
    };
    if let Ok(network) = entry.parse::<IpNet>() {
        return address.is_some_and(|address| network.contains(&address));
    }
    if let Ok(excepted) = entry.parse::<IpAddr>() {
        return address == Some(excepted);
    }
    let (name, of_port) = match entry.rsplit_once(':') {
        Some((name, digits)) => match digits.parse::<u16>() {
            Ok(of_port) => (name, Some(of_port)),
            Err(_) => return false,
        },
        None => (entry, None),
    };
    if of_port.is_some_and(|of_port| of_port != port) {
        return false;
    }
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    match (host, bare.parse::<IpAddr>()) {
        (_, Ok(excepted)) => address == Some(excepted),
        (Host::Domain(host), Err(_)) => is_name(host, name),
        (Host::Ipv4(_) | Host::Ipv6(_), Err(_)) => false,
    }
}

fn is_name(host: &str, entry: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let entry = entry.trim_end_matches('.').trim_start_matches('*');
    let below = |suffix: &str| !suffix.is_empty() && host.ends_with(&format!(".{suffix}"));
    match entry.strip_prefix('.') {
        Some(suffix) => below(suffix),
        None => host == entry || below(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_excepted(url: &str, exceptions: &str) -> bool {
        let url: Url = url.parse().unwrap();
        excepted(
            &url.host().unwrap(),
            url.port_or_known_default().unwrap(),
            exceptions,
        )
    }

    #[test]
    fn exceptions_are_names_suffixes_addresses_networks_and_ports() {
        for (url, exceptions) in [
            ("wss://a.example", "*"),
            ("wss://a.example", "a.example"),
            ("wss://A.Example", "x, a.EXAMPLE"),
            ("wss://a.example.", "a.example"),
            ("wss://b.a.example", "a.example"),
            ("wss://b.a.example", ".a.example"),
            ("wss://b.a.example", "*.a.example"),
            ("wss://a.example", "a.example:443"),
            ("wss://a.example:8443", "x a.example:8443"),
            ("wss://10.1.2.3", "10.0.0.0/8"),
            ("wss://10.1.2.3", "10.1.2.3"),
            ("wss://10.1.2.3:99", "10.1.2.3:99"),
            ("wss://[fd00::1]", "fd00::/8"),
            ("wss://[fd00::1]", "fd00::1"),
            ("wss://[fd00::1]:99", "[fd00::1]:99"),
        ] {
            assert!(is_excepted(url, exceptions), "{url}, {exceptions}");
        }
        for (url, exceptions) in [
            ("wss://a.example", ""),
            ("wss://a.example", ",, ,"),
            ("wss://a.example", ".a.example"),
            ("wss://ba.example", "a.example"),
            ("wss://a.example", "b.a.example"),
            ("wss://a.example", "a.example:8443"),
            ("wss://a.example", "a.example:x"),
            ("wss://a.example", "."),
            ("wss://10.1.2.3", "11.0.0.0/8"),
            ("wss://10.1.2.3", "1.2.3"),
            ("wss://10.1.2.3", "10.1.2.3:1"),
            ("wss://a.example", "10.0.0.0/8"),
            ("wss://[fd00::1]:99", "[fd00::1]:98"),
        ] {
            assert!(!is_excepted(url, exceptions), "{url}, {exceptions}");
        }
    }

    #[test]
    fn credentials_are_decoded() {
        let (host, port, authorization) =
            parse("http://u%40x:p%3A%25@proxy.example:3128/").unwrap();
        assert_eq!((host.to_string().as_str(), port), ("proxy.example", 3128));
        let expected = BASE64_STANDARD.encode("u@x:p:%");
        assert_eq!(authorization.unwrap(), format!("Basic {expected}"));
        assert_eq!(parse("proxy.example").unwrap().1, 80);
        assert_eq!(parse("[::1]:3128").unwrap().0.to_string(), "[::1]");
        assert_eq!(decoded("%4"), b"%4");
    }
}

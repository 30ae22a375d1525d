//! Image references with the full grammar of the engine's own parser: registry with port or IPv6
//! literal, repository path, tag, digest, and the short names that mean Docker Hub. Owns the
//! grammar; whether a registry may be used is `policy`'s to say. Pure.
//!
//! ```text
//! reference := [domain '/'] path [':' tag] ['@' digest]
//! domain    := (label ('.' label)* | '[' IPv6 ']') [':' port]
//! path      := component ('/' component)*
//! component := [a-z0-9]+ (('.' | '_' | '__' | '-'+) [a-z0-9]+)*
//! tag       := [A-Za-z0-9_] [A-Za-z0-9_.-]{0,127}
//! digest    := ('sha256' | 'sha384' | 'sha512') ':' lower-case hexadecimal of that length
//! ```
//!
//! What stands before the first `/` is a domain only if it has a `.`, a `:` or an upper-case letter
//! or is `localhost`; otherwise it is part of a path on Docker Hub. So a colon may begin a port or a
//! tag, and the text is never cut at one before the domain has been taken off.

use std::{fmt, net::Ipv6Addr, str::FromStr};

pub use crate::protocol::limits::MAX_REFERENCE_BYTES;

/// Domain and path together are at most this long: older engines refuse more.
const MAX_NAME_BYTES: usize = 255;

/// What a reference without a domain means.
const DOCKER_HUB: &str = "docker.io";

/// An image's name that follows the grammar, in the normal form of the engine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: Registry,
    path: Box<str>,
    tag: Option<Box<str>>,
    digest: Option<Box<str>>,
}

/// Where an image comes from: a host and perhaps a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Registry {
    host: Box<str>,
    port: Option<u16>,
}

/// Why a text is no reference: what is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value:?} is no image reference: {rule}")]
pub struct InvalidReference {
    rule: &'static str,
    value: String,
}

impl Reference {
    /// The registry's host as written; an IPv6 literal in its brackets; `docker.io` for short names.
    pub fn registry_host(&self) -> &str {
        &self.registry.host
    }

    /// The registry's port, where the reference names one.
    pub fn registry_port(&self) -> Option<u16> {
        self.registry.port
    }

    /// The registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The path on the registry, `library/` included where it was implied.
    pub fn repository(&self) -> &str {
        &self.path
    }

    /// The tag, where the reference names one.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, where the reference names one: `sha256:…`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The reference as the engine gets it. Always with a tag or a digest, since a pull without
    /// either fetches every tag; never with both, since the digest alone decides then.
    pub fn for_engine(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}/{}@{digest}", self.registry, self.path),
            (None, Some(tag)) => format!("{}/{}:{tag}", self.registry, self.path),
            (None, None) => format!("{}/{}:latest", self.registry, self.path),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|rule| InvalidReference {
            rule,
            value: text.chars().take(100).collect(),
        })
    }
}

impl Registry {
    /// The host as written; an IPv6 literal in its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, where one is named.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether both name the same place: hosts without regard to case, and 443 is what no port means.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.host.eq_ignore_ascii_case(&other.host)
            && self.port.unwrap_or(443) == other.port.unwrap_or(443)
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Registry {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse_registry(text).map_err(|rule| InvalidReference {
            rule,
            value: text.chars().take(100).collect(),
        })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > MAX_REFERENCE_BYTES {
        return Err("it has more than 512 bytes");
    }
    if text.len() == 64 && text.bytes().all(is_lower_hex) {
        return Err("64 hexadecimal digits are an image's id; name a repository");
    }
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(parse_digest(digest)?)),
        None => (text, None),
    };
    let (domain, rest) = split_domain(name);
    // The domain is off, so a colon can only begin the tag.
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(parse_tag(tag)?)),
        None => (rest, None),
    };
    let registry = parse_registry(domain.unwrap_or(DOCKER_HUB))?;
    check_path(path)?;
    let on_docker_hub = &*registry.host == DOCKER_HUB && registry.port.is_none();
    let path = if on_docker_hub && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    if registry.to_string().len() + 1 + path.len() > MAX_NAME_BYTES {
        return Err("registry and repository have more than 255 characters");
    }
    Ok(Reference {
        registry,
        path: path.into(),
        tag,
        digest,
    })
}

/// Takes the domain off, if the name has one.
fn split_domain(name: &str) -> (Option<&str>, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first == "localhost"
                || first
                    .bytes()
                    .any(|b| b == b'.' || b == b':' || b.is_ascii_uppercase()) =>
        {
            (Some(first), rest)
        }
        _ => (None, name),
    }
}

fn parse_registry(domain: &str) -> Result<Registry, &'static str> {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest
                .split_once(']')
                .ok_or("an IPv6 address in the registry needs its closing bracket")?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err("what is in brackets is no IPv6 address");
            }
            let port = match after {
                "" => None,
                _ => Some(
                    after
                        .strip_prefix(':')
                        .ok_or("after the registry's closing bracket only a port may follow")?,
                ),
            };
            (format!("[{address}]"), port)
        }
        None => {
            let (host, port) = match domain.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (domain, None),
            };
            check_host_name(host)?;
            (host.to_owned(), port)
        }
    };
    let port = port.map(parse_port).transpose()?;
    // The engine knows Docker Hub by one name only.
    let host = match host.as_str() {
        "index.docker.io" if port.is_none() => DOCKER_HUB.into(),
        _ => host.into(),
    };
    Ok(Registry { host, port })
}

fn check_host_name(host: &str) -> Result<(), &'static str> {
    let valid_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() <= 253 && host.split('.').all(valid_label) {
        Ok(())
    } else {
        Err("the registry's host has to be labels of 1 to 63 of [A-Za-z0-9-], joined by dots")
    }
}

fn parse_port(port: &str) -> Result<u16, &'static str> {
    let rule = "the registry's port has to be a number from 1 to 65535";
    if port.starts_with('0') || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(rule);
    }
    port.parse().map_err(|_| rule)
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository has to be in lower case");
    }
    if path.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("each part of the repository has to be of [a-z0-9], \
             joined by one dot, one or two underscores, or hyphens")
    }
}

fn is_path_component(component: &str) -> bool {
    let mut rest = component;
    loop {
        let after_word =
            rest.trim_start_matches(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        if after_word.len() == rest.len() {
            return false;
        }
        if after_word.is_empty() {
            return true;
        }
        let hyphens = after_word.trim_start_matches('-');
        rest = if hyphens.len() < after_word.len() {
            hyphens
        } else if let Some(rest) = ["__", "_", "."]
            .iter()
            .find_map(|separator| after_word.strip_prefix(separator))
        {
            rest
        } else {
            return false;
        };
    }
}

fn parse_tag(tag: &str) -> Result<Box<str>, &'static str> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let valid = (1..=128).contains(&tag.len())
        && tag.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
        && tag.bytes().next().is_some_and(is_word);
    if valid {
        Ok(tag.into())
    } else {
        Err("the tag has to be 1 to 128 of [A-Za-z0-9_.-], beginning with neither dot nor hyphen")
    }
}

fn parse_digest(digest: &str) -> Result<Box<str>, &'static str> {
    let rule = "the digest has to be sha256:, sha384: or sha512: and the lower-case hexadecimal \
                digits of that length";
    let (algorithm, hex) = digest.split_once(':').ok_or(rule)?;
    let digits = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(rule),
    };
    if hex.len() == digits && hex.bytes().all(is_lower_hex) {
        Ok(digest.into())
    } else {
        Err(rule)
    }
}

fn is_lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[track_caller]
    fn check(text: &str, canonical: &str, for_engine: &str) {
        let reference: Reference = text.parse().unwrap();
        assert_eq!(reference.to_string(), canonical, "{text}");
        assert_eq!(reference.for_engine(), for_engine, "{text}");
        assert_eq!(canonical.parse(), Ok(reference), "canonical of {text}");
    }

    #[test]
    fn short_names_mean_docker_hub() {
        let latest = "docker.io/library/busybox:latest";
        check("busybox", "docker.io/library/busybox", latest);
        check("busybox:latest", latest, latest);
        check("docker.io/busybox", "docker.io/library/busybox", latest);
        check(
            "index.docker.io/busybox",
            "docker.io/library/busybox",
            latest,
        );
        check("a/b:1", "docker.io/a/b:1", "docker.io/a/b:1");
        // Without a slash there is no domain, so this is a tag.
        check(
            "localhost:5000",
            "docker.io/library/localhost:5000",
            "docker.io/library/localhost:5000",
        );
    }

    #[test]
    fn a_registrys_port_is_no_tag() {
        check(
            "localhost:5000/img",
            "localhost:5000/img",
            "localhost:5000/img:latest",
        );
        check(
            "r.example.com:8443/a/b/c:v1.2",
            "r.example.com:8443/a/b/c:v1.2",
            "r.example.com:8443/a/b/c:v1.2",
        );
        check("[::1]:5000/img:x", "[::1]:5000/img:x", "[::1]:5000/img:x");
        check("[fe80::1]/img", "[fe80::1]/img", "[fe80::1]/img:latest");
        check("Registry/img", "Registry/img", "Registry/img:latest");
    }

    #[test]
    fn a_digest_decides_alone() {
        check(
            &format!("r.io/a:tag@{DIGEST}"),
            &format!("r.io/a:tag@{DIGEST}"),
            &format!("r.io/a@{DIGEST}"),
        );
        let reference: Reference = format!("r.io:444/a/b:tag@{DIGEST}").parse().unwrap();
        assert_eq!(reference.registry_host(), "r.io");
        assert_eq!(reference.registry_port(), Some(444));
        assert_eq!(reference.repository(), "a/b");
        assert_eq!(reference.tag(), Some("tag"));
        assert_eq!(reference.digest(), Some(DIGEST));
    }

    #[test]
    fn path_components_follow_the_grammar() {
        for good in [
            "a",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "0",
            "a0.1_2__3-4",
        ] {
            assert!(is_path_component(good), "{good}");
        }
        for bad in [
            "", "-", ".", "_", "a.", ".a", "a..b", "a___b", "a._b", "a-.b", "a-", "A", "a b", "ä",
        ] {
            assert!(!is_path_component(bad), "{bad}");
        }
    }

    #[test]
    fn an_error_shows_the_rule_and_the_value_cut_and_escaped() {
        let error = "\u{1b}[31m".repeat(60).parse::<Reference>().unwrap_err();
        let text = error.to_string();
        assert!(text.len() < 1000 && !text.contains('\u{1b}'), "{text}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_the_canonical_form_is_stable(text in "\\PC{0,80}|[a-zA-Z0-9.:/@_\\[\\]-]{0,80}") {
            if let Ok(reference) = text.parse::<Reference>() {
                let canonical = reference.to_string();
                prop_assert_eq!(canonical.parse::<Reference>(), Ok(reference.clone()));
                let engine = reference.for_engine();
                prop_assert_eq!(engine.parse::<Reference>().unwrap().for_engine(), engine);
            }
        }
    }
}

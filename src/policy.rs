//! The host's rules: what is refused whatever the server says. Every refusal names its rule and the
//! configuration key that changes it, or says that none does. Pure.

use crate::{
    config::Policy,
    image::reference::{Reference, Registry},
    protocol::{Error, ErrorCode, Stage},
};

/// Beginnings of environment variables that a tenant may not set, in upper case: they steer the GPU
/// runtime's hooks and the loader, which partly run with the host's rights, or the engine's clients.
const RESERVED_ENV_PREFIXES: &[&str] = &["NVIDIA_", "LD_", "DOCKER_", "RENTAL_AGENT"];

/// The same by their whole names.
const RESERVED_ENV_NAMES: &[&str] = &[
    "AMD_VISIBLE_DEVICES",
    "ASCEND_VISIBLE_DEVICES",
    "CUDA_VISIBLE_DEVICES",
    "GLIBC_TUNABLES",
    "GPU_DEVICE_ORDINAL",
    "HABANA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
];

/// Beginning of the labels that the agent itself writes.
const RESERVED_LABEL_PREFIX: &str = "rental-agent.";

/// Last labels of host names that mean something within a site, if anything, and never a public
/// registry.
const PRIVATE_TOP_LEVELS: &[&str] = &[
    "arpa",
    "corp",
    "example",
    "home",
    "internal",
    "intranet",
    "invalid",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "onion",
    "private",
    "test",
];

/// Whether images may come from the reference's registry. The error has no pointer: only the caller
/// knows where in the command the reference stands.
pub fn registry_allowed(reference: &Reference, policy: &Policy) -> Result<(), Error> {
    let registry = reference.registry();
    let why = match &policy.allowed_registries {
        Some(allowed) => {
            let is_listed = |entry: &String| {
                let entry: Result<Registry, _> = entry.parse();
                entry.is_ok_and(|entry| entry.is_same_place(registry))
            };
            if allowed.iter().any(is_listed) {
                return Ok(());
            }
            "the host's list does not have it"
        }
        None => match not_public(registry) {
            Some(why) => why,
            None => return Ok(()),
        },
    };
    Err(denied(format!(
        "images from the registry {registry} are refused on this host: {why}; \
         policy.allowed_registries lists as host[:port] what is allowed"
    )))
}

/// Whether a tenant may set this environment variable.
pub fn env_allowed(name: &str) -> Result<(), Error> {
    let upper = name.to_ascii_uppercase();
    let reserved = RESERVED_ENV_NAMES.contains(&upper.as_str())
        || RESERVED_ENV_PREFIXES
            .iter()
            .any(|prefix| upper.starts_with(prefix));
    if !reserved {
        return Ok(());
    }
    Err(denied(format!(
        "the environment variable {name} is the host's to set: {}* and {} are reserved in upper and \
         lower case, and no key of the configuration lifts that",
        RESERVED_ENV_PREFIXES.join("*, "),
        RESERVED_ENV_NAMES.join(", "),
    )))
}

/// Whether a server may use this label.
pub fn label_allowed(key: &str) -> Result<(), Error> {
    let prefix = key.get(..RESERVED_LABEL_PREFIX.len());
    if prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(RESERVED_LABEL_PREFIX)) {
        return Err(denied(format!(
            "labels that begin with {RESERVED_LABEL_PREFIX} are the agent's own, \
             and no key of the configuration lifts that"
        )));
    }
    Ok(())
}

/// Why a registry is none that anybody on the internet could reach over TLS; `None` when it may be.
fn not_public(registry: &Registry) -> Option<&'static str> {
    if registry.port().is_some_and(|port| port != 443) {
        return Some("its port is not 443");
    }
    let host = registry.host().to_ascii_lowercase();
    let last = host.rsplit('.').next().unwrap_or_default();
    // Resolvers take a name whose last label is a number for an IPv4 address, so that 127.1 and
    // 0x7f000001 are loopback.
    let is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if host.starts_with('[') || is_number {
        return Some("it is an IP address");
    }
    if !host.contains('.') || PRIVATE_TOP_LEVELS.contains(&last) {
        return Some("its name is one of a private network");
    }
    None
}

fn denied(message: String) -> Error {
    Error::new(ErrorCode::PolicyDenied, message).at(Stage::Validate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(reference: &str, allowed: Option<&[&str]>) -> Result<(), Error> {
        let policy = Policy {
            allowed_registries: allowed.map(|list| list.iter().map(|e| (*e).to_owned()).collect()),
            ..Policy::default()
        };
        registry_allowed(&reference.parse().unwrap(), &policy)
    }

    #[test]
    fn without_a_list_only_public_registries_are_allowed() {
        for good in [
            "busybox",
            "ghcr.io/a/b",
            "nvcr.io:443/nvidia/cuda:12",
            "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x",
            "3com.example2.net/x",
        ] {
            assert_eq!(verdict(good, None), Ok(()), "{good}");
        }
        for bad in [
            "localhost/x",
            "localhost:443/x",
            "Registry/x",
            "ghcr.io:5000/x",
            "ghcr.io:80/x",
            "127.0.0.1/x",
            "127.0.0.1:443/x",
            "127.1:443/x",
            "2130706433:443/x",
            "0x7f.1/x",
            "a.0x7f000001/x",
            "[::1]/x",
            "[::ffff:169.254.169.254]/x",
            "169.254.169.254/x",
            "10.0.0.1/x",
            "metadata.google.internal/x",
            "nas.LOCAL/x",
            "x.localhost/y",
            "1.0.168.192.in-addr.arpa/x",
        ] {
            let error = verdict(bad, None).unwrap_err();
            assert_eq!(error.code, ErrorCode::PolicyDenied, "{bad}");
            assert!(
                error.message.contains("policy.allowed_registries"),
                "{error}"
            );
        }
    }

    #[test]
    fn with_a_list_only_what_it_names_is_allowed() {
        let list: Option<&[&str]> = Some(&[
            "127.0.0.1:5000",
            "GHCR.io",
            "docker.io",
            "[::1]:5000",
            "not a host",
        ]);
        for good in [
            "127.0.0.1:5000/x",
            "ghcr.io/x",
            "ghcr.io:443/x",
            "busybox",
            "[::1]:5000/x",
        ] {
            assert_eq!(verdict(good, list), Ok(()), "{good}");
        }
        for bad in [
            "127.0.0.1:5001/x",
            "127.0.0.1/x",
            "quay.io/x",
            "a.ghcr.io/x",
            "[::2]:5000/x",
        ] {
            let error = verdict(bad, list).unwrap_err();
            assert_eq!(error.code, ErrorCode::PolicyDenied, "{bad}");
        }
        assert!(verdict("busybox", Some(&[])).is_err());
    }

    #[test]
    fn environment_that_steers_the_host_is_reserved_in_any_case() {
        for bad in [
            "NVIDIA_VISIBLE_DEVICES",
            "nvidia_x",
            "LD_PRELOAD",
            "Ld_Audit",
            "CUDA_VISIBLE_DEVICES",
            "cuda_visible_devices",
            "GLIBC_TUNABLES",
            "ROCR_VISIBLE_DEVICES",
            "hip_visible_devices",
            "GPU_DEVICE_ORDINAL",
            "DOCKER_HOST",
            "RENTAL_AGENT_TOKEN",
            "rental_agent",
        ] {
            let error = env_allowed(bad).unwrap_err();
            assert_eq!(error.code, ErrorCode::PolicyDenied);
            assert!(error.message.contains(bad), "{error}");
        }
        for good in ["PATH", "CUDA_HOME", "LDFLAGS", "DOCKER", "RENTAL", "A_LD_B"] {
            assert_eq!(env_allowed(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn the_agents_own_labels_are_reserved() {
        assert!(label_allowed("rental-agent.spec").is_err());
        assert!(label_allowed("Rental-Agent.x").is_err());
        assert_eq!(label_allowed("rental-agent"), Ok(()));
        assert_eq!(label_allowed("ä"), Ok(()));
    }
}

//! What of a spec is written on the container, where everybody who can see the engine can read it:
//! the `.spec` label. Owns its form and its limit; no secret ever goes in. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    GpuDemand, InstanceSpec, MAX_INTEGER, PortRequest, check_labels, check_ports, invalid,
    parse_stop_grace,
};
use crate::{
    image::reference::Reference,
    protocol::{Error, spec::PullPolicy, text::printable},
};

/// The label is at most this long, in bytes.
pub const MAX_PUBLIC_SPEC_BYTES: usize = 32 * 1024;

/// What [`InstanceSpec::settle`] may add to the label.
const SETTLED_BYTES: usize = 80;

/// What an agent that did not take the command still knows of a rental.
#[derive(Debug, Clone, PartialEq)]
pub struct PublicSpec {
    /// What runs.
    pub image: Reference,
    /// It asked for GPUs.
    pub wants_gpus: bool,
    /// Effective, in billionths of a core; absent where nobody settled it.
    pub nano_cpus: Option<u64>,
    /// Effective; absent where nobody settled it.
    pub memory_bytes: Option<u64>,
    /// To be published.
    pub ports: Vec<PortRequest>,
    /// Between TERM and KILL.
    pub stop_grace: Duration,
    /// For the server's own use.
    pub labels: BTreeMap<String, String>,
}

/// Why a text is no public spec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the spec's label cannot be read: {0}")]
pub struct InvalidPublicSpec(String);

impl InvalidPublicSpec {
    fn new(error: &dyn std::error::Error) -> Self {
        // The words of an error may quote all of what they complain about.
        Self(printable(&error.to_string(), 300))
    }
}

/// The label as it is written.
#[derive(Serialize)]
struct Written<'a> {
    instance_id: &'a str,
    image: String,
    pull: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    entrypoint: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a [String]>,
    /// Names only.
    env: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nano_cpus: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shm_bytes: Option<u64>,
    ports: &'a [PortRequest],
    stop_grace_s: f64,
    labels: &'a BTreeMap<String, String>,
}

/// The label as it is read: what other versions add is ignored, what they leave out has a default.
#[derive(Deserialize)]
struct Read {
    image: String,
    #[serde(default)]
    gpus: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    nano_cpus: Option<u64>,
    #[serde(default)]
    memory_bytes: Option<u64>,
    #[serde(default)]
    ports: Vec<PortRequest>,
    #[serde(default)]
    stop_grace_s: Option<f64>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl InstanceSpec {
    /// The `.spec` label: the spec as JSON without values of environment variables and credentials,
    /// at most [`MAX_PUBLIC_SPEC_BYTES`].
    pub fn public_json(&self) -> String {
        let mut gpus = self.gpus.as_ref().map(|demand| match demand {
            GpuDemand::Count(count) => serde_json::json!({ "count": count }),
            GpuDemand::Uuids(uuids) => serde_json::json!({ "uuids": uuids }),
        });
        if let Some(serde_json::Value::Object(gpus)) = gpus.as_mut().filter(|_| self.gpus_optional)
        {
            gpus.insert("optional".to_owned(), true.into());
        }
        let written = Written {
            instance_id: self.instance_id.as_str(),
            image: self.image.to_string(),
            pull: match self.pull {
                PullPolicy::Missing => "missing",
                PullPolicy::Always => "always",
                PullPolicy::Never => "never",
            },
            entrypoint: self.entrypoint.as_deref(),
            command: self.command.as_deref(),
            env: self.env.iter().map(|(name, _)| name.as_str()).collect(),
            gpus,
            nano_cpus: self.nano_cpus,
            memory_bytes: self.memory_bytes,
            shm_bytes: self.shm_bytes,
            ports: &self.ports,
            stop_grace_s: self.stop_grace.as_secs_f64(),
            labels: &self.labels,
        };
        // Every map in it has text for keys, which is all that can fail here.
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// Reads the `.spec` label of a container that is ours. It may have been written by another
    /// version of the agent, and it is read with the same limits as a command.
    pub fn from_public_json(text: &str) -> Result<PublicSpec, InvalidPublicSpec> {
        if text.len() > MAX_PUBLIC_SPEC_BYTES {
            return Err(InvalidPublicSpec(format!("it has {} bytes", text.len())));
        }
        let read: Read =
            serde_json::from_str(text).map_err(|error| InvalidPublicSpec::new(&error))?;
        let image = read
            .image
            .parse()
            .map_err(|error| InvalidPublicSpec::new(&error))?;
        check_ports(&read.ports).map_err(|(_, message)| InvalidPublicSpec(message))?;
        check_labels(&read.labels).map_err(|error| InvalidPublicSpec(error.message))?;
        if [read.nano_cpus, read.memory_bytes]
            .into_iter()
            .flatten()
            .any(|n| n > MAX_INTEGER)
        {
            return Err(InvalidPublicSpec("an integer is not below 2^53".into()));
        }
        let stop_grace =
            parse_stop_grace(read.stop_grace_s.unwrap_or(10.0)).map_err(InvalidPublicSpec)?;
        Ok(PublicSpec {
            image,
            wants_gpus: read.gpus.is_some(),
            nano_cpus: read.nano_cpus,
            memory_bytes: read.memory_bytes,
            ports: read.ports,
            stop_grace,
            labels: read.labels,
        })
    }

    /// Whether the label stays within its limit, also once the host has settled its part.
    pub(super) fn check_public_size(&self) -> Result<(), Error> {
        let settled = self.nano_cpus.is_some() && self.memory_bytes.is_some();
        let length = self.public_json().len() + if settled { 0 } else { SETTLED_BYTES };
        if length <= MAX_PUBLIC_SPEC_BYTES {
            return Ok(());
        }
        let message = format!(
            "without secrets the spec has {length} bytes as JSON; at most {MAX_PUBLIC_SPEC_BYTES}: \
             shorten entrypoint, command, labels or the names in env"
        );
        Err(invalid("/spec", message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::{instance::spec::tests::parse_json, protocol::ErrorCode};

    #[test]
    fn the_label_says_what_a_restarted_agent_needs_and_no_secret() {
        let mut spec = parse_json(&json!({
            "instance_id": "r-1", "image": "ghcr.io/a/b:1",
            "registry_auth": {"username": "canary-1", "password": "canary-2"},
            "command": ["serve"], "env": {"TOKEN": "canary-3"}, "gpus": {"count": 1},
            "ports": [{"name": "web", "container": 80, "protocol": "udp"}],
            "stop_grace_s": 0.123, "labels": {"k": "v"},
        }))
        .unwrap();
        spec.settle(1_500_000_000, 1 << 30);
        let json = spec.public_json();
        insta::assert_snapshot!(json, @r#"{"instance_id":"r-1","image":"ghcr.io/a/b:1","pull":"missing","command":["serve"],"env":["TOKEN"],"gpus":{"count":1},"nano_cpus":1500000000,"memory_bytes":1073741824,"ports":[{"name":"web","container":80,"protocol":"udp"}],"stop_grace_s":0.123,"labels":{"k":"v"}}"#);
        assert!(!json.contains("canary"), "{json}");
        let read = InstanceSpec::from_public_json(&json).unwrap();
        assert_eq!(
            read,
            PublicSpec {
                image: spec.image,
                wants_gpus: true,
                nano_cpus: Some(1_500_000_000),
                memory_bytes: Some(1 << 30),
                ports: spec.ports,
                stop_grace: spec.stop_grace,
                labels: spec.labels,
            }
        );
    }

    #[test]
    fn a_spec_whose_label_would_be_too_long_is_refused() {
        let with = |bytes: usize| {
            parse_json(&json!({
                "instance_id": "r-1", "image": "busybox", "command": ["x".repeat(bytes)],
            }))
        };
        let error = with(MAX_PUBLIC_SPEC_BYTES).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidSpec);
        assert_eq!(error.detail, Some(json!({"pointer": "/spec"})));
        // Control characters are escaped in JSON and count as they are written.
        let escaped = json!({
            "instance_id": "r-1", "image": "busybox", "command": ["\u{1}".repeat(8000)],
        });
        assert!(parse_json(&escaped).is_err());
        let longest = (30_000..MAX_PUBLIC_SPEC_BYTES)
            .rev()
            .find_map(|bytes| with(bytes).ok());
        let mut longest = longest.unwrap();
        longest.settle(MAX_INTEGER, MAX_INTEGER);
        assert!(longest.public_json().len() <= MAX_PUBLIC_SPEC_BYTES);
    }

    #[test]
    fn labels_of_other_versions_are_read_as_far_as_they_are_known() {
        let read = InstanceSpec::from_public_json(r#"{"image":"busybox","later":[1]}"#).unwrap();
        assert_eq!(read.stop_grace, Duration::from_secs(10));
        assert!(read.ports.is_empty() && read.labels.is_empty());
    }

    #[test]
    fn labels_over_the_limits_are_no_spec() {
        for bad in [
            String::new(),
            "[]".into(),
            "{}".into(),
            r#"{"image":"A B"}"#.into(),
            r#"{"image":"a","stop_grace_s":601}"#.into(),
            r#"{"image":"a","memory_bytes":9007199254740992}"#.into(),
            r#"{"image":"a","ports":[{"name":"a","container":0}]}"#.into(),
            format!(r#"{{"image":"a","labels":{{"a":"{}"}}}}"#, "x".repeat(1025)),
            format!(
                r#"{{"image":"a","x":"{}"}}"#,
                "x".repeat(MAX_PUBLIC_SPEC_BYTES)
            ),
            "[".repeat(10_000),
        ] {
            assert!(InstanceSpec::from_public_json(&bad).is_err(), "{bad:.60}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in "\\PC{0,200}|[{}\\[\\]\":,a-z0-9.-]{0,200}") {
            let _ = InstanceSpec::from_public_json(&text);
        }
    }
}

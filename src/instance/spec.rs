//! Parse, don't validate: what the server asks for, as a value that is known to be sane. Owns every
//! limit of a spec; the first one that is broken refuses it, with a pointer to where. Decides
//! nothing about what is free on the host. Pure.

mod process;
mod public;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use self::process::{check_arguments, parse_env};
pub use self::public::{InvalidPublicSpec, MAX_PUBLIC_SPEC_BYTES, PublicSpec};
pub use crate::protocol::limits::MIN_MEMORY_BYTES;
use crate::{
    config::Policy,
    ids::{GpuUuid, InstanceId, SpecHash},
    image::reference::Reference,
    policy,
    protocol::{
        Error, ErrorCode, Stage,
        command::escape,
        limits::{
            MAX_CPUS, MAX_GPUS, MAX_GRACE_S, MAX_INTEGER, MAX_LABEL_KEY_BYTES,
            MAX_LABEL_VALUE_BYTES, MAX_LABELS, MAX_PORT_NAME_BYTES, MAX_PORTS, MAX_SECRET_BYTES,
            MAX_USERNAME_BYTES, MIN_CPUS,
        },
        record::PortProtocol,
        spec::{self as wire, PullPolicy},
    },
    runtime::Credentials,
};

/// Less than a hundredth of a core no engine accepts.
pub const MIN_NANO_CPUS: u64 = 10_000_000;

/// A spec within all limits, and allowed by the host's rules.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// Used once, ever.
    pub instance_id: InstanceId,
    /// Of the spec as received.
    pub hash: SpecHash,
    /// What to run.
    pub image: Reference,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// For the registry.
    pub auth: Option<Credentials>,
    /// `None`: the image's; empty: none.
    pub entrypoint: Option<Vec<String>>,
    /// `None`: the image's; empty: none.
    pub command: Option<Vec<String>>,
    /// The tenant's, in the order of their names.
    pub env: Vec<(String, SecretString)>,
    /// `None`: without GPUs.
    pub gpus: Option<GpuDemand>,
    /// It runs without GPUs rather than not at all, where the engine has no GPU runtime.
    pub gpus_optional: bool,
    /// Billionths of a core; `None`: the host decides.
    pub nano_cpus: Option<u64>,
    /// As many cores as are asked for, where that is in whole ones.
    pub whole_cores: Option<NonZeroU32>,
    /// Memory, swap included; `None`: the host decides.
    pub memory_bytes: Option<u64>,
    /// `/dev/shm`; `None`: the host decides.
    pub shm_bytes: Option<u64>,
    /// To be published, in the order of the spec.
    pub ports: Vec<PortRequest>,
    /// Between TERM and KILL.
    pub stop_grace: Duration,
    /// For the server's own use.
    pub labels: BTreeMap<String, String>,
}

/// Which GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GpuDemand {
    /// So many, whichever fit best.
    Count(NonZeroU32),
    /// Exactly these; at least one, each once.
    Uuids(Vec<GpuUuid>),
}

/// A port to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// Unique within the spec: 1 to 63 of `[a-z0-9-]`.
    pub name: String,
    /// Port inside the container, never 0; unique within the spec with its protocol.
    pub container: u16,
    /// Transport.
    #[serde(default)]
    pub protocol: PortProtocol,
}

impl InstanceSpec {
    /// Checks a spec as written. The error is the first fault: `invalid_spec` or `policy_denied`,
    /// with what is wrong, where, and what would be right.
    pub fn parse(wire: wire::InstanceSpec, hash: SpecHash, policy: &Policy) -> Result<Self, Error> {
        let gpus_optional = wire.gpus.as_ref().is_some_and(|gpus| gpus.optional);
        let gpus = parse_gpus(wire.gpus)?;
        let image = parse_image(&wire.image, policy, "/spec/image")?;
        let auth = parse_credentials(wire.registry_auth, "/spec/registry_auth")?;
        check_arguments(wire.entrypoint.as_deref(), wire.command.as_deref())?;
        let env = parse_env(wire.env)?;
        let nano_cpus = wire.cpus.map(parse_cpus).transpose()?;
        check_memory(wire.memory_bytes, wire.shm_bytes)?;
        let ports = parse_ports(wire.ports)?;
        let stop_grace = parse_stop_grace(wire.stop_grace_s)
            .map_err(|message| invalid("/spec/stop_grace_s", message))?;
        check_labels(&wire.labels)?;
        let spec = Self {
            instance_id: wire.instance_id,
            hash,
            image,
            pull: wire.pull,
            auth,
            entrypoint: wire.entrypoint,
            command: wire.command,
            env,
            gpus,
            gpus_optional,
            nano_cpus,
            whole_cores: nano_cpus.and_then(whole_cores),
            memory_bytes: wire.memory_bytes,
            shm_bytes: wire.shm_bytes,
            ports,
            stop_grace,
            labels: wire.labels,
        };
        spec.check_public_size()?;
        Ok(spec)
    }

    /// Fixes what the spec left to the host, so that the `.spec` label says what holds.
    pub fn settle(&mut self, nano_cpus: u64, memory_bytes: u64) {
        self.nano_cpus = Some(nano_cpus);
        self.memory_bytes = Some(memory_bytes);
    }
}

/// Billionths of a core, or `None` for what is no finite amount of cores.
pub fn nano_cpus(cores: f64) -> Option<u64> {
    // A duration's conversion is exact and checked, and seconds to nanoseconds is the same factor.
    let nanos = Duration::try_from_secs_f64(cores).ok()?.as_nanos();
    u64::try_from(nanos).ok()
}

fn whole_cores(nano_cpus: u64) -> Option<NonZeroU32> {
    let cores = u32::try_from(nano_cpus / 1_000_000_000).ok();
    let cores = cores.filter(|_| nano_cpus.is_multiple_of(1_000_000_000));
    cores.and_then(NonZeroU32::new)
}

/// Cores of so many billionths.
pub fn cores(nano_cpus: u64) -> f64 {
    Duration::from_nanos(nano_cpus).as_secs_f64()
}

/// Reads an image reference that stands at `pointer` and asks the policy about its registry.
pub fn parse_image(text: &str, policy: &Policy, pointer: &str) -> Result<Reference, Error> {
    let image: Reference = text
        .parse()
        .map_err(|error| invalid(pointer, format!("{error}")))?;
    policy::registry_allowed(&image, policy).map_err(|error| error.pointing(pointer))?;
    Ok(image)
}

/// Reads a registry's credentials that stand at `pointer`.
pub fn parse_credentials(
    auth: Option<wire::RegistryAuth>,
    pointer: &str,
) -> Result<Option<Credentials>, Error> {
    let Some(auth) = auth else { return Ok(None) };
    let check_secret = |secret: &SecretString, name: &str| {
        let secret = secret.expose_secret();
        if secret.is_empty() || secret.len() > MAX_SECRET_BYTES || secret.contains('\0') {
            let message = format!(
                "the registry's {name} is empty, too long or has a NUL; \
                 it has to be 1 to {MAX_SECRET_BYTES} bytes without one"
            );
            return Err(invalid(format!("{pointer}/{name}"), message));
        }
        Ok(())
    };
    match (auth.username, auth.password, auth.identity_token) {
        (Some(username), Some(password), None) => {
            let length = username.len();
            if length == 0 || length > MAX_USERNAME_BYTES || username.chars().any(char::is_control)
            {
                let message = format!(
                    "the registry's username has {length} bytes or control characters; \
                     it has to be 1 to {MAX_USERNAME_BYTES} bytes without any"
                );
                return Err(invalid(format!("{pointer}/username"), message));
            }
            check_secret(&password, "password")?;
            Ok(Some(Credentials::Password { username, password }))
        }
        (None, None, Some(token)) => {
            check_secret(&token, "identity_token")?;
            Ok(Some(Credentials::IdentityToken(token)))
        }
        _ => Err(invalid(
            pointer,
            "`registry_auth` has to be either `username` and `password`, or `identity_token`",
        )),
    }
}

/// Reads the `grace_s` of a command: seconds between TERM and KILL.
pub fn parse_grace(seconds: Option<f64>) -> Result<Option<Duration>, Error> {
    let Some(seconds) = seconds else {
        return Ok(None);
    };
    match Duration::try_from_secs_f64(seconds) {
        Ok(grace) if seconds <= MAX_GRACE_S => Ok(Some(grace)),
        _ => {
            let message = format!("`grace_s` is {seconds}; 0 to {MAX_GRACE_S} seconds");
            Err(invalid("/grace_s", message))
        }
    }
}

fn parse_gpus(request: Option<wire::GpuRequest>) -> Result<Option<GpuDemand>, Error> {
    let Some(request) = request else {
        return Ok(None);
    };
    let demand = match (request.count, request.uuids) {
        (Some(count), None) => {
            let within = NonZeroU32::new(count)
                .filter(|count| usize::try_from(count.get()).is_ok_and(|n| n <= MAX_GPUS));
            GpuDemand::Count(within.ok_or_else(|| {
                let message = format!(
                    "`count` is {count}; it has to be 1 to {MAX_GPUS}, and no `gpus` means none"
                );
                invalid("/spec/gpus/count", message)
            })?)
        }
        (None, Some(uuids)) => GpuDemand::Uuids(parse_uuids(&uuids)?),
        (Some(_), Some(_)) | (None, None) => {
            return Err(invalid(
                "/spec/gpus",
                "`gpus` has to have exactly one of `count` and `uuids`",
            ));
        }
    };
    Ok(Some(demand))
}

fn parse_uuids(uuids: &[String]) -> Result<Vec<GpuUuid>, Error> {
    if uuids.is_empty() || uuids.len() > MAX_GPUS {
        let message = format!("`uuids` has {} entries; 1 to {MAX_GPUS}", uuids.len());
        return Err(invalid("/spec/gpus/uuids", message));
    }
    let mut parsed = Vec::with_capacity(uuids.len());
    for (index, uuid) in uuids.iter().enumerate() {
        let pointer = || format!("/spec/gpus/uuids/{index}");
        let uuid: GpuUuid = uuid
            .parse()
            .map_err(|error| invalid(pointer(), format!("{error}")))?;
        if parsed.contains(&uuid) {
            let message = format!("the GPU {uuid} is listed twice; once each");
            return Err(invalid(pointer(), message));
        }
        parsed.push(uuid);
    }
    Ok(parsed)
}

fn parse_cpus(cpus: f64) -> Result<u64, Error> {
    nano_cpus(cpus)
        .filter(|nano| (MIN_CPUS..=MAX_CPUS).contains(&cores(*nano)))
        .ok_or_else(|| {
            invalid(
                "/spec/cpus",
                format!("`cpus` is {cpus}; {MIN_CPUS} to {MAX_CPUS} cores"),
            )
        })
}

fn check_memory(memory_bytes: Option<u64>, shm_bytes: Option<u64>) -> Result<(), Error> {
    if let Some(memory) = memory_bytes
        && !(MIN_MEMORY_BYTES..=MAX_INTEGER).contains(&memory)
    {
        let message = format!(
            "`memory_bytes` is {memory}; it has to be {MIN_MEMORY_BYTES} (6 MiB) to {MAX_INTEGER}"
        );
        return Err(invalid("/spec/memory_bytes", message));
    }
    if let Some(shm) = shm_bytes
        && !(1..=memory_bytes.unwrap_or(MAX_INTEGER)).contains(&shm)
    {
        let message =
            format!("`shm_bytes` is {shm}; it is a part of `memory_bytes` and has to be 1 to that");
        return Err(invalid("/spec/shm_bytes", message));
    }
    Ok(())
}

fn parse_ports(ports: Vec<wire::PortRequest>) -> Result<Vec<PortRequest>, Error> {
    let ports: Vec<PortRequest> = ports
        .into_iter()
        .map(|port| PortRequest {
            name: port.name,
            container: port.container,
            protocol: port.protocol,
        })
        .collect();
    check_ports(&ports).map_err(|(at, message)| invalid(format!("/spec/ports{at}"), message))?;
    Ok(ports)
}

/// The first fault of a list of ports, and where in the list it is.
fn check_ports(ports: &[PortRequest]) -> Result<(), (String, String)> {
    if ports.len() > MAX_PORTS {
        let message = format!("`ports` has {} entries; at most {MAX_PORTS}", ports.len());
        return Err((String::new(), message));
    }
    let (mut names, mut targets) = (BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let name = &port.name;
        let valid = (1..=MAX_PORT_NAME_BYTES).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid {
            let shown: String = name.chars().take(80).collect();
            let message =
                format!("{shown:?} is no name of a port: 1 to {MAX_PORT_NAME_BYTES} of [a-z0-9-]");
            return Err((format!("/{index}/name"), message));
        }
        if port.container == 0 {
            let message = format!("the port {name} has the number 0; 1 to 65535");
            return Err((format!("/{index}/container"), message));
        }
        if !names.insert(name) {
            let message = format!("two ports are named {name}; names have to differ");
            return Err((format!("/{index}/name"), message));
        }
        if !targets.insert((port.container, port.protocol)) {
            let message = format!(
                "the port {} is listed twice for one protocol; once each",
                port.container
            );
            return Err((format!("/{index}/container"), message));
        }
    }
    Ok(())
}

/// To whole milliseconds.
fn parse_stop_grace(seconds: f64) -> Result<Duration, String> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|grace| grace.as_secs_f64() <= MAX_GRACE_S)
        .and_then(|grace| u64::try_from(grace.as_millis()).ok())
        .map(Duration::from_millis)
        .ok_or_else(|| format!("`stop_grace_s` is {seconds}; 0 to {MAX_GRACE_S} seconds"))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Error> {
    if labels.len() > MAX_LABELS {
        let message = format!(
            "`labels` has {} entries; at most {MAX_LABELS}",
            labels.len()
        );
        return Err(invalid("/spec/labels", message));
    }
    for (key, value) in labels {
        let pointer = || format!("/spec/labels/{}", escape(key));
        if key.is_empty() || key.len() > MAX_LABEL_KEY_BYTES || key.chars().any(char::is_control) {
            let message = format!(
                "a label's key has to be 1 to {MAX_LABEL_KEY_BYTES} bytes without control characters"
            );
            return Err(invalid(pointer(), message));
        }
        policy::label_allowed(key).map_err(|error| error.pointing(pointer()))?;
        if value.len() > MAX_LABEL_VALUE_BYTES || value.chars().any(char::is_control) {
            let message = format!(
                "a label's value has to be at most {MAX_LABEL_VALUE_BYTES} bytes \
                 without control characters"
            );
            return Err(invalid(pointer(), message));
        }
    }
    Ok(())
}

fn invalid(pointer: impl Into<String>, message: impl AsRef<str>) -> Error {
    Error::new(ErrorCode::InvalidSpec, message)
        .at(Stage::Validate)
        .pointing(pointer)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::{Incoming, Op, decode};

    /// A spec as the server would send it, through the decoder of the wire.
    pub(crate) fn parse_json(spec: &Value) -> Result<InstanceSpec, Error> {
        let command = json!({"type": "command", "id": "c1", "op": "deploy", "spec": spec});
        let command = match decode(&command.to_string()).unwrap() {
            Incoming::Command(command) => command,
            Incoming::BadCommand(_, error) | Incoming::Unauthorized(_, error) => {
                return Err(*error);
            }
            Incoming::Welcome(_) | Incoming::Ack(_) | Incoming::Unknown(_) => panic!("no command"),
        };
        let Op::Deploy(deploy) = command.op else {
            panic!("no deploy")
        };
        InstanceSpec::parse(deploy.spec, deploy.spec_sha256, &Policy::default())
    }

    fn with(name: &str, value: Value) -> Value {
        let mut spec = json!({"instance_id": "r-1", "image": "busybox"});
        spec[name] = value;
        spec
    }

    #[track_caller]
    fn refused(name: &str, value: Value, pointer: &str) -> Error {
        let error = parse_json(&with(name, value)).unwrap_err();
        assert_eq!(error.detail, Some(json!({ "pointer": pointer })), "{error}");
        assert_eq!(error.stage, Some(Stage::Validate));
        assert!(
            matches!(error.code, ErrorCode::InvalidSpec | ErrorCode::PolicyDenied),
            "{error}"
        );
        error
    }

    #[track_caller]
    fn taken(name: &str, value: Value) -> InstanceSpec {
        parse_json(&with(name, value)).unwrap()
    }

    #[test]
    fn a_full_spec_becomes_what_it_says() {
        let spec = parse_json(&json!({
            "instance_id": "r-1", "image": "ghcr.io/a/b:1", "pull": "always",
            "registry_auth": {"username": "u", "password": "p"},
            "entrypoint": ["/bin/sh", ""], "command": [], "env": {"B": "2", "A": "1"},
            "gpus": {"uuids": ["GPU-1", "GPU-0"], "optional": false}, "cpus": 1.5,
            "memory_bytes": 1 << 30, "shm_bytes": 1 << 20,
            "ports": [{"name": "web", "container": 80},
                      {"name": "dns", "container": 80, "protocol": "udp"}],
            "stop_grace_s": 0.25, "labels": {"k": "v"},
        }))
        .unwrap();
        assert_eq!(spec.image.for_engine(), "ghcr.io/a/b:1");
        assert_eq!(spec.pull, PullPolicy::Always);
        assert!(matches!(spec.auth, Some(Credentials::Password { .. })));
        assert_eq!(spec.command, Some(vec![]));
        let names: Vec<&str> = spec.env.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["A", "B"]);
        let uuids = ["GPU-1", "GPU-0"].map(|uuid| uuid.parse().unwrap());
        assert_eq!(spec.gpus, Some(GpuDemand::Uuids(uuids.to_vec())));
        assert_eq!(spec.nano_cpus, Some(1_500_000_000));
        assert_eq!(spec.stop_grace, Duration::from_millis(250));
        assert_eq!(spec.ports.len(), 2);
        assert_eq!(spec.labels["k"], "v");
    }

    #[test]
    fn gpus_may_be_optional_and_the_label_says_so() {
        for (written, optional) in [(json!(true), true), (json!(false), false)] {
            let gpus = json!({ "count": 1, "optional": written });
            let spec = parse_json(&with("gpus", gpus)).unwrap();
            assert_eq!(spec.gpus_optional, optional);
            assert_eq!(spec.public_json().contains("\"optional\":true"), optional);
        }
    }

    #[test]
    fn cores_are_whole_or_they_are_not() {
        let whole = |cpus: f64| parse_json(&with("cpus", json!(cpus))).unwrap().whole_cores;
        assert_eq!(whole(3.0), NonZeroU32::new(3));
        assert_eq!(whole(1.5), None);
        assert_eq!(whole(0.5), None);
        let unsaid = parse_json(&with("gpus", json!({ "count": 1 }))).unwrap();
        assert_eq!(unsaid.whole_cores, None);
    }

    #[test]
    fn a_short_spec_leaves_the_rest_to_the_host() {
        let spec = parse_json(&json!({"instance_id": "r-1", "image": "busybox"})).unwrap();
        assert_eq!(spec.stop_grace, Duration::from_secs(10));
        assert!(spec.gpus.is_none() && spec.nano_cpus.is_none() && spec.memory_bytes.is_none());
        assert!(spec.entrypoint.is_none() && spec.command.is_none() && spec.auth.is_none());
    }

    #[test]
    fn images_outside_the_grammar_or_the_policy_are_refused() {
        refused("image", json!(""), "/spec/image");
        refused("image", json!("a b"), "/spec/image");
        refused(
            "image",
            json!(format!("a{}", "/a".repeat(300))),
            "/spec/image",
        );
        let error = refused("image", json!("localhost:5000/x"), "/spec/image");
        assert_eq!(error.code, ErrorCode::PolicyDenied);
    }

    #[test]
    fn credentials_are_one_pair_or_one_token() {
        let at = "/spec/registry_auth";
        for bad in [
            json!({}),
            json!({"username": "u"}),
            json!({"password": "p"}),
            json!({"username": "u", "identity_token": "t"}),
            json!({"username": "u", "password": "p", "identity_token": "t"}),
        ] {
            refused("registry_auth", bad, at);
        }
        for (name, value) in [
            ("username", ""),
            ("username", "a\nb"),
            ("password", ""),
            ("password", "a\0"),
        ] {
            let mut auth = json!({"username": "u", "password": "p"});
            auth[name] = json!(value);
            refused("registry_auth", auth, &format!("{at}/{name}"));
        }
        refused(
            "registry_auth",
            json!({"identity_token": ""}),
            "/spec/registry_auth/identity_token",
        );
        taken("registry_auth", json!({"identity_token": "t"}));
    }

    #[test]
    fn gpus_are_a_count_or_a_list_of_different_uuids() {
        for (bad, pointer) in [
            (json!({}), "/spec/gpus"),
            (json!({"optional": true}), "/spec/gpus"),
            (json!({"count": 1, "uuids": ["GPU-0"]}), "/spec/gpus"),
            (json!({"count": 0}), "/spec/gpus/count"),
            (json!({"count": 65}), "/spec/gpus/count"),
            (json!({"count": -1}), "/spec/gpus/count"),
            (json!({"count": 1.5}), "/spec/gpus/count"),
            (json!({"uuids": []}), "/spec/gpus/uuids"),
            (json!({"uuids": ["GPU-0", "GPU-0"]}), "/spec/gpus/uuids/1"),
            (json!({"uuids": ["GPU-0,GPU-1"]}), "/spec/gpus/uuids/0"),
            (json!({"uuids": [""]}), "/spec/gpus/uuids/0"),
        ] {
            refused("gpus", bad, pointer);
        }
        let spec = taken("gpus", json!({"count": 2}));
        assert_eq!(spec.gpus, NonZeroU32::new(2).map(GpuDemand::Count));
    }

    #[test]
    fn amounts_stay_within_what_the_engine_can_do() {
        for bad in [json!(0), json!(-1), json!(0.009), json!(4097), json!(1e300)] {
            refused("cpus", bad, "/spec/cpus");
        }
        for bad in [
            json!(0),
            json!(6_291_455),
            json!(-1),
            json!(1u64 << 53),
            json!(u64::MAX),
        ] {
            refused("memory_bytes", bad, "/spec/memory_bytes");
        }
        for bad in [json!(0), json!(1u64 << 53)] {
            refused("shm_bytes", bad, "/spec/shm_bytes");
        }
        for bad in [json!(-0.1), json!(600.5), json!(1e300)] {
            refused("stop_grace_s", bad, "/spec/stop_grace_s");
        }
        taken("cpus", json!(0.01));
        taken("cpus", json!(4096));
        taken("memory_bytes", json!(6_291_456));
        taken("shm_bytes", json!(1));
        taken("stop_grace_s", json!(600));
        let mut both = with("memory_bytes", json!(8 << 20));
        both["shm_bytes"] = json!((8 << 20) + 1);
        let error = parse_json(&both).unwrap_err();
        assert_eq!(error.detail, Some(json!({"pointer": "/spec/shm_bytes"})));
    }

    #[test]
    fn ports_have_different_names_and_targets() {
        let port = |name: &str, container: u32| json!({"name": name, "container": container});
        refused("ports", json!([port("", 80)]), "/spec/ports/0/name");
        refused("ports", json!([port("A", 80)]), "/spec/ports/0/name");
        refused(
            "ports",
            json!([port(&"a".repeat(64), 80)]),
            "/spec/ports/0/name",
        );
        refused("ports", json!([port("a", 0)]), "/spec/ports/0/container");
        refused(
            "ports",
            json!([port("a", 65536)]),
            "/spec/ports/0/container",
        );
        refused(
            "ports",
            json!([port("a", 80), port("a", 81)]),
            "/spec/ports/1/name",
        );
        refused(
            "ports",
            json!([port("a", 80), port("b", 80)]),
            "/spec/ports/1/container",
        );
        let many: Vec<Value> = (1..=65).map(|n| port(&format!("p{n}"), n)).collect();
        refused("ports", json!(many), "/spec/ports");
        assert_eq!(taken("ports", json!(many[..64])).ports.len(), 64);
    }

    #[test]
    fn labels_are_few_short_and_not_ours() {
        refused("labels", json!({"": "x"}), "/spec/labels/");
        refused("labels", json!({"a/b\n": "x"}), "/spec/labels/a~1b\n");
        refused("labels", json!({"a": "\u{1b}[0m"}), "/spec/labels/a");
        refused("labels", json!({"a": "x".repeat(1025)}), "/spec/labels/a");
        let error = refused(
            "labels",
            json!({"rental-agent.spec": ""}),
            "/spec/labels/rental-agent.spec",
        );
        assert_eq!(error.code, ErrorCode::PolicyDenied);
        let many: BTreeMap<String, String> =
            (0..65).map(|n| (n.to_string(), String::new())).collect();
        refused("labels", json!(many), "/spec/labels");
    }

    #[test]
    fn cores_and_their_billionths_convert_both_ways() {
        for (given, nano) in [
            (0.01, 10_000_000),
            (1.0, 1_000_000_000),
            (3.7, 3_700_000_000),
        ] {
            assert_eq!(nano_cpus(given), Some(nano));
            assert_eq!(cores(nano), given);
        }
        assert_eq!(nano_cpus(f64::NAN), None);
        assert_eq!(nano_cpus(-1.0), None);
        assert_eq!(nano_cpus(f64::INFINITY), None);
    }
}

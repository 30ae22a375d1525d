//! The configuration as it is written: every key, its type, its default, its limits. The JSON
//! Schema of [`Raw`] is the one list of keys: the environment's names, the nearest right name, the
//! limits that are checked and the documentation all come from it. Checks that a schema cannot
//! express are in `validate`.

mod gpu;
mod http;

use std::{collections::BTreeMap, path::PathBuf};

use schemars::{JsonSchema, generate::SchemaSettings};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::gpu::{Numa, OnMissingRuntime, Verify};
pub(super) use self::{
    gpu::{Gpu, GpuWipe, Monitoring},
    http::{Control, Http, HttpAuth, HttpTls},
};
use super::validate::ULIMITS;
use crate::{
    ids::{AgentId, GpuUuid},
    protocol::limits,
};

const MIB: u64 = 1024 * 1024;

/// Facts about the host.
pub(super) const MAX_LABELS: usize = 64;
/// In characters.
pub(super) const MAX_LABEL_VALUE: usize = 256;

// What the checks in `validate` let through, as far as a pattern can say it.
const SERVER_URL: &str = "^(?:[Hh][Tt][Tt][Pp]|[Ww][Ss])[Ss]?://[^@?#]+$";
const ENGINE_NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$";
const SUBNET: &str = r"^[0-9]{1,3}(?:\.[0-9]{1,3}){3}/(?:1[6-9]|2[0-8])$";
const PORT_RANGE: &str = r"^\s*[0-9]+\s*-\s*[0-9]+\s*$";
const REGISTRY: &str = r"^[^A-Z/@\s]+$";

/// Configuration of rental-agent.
///
/// The same keys can be set in the environment as RENTAL_AGENT__SECTION__KEY (lists and tables as
/// JSON). An unknown key is an error.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) agent: Agent,
    pub(super) server: Server,
    pub(super) docker: Docker,
    pub(super) network: Network,
    pub(super) resources: Resources,
    pub(super) policy: Policy,
    pub(super) gpu: Gpu,
    pub(super) monitoring: Monitoring,
    pub(super) host: Host,
    pub(super) http: Http,
    pub(super) control: Control,
    pub(super) log: Log,
}

/// Who this agent is.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Agent {
    /// The name of this host at the central server: 1 to 63 of [a-z0-9-], alphanumeric at both
    /// ends. Required, never generated. Also AGENT_ID.
    #[schemars(with = "Option<AgentId>", example = &"gpu-host-1")]
    pub(super) id: Option<String>,
    /// Facts about this host for the server to choose by: at most 64, names of 1 to 63 of
    /// [A-Za-z0-9._/-], values of at most 256 characters.
    #[schemars(example = BTreeMap::from([("zone", "eu-1")]), extend(
        "maxProperties" = MAX_LABELS,
        "propertyNames" = { "pattern": "^[A-Za-z0-9._/-]{1,63}$" },
        "additionalProperties" = {
            "type": "string", "maxLength": MAX_LABEL_VALUE, "pattern": limits::WITHOUT_CONTROL,
        },
    ))]
    pub(super) labels: BTreeMap<String, String>,
}

/// The central server.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Server {
    /// Where to dial: https, wss, http or ws. Required. Also API_SERVER_URL.
    #[schemars(example = &"wss://rentals.example.com", regex(pattern = SERVER_URL))]
    pub(super) url: Option<String>,
    /// The bearer token. Better in a file: see token_file. Also AGENT_TOKEN.
    #[schemars(with = "Option<String>", example = &"s3cret", extend("writeOnly" = true))]
    pub(super) token: Option<SecretString>,
    /// A file that holds the bearer token, absolute; read at each dial, so that the token can be
    /// rotated; not readable by other users. Either this, token or jwt_key_file. Also
    /// AGENT_TOKEN_FILE.
    #[schemars(example = &"/etc/rental-agent/token", extend("format" = "path"))]
    pub(super) token_file: Option<PathBuf>,
    /// The agent's own private key (Ed25519, PKCS#8 in PEM), absolute; not readable by other users.
    /// At each dial a JWT that is valid for a minute is signed with it and sent as the token.
    #[schemars(example = &"/etc/rental-agent/agent.key", extend("format" = "path"))]
    pub(super) jwt_key_file: Option<PathBuf>,
    /// Certificates (PEM) to trust beside the system's, absolute.
    #[schemars(example = &"/etc/rental-agent/ca.pem", extend("format" = "path"))]
    pub(super) ca_file: Option<PathBuf>,
    /// Dial without TLS also when the server is not on this host. The token then travels in the
    /// clear.
    pub(super) allow_plaintext: bool,
}

/// The container engine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Docker {
    /// The engine's socket: unix:///PATH. Also DOCKER_HOST.
    #[schemars(example = &"unix:///run/docker.sock", regex(pattern = "^unix:///[^@]*$"))]
    pub(super) host: String,
    /// A pull without any sign of life for so many seconds is given up.
    #[schemars(range(min = 1, max = 3600))]
    pub(super) pull_stall_s: f64,
}

impl Default for Docker {
    fn default() -> Self {
        Self {
            host: "unix:///var/run/docker.sock".into(),
            pull_stall_s: 120.0,
        }
    }
}

/// How rentals are reached.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Network {
    /// The engine's network that all rentals share; made when it is missing.
    #[schemars(example = &"rentals", regex(pattern = ENGINE_NAME))]
    #[schemars(extend("not" = { "enum": ["host", "bridge", "none", "default"] }))]
    pub(super) name: String,
    /// Its subnet: private IPv4, /16 to /28. Unset: the engine chooses.
    #[schemars(example = &"172.30.0.0/16", regex(pattern = SUBNET))]
    pub(super) subnet: Option<String>,
    /// The host's ports that rentals are published on, first and last, from 1024 up.
    #[schemars(example = &"31000-32000", regex(pattern = PORT_RANGE))]
    pub(super) port_range: String,
    /// The address or name by which renters reach this host. Unset: the server knows better.
    #[schemars(example = &"203.0.113.7")]
    pub(super) public_address: Option<String>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            name: "rental-agent".into(),
            subnet: None,
            port_range: "30000-31000".into(),
            public_address: None,
        }
    }
}

/// How much of the host is rented out.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Resources {
    /// What is kept for the host itself.
    #[schemars(example = BTreeMap::from([("cpus", 1)]))]
    pub(super) reserve: Reserve,
    /// Rentals at once.
    #[schemars(range(min = 1, max = 1024))]
    pub(super) max_instances: u32,
    /// Cores of a rental whose spec names none and has no GPU.
    #[schemars(range(min = 0.01, max = 4096.0))]
    pub(super) default_cpus: f64,
    /// Memory of a rental whose spec names none and has no GPU.
    #[schemars(range(min = 6 * MIB, max = 9_007_199_254_740_991_u64))]
    pub(super) default_memory_bytes: u64,
    /// Whether a rental that asks for whole cores gets those of its GPUs' memory node.
    pub(super) numa: Numa,
    /// Processes and threads of each rental.
    #[schemars(range(min = 16, max = 4096))]
    pub(super) pids_limit: u32,
    /// Size of a log file of a rental, after which the next one is begun.
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub(super) log_max_bytes: u64,
    /// Log files kept of each rental.
    #[schemars(range(min = 1, max = 100))]
    pub(super) log_files: u32,
    /// UUIDs of the GPUs that are rented out; the others are the provider's own and are never named.
    /// Unset: all.
    #[schemars(with = "Option<Vec<GpuUuid>>", example = &["GPU-3f0c1f2e-7f6a-1c4e-9d5b-2a6e8b9c0d1f"])]
    pub(super) gpus: Option<Vec<String>>,
    /// Limits by name as in setrlimit(2), -1 for none. One above the engine's own fails the start.
    #[schemars(example = BTreeMap::from([("nofile", BTreeMap::from([("soft", 65_536), ("hard", 65_536)]))]))]
    #[schemars(extend("propertyNames" = { "enum": ULIMITS }))]
    pub(super) ulimits: BTreeMap<String, Ulimit>,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            reserve: Reserve::default(),
            max_instances: 64,
            default_cpus: 1.0,
            default_memory_bytes: 1024 * MIB,
            numa: Numa::default(),
            pids_limit: 4096,
            log_max_bytes: 10_000_000,
            log_files: 3,
            gpus: None,
            ulimits: BTreeMap::new(),
        }
    }
}

/// What is kept for the host itself.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Reserve {
    /// Cores.
    #[schemars(range(min = 0, max = 4096))]
    pub(super) cpus: f64,
    /// Memory.
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub(super) memory_bytes: u64,
    /// Space on the engine's disk.
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub(super) disk_bytes: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Self {
            cpus: 0.0,
            memory_bytes: 512 * MIB,
            disk_bytes: 5 * 1024 * MIB,
        }
    }
}

/// A soft and a hard limit; -1 is none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Ulimit {
    /// What a process starts with.
    #[schemars(range(min = -1))]
    pub(super) soft: i64,
    /// What it may raise that to.
    #[schemars(range(min = -1))]
    pub(super) hard: i64,
}

/// What is refused, whatever the server says.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Policy {
    /// Registries that images may come from, as HOST or HOST:PORT. Unset: every one but IP
    /// addresses, private names, and ports other than 443.
    #[schemars(example = ["docker.io", "registry.example.com:5000"], inner(regex(pattern = REGISTRY)))]
    pub(super) allowed_registries: Option<Vec<String>>,
    /// Let sudo work inside rentals (lifts no-new-privileges).
    pub(super) sudo: bool,
    /// The engine's OCI runtime for all rentals. Unset: its default.
    #[schemars(example = &"runsc", regex(pattern = ENGINE_NAME))]
    pub(super) runtime: Option<String>,
    /// Take only commands that are signed with the key of command_public_key_file, for this agent and
    /// with an end of their validity. All others are refused, whoever sends them.
    pub(super) require_signed_commands: bool,
    /// The public key (Ed25519, PEM), absolute; not writable by other users. Read at the start.
    #[schemars(example = &"/etc/rental-agent/commands.pub", extend("format" = "path"))]
    pub(super) command_public_key_file: Option<PathBuf>,
}

/// The machine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Host {
    /// A file whose content changes at each boot, absolute. For tests.
    #[schemars(extend("format" = "path"))]
    pub(super) boot_id_file: PathBuf,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            boot_id_file: "/proc/sys/kernel/random/boot_id".into(),
        }
    }
}

/// The agent's own log, on standard error.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct Log {
    /// A level (error, warn, info, debug, trace), or comma-separated TARGET=LEVEL. Libraries never
    /// log below info, since what they print there holds secrets.
    #[schemars(example = &"info,rental_agent::session=debug")]
    pub(super) filter: String,
    /// Text for people or one JSON object a line.
    pub(super) format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            format: LogFormat::Text,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum LogFormat {
    Text,
    Json,
}

/// The JSON Schema (2020-12) of the configuration. Secrets are marked `writeOnly`.
pub fn schema() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<Raw>()
        .to_value();
    if let Value::Object(root) = &mut schema {
        root.insert("title".into(), "rental-agent configuration".into());
    }
    without_null(&mut schema);
    schema
}

/// TOML has no null: an optional key is absent, and its schema is that of its value. Paths are
/// absolute.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".into(), only);
                }
            }
            if object.get("format").is_some_and(|format| format == "path") {
                object.insert("pattern".into(), "^/".into());
            }
            object.values_mut().for_each(without_null);
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

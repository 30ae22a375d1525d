//! The agent's configuration: read from defaults, file, environment and flags, checked whole, with
//! all faults reported at once. Nothing else in the program reads the environment.
//!
//! ```text
//! file, .env, environment, flags --settings, load--> merged --extract--> Raw --validate--> Config
//!                                                 \_________ faults, all of them ________/
//! ```

mod env_file;
mod extract;
mod fault;
mod keys;
mod load;
mod proxy;
mod raw;
mod settings;
mod show;
mod token;
mod validate;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use secrecy::SecretString;
use url::Url;

pub use self::{
    fault::{ConfigError, Fault, Source},
    load::{Flag, Overrides, environment, load},
    raw::schema,
    raw::{Numa, OnMissingRuntime, Verify},
    show::{Entry, Shown, show},
    token::TokenError,
};
use crate::{
    gpu::ward,
    ids::{AgentId, GpuUuid},
    protocol::record::PortRange,
};

/// A configuration that is known to be sane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Who this is.
    pub agent: Agent,
    /// Whom it obeys.
    pub server: Server,
    /// The engine.
    pub docker: Docker,
    /// How rentals are reached.
    pub network: Network,
    /// How much is rented out.
    pub resources: ResourceLimits,
    /// What is refused, whatever the server says.
    pub policy: Policy,
    /// GPUs.
    pub gpu: Gpu,
    /// The machine.
    pub host: HostOptions,
    /// The HTTP surface.
    pub http: Http,
    /// Local control.
    pub control: Control,
    /// Logging.
    pub log: Log,
}

/// Who this is.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Agent {
    pub id: AgentId,
    pub labels: BTreeMap<String, String>,
}

/// The central server.
#[derive(Debug, Clone)]
pub struct Server {
    /// `ws` or `wss`, without the session's path.
    pub url: Url,
    /// The bearer token.
    pub token: Token,
    /// PEM; trusted beside the system's roots.
    pub ca_file: Option<PathBuf>,
    /// What the dial goes through, as HTTPS_PROXY and NO_PROXY say for this URL.
    pub proxy: Option<Proxy>,
}

/// An HTTP proxy, asked to CONNECT.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Of the proxy.
    pub host: url::Host,
    /// Of the proxy.
    pub port: u16,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<SecretString>,
    /// The variable that named it.
    pub variable: &'static str,
}

/// Where the bearer token comes from.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Token {
    Static(SecretString),
    /// Read at each dial, so that it can be rotated.
    File(PathBuf),
    /// Made at each dial, and signed with this key.
    Jwt(KeyFile),
}

/// Where the agent's own private key is: Ed25519 as PKCS#8 in PEM. Read at each dial, so that it can
/// be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile(pub PathBuf);

/// The container engine.
#[derive(Debug, Clone)]
pub struct Docker {
    /// `unix:///…`
    pub host: String,
    /// Without any sign of life for so long a pull is given up.
    pub pull_stall: Duration,
}

/// How rentals are reached.
#[derive(Debug, Clone)]
pub struct Network {
    /// The bridge network that all rentals share.
    pub name: String,
    /// Its subnet; unset: the engine chooses.
    pub subnet: Option<ipnet::Ipv4Net>,
    /// Host ports for rentals.
    pub port_range: PortRange,
    /// Where renters reach this host.
    pub public_address: Option<String>,
}

/// How much is rented out.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct ResourceLimits {
    /// Kept for the host, in cores.
    pub reserve_cpus: f64,
    pub reserve_memory_bytes: u64,
    pub reserve_disk_bytes: u64,
    /// Rentals at once.
    pub instances: u32,
    /// For a spec without GPUs that names none.
    pub default_cpus: f64,
    pub default_memory_bytes: u64,
    pub numa: Numa,
    pub pids_limit: u32,
    pub log_max_bytes: u64,
    pub log_files: u32,
    /// GPUs that are rented out; unset: all.
    pub gpus: Option<BTreeSet<GpuUuid>>,
    /// Name to (soft, hard).
    pub ulimits: BTreeMap<String, (i64, i64)>,
}

/// What is refused, whatever the server says.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `host[:port]`; unset: every registry but IP literals, private, loopback or link-local hosts,
    /// and ports other than 443.
    pub allowed_registries: Option<Vec<String>>,
    /// Let rentals use sudo: lifts no-new-privileges.
    pub sudo: bool,
    /// OCI runtime of all rentals.
    pub runtime: Option<String>,
    /// Set: only commands that this key has signed are taken.
    pub command_key: Option<CommandKey>,
}

/// The public half of an Ed25519 key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandKey(pub [u8; 32]);

/// GPUs.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Gpu {
    /// Unset: `libnvidia-ml.so.1` by the loader's search.
    pub nvml_library: Option<PathBuf>,
    /// Unset: `nvidia-smi` by PATH.
    pub nvidia_smi: Option<PathBuf>,
    pub driver_capabilities: String,
    pub rules: GpuRules,
    /// CUDA's, `libcuda.so.1`; unset: by the loader's search.
    pub cuda_library: Option<PathBuf>,
    /// Which may be given, and when they are remarkable.
    pub policy: ward::Policy,
}

/// What holds for every rental with GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct GpuRules {
    pub verify: Verify,
    pub on_missing_runtime: OnMissingRuntime,
}

/// The machine.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct HostOptions {
    pub boot_id_file: PathBuf,
}

/// The HTTP surface.
#[derive(Debug, Clone)]
pub struct Http {
    /// Unset: there is none.
    pub listen: Option<SocketAddr>,
    /// Who may connect; unset: who can.
    pub allowed_ips: Option<Vec<ipnet::IpNet>>,
    /// Unset: what needs a token is refused.
    pub auth: Option<HttpAuth>,
    /// Unset: plain text.
    pub tls: Option<HttpTls>,
}

/// How a token is checked.
#[derive(Debug, Clone)]
pub struct HttpAuth {
    /// Its `iss`.
    pub issuer: String,
    /// Who signed it.
    pub key: HttpKey,
    /// Its `exp` is at most so far ahead.
    pub max_token_age: Duration,
}

/// Where the key for tokens is.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum HttpKey {
    Hs256(PathBuf),
    Public(PathBuf),
    Jwks(PathBuf),
}

/// The HTTP surface's certificate; read again when it changes.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct HttpTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// Local control.
#[derive(Debug, Clone)]
pub struct Control {
    /// Unset: there is none.
    pub socket: Option<PathBuf>,
}

/// Logging.
#[derive(Debug, Clone)]
pub struct Log {
    /// `tracing` filter directives.
    pub filter: String,
    /// JSON lines instead of text.
    pub json: bool,
}

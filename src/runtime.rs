//! The seam to the container engine: what the agent asks of it, what it answers, and what an error
//! means. Pure; `runtime::docker` does it over a real engine.
//!
//! The rule that everything above relies on: an error of class [`Class::Unknown`] says nothing about
//! whether the thing was done. It is looked up by name before anything else happens.

pub mod docker;
mod error;
pub mod gpus;
pub mod translate;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use secrecy::SecretString;

pub use self::error::{Class, RuntimeError};
use self::gpus::{Evidence, GpuNames, Handing};
use crate::{
    clock::Timestamp,
    ids::{ContainerId, GpuUuid},
    protocol::record::{Engine, PortProtocol},
};

/// A container engine. Every call has a time limit of its own and may be dropped at any time; a
/// dropped `pull` is cancelled, anything else goes on inside the engine.
pub trait ContainerRuntime: Send + Sync + 'static {
    /// What the engine says of itself.
    fn engine(&self) -> impl Future<Output = Result<EngineFacts, RuntimeError>> + Send;

    /// Whether the engine answers at all; the cheapest of its calls.
    fn ping(&self) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Makes the network that all rentals share, unless it is there as it should be.
    fn ensure_network(&self) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// All containers, and all volumes whose name begins with `rental-`, if they can be read.
    /// Containers whose name begins with `rental-` and that are not running carry their [`Detail`],
    /// live ones that are no rentals the [`Observed::devices`] that they hold.
    fn list(&self) -> impl Future<Output = Result<Listing, RuntimeError>> + Send;

    /// Live containers that hold one of `gpus`, whoever made them: running, paused, restarting, or
    /// created and not failed. Empty when the container named `mine` is the only one; otherwise it
    /// is among them, and `created_at` has the engine's full precision, since the one that was made
    /// first may keep the GPU.
    fn holders(
        &self,
        gpus: &[GpuNames],
        mine: &str,
    ) -> impl Future<Output = Result<Vec<Holder>, RuntimeError>> + Send;

    /// One container by name or id, with its [`Detail`]; `None` when there is none.
    fn inspect(
        &self,
        name: &str,
    ) -> impl Future<Output = Result<Option<Observed>, RuntimeError>> + Send;

    /// What can be seen of a container's GPUs, from outside and, with `inside`, by asking programs in
    /// it, which takes up to ten seconds; `None` when there is no such container.
    fn evidence(
        &self,
        name: &str,
        inside: bool,
    ) -> impl Future<Output = Result<Option<Evidence>, RuntimeError>> + Send;

    /// Makes a container, not started. A taken name is [`Class::NameTaken`].
    fn create(
        &self,
        plan: &ContainerPlan,
    ) -> impl Future<Output = Result<ContainerId, RuntimeError>> + Send;

    /// Makes the container again from what its own inspect says, without starting it.
    fn remake(&self, name: &str) -> impl Future<Output = Result<ContainerId, RuntimeError>> + Send;

    /// Starts it; one that runs already is fine. A network that somebody has removed is made anew.
    fn start(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// TERM, `grace`, KILL; one that does not run, or is not there, is fine.
    fn stop(
        &self,
        name: &str,
        grace: Duration,
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Removes it, whatever its state; one that is not there, or is being removed, is fine.
    fn remove(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// The last of its output, at most `max_bytes`, printable.
    fn log_tail(
        &self,
        name: &str,
        max_bytes: usize,
    ) -> impl Future<Output = Result<String, RuntimeError>> + Send;

    /// Makes a volume with these labels and says which labels it has then.
    fn put_volume(
        &self,
        volume: &VolumeLabels,
    ) -> impl Future<Output = Result<VolumeLabels, RuntimeError>> + Send;

    /// Removes a volume; one that is not there is fine.
    fn remove_volume(&self, name: &str) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// What is known of an image that the host has; `None` when it has none by that name.
    fn image(
        &self,
        reference: &str,
    ) -> impl Future<Output = Result<Option<ImageFacts>, RuntimeError>> + Send;

    /// Fetches an image. `on_event` is called with what the engine tells of each layer.
    fn pull(
        &self,
        request: &PullRequest,
        on_event: &mut (dyn FnMut(LayerEvent) + Send),
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;

    /// Waits for the engine's events from `since` on and hands each to `on_event`, until the stream
    /// ends, which it always does in the end.
    fn events(
        &self,
        since: Option<Timestamp>,
        on_event: &mut (dyn FnMut(ContainerEvent) + Send),
    ) -> impl Future<Output = Result<(), RuntimeError>> + Send;
}

/// The engine, and when it was started as far as it can be told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// As it goes to the server.
    pub engine: Engine,
    /// Start of the engine's present life, by the host's clock; see [`Detail::ended_by_restart`].
    pub started_at: Option<Timestamp>,
    /// Names of the devices that it can hand out by CDI, as far as they can be told.
    pub cdi_devices: BTreeSet<String>,
    /// Names of the security options, like `seccomp`, with `unconfined` where it is off.
    pub security_options: Vec<String>,
    /// The engine's architecture, as Go names it.
    pub architecture: String,
    /// Where the engine keeps its data.
    pub root_dir: String,
    /// The name of the machine that the engine runs on, as it knows it.
    pub hostname: String,
    /// Its operating system, for people.
    pub os: String,
}

/// All that the engine holds, at about one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// All containers, of whatever origin and state.
    pub containers: Vec<Observed>,
    /// All volumes whose name begins with `rental-`; `None` where they could not be read.
    pub volumes: Option<Vec<VolumeLabels>>,
    /// Start of the engine's present life, by the host's clock, where it can be told.
    pub engine_started_at: Option<Timestamp>,
    /// Why nothing may be started on the rentals' network; `None` where it is as it should be.
    pub network_fault: Option<String>,
}

/// A container's state, as the engine names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the engine's own names")]
pub enum ContainerState {
    Created,
    Running,
    Paused,
    Restarting,
    Removing,
    Exited,
    Dead,
    /// One that this version does not know.
    Other,
}

/// A container as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The engine's name.
    pub id: ContainerId,
    /// Its name, without the slash.
    pub name: String,
    /// When it was made, by the host's clock.
    pub created_at: Timestamp,
    /// Its state.
    pub state: ContainerState,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Ports that it publishes (running) or would publish (otherwise, from its detail).
    pub ports: Vec<HostPort>,
    /// GPUs that it holds and its labels do not name, as [`Detail::device_ids`].
    pub devices: Vec<String>,
    /// What only an inspect shows.
    pub detail: Option<Detail>,
}

impl Observed {
    /// Whether it holds what it was given: running, paused, restarting, or created and not failed;
    /// and whatever is not known not to.
    pub fn is_live(&self) -> bool {
        match self.state {
            ContainerState::Running
            | ContainerState::Paused
            | ContainerState::Restarting
            | ContainerState::Other => true,
            ContainerState::Created => self
                .detail
                .as_ref()
                .is_none_or(|detail| detail.error.is_empty() && detail.exit_code == 0),
            ContainerState::Removing | ContainerState::Exited | ContainerState::Dead => false,
        }
    }
}

/// What only an inspect shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// Of its first process; 0 before it ended.
    pub exit_code: i64,
    /// Why it could not be started; empty otherwise.
    pub error: String,
    /// The kernel killed a process of it for memory.
    pub oom_killed: bool,
    /// By the host's clock.
    pub started_at: Option<Timestamp>,
    /// By the host's clock.
    pub finished_at: Option<Timestamp>,
    /// Of its first process, 0 when it does not run.
    pub pid: u32,
    /// What it has of GPUs, in its own words: UUIDs, numbers and CDI names of its device requests and
    /// of what it told NVIDIA's runtime, `all` where it asked for a number, and device files.
    pub device_ids: Vec<String>,
}

/// An engine that goes down, or comes back after a kill, stops its containers up to so long before
/// the moment that it gives as its start: two times the usual grace of 10 s, and some.
pub(crate) const RESTART_WINDOW: Duration = Duration::from_secs(30);

impl Detail {
    /// Whether the engine's restart explains this end, so that it is not the tenant's: it was
    /// started before the engine's present life and ended at its beginning or in the shutdown
    /// before it. Not when live-restore kept the containers: `engine_started_at` is older then.
    pub fn ended_by_restart(&self, engine_started_at: Timestamp) -> bool {
        match (self.started_at, self.finished_at) {
            (Some(started), Some(finished)) => {
                started < engine_started_at
                    && finished.plus(RESTART_WINDOW) >= engine_started_at
                    && finished >= started
            }
            _ => false,
        }
    }
}

/// A published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct HostPort {
    pub container: u16,
    pub host: u16,
    pub protocol: PortProtocol,
}

/// A live container that holds a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The engine's name.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// When the engine began to make it; others could see it only later.
    pub created_at: Timestamp,
    /// It has been started.
    pub runs: bool,
    /// Which GPUs it holds.
    pub gpus: Vec<GpuUuid>,
}

/// A named volume and its labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct VolumeLabels {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

/// A container to be made: every limit and every right of it, decided.
#[derive(Debug, Clone)]
pub struct ContainerPlan {
    /// `rental-<instance id>`.
    pub name: String,
    /// The image's id (`sha256:…`), so that a moved tag changes nothing.
    pub image: ImageFacts,
    /// `None`: the image's.
    pub entrypoint: Option<Vec<String>>,
    /// `None`: the image's.
    pub command: Option<Vec<String>>,
    /// The tenant's and the agent's.
    pub env: Vec<(String, SecretString)>,
    /// All `rental-agent.*` labels.
    pub labels: BTreeMap<String, String>,
    /// To be published on all addresses.
    pub ports: Vec<HostPort>,
    /// Exactly these, by UUID; empty: none.
    pub gpus: Vec<GpuUuid>,
    /// How they are handed over.
    pub handing: Handing,
    /// Billionths of a core.
    pub nano_cpus: i64,
    /// The processors that it runs on, as Linux writes them; `None`: all.
    pub cpuset: Option<String>,
    /// Memory with swap.
    pub memory_bytes: i64,
    /// `/dev/shm`.
    pub shm_bytes: i64,
    /// What the host's configuration decides for all.
    pub hardening: Hardening,
    /// Between TERM and KILL, where the engine itself has to stop it.
    pub stop_grace: Duration,
}

/// What the host's configuration decides for every rental.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardening {
    /// The network's name.
    pub network: String,
    /// Processes and threads.
    pub pids_limit: i64,
    /// Bytes of log per file.
    pub log_max_bytes: u64,
    /// Log files.
    pub log_files: u32,
    /// Sudo works inside: no-new-privileges is lifted.
    pub sudo: bool,
    /// Only those that the host's configuration names: name, soft, hard.
    pub ulimits: Vec<(String, i64, i64)>,
    /// OCI runtime, where the host's configuration names one.
    pub runtime: Option<String>,
    /// `NVIDIA_DRIVER_CAPABILITIES`.
    pub driver_capabilities: String,
}

/// What is known of an image that the host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// `sha256:…`.
    pub id: String,
    /// `name@sha256:…` of each repository that it came from.
    pub repo_digests: Vec<String>,
    /// As Go names it.
    pub architecture: String,
    /// As Go names it.
    pub os: String,
    /// Unpacked size.
    pub size_bytes: u64,
    /// Names of the variables that it sets.
    pub env_names: Vec<String>,
    /// Names of the labels that it carries.
    pub label_names: Vec<String>,
    /// What it runs, before its command.
    pub entrypoint: Vec<String>,
}

/// An image to be fetched.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// With its registry, and a tag or a digest.
    pub reference: String,
    /// For the registry.
    pub auth: Option<Credentials>,
}

/// For a registry.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Credentials {
    Password {
        username: String,
        password: SecretString,
    },
    IdentityToken(SecretString),
}

/// What the engine tells of one layer of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerEvent {
    /// The layer's short id; absent for the pull as a whole.
    pub layer: Option<String>,
    /// As the engine words it: `Downloading`, `Extracting`, `Pull complete`, …
    pub status: String,
    /// Bytes so far, where they are bytes.
    pub current_bytes: Option<u64>,
    /// Bytes in all, where that is known.
    pub total_bytes: Option<u64>,
}

/// Something happened to a container: a hint to look, never the truth itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// Its name.
    pub name: String,
    /// `die`, `oom`, `kill`, `destroy`, `pause`, `rename`, …
    pub action: String,
    /// By the engine's clock.
    pub at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_explained_by_the_restart_that_it_belongs_to_and_by_no_other() {
        let at = |s: i64| Some(Timestamp::from_millis(s * 1000));
        let ended = |started, finished| Detail {
            started_at: at(started),
            finished_at: at(finished),
            ..Detail::default()
        };
        let restart = Timestamp::from_millis(1_000_000);
        // As measured: 13 s before the restart where the engine was told to stop, 0.5 s before
        // where it was killed.
        assert!(ended(900, 987).ended_by_restart(restart));
        assert!(ended(999, 999).ended_by_restart(restart));
        assert!(ended(900, 1001).ended_by_restart(restart));
        assert!(!ended(900, 960).ended_by_restart(restart), "long before");
        assert!(
            !ended(1001, 1002).ended_by_restart(restart),
            "started after"
        );
        assert!(!ended(995, 990).ended_by_restart(restart), "an earlier run");
        assert!(!Detail::default().ended_by_restart(restart));
    }
}

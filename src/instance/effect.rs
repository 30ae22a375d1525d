//! What the core wants done, and how the shell tells it what came of it. Pure.

use std::time::Duration;

use super::publish::Event;
use crate::{
    ids::{CommandId, ContainerId, GpuUuid, InstanceId},
    protocol::spec::PullPolicy,
    runtime::{
        ContainerPlan, Credentials, Holder, ImageFacts, Listing, Observed, RuntimeError,
        VolumeLabels,
        gpus::{Evidence, GpuNames},
    },
};

/// Numbers operations, so that an answer finds its question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// Numbers shared pulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Orders listings against operations: what a listing says of a rental counts only when nothing was
/// done to the rental since the listing was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Something for the shell to do.
#[derive(Debug)]
pub enum Effect {
    /// An operation on the engine; answered by exactly one [`OpDone`].
    Engine {
        /// Its number.
        id: OpId,
        /// For whom.
        instance: InstanceId,
        /// What.
        op: EngineOp,
    },
    /// A full list of the engine; answered by exactly one `Input::Listed`.
    List(Ticket),
    /// See to it that the host has an image; answered by progress and exactly one result.
    Fetch(FetchId, FetchRequest),
    /// Nobody wants it any more; no answer is expected.
    CancelFetch(FetchId),
    /// Look at the GPUs now; answered, if the drivers answer, by `Input::GpuReadings`.
    LookAtGpus,
    /// Wipe a GPU's memory; answered by exactly one `Input::GpuWiped`.
    WipeGpu(GpuUuid),
    /// To the session that is connected, and to whoever listens on this host.
    Emit(Event),
    /// To whoever listens on this host: there is no session that it is for.
    Tell(Event),
}

/// An operation on the engine for one rental.
#[derive(Debug)]
#[allow(missing_docs, reason = "each is the runtime's method of that name")]
pub enum EngineOp {
    Create(Box<ContainerPlan>),
    Holders {
        name: String,
        gpus: Vec<GpuNames>,
    },
    Start {
        name: String,
    },
    /// [`ContainerRuntime::evidence`](crate::runtime::ContainerRuntime::evidence).
    SeeGpus {
        name: String,
        inside: bool,
    },
    Inspect {
        name: String,
    },
    Remake {
        name: String,
    },
    Stop {
        name: String,
        grace: Duration,
    },
    /// Inspect and the tail of the log.
    Examine {
        name: String,
    },
    Remove {
        name: String,
    },
    /// Inspect, and whether the process with `pid` still belongs to `container`.
    Verify {
        name: String,
        container: Option<ContainerId>,
        pid: u32,
    },
    PutMarker(VolumeLabels),
    /// Remove these, in this order.
    RemoveMarkers(Vec<String>),
}

/// What an operation gave.
#[derive(Debug)]
#[allow(missing_docs, reason = "each belongs to the operation of that name")]
pub enum OpOutput {
    Created(ContainerId),
    Holders(Vec<Holder>),
    Started,
    GpusSeen(Option<Box<Evidence>>),
    Stopped,
    Removed,
    Inspected(Option<Box<Observed>>),
    Examined(Option<Box<Observed>>, Option<String>),
    /// What is there, and whether a process of it is left although the engine knows nothing of it.
    Verified(Option<Box<Observed>>, bool),
    /// The marker as it is in the engine now.
    Marked(VolumeLabels),
    MarkersRemoved,
}

/// An operation is over.
#[derive(Debug)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct OpDone {
    pub id: OpId,
    pub instance: InstanceId,
    pub result: Result<OpOutput, RuntimeError>,
}

/// A listing came, or did not.
pub type Listed = Result<Listing, RuntimeError>;

/// An image that somebody wants.
#[derive(Debug, Clone)]
pub struct FetchRequest {
    /// As the engine gets it.
    pub reference: String,
    /// Its registry and repository.
    pub repository: String,
    /// When to ask the registry.
    pub pull: PullPolicy,
    /// For the registry.
    pub auth: Option<Credentials>,
    /// Somebody's credentials brought images of this repository: the registry is asked in any case.
    pub private: bool,
}

/// Who wants an image.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the types are documented")]
pub enum Waiter {
    Instance(InstanceId),
    Command(CommandId),
}

/// What came of a fetch.
pub type Fetched = Result<ImageFacts, RuntimeError>;

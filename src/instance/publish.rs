//! What the core tells the rest of the process: events for whoever is connected, and a snapshot for
//! everybody who only reads. Pure.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    gpu::ward::Wiped,
    ids::{Generation, GpuUuid},
    protocol::{
        message::{InstanceMessage, Progress, Reply, Synced},
        record::{Gpu, Host, Instance, Resources, Status},
    },
};

/// Something to tell the server, in order. Made for the session that is connected; when none is, it
/// is dropped, since the next one gets the whole state anyway.
#[derive(Debug, Clone)]
pub enum Event {
    /// The whole state, at the beginning of a session: as many records as there are.
    Records(Vec<InstanceMessage>),
    /// All of them have been sent.
    Synced(Synced),
    /// A record changed.
    Record(InstanceMessage),
    /// A command's answer.
    Reply(Reply),
    /// How far something is; lossy.
    Progress(Progress),
    /// Send inventory, metrics and health now, in order with the rest.
    Report,
}

/// The agent's state at one moment, for `hello`, heartbeats, inventories and whoever else reads.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The highest so far.
    pub generation: Generation,
    /// The machine, with its engine once that has answered.
    pub host: Host,
    /// All GPUs of this epoch.
    pub gpus: Vec<Gpu>,
    /// What came of the last wipe of each GPU that was to be wiped.
    pub wipes: BTreeMap<GpuUuid, Wiped>,
    /// All probes have answered.
    pub inventory_complete: bool,
    /// What can be rented in all.
    pub capacity: Resources,
    /// What is rented now.
    pub occupied: Resources,
    /// How the agent is.
    pub status: Status,
    /// Live and ended records, in the order of their ids.
    pub instances: Vec<Arc<Instance>>,
}

impl Snapshot {
    /// Whether nothing has changed since `other`. The generation stands for the records, so that a
    /// host with thousands of them is not compared record by record.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.generation == other.generation
            && self.instances.len() == other.instances.len()
            && self.status == other.status
            && self.occupied == other.occupied
            && self.capacity == other.capacity
            && self.gpus == other.gpus
            && self.wipes == other.wipes
            && self.inventory_complete == other.inventory_complete
            && self.host == other.host
    }
}

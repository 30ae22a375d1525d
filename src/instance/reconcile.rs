//! A listing of the engine, sorted into what it says about whom. Pure; what follows from it, the
//! registry decides.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    marker::{self, ContainerLabels, Marker, MarkerKind, MarkerRead, Ownership},
    registry::slots::ForeignClaims,
};
use crate::{
    clock::Timestamp,
    ids::{AgentId, CommandId, GpuUuid, InstanceId},
    image::private,
    protocol::{EndReason, Instance},
    runtime::{Listing, Observed, VolumeLabels},
};

/// Everything that the engine holds, by whose it is.
#[derive(Debug, Default)]
pub struct Sorted {
    /// What is ours, by instance.
    pub ours: BTreeMap<InstanceId, Holdings>,
    /// Instances whose container cannot be read: left alone with all that is theirs.
    pub untouchable: BTreeSet<InstanceId>,
    /// Repositories that somebody's credentials opened.
    pub private: BTreeSet<String>,
    /// What others hold of the host.
    pub claims: ForeignClaims,
    /// Instances of other agents.
    foreign: BTreeSet<InstanceId>,
    /// Markers of which only the name can be believed.
    by_name: Vec<(InstanceId, MarkerKind, String)>,
}

/// What the engine holds of one rental.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Its container.
    pub container: Option<Readable>,
    /// Its markers, taken together.
    pub markers: Markers,
}

/// A container of ours, and what its labels say.
#[derive(Debug)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct Readable {
    pub seen: Observed,
    pub labels: Box<ContainerLabels>,
}

/// The markers of one rental, taken together.
#[derive(Debug, Default)]
pub struct Markers {
    /// Names of all of them.
    pub names: BTreeSet<String>,
    /// The valid lease marker with the highest number.
    pub lease: Option<Lease>,
    /// The decision to end.
    pub ending: Option<Ending>,
    /// The final record.
    pub ended: Option<Ended>,
    /// It was stopped, and stays so until it is told to start.
    pub is_stopped: bool,
}

/// A lease marker.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the marker")]
pub struct Lease {
    pub n: u32,
    pub ready_at: Timestamp,
    pub expires_at: Option<Timestamp>,
}

/// A decision to end. Without labels only its name speaks: `interrupted` until better is known.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in the marker")]
pub struct Ending {
    pub reason: EndReason,
    pub command_id: Option<CommandId>,
    pub decided_at: Option<Timestamp>,
    pub kill_at: Option<Timestamp>,
}

/// A final record; `None` where the marker has lost its labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Ended(pub Option<Box<Instance>>);

/// Sorts a listing.
pub fn sort(listing: Listing, agent: &AgentId) -> Sorted {
    let mut sorted = Sorted::default();
    for volume in listing.volumes.iter().flatten() {
        sorted.take_volume(volume, agent);
    }
    for container in listing.containers {
        sorted.take_container(container, agent);
    }
    sorted.take_names();
    for id in &sorted.untouchable {
        sorted.ours.remove(id);
    }
    sorted
}

impl Sorted {
    fn take_volume(&mut self, volume: &VolumeLabels, agent: &AgentId) {
        self.private
            .extend(private::repository_of(volume).map(str::to_owned));
        match Marker::decode(volume, agent) {
            None => {}
            Some(MarkerRead::Foreign { instance, .. }) => {
                self.foreign.insert(instance);
            }
            Some(MarkerRead::Ours { instance, marker }) => {
                let markers = &mut self.ours.entry(instance).or_default().markers;
                markers.names.insert(volume.name.clone());
                markers.take(marker);
            }
            Some(MarkerRead::Bare { instance, kind }) => {
                self.by_name.push((instance, kind, volume.name.clone()));
            }
            Some(MarkerRead::Strange { why }) => {
                tracing::warn!(volume = %volume.name, why, "a marker's name is somebody else's");
            }
            Some(MarkerRead::Conflict {
                instance,
                kind,
                why,
            }) => {
                tracing::warn!(volume = %volume.name, why, "a marker cannot be read");
                self.by_name.push((instance, kind, volume.name.clone()));
            }
        }
    }

    /// The name alone counts, but it does not say whose it is: beside something of another agent it
    /// is that agent's.
    fn take_names(&mut self) {
        for (instance, kind, name) in std::mem::take(&mut self.by_name) {
            if self.foreign.contains(&instance) && !self.ours.contains_key(&instance) {
                continue;
            }
            let markers = &mut self.ours.entry(instance).or_default().markers;
            markers.names.insert(name);
            markers.take_name(kind);
        }
    }

    fn take_container(&mut self, seen: Observed, agent: &AgentId) {
        match ContainerLabels::read(agent, &seen.name, &seen.labels) {
            Ownership::Foreign { gpus } => {
                self.foreign.extend(marker::instance_of(&seen.name));
                claim(&mut self.claims, &seen, Some(gpus));
            }
            Ownership::Ours(labels) => {
                let holdings = self.ours.entry(labels.instance_id.clone()).or_default();
                holdings.container = Some(Readable { seen, labels });
            }
            Ownership::Unreadable { gpus, why } => {
                tracing::warn!(container = %seen.name, why,
                    "a container cannot be read; left alone, its GPUs and ports count as taken");
                self.untouchable.extend(marker::instance_of(&seen.name));
                claim(&mut self.claims, &seen, gpus);
            }
        }
    }
}

impl Markers {
    fn take(&mut self, marker: Marker) {
        match marker {
            Marker::Lease {
                n,
                ready_at,
                expires_at,
                ..
            } => {
                if self.lease.as_ref().is_none_or(|lease| lease.n < n) {
                    self.lease = Some(Lease {
                        n,
                        ready_at,
                        expires_at,
                    });
                }
            }
            Marker::Ending {
                reason,
                command_id,
                decided_at,
                kill_at,
            } => {
                self.ending = Some(Ending {
                    reason,
                    command_id,
                    decided_at: Some(decided_at),
                    kill_at: Some(kill_at),
                });
            }
            Marker::Ended { record } => self.ended = Some(Ended(record)),
            Marker::Stopped { .. } => self.is_stopped = true,
        }
    }

    /// A marker of which only the name can be believed.
    fn take_name(&mut self, kind: MarkerKind) {
        match kind {
            MarkerKind::Ending => {
                self.ending.get_or_insert(Ending {
                    reason: EndReason::Interrupted,
                    command_id: None,
                    decided_at: None,
                    kill_at: None,
                });
            }
            MarkerKind::Ended => {
                self.ended.get_or_insert(Ended(None));
            }
            MarkerKind::Stopped => self.is_stopped = true,
            // Without labels it says nothing; it is made anew where it is due.
            MarkerKind::Lease(_) => {}
        }
    }
}

/// A live container's GPUs and every container's published ports count as taken.
fn claim(claims: &mut ForeignClaims, container: &Observed, gpus: Option<Vec<GpuUuid>>) {
    claims
        .ports
        .extend(container.ports.iter().map(|port| port.host));
    if !container.is_live() {
        return;
    }
    claims.devices.extend(container.devices.iter().cloned());
    match gpus {
        Some(gpus) => claims.gpus.extend(gpus),
        None => claims.unknown_gpus = true,
    }
}

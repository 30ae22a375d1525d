//! A container engine that exists in memory: containers, volumes and images, what each operation
//! does to them, and what can go wrong. It knows nothing of rentals and obeys whoever asks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use rental_agent::{
    clock::Timestamp,
    ids::{ContainerId, GpuUuid},
    instance::effect::{EngineOp, OpOutput},
    protocol::record::PortProtocol,
    runtime::{
        Class, ContainerEvent, ContainerPlan, ContainerState, Detail, Holder, HostPort, Listing,
        Observed, VolumeLabels,
        gpus::{Evidence, GpuNames, Listed},
    },
};

/// The name of each label that the model looks at, as PROTOCOL writes them.
pub(crate) const LABEL_AGENT: &str = "rental-agent.agent-id";
pub(crate) const LABEL_INSTANCE: &str = "rental-agent.instance-id";
pub(crate) const LABEL_GPUS: &str = "rental-agent.gpus";
pub(crate) const LABEL_SCHEMA: &str = "rental-agent.schema";

/// Whether the engine takes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Power {
    Up,
    /// It takes connections and says nothing.
    Hung,
    Down,
}

/// How the engine goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Going {
    /// Killed; the containers die with it.
    Killed,
    /// Stopped; it stops the containers first.
    Stopped,
    /// With live-restore: the containers go on.
    Alone,
}

/// What an operation meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: it is done and answered.
    None,
    /// It is done, and the answer is lost.
    DoneUnknown,
    /// It is not done, and there is no answer.
    LostUnknown,
    /// Nobody listens.
    Unreachable,
    /// There is no answer, and it is done some time later.
    Late(Duration),
    /// 5xx, and nothing is changed.
    Failed,
    /// It cannot be started, and the engine writes that on the container.
    Noted,
    /// A process of the host has the port, and keeps it.
    PortTaken,
    /// "already exists": it can never be started again.
    Unstartable,
    /// No GPU runtime.
    GpuRuntime,
    /// No space.
    DiskFull,
    /// The engine is killed in the middle of it: a volume without labels, half of the volumes
    /// removed, a container removed and not made again.
    Half,
    /// The engine knows nothing of it, and its process is there.
    ProcessLeft,
}

/// A container.
#[derive(Debug, Clone)]
pub(crate) struct SimContainer {
    pub(crate) id: ContainerId,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
    pub(crate) state: ContainerState,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) ports: Vec<HostPort>,
    pub(crate) gpus: Vec<GpuUuid>,
    pub(crate) detail: Detail,
    /// It can never be started again.
    pub(crate) unstartable: bool,
}

impl SimContainer {
    /// Its process runs, perhaps frozen.
    pub(crate) fn runs(&self) -> bool {
        matches!(self.state, ContainerState::Running | ContainerState::Paused)
    }

    /// It holds its GPUs: running, or made and not failed.
    pub(crate) fn holds_gpus(&self) -> bool {
        self.runs()
            || (self.state == ContainerState::Created
                && self.detail.error.is_empty()
                && self.detail.exit_code == 0)
    }

    fn observed(&self, with_detail: bool) -> Observed {
        Observed {
            id: self.id.clone(),
            name: self.name.clone(),
            created_at: self.created_at,
            state: self.state,
            labels: self.labels.clone(),
            ports: self.ports.clone(),
            devices: Vec::new(),
            detail: with_detail.then(|| self.detail.clone()),
        }
    }
}

/// The engine.
#[derive(Debug)]
pub(crate) struct SimEngine {
    pub(crate) power: Power,
    pub(crate) started_at: Timestamp,
    /// Whether it can be told when it was started.
    pub(crate) tells_start: bool,
    pub(crate) containers: BTreeMap<ContainerId, SimContainer>,
    pub(crate) volumes: BTreeMap<String, BTreeMap<String, String>>,
    /// Ids of the images that it has.
    pub(crate) images: BTreeSet<String>,
    /// Host ports of processes that are no containers.
    pub(crate) bound: BTreeSet<(u16, PortProtocol)>,
    /// Containers that are gone and whose process is not.
    pub(crate) left: BTreeSet<ContainerId>,
    /// Events that nobody has heard yet.
    pub(crate) events: VecDeque<ContainerEvent>,
    serial: u64,
    went: Option<(Going, Timestamp)>,
}

/// What an operation gives: the error's message does not matter.
pub(crate) type Answer = Result<OpOutput, Class>;

impl SimEngine {
    pub(crate) fn new(at: Timestamp, tells_start: bool) -> Self {
        Self {
            power: Power::Up,
            started_at: at,
            tells_start,
            containers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            images: BTreeSet::new(),
            bound: BTreeSet::new(),
            left: BTreeSet::new(),
            events: VecDeque::new(),
            serial: 0,
            went: None,
        }
    }

    pub(crate) fn named(&self, name: &str) -> Option<&SimContainer> {
        self.containers
            .values()
            .find(|container| container.name == name)
    }

    fn hint(&mut self, name: &str, action: &str, at: Timestamp) {
        self.events.push_back(ContainerEvent {
            name: name.to_owned(),
            action: action.to_owned(),
            at,
        });
        // The engine keeps as many; older ones are lost.
        if self.events.len() > 256 {
            self.events.pop_front();
        }
    }

    /// Everything that it holds of containers.
    pub(crate) fn list_containers(&self) -> Vec<Observed> {
        let detailed = |c: &SimContainer| c.name.starts_with("rental-") && !c.runs();
        self.containers
            .values()
            .map(|c| c.observed(detailed(c)))
            .collect()
    }

    /// A listing whose containers were listed before its volumes.
    pub(crate) fn listing(&self, containers: Vec<Observed>) -> Listing {
        let markers = self.volumes.iter();
        let markers =
            markers
                .filter(|(name, _)| name.starts_with("rental-"))
                .map(|(name, labels)| VolumeLabels {
                    name: name.clone(),
                    labels: labels.clone(),
                });
        Listing {
            containers,
            volumes: Some(markers.collect()),
            engine_started_at: self.tells_start.then_some(self.started_at),
            network_fault: None,
        }
    }

    /// Does an operation. `target` is the container that had the name when it was asked for.
    pub(crate) fn perform(
        &mut self,
        op: &EngineOp,
        target: Option<&ContainerId>,
        fault: Fault,
        at: Timestamp,
    ) -> Answer {
        match op {
            EngineOp::Create(plan) => self.create(plan, fault, at),
            EngineOp::Holders { name, gpus } => Ok(OpOutput::Holders(self.holders(gpus, name))),
            EngineOp::Start { .. } => self.start(target, fault, at),
            EngineOp::SeeGpus { name, .. } => Ok(OpOutput::GpusSeen(self.evidence(name))),
            EngineOp::Inspect { name } => Ok(OpOutput::Inspected(self.inspect(name))),
            EngineOp::Remake { .. } => self.remake(target, fault, at),
            EngineOp::Stop { .. } => self.stop(target, fault, at),
            EngineOp::Examine { name } => {
                let seen = self.inspect(name);
                let tail = seen.is_some().then(|| "the last words\n".to_owned());
                Ok(OpOutput::Examined(seen, tail))
            }
            EngineOp::Remove { .. } => self.remove(target, fault, at),
            EngineOp::Verify {
                name, container, ..
            } => {
                let seen = self.inspect(name);
                if let Some(id) = container
                    && fault == Fault::ProcessLeft
                    && seen.is_none()
                {
                    self.left.insert(id.clone());
                }
                let left = container.as_ref().is_some_and(|id| self.left.contains(id));
                Ok(OpOutput::Verified(seen, left))
            }
            EngineOp::PutMarker(marker) => self.put_marker(marker, fault),
            EngineOp::RemoveMarkers(names) => {
                let half = if fault == Fault::Half {
                    names.len() / 2
                } else {
                    names.len()
                };
                for name in names.iter().take(half) {
                    self.volumes.remove(name);
                }
                if half < names.len() {
                    Err(Class::Unknown)
                } else {
                    Ok(OpOutput::MarkersRemoved)
                }
            }
        }
    }

    fn inspect(&self, name: &str) -> Option<Box<Observed>> {
        self.named(name)
            .map(|container| Box::new(container.observed(true)))
    }

    pub(crate) fn fresh_id(&mut self) -> ContainerId {
        self.serial += 1;
        format!("{:064x}", self.serial).parse().unwrap()
    }

    fn create(&mut self, plan: &ContainerPlan, fault: Fault, at: Timestamp) -> Answer {
        match fault {
            Fault::Failed => return Err(Class::Failed),
            Fault::DiskFull => return Err(Class::DiskFull),
            _ => {}
        }
        if !self.images.contains(&plan.image.id) {
            return Err(Class::NotFound);
        }
        if self.named(&plan.name).is_some() {
            return Err(Class::NameTaken);
        }
        let id = self.fresh_id();
        let container = SimContainer {
            id: id.clone(),
            name: plan.name.clone(),
            created_at: at,
            state: ContainerState::Created,
            labels: plan.labels.clone(),
            ports: plan.ports.clone(),
            gpus: plan.gpus.clone(),
            detail: Detail::default(),
            unstartable: false,
        };
        self.containers.insert(id.clone(), container);
        self.hint(&plan.name, "create", at);
        Ok(OpOutput::Created(id))
    }

    /// Live containers that hold one of these; none where `mine` is the only one.
    fn evidence(&self, name: &str) -> Option<Box<Evidence>> {
        let seen = self.named(name)?;
        Some(Box::new(Evidence {
            container: seen.id.clone(),
            runs: seen.runs(),
            configured: seen.gpus.iter().map(ToString::to_string).collect(),
            visible: None,
            nodes: None,
            host_nodes: BTreeSet::new(),
            listed: Listed::Unasked,
        }))
    }

    fn holders(&self, gpus: &[GpuNames], mine: &str) -> Vec<Holder> {
        let all: Vec<Holder> = self
            .containers
            .values()
            .filter(|c| {
                c.holds_gpus() && c.gpus.iter().any(|gpu| gpus.iter().any(|n| n.uuid == *gpu))
            })
            .map(|c| Holder {
                id: c.id.clone(),
                name: c.name.clone(),
                created_at: c.created_at,
                runs: c.runs(),
                gpus: c.gpus.clone(),
            })
            .collect();
        if all.iter().all(|holder| holder.name == mine) {
            Vec::new()
        } else {
            all
        }
    }

    fn start(&mut self, target: Option<&ContainerId>, fault: Fault, at: Timestamp) -> Answer {
        let taken: BTreeSet<(u16, PortProtocol)> = self
            .containers
            .values()
            .filter(|c| c.runs() && Some(&c.id) != target)
            .flat_map(|c| c.ports.iter().map(|port| (port.host, port.protocol)))
            .chain(self.bound.iter().copied())
            .collect();
        let Some(container) = target.and_then(|id| self.containers.get_mut(id)) else {
            return Err(Class::NotFound);
        };
        if container.runs() {
            return Ok(OpOutput::Started);
        }
        let mut refuse = |class: Class, noted: bool| {
            if noted {
                container.detail.error = "it cannot be started".to_owned();
                container.detail.exit_code = 128;
            }
            Err(class)
        };
        match fault {
            Fault::Failed => return refuse(Class::Failed, false),
            Fault::Noted => return refuse(Class::Refused, true),
            Fault::GpuRuntime => return refuse(Class::GpuRuntime, true),
            Fault::DiskFull => return refuse(Class::DiskFull, true),
            _ => {}
        }
        if fault == Fault::Unstartable || container.unstartable {
            container.unstartable = true;
            return Err(Class::Unstartable);
        }
        let first = container
            .ports
            .first()
            .map(|port| (port.host, port.protocol));
        if let (Fault::PortTaken, Some(port)) = (fault, first) {
            self.bound.insert(port);
            return Err(Class::PortTaken);
        }
        if container
            .ports
            .iter()
            .any(|port| taken.contains(&(port.host, port.protocol)))
        {
            return Err(Class::PortTaken);
        }
        container.state = ContainerState::Running;
        self.serial += 1;
        container.detail = Detail {
            started_at: Some(at),
            pid: u32::try_from(self.serial).unwrap_or(1),
            ..Detail::default()
        };
        let name = container.name.clone();
        self.hint(&name, "start", at);
        Ok(OpOutput::Started)
    }

    fn remake(&mut self, target: Option<&ContainerId>, fault: Fault, at: Timestamp) -> Answer {
        if fault == Fault::Failed {
            return Err(Class::Failed);
        }
        let Some(old) = target.and_then(|id| self.containers.remove(id)) else {
            return Err(Class::NotFound);
        };
        self.hint(&old.name, "destroy", at);
        if fault == Fault::Half {
            return Err(Class::Unknown);
        }
        let id = self.fresh_id();
        let container = SimContainer {
            id: id.clone(),
            created_at: at,
            state: ContainerState::Created,
            detail: Detail::default(),
            unstartable: false,
            ..old
        };
        self.hint(&container.name, "create", at);
        self.containers.insert(id.clone(), container);
        Ok(OpOutput::Created(id))
    }

    fn stop(&mut self, target: Option<&ContainerId>, fault: Fault, at: Timestamp) -> Answer {
        if fault == Fault::Failed {
            return Err(Class::Failed);
        }
        if let Some(id) = target.cloned()
            && let Some(container) = self.containers.get(&id)
            && container.runs()
        {
            let name = container.name.clone();
            self.hint(&name, "kill", at);
            self.exit(&id, 137, false, at);
            self.hint(&name, "stop", at);
        }
        Ok(OpOutput::Stopped)
    }

    fn remove(&mut self, target: Option<&ContainerId>, fault: Fault, at: Timestamp) -> Answer {
        if fault == Fault::Failed {
            return Err(Class::Failed);
        }
        // A removal that somebody else has begun goes on at its own pace.
        let being_removed = |id: &&ContainerId| {
            let found = self.containers.get(*id);
            found.is_some_and(|found| found.state == ContainerState::Removing)
        };
        match target.filter(|id| !being_removed(id)) {
            Some(id) => self.destroy(id, at),
            None => {}
        }
        Ok(OpOutput::Removed)
    }

    fn put_marker(&mut self, marker: &VolumeLabels, fault: Fault) -> Answer {
        match fault {
            Fault::Failed => return Err(Class::Failed),
            Fault::DiskFull => return Err(Class::DiskFull),
            Fault::Half => {
                self.volumes.entry(marker.name.clone()).or_default();
                return Err(Class::Unknown);
            }
            _ => {}
        }
        // The volume that is there keeps its labels; one without any is removed and made again.
        let labels = self.volumes.entry(marker.name.clone()).or_default();
        if labels.is_empty() {
            labels.clone_from(&marker.labels);
        }
        Ok(OpOutput::Marked(VolumeLabels {
            name: marker.name.clone(),
            labels: labels.clone(),
        }))
    }

    /// Its first process ends.
    pub(crate) fn exit(&mut self, id: &ContainerId, code: i64, oom: bool, at: Timestamp) {
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        container.state = ContainerState::Exited;
        container.detail.exit_code = code;
        container.detail.oom_killed = oom;
        container.detail.finished_at = Some(at);
        container.detail.pid = 0;
        let name = container.name.clone();
        if oom {
            self.hint(&name, "oom", at);
        }
        self.hint(&name, "die", at);
    }

    /// It is gone, whatever it was.
    pub(crate) fn destroy(&mut self, id: &ContainerId, at: Timestamp) {
        if let Some(container) = self.containers.remove(id) {
            if container.runs() {
                self.hint(&container.name, "kill", at);
                self.hint(&container.name, "die", at);
            }
            self.hint(&container.name, "destroy", at);
        }
    }

    /// Its administrator starts one that ended.
    pub(crate) fn start_by_hand(&mut self, id: &ContainerId, at: Timestamp) -> bool {
        self.start(Some(id), Fault::None, at).is_ok()
    }

    pub(crate) fn go_down(&mut self, going: Going, at: Timestamp) {
        self.power = Power::Down;
        self.went = Some((going, at));
        self.events.clear();
    }

    /// Comes up; says whether its containers ended with its earlier life.
    pub(crate) fn come_up(&mut self, at: Timestamp) {
        self.power = Power::Up;
        let Some((going, down_at)) = self.went.take() else {
            return;
        };
        self.started_at = at;
        let (code, finished_at) = match going {
            Going::Alone => return,
            Going::Killed => (255, at),
            Going::Stopped => (137, down_at),
        };
        for container in self.containers.values_mut().filter(|c| c.runs()) {
            container.state = ContainerState::Exited;
            container.detail.exit_code = code;
            container.detail.finished_at = Some(finished_at);
            container.detail.pid = 0;
        }
    }
}

impl SimEngine {
    /// The containers that are this agent's rentals: name, agent and id agree.
    pub(crate) fn rentals(
        &self,
    ) -> impl Iterator<Item = (rental_agent::ids::InstanceId, &SimContainer)> {
        self.containers.values().filter_map(|container| {
            let id = container.labels.get(LABEL_INSTANCE)?;
            let ours = container.labels.get(LABEL_AGENT).map(String::as_str)
                == Some(super::fixture::AGENT)
                && container.name == format!("rental-{id}");
            ours.then(|| id.parse().ok().map(|id| (id, container)))
                .flatten()
        })
    }

    /// Whether a volume of this name is there.
    pub(crate) fn volume(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.volumes.get(name)
    }

    pub(crate) fn has_volume(&self, name: &str) -> bool {
        self.volumes.contains_key(name)
    }
}

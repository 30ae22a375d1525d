//! Who has what of the host: GPUs, ports, cores, memory, and how many rentals there may be. Owns the
//! rule that no GPU and no port has two holders, and that nothing is promised beyond the capacity.
//! A reservation is all or nothing and is made before anything is done; it ends when the caller
//! knows that the container is gone. Pure.

mod amount;
mod gpus;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::{
    amount::{Amount, share_of, short},
    gpus::choose_gpus,
};
use crate::{
    config::ResourceLimits,
    gpu::ward::Withheld,
    ids::{GpuUuid, InstanceId},
    instance::spec::{GpuDemand, InstanceSpec, MIN_MEMORY_BYTES, MIN_NANO_CPUS, cores, nano_cpus},
    protocol::{
        Error, ErrorCode, Stage,
        record::{Gpu, GpuState, Health, Host, PortRange, Resources},
    },
};

/// A port that a rental has given back rests for so long: connections to the old rental still
/// arrive, and the engine may not have let go of it yet.
pub const PORT_COOLDOWN: Duration = Duration::from_secs(60);

/// A port that somebody else listens on is not tried again for so long.
pub const TAKEN_PORT_COOLDOWN: Duration = Duration::from_secs(300);

/// What there is to rent out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Billionths of a core.
    pub nano_cpus: u64,
    /// Memory.
    pub memory_bytes: u64,
    /// Of the largest disk.
    pub disk_bytes: u64,
    /// Rentals at once.
    pub instances: u32,
    /// Host ports, both ends included.
    pub ports: PortRange,
    /// For a rental that asks for no amount and no GPU.
    pub default_nano_cpus: u64,
    /// For a rental that asks for no amount and no GPU.
    pub default_memory_bytes: u64,
}

/// What one rental wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// `None`: without.
    pub gpus: Option<GpuDemand>,
    /// `None`: the default or the GPUs' share.
    pub nano_cpus: Option<u64>,
    /// `None`: the default or the GPUs' share.
    pub memory_bytes: Option<u64>,
    /// Part of the memory, so that a default is never less.
    pub shm_bytes: Option<u64>,
    /// How many host ports.
    pub ports: usize,
}

/// What one rental has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Its alone.
    pub gpus: Vec<GpuUuid>,
    /// Host ports, its alone, in the order of the spec's.
    pub ports: Vec<u16>,
    /// Billionths of a core.
    pub nano_cpus: u64,
    /// Memory.
    pub memory_bytes: u64,
}

/// The GPUs of the host as they are at one moment. Their `state` is not looked at: it is said here.
#[derive(Debug, Clone, Copy)]
pub struct GpuView<'a> {
    /// All that were ever seen in this epoch.
    pub gpus: &'a [Gpu],
    /// All probes have answered.
    pub complete: bool,
}

/// What others hold on this host: other agents, other people, and what cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForeignClaims {
    /// GPUs of containers that are not ours.
    pub gpus: BTreeSet<GpuUuid>,
    /// What such containers hold in words that labels do not have; which GPUs those are, the
    /// registry says.
    pub devices: BTreeSet<String>,
    /// Host ports of such containers.
    pub ports: BTreeSet<u16>,
    /// There is a container that may hold any GPU. A GPU whose owner is unknown is busy.
    pub unknown_gpus: bool,
}

/// Who has what.
#[derive(Debug, Clone)]
pub struct Slots {
    capacity: Capacity,
    held: BTreeMap<InstanceId, Allocation>,
    foreign: ForeignClaims,
    /// GPUs that are given to nobody, whoever has them now.
    withheld: BTreeMap<GpuUuid, Withheld>,
    /// Ports that are not handed out before a boot time. At most one entry per port.
    resting: BTreeMap<u16, Duration>,
}

impl Capacity {
    /// The host less what its configuration keeps.
    pub fn of(host: &Host, limits: &ResourceLimits, ports: PortRange) -> Self {
        let all_cpus = u64::from(host.cpus) * 1_000_000_000;
        let largest_disk = host.disks.iter().map(|disk| disk.total_bytes).max();
        Self {
            nano_cpus: all_cpus.saturating_sub(nano_cpus(limits.reserve_cpus).unwrap_or(0)),
            memory_bytes: host
                .memory_bytes
                .saturating_sub(limits.reserve_memory_bytes),
            disk_bytes: largest_disk
                .unwrap_or(0)
                .saturating_sub(limits.reserve_disk_bytes),
            instances: limits.instances,
            ports,
            default_nano_cpus: nano_cpus(limits.default_cpus).unwrap_or(MIN_NANO_CPUS),
            default_memory_bytes: limits.default_memory_bytes,
        }
    }
}

impl Demand {
    /// What a spec wants.
    pub fn of(spec: &InstanceSpec) -> Self {
        Self {
            gpus: spec.gpus.clone(),
            nano_cpus: spec.nano_cpus,
            memory_bytes: spec.memory_bytes,
            shm_bytes: spec.shm_bytes,
            ports: spec.ports.len(),
        }
    }
}

impl Slots {
    /// Nothing is held.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            held: BTreeMap::new(),
            foreign: ForeignClaims::default(),
            withheld: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// The host turned out to have more or less. What is held stays held.
    pub fn set_capacity(&mut self, capacity: Capacity) {
        self.capacity = capacity;
    }

    /// Gives `instance` all that it wants, or nothing: the error says what is short. `boot` is the
    /// boot-time clock.
    pub fn reserve(
        &mut self,
        instance: &InstanceId,
        demand: &Demand,
        gpus: GpuView<'_>,
        boot: Duration,
    ) -> Result<Allocation, Error> {
        if self.held.contains_key(instance) {
            let message = format!("{instance} has its share of this host already");
            return Err(Error::new(ErrorCode::Conflict, message).at(Stage::Admit));
        }
        let most = usize::try_from(self.capacity.instances).unwrap_or(usize::MAX);
        if self.held.len() >= most {
            return Err(short("instances", 1, 0));
        }
        let chosen = match &demand.gpus {
            Some(wanted) => choose_gpus(self, wanted, gpus)?,
            None => Vec::new(),
        };
        let share = |all| {
            demand.gpus.as_ref()?;
            Some(share_of(all, chosen.len(), gpus.gpus.len()))
        };
        let (used_cpus, used_memory) = self.used();
        let nano_cpus = Amount {
            resource: "nano_cpus",
            asked: demand.nano_cpus,
            default: self.capacity.default_nano_cpus,
            floor: MIN_NANO_CPUS,
            share: share(self.capacity.nano_cpus),
            free: self.capacity.nano_cpus.saturating_sub(used_cpus),
        };
        let memory_bytes = Amount {
            resource: "memory_bytes",
            asked: demand.memory_bytes,
            default: self.capacity.default_memory_bytes,
            floor: demand.shm_bytes.unwrap_or(0).max(MIN_MEMORY_BYTES),
            share: share(self.capacity.memory_bytes),
            free: self.capacity.memory_bytes.saturating_sub(used_memory),
        };
        let allocation = Allocation {
            nano_cpus: nano_cpus.decide()?,
            memory_bytes: memory_bytes.decide()?,
            ports: self.choose_ports(demand.ports, boot)?,
            gpus: chosen,
        };
        self.held.insert(instance.clone(), allocation.clone());
        Ok(allocation)
    }

    /// Takes back what `instance` has. The caller knows that its container is gone.
    pub fn release(&mut self, instance: &InstanceId, boot: Duration) -> Option<Allocation> {
        let allocation = self.held.remove(instance)?;
        for port in &allocation.ports {
            self.rest_port(*port, boot + PORT_COOLDOWN);
        }
        Some(allocation)
    }

    /// Takes back what `instance` was promised and never used: its ports need no rest.
    pub fn forgo(&mut self, instance: &InstanceId) {
        self.held.remove(instance);
    }

    /// Takes back the GPUs alone of one that goes on without; it has never run.
    pub fn give_back_gpus(&mut self, instance: &InstanceId) {
        if let Some(held) = self.held.get_mut(instance) {
            held.gpus.clear();
        }
    }

    /// Notes what a container that was found has, whatever there is: it runs, so it has it.
    pub fn adopt(&mut self, instance: &InstanceId, allocation: Allocation) {
        self.held.insert(instance.clone(), allocation);
    }

    /// Why `instance` cannot have what it was found with: another rental has some of it.
    pub fn held_by_others(&self, instance: &InstanceId, found: &Allocation) -> Option<Error> {
        let others = || self.held.iter().filter(|(id, _)| *id != instance);
        let same_gpu = |gpu: &&GpuUuid| others().any(|(_, held)| held.gpus.contains(gpu));
        let same_port = |port: &&u16| others().any(|(_, held)| held.ports.contains(port));
        let error = match (
            found.gpus.iter().find(same_gpu),
            found.ports.iter().find(same_port),
        ) {
            (Some(gpu), _) => Error::new(
                ErrorCode::GpuUnavailable,
                format!("another rental has {gpu} by now"),
            ),
            (None, Some(port)) => {
                let message = format!("another rental has the port {port} by now");
                Error::new(ErrorCode::PortUnavailable, message)
            }
            (None, None) => return None,
        };
        Some(error.at(Stage::Start))
    }

    /// What `instance` has.
    pub fn allocation(&self, instance: &InstanceId) -> Option<&Allocation> {
        self.held.get(instance)
    }

    /// Gives `instance` another port for one that somebody else turned out to listen on.
    pub fn swap_port(
        &mut self,
        instance: &InstanceId,
        taken: u16,
        boot: Duration,
    ) -> Result<u16, Error> {
        self.rest_port(taken, boot + TAKEN_PORT_COOLDOWN);
        let other = self.choose_ports(1, boot)?;
        let slot = self
            .held
            .get_mut(instance)
            .and_then(|allocation| allocation.ports.iter_mut().find(|port| **port == taken));
        match (slot, other.first()) {
            (Some(slot), Some(other)) => {
                *slot = *other;
                Ok(*other)
            }
            _ => {
                let message = format!("{instance} does not have the port {taken}");
                Err(Error::new(ErrorCode::Internal, message).at(Stage::Start))
            }
        }
    }

    /// Does not hand out a port before `until`, in boot time.
    pub fn rest_port(&mut self, port: u16, until: Duration) {
        let entry = self.resting.entry(port).or_default();
        *entry = until.max(*entry);
    }

    /// Replaces what others hold, at each full list of the engine.
    pub fn set_foreign(&mut self, claims: ForeignClaims) {
        self.foreign = claims;
    }

    /// What there is in all. Of GPUs those that are rented or could be.
    pub fn capacity(&self, gpus: GpuView<'_>) -> Resources {
        let counts = |gpu: &&Gpu| match self.gpu_state(&gpu.uuid) {
            GpuState::Held => true,
            GpuState::Available => gpu.health != Health::Failed && gpu.health != Health::Unknown,
            GpuState::BusyExternal | GpuState::Quarantined | GpuState::Unknown => false,
        };
        Resources {
            cpus: cores(self.capacity.nano_cpus),
            memory_bytes: self.capacity.memory_bytes,
            disk_bytes: self.capacity.disk_bytes,
            gpus: count(gpus.gpus.iter().filter(counts).count()),
            instances: self.capacity.instances,
        }
    }

    /// What is held.
    pub fn occupied(&self) -> Resources {
        let (nano_cpus, memory_bytes) = self.used();
        Resources {
            cpus: cores(nano_cpus),
            memory_bytes,
            disk_bytes: 0,
            gpus: count(self.held.values().map(|held| held.gpus.len()).sum()),
            instances: count(self.held.len()),
        }
    }

    fn used(&self) -> (u64, u64) {
        self.held.values().fold((0, 0), |(cpus, memory), held| {
            (
                held.nano_cpus.saturating_add(cpus),
                held.memory_bytes.saturating_add(memory),
            )
        })
    }

    /// The lowest ports that nobody has and that do not rest.
    fn choose_ports(&mut self, wanted: usize, boot: Duration) -> Result<Vec<u16>, Error> {
        self.resting.retain(|_, until| *until > boot);
        let held: BTreeSet<u16> = self
            .held
            .values()
            .flat_map(|held| held.ports.iter().copied())
            .collect();
        let PortRange { first, last } = self.capacity.ports;
        let ports: Vec<u16> = (first..=last)
            .filter(|port| {
                !held.contains(port)
                    && !self.foreign.ports.contains(port)
                    && !self.resting.contains_key(port)
            })
            .take(wanted)
            .collect();
        if ports.len() == wanted {
            return Ok(ports);
        }
        let message = format!(
            "{wanted} host ports are asked and {} of {first} to {last} are free; \
             network.port_range widens that",
            ports.len()
        );
        let mut error = Error::new(ErrorCode::PortUnavailable, message).at(Stage::Admit);
        error.detail = Some(serde_json::json!({ "asked": wanted, "free": ports.len() }));
        Err(error)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;

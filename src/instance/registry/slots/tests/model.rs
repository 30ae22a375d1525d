//! Random lives of a host against a model that knows only what was asked and answered.

use std::num::NonZeroU32;

use proptest::{
    collection::{btree_set, vec},
    option,
    prelude::*,
    sample::{Index, select},
};

use super::*;

/// One step of a random life.
#[derive(Debug, Clone)]
enum Step {
    Reserve(Wish),
    Release(Index),
    Adopt {
        gpu: Option<u32>,
        port: u16,
        nano_cpus: u64,
    },
    Swap(Index),
    Foreign {
        gpus: BTreeSet<u32>,
        ports: BTreeSet<u16>,
    },
    Quarantine(u32),
    EndQuarantine(u32),
    Health(u32, Health),
    Wait(u64),
}

#[derive(Debug, Clone)]
struct Wish {
    gpus: Option<Wanted>,
    nano_cpus: Option<u64>,
    memory_bytes: Option<u64>,
    ports: usize,
}

impl Wish {
    fn demand(&self) -> Demand {
        let gpus = self.gpus.as_ref().map(|wanted| match wanted {
            Wanted::Count(count) => GpuDemand::Count(NonZeroU32::new(*count).unwrap()),
            Wanted::Uuids(set) => GpuDemand::Uuids(set.iter().map(|index| uuid(*index)).collect()),
        });
        Demand {
            gpus,
            nano_cpus: self.nano_cpus,
            memory_bytes: self.memory_bytes,
            shm_bytes: None,
            ports: self.ports,
        }
    }
}

#[derive(Debug, Clone)]
enum Wanted {
    Count(u32),
    Uuids(BTreeSet<u32>),
}

const GPUS: u32 = 6;
const PORTS: std::ops::RangeInclusive<u16> = 30000..=30007;

fn wishes() -> impl Strategy<Value = Wish> {
    let wanted = prop_oneof![
        (1..=GPUS).prop_map(Wanted::Count),
        // One more than there are.
        btree_set(0..=GPUS, 1..4).prop_map(Wanted::Uuids),
    ];
    let nano_cpus = option::of(1u64..4_000_000_000);
    let memory_bytes = option::of(1u64..12 * GIB);
    (option::of(wanted), nano_cpus, memory_bytes, 0usize..4).prop_map(
        |(gpus, nano_cpus, memory_bytes, ports)| Wish {
            gpus,
            nano_cpus,
            memory_bytes,
            ports,
        },
    )
}

fn steps() -> impl Strategy<Value = Step> {
    let adopt =
        (option::of(0..GPUS), PORTS, 0u64..9_000_000_000).prop_map(|(gpu, port, nano_cpus)| {
            Step::Adopt {
                gpu,
                port,
                nano_cpus,
            }
        });
    let foreign = (btree_set(0..GPUS, 0..2), btree_set(PORTS, 0..3))
        .prop_map(|(gpus, ports)| Step::Foreign { gpus, ports });
    let health = (
        0..GPUS,
        select(vec![
            Health::Ok,
            Health::Warning,
            Health::Failed,
            Health::Unknown,
        ]),
    );
    prop_oneof![
        6 => wishes().prop_map(Step::Reserve),
        4 => any::<Index>().prop_map(Step::Release),
        1 => adopt,
        1 => any::<Index>().prop_map(Step::Swap),
        1 => foreign,
        1 => (0..GPUS).prop_map(Step::Quarantine),
        1 => (0..GPUS).prop_map(Step::EndQuarantine),
        1 => health.prop_map(|(gpu, health)| Step::Health(gpu, health)),
        2 => (0u64..120).prop_map(Step::Wait),
    ]
}

/// What must be true, kept from the answers alone.
#[derive(Default)]
struct Model {
    given: BTreeMap<InstanceId, Allocation>,
    foreign_gpus: BTreeSet<u32>,
    foreign_ports: BTreeSet<u16>,
    quarantined: BTreeSet<u32>,
    sick: BTreeSet<u32>,
    /// Port and when it may be used again.
    resting: Vec<(u16, Duration)>,
    boot: Duration,
}

impl Model {
    fn gpu_is_free(&self, index: u32) -> bool {
        index < GPUS
            && !self.foreign_gpus.contains(&index)
            && !self.quarantined.contains(&index)
            && !self.sick.contains(&index)
            && !self.given.values().any(|a| a.gpus.contains(&uuid(index)))
    }

    fn port_is_free(&self, port: u16) -> bool {
        PORTS.contains(&port)
            && !self.foreign_ports.contains(&port)
            && !self.given.values().any(|a| a.ports.contains(&port))
            && !self
                .resting
                .iter()
                .any(|(p, until)| *p == port && *until > self.boot)
    }

    fn free_cpus(&self) -> u64 {
        let used: u64 = self.given.values().map(|a| a.nano_cpus).sum();
        8_000_000_000u64.saturating_sub(used)
    }

    fn free_memory(&self) -> u64 {
        let used: u64 = self.given.values().map(|a| a.memory_bytes).sum();
        (32 * GIB).saturating_sub(used)
    }

    /// Whether a wish has to be granted; one that leaves an amount to the host may be refused.
    fn fits(&self, wish: &Wish) -> bool {
        let gpus = match &wish.gpus {
            None => true,
            Some(Wanted::Uuids(set)) => set.iter().all(|index| self.gpu_is_free(*index)),
            Some(Wanted::Count(count)) => {
                let free = (0..GPUS).filter(|index| self.gpu_is_free(*index)).count();
                free >= usize::try_from(*count).unwrap()
            }
        };
        gpus && wish
            .nano_cpus
            .is_some_and(|asked| asked <= self.free_cpus())
            && wish
                .memory_bytes
                .is_some_and(|asked| asked <= self.free_memory())
            && PORTS.filter(|port| self.port_is_free(*port)).count() >= wish.ports
            && self.given.len() < usize::try_from(INSTANCES).unwrap()
    }

    /// Checks what was given against everything that was given before.
    fn check_grant(&self, given: &Allocation, wish: &Wish) {
        let distinct: BTreeSet<&GpuUuid> = given.gpus.iter().collect();
        assert_eq!(
            distinct.len(),
            given.gpus.len(),
            "a GPU twice in one rental"
        );
        for index in 0..GPUS + 1 {
            if given.gpus.contains(&uuid(index)) {
                assert!(self.gpu_is_free(index), "GPU {index} was not free");
            }
        }
        match &wish.gpus {
            None => assert!(given.gpus.is_empty()),
            Some(Wanted::Count(count)) => {
                assert_eq!(given.gpus.len(), usize::try_from(*count).unwrap());
            }
            Some(Wanted::Uuids(set)) => {
                let asked: BTreeSet<GpuUuid> = set.iter().map(|index| uuid(*index)).collect();
                assert_eq!(given.gpus.iter().cloned().collect::<BTreeSet<_>>(), asked);
            }
        }
        let distinct: BTreeSet<u16> = given.ports.iter().copied().collect();
        assert_eq!(
            (distinct.len(), given.ports.len()),
            (wish.ports, wish.ports)
        );
        for port in &given.ports {
            assert!(self.port_is_free(*port), "port {port} was not free");
        }
        assert!(
            given.nano_cpus <= self.free_cpus(),
            "more cores than are free"
        );
        assert!(
            given.memory_bytes <= self.free_memory(),
            "more memory than is free"
        );
        assert!(given.nano_cpus > 0 && given.memory_bytes > 0);
        assert!(wish.nano_cpus.is_none_or(|asked| asked == given.nano_cpus));
        assert!(
            wish.memory_bytes
                .is_none_or(|asked| asked == given.memory_bytes)
        );
        let most = usize::try_from(INSTANCES).unwrap();
        assert!(self.given.len() < most, "more rentals than allowed");
    }

    fn pick(&self, index: &Index) -> Option<InstanceId> {
        let names: Vec<&InstanceId> = self.given.keys().collect();
        (!names.is_empty()).then(|| (*index.get(&names)).clone())
    }
}

/// The slots, and what must be true of them.
struct World {
    slots: Slots,
    gpus: Vec<Gpu>,
    model: Model,
}

impl World {
    fn new() -> Self {
        Self {
            slots: slots(),
            gpus: (0..GPUS).map(|index| gpu(index, Health::Ok)).collect(),
            model: Model {
                boot: NOW,
                ..Model::default()
            },
        }
    }

    fn step(&mut self, name: &InstanceId, step: Step) {
        match step {
            Step::Reserve(wish) => self.reserve(name, &wish),
            Step::Release(index) => self.release(&index),
            Step::Adopt {
                gpu,
                port,
                nano_cpus,
            } => self.adopt(name, gpu, port, nano_cpus),
            Step::Swap(index) => self.swap(&index),
            Step::Foreign { gpus, ports } => self.foreign(gpus, ports),
            Step::Quarantine(index) => {
                self.model.quarantined.insert(index);
                self.withhold();
            }
            Step::EndQuarantine(index) => {
                self.model.quarantined.remove(&index);
                self.withhold();
            }
            Step::Health(index, health) => self.health(index, health),
            Step::Wait(seconds) => self.model.boot += Duration::from_secs(seconds),
        }
    }

    fn withhold(&mut self) {
        let kept = |index: &u32| (uuid(*index), Withheld::Quarantined(String::new()));
        let withheld = self.model.quarantined.iter().map(kept);
        self.slots.withhold(withheld.collect());
    }

    fn reserve(&mut self, name: &InstanceId, wish: &Wish) {
        let before = self.slots.occupied();
        let boot = self.model.boot;
        match self
            .slots
            .reserve(name, &wish.demand(), view(&self.gpus), boot)
        {
            Ok(given) => {
                self.model.check_grant(&given, wish);
                self.model.given.insert(name.clone(), given);
            }
            Err(error) => {
                assert_eq!(self.slots.occupied(), before, "a refusal holds something");
                assert_eq!(self.slots.allocation(name), None);
                assert!(!self.model.fits(wish), "refused what fits: {error}");
            }
        }
    }

    fn release(&mut self, index: &Index) {
        let Some(name) = self.model.pick(index) else {
            return;
        };
        let released = self.slots.release(&name, self.model.boot);
        assert_eq!(released, self.model.given.remove(&name));
        let until = self.model.boot + Duration::from_secs(60);
        let rest = |port| (port, until);
        self.model
            .resting
            .extend(released.unwrap().ports.into_iter().map(rest));
    }

    fn adopt(&mut self, name: &InstanceId, gpu: Option<u32>, port: u16, nano_cpus: u64) {
        // Only what can be: two containers do not publish one port or hold one GPU of ours.
        let gpu = gpu.filter(|index| self.model.gpu_is_free(*index));
        let port = Some(port).filter(|port| self.model.port_is_free(*port));
        let allocation = Allocation {
            gpus: gpu.map(uuid).into_iter().collect(),
            ports: port.into_iter().collect(),
            nano_cpus,
            memory_bytes: GIB,
        };
        self.slots.adopt(name, allocation.clone());
        self.model.given.insert(name.clone(), allocation);
    }

    fn swap(&mut self, index: &Index) {
        let Some(name) = self.model.pick(index) else {
            return;
        };
        let Some(taken) = self.model.given[&name].ports.first().copied() else {
            return;
        };
        let until = self.model.boot + Duration::from_secs(300);
        self.model.resting.push((taken, until));
        if let Ok(port) = self.slots.swap_port(&name, taken, self.model.boot) {
            assert!(self.model.port_is_free(port), "port {port} was not free");
            self.model.given.get_mut(&name).unwrap().ports[0] = port;
        }
    }

    fn foreign(&mut self, gpus: BTreeSet<u32>, ports: BTreeSet<u16>) {
        self.slots.set_foreign(ForeignClaims {
            gpus: gpus.iter().map(|index| uuid(*index)).collect(),
            devices: BTreeSet::new(),
            ports: ports.clone(),
            unknown_gpus: false,
        });
        self.model.foreign_gpus = gpus;
        self.model.foreign_ports = ports;
    }

    fn health(&mut self, index: u32, health: Health) {
        self.gpus[usize::try_from(index).unwrap()].health = health;
        if matches!(health, Health::Ok | Health::Warning) {
            self.model.sick.remove(&index);
        } else {
            self.model.sick.insert(index);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// F35, F73: no GPU and no port in two holders, nothing beyond the capacity, and all comes back.
    #[test]
    fn no_gpu_and_no_port_ever_has_two_holders(life in vec(steps(), 1..60)) {
        let mut world = World::new();
        for (n, step) in life.into_iter().enumerate() {
            world.step(&id(&format!("r-{n}")), step);
            let given = &world.model.given;
            let memory: u64 = given.values().map(|a| a.memory_bytes).sum();
            let gpus: usize = given.values().map(|a| a.gpus.len()).sum();
            let occupied = world.slots.occupied();
            prop_assert_eq!(occupied.memory_bytes, memory);
            prop_assert_eq!(usize::try_from(occupied.gpus).unwrap(), gpus);
            prop_assert_eq!(usize::try_from(occupied.instances).unwrap(), given.len());
        }
        for name in world.model.given.keys() {
            prop_assert!(world.slots.release(name, world.model.boot).is_some());
        }
        prop_assert_eq!(world.slots.occupied(), Resources::default());
    }
}

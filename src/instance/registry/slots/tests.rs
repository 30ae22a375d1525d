//! The rules of the slots, one by one.

mod model;

use std::num::NonZeroU32;

use super::*;
use crate::protocol::Retry;

const GIB: u64 = 1 << 30;
/// Few enough to run out before cores and memory do.
const INSTANCES: u32 = 5;
const NOW: Duration = Duration::from_secs(1000);

fn id(name: &str) -> InstanceId {
    name.parse().unwrap()
}

fn uuid(index: u32) -> GpuUuid {
    format!("GPU-{index}").parse().unwrap()
}

fn gpu(index: u32, health: Health) -> Gpu {
    Gpu {
        index,
        memory_bytes: GIB,
        health,
        health_reasons: vec!["xid 79".into()],
        ..Gpu::bare(uuid(index), "nvidia")
    }
}

fn four() -> Vec<Gpu> {
    (0..4).map(|index| gpu(index, Health::Ok)).collect()
}

fn view(gpus: &[Gpu]) -> GpuView<'_> {
    GpuView {
        gpus,
        complete: true,
    }
}

fn slots() -> Slots {
    Slots::new(Capacity {
        nano_cpus: 8_000_000_000,
        memory_bytes: 32 * GIB,
        disk_bytes: 0,
        instances: INSTANCES,
        ports: PortRange {
            first: 30000,
            last: 30007,
        },
        default_nano_cpus: 1_000_000_000,
        default_memory_bytes: GIB,
    })
}

fn by_count(count: u32) -> Demand {
    Demand {
        gpus: NonZeroU32::new(count).map(GpuDemand::Count),
        ..Demand::default()
    }
}

fn by_uuid(indices: &[u32]) -> Demand {
    Demand {
        gpus: Some(GpuDemand::Uuids(indices.iter().map(|i| uuid(*i)).collect())),
        ..Demand::default()
    }
}

fn with_ports(ports: usize) -> Demand {
    Demand {
        ports,
        ..Demand::default()
    }
}

#[track_caller]
fn refused(slots: &mut Slots, demand: &Demand, gpus: &[Gpu], code: ErrorCode) -> Error {
    let before = slots.occupied();
    let error = slots
        .reserve(&id("refused"), demand, view(gpus), NOW)
        .unwrap_err();
    assert_eq!(error.code, code, "{error}");
    assert_eq!(error.stage, Some(Stage::Admit));
    assert_eq!(slots.occupied(), before, "a refusal holds nothing");
    error
}

/// F35: of two deploys that race for one GPU exactly one wins, before anything is pulled.
#[test]
fn of_two_deploys_that_want_one_gpu_exactly_one_wins() {
    let (mut slots, gpus) = (slots(), four());
    slots
        .reserve(&id("a"), &by_uuid(&[2]), view(&gpus), NOW)
        .unwrap();
    let error = refused(&mut slots, &by_uuid(&[2]), &gpus, ErrorCode::GpuUnavailable);
    assert!(error.message.contains("held by another rental"), "{error}");
    let rest = slots
        .reserve(&id("b"), &by_count(3), view(&gpus), NOW)
        .unwrap();
    assert_eq!(rest.gpus, [uuid(0), uuid(1), uuid(3)]);
    refused(&mut slots, &by_count(1), &gpus, ErrorCode::GpuUnavailable);
}

/// F35: likewise for the last port.
#[test]
fn of_two_deploys_that_want_the_last_port_exactly_one_wins() {
    let mut slots = slots();
    slots
        .reserve(&id("a"), &with_ports(7), view(&[]), NOW)
        .unwrap();
    refused(&mut slots, &with_ports(2), &[], ErrorCode::PortUnavailable);
    let last = slots
        .reserve(&id("b"), &with_ports(1), view(&[]), NOW)
        .unwrap();
    assert_eq!(last.ports, [30007]);
    refused(&mut slots, &with_ports(1), &[], ErrorCode::PortUnavailable);
}

/// F73: a rental gets all of its GPUs or none.
#[test]
fn gpus_are_reserved_all_or_none() {
    let (mut slots, gpus) = (slots(), four());
    slots
        .reserve(&id("a"), &by_uuid(&[1]), view(&gpus), NOW)
        .unwrap();
    refused(
        &mut slots,
        &by_uuid(&[0, 1]),
        &gpus,
        ErrorCode::GpuUnavailable,
    );
    refused(&mut slots, &by_count(4), &gpus, ErrorCode::GpuUnavailable);
    // What is short need not be a GPU for the GPUs to stay free.
    let mut too_much = by_uuid(&[0, 2]);
    too_much.memory_bytes = Some(64 * GIB);
    refused(
        &mut slots,
        &too_much,
        &gpus,
        ErrorCode::InsufficientResources,
    );
    let mut too_many_ports = by_uuid(&[0, 2]);
    too_many_ports.ports = 9;
    refused(
        &mut slots,
        &too_many_ports,
        &gpus,
        ErrorCode::PortUnavailable,
    );
    slots
        .reserve(&id("b"), &by_uuid(&[3, 0, 2]), view(&gpus), NOW)
        .unwrap();
}

#[test]
fn sick_unknown_and_foreign_gpus_are_not_given_out() {
    let mut slots = slots();
    let gpus = [
        gpu(0, Health::Failed),
        gpu(1, Health::Unknown),
        gpu(2, Health::Warning),
        gpu(3, Health::Ok),
    ];
    refused(&mut slots, &by_uuid(&[0]), &gpus, ErrorCode::GpuUnhealthy);
    refused(&mut slots, &by_uuid(&[1]), &gpus, ErrorCode::GpuUnavailable);
    refused(&mut slots, &by_uuid(&[7]), &gpus, ErrorCode::GpuUnavailable);
    refused(&mut slots, &by_count(3), &gpus, ErrorCode::GpuUnhealthy);
    refused(&mut slots, &by_count(4), &gpus, ErrorCode::GpuUnavailable);
    assert_eq!(slots.capacity(view(&gpus)).gpus, 2);
    let kept = Withheld::Quarantined("smells".to_owned());
    slots.withhold(BTreeMap::from([(uuid(2), kept)]));
    assert_eq!(slots.gpu_state(&uuid(2)), GpuState::Quarantined);
    let error = refused(&mut slots, &by_uuid(&[2]), &gpus, ErrorCode::GpuUnavailable);
    assert!(
        error.message.contains("smells") && error.message.contains("gpu release"),
        "{error}"
    );
    slots.set_foreign(ForeignClaims {
        gpus: BTreeSet::from([uuid(3)]),
        ..ForeignClaims::default()
    });
    assert_eq!(slots.gpu_state(&uuid(3)), GpuState::BusyExternal);
    refused(&mut slots, &by_uuid(&[3]), &gpus, ErrorCode::GpuUnavailable);
    // Of what nobody has only the failed one is left.
    refused(&mut slots, &by_count(1), &gpus, ErrorCode::GpuUnhealthy);
    refused(&mut slots, &by_count(2), &gpus, ErrorCode::GpuUnavailable);
    assert_eq!(slots.capacity(view(&gpus)).gpus, 0);
    slots.withhold(BTreeMap::new());
    slots.set_foreign(ForeignClaims::default());
    let two = slots
        .reserve(&id("a"), &by_count(2), view(&gpus), NOW)
        .unwrap();
    assert_eq!(two.gpus, [uuid(2), uuid(3)]);
}

/// F71.
#[test]
fn f71_what_is_used_or_not_clean_is_not_given_and_the_error_says_why() {
    let (mut slots, gpus) = (slots(), four());
    let used = Withheld::Used("process 71 (python3)".to_owned());
    let unclean = Withheld::Unclean("its memory is being wiped".to_owned());
    slots.withhold(BTreeMap::from([(uuid(0), used), (uuid(1), unclean)]));
    assert_eq!(slots.gpu_state(&uuid(0)), GpuState::BusyExternal);
    let error = refused(&mut slots, &by_uuid(&[0]), &gpus, ErrorCode::GpuUnavailable);
    assert!(error.message.contains("process 71 (python3)"), "{error}");
    assert_eq!(error.retry, Retry::Elsewhere);
    // What is only not clean yet is worth another try.
    assert_eq!(slots.gpu_state(&uuid(1)), GpuState::Unknown);
    let error = refused(&mut slots, &by_uuid(&[1]), &gpus, ErrorCode::GpuUnavailable);
    assert_eq!(error.retry, Retry::Here);
    let error = refused(&mut slots, &by_count(3), &gpus, ErrorCode::GpuUnavailable);
    assert_eq!(error.retry, Retry::Here);
    let error = refused(&mut slots, &by_count(4), &gpus, ErrorCode::GpuUnavailable);
    assert_eq!(error.retry, Retry::Elsewhere);
    assert_eq!(slots.capacity(view(&gpus)).gpus, 2);
}

#[test]
fn a_container_that_may_hold_any_gpu_keeps_all_of_them_busy() {
    let (mut slots, gpus) = (slots(), four());
    slots.set_foreign(ForeignClaims {
        unknown_gpus: true,
        ..ForeignClaims::default()
    });
    refused(&mut slots, &by_uuid(&[0]), &gpus, ErrorCode::GpuUnavailable);
    refused(&mut slots, &by_count(1), &gpus, ErrorCode::GpuUnavailable);
    slots
        .reserve(&id("a"), &Demand::default(), view(&gpus), NOW)
        .unwrap();
}

#[test]
fn before_all_probes_have_answered_gpus_that_are_not_known_are_asked_for_again_here() {
    let (mut slots, gpus) = (slots(), four());
    let early = GpuView {
        gpus: &gpus,
        complete: false,
    };
    for unknown in [by_count(5), by_uuid(&[9])] {
        let error = slots.reserve(&id("a"), &unknown, early, NOW).unwrap_err();
        assert_eq!(error.code, ErrorCode::GpuUnavailable);
        assert_eq!(error.retry, Retry::Here);
    }
    // Another vendor's driver that hangs is not in their way.
    slots.reserve(&id("b"), &by_count(1), early, NOW).unwrap();
    slots
        .reserve(&id("a"), &Demand::default(), early, NOW)
        .unwrap();
}

#[test]
fn what_is_short_is_named_with_what_is_asked_and_free() {
    let mut slots = slots();
    let demand = Demand {
        memory_bytes: Some(33 * GIB),
        ..Demand::default()
    };
    let error = refused(&mut slots, &demand, &[], ErrorCode::InsufficientResources);
    assert_eq!(
        error.detail,
        Some(serde_json::json!({
            "resource": "memory_bytes", "asked": 33 * GIB, "free": 32 * GIB,
        }))
    );
    let demand = Demand {
        nano_cpus: Some(8_000_000_001),
        ..Demand::default()
    };
    let error = refused(&mut slots, &demand, &[], ErrorCode::InsufficientResources);
    assert_eq!(error.detail.unwrap()["resource"], "nano_cpus");
    for n in 0..INSTANCES {
        slots.adopt(&id(&format!("a{n}")), Allocation::default());
    }
    let error = refused(
        &mut slots,
        &Demand::default(),
        &[],
        ErrorCode::InsufficientResources,
    );
    assert_eq!(error.detail.unwrap()["resource"], "instances");
}

#[test]
fn gpus_bring_their_share_of_the_host() {
    let (mut slots, gpus) = (slots(), four());
    let half = slots
        .reserve(&id("a"), &by_count(2), view(&gpus), NOW)
        .unwrap();
    assert_eq!(half.nano_cpus, 4_000_000_000);
    assert_eq!(half.memory_bytes, 16 * GIB);
    let plain = slots
        .reserve(&id("b"), &Demand::default(), view(&gpus), NOW)
        .unwrap();
    assert_eq!((plain.nano_cpus, plain.memory_bytes), (1_000_000_000, GIB));
    let rest = slots
        .reserve(&id("c"), &by_count(2), view(&gpus), NOW)
        .unwrap();
    assert_eq!(rest.nano_cpus, 3_000_000_000);
    assert_eq!(rest.memory_bytes, 15 * GIB);
}

#[test]
fn a_default_holds_the_shared_memory_that_is_asked() {
    let mut slots = slots();
    let demand = Demand {
        shm_bytes: Some(3 * GIB),
        ..Demand::default()
    };
    let given = slots.reserve(&id("a"), &demand, view(&[]), NOW).unwrap();
    assert_eq!(given.memory_bytes, 3 * GIB);
}

#[test]
fn a_port_rests_after_its_rental_is_gone() {
    let mut slots = slots();
    let port = |slots: &mut Slots, name: &str, boot| {
        let given = slots.reserve(&id(name), &with_ports(1), view(&[]), boot);
        given.unwrap().ports[0]
    };
    assert_eq!(port(&mut slots, "a", NOW), 30000);
    slots.release(&id("a"), NOW).unwrap();
    let almost = NOW + PORT_COOLDOWN - Duration::from_millis(1);
    assert_eq!(port(&mut slots, "b", almost), 30001);
    assert_eq!(port(&mut slots, "c", NOW + PORT_COOLDOWN), 30000);
    assert_eq!(slots.release(&id("a"), NOW), None);
}

#[test]
fn a_port_that_is_taken_is_swapped_and_skipped_for_a_while() {
    let mut slots = slots();
    let given = slots
        .reserve(&id("a"), &with_ports(2), view(&[]), NOW)
        .unwrap();
    assert_eq!(given.ports, [30000, 30001]);
    assert_eq!(slots.swap_port(&id("a"), 30000, NOW), Ok(30002));
    assert_eq!(slots.allocation(&id("a")).unwrap().ports, [30002, 30001]);
    let other = slots
        .reserve(&id("b"), &with_ports(1), view(&[]), NOW)
        .unwrap();
    assert_eq!(other.ports, [30003]);
    let later = NOW + TAKEN_PORT_COOLDOWN;
    let other = slots
        .reserve(&id("c"), &with_ports(1), view(&[]), later)
        .unwrap();
    assert_eq!(other.ports, [30000]);
    assert!(slots.swap_port(&id("a"), 30007, later).is_err());
    assert!(slots.swap_port(&id("z"), 30007, later).is_err());
}

#[test]
fn what_runs_is_adopted_beyond_the_capacity_and_nothing_more_fits_then() {
    let mut slots = slots();
    let huge = Allocation {
        gpus: vec![uuid(0)],
        ports: vec![30000],
        nano_cpus: u64::MAX,
        memory_bytes: u64::MAX,
    };
    slots.adopt(&id("a"), huge.clone());
    slots.adopt(&id("b"), huge);
    refused(
        &mut slots,
        &Demand::default(),
        &[],
        ErrorCode::InsufficientResources,
    );
    slots.release(&id("a"), NOW);
    slots.release(&id("b"), NOW);
    assert_eq!(slots.occupied(), Resources::default());
    slots
        .reserve(&id("c"), &Demand::default(), view(&[]), NOW)
        .unwrap();
}

#[test]
fn a_second_reservation_of_one_rental_is_refused() {
    let mut slots = slots();
    let demand = Demand::default();
    slots.reserve(&id("a"), &demand, view(&[]), NOW).unwrap();
    let again = slots.reserve(&id("a"), &demand, view(&[]), NOW);
    assert_eq!(again.unwrap_err().code, ErrorCode::Conflict);
}

#[test]
fn the_capacity_is_the_host_less_what_is_kept() {
    let host = Host {
        cpus: 16,
        memory_bytes: 64 * GIB,
        disks: vec![crate::protocol::record::Disk {
            mount: "/".into(),
            total_bytes: 100 * GIB,
            free_bytes: 1,
        }],
        ..Host::default()
    };
    let limits = ResourceLimits {
        gpus: None,
        numa: Default::default(),
        reserve_cpus: 0.5,
        reserve_memory_bytes: 2 * GIB,
        reserve_disk_bytes: 10 * GIB,
        instances: 3,
        default_cpus: 1.5,
        default_memory_bytes: GIB,
        pids_limit: 1,
        log_max_bytes: 1,
        log_files: 1,
        ulimits: BTreeMap::new(),
    };
    let ports = PortRange { first: 1, last: 2 };
    let slots = Slots::new(Capacity::of(&host, &limits, ports));
    assert_eq!(
        slots.capacity(view(&four())),
        Resources {
            cpus: 15.5,
            memory_bytes: 62 * GIB,
            disk_bytes: 90 * GIB,
            gpus: 4,
            instances: 3,
        }
    );
}

#[test]
fn the_gpus_of_a_rental_are_of_one_vendor() {
    let mut gpus = four();
    gpus[1].vendor = "amd".to_owned();
    gpus[2].vendor = "amd".to_owned();
    let mut slots = slots();
    let error = slots
        .reserve(&id("a"), &by_uuid(&[0, 1]), view(&gpus), NOW)
        .unwrap_err();
    assert_eq!(
        (error.code, error.retry),
        (ErrorCode::GpuUnavailable, Retry::Never)
    );
    assert!(error.message.contains("amd and nvidia"), "{error}");
    assert!(
        slots
            .reserve(&id("a"), &by_count(3), view(&gpus), NOW)
            .is_err()
    );
    let two = slots.reserve(&id("a"), &by_count(2), view(&gpus), NOW);
    assert_eq!(two.unwrap().gpus, [uuid(0), uuid(3)]);
    let two = slots.reserve(&id("b"), &by_count(2), view(&gpus), NOW);
    assert_eq!(two.unwrap().gpus, [uuid(1), uuid(2)]);
}

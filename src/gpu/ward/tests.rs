//! The rules of the ward, one by one, and all of them at once in any order.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::gpu::{GpuProcess, Reading, Recovery};

const MIB: u64 = 1024 * 1024;
const GPUS: u32 = 3;

fn uuid(n: u32) -> GpuUuid {
    format!("GPU-{n}").parse().unwrap()
}

fn gpu(n: u32) -> Gpu {
    Gpu::bare(uuid(n), "nvidia")
}

fn reading(n: u32) -> Reading {
    let mut reading = Reading::of(uuid(n));
    reading.sample.memory_used_bytes = Some(MIB);
    reading.processes = Some(Vec::new());
    reading
}

fn used(n: u32) -> Reading {
    let mut reading = reading(n);
    reading.processes = Some(vec![GpuProcess {
        pid: 71,
        name: Some("python3".to_owned()),
        memory_bytes: Some(MIB),
    }]);
    reading
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A ward and who holds what.
struct Bed {
    ward: Ward,
    held: BTreeMap<GpuUuid, Holder>,
    now: Duration,
}

impl Bed {
    fn new(wipe: bool) -> Self {
        let mut ward = Ward::new(Policy {
            wipe,
            ..Policy::default()
        });
        let now = seconds(1_000);
        ward.list(&[gpu(0)], now);
        Self {
            ward,
            held: BTreeMap::new(),
            now,
        }
    }

    fn pass(&mut self, passed: u64) {
        self.now += seconds(passed);
    }

    fn look(&mut self, readings: Vec<Reading>) -> Vec<GpuUuid> {
        let sampled = Sampled {
            asked_at: self.now,
            readings,
        };
        let held = self.held.clone();
        let holder = |uuid: &GpuUuid| held.get(uuid).copied().unwrap_or(Holder::Nobody);
        self.ward.read(&sampled, holder);
        self.ward.clean(self.now, holder)
    }

    fn hold(&mut self, holder: Holder) {
        self.held.insert(uuid(0), holder);
    }

    fn withheld(&self) -> Option<Withheld> {
        self.ward.withheld(&uuid(0))
    }

    fn health(&self) -> Health {
        self.ward.verdict(&uuid(0)).unwrap().health
    }
}

fn done() -> Wiped {
    Wiped::Done {
        wiped_bytes: 9,
        total_bytes: 10,
    }
}

#[test]
fn a_gpu_is_dirty_until_a_look_shows_it_idle() {
    let mut bed = Bed::new(false);
    assert!(matches!(bed.withheld(), Some(Withheld::Unclean(_))));
    bed.look(vec![reading(0)]);
    assert_eq!(bed.withheld(), None);
}

#[test]
fn one_that_has_to_be_wiped_is_clean_after_that() {
    let mut bed = Bed::new(true);
    assert_eq!(bed.look(vec![reading(0)]), [uuid(0)]);
    assert!(bed.look(vec![used(0)]).is_empty(), "the wipe is not a user");
    let Some(Withheld::Unclean(why)) = bed.withheld() else {
        panic!("it is given while it is wiped");
    };
    assert!(why.contains("wiped"), "{why}");
    bed.ward.wiped(&uuid(0), done(), bed.now);
    assert_eq!(bed.withheld(), None);
    assert_eq!(bed.ward.wipes()[&uuid(0)], done());
}

#[test]
fn what_happened_while_the_driver_was_silent_nobody_saw() {
    let mut bed = Bed::new(false);
    bed.look(vec![reading(0)]);
    let silent = Gpu {
        health: Health::Unknown,
        ..gpu(0)
    };
    bed.pass(10);
    bed.ward.list(&[silent], bed.now);
    bed.pass(10);
    bed.ward.list(&[gpu(0)], bed.now);
    assert!(matches!(bed.withheld(), Some(Withheld::Unclean(_))));
    bed.look(vec![reading(0)]);
    assert_eq!(bed.withheld(), None);
}

#[test]
fn a_driver_that_stops_telling_shows_nobody_gone() {
    let mut bed = Bed::new(false);
    bed.look(vec![reading(0)]);
    bed.pass(5);
    bed.look(vec![Reading::of(uuid(0))]);
    assert!(matches!(bed.withheld(), Some(Withheld::Unclean(_))));
}

#[test]
fn what_soils_a_gpu_during_its_wipe_makes_it_dirty_after_it() {
    let mut bed = Bed::new(true);
    assert_eq!(bed.look(vec![reading(0)]), [uuid(0)]);
    bed.pass(1);
    bed.ward.soil(&uuid(0), bed.now);
    assert!(bed.look(vec![reading(0)]).is_empty(), "one wipe at a time");
    bed.ward.wiped(&uuid(0), done(), bed.now);
    assert!(matches!(bed.withheld(), Some(Withheld::Unclean(_))));
}

#[test]
fn a_partitioned_gpu_is_given_to_nobody() {
    let mut bed = Bed::new(false);
    let mig = crate::protocol::record::Mig {
        enabled: true,
        devices: Vec::new(),
    };
    let partitioned = Gpu {
        mig: Some(mig),
        ..gpu(0)
    };
    bed.ward.list(&[partitioned], bed.now);
    bed.look(vec![reading(0)]);
    assert_eq!(bed.withheld(), Some(Withheld::Partitioned));
}

#[test]
fn where_no_wipe_is_possible_an_idle_gpu_is_given_all_the_same() {
    let mut bed = Bed::new(true);
    bed.look(vec![reading(0)]);
    let why = Wiped::Impossible("no CUDA library".to_owned());
    bed.ward.wiped(&uuid(0), why, bed.now);
    assert_eq!(bed.withheld(), None);
    bed.ward = Ward::new(Policy {
        wipe: true,
        ..Policy::default()
    });
    bed.ward.list(&[Gpu::bare(uuid(0), "amd")], bed.now);
    assert!(bed.look(vec![reading(0)]).is_empty());
    assert_eq!(bed.withheld(), None);
}

#[test]
fn a_wipe_that_fails_keeps_the_gpu_out_and_is_tried_again_after_three_good_tests() {
    let mut bed = Bed::new(true);
    bed.look(vec![reading(0)]);
    let failed = Wiped::Failed("out of time".to_owned());
    bed.ward.wiped(&uuid(0), failed, bed.now);
    assert!(matches!(bed.withheld(), Some(Withheld::Quarantined(_))));
    for _ in 0..2 {
        bed.pass(60);
        assert!(bed.look(vec![reading(0)]).is_empty());
    }
    bed.pass(60);
    assert_eq!(bed.look(vec![reading(0)]), [uuid(0)]);
    assert!(bed.withheld().is_some());
}

/// F72.
#[test]
fn f72_a_tenants_leftovers_keep_it_until_a_later_look_shows_it_idle() {
    let mut bed = Bed::new(false);
    bed.look(vec![reading(0)]);
    bed.hold(Holder::Rental);
    bed.pass(5);
    bed.look(vec![used(0)]);
    let early = bed.now;
    bed.pass(5);
    bed.ward.soil(&uuid(0), bed.now);
    bed.hold(Holder::Leaving);
    let sampled = Sampled {
        asked_at: early,
        readings: vec![reading(0)],
    };
    bed.ward.read(&sampled, |_| Holder::Leaving);
    assert!(
        bed.ward.unsettled(&uuid(0)).is_some(),
        "asked for too early"
    );
    bed.look(vec![used(0)]);
    let why = bed.ward.unsettled(&uuid(0)).unwrap();
    assert!(why.contains("process 71 (python3)"), "{why}");
    let mut leak = reading(0);
    leak.sample.memory_used_bytes = Some(300 * MIB);
    bed.look(vec![leak]);
    let why = bed.ward.unsettled(&uuid(0)).unwrap();
    assert!(why.contains("300 MiB"), "{why}");
    bed.look(vec![reading(0)]);
    assert_eq!(bed.ward.unsettled(&uuid(0)), None);
}

/// F71.
#[test]
fn f71_a_foreign_process_makes_it_busy_and_dirty() {
    let mut bed = Bed::new(true);
    bed.look(vec![reading(0)]);
    bed.ward.wiped(&uuid(0), done(), bed.now);
    bed.look(vec![used(0)]);
    let busy = Withheld::Used("process 71 (python3)".to_owned());
    assert_eq!(bed.withheld(), Some(busy));
    assert_eq!(bed.health(), Health::Ok);
    assert_eq!(
        bed.look(vec![reading(0)]),
        [uuid(0)],
        "what it left is wiped"
    );
}

#[test]
fn what_a_rental_or_a_stranger_holds_is_not_cleaned() {
    for holder in [Holder::Rental, Holder::Stranger] {
        let mut bed = Bed::new(true);
        bed.hold(holder);
        assert!(bed.look(vec![reading(0)]).is_empty(), "{holder:?}");
        assert!(bed.withheld().is_some());
    }
}

/// F68.
#[test]
fn f68_one_that_the_driver_loses_is_out_until_it_was_well_for_three_tests() {
    let mut bed = Bed::new(false);
    bed.look(vec![reading(0)]);
    let lost = Gpu {
        health: Health::Failed,
        health_reasons: vec!["the driver no longer lists it".to_owned()],
        ..gpu(0)
    };
    bed.ward.list(&[lost], bed.now);
    assert!(bed.ward.is_lost(&uuid(0)));
    assert_eq!(bed.health(), Health::Failed);
    bed.ward.list(&[gpu(0)], bed.now);
    assert!(!bed.ward.is_lost(&uuid(0)));
    for passed in [60, 120, 180] {
        assert!(
            matches!(bed.withheld(), Some(Withheld::Quarantined(_))),
            "{passed}"
        );
        bed.pass(60);
        bed.look(vec![reading(0)]);
    }
    assert_eq!(bed.withheld(), None);
    assert_eq!(bed.health(), Health::Ok);
}

/// F68.
#[test]
fn f68_an_xid_does_what_its_action_says() {
    let xid = |code| Xid {
        uuid: uuid(0),
        code,
    };
    let mut bed = Bed::new(false);
    bed.look(vec![reading(0)]);
    assert_eq!(bed.ward.xid(&xid(31), bed.now).0, Action::RestartApp);
    assert_eq!(bed.withheld(), None);
    assert_eq!(bed.ward.xid(&xid(155), bed.now).0, Action::Drain);
    assert_eq!(bed.health(), Health::Warning);
    assert!(matches!(bed.withheld(), Some(Withheld::Quarantined(_))));
    assert_eq!(bed.ward.xid(&xid(79), bed.now).0, Action::Reset);
    assert_eq!(bed.health(), Health::Failed);
    bed.ward.xid(&xid(54), bed.now);
    for _ in 0..5 {
        bed.pass(60);
        bed.look(vec![reading(0)]);
    }
    assert!(matches!(bed.withheld(), Some(Withheld::Quarantined(_))));
    assert_eq!(bed.ward.release(&uuid(0)), Some(true));
    assert_eq!(bed.withheld(), None);
}

#[test]
fn one_that_is_released_and_fails_again_is_quarantined_again() {
    let mut sick = reading(0);
    sick.vitals.recovery = Some(Recovery::ResetGpu);
    let mut bed = Bed::new(false);
    bed.look(vec![sick.clone()]);
    assert_eq!(bed.ward.release(&uuid(0)), Some(true));
    assert_eq!(bed.ward.release(&uuid(0)), Some(false));
    assert_eq!(bed.ward.release(&uuid(9)), None);
    bed.look(vec![sick]);
    assert!(matches!(bed.withheld(), Some(Withheld::Quarantined(_))));
}

#[test]
fn silence_is_unknown_and_nothing_is_given_on_it() {
    let mut bed = Bed::new(false);
    let other = Gpu::bare(uuid(2), "amd");
    bed.ward.list(&[gpu(0), gpu(1), other], bed.now);
    bed.look(vec![reading(0), reading(1)]);
    bed.look(vec![reading(1)]);
    assert_eq!(bed.health(), Health::Unknown);
    assert!(matches!(bed.withheld(), Some(Withheld::Unseen(_))));
    bed.look(vec![reading(0), reading(1)]);
    assert_eq!(bed.withheld(), None);
    // Another vendor's look says nothing of it.
    bed.look(vec![reading(2)]);
    assert_eq!(bed.withheld(), None);
}

#[derive(Debug, Clone)]
enum Step {
    /// Which are used, which tell of a failure, which are missing.
    Look(BTreeSet<u32>, BTreeSet<u32>, BTreeSet<u32>),
    Xid(u32, u64),
    Keep(u32),
    Release(u32),
    /// The first wipe under way ends so.
    Wiped(bool),
    Take(u32),
    Leave(u32),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let some = || proptest::collection::btree_set(0..GPUS, 0..2);
    let one = 0..GPUS;
    prop_oneof![
        6 => (some(), some(), some()).prop_map(|(a, b, c)| Step::Look(a, b, c)),
        1 => (one.clone(), prop::sample::select(vec![31, 54, 79, 155])).prop_map(|(n, code)| Step::Xid(n, code)),
        1 => one.clone().prop_map(Step::Keep),
        1 => one.clone().prop_map(Step::Release),
        3 => any::<bool>().prop_map(Step::Wiped),
        3 => one.clone().prop_map(Step::Take),
        2 => one.prop_map(Step::Leave),
        2 => (0u64..70).prop_map(Step::Wait),
    ]
}

/// What must be true of one GPU, kept from what happened alone.
#[derive(Debug, Clone, Default)]
struct Truth {
    holder: Option<Holder>,
    /// Nobody has used it since its last wipe.
    clean: bool,
    wiping: bool,
    kept: bool,
    /// When it failed last.
    failed: Option<Duration>,
    needs_a_person: bool,
    used: bool,
    missing: bool,
}

struct Model {
    ward: Ward,
    truth: Vec<Truth>,
    wiping: Vec<GpuUuid>,
    now: Duration,
    given: u32,
}

impl Model {
    fn new() -> Self {
        let mut ward = Ward::new(Policy {
            wipe: true,
            ..Policy::default()
        });
        let now = seconds(1_000);
        ward.list(&(0..GPUS).map(gpu).collect::<Vec<_>>(), now);
        Self {
            ward,
            truth: vec![Truth::default(); 3],
            wiping: Vec::new(),
            now,
            given: 0,
        }
    }

    fn at(&mut self, n: u32) -> &mut Truth {
        &mut self.truth[usize::try_from(n).unwrap()]
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Look(used, failed, missing) => self.look(&used, &failed, &missing),
            Step::Xid(n, code) => {
                self.ward.xid(
                    &Xid {
                        uuid: uuid(n),
                        code,
                    },
                    now,
                );
                let truth = self.at(n);
                if code != 31 {
                    truth.failed = Some(now);
                }
                truth.needs_a_person |= code == 54;
            }
            Step::Keep(n) => {
                self.ward.keep(&uuid(n), String::new());
                self.at(n).kept = true;
            }
            Step::Release(n) => {
                self.ward.release(&uuid(n));
                let truth = self.at(n);
                (truth.kept, truth.needs_a_person, truth.failed) = (false, false, None);
            }
            Step::Wiped(well) => self.end_wipe(well),
            Step::Take(n) => self.take(n),
            Step::Leave(n) => self.leave(n),
            Step::Wait(passed) => self.now += seconds(passed),
        }
    }

    fn end_wipe(&mut self, well: bool) {
        let now = self.now;
        let Some(uuid) = self.wiping.pop() else {
            return;
        };
        let n = (0..GPUS).find(|n| self::uuid(*n) == uuid).unwrap();
        let wiped = match well {
            true => done(),
            false => Wiped::Failed("x".to_owned()),
        };
        self.ward.wiped(&uuid, wiped, now);
        let truth = self.at(n);
        (truth.wiping, truth.clean) = (false, well);
        if !well {
            truth.failed = Some(now);
        }
    }

    fn take(&mut self, n: u32) {
        let now = self.now;
        if self.at(n).holder.is_none() && self.ward.withheld(&uuid(n)).is_none() {
            let truth = self.at(n).clone();
            assert!(truth.clean && !truth.wiping, "{n} is given dirty");
            assert!(
                !truth.kept && !truth.needs_a_person,
                "{n} is given from quarantine"
            );
            assert!(
                !truth.used && !truth.missing,
                "{n} is given while used or unseen"
            );
            let tested = |at: Duration| now >= at + seconds(180);
            assert!(truth.failed.is_none_or(tested), "{n} is given untested");
            self.at(n).holder = Some(Holder::Rental);
            self.at(n).clean = false;
            self.given += 1;
        }
    }

    fn leave(&mut self, n: u32) {
        let now = self.now;
        match self.truth[usize::try_from(n).unwrap()].holder {
            Some(Holder::Rental) => {
                self.at(n).holder = Some(Holder::Leaving);
                self.ward.soil(&uuid(n), now);
            }
            Some(Holder::Leaving) if self.ward.unsettled(&uuid(n)).is_none() => {
                self.at(n).holder = None;
            }
            _ => {}
        }
    }

    fn look(&mut self, users: &BTreeSet<u32>, failed: &BTreeSet<u32>, missing: &BTreeSet<u32>) {
        let there = (0..GPUS).filter(|n| !missing.contains(n));
        let readings = there.map(|n| {
            let mut reading = match users.contains(&n) {
                true => used(n),
                false => reading(n),
            };
            if failed.contains(&n) {
                reading.vitals.remap_failed = Some(true);
            }
            reading
        });
        let sampled = Sampled {
            asked_at: self.now,
            readings: readings.collect(),
        };
        let now = self.now;
        for n in 0..GPUS {
            let gone = missing.contains(&n);
            let truth = self.at(n);
            truth.missing = gone;
            if failed.contains(&n) && !gone {
                truth.failed = Some(now);
            }
            if truth.holder != Some(Holder::Rental) && !gone && !truth.wiping {
                truth.used = users.contains(&n);
                truth.clean &= !truth.used;
            }
        }
        let truth = self.truth.clone();
        let holder = move |uuid: &GpuUuid| {
            let n = (0..GPUS).find(|n| self::uuid(*n) == *uuid).unwrap();
            truth[usize::try_from(n).unwrap()]
                .holder
                .unwrap_or(Holder::Nobody)
        };
        self.ward.read(&sampled, &holder);
        for uuid in self.ward.clean(self.now, &holder) {
            let n = (0..GPUS).find(|n| self::uuid(*n) == uuid).unwrap();
            let truth = self.at(n);
            assert!(!truth.wiping, "wiped twice at once");
            assert!(
                truth.holder != Some(Holder::Rental),
                "{n} is wiped under its tenant"
            );
            truth.wiping = true;
            self.wiping.push(uuid);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn a_gpu_is_never_given_while_dirty_used_failed_or_kept_back(life in vec(steps(), 1..80)) {
        let mut model = Model::new();
        for step in life {
            model.step(step);
        }
    }
}

/// The control of the property above: it does give GPUs.
#[test]
fn the_model_gives_gpus() {
    let mut model = Model::new();
    let none = BTreeSet::new;
    for step in [
        Step::Look(none(), none(), none()),
        Step::Wiped(true),
        Step::Wiped(true),
        Step::Wiped(true),
        Step::Take(0),
        Step::Take(1),
    ] {
        model.step(step);
    }
    assert_eq!(model.given, 2);
}

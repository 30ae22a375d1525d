//! The registry's own rules, one at a time, over an engine that answers what the test says. The
//! model-based test in `tests/it` plays whole stories.

#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "an operation that a test does not expect ends it, whichever it is"
)]

pub(super) mod gpus;

use serde_json::{Value, json};

use super::*;
use crate::{
    clock::Now,
    gpu::Reading,
    instance::{
        effect::{EngineOp, OpId, OpOutput},
        marker::{ContainerFacts, Marker, MarkerRead, labels_for},
    },
    protocol::{EndReason, ErrorCode, Incoming, Outcome, Phase, Reply, decode, record::PortRange},
    runtime::{
        Class, ContainerState, Detail, Holder, Listing, Observed, RuntimeError, VolumeLabels,
        gpus::Listed,
    },
};

#[test]
fn a_deploy_that_was_refused_while_the_engine_was_away_stays_refused() {
    let mut rig = Rig::new();
    rig.deploy("c1", json!({}));
    rig.pass(6);
    assert_eq!(rig.outcomes("c1"), [Outcome::Rejected]);
    rig.list_with(vec![rig.running()]);
    rig.see_gpus();
    rig.mark();
    while let Some((id, op)) = rig.ops.pop_front() {
        assert!(matches!(op, EngineOp::Inspect { .. }), "{op:?}");
        let seen = Some(Box::new(rig.running()));
        rig.answer(id, Ok(OpOutput::Inspected(seen)));
    }
    assert_eq!(rig.phase(), Phase::Ready);
    assert_eq!(rig.outcomes("c1"), [Outcome::Rejected]);
}

#[test]
fn an_exit_that_could_not_be_inspected_is_looked_at_and_ends_nothing() {
    let mut rig = Rig::new();
    let mut exited = rig.container(ContainerState::Exited, Detail::default());
    exited.detail = None;
    rig.list_with(vec![exited]);
    assert!(matches!(rig.op().1, EngineOp::Inspect { .. }));
    assert_ne!(rig.phase(), Phase::Ending);
}

#[test]
fn a_state_of_a_newer_engine_is_looked_at_again_without_haste() {
    let mut rig = Rig::new();
    rig.list_with(vec![
        rig.container(ContainerState::Other, Detail::default()),
    ]);
    assert!(rig.ops.is_empty());
    rig.pass(5);
    assert!(matches!(rig.op().1, EngineOp::Inspect { .. }));
}

#[test]
fn a_gpu_that_somebody_took_while_the_rental_was_down_is_not_taken_back() {
    let mut rig = Rig::new();
    let exited = rig.exited_by_restart();
    rig.list_all(vec![exited], vec![rig.lease()]);
    let (id, op) = rig.op();
    assert!(matches!(op, EngineOp::Holders { .. }), "{op:?}");
    let other = Holder {
        id: "b".repeat(64).parse().unwrap(),
        name: "other".to_owned(),
        created_at: rig.now.wall,
        runs: true,
        gpus: vec![gpu().uuid],
    };
    rig.answer(id, Ok(OpOutput::Holders(vec![other])));
    assert_eq!(rig.phase(), Phase::Ending);
    let end = rig.registry.entries[&instance()].end().unwrap();
    assert_eq!(end.reason, EndReason::Interrupted);
    assert_eq!(end.error.as_ref().unwrap().code, ErrorCode::GpuUnavailable);
}

/// The engine tells when it began to make a container, and shows it to others only when it is made:
/// one that was begun later may have looked before the first one could be seen.
#[test]
fn the_first_of_two_containers_with_one_gpu_waits_until_the_other_is_gone_or_runs() {
    let made = |id: &str, later: u64, runs: bool| Holder {
        id: id.repeat(64).parse().unwrap(),
        name: id.to_owned(),
        created_at: Timestamp::from_millis(1_799_999_900_000).plus(Duration::from_secs(later)),
        runs,
        gpus: vec![gpu().uuid],
    };
    let both = |runs| {
        Ok(OpOutput::Holders(vec![
            made("a", 0, false),
            made("b", 1, runs),
        ]))
    };
    let waiting = || {
        let mut rig = Rig::new();
        let created = rig.container(ContainerState::Created, Detail::default());
        rig.list_with(vec![created]);
        let (id, _) = rig.op();
        rig.answer(id, both(false));
        assert!(rig.ops.is_empty(), "{:?}", rig.ops);
        rig.pass(1);
        let (id, op) = rig.op();
        assert!(matches!(op, EngineOp::Holders { .. }), "{op:?}");
        (rig, id)
    };

    let (mut rig, id) = waiting();
    rig.answer(id, Ok(OpOutput::Holders(Vec::new())));
    assert!(matches!(rig.op().1, EngineOp::Start { .. }));

    let (mut rig, id) = waiting();
    rig.answer(id, both(true));
    assert_eq!(rig.phase(), Phase::Ending);

    // Another agent's leftover is not waited for without end.
    let (mut rig, id) = waiting();
    rig.answer(id, both(false));
    rig.pass(10);
    let (id, _) = rig.op();
    rig.answer(id, both(false));
    assert_eq!(rig.phase(), Phase::Ending);
}

#[test]
fn an_end_by_a_restart_is_counted_once() {
    let mut rig = Rig::new();
    let exited = rig.exited_by_restart();
    rig.list_all(vec![exited.clone()], vec![rig.lease()]);
    let (id, _) = rig.op();
    rig.answer(id, Ok(OpOutput::Holders(Vec::new())));
    let (id, op) = rig.op();
    assert!(matches!(op, EngineOp::Start { .. }), "{op:?}");
    rig.answer(id, Err(error(Class::Unknown)));
    rig.pass(1);
    let (id, op) = rig.op();
    assert!(matches!(op, EngineOp::Inspect { .. }), "{op:?}");
    rig.answer(id, Ok(OpOutput::Inspected(Some(Box::new(exited)))));
    assert_eq!(rig.registry.entries[&instance()].record.restarts, 1);
}

#[test]
fn after_a_failed_start_the_gpu_is_asked_for_again() {
    let mut rig = Rig::new();
    rig.list_with(vec![
        rig.container(ContainerState::Created, Detail::default()),
    ]);
    let (id, _) = rig.op();
    rig.answer(id, Ok(OpOutput::Holders(Vec::new())));
    let (id, _) = rig.op();
    rig.answer(id, Err(error(Class::Failed)));
    rig.pass(1);
    assert!(matches!(rig.op().1, EngineOp::Holders { .. }));
}

#[test]
fn a_name_that_is_taken_is_looked_at_after_a_pause() {
    let mut rig = Rig::new();
    rig.list_with(Vec::new());
    rig.deploy("c1", json!({}));
    rig.fetched();
    let (id, op) = rig.op();
    assert!(matches!(op, EngineOp::Create(_)), "{op:?}");
    rig.answer(id, Err(error(Class::NameTaken)));
    assert!(rig.ops.is_empty());
    rig.pass(1);
    assert!(matches!(rig.op().1, EngineOp::Inspect { .. }));
}

#[test]
fn a_removal_that_hangs_is_looked_at_less_and_less_and_called_stuck() {
    let mut rig = Rig::new();
    let removing = rig.container(ContainerState::Removing, Detail::default());
    rig.list_with(vec![removing.clone()]);
    rig.mark();
    let mut looks = 0;
    for _ in 0..60 {
        while let Some((id, op)) = rig.ops.pop_front() {
            let output = match op {
                EngineOp::Remove { .. } => OpOutput::Removed,
                EngineOp::Verify { .. } => {
                    looks += 1;
                    OpOutput::Verified(Some(Box::new(removing.clone())), false)
                }
                other => panic!("{other:?}"),
            };
            rig.answer(id, Ok(output));
        }
        rig.pass(1);
    }
    assert!(looks < 30, "{looks} looks within a minute");
    let record = &rig.registry.entries[&instance()].record;
    assert!(record.conditions.iter().any(|c| c.kind == "stuck_stopping"));
}

#[test]
fn a_marker_whose_answer_was_lost_is_removed_with_the_others() {
    let mut rig = Rig::new();
    rig.list_all(vec![rig.running()], Vec::new());
    rig.see_gpus();
    let (id, op) = rig.op();
    assert!(matches!(op, EngineOp::PutMarker(_)), "{op:?}");
    rig.answer(id, Err(error(Class::Unknown)));
    rig.terminate("c2", json!({}));
    rig.end();
    rig.settle_and_ack();
    let (_, op) = rig.op();
    let EngineOp::RemoveMarkers(names) = op else {
        panic!("{op:?}");
    };
    let expected = [
        "rental-r-1.ending",
        "rental-r-1.lease.1",
        "rental-r-1.ended",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_volume_of_another_agent_under_a_marker_s_name_is_never_removed() {
    let mut rig = Rig::new();
    rig.list_with(Vec::new());
    rig.terminate("c2", json!({}));
    let stranger = |name: &str| {
        let marker = Marker::Ended { record: None };
        let mut volume = marker.encode(&"agent-2".parse().unwrap(), &instance());
        volume.name = name.to_owned();
        Ok(OpOutput::Marked(volume))
    };
    let (id, _) = rig.op();
    rig.answer(id, stranger("rental-r-1.ending"));
    let (id, _) = rig.op();
    rig.answer(id, Ok(OpOutput::Inspected(None)));
    let (id, _) = rig.op();
    rig.answer(id, stranger("rental-r-1.ended"));
    let (id, _) = rig.op();
    rig.answer(id, Ok(OpOutput::Verified(None, false)));
    assert_eq!(rig.outcomes("c2"), [Outcome::Accepted, Outcome::Done]);
    // What would be made anew at each listing stays the other agent's too.
    rig.registry.ack(Generation(u64::MAX), rig.now);
    rig.settle_and_ack();
    let (_, op) = rig.op();
    assert!(
        matches!(&op, EngineOp::RemoveMarkers(names) if names.is_empty()),
        "{op:?}"
    );
}

#[test]
fn a_final_record_is_the_one_that_the_engine_has() {
    let mut rig = Rig::new();
    rig.list_with(vec![rig.container(ContainerState::Dead, Detail::default())]);
    let (id, op) = rig.op();
    let EngineOp::PutMarker(first) = op else {
        panic!("{op:?}");
    };
    rig.answer(id, Err(error(Class::Unknown)));
    rig.pass(40);
    let (id, _) = rig.op();
    rig.answer(id, Ok(OpOutput::Marked(first.clone())));
    let end = rig.registry.entries[&instance()].end().unwrap();
    let recorded = end.recorded.as_ref().unwrap();
    let Some(MarkerRead::Ours {
        marker: Marker::Ended {
            record: Some(record),
        },
        ..
    }) = Marker::decode(&first, &"agent-1".parse().unwrap())
    else {
        panic!("{first:?}");
    };
    assert_eq!(recorded.timeline, record.timeline);
}

#[test]
fn the_clock_of_another_life_makes_no_grace_longer() {
    let mut rig = Rig::new();
    let ahead = rig.now.wall.plus(Duration::from_secs(3_600));
    let ending = Marker::Ending {
        reason: EndReason::Terminated,
        command_id: None,
        decided_at: ahead,
        kill_at: ahead.plus(Duration::from_secs(7)),
    };
    let ending = ending.encode(&"agent-1".parse().unwrap(), &instance());
    rig.list_all(vec![rig.running()], vec![ending]);
    let (_, op) = rig.op();
    let EngineOp::Stop { grace, .. } = op else {
        panic!("{op:?}");
    };
    assert_eq!(grace, Duration::from_secs(7));
}

#[test]
fn no_record_is_given_up_by_the_host_s_clock() {
    let mut rig = Rig::before_any_server();
    let years = Duration::from_secs(3 * 365 * 24 * 3_600);
    rig.now.wall = rig.now.wall.plus(years);
    let mut record = tests_record();
    record.id = instance();
    record.phase = Phase::Ended;
    record.timeline.ended_at = Some(Timestamp::from_millis(1_800_000_000_000));
    record.ended = Some(crate::protocol::record::Ended {
        reason: EndReason::Exited,
        exit_code: Some(0),
        error: None,
        log_tail: None,
    });
    let ended = Marker::Ended {
        record: Some(Box::new(record)),
    };
    let ended = ended.encode(&"agent-1".parse().unwrap(), &instance());
    rig.list_all(Vec::new(), vec![ended.clone()]);
    rig.pass(2);
    rig.list_all(Vec::new(), vec![ended]);
    assert_eq!(rig.registry.records_dropped, 0);
}

#[test]
fn an_engine_that_is_away_is_not_listed() {
    let mut rig = Rig::new();
    rig.list_with(Vec::new());
    rig.pass(2);
    let ticket = rig.lists.pop().expect("a listing");
    rig.feed(Input::EngineDown(EngineStatus::Unavailable));
    rig.feed(Input::Listed(ticket, Err(error(Class::Unreachable))));
    rig.pass(60);
    assert!(rig.lists.is_empty());
}

#[test]
fn a_dry_run_keeps_nothing_not_even_the_rest_of_its_ports() {
    let mut rig = Rig::new();
    rig.list_with(Vec::new());
    let ports = json!([{ "name": "a", "container": 1 }, { "name": "b", "container": 2 }]);
    for n in 0..4 {
        let spec = json!({ "instance_id": "r-1", "image": "alpha", "ports": ports.clone() });
        let id = format!("c{n}");
        rig.command(
            &id,
            json!({ "op": "deploy", "spec": spec, "dry_run": true }),
        );
        assert_eq!(rig.outcomes(&id), [Outcome::Accepted, Outcome::Done]);
    }
}

#[test]
fn a_deploy_joins_the_pull_of_its_image_that_is_under_way() {
    let mut rig = Rig::new();
    rig.list_with(Vec::new());
    rig.command("c0", json!({ "op": "pull_image", "image": "alpha" }));
    rig.deploy("c1", json!({}));
    assert_eq!(rig.fetches.len(), 1);
    rig.fetched();
    assert_eq!(rig.outcomes("c0"), [Outcome::Accepted, Outcome::Done]);
    assert!(matches!(rig.op().1, EngineOp::Create(_)));
}

/// The registry, the time, and what it asked for.
pub(super) struct Rig {
    pub(super) registry: Registry,
    pub(super) now: Now,
    pub(super) ops: VecDeque<(OpId, EngineOp)>,
    lists: Vec<Ticket>,
    fetches: Vec<FetchId>,
    pub(super) replies: Vec<Reply>,
    /// What a look at the GPU shows; `None`: nobody answers.
    pub(super) seen: Option<Reading>,
    /// How often a look was asked for.
    pub(super) looks: u32,
    pub(super) wipes: Vec<GpuUuid>,
}

impl Rig {
    /// A host with one GPU whose engine has not answered yet, and a server that is there.
    pub(super) fn new() -> Self {
        Self::with(options())
    }

    /// The same, where GPUs are wiped.
    pub(super) fn wiping() -> Self {
        let mut options = options();
        options.gpus.wipe = true;
        Self::with(options)
    }

    fn with(options: Options) -> Self {
        let mut rig = Self::before_any_server();
        rig.registry = Registry::new(options);
        rig.list_gpus();
        let server_time = rig.now.wall;
        rig.feed(Input::Connected { server_time });
        rig
    }

    fn before_any_server() -> Self {
        let mut rig = Self {
            registry: Registry::new(options()),
            now: Now {
                wall: Timestamp::from_millis(1_800_000_000_000),
                boot: Duration::from_secs(1_000),
            },
            ops: VecDeque::new(),
            lists: Vec::new(),
            fetches: Vec::new(),
            replies: Vec::new(),
            seen: Some(Reading::of(gpu().uuid)),
            looks: 0,
            wipes: Vec::new(),
        };
        rig.list_gpus();
        rig
    }

    fn list_gpus(&mut self) {
        self.feed(Input::Gpus {
            gpus: vec![gpu().into()],
            complete: true,
        });
    }

    pub(super) fn feed(&mut self, input: Input) {
        let effects = self.registry.handle(input, self.now);
        self.take(effects);
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        let passed = Duration::from_secs(seconds);
        self.now.wall = self.now.wall.plus(passed);
        self.now.boot += passed;
        let effects = self.registry.handle_timeout(self.now);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Engine { id, op, .. } => self.ops.push_back((id, op)),
                Effect::List(ticket) => self.lists.push(ticket),
                Effect::Fetch(id, _) => self.fetches.push(id),
                Effect::Emit(Event::Reply(reply)) => self.replies.push(reply),
                Effect::LookAtGpus => {
                    self.looks += 1;
                    self.look();
                }
                Effect::WipeGpu(uuid) => self.wipes.push(uuid),
                Effect::Emit(_) | Effect::Tell(_) | Effect::CancelFetch(_) => {}
            }
        }
    }

    fn look(&mut self) {
        if let Some(reading) = self.seen.clone() {
            self.feed(Input::GpuReadings(Arc::new(Sampled {
                asked_at: self.now.boot,
                readings: vec![reading],
            })));
        }
    }

    /// The next operation that was asked for.
    fn op(&mut self) -> (OpId, EngineOp) {
        self.ops.pop_front().expect("an operation")
    }

    pub(super) fn answer(&mut self, id: OpId, result: Result<OpOutput, RuntimeError>) {
        let instance = instance();
        self.feed(Input::OpDone(Box::new(OpDone {
            id,
            instance,
            result,
        })));
    }

    /// The rental's GPUs are looked at, and are what the engine says.
    fn see_gpus(&mut self) {
        let (id, op) = self.op();
        assert!(matches!(op, EngineOp::SeeGpus { .. }), "{op:?}");
        let seen = gpus::evidence(Listed::Unasked);
        self.answer(id, Ok(OpOutput::GpusSeen(seen)));
    }

    /// The next operation writes a marker, which the engine takes.
    fn mark(&mut self) -> VolumeLabels {
        let (id, op) = self.op();
        let EngineOp::PutMarker(marker) = op else {
            panic!("a marker is to be written, not {op:?}");
        };
        self.answer(id, Ok(OpOutput::Marked(marker.clone())));
        marker
    }

    /// The engine answers, if it has not yet, and holds these containers and nothing else.
    pub(super) fn list_with(&mut self, containers: Vec<Observed>) {
        self.list_all(containers, Vec::new());
    }

    fn list_all(&mut self, containers: Vec<Observed>, volumes: Vec<VolumeLabels>) {
        if self.lists.is_empty() {
            self.feed(Input::EngineUp {
                facts: Box::new(EngineFacts {
                    security_options: vec!["seccomp".to_owned()],
                    ..EngineFacts::default()
                }),
                disks: Vec::new(),
            });
        }
        let ticket = self.lists.pop().expect("a listing");
        let listing = Listing {
            containers,
            volumes: Some(volumes),
            engine_started_at: Some(Timestamp::from_millis(1_799_999_990_000)),
            network_fault: None,
        };
        self.feed(Input::Listed(ticket, Ok(listing)));
        self.look();
    }

    pub(super) fn command(&mut self, id: &str, mut body: Value) {
        body["type"] = json!("command");
        body["id"] = json!(id);
        match decode(&body.to_string()) {
            Ok(Incoming::Command(command)) => self.feed(Input::Command(command)),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn deploy(&mut self, id: &str, more: Value) {
        let mut spec = json!({ "instance_id": "r-1", "image": "alpha" });
        let fields = spec.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        self.command(id, json!({ "op": "deploy", "spec": spec }));
    }

    /// The rental's container with the labels of an earlier life of this agent.
    fn container(&self, state: ContainerState, detail: Detail) -> Observed {
        let spec = json!({ "instance_id": "r-1", "image": "alpha" });
        Observed {
            id: "a".repeat(64).parse().unwrap(),
            name: "rental-r-1".to_owned(),
            created_at: Timestamp::from_millis(1_799_999_900_000),
            state,
            devices: Vec::new(),
            labels: labels_for(&ContainerFacts {
                agent_id: &"agent-1".parse().unwrap(),
                instance_id: &instance(),
                spec: &spec.to_string(),
                spec_sha256: &crate::protocol::command::spec_hash(&spec),
                command_id: Some(&"c1".parse().unwrap()),
                accepted_at: Timestamp::from_millis(1_799_999_899_000),
                gpus: &[gpu().uuid],
                boot_id: "boot-1",
            }),
            ports: Vec::new(),
            detail: Some(detail),
        }
    }

    /// It ended half a second before the engine's present life began.
    fn exited_by_restart(&self) -> Observed {
        self.container(
            ContainerState::Exited,
            Detail {
                exit_code: 255,
                started_at: Some(Timestamp::from_millis(1_799_999_900_000)),
                finished_at: Some(Timestamp::from_millis(1_799_999_989_500)),
                ..Detail::default()
            },
        )
    }

    /// The marker of a rental that was ready.
    fn lease(&self) -> VolumeLabels {
        let lease = Marker::Lease {
            n: 1,
            ready_at: Timestamp::from_millis(1_799_999_905_000),
            expires_at: None,
            command_ids: Vec::new(),
        };
        lease.encode(&"agent-1".parse().unwrap(), &instance())
    }

    pub(super) fn running(&self) -> Observed {
        self.container(ContainerState::Running, Detail::default())
    }

    pub(super) fn terminate(&mut self, id: &str, more: Value) {
        let mut body = json!({ "op": "terminate", "instance_id": "r-1" });
        let fields = body.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        self.command(id, body);
    }

    /// Lets the engine do all that is asked until the rental has ended.
    fn end(&mut self) {
        while let Some((id, op)) = self.ops.pop_front() {
            let output = match op {
                EngineOp::PutMarker(marker) => OpOutput::Marked(marker),
                EngineOp::Stop { .. } => OpOutput::Stopped,
                EngineOp::Examine { .. } => OpOutput::Examined(None, None),
                EngineOp::Remove { .. } => OpOutput::Removed,
                EngineOp::Verify { .. } => OpOutput::Verified(None, false),
                other => panic!("{other:?}"),
            };
            self.answer(id, Ok(output));
        }
        assert_eq!(self.phase(), Phase::Ended);
    }

    /// The server has stored the end, and no create of an earlier life can show up any more.
    fn settle_and_ack(&mut self) {
        self.feed(Input::Ack(Generation(u64::MAX)));
        let entry = &self.registry.entries[&instance()];
        let names = entry.markers.iter().cloned();
        let volumes: Vec<VolumeLabels> = names
            .map(|name| VolumeLabels {
                name,
                labels: Default::default(),
            })
            .collect();
        for seconds in [2, 8] {
            self.pass(seconds);
            self.list_all(Vec::new(), volumes.clone());
        }
    }

    /// The image that was asked for is there.
    pub(super) fn fetched(&mut self) {
        let fetch = self.fetches.pop().expect("a fetch");
        self.feed(Input::Fetched(fetch, Ok(Default::default())));
    }

    pub(super) fn outcomes(&self, command: &str) -> Vec<Outcome> {
        let of = |reply: &&Reply| reply.command_id.as_str() == command;
        self.replies.iter().filter(of).map(|r| r.outcome).collect()
    }

    pub(super) fn phase(&self) -> Phase {
        self.registry.entries[&instance()].record.phase
    }
}

fn error(class: Class) -> RuntimeError {
    RuntimeError::new("test", "rental-r-1", class, "as the test wants it")
}

pub(super) fn instance() -> InstanceId {
    "r-1".parse().unwrap()
}

pub(super) fn gpu() -> Gpu {
    Gpu {
        memory_bytes: 24 << 30,
        ..Gpu::bare("GPU-00000001".parse().unwrap(), "nvidia")
    }
}

fn options() -> Options {
    Options {
        agent_id: "agent-1".parse().unwrap(),
        host: Host {
            cpus: 8,
            memory_bytes: 64 << 30,
            boot_id: "boot-1".to_owned(),
            ..Host::default()
        },
        address: "203.0.113.7".to_owned(),
        limits: config::ResourceLimits {
            gpus: None,
            reserve_cpus: 0.0,
            reserve_memory_bytes: 0,
            reserve_disk_bytes: 0,
            instances: 6,
            default_cpus: 1.0,
            default_memory_bytes: 1 << 30,
            numa: Default::default(),
            pids_limit: 512,
            log_max_bytes: 1 << 20,
            log_files: 2,
            ulimits: Default::default(),
        },
        policy: config::Policy::default(),
        hardening: Hardening {
            network: "rental-agent".to_owned(),
            pids_limit: 512,
            log_max_bytes: 1 << 20,
            log_files: 2,
            sudo: false,
            ulimits: Vec::new(),
            runtime: None,
            driver_capabilities: String::new(),
        },
        gpu_rules: Default::default(),
        port_range: PortRange {
            first: 30_000,
            last: 30_003,
        },
        gpus: Default::default(),
    }
}

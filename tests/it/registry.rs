//! The registry's rules one by one, over the model's engine and server: each test is a short story
//! with its end. The model's own rules watch each step of it too.

use std::{rc::Rc, time::Duration};

use rental_agent::{
    ids::{CommandId, InstanceId},
    instance::{effect::FetchRequest, publish::Event, registry::Registry},
    protocol::{
        EndReason, ErrorCode, Outcome, Phase, Reply,
        record::{EngineStatus, GpuState, Instance},
    },
    runtime::{ContainerState, Credentials},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::model::{
    deeds::{self, Kind},
    engine::{Fault, Going, Power},
    fixture,
    server::{About, MayReject, SimServer},
    world::World,
};

#[test]
fn terminate_before_deploy_leaves_a_tombstone_and_the_deploy_is_a_conflict() {
    let mut host = Host::calm();
    let terminate = host.terminate("a");
    host.answer_all();
    assert_eq!(
        host.outcomes(&terminate),
        [Outcome::Accepted, Outcome::Done]
    );
    assert_eq!(
        host.last(&terminate).result,
        Some(json!({ "known": false }))
    );
    assert_eq!(host.ended("a"), EndReason::Cancelled);
    let deploy = host.deploy("a", json!({}));
    assert_eq!(host.outcomes(&deploy), [Outcome::Rejected]);
    assert_eq!(host.code(&deploy), ErrorCode::Conflict);
    host.world.crash(0);
    host.wake();
    assert_eq!(
        host.ended("a"),
        EndReason::Cancelled,
        "also in the next life"
    );
}

#[test]
fn terminate_during_pull_cancels_the_pull() {
    let mut host = Host::calm();
    let deploy = host.deploy("a", json!({}));
    host.check(|world| world.fetch_progress(0));
    assert_eq!(host.phase("a"), Phase::Pulling);
    let terminate = host.terminate("a");
    assert!(host.world.fetches.is_empty(), "at once");
    host.answer_all();
    assert_eq!(host.outcomes(&deploy), [Outcome::Accepted, Outcome::Failed]);
    assert_eq!(host.code(&deploy), ErrorCode::Cancelled);
    assert_eq!(
        host.outcomes(&terminate),
        [Outcome::Accepted, Outcome::Done]
    );
    assert_eq!(host.ended("a"), EndReason::Terminated);
    assert!(host.world.engine.containers.is_empty());
}

#[test]
fn a_pull_that_others_wait_for_goes_on_without_the_terminated_one() {
    let mut host = Host::calm();
    host.deploy("a", json!({}));
    let other = host.deploy("b", json!({}));
    assert_eq!(host.world.fetches.len(), 1, "one for both");
    host.terminate("a");
    assert_eq!(host.world.fetches.len(), 1);
    host.answer_all();
    assert_eq!(host.outcomes(&other), [Outcome::Accepted, Outcome::Done]);
    assert_eq!(host.ended("a"), EndReason::Terminated);
}

#[test]
fn an_equal_deploy_is_already_and_ends_like_the_first() {
    let mut host = Host::calm();
    let first = host.deploy("a", json!({}));
    let second = host.deploy("a", json!({}));
    let other = host.deploy("a", json!({ "cpus": 2 }));
    assert_eq!(host.outcomes(&second), [Outcome::Already]);
    assert_eq!(host.outcomes(&other), [Outcome::Rejected]);
    assert_eq!(host.code(&other), ErrorCode::Conflict);
    host.answer_all();
    assert_eq!(host.outcomes(&first), [Outcome::Accepted, Outcome::Done]);
    assert_eq!(host.outcomes(&second), [Outcome::Already, Outcome::Done]);
    assert_eq!(host.last(&first).result, host.last(&second).result);
}

#[test]
fn a_command_that_comes_too_late_is_not_begun_but_a_known_id_is_terminated_all_the_same() {
    let mut host = Host::calm();
    let past = json!(fixture::epoch_start().to_string());
    let id = name("a");
    let body = json!({ "op": "deploy", "not_after": past, "spec": spec("a", json!({})) });
    let late = host.send(About::Deploy(id), body);
    assert_eq!(host.code(&late), ErrorCode::DeadlineExceeded);
    let mut body = SimServer::terminate(&name("b"));
    body["not_after"] = past.clone();
    let unknown = host.send(About::Terminate(name("b"), MayReject::Late), body);
    assert_eq!(host.code(&unknown), ErrorCode::DeadlineExceeded);
    host.ready("c", json!({}));
    let mut body = SimServer::terminate(&name("c"));
    body["not_after"] = past;
    let known = host.send(About::Terminate(name("c"), MayReject::Late), body);
    host.answer_all();
    assert_eq!(host.outcomes(&known), [Outcome::Accepted, Outcome::Done]);
}

#[test]
fn commands_before_the_first_listing_wait_for_it_and_are_done_then() {
    let mut host = Host::new();
    host.check(World::connect);
    let deploy = host.deploy("a", json!({}));
    let terminate = host.terminate("b");
    host.pass(4_900);
    assert!(host.outcomes(&deploy).is_empty() && host.outcomes(&terminate).is_empty());
    host.check(World::notice);
    host.answer_all();
    assert_eq!(host.outcomes(&deploy), [Outcome::Accepted, Outcome::Done]);
    assert_eq!(
        host.outcomes(&terminate),
        [Outcome::Accepted, Outcome::Done]
    );
}

#[test]
fn after_five_seconds_without_a_listing_a_deploy_is_refused_and_a_terminate_accepted() {
    let mut host = Host::new();
    host.check(World::connect);
    let deploy = host.deploy("a", json!({}));
    let terminate = host.terminate("b");
    host.pass(5_000);
    assert_eq!(host.outcomes(&deploy), [Outcome::Rejected]);
    assert_eq!(host.code(&deploy), ErrorCode::EngineUnavailable);
    assert_eq!(host.outcomes(&terminate), [Outcome::Accepted]);
    host.check(World::notice);
    host.answer_all();
    assert_eq!(
        host.outcomes(&terminate),
        [Outcome::Accepted, Outcome::Done]
    );
    assert_eq!(host.ended("b"), EndReason::Cancelled);
}

#[test]
fn while_the_engine_is_away_deploys_are_refused_and_terminates_finished_later() {
    let mut host = Host::calm();
    host.ready("a", json!({}));
    host.engine_goes(Going::Alone);
    let deploy = host.deploy("b", json!({}));
    assert_eq!(host.code(&deploy), ErrorCode::EngineUnavailable);
    let terminate = host.terminate("a");
    assert_eq!(host.outcomes(&terminate), [Outcome::Accepted]);
    host.pass(60_000);
    assert!(host.world.flights.is_empty(), "nothing is asked of it");
    assert_eq!(host.phase("a"), Phase::Ending);
    host.engine_comes();
    assert_eq!(
        host.outcomes(&terminate),
        [Outcome::Accepted, Outcome::Done]
    );
    assert!(host.world.engine.containers.is_empty());
}

#[test]
fn f24_a_removal_that_somebody_else_has_begun_or_finished_is_as_good_as_ours() {
    let mut host = Host::calm();
    host.ready("a", json!({ "gpus": { "count": 1 } }));
    let terminate = host.terminate("a");
    host.answer_until(Kind::Remove);
    let at = host.world.wall();
    let container = host.world.container_of(&name("a")).unwrap();
    if let Some(container) = host.world.engine.containers.get_mut(&container) {
        container.state = ContainerState::Removing;
    }
    host.answer_next(Fault::Failed);
    host.pass(30_000);
    assert_eq!(host.gpu_state(0), GpuState::Held, "it is still there");
    host.world.engine.destroy(&container, at);
    host.pass(30_000);
    host.answer_all();
    assert_eq!(
        host.outcomes(&terminate),
        [Outcome::Accepted, Outcome::Done]
    );
    assert_eq!(host.gpu_state(0), GpuState::Available);
}

#[test]
fn f25_a_container_removed_behind_our_back_is_lost_and_what_it_had_is_free() {
    for noticed in [true, false] {
        let mut host = Host::calm();
        host.ready(
            "a",
            json!({ "gpus": { "count": 1 }, "ports": [{ "name": "p", "container": 1 }] }),
        );
        let container = host.world.container_of(&name("a")).unwrap();
        let at = host.world.wall();
        host.excuse("a");
        host.world.engine.destroy(&container, at);
        if !noticed {
            host.world.engine.events.clear();
            host.pass(30_000);
        }
        host.answer_all();
        assert_eq!(host.ended("a"), EndReason::Lost);
        assert_eq!(host.gpu_state(0), GpuState::Available);
        assert_eq!(host.world.snapshot().occupied.instances, 0);
    }
}

#[test]
fn f26_a_container_paused_by_its_host_s_administrator_is_a_condition() {
    let mut host = Host::calm();
    host.ready("a", json!({}));
    for (state, paused) in [
        (ContainerState::Paused, true),
        (ContainerState::Running, false),
    ] {
        let container = host.world.container_of(&name("a")).unwrap();
        if let Some(container) = host.world.engine.containers.get_mut(&container) {
            container.state = state;
        }
        host.pass(30_000);
        host.answer_all();
        assert_eq!(host.phase("a"), Phase::Ready);
        let conditions = &host.record("a").conditions;
        assert_eq!(
            conditions.iter().any(|c| c.kind == "paused"),
            paused,
            "{conditions:?}"
        );
    }
}

#[test]
fn f26_a_container_restarted_by_hand_goes_on_and_a_stopped_one_has_ended() {
    let mut host = Host::calm();
    host.ready("a", json!({}));
    host.excuse("a");
    let container = host.world.container_of(&name("a")).unwrap();
    let at = host.world.wall();
    host.hint_kill("a");
    host.world.engine.exit(&container, 137, false, at);
    host.answer_all();
    assert_eq!(host.phase("a"), Phase::Ready, "not believed yet");
    host.world.engine.start_by_hand(&container, at);
    host.pass(3_000);
    host.answer_all();
    assert_eq!(host.phase("a"), Phase::Ready);
    assert_eq!(host.record("a").container_id, Some(container.clone()));
    host.hint_kill("a");
    host.world.engine.exit(&container, 143, false, at);
    host.answer_all();
    host.pass(3_000);
    host.answer_all();
    assert_eq!(host.ended("a"), EndReason::Exited);
    assert_eq!(
        host.record("a").ended.as_ref().unwrap().exit_code,
        Some(143)
    );
}

#[test]
fn f26_a_renamed_container_is_no_longer_ours_and_keeps_its_gpu() {
    let mut host = Host::calm();
    host.ready("a", json!({ "gpus": { "uuids": [fixture::gpu_uuid(0)] } }));
    host.excuse("a");
    let container = host.world.container_of(&name("a")).unwrap();
    if let Some(container) = host.world.engine.containers.get_mut(&container) {
        container.name = "mine".to_owned();
    }
    host.pass(30_000);
    host.answer_all();
    assert_eq!(host.ended("a"), EndReason::Lost);
    assert!(
        host.world.engine.containers.contains_key(&container),
        "left alone"
    );
    assert_eq!(host.gpu_state(0), GpuState::BusyExternal);
    let deploy = host.deploy("b", json!({ "gpus": { "uuids": [fixture::gpu_uuid(0)] } }));
    assert_eq!(host.code(&deploy), ErrorCode::GpuUnavailable);
}

#[test]
fn f34_a_port_that_a_stranger_has_is_replaced_by_another() {
    let mut host = Host::calm();
    host.excuse("a");
    let deploy = host.deploy("a", json!({ "ports": [{ "name": "p", "container": 80 }] }));
    let first = host.record("a").ports[0].host;
    host.answer_until(Kind::Start);
    host.answer_next(Fault::PortTaken);
    host.answer_all();
    assert_eq!(host.outcomes(&deploy), [Outcome::Accepted, Outcome::Done]);
    let port = host.record("a").ports[0].host;
    assert_ne!(port, first);
    let container = host.world.container_of(&name("a")).unwrap();
    assert_eq!(host.world.engine.containers[&container].ports[0].host, port);
}

#[test]
fn f34_a_host_whose_ports_are_all_taken_fails_the_deploy_by_that_name() {
    let mut host = Host::calm();
    host.excuse("a");
    let deploy = host.deploy("a", json!({ "ports": [{ "name": "p", "container": 80 }] }));
    for port in 0..fixture::PORTS {
        let port = (fixture::FIRST_PORT + port, Default::default());
        host.world.engine.bound.insert(port);
    }
    host.answer_all();
    assert_eq!(host.outcomes(&deploy), [Outcome::Accepted, Outcome::Failed]);
    assert_eq!(host.code(&deploy), ErrorCode::PortUnavailable);
    assert!(host.world.engine.containers.is_empty());
}

#[test]
fn f35_of_two_deploys_for_one_gpu_one_wins_before_anything_is_pulled() {
    let mut host = Host::calm();
    let gpu = json!({ "gpus": { "uuids": [fixture::gpu_uuid(2)] } });
    let first = host.deploy("a", gpu.clone());
    let second = host.deploy("b", gpu);
    assert_eq!(host.outcomes(&first), [Outcome::Accepted]);
    assert_eq!(host.code(&second), ErrorCode::GpuUnavailable);
    let all: Vec<Value> = (1..fixture::PORTS)
        .map(|n| json!({ "name": format!("p{n}"), "container": n }))
        .collect();
    let first = host.deploy("c", json!({ "ports": all }));
    let second = host.deploy(
        "d",
        json!({ "ports": [{ "name": "x", "container": 1 }, { "name": "y", "container": 2 }] }),
    );
    assert_eq!(host.outcomes(&first), [Outcome::Accepted]);
    assert_eq!(host.code(&second), ErrorCode::PortUnavailable);
    assert_eq!(
        host.world.snapshot().occupied.instances,
        2,
        "nothing of the losers is kept"
    );
}

#[test]
fn f36_a_gpu_is_free_only_when_the_container_is_verified_gone() {
    let mut host = Host::calm();
    host.ready("a", json!({ "gpus": { "count": 1 } }));
    host.terminate("a");
    for kind in [
        Kind::Stop,
        Kind::Examine,
        Kind::MarkEnded,
        Kind::Remove,
        Kind::Verify,
    ] {
        host.answer_until(kind);
        assert_eq!(host.gpu_state(0), GpuState::Held, "before {kind:?}");
    }
    host.answer_next(Fault::ProcessLeft);
    assert_eq!(host.gpu_state(0), GpuState::Held, "its process is left");
    assert!(
        host.record("a")
            .conditions
            .iter()
            .any(|c| c.kind == "stuck_stopping")
    );
    host.world.engine.left.clear();
    host.pass(5_000);
    host.answer_all();
    assert_eq!(host.gpu_state(0), GpuState::Available);
    assert_eq!(host.phase("a"), Phase::Ended);
}

#[test]
fn f54_a_command_sent_a_hundred_times_is_done_once_and_answered_alike() {
    let mut host = Host::calm();
    let deploy = host.deploy("a", json!({}));
    for _ in 0..50 {
        host.repeat(&deploy);
    }
    host.answer_all();
    let done = host.last(&deploy);
    for _ in 0..50 {
        host.repeat(&deploy);
        assert_eq!(host.last(&deploy), done);
    }
    assert_eq!(host.world.engine.containers.len(), 1);
    let outcomes = host.outcomes(&deploy);
    assert_eq!(
        outcomes.iter().filter(|o| **o == Outcome::Accepted).count(),
        51
    );
    assert_eq!(outcomes.iter().filter(|o| **o == Outcome::Done).count(), 51);
}

#[test]
fn f55_a_terminate_wins_at_every_stage_of_a_deploy() {
    let stages = [
        Kind::Create,
        Kind::Holders,
        Kind::Start,
        Kind::SeeGpus,
        Kind::MarkReady,
        Kind::Inspect,
    ];
    for stage in stages {
        for fault in [Fault::None, Fault::DoneUnknown, Fault::LostUnknown] {
            let mut host = Host::calm();
            let deploy = host.deploy("a", json!({ "gpus": { "count": 1 } }));
            host.answer_until(stage);
            let terminate = host.terminate("a");
            host.answer_next(fault);
            host.settle();
            assert_eq!(
                host.last(&terminate).outcome,
                Outcome::Done,
                "{stage:?} {fault:?}"
            );
            assert_eq!(host.last(&deploy).error.unwrap().code, ErrorCode::Cancelled);
            assert!(
                host.world.engine.containers.is_empty(),
                "{stage:?} {fault:?}"
            );
            assert_eq!(host.gpu_state(0), GpuState::Available);
        }
    }
}

#[test]
fn f55_a_terminate_after_the_end_changes_nothing_and_is_done() {
    let mut host = Host::calm();
    host.ready("a", json!({}));
    host.excuse("a");
    let container = host.world.container_of(&name("a")).unwrap();
    let at = host.world.wall();
    host.world.engine.exit(&container, 3, false, at);
    host.answer_all();
    assert_eq!(host.ended("a"), EndReason::Exited);
    let before = host.record("a");
    let terminate = host.terminate("a");
    assert_eq!(
        host.outcomes(&terminate),
        [Outcome::Accepted, Outcome::Done]
    );
    assert_eq!(host.last(&terminate).result, Some(json!({ "known": true })));
    assert_eq!(
        host.record("a"),
        before,
        "the first decision gives the reason"
    );
}

#[test]
fn f56_an_ack_of_an_older_state_forgets_nothing() {
    let mut host = Host::calm();
    host.ready("a", json!({}));
    host.check(|world| world.read(usize::MAX));
    host.terminate("a");
    host.answer_all();
    host.check(World::ack);
    host.pass(60_000);
    host.answer_all();
    assert_eq!(host.ended("a"), EndReason::Terminated, "kept");
    assert!(host.world.engine.has_volume("rental-a.ended"));
    host.check(|world| world.read(usize::MAX));
    host.check(World::ack);
    host.answer_all();
    assert!(host.world.snapshot().instances.is_empty());
    assert!(host.world.engine.volumes.is_empty());
}

#[test]
fn f57_a_reply_that_was_lost_is_said_again_in_the_next_session_and_the_next_life() {
    let mut host = Host::calm();
    let deploy = host.deploy("a", json!({}));
    host.check(World::disconnect);
    host.answer_all();
    host.check(World::connect);
    assert_eq!(host.last(&deploy).outcome, Outcome::Done);
    host.check(World::disconnect);
    host.world.crash(0);
    host.wake();
    assert_eq!(
        host.outcomes(&deploy),
        [Outcome::Done],
        "as the engine's markers tell"
    );
    assert_eq!(host.world.engine.containers.len(), 1);
}

#[test]
fn a_pull_that_waits_goes_on_with_the_newest_credentials() {
    let password = |request: &FetchRequest| match request.auth.as_ref() {
        Some(Credentials::Password { password, .. }) => password.expose_secret().to_owned(),
        other => panic!("{other:?}"),
    };
    let mut host = Host::calm();
    let auth = |password: &str| json!({ "registry_auth": { "username": "u", "password": password }, "pull": "always" });
    host.deploy("a", auth("stale"));
    for newest in ["stale", "newer"] {
        let again = host.deploy("a", auth(newest));
        assert_eq!(host.outcomes(&again), [Outcome::Already]);
        let fetches: Vec<String> = host.world.fetches.values().map(password).collect();
        assert_eq!(fetches, [newest]);
    }
    host.answer_all();
    assert_eq!(host.phase("a"), Phase::Ready);
}

#[test]
fn f21_an_end_while_the_engine_is_silent_is_the_tenants_own() {
    let mut host = Host::calm();
    host.ready("a", json!({}));
    host.excuse("a");
    host.world.engine.power = Power::Hung;
    host.check(World::notice);
    host.pass(20_000);
    let container = host.world.container_of(&name("a")).unwrap();
    let at = host.world.wall();
    host.world.engine.exit(&container, 0, false, at);
    host.pass(1_000);
    host.world.engine.power = Power::Up;
    host.check(World::notice);
    host.answer_all();
    assert_eq!(host.ended("a"), EndReason::Exited);
    assert_eq!(host.record("a").restarts, 0);
    let timeline = host.record("a").timeline;
    assert!(timeline.ending_at <= timeline.ended_at, "{timeline:?}");
}

#[test]
fn a_marker_whose_name_somebody_else_has_ends_nothing_and_is_left_alone() {
    let mut host = Host::calm();
    host.ready("a", json!({}));
    host.check(|world| world.read(usize::MAX));
    let labels = [("com.docker.compose.project".to_owned(), "x".to_owned())];
    let volumes = &mut host.world.engine.volumes;
    volumes.insert("rental-a.ended".to_owned(), labels.into());
    host.check(World::disconnect);
    host.world.crash(0);
    host.wake();
    assert_eq!(host.phase("a"), Phase::Ready);
    assert!(host.world.engine.has_volume("rental-a.ended"));
}

/// Two of an earlier life run, one of them to be ended by its marker, and a third has exited.
#[test]
fn while_markers_cannot_be_read_what_runs_is_running_and_nothing_else_is_said() {
    let mut host = Host::calm();
    host.ready("a", json!({ "gpus": { "count": 1 } }));
    host.ready("b", json!({}));
    host.ready("c", json!({}));
    host.excuse("c");
    let at = host.world.wall();
    let exited = host.world.container_of(&name("c")).unwrap();
    host.terminate("b");
    host.answer_until(Kind::Stop);
    host.world.crash(0);
    host.world.engine.exit(&exited, 3, false, at);
    let gpus = (0..fixture::GPUS).map(fixture::gpu).collect();
    host.check(|world| world.gpus(gpus, true));
    host.check(World::notice);
    host.check(World::connect);
    for _ in 0..3 {
        host.check(World::answer_list_without_markers);
        host.pass(1_000);
        let told = host.world.rules.view.keys().cloned().collect::<Vec<_>>();
        assert_eq!(told, [name("a"), name("b")]);
        assert_eq!(host.phase("a"), Phase::Running);
        assert_eq!(host.phase("b"), Phase::Running);
        assert!(!host.world.rules.synced);
        assert!(host.world.flights.is_empty(), "nothing is asked of it");
        assert_eq!(host.world.snapshot().status.engine, EngineStatus::Degraded);
    }
    host.answer_all();
    assert!(host.world.rules.synced);
    assert_eq!(host.phase("a"), Phase::Ready);
    assert_eq!(host.gpu_state(0), GpuState::Held);
    assert_eq!(host.ended("b"), EndReason::Terminated);
    assert_eq!(host.ended("c"), EndReason::Exited);
}

#[test]
fn what_vanishes_while_markers_cannot_be_read_is_lost() {
    let mut host = Host::calm();
    host.ready("a", json!({ "gpus": { "count": 1 } }));
    host.excuse("a");
    host.check(|world| world.read(usize::MAX));
    host.world.crash(0);
    let container = host.world.container_of(&name("a")).unwrap();
    let at = host.world.wall();
    host.check(World::notice);
    host.check(World::connect);
    host.check(World::answer_list_without_markers);
    assert_eq!(host.phase("a"), Phase::Running);
    host.world.engine.destroy(&container, at);
    host.pass(1_000);
    host.answer_all();
    assert_eq!(host.ended("a"), EndReason::Lost);
}

/// A host on which a test tells what happens.
struct Host {
    world: World,
}

impl Host {
    /// One that has just started: nothing is known, nobody is connected.
    fn new() -> Self {
        let world = World::new(Rc::new(|options| Box::new(Registry::new(options))), true);
        Self { world }
    }

    /// One that is connected and listed.
    fn calm() -> Self {
        let mut host = Self::new();
        host.check(|world| world.begin(true));
        host
    }

    fn check<T>(
        &mut self,
        step: impl FnOnce(&mut World) -> Result<T, crate::model::rules::Violation>,
    ) -> T {
        step(&mut self.world).unwrap_or_else(|broken| panic!("{}: {}", broken.rule, broken.detail))
    }

    fn send(&mut self, about: About, body: Value) -> CommandId {
        self.check(|world| world.send(about, body)).id
    }

    fn deploy(&mut self, id: &str, more: Value) -> CommandId {
        let body = json!({ "op": "deploy", "spec": spec(id, more) });
        self.send(About::Deploy(name(id)), body)
    }

    fn terminate(&mut self, id: &str) -> CommandId {
        let body = SimServer::terminate(&name(id));
        self.send(About::Terminate(name(id), MayReject::Never), body)
    }

    fn repeat(&mut self, id: &CommandId) {
        let sent = self.world.server.find(id).unwrap().clone();
        self.check(|world| world.deliver(&sent));
    }

    /// Deploys, and brings it up.
    fn ready(&mut self, id: &str, more: Value) {
        self.deploy(id, more);
        self.answer_all();
        assert_eq!(self.phase(id), Phase::Ready);
    }

    fn answer_all(&mut self) {
        self.check(World::answer_all);
    }

    /// Answers what is in flight, oldest first, until an operation of this kind is next.
    fn answer_until(&mut self, kind: Kind) {
        for _ in 0..20 {
            let next = self
                .world
                .flights
                .first()
                .map(|flight| deeds::kind(&flight.op));
            if next == Some(kind) {
                return;
            }
            match next {
                Some(_) => self.answer_next(Fault::None),
                None => self.check(|world| world.fetch_done(0, Ok(()))),
            }
        }
        panic!("{kind:?} never comes; in flight: {:?}", self.world.flights);
    }

    fn answer_next(&mut self, fault: Fault) {
        self.check(|world| world.answer(0, fault));
    }

    fn pass(&mut self, ms: u64) {
        let until = self.world.clock + Duration::from_millis(ms);
        while self.world.clock < until {
            let next = self
                .world
                .next_timeout()
                .unwrap_or(until)
                .clamp(self.world.clock, until);
            let step = (next - self.world.clock).max(Duration::from_millis(1));
            self.check(|world| world.pass(step));
            if self.world.rules.visible {
                self.answer_all();
            }
        }
    }

    /// A minute passes, with a server that reads and acks.
    fn settle(&mut self) {
        self.check(|world| world.settle(Duration::from_secs(60)));
    }

    fn wake(&mut self) {
        let gpus = (0..fixture::GPUS).map(fixture::gpu).collect();
        self.check(|world| world.gpus(gpus, true));
        self.check(World::notice);
        self.check(World::connect);
        self.answer_all();
    }

    fn engine_goes(&mut self, going: Going) {
        self.check(|world| world.engine_down(going));
        self.check(World::notice);
    }

    fn engine_comes(&mut self) {
        self.check(World::engine_up);
        self.check(World::notice);
        self.answer_all();
    }

    /// The event of a signal that somebody sends.
    fn hint_kill(&mut self, id: &str) {
        let at = self.world.wall();
        let event = rental_agent::runtime::ContainerEvent {
            name: format!("rental-{id}"),
            action: "kill".to_owned(),
            at,
        };
        self.world.engine.events.push_back(event);
    }

    /// What happens to it from outside may end it.
    fn excuse(&mut self, id: &str) {
        self.world.rules.excused.insert(name(id));
    }

    fn record(&self, id: &str) -> Instance {
        let records = self.world.snapshot().instances;
        let record = records.iter().find(|record| record.id == name(id));
        Instance::clone(record.unwrap_or_else(|| panic!("no record of {id}")))
    }

    fn phase(&self, id: &str) -> Phase {
        self.record(id).phase
    }

    fn ended(&self, id: &str) -> EndReason {
        let record = self.record(id);
        assert_eq!(record.phase, Phase::Ended, "{record:?}");
        record.ended.unwrap().reason
    }

    fn gpu_state(&self, n: usize) -> GpuState {
        self.world.snapshot().gpus[n].state
    }

    /// All replies to a command that this session's server has not read yet.
    fn replies(&self, id: &CommandId) -> Vec<Reply> {
        let unread = &self.world.link.as_ref().unwrap().unread;
        let replies = unread.iter().filter_map(|event| match event {
            Event::Reply(reply) if reply.command_id == *id => Some(reply.clone()),
            _ => None,
        });
        replies.collect()
    }

    fn outcomes(&self, id: &CommandId) -> Vec<Outcome> {
        self.replies(id).iter().map(|reply| reply.outcome).collect()
    }

    fn last(&self, id: &CommandId) -> Reply {
        self.world
            .rules
            .replies
            .get(id)
            .unwrap_or_else(|| panic!("no reply to {id}"))
            .clone()
    }

    fn code(&self, id: &CommandId) -> ErrorCode {
        self.last(id)
            .error
            .unwrap_or_else(|| panic!("no error in the reply to {id}"))
            .code
    }
}

fn name(id: &str) -> InstanceId {
    id.parse().unwrap()
}

/// The smallest spec, and more.
fn spec(id: &str, more: Value) -> Value {
    let mut spec = json!({ "instance_id": id, "image": fixture::IMAGES[0] });
    let (Some(spec_fields), Value::Object(more)) = (spec.as_object_mut(), more) else {
        panic!("a spec is an object");
    };
    spec_fields.extend(more);
    spec
}

//! PROTOCOL's "A start", line by line: a new agent process rebuilds everything from the engine and
//! finishes what was cut short. What can be shown on the shared engine; where the engine itself is
//! harmed, see `engine_faults`.

mod held;
mod markers;
mod own_engine;

use std::time::Duration;

use bollard::models::HostConfig;
use rental_agent::protocol::{EndReason, ErrorCode, Outcome, Phase};
use serde_json::json;

use crate::world::{
    LATER, SOON, Spec, World, container_name, ignores_term, serves_http, sleeps, wait_for,
    when_woken,
};

/// P1, F5.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_rental_does_not_notice_that_the_agent_was_killed() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world
        .spec(&serves_http())
        .port("web", 80)
        .with("labels", json!({ "order": "17" }));
    let (id, before) = world.deploy_ready(&spec).await;
    let seen = world.running(&id).await;
    for _ in 0..3 {
        world.restart_agent().await;
        let after = world.wait_phase(&id, Phase::Ready).await;
        assert!(after.recovered);
        assert_eq!(after.container_id, before.container_id);
        assert_eq!(after.ports, before.ports);
        assert_eq!(after.labels, before.labels);
        assert_eq!(
            (after.cpus, after.memory_bytes),
            (before.cpus, before.memory_bytes)
        );
        assert_eq!(after.spec_sha256, before.spec_sha256);
        assert_eq!(after.timeline.ready_at, before.timeline.ready_at);
        assert_eq!(after.restarts, 0);
        let now = world.running(&id).await;
        assert_eq!(
            (&now.id, now.pid, &now.started_at),
            (&seen.id, seen.pid, &seen.started_at)
        );
    }
    assert_eq!(world.get(before.ports[0].host).await, "hello\n");
    // What it holds is still reserved.
    let hello = world.server.agent_view().unwrap().hello.unwrap();
    assert_eq!(hello.occupied.instances, 1);
    world.terminate(&id).await;
    world.assert_clean().await;
}

/// F1.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_command_is_read_leaves_one_container_in_the_end() {
    let mut world = World::shared().await;
    world.up().await;
    world.pause_agent();
    let (id, ticket) = world.deploy(&world.sleeper());
    world.restart_agent().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    assert_eq!(world.containers().await, [container_name(&id)]);
}

/// F1, F2.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_right_after_the_command_was_accepted_leaves_one_container_in_the_end() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, ticket) = world.deploy(&world.sleeper());
    world.server.wait_reply(&ticket, SOON).await.unwrap();
    world.restart_agent().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    assert_eq!(world.containers().await, [container_name(&id)]);
    world.terminate(&id).await;
    world.assert_clean().await;
}

/// F6.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_within_the_grace_does_not_begin_the_grace_anew() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world
        .deploy_ready(&world.spec(&ignores_term()).grace_s(6.0))
        .await;
    let ticket = world.server.terminate(&id).unwrap();
    world.server.wait_reply(&ticket, SOON).await.unwrap();
    let markers = world.markers(&id).await;
    let kill_at = &markers["ending"]["rental-agent.kill-at"];
    let kill_at: rental_agent::clock::Timestamp = kill_at.parse().unwrap();
    world.restart_agent().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    assert_eq!(record.ended.unwrap().exit_code, Some(137));
    let late = record.timeline.ended_at.unwrap().since(kill_at);
    assert!(
        late < Duration::from_secs(5),
        "{late:?} after the first kill-at"
    );
    world.assert_clean().await;
}

/// F7.
#[tokio::test(flavor = "multi_thread")]
async fn an_exit_while_no_agent_ran_is_reported_with_its_code() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.spec(&when_woken("echo bye; exit 9"));
    let (id, _) = world.deploy_ready(&spec).await;
    world.kill_agent();
    world.wake(&id).await;
    world.wait_state(&id, "exited").await;
    world.up().await;
    let record = world.wait_ended(&id, EndReason::Exited).await;
    let ended = record.ended.unwrap();
    assert_eq!(ended.exit_code, Some(9));
    assert!(ended.log_tail.unwrap().contains("bye"));
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_given_while_no_agent_ran_is_done_by_the_next_one() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    let ticket = world.server.terminate(&id).unwrap();
    world.up().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    world.wait_ended(&id, EndReason::Terminated).await;
    assert!(world.container(&id).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_rental_is_adopted_and_says_that_it_is_paused() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    world
        .docker
        .pause_container(&container_name(&id))
        .await
        .unwrap();
    world.up().await;
    let is_paused = |record: &rental_agent::protocol::Instance| {
        record
            .conditions
            .iter()
            .any(|condition| condition.kind == "paused")
    };
    let record = world
        .server
        .wait_instance(&id, is_paused, LATER)
        .await
        .unwrap();
    assert_eq!(record.phase, Phase::Ready);
    assert_eq!(world.container(&id).await.unwrap().state, "paused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_shows_up_late_is_adopted_and_started() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.restart_agent().await;
    let late = world.instance_id();
    world.twin(&id, &late).await;
    let record = world.wait_phase(&late, Phase::Ready).await;
    assert!(record.recovered);
    world.running(&late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_shows_up_late_is_removed_when_its_end_was_decided() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.restart_agent().await;
    let late = world.instance_id();
    world.terminate(&late).await;
    world.twin(&id, &late).await;
    world.wait_gone(&late).await;
    world.wait_ended(&late, EndReason::Cancelled).await;
    assert!(!world.phases(&late).contains(&"running".to_owned()));
    world.running(&id).await;
}

/// F11: written by a version that is newer than this one.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_left_alone_and_its_ports_stay_taken() {
    let mut world = World::shared().await;
    let port = world.first_port();
    world.set_env(
        "RENTAL_AGENT__NETWORK__PORT_RANGE",
        format!("{port}-{port}"),
    );
    let id = world.instance_id();
    let labels = json!({
        "rental-agent.schema": "2",
        "rental-agent.agent-id": world.agent_id(),
        "rental-agent.instance-id": id,
        "rental-agent.gpus": "GPU-0",
    });
    let host = crate::world::publishes(port);
    let before = world.stranger(&container_name(&id), labels, host).await;
    world.up().await;
    let (_, error) = world.deploy_failed(&world.sleeper().port("web", 80)).await;
    let codes = [ErrorCode::PortUnavailable, ErrorCode::InsufficientResources];
    assert!(codes.contains(&error.code), "{error:?}");
    assert_eq!(world.server.instance(&id), None);
    let after = world.running(&id).await;
    assert_eq!((after.id, after.started_at), (before.id, before.started_at));
}

/// F37: a container is ours only when name, agent id and instance id agree.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_only_claims_to_be_ours_is_left_alone() {
    let mut world = World::shared().await;
    let (claimed, other) = (world.instance_id(), world.instance_id());
    let labels = json!({
        "rental-agent.schema": "1",
        "rental-agent.agent-id": world.agent_id(),
        "rental-agent.instance-id": claimed,
        "rental-agent.spec": "{}",
        "rental-agent.spec-sha256": "0".repeat(64),
        "rental-agent.command-id": "forged",
        "rental-agent.accepted-at": "2026-01-01T00:00:00.000Z",
        "rental-agent.gpus": "",
        "rental-agent.boot-id": "",
    });
    let names = [world.stranger_name("forged"), container_name(&other)];
    for name in &names {
        let host = HostConfig::default();
        world.stranger(name, labels.clone(), host).await;
    }
    world.up().await;
    world.terminate(&claimed).await;
    assert_eq!(world.server.instance(&other), None);
    for name in &names {
        assert_eq!(world.container_named(name).await.unwrap().state, "running");
    }
    // The name is taken all the same.
    let (_, error) = world
        .deploy_failed(&Spec::new(&other, &world.image, &sleeps()))
        .await;
    assert_eq!(error.code, ErrorCode::Conflict, "{error:?}");
    let seen = world.container_named(&names[1]).await.unwrap();
    assert_eq!(seen.state, "running");
}

/// F14.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_of_the_same_id_stays_passive_until_the_first_is_gone() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let sessions = world.server.session();
    let mut second = world.spawn_rival();
    wait_for("the second agent to say why it waits", SOON, || {
        world.log().contains("another agent")
    })
    .await;
    world.wait_heartbeats(3).await;
    assert_eq!(world.server.session(), sessions, "the second agent dialled");
    assert!(second.ended().is_none(), "it waits");
    world.kill_agent();
    world.wait_up(LATER).await;
    assert!(world.wait_phase(&id, Phase::Ready).await.recovered);
    second.kill();
}

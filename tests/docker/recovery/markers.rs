//! Markers as crashes, strangers and other lives leave them.

use rental_agent::protocol::{EndReason, ErrorCode, Outcome, Phase};

use crate::world::{World, ignores_term};

/// A rental that runs, and no agent.
async fn abandoned(world: &mut World) -> rental_agent::ids::InstanceId {
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_without_labels_is_a_decision_to_end() {
    let mut world = World::shared().await;
    let id = abandoned(&mut world).await;
    world.put_marker(&id, "ending", &[]).await;
    world.up().await;
    world.wait_ended(&id, EndReason::Interrupted).await;
    assert!(world.container(&id).await.is_none());
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_without_labels_beside_a_container_removes_the_container() {
    let mut world = World::shared().await;
    let id = abandoned(&mut world).await;
    world.put_marker(&id, "ended", &[]).await;
    world.up().await;
    let record = world.wait_phase(&id, Phase::Ended).await;
    assert!(record.ended.is_some());
    assert!(world.container(&id).await.is_none());
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_without_labels_gets_the_reason_of_the_terminate_that_comes_again() {
    let mut world = World::shared().await;
    let id = abandoned(&mut world).await;
    world.put_marker(&id, "ending", &[]).await;
    let ticket = world.server.terminate(&id).unwrap();
    world.up().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    let record = world.wait_phase(&id, Phase::Ended).await;
    let reason = record.ended.unwrap().reason;
    assert!(
        matches!(reason, EndReason::Interrupted | EndReason::Terminated),
        "{reason:?}"
    );
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_labels_is_made_anew() {
    let mut world = World::shared().await;
    let id = abandoned(&mut world).await;
    world.remove_marker(&id, "lease.1").await;
    world.put_marker(&id, "lease.1", &[]).await;
    world.up().await;
    let record = world.wait_phase(&id, Phase::Ready).await;
    let markers = world.markers(&id).await;
    let ready_at = &markers["lease.1"]["rental-agent.ready-at"];
    assert_eq!(*ready_at, record.timeline.ready_at.unwrap().to_string());
}

/// As after a `docker volume prune` while the agent runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_somebody_deletes_is_made_anew() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, record) = world.deploy_ready(&world.sleeper()).await;
    world.remove_marker(&id, "lease.1").await;
    // By the list 2 s or 10 s after the start.
    let markers = world.wait_marker(&id, "lease.1").await;
    let ready_at = record.timeline.ready_at.unwrap().to_string();
    assert_eq!(markers["rental-agent.ready-at"], ready_at);
    assert_eq!(
        world.wait_phase(&id, Phase::Ready).await.container_id,
        record.container_id
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unacked_end_whose_marker_somebody_deletes_is_made_anew() {
    let mut world = World::shared().await;
    world.up().await;
    world.server.set_ack(false);
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.terminate(&id).await;
    world.remove_marker(&id, "ended").await;
    world.wait_marker(&id, "ended").await;
    world.restart_agent().await;
    world.wait_ended(&id, EndReason::Terminated).await;
    world.server.set_ack(true);
    world.assert_clean().await;
}

/// A stop that a version which has that op has decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_rental_stays_stopped_until_it_is_terminated() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, before) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    let labels = [
        ("schema", "1"),
        ("agent-id", world.agent_id().as_str()),
        ("instance-id", id.as_str()),
        ("command-id", "stop-1"),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let labels: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
    world.put_marker(&id, "stopped", &labels).await;
    world.signal_container(&id, "KILL").await;
    world.wait_state(&id, "exited").await;
    world.up().await;
    let record = world.wait_phase(&id, Phase::Stopped).await;
    assert_eq!(record.container_id, before.container_id);
    assert!(record.ended.is_none());
    world.terminate(&id).await;
    world.assert_clean().await;
}

/// A marker's name that is taken by somebody who is not us.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_marker_of_somebody_else_is_a_conflict() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.sleeper();
    let labels = [
        ("schema", "1"),
        ("agent-id", "somebody-else"),
        ("instance-id", spec.id().as_str()),
        ("ready-at", "2026-01-01T00:00:00.000Z"),
        ("expires-at", ""),
        ("command-ids", ""),
    ]
    .map(|(name, value)| (name, value.to_owned()));
    let labels: Vec<(&str, &str)> = labels.iter().map(|(n, v)| (*n, v.as_str())).collect();
    world.put_marker(&spec.id(), "lease.1", &labels).await;
    let (id, error) = world.deploy_failed(&spec).await;
    assert_eq!(error.code, ErrorCode::Conflict, "{error:?}");
    assert!(world.container(&id).await.is_none());
    // It is not ours to remove.
    assert!(world.markers(&id).await.contains_key("lease.1"));
}

/// The server gave a final record to another life of this agent, which was cut off: the same id was
/// never free again.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_another_life_keeps_the_id_from_being_used_again() {
    let mut world = World::shared().await;
    world.up().await;
    world.server.set_ack(false);
    let spec = world.sleeper();
    let (id, _) = world.deploy_ready(&spec).await;
    world.terminate(&id).await;
    let first = world.wait_ended(&id, EndReason::Terminated).await;
    world.restart_agent().await;
    let again = serde_json::json!({ "op": "deploy", "spec": spec.json() });
    let ticket = world.server.command(again).unwrap();
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Rejected);
    assert_eq!(reply.error.unwrap().code, ErrorCode::Conflict);
    let ended = world.wait_phase(&id, Phase::Ended).await;
    assert_eq!(ended.timeline.ended_at, first.timeline.ended_at);
    assert!(world.container(&id).await.is_none());
}

/// `.ended` is there, and a container of that name too: the end counts, whatever the container does.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_comes_back_after_its_end_is_removed() {
    let mut world = World::shared().await;
    world.up().await;
    world.server.set_ack(false);
    let (model, _) = world.deploy_ready(&world.spec(&ignores_term())).await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.terminate(&id).await;
    world.kill_agent();
    world.twin(&model, &id).await;
    world.up().await;
    world.wait_gone(&id).await;
    world.wait_ended(&id, EndReason::Terminated).await;
    world.running(&model).await;
}

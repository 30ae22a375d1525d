//! From the command to nothing being left, at whatever moment it comes.

mod matrix;

use std::time::Duration;

use rental_agent::protocol::{EndReason, ErrorCode, Outcome, Phase};
use serde_json::json;

use crate::world::{World, ignores_term, serves_http};

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_leaves_nothing() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.spec(&serves_http()).port("web", 80);
    let (id, ready) = world.deploy_ready(&spec).await;
    let reply = world.terminate(&id).await;
    assert_eq!(reply.result.unwrap(), json!({ "known": true }));
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    assert_eq!(record.container_id, ready.container_id);
    assert!(record.timeline.ending_at <= record.timeline.ended_at);
    assert!(record.usage.unwrap().used_s >= 0.0);
    assert!(world.container(&id).await.is_none());
    world.assert_clean().await;
    // What was taken is free again.
    world
        .deploy_ready(&world.spec(&serves_http()).port("web", 80))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn done_comes_only_after_the_container_is_gone() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world
        .deploy_ready(&world.spec(&ignores_term()).grace_s(1.0))
        .await;
    let ticket = world.server.terminate(&id).unwrap();
    let accepted = world
        .server
        .wait_reply(&ticket, Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(accepted.outcome, Outcome::Accepted);
    // The decision is in the engine before the command is accepted.
    assert!(world.markers(&id).await.contains_key("ending"));
    world.final_reply(&ticket).await;
    assert!(world.container(&id).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_that_ignores_term_is_killed_after_the_grace_of_the_terminate() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world
        .deploy_ready(&world.spec(&ignores_term()).grace_s(120.0))
        .await;
    let command = json!({ "op": "terminate", "instance_id": id, "grace_s": 1 });
    let ticket = world.server.command(command).unwrap();
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    assert_eq!(record.ended.unwrap().exit_code, Some(137));
    let timeline = record.timeline;
    let took = timeline
        .ended_at
        .unwrap()
        .since(timeline.ending_at.unwrap());
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_terminate_of_one_rental_is_answered_and_the_first_gives_the_reason() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world
        .deploy_ready(&world.spec(&ignores_term()).grace_s(1.0))
        .await;
    let tickets: Vec<_> = (0..5)
        .map(|_| world.server.terminate(&id).unwrap())
        .collect();
    for ticket in &tickets {
        let reply = world.final_reply(ticket).await;
        assert_eq!(reply.result.unwrap(), json!({ "known": true }));
    }
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    let late = world.terminate(&id).await;
    assert_eq!(late.outcome, Outcome::Done);
    assert_eq!(world.server.instance(&id).unwrap().ended, record.ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_of_an_unknown_id_keeps_a_late_deploy_out() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.sleeper();
    let reply = world.terminate(&spec.id()).await;
    assert_eq!(reply.result.unwrap(), json!({ "known": false }));
    world.wait_ended(&spec.id(), EndReason::Cancelled).await;
    // A server should not send this; a network that delays may.
    let late = json!({ "op": "deploy", "spec": spec.json() });
    let ticket = world.server.command(late).unwrap();
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Rejected);
    assert_eq!(reply.error.unwrap().code, ErrorCode::Conflict);
    assert!(world.container(&spec.id()).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_not_acked_is_kept_until_it_is() {
    let mut world = World::shared().await;
    world.up().await;
    world.server.set_ack(false);
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.terminate(&id).await;
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    for _ in 0..2 {
        world.restart_agent().await;
        let markers = world.markers(&id).await;
        assert!(markers.contains_key("ended"), "{markers:?}");
        let told = world.wait_phase(&id, Phase::Ended).await;
        assert_eq!(told.ended.unwrap().reason, EndReason::Terminated);
        assert_eq!(told.timeline.ended_at, record.timeline.ended_at);
    }
    world.server.set_ack(true);
    world.assert_clean().await;
    let gone = world.markers(&id).await;
    assert!(gone.is_empty(), "{gone:?}");
}

/// F24.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_else_removes_at_the_same_time_is_as_gone() {
    let mut world = World::shared().await;
    world.up().await;
    for _ in 0..5 {
        let (id, _) = world.deploy_ready(&world.sleeper()).await;
        let ticket = world.server.terminate(&id).unwrap();
        let (reply, ()) = tokio::join!(world.final_reply(&ticket), world.remove_container(&id));
        assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
        let record = world.wait_phase(&id, Phase::Ended).await;
        let reason = record.ended.unwrap().reason;
        // Whose removal was seen first decides what it is called.
        assert!(
            matches!(reason, EndReason::Terminated | EndReason::Lost),
            "{reason:?}"
        );
    }
    world.assert_clean().await;
}

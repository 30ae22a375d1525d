//! The promises about commands and records that only a whole agent at a real engine can break:
//! what is repeated, lost or overtaken on the wire leaves one container and one answer.

use std::{collections::BTreeSet, fs, time::Duration};

use rental_agent::{
    dev::CommandTicket,
    ids::InstanceId,
    protocol::{EndReason, ErrorCode, Outcome, Phase},
};
use serde_json::json;

use crate::world::{CANARY, SOON, World, wait_for};

/// F54.
#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_that_comes_a_hundred_times_is_done_once() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, ticket) = world.deploy(&world.sleeper());
    for _ in 0..50 {
        assert!(world.server.send_again(&ticket));
    }
    let done = world.final_reply(&ticket).await;
    assert_eq!(done.outcome, Outcome::Done);
    for _ in 0..50 {
        assert!(world.server.send_again(&ticket));
    }
    // The server keeps a hundred replies; each repetition is answered with the latest.
    wait_for("a hundred replies", SOON, || {
        world.server.replies(&ticket).len() == 100
    })
    .await;
    let replies = world.server.replies(&ticket);
    let finals: Vec<_> = replies
        .iter()
        .filter(|reply| reply.outcome.is_final())
        .collect();
    assert!(finals.iter().all(|reply| **reply == done), "{finals:?}");
    let first_final = replies
        .iter()
        .position(|reply| reply.outcome.is_final())
        .unwrap();
    assert!(
        replies[first_final..]
            .iter()
            .all(|reply| reply.outcome.is_final())
    );
    assert_eq!(world.containers().await, [format!("rental-{id}")]);
}

/// F54.
#[tokio::test(flavor = "multi_thread")]
async fn equal_deploys_under_other_command_ids_share_one_rental() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.sleeper();
    let command = json!({ "op": "deploy", "spec": spec.json() });
    let tickets: Vec<_> = (0..20)
        .map(|_| world.server.command(command.clone()).unwrap())
        .collect();
    let mut containers = BTreeSet::new();
    for ticket in &tickets {
        let reply = world.final_reply(ticket).await;
        assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
        let record = &reply.result.unwrap()["instance"];
        containers.insert(record["container_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(containers.len(), 1);
    let firsts: Vec<_> = tickets
        .iter()
        .map(|ticket| world.server.replies(ticket)[0].outcome)
        .collect();
    assert_eq!(
        firsts
            .iter()
            .filter(|first| **first == Outcome::Accepted)
            .count(),
        1
    );
    assert_eq!(
        firsts
            .iter()
            .filter(|first| **first == Outcome::Already)
            .count(),
        19
    );
}

/// F54.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_instance_with_another_spec_is_a_conflict_and_changes_nothing() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.sleeper();
    let (id, record) = world.deploy_ready(&spec).await;
    let other = spec.with("cpus", 0.03);
    let command = json!({ "op": "deploy", "spec": other.json() });
    let ticket = world.server.command(command).unwrap();
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Rejected);
    assert_eq!(reply.error.unwrap().code, ErrorCode::Conflict);
    assert_eq!(
        world.running(&id).await.id,
        record.container_id.unwrap().as_str()
    );
}

/// F54.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_that_comes_a_hundred_times_is_done_once() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let ticket = world.server.terminate(&id).unwrap();
    // What comes before the first reply is answered by that.
    for _ in 0..20 {
        assert!(world.server.send_again(&ticket));
    }
    world.server.wait_reply(&ticket, SOON).await.unwrap();
    for _ in 0..30 {
        assert!(world.server.send_again(&ticket));
    }
    let done = world.final_reply(&ticket).await;
    for _ in 0..70 {
        assert!(world.server.send_again(&ticket));
    }
    wait_for("a hundred replies", SOON, || {
        world.server.replies(&ticket).len() == 100
    })
    .await;
    let replies = world.server.replies(&ticket);
    assert!(
        replies
            .iter()
            .filter(|r| r.outcome.is_final())
            .all(|r| *r == done)
    );
    assert_eq!(world.phases(&id).last().unwrap(), "ended");
}

/// F56.
#[tokio::test(flavor = "multi_thread")]
async fn generations_grow_within_an_epoch_across_reconnects() {
    let mut world = World::shared().await;
    world.up().await;
    let mut ids = Vec::new();
    for round in 0..4 {
        let (id, _) = world.deploy_ready(&world.sleeper()).await;
        ids.push(id);
        let session = world.server.session();
        world.server.drop_connection();
        if round % 2 == 0 {
            world.server.terminate(&ids[0]).unwrap();
        }
        wait_for("a new session", SOON, || world.server.session() > session).await;
        world.server.wait_synced(SOON).await.unwrap();
    }
    world.wait_ended(&ids[0], EndReason::Terminated).await;
    world.assert_generations_grow();
}

/// F57: each frame that the agent sends for a deploy is in turn the last one that arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_after_any_frame_of_a_deploy_leaves_both_sides_agreed() {
    let mut world = World::shared().await;
    world.up().await;
    for last in 1..=8 {
        let (id, deploy) = world.deploy(&world.sleeper());
        cut_after(&world, last, &id, &deploy).await;
        let reply = world.final_reply(&deploy).await;
        assert_eq!(reply.outcome, Outcome::Done, "{last}: {reply:?}");
        let record = world.wait_phase(&id, Phase::Ready).await;
        let seen = world.running(&id).await;
        assert_eq!(record.container_id.unwrap().as_str(), seen.id);
        world.terminate(&id).await;
    }
    world.assert_generations_grow();
}

/// F57: the same of a terminate.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_after_any_frame_of_a_terminate_leaves_both_sides_agreed() {
    let mut world = World::shared().await;
    world.up().await;
    for last in 1..=4 {
        let (id, _) = world.deploy_ready(&world.sleeper()).await;
        let told = world.story(&id, &[]).len();
        let terminate = world.server.terminate(&id).unwrap();
        cut_after(&world, told + last, &id, &terminate).await;
        let reply = world.final_reply(&terminate).await;
        assert_eq!(reply.outcome, Outcome::Done, "{last}: {reply:?}");
        world.wait_ended(&id, EndReason::Terminated).await;
        assert!(world.container(&id).await.is_none());
    }
    world.assert_generations_grow();
    world.assert_clean().await;
}

/// Drops the connection when so many frames about the rental and the command have come, or when the
/// command is settled: then there are not so many.
async fn cut_after(world: &World, frames: usize, id: &InstanceId, command: &CommandTicket) {
    let came = || world.story(id, &[command]).len() >= frames;
    let settled = || world.server.settled_by(command).is_some();
    wait_for("a frame", SOON, || came() || settled()).await;
    world.server.drop_connection();
}

/// S13. The environment is where it has to be, which also shows that the scan would find it.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_the_environment_of_its_rental_and_nowhere_else() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let seen = world.running(&id).await;
    let env = seen.inspect.config.as_ref().unwrap().env.as_ref().unwrap();
    assert!(
        env.iter().any(|entry| entry.contains(CANARY)),
        "the scan is blind"
    );
    let markers = world.markers(&id).await;
    let command_line = format!("/proc/{}/cmdline", world.agent_pid());
    world.terminate(&id).await;
    let frames = world.server.frames().into_iter().map(|logged| logged.frame);
    let places = [
        ("labels", format!("{:?}", seen.labels)),
        ("markers", format!("{markers:?}")),
        ("argv", fs::read_to_string(command_line).unwrap()),
        ("frames", frames.map(|frame| frame.to_string()).collect()),
        ("log", world.log()),
    ];
    for (place, text) in places {
        assert!(!text.is_empty(), "{place}");
        assert!(!text.contains(CANARY), "a secret is in {place}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_given_while_nobody_is_connected_is_done_at_the_next_session() {
    let mut world = World::shared().await;
    world.up().await;
    world.server.pause_accepting();
    world.server.drop_connection();
    wait_for("the link to be down", SOON, || !world.server.connected()).await;
    let (id, ticket) = world.deploy(&world.sleeper());
    world.server.resume_accepting();
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    world.running(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happened_while_nobody_was_connected_is_told_afterwards() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let before = world.running(&id).await;
    world.server.pause_accepting();
    world.server.drop_connection();
    wait_for("the link to be down", SOON, || !world.server.connected()).await;
    // What happens in between is told afterwards.
    world.remove_container(&id).await;
    world.server.resume_accepting();
    let record = world.wait_ended(&id, EndReason::Lost).await;
    assert_eq!(record.container_id.unwrap().as_str(), before.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_agent_refuses_deploys_and_keeps_its_rentals() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let drain = world.server.command(json!({ "op": "drain" })).unwrap();
    assert_eq!(world.final_reply(&drain).await.outcome, Outcome::Done);
    let (_, error) = world.deploy_failed(&world.sleeper()).await;
    assert_eq!(error.code, ErrorCode::Draining);
    world.running(&id).await;
    let resume = world.server.command(json!({ "op": "resume" })).unwrap();
    assert_eq!(world.final_reply(&resume).await.outcome, Outcome::Done);
    world.deploy_ready(&world.sleeper()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_comes_too_late_is_rejected() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.sleeper();
    let late = json!({
        "op": "deploy", "spec": spec.json(), "not_after": "2020-01-01T00:00:00.000Z",
    });
    let ticket = world.server.command(late).unwrap();
    let reply = world
        .server
        .wait_final(&ticket, Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(reply.outcome, Outcome::Rejected);
    assert_eq!(reply.error.unwrap().code, ErrorCode::DeadlineExceeded);
    assert!(world.container(&spec.id()).await.is_none());
}

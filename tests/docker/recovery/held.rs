//! Kills at one exact place: the proxy holds the agent's call, the agent is killed, and the call
//! reaches the engine or does not.

use rental_agent::protocol::{EndReason, Outcome, Phase};

use crate::{
    lab::Side,
    world::{SOON, World, container_name, wait_for},
};

/// F2.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_accepted_and_create_leaves_nothing_until_it_is_sent_again() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let create = proxy.hold("POST", "/containers/create", Side::BeforeEngine);
    let (id, ticket) = world.deploy(&world.sleeper());
    wait_for("the create", SOON, || create.met() == 1).await;
    world.kill_agent();
    drop(create);
    assert!(world.container(&id).await.is_none());
    world.up().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    assert_eq!(world.containers().await, [container_name(&id)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_agent_died_is_started_by_the_next_one() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let create = proxy.hold("POST", "/containers/create", Side::AfterEngine);
    let (id, ticket) = world.deploy(&world.sleeper());
    wait_for("the create", SOON, || create.met() == 1).await;
    let made = world.container(&id).await.unwrap();
    assert_eq!(made.state, "created");
    world.kill_agent();
    drop(create);
    world.up().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    assert_eq!(world.running(&id).await.id, made.id);
}

/// The engine goes on with a create whose client is dead: moments after the next agent's first list.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_was_in_flight_when_the_agent_died_makes_no_second_container() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let create = proxy.hold("POST", "/containers/create", Side::BeforeEngine);
    let (id, ticket) = world.deploy(&world.sleeper());
    wait_for("the create", SOON, || create.met() == 1).await;
    world.kill_agent();
    world.start_agent();
    // Both creates wait: the dead agent's and, by the re-delivery, the living one's.
    wait_for("the second create", SOON, || create.met() == 2).await;
    create.release();
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
    let seen = world.running(&id).await;
    let record = world.wait_phase(&id, Phase::Ready).await;
    assert_eq!(record.container_id.unwrap().as_str(), seen.id);
    assert_eq!(world.containers().await.len(), 1);
    world.terminate(&id).await;
    world.assert_clean().await;
}

/// F4.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_before_the_start_leaves_a_container_that_the_next_agent_starts() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let start = proxy.hold("POST", "/start", Side::BeforeEngine);
    let (id, ticket) = world.deploy(&world.sleeper());
    wait_for("the start", SOON, || start.met() == 1).await;
    world.kill_agent();
    drop(start);
    let made = world.container(&id).await.unwrap();
    assert_eq!(made.state, "created");
    world.up().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    assert_eq!(world.running(&id).await.id, made.id);
}

/// F4.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_and_not_started_is_removed_when_its_end_was_decided() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let start = proxy.hold("POST", "/start", Side::BeforeEngine);
    let (id, deploy) = world.deploy(&world.sleeper());
    wait_for("the start", SOON, || start.met() == 1).await;
    let terminate = world.server.terminate(&id).unwrap();
    world.server.wait_reply(&terminate, SOON).await.unwrap();
    world.kill_agent();
    drop(start);
    world.up().await;
    assert_eq!(world.final_reply(&terminate).await.outcome, Outcome::Done);
    assert_eq!(world.final_reply(&deploy).await.outcome, Outcome::Failed);
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    assert_eq!(record.timeline.running_at, None);
    world.assert_clean().await;
}

/// F5.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_right_after_the_start_does_not_start_it_twice() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let start = proxy.hold("POST", "/start", Side::AfterEngine);
    let (id, ticket) = world.deploy(&world.sleeper());
    wait_for("the start", SOON, || start.met() == 1).await;
    let before = world.running(&id).await;
    world.kill_agent();
    drop(start);
    world.up().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    let after = world.running(&id).await;
    assert_eq!((after.id, after.pid), (before.id, before.pid));
    assert_eq!(after.started_at, before.started_at);
}

/// F7.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_between_stop_and_remove_keeps_the_exit_code_and_removes_the_container() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let remove = proxy.hold("DELETE", &container_name(&id), Side::BeforeEngine);
    let ticket = world.server.terminate(&id).unwrap();
    wait_for("the removal", SOON, || remove.met() == 1).await;
    world.kill_agent();
    drop(remove);
    assert_eq!(world.container(&id).await.unwrap().state, "exited");
    assert!(world.markers(&id).await.contains_key("ended"));

    // While the container is there it is still `ending` on the wire.
    let remove = proxy.hold("DELETE", &container_name(&id), Side::BeforeEngine);
    world.server.set_ack(false);
    world.up().await;
    world.wait_phase(&id, Phase::Ending).await;
    assert!(
        world.server.settled_by(&ticket).is_none(),
        "done while it is there"
    );
    wait_for("the removal", SOON, || remove.met() == 1).await;
    remove.release();
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    assert_eq!(record.ended.unwrap().exit_code, Some(143));
    assert!(world.container(&id).await.is_none());
    assert!(
        world.markers(&id).await.contains_key("ended"),
        "kept until the ack"
    );
    world.server.set_ack(true);
    world.assert_clean().await;
}

/// The list of markers fails for a while: what runs is taken up as running, and nothing is decided.
#[tokio::test(flavor = "multi_thread")]
async fn while_markers_cannot_be_read_nothing_is_ended_or_started() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let (runs, _) = world.deploy_ready(&world.sleeper()).await;
    let (exited, _) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    world.signal_container(&exited, "KILL").await;
    world.wait_state(&exited, "exited").await;
    let blind = proxy.answer("GET", "/volumes", 500);
    world.start_agent();
    wait_for("the list", SOON, || blind.met() >= 2).await;
    world.wait_phase(&runs, Phase::Running).await;
    assert_eq!(world.container(&exited).await.unwrap().state, "exited");
    let before = world.running(&runs).await;
    drop(blind);
    world.wait_up(SOON).await;
    world.wait_ended(&exited, EndReason::Exited).await;
    let after = world.running(&runs).await;
    assert_eq!(after.started_at, before.started_at);
    world.wait_phase(&runs, Phase::Ready).await;
}

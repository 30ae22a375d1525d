//! What only an engine without other agents can show: a marker without labels that stands alone does
//! not say whose it is, so whoever finds it takes it up.

use rental_agent::protocol::{EndReason, Phase};

use crate::{
    lab::{Engine, Own},
    world::World,
};

#[tokio::test(flavor = "multi_thread")]
async fn an_ended_without_labels_and_without_a_container_is_reported_and_goes() {
    let engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    world.kill_agent();
    let id = world.instance_id();
    world.put_marker(&id, "ended", &[]).await;
    world.up().await;
    world.wait_phase(&id, Phase::Ended).await;
    world.assert_clean().await;
}

/// The engine was killed while it wrote the decision of a terminate whose deploy never came.
#[tokio::test(flavor = "multi_thread")]
async fn an_ending_without_labels_and_without_a_container_is_an_end() {
    let engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    let id = world.instance_id();
    world.put_marker(&id, "ending", &[]).await;
    world.up().await;
    world.wait_ended(&id, EndReason::Interrupted).await;
    world.assert_clean().await;
}

/// Another agent's rental, with a marker that lost its labels beside it.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_without_labels_of_another_agents_rental_is_left_to_that_agent() {
    let engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    let mut other = World::own(&engine).await;
    other.up().await;
    let (id, _) = other.deploy_ready(&other.sleeper()).await;
    other.kill_agent();
    other.put_marker(&id, "ending", &[]).await;
    world.up().await;
    // The lists 2 s and 10 s after a start are over by then.
    world.wait_heartbeats(12).await;
    assert_eq!(world.server.instance(&id), None);
    assert!(other.markers(&id).await["ending"].is_empty());
    other.running(&id).await;
    other.up().await;
    other.wait_ended(&id, EndReason::Interrupted).await;
}

//! What happens to a rental without a command: it ends by itself, or the host's owner lays hands on
//! it.

use bollard::query_parameters::{
    RenameContainerOptionsBuilder, RestartContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use rental_agent::protocol::{EndReason, ErrorCode, Phase};

use crate::world::{LATER, World, container_name, serves_http, sleeps, when_woken};

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_that_ends_by_itself_is_reported_with_its_code_and_removed() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.spec(&when_woken("echo bye; exit 7"));
    let (id, _) = world.deploy_ready(&spec).await;
    world.wake(&id).await;
    let record = world.wait_ended(&id, EndReason::Exited).await;
    let ended = record.ended.unwrap();
    assert_eq!(ended.exit_code, Some(7));
    assert_eq!(ended.error, None);
    assert!(ended.log_tail.unwrap().contains("bye"));
    assert!(record.usage.unwrap().estimated.is_none());
    world.assert_clean().await;
}

/// F33.
#[tokio::test(flavor = "multi_thread")]
async fn a_rental_that_runs_out_of_memory_is_told_apart_from_a_kill() {
    let mut world = World::shared().await;
    world.up().await;
    let eats = when_woken("exec dd if=/dev/zero of=/dev/null bs=67108864");
    let (id, _) = world.deploy_ready(&world.spec(&eats)).await;
    world.wake(&id).await;
    let record = world.wait_ended(&id, EndReason::OomKilled).await;
    assert_eq!(record.ended.unwrap().exit_code, Some(137));

    let (killed, _) = world.deploy_ready(&world.sleeper()).await;
    world.signal_container(&killed, "KILL").await;
    let record = world.wait_ended(&killed, EndReason::Exited).await;
    assert_eq!(record.ended.unwrap().exit_code, Some(137));
}

/// F25.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_removed_behind_the_agents_back_is_lost_and_frees_what_it_held() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world
        .deploy_ready(&world.spec(&serves_http()).port("web", 80))
        .await;
    world.remove_container(&id).await;
    let record = world.wait_ended(&id, EndReason::Lost).await;
    assert_eq!(record.usage.unwrap().estimated, Some(true));
    world.wait_idle().await;
    world.assert_clean().await;
}

/// F25.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_removed_while_the_agent_was_away_is_lost() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    world.remove_container(&id).await;
    world.up().await;
    world.wait_ended(&id, EndReason::Lost).await;
    world.assert_clean().await;
}

/// F26.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_owner_stops_has_exited() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let options = StopContainerOptionsBuilder::default().t(1).build();
    world
        .docker
        .stop_container(&container_name(&id), Some(options))
        .await
        .unwrap();
    let record = world.wait_ended(&id, EndReason::Exited).await;
    assert_eq!(record.ended.unwrap().exit_code, Some(143));
    world.assert_clean().await;
}

/// F26.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_the_owner_pauses_is_reported_paused_and_goes_on_afterwards() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, ready) = world.deploy_ready(&world.sleeper()).await;
    let name = container_name(&id);
    world.docker.pause_container(&name).await.unwrap();
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
    world.docker.unpause_container(&name).await.unwrap();
    let record = world
        .server
        .wait_instance(&id, |r| !is_paused(r), LATER)
        .await
        .unwrap();
    assert_eq!(record.container_id, ready.container_id);
    assert_eq!(record.phase, Phase::Ready);
}

/// F26.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_rental_is_terminated_like_any_other() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world
        .docker
        .pause_container(&container_name(&id))
        .await
        .unwrap();
    world.terminate(&id).await;
    assert!(world.container(&id).await.is_none());
    world.assert_clean().await;
}

/// F26.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_by_the_owner_is_no_end() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let before = world.running(&id).await;
    let options = RestartContainerOptionsBuilder::default().t(1).build();
    world
        .docker
        .restart_container(&container_name(&id), Some(options))
        .await
        .unwrap();
    let after = world.running(&id).await;
    assert_eq!(after.id, before.id);
    assert_ne!(after.started_at, before.started_at);
    // Whatever the agent makes of it, it makes of it within some seconds.
    world.wait_heartbeats(5).await;
    let record = world.wait_phase(&id, Phase::Ready).await;
    assert_eq!(record.container_id.unwrap().as_str(), before.id);
    assert_eq!(world.running(&id).await.started_at, after.started_at);
    assert!(!world.phases(&id).contains(&"ended".to_owned()));
}

/// F26.
#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_container_is_left_alone_and_its_port_stays_taken() {
    let mut world = World::shared().await;
    let port = world.first_port();
    world.set_env(
        "RENTAL_AGENT__NETWORK__PORT_RANGE",
        format!("{port}-{port}"),
    );
    world.up().await;
    let (id, _) = world
        .deploy_ready(&world.spec(&sleeps()).port("web", 80))
        .await;
    let renamed = format!("{}-renamed", container_name(&id));
    let options = RenameContainerOptionsBuilder::default()
        .name(&renamed)
        .build();
    world
        .docker
        .rename_container(&container_name(&id), options)
        .await
        .unwrap();
    world.wait_ended(&id, EndReason::Lost).await;
    // The port is nobody's to give: by the claim, or because the engine says so at the start.
    let (_, error) = world.deploy_failed(&world.sleeper().port("web", 80)).await;
    let codes = [ErrorCode::PortUnavailable, ErrorCode::InsufficientResources];
    assert!(codes.contains(&error.code), "{error:?}");
    world.restart_agent().await;
    let seen = world.container_named(&renamed).await.unwrap();
    assert_eq!(seen.state, "running");
    let (_, error) = world.deploy_failed(&world.sleeper().port("web", 80)).await;
    assert!(codes.contains(&error.code), "{error:?}");
}

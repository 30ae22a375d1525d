//! Another life of the engine or of the host: what its end explains is not the tenant's doing.

use std::{fs, time::Duration};

use rental_agent::{
    ids::InstanceId,
    protocol::{EndReason, Instance, Phase, record::EngineStatus},
};

use crate::{
    lab::{Engine, Own},
    world::{LATER, SOON, World, container_name, when_woken},
};

/// F20.
#[tokio::test(flavor = "multi_thread")]
async fn a_rental_that_outlives_its_engine_is_reported_as_if_nothing_was() {
    let mut engine = Engine::own(Own {
        live_restore: true,
        ..Own::default()
    });
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, ready) = world.deploy_ready(&world.sleeper()).await;
    let before = world.running(&id).await;
    for _ in 0..2 {
        engine.kill9();
        world.wait_engine(EngineStatus::Unavailable, SOON).await;
        engine.start();
        world.wait_engine(EngineStatus::Ok, SOON).await;
        let after = world.running(&id).await;
        assert_eq!((&after.id, after.pid), (&before.id, before.pid));
    }
    let record = world.server.instance(&id).unwrap();
    assert_eq!((record.phase, record.restarts), (Phase::Ready, 0));
    assert_eq!(record.container_id, ready.container_id);
    assert_eq!(
        world
            .phases(&id)
            .iter()
            .filter(|phase| *phase == "ready")
            .count(),
        1
    );

    // The event stream is open again: an end is seen without waiting for a list.
    world.signal_container(&id, "KILL").await;
    world.wait_ended(&id, EndReason::Exited).await;
}

/// F19.
#[tokio::test(flavor = "multi_thread")]
async fn rentals_that_a_killed_engine_took_with_it_are_started_again() {
    let mut engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, ready) = world.deploy_ready(&world.sleeper().port("web", 80)).await;
    engine.kill9();
    engine.start();
    let record = wait_restarted(&world, &id).await;
    assert_eq!(record.container_id, ready.container_id);
    assert_eq!(record.ports, ready.ports);
    assert_eq!(record.timeline.ready_at, ready.timeline.ready_at);
    world.running(&id).await;
    world.terminate(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rentals_that_a_stopped_engine_took_with_it_are_started_again() {
    let mut engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, ready) = world.deploy_ready(&world.sleeper()).await;
    engine.restart();
    let record = wait_restarted(&world, &id).await;
    assert_eq!(record.container_id, ready.container_id);

    // An end of its own after that is the tenant's again.
    world.signal_container(&id, "KILL").await;
    world.wait_ended(&id, EndReason::Exited).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rentals_that_an_engine_took_with_it_while_no_agent_ran_are_started_again() {
    let mut engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, ready) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    engine.restart();
    world.up().await;
    let record = wait_restarted(&world, &id).await;
    assert_eq!(record.container_id, ready.container_id);
    assert!(record.recovered);
}

/// What ended by itself before the engine went is the tenant's own end, whenever it is found.
#[tokio::test(flavor = "multi_thread")]
async fn soak_an_end_before_the_engines_restart_is_the_tenants() {
    let mut engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.spec(&when_woken("exit 5"))).await;
    world.kill_agent();
    world.wake(&id).await;
    world.wait_state(&id, "exited").await;
    // Time itself is the matter here: a graceful stop of the engine ends its containers up to 30 s
    // before it is back.
    engine.stop();
    tokio::time::sleep(Duration::from_secs(31)).await;
    engine.start();
    world.up().await;
    let record = world.wait_ended(&id, EndReason::Exited).await;
    assert_eq!(record.ended.unwrap().exit_code, Some(5));
}

/// F65: the engine's processes are gone as after a power cut, and the boot id is another one.
#[tokio::test(flavor = "multi_thread")]
async fn rentals_that_the_hosts_restart_ended_are_started_again() {
    let mut engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    let boot_id = world.folder().join("boot-id");
    fs::write(&boot_id, "first-life\n").unwrap();
    world.set_env(
        "RENTAL_AGENT__HOST__BOOT_ID_FILE",
        boot_id.to_str().unwrap(),
    );
    world.up().await;
    let (id, before) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    engine.restart();
    fs::write(&boot_id, "second-life\n").unwrap();
    world.up().await;
    let record = wait_restarted(&world, &id).await;
    assert_eq!(record.container_id, before.container_id);

    // In the second life an end is the tenant's own again, though the label names the first.
    world.signal_container(&id, "KILL").await;
    world.wait_ended(&id, EndReason::Exited).await;
}

/// The end of a terminate that the engine's restart cut short is no reason to start anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_to_end_is_not_started_again_by_a_restart_of_the_engine() {
    let mut engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let stubborn = world.spec(&crate::world::ignores_term()).grace_s(30.0);
    let (id, _) = world.deploy_ready(&stubborn).await;
    let ticket = world.server.terminate(&id).unwrap();
    world.server.wait_reply(&ticket, LATER).await.unwrap();
    engine.kill9();
    engine.start();
    world.final_reply(&ticket).await;
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    assert_eq!(record.restarts, 0);
    assert!(!world.phases(&id).contains(&"restarting".to_owned()));
    assert!(world.container_named(&container_name(&id)).await.is_none());
}

async fn wait_restarted(world: &World, id: &InstanceId) -> Instance {
    let is_back = |record: &Instance| record.phase == Phase::Ready && record.restarts == 1;
    let waited = world.server.wait_instance(id, is_back, LATER);
    waited.await.unwrap()
}

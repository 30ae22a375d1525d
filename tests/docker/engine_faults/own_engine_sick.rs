//! Containers that the engine has lost its hold on: a frozen shim, a removal that fails, a start that
//! fails or was cut off by the engine's own death.

use std::process::Command;

use rental_agent::{
    dev::AgentView,
    protocol::{EndReason, ErrorCode, Instance, Outcome, Phase},
};
use rustix::process::{Signal, kill_process};

use crate::{
    lab::{Engine, Own},
    world::{LATER, SOON, World, container_name, gpu_uuid, wait_for, wait_until},
};

fn gpus() -> Own {
    Own {
        gpus: true,
        ..Own::default()
    }
}

fn has_condition(kind: &'static str) -> impl Fn(&Instance) -> bool {
    move |record| {
        record
            .conditions
            .iter()
            .any(|condition| condition.kind == kind)
    }
}

/// F22.
#[tokio::test(flavor = "multi_thread")]
async fn one_container_that_hangs_keeps_its_gpu_and_delays_no_other() {
    let engine = Engine::own(gpus());
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(2);
    world.up().await;
    let (sick, _) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    let (well, _) = world.deploy_ready(&world.sleeper()).await;
    let shim = engine.shim(&container_name(&sick));
    kill_process(shim, Signal::STOP).unwrap();

    let (other, record) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    assert_eq!(record.gpus[0].as_str(), gpu_uuid(1));
    world.terminate(&other).await;
    world.terminate(&well).await;
    // A new agent sees as much: it lists, and cannot look closer.
    world.restart_agent().await;
    let (_, record) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    assert_eq!(record.gpus[0].as_str(), gpu_uuid(1));
    let (_, error) = world.deploy_failed(&world.sleeper().gpus(1)).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable);

    kill_process(shim, Signal::CONT).unwrap();
    world.wait_phase(&sick, Phase::Ready).await;
    world.terminate(&sick).await;
}

/// F23.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_stopped_is_told_and_keeps_its_gpu_until_it_is_gone() {
    let engine = Engine::own(gpus());
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    let shim = engine.shim(&container_name(&id));
    kill_process(shim, Signal::STOP).unwrap();
    let ticket = world.server.terminate(&id).unwrap();
    let stuck = has_condition("stuck_stopping");
    let record = world.server.wait_instance(&id, stuck, LATER).await.unwrap();
    assert_eq!(record.phase, Phase::Ending);
    assert!(
        world.server.settled_by(&ticket).is_none(),
        "success was claimed"
    );
    let (_, error) = world.deploy_failed(&world.sleeper().gpus(1)).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable);

    kill_process(shim, Signal::CONT).unwrap();
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    let record = world.wait_ended(&id, EndReason::Terminated).await;
    assert!(!has_condition("stuck_stopping")(&record));
    world.deploy_ready(&world.sleeper().gpus(1)).await;
}

/// A removal that fails half-way leaves it `dead`.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_container_is_removed_again() {
    let engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    world.kill_agent();
    let data = engine.docker(&["info", "-f", "{{.DockerRootDir}}"]);
    let own = world.running(&id).await.id;
    let folder = format!("{data}/containers/{own}");
    assert!(chattr("+i", &folder));
    let removed = engine.try_docker(&["rm", "-f", &container_name(&id)]);
    assert!(chattr("-i", &folder));
    assert!(!removed.status.success(), "{removed:?}");
    assert_eq!(world.wait_state(&id, "dead").await.id, own);
    world.up().await;
    world.wait_phase(&id, Phase::Ended).await;
    assert!(world.container(&id).await.is_none());
    world.assert_clean().await;
}

/// What is immutable cannot be removed by root either.
fn chattr(flag: &str, folder: &str) -> bool {
    let status = Command::new("chattr").args([flag, folder]).status();
    status.unwrap().success()
}

/// An engine that is killed within a start leaves a container that can never be started again. (It
/// also takes the port that it was about to publish for taken from then on, hence none here.)
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_can_never_be_started_is_made_again_once() {
    let mut engine = Engine::own(gpus());
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    world.up().await;
    engine.hook().hold();
    let (id, ticket) = world.deploy(&world.sleeper().gpus(1));
    let made = wait_until("a container", SOON, || world.container_id(&id)).await;
    wait_for("the start", SOON, || engine.hook().was_called(&made)).await;
    world.kill_agent();
    engine.kill9();
    engine.hook().let_go();
    engine.start();
    world.up().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    let record = world.wait_phase(&id, Phase::Ready).await;
    let seen = world.running(&id).await;
    assert_eq!(record.container_id.unwrap().as_str(), seen.id);
    assert_eq!(engine.hook().visible_devices(&seen.id)[0], gpu_uuid(0));
    assert_eq!(seen.labels["rental-agent.gpus"], gpu_uuid(0));
    world.terminate(&id).await;
    world.assert_clean().await;
}

/// Remade once, it is not remade again.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_started_made_anew_either_is_interrupted() {
    let mut engine = Engine::own(gpus());
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    world.kill_agent();
    engine.stop();
    engine.hook().fail();
    engine.start();
    world.up().await;
    let record = world.wait_ended(&id, EndReason::Interrupted).await;
    let error = record.ended.unwrap().error.unwrap();
    assert_eq!(error.code, ErrorCode::StartFailed, "{error:?}");
    assert_eq!(record.usage.unwrap().estimated, Some(true));
    assert!(world.container(&id).await.is_none());
    world.assert_clean().await;
}

/// `created` with an error is a start that failed, whoever tried it.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_whose_start_has_failed_is_a_failed_start() {
    let engine = Engine::own(gpus());
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    world.up().await;
    engine.hook().hold();
    let (id, ticket) = world.deploy(&world.sleeper().gpus(1));
    let made = wait_until("a container", SOON, || world.container_id(&id)).await;
    wait_for("the start", SOON, || engine.hook().was_called(&made)).await;
    world.kill_agent();
    engine.hook().fail();
    engine.hook().let_go();
    let has_error = || async {
        let state = world.container(&id).await?.inspect.state?;
        state.error.filter(|error| !error.is_empty())
    };
    wait_until("a start that failed", SOON, has_error).await;
    world.up().await;
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Failed, "{reply:?}");
    assert_eq!(reply.error.unwrap().code, ErrorCode::StartFailed);
    world.wait_ended(&id, EndReason::Failed).await;
    world.assert_clean().await;
}

/// Somebody has made the network by hand, and rentals could meet on it.
#[tokio::test(flavor = "multi_thread")]
async fn on_a_network_that_is_not_as_it_should_be_nothing_is_rented_out() {
    let engine = Engine::own(Own::default());
    engine.docker(&["network", "create", "rental-agent"]);
    let mut world = World::own(&engine).await;
    world.up().await;
    let (_, error) = world.deploy_failed(&world.sleeper()).await;
    assert_eq!(error.code, ErrorCode::PolicyDenied, "{error:?}");
    assert!(error.message.contains("enable_icc"), "{error:?}");
    let is_said = |view: &AgentView| {
        let status = view.hello.as_ref().map(|hello| &hello.status);
        status.is_some_and(|status| {
            !status.rentable && status.reasons.contains(&"network_unfit".to_owned())
        })
    };
    world
        .server
        .wait_agent("a reason", is_said, LATER)
        .await
        .unwrap();
    engine.docker(&["network", "rm", "rental-agent"]);
    world
        .server
        .wait_agent("no reason any more", |view| !is_said(view), LATER)
        .await
        .unwrap();
    world.deploy_ready(&world.sleeper()).await;
}

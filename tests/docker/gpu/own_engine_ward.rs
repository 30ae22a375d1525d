//! What a driver says of its GPUs, end to end: who else is on one, what is left on one, what ails one.
//! With stand-ins: they show the agent's logic, never that hardware works.

use rental_agent::protocol::{ErrorCode, Outcome, Phase, record::GpuState};

use super::own_engine::{assert_refused, engine_with_gpus, wait_gpu};
use crate::world::{SOON, World, container_name, gpu_uuid, wait_for};

/// F71.
#[tokio::test(flavor = "multi_thread")]
async fn f71_a_gpu_that_a_stranger_uses_is_not_rented_until_he_is_gone() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let nvml = world.with_gpus(1);
    nvml.script("gpus 1\nprocess 0 4242 100\n");
    world.up().await;
    wait_gpu(&world, "busy", |gpu| gpu.state == GpuState::BusyExternal).await;
    let spec = world.sleeper().gpu_uuids(&[&gpu_uuid(0)]);
    let (_, error) = world.deploy_failed(&spec).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable);
    assert!(error.message.contains("process 4242"), "{error:?}");
    nvml.script("gpus 1\n");
    wait_gpu(&world, "free", |gpu| gpu.state == GpuState::Available).await;
    world.deploy_ready(&world.sleeper().gpus(1)).await;
}

/// F36, F72.
#[tokio::test(flavor = "multi_thread")]
async fn f72_a_rental_has_ended_when_nothing_of_it_is_left_on_its_gpu() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let nvml = world.with_gpus(1);
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    nvml.script("gpus 1\nprocess 0 4242 100\n");
    let ticket = world.server.terminate(&id).unwrap();
    let unclean = || {
        let record = world.server.instance(&id).unwrap();
        let mut conditions = record.conditions.iter();
        conditions.any(|c| c.kind == "gpu_unclean" && c.message.contains("process 4242"))
    };
    wait_for("the word of what is left", SOON, unclean).await;
    assert_eq!(world.server.instance(&id).unwrap().phase, Phase::Ending);
    assert!(world.container_named(&container_name(&id)).await.is_none());
    assert_refused(&world).await;
    nvml.script("gpus 1\n");
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    world.deploy_ready(&world.sleeper().gpus(1)).await;
}

/// F68.
#[tokio::test(flavor = "multi_thread")]
async fn f68_an_xid_quarantines_a_gpu_and_its_rental_is_told() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let nvml = world.with_gpus(2);
    world.up().await;
    let spec = world.sleeper().gpu_uuids(&[&gpu_uuid(0)]);
    let (id, _) = world.deploy_ready(&spec).await;
    nvml.script("gpus 2\nxid 0 79 1\n");
    let told = || {
        let record = world.server.instance(&id).unwrap();
        record
            .conditions
            .iter()
            .any(|c| c.kind == "gpu_xid" && c.reason == "reset")
    };
    wait_for("the word of the error", SOON, told).await;
    assert_eq!(world.server.instance(&id).unwrap().phase, Phase::Ready);
    world.terminate(&id).await;
    let again = world.sleeper().gpu_uuids(&[&gpu_uuid(0)]);
    let (_, error) = world.deploy_failed(&again).await;
    assert_eq!(error.code, ErrorCode::GpuUnhealthy, "{error:?}");
    world
        .deploy_ready(&world.sleeper().gpu_uuids(&[&gpu_uuid(1)]))
        .await;
}

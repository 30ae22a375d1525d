//! One engine, one or two agents, GPUs that are stand-ins.

use std::collections::BTreeSet;

use rental_agent::{
    dev::AgentView,
    protocol::{
        Error, ErrorCode, Instance, Outcome, Phase, Stage,
        record::{Gpu, GpuState},
    },
};
use serde_json::json;

use crate::{
    fake_cuda::FakeCuda,
    lab::{Engine, Own, Side},
    world::{SOON, World, container_name, gpu_uuid, ignores_term, sleeps, wait_for},
};

pub(super) fn engine_with_gpus() -> Engine {
    Engine::own(Own {
        gpus: true,
        ..Own::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_gets_the_gpus_of_its_record_and_no_other_and_gives_them_back() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(3);
    world.up().await;
    let two = world.sleeper().gpu_uuids(&[&gpu_uuid(2), &gpu_uuid(0)]);
    let (id, record) = world.deploy_ready(&two).await;
    let held: BTreeSet<&str> = record.gpus.iter().map(|uuid| uuid.as_str()).collect();
    assert_eq!(held, BTreeSet::from([&*gpu_uuid(0), &*gpu_uuid(2)]));
    let container = world.running(&id).await.id;
    let visible = engine.hook().visible_devices(&container);
    let visible: BTreeSet<&str> = visible[0].split(',').collect();
    assert_eq!(visible, held);

    let (_, last) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    assert_eq!(last.gpus[0].as_str(), gpu_uuid(1));
    let (_, error) = world.deploy_failed(&world.sleeper().gpus(1)).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable);
    let unknown = world.sleeper().gpu_uuids(&["GPU-of-another-host"]);
    let (_, error) = world.deploy_failed(&unknown).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable);

    world.terminate(&id).await;
    world.deploy_ready(&world.sleeper().gpus(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_without_gpus_sees_none() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let seen = world.running(&id).await;
    let env = seen.inspect.config.unwrap().env.unwrap();
    assert!(
        env.contains(&"NVIDIA_VISIBLE_DEVICES=void".to_owned()),
        "{env:?}"
    );
    assert!(!engine.hook().was_called(&seen.id));
}

/// An engine that cannot hand out GPUs.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_gpu_runtime_the_deploy_says_what_the_host_lacks() {
    let engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    world.up().await;
    let (_, error) = world.deploy_failed(&world.sleeper().gpus(1)).await;
    assert_eq!(error.code, ErrorCode::GpuRuntimeMissing, "{error:?}");
    world.assert_clean().await;
}

/// F36.
#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_free_only_when_the_container_is_gone() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    let proxy = world.behind_proxy();
    world.up().await;
    let slow = world.spec(&ignores_term()).grace_s(1.0).gpus(1);
    let (id, _) = world.deploy_ready(&slow).await;
    let removal = proxy.hold("DELETE", &container_name(&id), Side::BeforeEngine);
    let ticket = world.server.terminate(&id).unwrap();
    assert_refused(&world).await;
    // It has ended, and is still there.
    wait_for("the removal", SOON, || removal.met() == 1).await;
    assert_refused(&world).await;
    assert_eq!(world.server.instance(&id).unwrap().phase, Phase::Ending);
    removal.release();
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    world.deploy_ready(&world.sleeper().gpus(1)).await;
}

/// F72: the memory is overwritten before the next tenant, and where that fails there is none.
#[tokio::test(flavor = "multi_thread")]
async fn f72_a_gpus_memory_is_wiped_between_tenants_and_a_failed_wipe_keeps_it_out() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    let cuda = FakeCuda::with("");
    let library = cuda.library.to_str().unwrap();
    world.set_env("RENTAL_AGENT__GPU__CUDA_LIBRARY", library);
    world.up().await;
    assert_eq!(cuda.asked("sees"), [gpu_uuid(0)], "at the start");
    let (id, _) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    assert_eq!(cuda.asked("sees").len(), 1);
    world.terminate(&id).await;
    assert_eq!(cuda.asked("sees"), [gpu_uuid(0), gpu_uuid(0)]);
    let (id, _) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    cuda.script("memset 700\n");
    world.terminate(&id).await;
    wait_gpu(&world, "quarantined", |gpu| {
        gpu.state == GpuState::Quarantined
    })
    .await;
    let spec = world.sleeper().gpu_uuids(&[&gpu_uuid(0)]);
    let (_, error) = world.deploy_failed(&spec).await;
    assert!(error.message.contains("could not be wiped"), "{error:?}");
}

/// The first GPU as the server sees it comes to be so.
async fn wait_gpu(world: &World, what: &str, wanted: impl Fn(&Gpu) -> bool) {
    let is_so = |view: &AgentView| {
        let gpu = view.hello.as_ref().and_then(|hello| hello.gpus.first());
        gpu.is_some_and(&wanted)
    };
    world
        .server
        .wait_agent(what, is_so, SOON * 3)
        .await
        .unwrap();
}

async fn assert_refused(world: &World) {
    let (_, error) = world.deploy_failed(&world.sleeper().gpus(1)).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable, "{error:?}");
}

/// F35.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_deploys_for_one_gpu_exactly_one_wins_before_anything_is_made() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    world.up().await;
    for _ in 0..5 {
        let specs: Vec<_> = (0..20).map(|_| world.sleeper().gpus(1)).collect();
        let deploys: Vec<_> = specs.iter().map(|spec| world.deploy(spec)).collect();
        let mut won = Vec::new();
        for (id, ticket) in deploys {
            let reply = world.final_reply(&ticket).await;
            match reply.outcome {
                Outcome::Done => won.push(id),
                outcome => {
                    assert_eq!(outcome, Outcome::Rejected);
                    assert_eq!(reply.error.unwrap().code, ErrorCode::GpuUnavailable);
                }
            }
        }
        assert_eq!(won.len(), 1);
        world.terminate(&won[0]).await;
    }
}

/// F35.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_deploys_for_one_port_exactly_one_wins_before_anything_is_made() {
    let mut world = World::shared().await;
    let port = world.first_port();
    let range = format!("{port}-{port}");
    world.set_env("RENTAL_AGENT__NETWORK__PORT_RANGE", range);
    world.up().await;
    let specs: Vec<_> = (0..20).map(|_| world.sleeper().port("web", 80)).collect();
    let deploys: Vec<_> = specs.iter().map(|spec| world.deploy(spec)).collect();
    let mut won = 0;
    for (_, ticket) in deploys {
        let reply = world.final_reply(&ticket).await;
        match reply.outcome {
            Outcome::Done => won += 1,
            outcome => {
                assert_eq!(outcome, Outcome::Rejected);
                assert_eq!(reply.error.unwrap().code, ErrorCode::PortUnavailable);
            }
        }
    }
    assert_eq!(won, 1);
}

/// F15, F37: by its labels or by its device request.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_hold_is_taken_and_left_alone() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let mut other = World::own(&engine).await;
    let (_nvml, _others) = (world.with_gpus(3), other.with_gpus(3));
    other.up().await;
    let mine = other.sleeper().gpu_uuids(&[&gpu_uuid(0)]);
    let (theirs, _) = other.deploy_ready(&mine).await;
    let before = other.running(&theirs).await;
    let stranger = world.stranger_name("gpu");
    let device = format!("device={}", gpu_uuid(1));
    let run = [
        "run",
        "-d",
        "--name",
        &stranger,
        "--gpus",
        &device,
        &world.image,
    ];
    engine.docker(&[&run[..], &sleeps()].concat());

    world.up().await;
    for taken in [0, 1] {
        let spec = world.sleeper().gpu_uuids(&[&gpu_uuid(taken)]);
        let (_, error) = world.deploy_failed(&spec).await;
        assert_eq!(error.code, ErrorCode::GpuUnavailable, "{taken}: {error:?}");
    }
    let free = world.sleeper().gpu_uuids(&[&gpu_uuid(2)]);
    world.deploy_ready(&free).await;
    world.restart_agent().await;
    let after = other.running(&theirs).await;
    assert_eq!((after.id, after.started_at), (before.id, before.started_at));
    assert_eq!(world.server.instance(&theirs), None);
}

/// F11: written by a version that is newer than this one, with GPUs that it names in its own way.
#[tokio::test(flavor = "multi_thread")]
async fn the_gpus_of_what_cannot_be_read_are_taken() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(2);
    let id = world.instance_id();
    let labels = json!({
        "rental-agent.schema": "2",
        "rental-agent.agent-id": world.agent_id(),
        "rental-agent.instance-id": id,
        "rental-agent.gpus": gpu_uuid(0),
    });
    world
        .stranger(&container_name(&id), labels, Default::default())
        .await;
    world.up().await;
    let spec = world.sleeper().gpu_uuids(&[&gpu_uuid(0)]);
    let (_, error) = world.deploy_failed(&spec).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable, "{error:?}");
    world.running(&id).await;
}

/// F15: two agents that cannot see each other's decisions race for one GPU.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_agents_that_race_for_one_gpu_at_most_one_starts_a_container() {
    races(12).await;
}

/// F15.
#[tokio::test(flavor = "multi_thread")]
async fn soak_of_two_agents_that_race_for_one_gpu_at_most_one_starts_a_container() {
    races(100).await;
}

async fn races(count: usize) {
    let engine = engine_with_gpus();
    let mut worlds = [World::own(&engine).await, World::own(&engine).await];
    let _nvml = worlds.each_mut().map(|world| world.with_gpus(1));
    for world in &mut worlds {
        world.up().await;
    }
    let (mut close, mut won) = (0, 0);
    for race in 0..count {
        // What an agent has listed of the other it knows for 30 s: new ones know nothing.
        for world in &mut worlds {
            world.restart_agent().await;
        }
        let [first, second] = &worlds;
        let specs = worlds.each_ref().map(|world| world.sleeper().gpus(1));
        let (a, b) = tokio::join!(outcome(first, &specs[0]), outcome(second, &specs[1]));
        let running = running_with_gpu(&engine, &worlds).await;
        assert!(
            running <= 1,
            "race {race}: {running} containers have the GPU"
        );
        let made = [&a, &b]
            .map(|outcome| !matches!(outcome, Err(error) if error.stage == Some(Stage::Admit)));
        close += usize::from(made == [true, true]);
        for (world, outcome) in worlds.iter().zip([a, b]) {
            match outcome {
                Ok(record) => {
                    won += 1;
                    world.terminate(&record.id).await;
                }
                Err(error) => {
                    assert_eq!(
                        error.code,
                        ErrorCode::GpuUnavailable,
                        "race {race}: {error:?}"
                    );
                }
            }
        }
    }
    assert_eq!(won, count, "the one that was made first has it, each time");
    assert!(
        close >= count / 2,
        "only {close} of {count} races were close"
    );
}

/// How many containers that hold the GPU run at this moment.
async fn running_with_gpu(engine: &Engine, worlds: &[World; 2]) -> usize {
    let mut running = 0;
    for world in worlds {
        for name in world.containers().await {
            let seen = world.container_named(&name).await;
            let holds = |id: &str| !engine.hook().visible_devices(id).is_empty();
            let running_now = seen.filter(|seen| seen.state == "running");
            running += usize::from(running_now.is_some_and(|seen| holds(&seen.id)));
        }
    }
    running
}

async fn outcome(world: &World, spec: &crate::world::Spec) -> Result<Instance, Error> {
    let (id, ticket) = world.deploy(spec);
    let reply = world.final_reply(&ticket).await;
    match reply.outcome {
        Outcome::Done => Ok(world.server.instance(&id).unwrap()),
        _ => Err(reply.error.unwrap()),
    }
}

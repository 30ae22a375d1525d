//! One engine, one or two agents, GPUs that are stand-ins.

use std::{collections::BTreeSet, os::unix::fs::PermissionsExt};

use rental_agent::{
    dev::AgentView,
    ids::InstanceId,
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

/// F-S6: what an image would like to see is not what it gets.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_asks_for_all_gpus_gets_those_of_its_rental_or_none() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(2);
    world.up().await;
    world.image = greedy_image(&engine);
    let (id, record) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    assert_eq!(record.gpus.len(), 1);
    let one = record.gpus[0].as_str();
    let container = world.running(&id).await.id;
    assert_eq!(engine.hook().visible_devices(&container)[0], one);
    assert_only(&engine, &id, one);

    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let container = world.running(&id).await.id;
    assert!(!engine.hook().was_called(&container));
    assert_only(&engine, &id, "void");
}

/// An image whose variables ask for every GPU and load a library into every program.
fn greedy_image(engine: &Engine) -> String {
    let name = "lab/greedy:1";
    let changes = [
        "ENV NVIDIA_VISIBLE_DEVICES=all",
        "ENV NVIDIA_DRIVER_CAPABILITIES=all",
        "ENV NVIDIA_REQUIRE_CUDA=cuda>=1.0",
        "ENV CUDA_VISIBLE_DEVICES=0,1",
        "ENV LD_PRELOAD=/tmp/evil.so",
        "ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64",
    ];
    engine.import(name, &changes);
    name.to_owned()
}

/// What the first process sees of its GPUs, and that the image's other words are gone.
fn assert_only(engine: &Engine, id: &InstanceId, visible: &str) {
    let name = container_name(id);
    let env = engine.docker(&[
        "exec",
        &name,
        "sh",
        "-c",
        "tr '\\000' '\\n' </proc/1/environ",
    ]);
    let env: Vec<&str> = env.lines().collect();
    let values: Vec<&str> = env
        .iter()
        .filter_map(|entry| entry.strip_prefix("NVIDIA_VISIBLE_DEVICES="))
        .collect();
    assert_eq!(values[0], visible, "{env:?}");
    for gone in ["CUDA_VISIBLE_DEVICES", "LD_PRELOAD", "NVIDIA_REQUIRE_CUDA"] {
        assert!(!env.iter().any(|entry| entry.starts_with(gone)), "{env:?}");
    }
    assert!(
        env.contains(&"LD_LIBRARY_PATH=/usr/local/cuda/lib64"),
        "{env:?}"
    );
}

/// An image with a stand-in for `nvidia-smi` that says `says`, a script.
fn image_with_smi(engine: &Engine, says: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("nvidia-smi");
    std::fs::write(&script, format!("#!/bin/sh\n{says}\n")).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let image = "lab/smi:1".to_owned();
    engine.docker(&["create", "--name", "maker", crate::lab::BUSYBOX, "true"]);
    engine.docker(&["cp", script.to_str().unwrap(), "maker:/bin/nvidia-smi"]);
    engine.docker(&["commit", "maker", &image]);
    engine.docker(&["rm", "maker"]);
    image
}

fn condition<'a>(record: &'a Instance, kind: &str) -> Option<&'a str> {
    let mut conditions = record.conditions.iter();
    let found = conditions.find(|condition| condition.kind == kind);
    found.map(|condition| condition.reason.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn gpus_are_verified_before_ready_by_the_strongest_means_that_there_is() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(2);
    world.up().await;
    let (_, record) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    assert_eq!(condition(&record, "gpus_verified"), Some("inspect"));
    let says = "[ \"$1\" = -L ] && echo \"GPU 0: NVIDIA Stand-in (UUID: $NVIDIA_VISIBLE_DEVICES)\"";
    world.image = image_with_smi(&engine, says);
    let (_, record) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    assert_eq!(condition(&record, "gpus_verified"), Some("nvidia_smi"));
    let (_, record) = world.deploy_ready(&world.sleeper()).await;
    assert_eq!(condition(&record, "gpus_verified"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_that_shows_a_wrong_gpu_or_shows_none_where_it_has_to_fails() {
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(1);
    world.set_env("RENTAL_AGENT__GPU__VERIFY", "strict");
    world.up().await;
    let (_, error) = world.deploy_failed(&world.sleeper().gpus(1)).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable, "{error:?}");
    assert!(error.message.contains("gpu.verify"), "{error:?}");
    world.image = image_with_smi(&engine, "echo 'GPU 0: Other (UUID: GPU-wrong)'");
    let (_, error) = world.deploy_failed(&world.sleeper().gpus(1)).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable, "{error:?}");
    assert!(error.message.contains("GPU-wrong"), "{error:?}");
    world.wait_idle().await;
    world.assert_clean().await;
}

/// Engine 26 with CDI, a specification written by hand: environment and a device file for each GPU.
#[tokio::test(flavor = "multi_thread")]
async fn soak_by_cdi_a_rental_gets_its_gpus_and_an_image_that_asks_for_all_no_other() {
    let Some(engine) = engine_with_cdi() else {
        return;
    };
    engine.cdi_spec("nvidia.yaml", &cdi_spec(&[0, 1]));
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(3);
    world.up().await;
    world.image = greedy_image(&engine);
    let one = world.sleeper().gpu_uuids(&[&gpu_uuid(1)]);
    let (id, _) = world.deploy_ready(&one).await;
    let seen = world.running(&id).await;
    let host = seen.inspect.host_config.unwrap();
    let request = &host.device_requests.unwrap()[0];
    assert_eq!(request.driver.as_deref(), Some("cdi"));
    let name = format!("nvidia.com/gpu={}", gpu_uuid(1));
    assert_eq!(request.device_ids, Some(vec![name]));
    let name = container_name(&id);
    let files = engine.docker(&["exec", &name, "ls", "/dev"]);
    let files: Vec<&str> = files
        .lines()
        .filter(|file| file.starts_with("nvidia"))
        .collect();
    assert_eq!(files, ["nvidia241"]);
    let first = engine.docker(&[
        "exec",
        &name,
        "sh",
        "-c",
        "tr '\\000' '\\n' </proc/1/environ",
    ]);
    let count = first
        .lines()
        .filter(|line| line.starts_with("STAND_IN="))
        .count();
    assert_eq!(count, 1, "{first}");
    assert_only(&engine, &id, "void");

    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let files = engine.docker(&["exec", &container_name(&id), "ls", "/dev"]);
    assert!(!files.contains("nvidia"), "{files}");
    assert_only(&engine, &id, "void");
}

/// The engine has no GPU runtime beside CDI, and the specification has lost the device since the agent
/// read it: the container is made anew with a request, which says what is missing.
#[tokio::test(flavor = "multi_thread")]
async fn soak_a_gpu_that_cdi_does_not_resolve_is_asked_for_by_uuid_once() {
    let Some(engine) = engine_with_cdi() else {
        return;
    };
    engine.cdi_spec("nvidia.yaml", &cdi_spec(&[0, 1]));
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(2);
    world.up().await;
    engine.cdi_spec("nvidia.yaml", &cdi_spec(&[0]));
    let lost = world.sleeper().gpu_uuids(&[&gpu_uuid(1)]);
    let (_, error) = world.deploy_failed(&lost).await;
    assert_eq!(error.code, ErrorCode::GpuRuntimeMissing, "{error:?}");
    world.wait_log("CDI failed").await;
    let kept = world.sleeper().gpu_uuids(&[&gpu_uuid(0)]);
    world.deploy_ready(&kept).await;
}

#[allow(
    clippy::print_stderr,
    reason = "who runs the tests has to know what was not shown"
)]
fn engine_with_cdi() -> Option<Engine> {
    if crate::lab::cdi_engine().is_none() {
        eprintln!("SKIPPED: no engine that knows CDI; `scripts/test soak` gets one where it can");
        return None;
    }
    Some(Engine::own(Own {
        cdi: true,
        ..Own::default()
    }))
}

/// Of the stand-in's GPUs with these numbers. Their device files are null devices by another name.
fn cdi_spec(numbers: &[u32]) -> String {
    let devices: Vec<serde_json::Value> = numbers
        .iter()
        .map(|n| {
            let node = json!({
                "path": format!("/dev/nvidia{}", 240 + n), "type": "c", "major": 1, "minor": 3,
            });
            let edits = json!({ "deviceNodes": [node], "env": [format!("STAND_IN={n}")] });
            json!({ "name": gpu_uuid(*n), "containerEdits": edits })
        })
        .collect();
    json!({ "cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": devices }).to_string()
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
    assert_eq!(error.stage, Some(Stage::Start));
    // The engine looks for one only when it starts, so that by now it is known.
    let (_, error) = world.deploy_failed(&world.sleeper().gpus(1)).await;
    assert_eq!(error.code, ErrorCode::GpuRuntimeMissing, "{error:?}");
    assert_eq!(error.stage, Some(Stage::Admit));
    assert!(error.message.contains("container toolkit"), "{error:?}");
    world.wait_idle().await;
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
pub(super) async fn wait_gpu(world: &World, what: &str, wanted: impl Fn(&Gpu) -> bool) {
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

pub(super) async fn assert_refused(world: &World) {
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

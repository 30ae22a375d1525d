//! On an engine of the test's own, where no other agent is: the command line is the provider's, with
//! nothing added that would keep two agents apart.

use std::fs;

use rental_agent::{dev::AgentView, protocol::record::View};
use tempfile::TempDir;

use super::hosted::Hosted;
use crate::{
    fake_nvml,
    lab::{Engine, Own},
    world::{SOON, gpu_uuid, serves_http},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_does_its_main_job_from_inside_its_image() {
    let engine = Engine::own(Own::default());
    let mut hosted = Hosted::build(&engine).await;
    let view = hosted.run().await;
    let own = hosted.inspect("{{.Id}} {{.State.StartedAt}}");
    let host = view.hello.unwrap().host;
    assert_eq!(host.view, View::Container);
    // An address that only other containers reach is worse than none.
    assert_eq!(host.public_address, None);
    // The host's name, not the container's.
    let name = engine.docker(&["info", "-f", "{{.Name}}"]);
    let world = &hosted.world;
    let knows = |view: &AgentView| {
        let hello = view.hello.as_ref();
        hello.is_some_and(|hello| hello.host.hostname == name)
    };
    let known = world.server.wait_agent("the host's name", knows, SOON);
    known.await.unwrap();
    let spec = world.spec(&serves_http()).port("web", 80);
    let (id, record) = world.deploy_ready(&spec).await;
    assert_eq!(world.get(record.ports[0].host).await, "hello\n");
    let seen = world.running(&id).await;
    assert_eq!(record.container_id.unwrap().as_str(), seen.id);

    engine.docker(&["exec", &hosted.name, "/usr/bin/rental-agent", "healthcheck"]);
    hosted.wait_healthy().await;
    world.terminate(&id).await;
    world.assert_clean().await;
    assert_eq!(hosted.inspect("{{.Id}} {{.State.StartedAt}}"), own);
    // No shell and no tool that a stranger could use.
    let shell = engine.try_docker(&["exec", &hosted.name, "sh", "-c", "true"]);
    assert!(!shell.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn rentals_outlive_a_restart_of_the_agents_container_and_its_replacement() {
    let engine = Engine::own(Own::default());
    let mut hosted = Hosted::build(&engine).await;
    hosted.run().await;
    let first = hosted.world.deploy_ready(&hosted.world.sleeper()).await.0;
    let web = hosted.world.spec(&serves_http()).port("web", 80);
    let (second, record) = hosted.world.deploy_ready(&web).await;
    let mut before = Vec::new();
    for id in [&first, &second] {
        let seen = hosted.world.running(id).await;
        before.push((seen.id, seen.started_at));
    }
    hosted.restart().await;
    hosted.replace().await;
    engine.docker(&["stop", &hosted.name]);
    assert_eq!(hosted.inspect("{{.State.ExitCode}}"), "0");
    hosted.remove();
    let web = hosted.world.get(record.ports[0].host).await;
    assert_eq!(web, "hello\n", "without an agent");
    hosted.run().await;
    let mut after = Vec::new();
    for id in [&first, &second] {
        let seen = hosted.world.running(id).await;
        after.push((seen.id, seen.started_at));
        hosted.world.terminate(id).await;
    }
    assert_eq!(before, after);
    hosted.world.assert_clean().await;
}

/// It is given all GPUs to look at them, and would else be in its own way.
#[tokio::test(flavor = "multi_thread")]
async fn the_agents_own_container_holds_no_gpu() {
    let engine = Engine::own(Own {
        gpus: true,
        ..Own::default()
    });
    // Linked to all that the real library is linked to, which the image has to have.
    let folder = TempDir::new().unwrap();
    let needs = ["-Wl,--no-as-needed", "-l:libdl.so.2", "-l:libpthread.so.0"];
    let library = fake_nvml::build(folder.path(), &needs);
    fs::write(library.with_extension("so.script"), "gpus 1\n").unwrap();
    let volume = format!("{0}:{0}:ro", folder.path().display());
    let variable = format!("RENTAL_AGENT__GPU__NVML_LIBRARY={}", library.display());
    let hosted = Hosted::build(&engine).await;
    let idle = "RENTAL_AGENT__GPU__IDLE_MEMORY_BYTES=2147483648";
    let gpus = ["--gpus", "all", "-v", &volume];
    let mut hosted = hosted.with(&[&gpus[..], &["-e", &variable, "-e", idle]].concat());
    hosted.run().await;
    let world = &hosted.world;
    world.wait_gpus().await;
    let (id, record) = world.deploy_ready(&world.sleeper().gpus(1)).await;
    assert_eq!(record.gpus.len(), 1);
    assert_eq!(record.gpus[0].as_str(), gpu_uuid(0));
    world.terminate(&id).await;
}

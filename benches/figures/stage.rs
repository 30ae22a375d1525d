//! What all figures are measured on.

use std::{thread, time::Duration};

use bollard::{
    Docker,
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
        StopContainerOptionsBuilder,
    },
};
use serde_json::{Value, json};

use crate::world::{Spec, World};

/// A world whose agent logs as it does on a host.
pub(crate) async fn quiet_world() -> World {
    let mut world = World::shared().await;
    world.set_env("RENTAL_AGENT__LOG__FILTER", "info");
    world.set_env("RENTAL_AGENT__RESOURCES__MAX_INSTANCES", "1000");
    world
}

/// What the agent asks the engine for when it is given such a deploy, without the labels: nobody's
/// container, or the agent would look after it.
pub(crate) async fn body_of(spec: impl FnOnce(&World) -> Spec) -> ContainerCreateBody {
    let mut world = quiet_world().await;
    let proxy = world.behind_proxy();
    world.up().await;
    world.deploy_ready(&spec(&world)).await;
    let mut calls = proxy.changes().into_iter();
    let create = calls.find(|call| call.path.ends_with("/containers/create"));
    let mut body: ContainerCreateBody = serde_json::from_value(create.unwrap().body).unwrap();
    body.labels = None;
    body
}

/// Create and start, by the engine alone.
pub(crate) async fn create_and_start(docker: &Docker, name: &str, body: &ContainerCreateBody) {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    let created = docker.create_container(Some(options), body.clone()).await;
    created.unwrap();
    let started = docker.start_container(name, None::<StartContainerOptions>);
    started.await.unwrap();
}

/// Stop and remove, by the engine alone.
pub(crate) async fn stop_and_remove(docker: &Docker, name: &str) {
    let grace = StopContainerOptionsBuilder::default().t(2).build();
    docker.stop_container(name, Some(grace)).await.unwrap();
    remove(docker, name).await;
}

/// Remove, whatever its state.
pub(crate) async fn remove(docker: &Docker, name: &str) {
    let force = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    docker.remove_container(name, Some(force)).await.unwrap();
}

/// In milliseconds.
pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// What the figures hold for.
pub(crate) async fn machine() -> Value {
    let world = World::shared().await;
    let engine = world.docker.version().await.unwrap();
    json!({
        "agent": env!("CARGO_PKG_VERSION"),
        "engine": engine.version,
        "kernel": engine.kernel_version,
        "arch": engine.arch,
        "cpus": thread::available_parallelism().map_or(1, usize::from),
    })
}

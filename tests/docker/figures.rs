//! Figures, not verdicts: how long a deploy takes beside what the engine takes alone, how much memory
//! the agent holds, how soon it is back. They depend on the machine, so nothing is asserted of them.

use std::{fs, time::Duration};

use bollard::{
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
    },
};
use rental_agent::{ids::InstanceId, protocol::Instance};
use tokio::time::Instant;

use crate::{
    proxied::Proxied,
    world::{Spec, World, container_name},
};

const PAIRS: usize = 30;

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "figures are for people")]
async fn soak_figures_of_a_deploy_beside_the_engine_alone() {
    let body = body_of_a_deploy().await;
    let mut world = World::shared().await;
    world.up().await;
    let (mut deploys, mut heard, mut raw) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let begin = Instant::now();
        let (id, record) = world.deploy_ready(&unthrottled(&world)).await;
        heard.push(begin.elapsed());
        deploys.push(accepted_to_ready(&record));
        world.terminate(&id).await;
        raw.push(create_and_start(&world, &body, pair).await);
    }
    println!(
        "{PAIRS} interleaved pairs, median (least to most), {}",
        build()
    );
    println!(
        "  deploy, accepted to ready        {}",
        spread(&mut deploys)
    );
    println!("  deploy, command to reply heard   {}", spread(&mut heard));
    println!("  the engine alone, create, start  {}", spread(&mut raw));
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::print_stdout, reason = "figures are for people")]
async fn soak_figures_of_memory_and_of_the_return() {
    let mut world = World::shared().await;
    world.set_env("RENTAL_AGENT__RESOURCES__MAX_INSTANCES", "200");
    world.set_env("RENTAL_AGENT__RESOURCES__RESERVE__CPUS", "0");
    world.set_env("RENTAL_AGENT__LOG__FILTER", "info");
    world.up().await;
    println!("resident memory of the agent, {}", build());
    world.wait_heartbeats(15).await;
    println!("  without rentals    {} KiB", resident_kib(&world));
    deploy_many(&world, 50).await;
    world.wait_heartbeats(15).await;
    println!("  with 50 rentals    {} KiB", resident_kib(&world));
    world.restart_agent().await;
    world.wait_heartbeats(15).await;
    println!("  the same, restarted {} KiB", resident_kib(&world));
    deploy_many(&world, 50).await;
    let mut returns = Vec::new();
    for _ in 0..5 {
        world.kill_agent();
        let begin = Instant::now();
        world.up().await;
        returns.push(begin.elapsed());
    }
    println!(
        "start to synced with 100 rentals   {}",
        spread(&mut returns)
    );
}

/// What the agent asks the engine for.
async fn body_of_a_deploy() -> ContainerCreateBody {
    let mut stage = Proxied::shared().await;
    stage.world.up().await;
    stage.world.deploy_ready(&unthrottled(&stage.world)).await;
    let calls = stage.proxy.changes();
    let create = calls
        .into_iter()
        .find(|call| call.path.ends_with("/containers/create"));
    serde_json::from_value(create.expect("a create").body).unwrap()
}

/// The same container as the agent makes, by the engine alone.
async fn create_and_start(world: &World, body: &ContainerCreateBody, pair: usize) -> Duration {
    let id: InstanceId = format!("{}-raw{pair}", world.instance_id())
        .parse()
        .unwrap();
    let name = container_name(&id);
    let mut body = body.clone();
    // Nobody's, or the agent would look after it.
    body.labels = None;
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let begin = Instant::now();
    world
        .docker
        .create_container(Some(options), body)
        .await
        .unwrap();
    world
        .docker
        .start_container(&name, None::<StartContainerOptions>)
        .await
        .unwrap();
    let took = begin.elapsed();
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    world
        .docker
        .remove_container(&name, Some(force))
        .await
        .unwrap();
    took
}

async fn deploy_many(world: &World, count: usize) {
    let specs: Vec<Spec> = (0..count).map(|_| small(world)).collect();
    // A few at once: the engine starts no more than that in parallel.
    for specs in specs.chunks(5) {
        let tickets: Vec<_> = specs.iter().map(|spec| world.deploy(spec).1).collect();
        for ticket in tickets {
            let reply = world.final_reply(&ticket).await;
            assert!(reply.error.is_none(), "{reply:?}");
        }
    }
}

/// A hundredth of a core would slow the start itself down.
fn unthrottled(world: &World) -> Spec {
    world.sleeper().with("cpus", 1)
}

fn small(world: &World) -> Spec {
    world.sleeper().with("cpus", 0.01)
}

fn accepted_to_ready(record: &Instance) -> Duration {
    let timeline = &record.timeline;
    timeline
        .ready_at
        .unwrap()
        .since(timeline.accepted_at.unwrap())
}

fn resident_kib(world: &World) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.agent_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

fn spread(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |index: usize| times[index].as_millis();
    let (first, middle, last) = (at(0), at(times.len() / 2), at(times.len() - 1));
    format!("{middle} ms ({first} to {last})")
}

fn build() -> &'static str {
    if cfg!(debug_assertions) {
        "debug build"
    } else {
        "release build"
    }
}

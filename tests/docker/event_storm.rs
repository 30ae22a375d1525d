//! F27: the engine tells of thousands of things that are none of the agent's business.

use std::{fs, time::Duration};

use bollard::{
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder},
};
use futures_util::{StreamExt, stream};
use rental_agent::protocol::{EndReason, Phase};
use tokio::time::Instant;

use crate::world::World;

/// As many as the engine makes in a moment; each is two events.
const CONTAINERS: usize = 300;

/// Processor time of a process so far, and its resident memory.
fn cost(pid: u32) -> (Duration, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks = |index: usize| -> u64 {
        let field = after_name.split_whitespace().nth(index).unwrap();
        field.parse().unwrap()
    };
    // utime and stime are the 14th and 15th, in hundredths of a second; rss in pages is the 24th.
    let spent = Duration::from_millis((ticks(11) + ticks(12)) * 10);
    (spent, ticks(21) * 4096)
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_a_storm_of_events_costs_little_and_keeps_nothing_waiting() {
    let mut world = World::shared().await;
    // As in production: a line for each event would be the cost that is measured.
    world.set_env("RENTAL_AGENT__LOG__FILTER", "info");
    world.up().await;
    let (before, _) = world.deploy_ready(&world.sleeper()).await;
    world.wait_heartbeats(2).await;
    let (spent_before, memory_before) = cost(world.agent_pid());
    let began = Instant::now();
    let storm = async {
        let turns = stream::iter(0..CONTAINERS).map(|number| create_and_remove(&world, number));
        turns.buffer_unordered(16).collect::<Vec<()>>().await;
    };
    // What the server wants meanwhile is done meanwhile.
    let spec = world.sleeper();
    let rental = async {
        let (id, _) = world.deploy_ready(&spec).await;
        world.terminate(&id).await;
        world.wait_ended(&id, EndReason::Terminated).await;
    };
    tokio::join!(storm, rental);
    let took = began.elapsed();
    world.wait_heartbeats(2).await;
    let (spent, memory) = cost(world.agent_pid());
    let spent = spent - spent_before;
    // A tenth of a processor, and half a second for the rental and the lists.
    let allowed = took / 10 + Duration::from_millis(500);
    assert!(spent < allowed, "{spent:?} within {took:?}");
    let grown = memory.saturating_sub(memory_before);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes");
    assert_eq!(world.server.instance(&before).unwrap().phase, Phase::Ready);
    world.running(&before).await;
}

async fn create_and_remove(world: &World, number: usize) {
    let name = world.stranger_name(&format!("storm-{number}"));
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let body = ContainerCreateBody {
        image: Some(world.image.clone()),
        cmd: Some(vec!["true".to_owned()]),
        ..ContainerCreateBody::default()
    };
    world
        .docker
        .create_container(Some(options), body)
        .await
        .unwrap();
    let force = RemoveContainerOptionsBuilder::default().force(true).build();
    world
        .docker
        .remove_container(&name, Some(force))
        .await
        .unwrap();
}

//! Deploys and terminates, beside what the engine alone takes for the same container.

use std::time::Instant;

use bollard::models::ContainerCreateBody;
use futures_util::future::join_all;

use crate::{
    report::Figure,
    stage::{body_of, create_and_start, ms, quiet_world, remove, stop_and_remove},
    world::{Spec, World},
};

/// So many at once.
const CROWD: usize = 20;

/// A deploy and a terminate, one pair after the other.
pub(crate) async fn one_by_one(pairs: usize) -> Vec<Figure> {
    let body = body_of(unthrottled).await;
    let mut world = quiet_world().await;
    world.up().await;
    // The first ones pay for what is made once.
    ours(&world).await;
    raw(&world, &body, "warm").await;
    let (mut deploys, mut heard, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..pairs {
        let name = pair.to_string();
        // In turn, so that none is always the first.
        let (ours, raw) = if pair % 2 == 0 {
            let ours = ours(&world).await;
            (ours, raw(&world, &body, &name).await)
        } else {
            let raw = raw(&world, &body, &name).await;
            (ours(&world).await, raw)
        };
        deploys.push((ours.deploy, raw.start));
        heard.push((ours.heard, raw.start));
        ends.push((ours.terminate, raw.stop));
    }
    vec![
        Figure::of_pairs("deploy, accepted to ready", &deploys, 0.05, 10.0),
        Figure::of_pairs("deploy, command to done", &heard, 0.05, 10.0),
        Figure::of_pairs("terminate, command to done", &ends, 0.05, 10.0),
    ]
}

/// In milliseconds.
struct Ours {
    deploy: f64,
    heard: f64,
    terminate: f64,
}

/// In milliseconds.
struct Raw {
    start: f64,
    stop: f64,
}

async fn ours(world: &World) -> Ours {
    let spec = unthrottled(world);
    let begin = Instant::now();
    let (id, record) = world.deploy_ready(&spec).await;
    let heard = ms(begin.elapsed());
    let times = &record.timeline;
    let deploy = times.ready_at.unwrap().since(times.accepted_at.unwrap());
    let begin = Instant::now();
    world.terminate(&id).await;
    Ours {
        deploy: ms(deploy),
        heard,
        terminate: ms(begin.elapsed()),
    }
}

async fn raw(world: &World, body: &ContainerCreateBody, name: &str) -> Raw {
    let name = format!("raw-{name}-{}", world.agent_id());
    let begin = Instant::now();
    create_and_start(&world.docker, &name, body).await;
    let start = ms(begin.elapsed());
    let begin = Instant::now();
    stop_and_remove(&world.docker, &name).await;
    Raw {
        start,
        stop: ms(begin.elapsed()),
    }
}

/// Twenty deploys at once, from the first command to the last `done`.
pub(crate) async fn at_once(rounds: usize) -> Figure {
    let body = body_of(small).await;
    let mut world = quiet_world().await;
    world.up().await;
    let mut pairs = Vec::new();
    for round in 0..=rounds {
        let ours = crowd(&world).await;
        let raw = raw_crowd(&world, &body, round).await;
        // The first round pays for what is made once.
        if round > 0 {
            pairs.push((ours, raw));
        }
    }
    Figure::of_pairs("20 deploys at once", &pairs, 0.10, 0.0)
}

async fn crowd(world: &World) -> f64 {
    let specs: Vec<Spec> = (0..CROWD).map(|_| small(world)).collect();
    let begin = Instant::now();
    let deployed: Vec<_> = specs.iter().map(|spec| world.deploy(spec)).collect();
    for (_, ticket) in &deployed {
        let reply = world.final_reply(ticket).await;
        assert!(reply.error.is_none(), "{reply:?}");
    }
    let took = ms(begin.elapsed());
    join_all(deployed.iter().map(|(id, _)| world.terminate(id))).await;
    took
}

async fn raw_crowd(world: &World, body: &ContainerCreateBody, round: usize) -> f64 {
    let name = |n| format!("raw-{round}-{n}-{}", world.agent_id());
    let names: Vec<String> = (0..CROWD).map(name).collect();
    let begin = Instant::now();
    join_all(
        names
            .iter()
            .map(|name| create_and_start(&world.docker, name, body)),
    )
    .await;
    let took = ms(begin.elapsed());
    join_all(names.iter().map(|name| remove(&world.docker, name))).await;
    took
}

/// A share of a core would slow the start itself down.
fn unthrottled(world: &World) -> Spec {
    world.sleeper().with("cpus", 1)
}

/// Twenty of them fit on two cores.
fn small(world: &World) -> Spec {
    world.sleeper().with("cpus", 0.09)
}

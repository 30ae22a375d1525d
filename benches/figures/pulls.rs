//! Pulls, beside `docker pull`, from a registry on loopback.

use std::time::Instant;

use rental_agent::protocol::Outcome;
use serde_json::json;

use crate::{
    lab::{Engine, Registry},
    report::Figure,
    stage::{ms, quiet_world},
    world::World,
};

/// Puts an image of random bytes that nobody else has into the registry, and takes it out of the
/// engine. Gives the reference to pull it by.
pub(crate) fn publish(engine: &Engine, registry: &Registry, name: &str, mib: u64) -> String {
    let local = format!("bench/{name}");
    engine.import_large(&local, mib * 1024 * 1024);
    let reference = registry.push(engine, &local, name);
    engine.docker(&["rmi", &local]);
    reference
}

/// From the command to `done`, beside the whole of `docker pull`.
pub(crate) async fn pulls(rounds: usize, mib: u64) -> Figure {
    let engine = Engine::shared();
    let registry = Registry::open(&engine);
    let image = publish(&engine, &registry, "pulled:1", mib);
    let mut world = quiet_world().await;
    let allowed = json!([registry.address()]).to_string();
    world.set_env("RENTAL_AGENT__POLICY__ALLOWED_REGISTRIES", allowed);
    world.up().await;
    let mut pairs = Vec::new();
    for round in 0..=rounds {
        let (ours, raw) = if round % 2 == 0 {
            let ours = ours(&world, &engine, &image).await;
            (ours, raw(&engine, &image))
        } else {
            let raw = raw(&engine, &image);
            (ours(&world, &engine, &image).await, raw)
        };
        // The first round finds the registry's files cold.
        if round > 0 {
            pairs.push((ours, raw));
        }
    }
    Figure::of_pairs(&format!("pull of {mib} MiB"), &pairs, 0.05, 0.0)
}

async fn ours(world: &World, engine: &Engine, image: &str) -> f64 {
    let begin = Instant::now();
    let command = json!({ "op": "pull_image", "image": image });
    let ticket = world.server.command(command).unwrap();
    let reply = world.final_reply(&ticket).await;
    let took = ms(begin.elapsed());
    assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
    engine.docker(&["rmi", image]);
    took
}

fn raw(engine: &Engine, image: &str) -> f64 {
    let begin = Instant::now();
    engine.docker(&["pull", "--quiet", image]);
    let took = ms(begin.elapsed());
    engine.docker(&["rmi", image]);
    took
}

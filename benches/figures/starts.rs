//! Memory at rest, and how soon the agent is back: from the start of its process until the server
//! has its whole state.

use std::{fs, time::Instant};

use crate::{
    report::Figure,
    stage::{ms, quiet_world},
    world::{SOON, Spec, World},
};

/// Rentals beside which memory is read.
const SOME: usize = 50;

/// Memory with none and with fifty rentals; starts with as many as are asked for.
pub(crate) async fn memory_and_starts(rentals: usize, starts: usize) -> Vec<Figure> {
    let mut world = quiet_world().await;
    world.up().await;
    world.wait_heartbeats(15).await;
    let mut figures = vec![Figure::absolute(
        "resident memory at rest",
        "MiB",
        resident_mib(&world),
        20.0,
    )];
    let some = SOME.min(rentals);
    deploy_many(&world, some).await;
    world.wait_heartbeats(15).await;
    let name = format!("resident memory with {some} rentals");
    figures.push(Figure::absolute(&name, "MiB", resident_mib(&world), 25.0));
    deploy_many(&world, rentals - some).await;

    let name = format!("start to synced with {rentals} rentals");
    let samples = come_back(&mut world, starts).await;
    figures.push(Figure::of_samples(&name, "ms", &samples, 500.0));
    let gpus = world.with_gpus(1);
    gpus.script("gpus 1\nhang\n");
    let samples = come_back(&mut world, starts).await;
    let name = format!("{name}, GPU driver hangs");
    figures.push(Figure::of_samples(&name, "ms", &samples, 500.0));
    figures
}

async fn come_back(world: &mut World, starts: usize) -> Vec<f64> {
    let mut samples = Vec::new();
    for _ in 0..starts {
        world.kill_agent();
        let begin = Instant::now();
        world.start_agent();
        world.wait_synced(SOON).await;
        samples.push(ms(begin.elapsed()));
    }
    samples
}

async fn deploy_many(world: &World, count: usize) {
    let specs: Vec<Spec> = (0..count)
        .map(|_| world.sleeper().with("cpus", 0.01))
        .collect();
    // A few at once: the engine starts no more than that in parallel.
    for specs in specs.chunks(5) {
        let tickets: Vec<_> = specs.iter().map(|spec| world.deploy(spec).1).collect();
        for ticket in tickets {
            let reply = world.final_reply(&ticket).await;
            assert!(reply.error.is_none(), "{reply:?}");
        }
    }
}

fn resident_mib(world: &World) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", world.agent_pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap().trim().trim_end_matches(" kB");
    kib.parse::<f64>().unwrap() / 1024.0
}

//! The agent is killed at any moment between a deploy and the end of its terminate, not only at its
//! calls to the engine, and without a proxy in between, so that calls in flight go on by themselves.

use std::{fmt::Write, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use rental_agent::protocol::Phase;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    crash::{Act, Story, Witness},
    world::World,
};

/// Cases at once, as few as keep the engine's pace near that of a lone cycle.
const AT_ONCE: usize = 4;
/// Names a seed to run again what failed.
const SEED: &str = "RENTAL_AGENT_TEST_SEED";

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_survives_kills_at_random_times() {
    kills(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_a_rental_survives_fifty_kills_at_random_times() {
    kills(50).await;
}

#[allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "the seed is needed to run it again, and is named by whoever does"
)]
async fn kills(count: usize) {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("{count} kills at random times, {SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let cycle = cycle().await;
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut cases = JoinSet::new();
    for _ in 0..count {
        let (permits, after) = (Arc::clone(&permits), cycle.mul_f64(random.random()));
        cases.spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            (after, case(after).await)
        });
    }
    let mut report = String::new();
    while let Some(case) = cases.join_next().await {
        let (after, phase) = case.unwrap();
        writeln!(report, "  {:>5} ms, {phase}", after.as_millis()).unwrap();
    }
    println!(
        "within {} ms, and what the server had seen then:\n{report}",
        cycle.as_millis()
    );
}

/// How long a deploy and a terminate take when nothing happens.
async fn cycle() -> Duration {
    let mut world = World::shared().await;
    world.up().await;
    let begin = Instant::now();
    let (id, _) = world.deploy_ready(&world.sleeper().port("web", 80)).await;
    world.terminate(&id).await;
    begin.elapsed()
}

/// One cycle with one kill; gives the phase in which it came.
async fn case(after: Duration) -> String {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.sleeper().port("web", 80);
    let kill_at = Instant::now() + after;
    let mut act = Story::Deploy.begin(&world, &spec, None);
    tokio::select! {
        () = sleep_until(kill_at) => {}
        reply = world.final_reply(&act.deploy) => {
            drop(reply);
            act.story = Story::Terminate;
            act.terminate = Some(world.server.terminate(&act.id).unwrap());
            sleep_until(kill_at).await;
        }
    }
    let phase = world.server.instance(&act.id).map(|record| record.phase);
    world.kill_agent();
    // A terminate may be at work in the engine still.
    let before = match act.story {
        Story::Deploy => Witness::of(&world, &act).await,
        Story::Terminate | Story::StartFails | Story::NoProgram | Story::ExitsAtOnce => None,
    };
    world.up().await;
    let shown = said(&act, phase);
    act.conclude(&world, before).await;
    shown
}

fn said(act: &Act, phase: Option<Phase>) -> String {
    let phase = phase.map_or_else(|| "nothing".to_owned(), |phase| format!("{phase:?}"));
    format!("{:?}: {phase}", act.story)
}

//! The engine itself is killed at every call by which the agent changes something in it, before it
//! sees the call and after it has answered it; the agent lives on and misses the answer. Then the
//! engine is started again, and what was commanded comes about.

use std::sync::{Arc, Mutex};

use crate::{
    crash::{Story, Table, Target, Witness, came_to_the_cut, kill_and_wait, undisturbed},
    lab::{Engine, Own, Side},
    proxied::Proxied,
    world::container_name,
};

/// A call that a run may do without is waited for in so many runs.
const TRIES: usize = 3;
const BOTH: [Side; 2] = [Side::BeforeEngine, Side::AfterEngine];

/// What becomes of containers when their engine dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Containers {
    /// They die with it and are started again.
    Mortal,
    /// Live-restore: nothing that runs may notice.
    Restored,
}

#[tokio::test(flavor = "multi_thread")]
async fn own_engine_a_deploy_survives_the_engines_death_before_each_call() {
    matrix(Containers::Mortal, &[Story::Deploy], &BOTH[..1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn own_engine_a_deploy_survives_the_engines_death_after_each_call() {
    matrix(Containers::Mortal, &[Story::Deploy], &BOTH[1..]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_every_story_survives_the_engines_death_at_each_call() {
    matrix(Containers::Mortal, &Story::ALL, &BOTH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_every_story_survives_the_engines_death_with_live_restore() {
    matrix(Containers::Restored, &Story::ALL, &BOTH).await;
}

async fn matrix(containers: Containers, stories: &[Story], sides: &[Side]) {
    let mut engine = Engine::own(Own {
        live_restore: containers == Containers::Restored,
        ..Own::default()
    });
    for story in stories {
        story.furnish(&engine);
        let targets = undisturbed(*story, Proxied::own(&engine)).await;
        let mut table = Table::default();
        for target in &targets {
            for side in sides {
                for _ in 0..TRIES {
                    if case(&mut engine, containers, *story, target, *side).await {
                        table.count(target, *side);
                        break;
                    }
                }
                // What fails may do so in fewer steps: a list may show it before the next try.
                let sure = matches!(story, Story::Deploy | Story::Terminate);
                assert!(
                    !sure || table.reached(target, *side) == 1,
                    "{target} {side:?}"
                );
            }
        }
        table.print(
            &format!("{story:?}: the engine killed at, {containers:?}"),
            &targets,
        );
    }
}

/// One run with one kill. `false`: the call did not come.
async fn case(
    engine: &mut Engine,
    containers: Containers,
    story: Story,
    target: &Target,
    side: Side,
) -> bool {
    let mut stage = Proxied::own(engine).await;
    let prepared = story.prepare(&mut stage.world).await;
    let spec = story.spec(&stage.world);
    let id = prepared
        .as_ref()
        .map_or_else(|| spec.id(), |act| act.id.clone());
    let witness = kill_at(engine, &stage, &id, target.picker(&id), side);
    let act = story.begin(&stage.world, &spec, prepared);
    let came = came_to_the_cut(&stage, &act).await;
    if came {
        engine.kill9();
        engine.start();
    }
    stage.proxy.let_all_pass();
    let ran = witness.lock().unwrap().take();
    act.conclude(
        &stage.world,
        ran.filter(|_| containers == Containers::Restored),
    )
    .await;
    came
}

/// Kills the engine when the call comes. Gives what ran then.
fn kill_at(
    engine: &Engine,
    stage: &Proxied,
    id: &rental_agent::ids::InstanceId,
    due: impl FnMut(&crate::lab::Call) -> bool + Send + 'static,
    side: Side,
) -> Arc<Mutex<Option<Witness>>> {
    let witness = Arc::new(Mutex::new(None));
    let (dockerd, name, mut client) = (engine.pid(), container_name(id), engine.client());
    let ran = Arc::clone(&witness);
    stage.proxy.cut_where(due, side, move || {
        *ran.lock().unwrap() = Witness::of_container(&mut client, &name);
        kill_and_wait(dockerd);
    });
    witness
}

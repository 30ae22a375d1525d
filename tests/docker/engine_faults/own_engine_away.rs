//! The engine does not answer: nobody listens, or it takes connections and is silent.

use std::time::Duration;

use rental_agent::{
    dev::AgentView,
    protocol::{EndReason, ErrorCode, Outcome, Phase, record::EngineStatus},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::{
    lab::{Engine, Own},
    world::{LATER, SOON, World},
};

/// A deploy that nobody can look at is refused within this: the 5 s for which commands may wait.
const FAST: Duration = Duration::from_secs(10);

/// F17.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_an_engine_is_there_and_says_so_and_recovers_by_itself() {
    let mut engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    engine.stop();
    world.start_agent();
    let view = world.wait_engine(EngineStatus::Unavailable, SOON).await;
    let hello = view.hello.unwrap();
    assert!(!hello.status.rentable);
    assert!(
        hello
            .status
            .reasons
            .contains(&"engine_unavailable".to_owned())
    );
    assert_eq!(hello.host.engine, None);

    let began = Instant::now();
    let (_, error) = world.deploy_failed(&world.sleeper()).await;
    assert_eq!(error.code, ErrorCode::EngineUnavailable, "{error:?}");
    assert!(began.elapsed() < FAST, "{:?}", began.elapsed());
    let unseen = world.instance_id();
    let terminate = world.server.terminate(&unseen).unwrap();
    let reply = world.server.wait_reply(&terminate, FAST).await.unwrap();
    assert_eq!(reply.outcome, Outcome::Accepted);
    assert!(
        !world.server.agent_view().unwrap().synced,
        "nothing is known yet"
    );

    engine.start();
    world.wait_up(SOON).await;
    assert_eq!(world.final_reply(&terminate).await.outcome, Outcome::Done);
    world.wait_ended(&unseen, EndReason::Cancelled).await;
    world.deploy_ready(&world.sleeper()).await;
}

/// F17, with rentals.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_before_its_engine_takes_up_what_runs_when_the_engine_is_back() {
    let mut engine = Engine::own(Own {
        live_restore: true,
        ..Own::default()
    });
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, ready) = world.deploy_ready(&world.sleeper()).await;
    let before = world.running(&id).await;
    world.kill_agent();
    engine.stop();
    world.start_agent();
    let view = world.wait_engine(EngineStatus::Unavailable, SOON).await;
    assert!(!view.synced, "a rental that cannot be seen is not gone");
    engine.start();
    world.wait_up(SOON).await;
    let record = world.wait_phase(&id, Phase::Ready).await;
    assert_eq!(record.container_id, ready.container_id);
    assert_eq!(world.running(&id).await.started_at, before.started_at);
}

/// F21.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_engine_is_degraded_and_nothing_is_ended_or_freed() {
    let engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper().port("web", 80)).await;
    let before = world.running(&id).await;
    let occupied = |view: &AgentView| view.hello.as_ref().unwrap().occupied.clone();
    let is_held = |view: &AgentView| occupied(view).instances == 1;
    let view = world
        .server
        .wait_agent("a rental held", is_held, SOON)
        .await;
    let held = occupied(&view.unwrap());

    engine.freeze();
    let view = world.wait_engine(EngineStatus::Degraded, SOON).await;
    assert_eq!(occupied(&view), held);
    // Heartbeats go on, on the same link.
    let session = world.server.session();
    world.wait_heartbeats(3).await;
    assert_eq!(world.server.session(), session);
    let began = Instant::now();
    let (_, error) = world.deploy_failed(&world.sleeper()).await;
    assert_eq!(error.code, ErrorCode::EngineUnavailable, "{error:?}");
    assert!(began.elapsed() < FAST, "{:?}", began.elapsed());
    let record = world.server.instance(&id).unwrap();
    assert_eq!(record.phase, Phase::Ready);

    engine.thaw();
    let view = world.wait_engine(EngineStatus::Ok, SOON).await;
    assert_eq!(occupied(&view), held);
    assert_eq!(world.running(&id).await.started_at, before.started_at);
    assert_eq!(world.wait_phase(&id, Phase::Ready).await.restarts, 0);
    world.deploy_ready(&world.sleeper()).await;
}

/// F21, with a terminate in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_of_a_silent_engine_is_accepted_and_done_when_it_answers() {
    let engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    engine.freeze();
    world.wait_engine(EngineStatus::Degraded, SOON).await;
    let ticket = world.server.terminate(&id).unwrap();
    let reply = world.server.wait_reply(&ticket, SOON).await.unwrap();
    assert_eq!(reply.outcome, Outcome::Accepted);
    world.wait_heartbeats(2).await;
    assert!(
        world.server.settled_by(&ticket).is_none(),
        "done before it was seen"
    );
    engine.thaw();
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    world.wait_ended(&id, EndReason::Terminated).await;
    assert!(world.container(&id).await.is_none());
}

/// F21: silence explains no end; only a restart of the engine would.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_the_engine_is_silent_is_the_tenants_own() {
    let engine = Engine::own(Own::default());
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    let state = world.container(&id).await.unwrap().inspect.state;
    let pid = i32::try_from(state.unwrap().pid.unwrap()).unwrap();
    engine.freeze();
    world.wait_engine(EngineStatus::Degraded, SOON).await;
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    engine.thaw();
    let record = world.wait_ended(&id, EndReason::Exited).await;
    assert_eq!(record.ended.unwrap().exit_code, Some(137));
    assert_eq!(record.restarts, 0);
}

/// An engine that dies while the agent works comes back as another life of the same host.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_goes_away_is_missed_and_found_again() {
    let mut engine = Engine::own(Own {
        live_restore: true,
        ..Own::default()
    });
    let mut world = World::own(&engine).await;
    world.up().await;
    let (id, _) = world.deploy_ready(&world.sleeper()).await;
    engine.kill9();
    world.wait_engine(EngineStatus::Unavailable, SOON).await;
    assert_eq!(world.server.instance(&id).unwrap().phase, Phase::Ready);
    engine.start();
    world.wait_engine(EngineStatus::Ok, LATER).await;
    world.terminate(&id).await;
}

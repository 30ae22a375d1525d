//! Every call of a story, both sides, so many times.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use rental_agent::ids::InstanceId;
use tokio::{
    sync::{Mutex, Semaphore},
    task::JoinSet,
};

use crate::{
    lab::{Call, Engine, Side},
    proxied::{Proxied, label},
    world::{LATER, wait_for},
};

use super::{
    kill_and_wait,
    story::{Act, Story},
    table::Table,
    verdict::Witness,
};

/// Cases at once: most of each is waiting for the agent's lists after its start.
const AT_ONCE: usize = 5;
/// A call that a run may do without is waited for in so many runs.
const TRIES: usize = 3;

/// A call of a story that changes something, and the how manieth of its like it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    label: String,
    nth: usize,
}

impl Target {
    /// All changing calls of a rental, in the order of `calls`.
    pub(crate) fn all(calls: &[Call], id: &InstanceId) -> Vec<Self> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let changes = calls.iter().filter(|call| call.changes());
        let target = |call| {
            let label = label(call, id);
            let nth = seen.entry(label.clone()).or_default();
            *nth += 1;
            Self { label, nth: *nth }
        };
        changes.map(target).collect()
    }

    /// Picks this one out of the calls from now on.
    pub(crate) fn picker(&self, id: &InstanceId) -> impl FnMut(&Call) -> bool + Send + 'static {
        let (target, id, mut seen) = (self.clone(), id.clone(), 0);
        move |call| {
            let is_like_it = call.changes() && label(call, &id) == target.label;
            seen += usize::from(is_like_it);
            is_like_it && seen == target.nth
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nth {
            1 => f.write_str(&self.label),
            nth => write!(f, "{} ({nth})", self.label),
        }
    }
}

/// Runs it all and prints the table.
pub(super) async fn matrix(story: Story, times: usize) {
    story.furnish(&Engine::shared());
    let (first, second) = tokio::join!(
        undisturbed(story, Proxied::shared()),
        undisturbed(story, Proxied::shared())
    );
    let mut targets = first.clone();
    targets.extend(
        second
            .iter()
            .filter(|target| !first.contains(target))
            .cloned(),
    );
    let table = Arc::new(Mutex::new(Table::default()));
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let mut cases = JoinSet::new();
    let mut names = HashMap::new();
    for target in &targets {
        for side in [Side::BeforeEngine, Side::AfterEngine] {
            for _ in 0..times {
                let (table, permits) = (Arc::clone(&table), Arc::clone(&permits));
                let target = target.clone();
                let name = format!("{story:?}, {target}, {side:?}");
                let case = cases.spawn(async move {
                    let _permit = permits.acquire().await.unwrap();
                    for _ in 0..TRIES {
                        if case(story, &target, side).await {
                            table.lock().await.count(&target, side);
                            return;
                        }
                    }
                });
                names.insert(case.id(), name);
            }
        }
    }
    while let Some(case) = cases.join_next().await {
        case.unwrap_or_else(|error| panic!("{}: {error}", names[&error.id()]));
    }
    let table = table.lock().await;
    table.print(&format!("{story:?}: the agent killed at"), &targets);
    // What every run does must have been cut as often as was asked for.
    for target in first.iter().filter(|target| second.contains(target)) {
        for side in [Side::BeforeEngine, Side::AfterEngine] {
            assert_eq!(table.reached(target, side), times, "{target} {side:?}");
        }
    }
}

/// The calls of a run in which nothing goes wrong, to the removal of the last marker.
pub(crate) async fn undisturbed(story: Story, stage: impl Future<Output = Proxied>) -> Vec<Target> {
    let mut stage = stage.await;
    let prepared = story.prepare(&mut stage.world).await;
    let spec = story.spec(&stage.world);
    stage.proxy.forget();
    let act = story.begin(&stage.world, &spec, prepared);
    let id = act.id.clone();
    stage
        .world
        .final_reply(act.terminate.as_ref().unwrap_or(&act.deploy))
        .await;
    if story != Story::Deploy {
        stage.world.assert_clean().await;
    }
    let targets = Target::all(&stage.proxy.calls(), &id);
    act.conclude(&stage.world, None).await;
    assert!(!targets.is_empty(), "{story:?} changes nothing");
    targets
}

/// One run with one kill. `false`: the call did not come.
async fn case(story: Story, target: &Target, side: Side) -> bool {
    let mut stage = Proxied::shared().await;
    let prepared = story.prepare(&mut stage.world).await;
    let spec = story.spec(&stage.world);
    let id = prepared
        .as_ref()
        .map_or_else(|| spec.id(), |act| act.id.clone());
    let agent = stage.world.agent_pid();
    stage
        .proxy
        .cut_where(target.picker(&id), side, move || kill_and_wait(agent));
    let act = story.begin(&stage.world, &spec, prepared);
    let came = came_to_the_cut(&stage, &act).await;
    if !came {
        stage.proxy.let_all_pass();
        act.conclude(&stage.world, None).await;
        return false;
    }
    let before = Witness::of(&stage.world, &act).await;
    stage.world.restart_agent().await;
    act.conclude(&stage.world, before).await;
    true
}

/// Waits for the cut, or for the end of the story without it.
pub(crate) async fn came_to_the_cut(stage: &Proxied, act: &Act) -> bool {
    let is_over = || {
        let record = stage.world.server.instance(&act.id);
        let ended = record.is_some_and(|record| record.ended.is_some());
        let calls = stage.proxy.changes();
        let last = calls.last().map(|call| label(call, &act.id));
        ended && last.is_some_and(|last| last == "DELETE /volumes/*.ended")
    };
    // In this order: the last call of a story may be the one to be cut.
    let done = || stage.proxy.has_cut() || (is_over() && stage.proxy.awaits_cut());
    wait_for("the cut, or the end of the story", LATER, done).await;
    stage.proxy.has_cut()
}

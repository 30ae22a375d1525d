//! Many deploys and terminates at once of a host with sixteen GPUs, while the agent is killed again
//! and again. Who ran when, and with which GPUs, is the engine's word alone: its events and its
//! inspect of each container.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bollard::{
    Docker,
    models::EventMessage,
    query_parameters::{EventsOptions, InspectContainerOptions},
};
use futures_util::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rental_agent::{
    dev::ServerHandle,
    protocol::{ErrorCode, Outcome, record::GpuState},
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::own_engine::engine_with_gpus;
use crate::world::{LATER, SOON, Spec, World, gpu_uuid, sleeps};

const GPUS: u32 = 16;
/// Deploys under way at once.
const AT_ONCE: usize = 6;
/// Names a seed to run again what failed.
const SEED: &str = "RENTAL_AGENT_TEST_SEED";

#[tokio::test(flavor = "multi_thread")]
async fn no_gpu_has_two_tenants_whatever_is_killed_when() {
    torture(80, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn soak_no_gpu_has_two_tenants_in_five_hundred_deploys_and_twenty_kills() {
    torture(500, 20).await;
}

async fn torture(deploys: usize, kills: usize) {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("{deploys} deploys, {kills} kills, {SEED}={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let engine = engine_with_gpus();
    let mut world = World::own(&engine).await;
    let _nvml = world.with_gpus(GPUS);
    let witness = Witness::begin(world.docker.clone());
    world.up().await;
    all_gpus_are_free(&world).await;

    let permits = Arc::new(Semaphore::new(AT_ONCE));
    let (over, mut finished) = mpsc::channel(deploys);
    let mut cases = JoinSet::new();
    for _ in 0..deploys {
        let id = world.instance_id();
        let case = Case {
            spec: wish(
                Spec::new(&id, &world.image, &sleeps()).grace_s(0.1),
                &mut random,
            ),
            waits_for_ready: random.random_bool(0.8),
            holds: Duration::from_millis(random.random_range(0..300)),
        };
        let (server, permits, over) = (world.server.clone(), Arc::clone(&permits), over.clone());
        cases.spawn(async move {
            let _permit = permits.acquire().await.unwrap();
            let won = case.play(&server).await;
            over.send(()).await.unwrap();
            won
        });
    }
    for _ in 0..kills {
        for _ in 0..deploys / (kills + 1) {
            finished.recv().await.unwrap();
        }
        world.restart_agent().await;
    }
    let won = cases.join_all().await.into_iter().filter(|won| *won);
    let won = won.count();
    println!("{won} of {deploys} got their GPUs");
    assert!(
        won >= deploys / 5,
        "most were refused, which shows little: {won} of {deploys}"
    );
    all_gpus_are_free(&world).await;
    world.assert_clean().await;
    let runs = witness.runs(won).await;
    no_two_at_once(&runs);
}

/// What one tenant wants, and how long he stays.
struct Case {
    spec: Spec,
    waits_for_ready: bool,
    holds: Duration,
}

impl Case {
    /// Whether it got its GPUs. It ends in any case.
    async fn play(self, server: &ServerHandle) -> bool {
        let id = self.spec.id();
        let ticket = server.deploy(self.spec.json()).unwrap();
        let mut won = false;
        if self.waits_for_ready {
            let reply = server.wait_final(&ticket, LATER).await.unwrap();
            won = reply.outcome == Outcome::Done;
            if let Some(error) = reply.error {
                assert_eq!(error.code, ErrorCode::GpuUnavailable, "{id}: {error:?}");
                if reply.outcome == Outcome::Rejected {
                    return false;
                }
            }
            if won {
                let record = server.instance(&id).unwrap();
                assert!(!record.gpus.is_empty(), "{record:?}");
            }
            tokio::time::sleep(self.holds).await;
        }
        let ticket = server.terminate(&id).unwrap();
        let reply = server.wait_final(&ticket, LATER).await.unwrap();
        assert_eq!(reply.outcome, Outcome::Done, "{id}: {reply:?}");
        won
    }
}

/// By number or by name.
fn wish(spec: Spec, random: &mut StdRng) -> Spec {
    if random.random_bool(0.5) {
        return spec.gpus(random.random_range(1..=3));
    }
    let first = random.random_range(0..GPUS);
    let count = random.random_range(1..=2);
    let uuids: Vec<String> = (0..count).map(|n| gpu_uuid((first + n) % GPUS)).collect();
    spec.gpu_uuids(&uuids.iter().map(String::as_str).collect::<Vec<_>>())
}

/// As the agent tells the server.
async fn all_gpus_are_free(world: &World) {
    let free = |view: &rental_agent::dev::AgentView| {
        view.hello.as_ref().is_some_and(|hello| {
            let gpus = hello.gpus.iter();
            let free = gpus.filter(|gpu| gpu.state == GpuState::Available).count();
            free == usize::try_from(GPUS).unwrap() && hello.occupied.gpus == 0
        })
    };
    let what = "every GPU to be free";
    world.server.wait_agent(what, free, SOON).await.unwrap();
}

/// One life of a container, by the engine's clock in nanoseconds.
#[derive(Debug, Clone)]
struct Run {
    name: String,
    gpus: Vec<String>,
    started: i64,
    ended: Option<i64>,
}

/// Hears the engine's events from the beginning, and inspects each container as it starts.
struct Witness {
    runs: Arc<Mutex<BTreeMap<String, Run>>>,
    tasks: JoinSet<()>,
}

impl Witness {
    fn begin(docker: Docker) -> Self {
        let runs: Arc<Mutex<BTreeMap<String, Run>>> = Arc::default();
        let mut tasks = JoinSet::new();
        let heard = Arc::clone(&runs);
        tasks.spawn(async move {
            let mut events = docker.events(None::<EventsOptions>);
            let mut looks = JoinSet::new();
            while let Some(Ok(event)) = events.next().await {
                hear(&docker, event, &heard, &mut looks);
            }
        });
        Self { runs, tasks }
    }

    /// What it saw, once it has seen `least` containers and each of them end.
    async fn runs(mut self, least: usize) -> Vec<Run> {
        let all_over = async {
            loop {
                let runs: Vec<Run> = self.runs.lock().unwrap().values().cloned().collect();
                if runs.len() >= least && runs.iter().all(|run| run.ended.is_some()) {
                    return runs;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let runs = timeout(SOON, all_over).await.expect("each run to end");
        self.tasks.abort_all();
        runs
    }
}

fn hear(
    docker: &Docker,
    event: EventMessage,
    runs: &Arc<Mutex<BTreeMap<String, Run>>>,
    looks: &mut JoinSet<()>,
) {
    let actor = event.actor.unwrap_or_default();
    let (Some(id), Some(at)) = (actor.id, event.time_nano) else {
        return;
    };
    let name = actor.attributes.and_then(|mut a| a.remove("name"));
    match (event.action.as_deref(), name) {
        (Some("start"), Some(name)) => {
            let run = Run {
                name,
                gpus: Vec::new(),
                started: at,
                ended: None,
            };
            runs.lock().unwrap().insert(id.clone(), run);
        }
        (Some("die"), _) => {
            if let Some(run) = runs.lock().unwrap().get_mut(&id) {
                run.ended = Some(at);
            }
        }
        // Its device requests are what it is made with: the look comes long before it can be gone.
        (Some("create"), Some(_)) => {
            let (docker, runs) = (docker.clone(), Arc::clone(runs));
            looks.spawn(async move { inspect(&docker, &id, &runs).await });
        }
        _ => {}
    }
}

/// Waits for its start, and notes which GPUs the engine says that it has.
async fn inspect(docker: &Docker, id: &str, runs: &Mutex<BTreeMap<String, Run>>) {
    let inspect = docker.inspect_container(id, None::<InspectContainerOptions>);
    let Ok(seen) = inspect.await else { return };
    let requests = seen.host_config.and_then(|host| host.device_requests);
    let requests = requests.unwrap_or_default().into_iter();
    let gpus: Vec<String> = requests
        .flat_map(|r| r.device_ids.unwrap_or_default())
        .collect();
    loop {
        if let Some(run) = runs.lock().unwrap().get_mut(id) {
            run.gpus = gpus;
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn no_two_at_once(runs: &[Run]) {
    let mut by_gpu: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in runs {
        assert!(!run.gpus.is_empty(), "the engine names its GPUs: {run:?}");
        for gpu in &run.gpus {
            by_gpu.entry(gpu).or_default().push(run);
        }
    }
    for (gpu, mut tenants) in by_gpu {
        tenants.sort_by_key(|run| run.started);
        for pair in tenants.windows(2) {
            let [first, second] = pair else { continue };
            assert!(
                first.ended.is_some_and(|ended| ended <= second.started),
                "{gpu} had two tenants at once, {} and {}: {first:?} {second:?}",
                first.name,
                second.name
            );
        }
    }
}

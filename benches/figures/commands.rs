//! How soon a command has its first reply while the agent is busy: a thousand distinct deploys a
//! second, which are valid and cannot be admitted, during three pulls.

use std::{
    fs,
    sync::Mutex,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use rental_agent::clock;
use rustix::process::{Pid, setpriority_process};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::{
    lab::{Engine, Registry},
    peer::{Connection, Peer},
    pulls::publish,
    report::{Figure, percentile},
    stage::{ms, quiet_world},
};

const PER_SECOND: u32 = 1000;
const AT_MOST: Duration = Duration::from_secs(20);
const BAR_MS: f64 = 5.0;
const PULLS: usize = 3;

/// The 99th percentile, over the time in which all three pulls are under way.
pub(crate) async fn first_replies(mib: u64) -> Figure {
    let engine = Engine::shared();
    let registry = Registry::open(&engine);
    let publish = |n| publish(&engine, &registry, &format!("during-{n}:1"), mib);
    let images: Vec<String> = (0..PULLS).map(publish).collect();
    let peer = Peer::start().await;
    let mut world = quiet_world().await;
    let allowed = json!([registry.address()]).to_string();
    world.set_env("RENTAL_AGENT__POLICY__ALLOWED_REGISTRIES", allowed);
    world.set_env("API_SERVER_URL", peer.url("ws", "").as_str());
    world.start_agent();
    let mut connection = welcomed(&peer).await;
    for (n, image) in images.iter().enumerate() {
        let id = format!("pull-{n}");
        let pull = json!({ "type": "command", "id": id, "op": "pull_image", "image": image });
        connection.send(pull).await;
    }
    // Each of them tells of layers before the clock begins to run.
    for _ in 0..PULLS {
        connection.find("progress").await;
    }
    come_first();
    let begin = Instant::now();
    let waited = || [world.agent_pid(), std::process::id()].map(waited_ms);
    let before = waited();
    let took = storm(connection).await;
    let lasted = begin.elapsed();
    let [agent, server] = waited();
    figure(&took, [agent - before[0], server - before[1]], lasted)
}

/// This process stands for a server on another machine, which has processors of its own: it is given
/// them before what the engine extracts, else its own waits would count as the agent's.
fn come_first() {
    for task in fs::read_dir("/proc/self/task").unwrap().flatten() {
        let id = task.file_name().to_str().and_then(|id| id.parse().ok());
        let thread = id.and_then(Pid::from_raw);
        // Where it may not, the note says how long it waited.
        let _ = thread.map(|thread| setpriority_process(Some(thread), -15));
    }
}

/// A session whose state has been sent.
async fn welcomed(peer: &Peer) -> Connection<TcpStream> {
    let mut connection = peer.accept().await;
    connection.expect("hello").await;
    let now = clock::now().wall;
    let welcome = json!({ "type": "welcome", "session_id": "s", "server_time": now });
    connection.send(welcome).await;
    connection.find("synced").await;
    connection
}

/// Sends the deploys until the first pull is done, or for as long as that is looked at, and says how
/// long each first reply took.
async fn storm(connection: Connection<TcpStream>) -> Vec<f64> {
    let (mut to_agent, mut from_agent) = connection.socket.split();
    let sent = Mutex::new(Vec::new());
    let send = async {
        let mut ticks = interval(Duration::from_secs(1) / PER_SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for n in 0.. {
            ticks.tick().await;
            let text = deploy(n).to_string();
            sent.lock().unwrap().push(Instant::now());
            to_agent.send(Frame::text(text)).await.unwrap();
        }
    };
    let mut took = Vec::new();
    let receive = async {
        while let Some(Ok(frame)) = from_agent.next().await {
            let Frame::Text(text) = frame else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            let Some(id) = message["command_id"].as_str() else {
                continue;
            };
            if let Some(n) = id.strip_prefix("deploy-") {
                assert_eq!(message["outcome"], "rejected", "{message}");
                let n: usize = n.parse().unwrap();
                took.push(ms(sent.lock().unwrap()[n].elapsed()));
            } else if message["type"] == "reply" && message["outcome"] != "accepted" {
                assert_eq!(message["outcome"], "done", "{message}");
                return;
            }
        }
        panic!("the agent has hung up");
    };
    let both = async {
        tokio::select! {
            () = send => {}
            () = receive => {}
        }
    };
    // Whichever comes first, the end of a pull or of the time.
    let _ = timeout(AT_MOST, both).await;
    took
}

/// How long the threads of a process have waited for a processor so far: what is missed for want of
/// one is the machine's, not the agent's.
fn waited_ms(pid: u32) -> f64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let waited = tasks.filter_map(|task| {
        let schedule = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedule.split(' ').nth(1)?.parse::<f64>().ok()
    });
    waited.sum::<f64>() / 1e6
}

fn figure(took: &[f64], [agent, server]: [f64; 2], lasted: Duration) -> Figure {
    let rate = took.len() as f64 / lasted.as_secs_f64();
    let name = "command to first reply at 1000/s, 3 pulls, p99";
    let p99 = percentile(took, 0.99);
    let mut figure = Figure::absolute(name, "ms", p99, BAR_MS);
    let p50 = percentile(took, 0.5);
    let n = took.len();
    figure.note = format!(
        "p50 {p50:.2} ms, n = {n}, {rate:.0}/s; of {:.0} ms the agent waited {agent:.0} for a \
         processor, the server {server:.0}",
        ms(lasted)
    );
    // Fewer would be another question than the one that was asked.
    if rate < 0.95 * f64::from(PER_SECOND) {
        figure.judged = f64::INFINITY;
    }
    figure
}

/// More GPUs than any host has.
fn deploy(n: usize) -> Value {
    json!({
        "type": "command", "id": format!("deploy-{n}"), "op": "deploy",
        "spec": {
            "instance_id": format!("r-{n}"), "image": "docker.io/library/busybox:1.36",
            "command": ["sleep", "1000"], "env": { "A": "b" }, "gpus": { "count": 64 },
            "cpus": 1, "memory_bytes": 1_073_741_824,
            "ports": [{ "name": "web", "container": 80 }], "labels": { "order": n.to_string() },
        },
    })
}

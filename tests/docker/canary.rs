//! Every secret that the agent is given is a different canary, and nothing that leaves the agent shows
//! one: its log at TRACE, what it says to the server, labels in the engine, command lines. Nor does the
//! reference server's log.

mod flows;
mod malformed;
mod scanner;

use std::{
    fs::{self, File},
    sync::Mutex,
};

use tracing_subscriber::EnvFilter;

use crate::{
    lab::{Engine, Registry},
    world::World,
};

use self::{flows::Secrets, scanner::Scanner};

#[tokio::test(flavor = "multi_thread")]
#[allow(
    clippy::print_stdout,
    reason = "how much was searched is part of the answer"
)]
async fn no_secret_leaves_the_agent_whatever_happens() {
    let folder = tempfile::TempDir::new().unwrap();
    let server_log = folder.path().join("server.log");
    log_to(File::create(&server_log).unwrap());
    let engine = Engine::shared();
    let registry = Registry::private(&engine);
    let secrets = Secrets::new();
    let scanner = Scanner::of(secrets.all());
    let mut world = World::shared().await;

    let mut places = Places::new(&scanner);
    flows::run(&mut world, &engine, &registry, &secrets, async |world| {
        places.look(world).await;
    })
    .await;
    places.look(&world).await;
    let (log, server_log) = (world.log(), fs::read_to_string(&server_log).unwrap());
    places.take("the agent's log", &log);
    places.take("the server's log", &server_log);
    assert_eq!(places.hits, Vec::<String>::new());

    // The scanner sees what is there to be seen, and there was something to look at.
    let (lines, of_server) = (log.lines().count(), server_log.lines().count());
    println!(
        "{lines} and {of_server} lines of log, {} bytes in all",
        places.bytes
    );
    assert!(lines > 1_000, "{lines} lines");
    assert!(
        server_log.contains("rental_agent::dev"),
        "{of_server} lines"
    );
    for secret in secrets.all() {
        assert!(
            !scanner.hits(&format!("a {secret} b")).is_empty(),
            "{secret}"
        );
    }
    let inspect = flows::inspect_of_a_rental(&mut world, &secrets).await;
    assert_eq!(
        scanner.hits(&inspect),
        [secrets.env.as_str()],
        "the engine itself has to know it"
    );
}

/// What was looked at so far, and what was found there.
struct Places<'a> {
    scanner: &'a Scanner,
    hits: Vec<String>,
    bytes: usize,
}

impl<'a> Places<'a> {
    fn new(scanner: &'a Scanner) -> Self {
        Self {
            scanner,
            hits: Vec::new(),
            bytes: 0,
        }
    }

    /// Whatever is only there for a while.
    async fn look(&mut self, world: &World) {
        for frame in world.server.frames() {
            self.take("a frame to the server", &frame.frame.to_string());
        }
        self.take("the engine's lists", &flows::lists(world).await);
        self.take("the command lines", &command_lines());
    }

    fn take(&mut self, place: &str, text: &str) {
        self.bytes += text.len();
        for line in text.lines() {
            let hits = self.scanner.hits(line).into_iter();
            self.hits
                .extend(hits.map(|secret| format!("{secret} in {place}: {line:.300}")));
        }
    }
}

/// Of all processes.
fn command_lines() -> String {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ") + "\n");
    lines.collect()
}

/// The reference server runs in this process. What libraries say at TRACE is left out, as the agent
/// and the server leave it out when they log by themselves.
fn log_to(file: File) {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new("rental_agent=trace,info"))
        .with_writer(Mutex::new(file))
        .init();
}

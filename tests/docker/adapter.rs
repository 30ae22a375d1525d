//! The engine adapter against real engines: what each method does, and what each error means.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod events;
mod faults;
mod gpus;
mod images;
mod lifecycle;
mod limits;
mod listing;
mod markers;
mod network;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rental_agent::{
    config,
    protocol::record::PortRange,
    runtime::{ContainerPlan, ContainerRuntime, Hardening, Observed, docker::Docker},
};
use secrecy::SecretString;

use crate::lab::{BUSYBOX, Engine};

/// Long enough for a busy machine; nothing waits so long where all is well.
const LIMIT: Duration = Duration::from_secs(30);

/// An engine, its adapter, and what a test leaves in it.
struct Bench {
    engine: Engine,
    docker: Docker,
    /// Begins every name of this test.
    prefix: String,
}

impl Bench {
    async fn shared() -> Self {
        Self::on(Engine::shared()).await
    }

    async fn on(engine: Engine) -> Self {
        static BENCHES: AtomicU32 = AtomicU32::new(0);
        let number = BENCHES.fetch_add(1, Ordering::Relaxed);
        let docker = Docker::connect(&engine.config(), &network()).unwrap();
        docker.ensure_network().await.unwrap();
        Self {
            engine,
            docker,
            prefix: format!("rental-lab-{}-{number}", std::process::id()),
        }
    }

    fn name(&self, part: &str) -> String {
        format!("{}-{part}", self.prefix)
    }

    /// A rental of busybox that runs `command`.
    async fn plan(&self, part: &str, command: &[&str]) -> ContainerPlan {
        let image = self.docker.image(BUSYBOX).await.unwrap().unwrap();
        ContainerPlan {
            name: self.name(part),
            image,
            entrypoint: None,
            command: Some(command.iter().map(|&word| word.to_owned()).collect()),
            env: vec![("GREETING".to_owned(), SecretString::from("hello"))],
            labels: BTreeMap::from([
                ("rental-agent.instance-id".to_owned(), part.to_owned()),
                ("rental-agent.gpus".to_owned(), String::new()),
            ]),
            ports: Vec::new(),
            gpus: Vec::new(),
            handing: rental_agent::runtime::gpus::Handing::Request,
            nano_cpus: 500_000_000,
            cpuset: None,
            memory_bytes: 64 * 1024 * 1024,
            shm_bytes: 16 * 1024 * 1024,
            hardening: hardening(),
            stop_grace: Duration::from_secs(10),
        }
    }

    /// Made and started.
    async fn run(&self, plan: &ContainerPlan) {
        self.docker.create(plan).await.unwrap();
        self.docker.start(&plan.name).await.unwrap();
    }

    async fn seen(&self, name: &str) -> Observed {
        self.docker.inspect(name).await.unwrap().unwrap()
    }

    /// Waits until its first process has ended.
    async fn ended(&self, name: &str) -> Observed {
        crate::lab::wait_until("the container ends", LIMIT, || async {
            self.seen(name).await.state == rental_agent::runtime::ContainerState::Exited
        })
        .await;
        self.seen(name).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if !self.engine.answers() {
            return;
        }
        let filter = format!("name={}", self.prefix);
        self.remove_all(&["ps", "-aq", "--filter", &filter], &["rm", "-fv"]);
        self.remove_all(
            &["volume", "ls", "-q", "--filter", &filter],
            &["volume", "rm"],
        );
    }
}

impl Bench {
    fn remove_all(&self, list: &[&str], remove: &[&str]) {
        let names = self.engine.try_docker(list).stdout;
        for name in String::from_utf8_lossy(&names).lines() {
            self.engine.try_docker(&[remove, &[name]].concat());
        }
    }
}

fn network() -> config::Network {
    config::Network {
        name: "rental-agent".to_owned(),
        subnet: None,
        port_range: PortRange {
            first: 30_000,
            last: 31_000,
        },
        public_address: None,
    }
}

fn hardening() -> Hardening {
    Hardening {
        network: "rental-agent".to_owned(),
        pids_limit: 256,
        log_max_bytes: 1024 * 1024,
        log_files: 2,
        sudo: false,
        ulimits: Vec::new(),
        runtime: None,
        driver_capabilities: "compute,utility".to_owned(),
    }
}

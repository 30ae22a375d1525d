//! One host in small: an engine, a reference server on loopback, and the agent as a process between
//! them. Worlds share an engine without meeting: agent id, instance ids and ports are each world's own.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Child, ExitStatus},
    sync::atomic::AtomicU32,
    thread,
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, Docker};
use rental_agent::{
    dev::{AgentView, Options, Server, ServerHandle},
    ids::{AgentId, Epoch},
    protocol::record::{EngineStatus, GpuState},
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::lab::{BUSYBOX, Engine, EngineProxy, Net};

use super::{
    agent::{self, AgentProcess},
    holdings,
    ports::PortBlock,
    rentals,
    specs::CANARY,
    wait::{SOON, wait_for, wait_until},
};

/// Seconds that a call of the test's own engine client may take.
const CLIENT_TIMEOUT_S: u64 = 60;

/// One host in small. Dropping it kills the agent and removes what the agent left in the engine.
#[derive(Debug)]
pub(crate) struct World {
    /// The server's side, speaking of this world's agent.
    pub(crate) server: ServerHandle,
    /// The engine, past the agent.
    pub(crate) docker: Docker,
    /// The image that specs use unless they say otherwise.
    pub(crate) image: String,
    docker_host: String,
    net: Net,
    agent_id: AgentId,
    /// Begins the ids of all instances of this world.
    pub(super) prefix: String,
    env: BTreeMap<String, String>,
    agent: Option<AgentProcess>,
    /// Of the agent that was up last.
    last_epoch: Option<Epoch>,
    pub(super) instances: AtomicU32,
    /// The engine outlives the test, so that what is left would be in others' way.
    sweeps: bool,
    folder: TempDir,
    _ports: PortBlock,
    _server: Server,
}

impl World {
    /// A world at the engine that all tests share. The agent is configured and not started.
    pub(crate) async fn shared() -> Self {
        Self::on(&Engine::shared()).await
    }

    /// A world at an engine of the test's own, which may not answer any more at the end.
    pub(crate) async fn own(engine: &Engine) -> Self {
        let mut world = Self::on(engine).await;
        world.sweeps = false;
        world
    }

    /// From its next start on the agent reaches the engine through this.
    pub(crate) fn behind_proxy(&mut self) -> EngineProxy {
        let proxy = EngineProxy::start_at(&self.docker_host);
        self.set_env("DOCKER_HOST", proxy.host());
        proxy
    }

    async fn on(engine: &Engine) -> Self {
        let docker_host = engine.host();
        let unique = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("t{}", &unique[..8]);
        let agent_id: AgentId = format!("agent-{prefix}").parse().unwrap();
        let token = format!("{CANARY}-token");
        let mut options = Options::new(agent_id.clone());
        options.token = Some(token.clone().into());
        options.intervals.heartbeat = Duration::from_secs(1);
        let server = Server::bind(options).await.unwrap();
        let ports = PortBlock::take();
        let env = [
            ("AGENT_ID", agent_id.to_string()),
            ("AGENT_TOKEN", token),
            ("API_SERVER_URL", server.url()),
            ("DOCKER_HOST", docker_host.to_owned()),
            ("RENTAL_AGENT__LOG__FILTER", "trace".to_owned()),
            // Many agents share this machine.
            ("RENTAL_AGENT__HTTP__LISTEN", "off".to_owned()),
            ("RENTAL_AGENT__CONTROL__SOCKET", "off".to_owned()),
            ("RENTAL_AGENT__NETWORK__PORT_RANGE", ports.range()),
            (
                "RENTAL_AGENT__RESOURCES__RESERVE__MEMORY_BYTES",
                "0".to_owned(),
            ),
            (
                "RENTAL_AGENT__RESOURCES__RESERVE__DISK_BYTES",
                "0".to_owned(),
            ),
        ];
        Self {
            server: server.handle().agent(agent_id.clone()),
            docker: connect(docker_host),
            docker_host: docker_host.to_owned(),
            image: BUSYBOX.to_owned(),
            net: engine.net(),
            agent_id,
            prefix,
            env: env
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            agent: None,
            last_epoch: None,
            instances: AtomicU32::new(1),
            sweeps: true,
            folder: TempDir::new().unwrap(),
            _ports: ports,
            _server: server,
        }
    }

    /// Configures the agent: a variable of its environment, from its next start on.
    pub(crate) fn set_env(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// How the agent is configured.
    pub(crate) fn env(&self, name: &str) -> &str {
        &self.env[name]
    }

    /// Starts the agent and does not wait for anything.
    pub(crate) fn start_agent(&mut self) {
        assert!(self.agent.is_none(), "the agent runs already");
        self.agent = Some(self.spawn_rival());
    }

    /// Starts one more agent process with the same configuration.
    pub(crate) fn spawn_rival(&self) -> AgentProcess {
        AgentProcess::spawn(&self.env, &self.log_path())
    }

    /// Starts the agent and waits until it has sent its whole state and sees the engine.
    pub(crate) async fn up(&mut self) -> AgentView {
        self.start_agent();
        self.wait_up(SOON).await
    }

    /// Waits until the agent that was started last has sent its whole state and sees the engine, and its
    /// GPUs where it has some.
    pub(crate) async fn wait_up(&mut self, limit: Duration) -> AgentView {
        let view = self.wait_synced(limit).await;
        if self.env.contains_key("RENTAL_AGENT__GPU__NVML_LIBRARY") {
            self.wait_gpus().await;
        }
        view
    }

    /// The same without the GPUs.
    pub(crate) async fn wait_synced(&mut self, limit: Duration) -> AgentView {
        let before = self.last_epoch.clone();
        let is_up = |view: &AgentView| {
            let hello = view.hello.as_ref();
            let epoch = hello.map(|hello| &hello.agent.epoch);
            let engine = hello.map(|hello| hello.status.engine);
            view.synced && epoch != before.as_ref() && engine == Some(EngineStatus::Ok)
        };
        let up = self
            .server
            .wait_agent("an agent that is up", is_up, limit)
            .await;
        let view = up.unwrap();
        self.last_epoch = view.hello.as_ref().map(|hello| hello.agent.epoch.clone());
        view
    }

    /// A GPU is given when a look has shown that nobody is on it. Where a test keeps that from being
    /// shown, it has its say after a moment.
    pub(crate) async fn wait_gpus(&self) {
        let are_known = |view: &AgentView| {
            view.hello.as_ref().is_some_and(|hello| {
                let mut gpus = hello.gpus.iter();
                hello.inventory_complete && gpus.all(|gpu| gpu.state != GpuState::Unknown)
            })
        };
        let limit = Duration::from_secs(5);
        let _ = self
            .server
            .wait_agent("GPUs that are known", are_known, limit)
            .await;
    }

    /// SIGKILL.
    pub(crate) fn kill_agent(&mut self) {
        self.agent.take().expect("an agent to kill").kill();
    }

    /// SIGKILL, then a new process that has sent its state.
    pub(crate) async fn restart_agent(&mut self) -> AgentView {
        self.kill_agent();
        self.up().await
    }

    /// SIGTERM, then waits for the end.
    pub(crate) async fn sigterm_agent(&mut self, limit: Duration) -> ExitStatus {
        let mut agent = self.agent.take().expect("an agent to end");
        agent.signal(Signal::TERM);
        agent.wait(limit).await
    }

    /// Waits until the agent has ended by itself.
    pub(crate) async fn wait_agent_ended(&mut self, limit: Duration) -> ExitStatus {
        let mut agent = self.agent.take().expect("an agent that ends");
        agent.wait(limit).await
    }

    /// SIGSTOP: the agent is there and does nothing.
    pub(crate) fn pause_agent(&self) {
        self.agent().signal(Signal::STOP);
    }

    /// The end of [`World::pause_agent`].
    pub(crate) fn resume_agent(&self) {
        self.agent().signal(Signal::CONT);
    }

    /// The agent's process number.
    pub(crate) fn agent_pid(&self) -> u32 {
        self.agent().pid()
    }

    /// The agent's process.
    pub(crate) fn agent(&self) -> &AgentProcess {
        self.agent.as_ref().expect("an agent that was started")
    }

    /// The agent's id.
    pub(crate) fn agent_id(&self) -> &AgentId {
        &self.agent_id
    }

    /// What all agents of this world have logged.
    pub(crate) fn log(&self) -> String {
        agent::read(&self.log_path())
    }

    /// The first of this world's ten host ports.
    pub(crate) fn first_port(&self) -> u16 {
        self._ports.first()
    }

    /// What an HTTP server on this port of the engine's host says.
    pub(crate) async fn get(&self, port: u16) -> String {
        let look = || std::future::ready(self.net.http_get(port));
        wait_until(&format!("an answer on port {port}"), SOON, look).await
    }

    /// What an HTTP server on this port of the engine's host says over IPv6, where that host has it.
    pub(crate) fn get_over_ipv6(&self, port: u16) -> Option<String> {
        let address = (std::net::Ipv6Addr::LOCALHOST, port).into();
        self.net
            .has_ipv6()
            .then(|| self.net.http_get_from(address).unwrap_or_default())
    }

    /// Whether anybody listens on this port of the engine's host.
    pub(crate) fn is_open(&self, port: u16) -> bool {
        self.net.dial(port).is_ok()
    }

    /// A connection to this port of the engine's host.
    pub(crate) fn dial(&self, port: u16) -> std::io::Result<std::net::TcpStream> {
        self.net.dial(port)
    }

    /// Takes a port of the engine's host, as any program there may.
    pub(crate) async fn listen_on(&self, port: u16) -> Listener {
        let mut command = self.net.command("busybox");
        let folder = self.folder();
        let listener = command
            .args(["httpd", "-f", "-p"])
            .arg(port.to_string())
            .arg("-h");
        let listener = Listener(listener.arg(folder).spawn().unwrap());
        let dial = || self.net.dial(port).is_ok();
        wait_for(&format!("a listener on port {port}"), SOON, dial).await;
        listener
    }

    /// A folder of this world's own, empty at first.
    pub(crate) fn folder(&self) -> PathBuf {
        let folder = self.folder.path().join("own");
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("agent.log")
    }
}

/// A program that has taken a port. Dropping it gives the port back.
#[derive(Debug)]
pub(crate) struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Before the engine is swept, so that it brings nothing back.
        self.agent = None;
        if thread::panicking() {
            eprintln!("--- the agent's log ---\n{}", agent::tail(&self.log_path()));
        }
        if self.sweeps {
            sweep(
                self.docker_host.clone(),
                rentals::container_prefix(&self.prefix),
            );
        }
        if !thread::panicking() {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(CANARY));
            assert!(line.is_none(), "a secret is in the agent's log: {line:?}");
        }
    }
}

/// Removes what is left, on a thread with a runtime of its own: a drop cannot wait in the test's.
fn sweep(docker_host: String, prefix: String) {
    let swept = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let limit = Duration::from_secs(30);
        runtime.block_on(async {
            // Connections of the test's own client belong to the test's runtime.
            let docker = connect(&docker_host);
            match tokio::time::timeout(limit, holdings::remove_all(&docker, &prefix)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(std::io::Error::other(error)),
                Err(late) => Err(late.into()),
            }
        })
    });
    if let Ok(Err(error)) = swept.join() {
        eprintln!("not all of a test's containers and volumes could be removed: {error}");
    }
}

fn connect(docker_host: &str) -> Docker {
    Docker::connect_with_unix(docker_host, CLIENT_TIMEOUT_S, API_DEFAULT_VERSION).unwrap()
}

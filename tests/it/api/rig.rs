//! A host in small: an engine in memory, the real driver above it, the real surfaces above that.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rental_agent::{
    api::{Api, Limits},
    clock,
    config::{self, Config, Overrides},
    driver::{Driver, FromServer, Inputs, SessionNo},
    instance::{
        publish::{Event, Snapshot},
        registry::{Input, Registry},
    },
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::{TcpStream, UnixStream},
    sync::{Notify, mpsc},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    client::{self, Answer, request},
    engine::Engine,
    tokens,
};
use crate::{model::fixture, peer::soon};

pub(super) const AGENT: &str = fixture::AGENT;
pub(super) const ISSUER: &str = "https://scheduler.test";
pub(super) const SECRET: &[u8] = b"a secret of more than thirty-two bytes";

pub(super) struct Rig {
    pub(super) address: SocketAddr,
    pub(super) engine: Engine,
    pub(super) inputs: Inputs,
    pub(super) folder: TempDir,
    pub(super) stop: CancellationToken,
    /// They end with the rig.
    _tasks: JoinSet<anyhow::Result<()>>,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::with(Limits::default(), &[]).await
    }

    /// With keys of the configuration set, and of its usual ones those unset that are set to nothing.
    pub(super) async fn with(limits: Limits, keys: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = config(folder.path(), keys).unwrap();
        let engine = Engine::new();
        let registry = Registry::new(fixture::options("boot"));
        let (driver, inputs) = Driver::new(registry, engine.clone());
        let look = Arc::new(Notify::new());
        let mut driver = driver.looking(Arc::clone(&look));
        let stop = CancellationToken::new();
        let mut api = Api::new(&config, &inputs, stop.clone(), limits).unwrap();
        let address = api.bind().await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(api.run(CancellationToken::new()));
        let until = stop.clone();
        tasks.spawn(async move { driver.run(until).await });
        let gpus = Input::Gpus {
            gpus: (0..2).map(fixture::gpu).map(Into::into).collect(),
            complete: true,
        };
        inputs.from_below.send(gpus).await.unwrap();
        let below = inputs.from_below.clone();
        tasks.spawn(async move {
            loop {
                look.notified().await;
                let idle = fixture::idle_gpus(clock::now().boot);
                below.send(Input::GpuReadings(idle.into())).await?;
            }
        });
        let mut rig = Self {
            address,
            engine,
            inputs,
            folder,
            stop,
            _tasks: tasks,
        };
        rig.until(|snapshot| snapshot.status.rentable && snapshot.inventory_complete)
            .await;
        let idle = fixture::idle_gpus(clock::now().boot);
        let idle = Input::GpuReadings(idle.into());
        rig.inputs.from_below.send(idle).await.unwrap();
        rig.until(|snapshot| snapshot.capacity.gpus == 2).await;
        rig
    }

    /// Waits for a state of the host.
    pub(super) async fn until(
        &mut self,
        state: impl FnMut(&Arc<Snapshot>) -> bool,
    ) -> Arc<Snapshot> {
        let found = self.inputs.snapshot.wait_for(state);
        Arc::clone(&*soon(found).await.unwrap())
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.inputs.snapshot.borrow())
    }

    pub(super) async fn dial(&self) -> TcpStream {
        soon(TcpStream::connect(self.address)).await.unwrap()
    }

    /// Writes a request as it is and reads the answer.
    pub(super) async fn raw(&self, request: &str) -> Answer {
        client::ask(self.dial().await, request).await
    }

    /// With these headers.
    pub(super) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Answer {
        let body = body.map(Value::to_string);
        self.raw(&request(method, path, headers, body.as_deref()))
            .await
    }

    /// With a new token for these scopes.
    pub(super) async fn get(&self, path: &str, scope: &str) -> Answer {
        let bearer = format!("Bearer {}", tokens::token(scope));
        self.ask("GET", path, &[("Authorization", &bearer)], None)
            .await
    }

    /// With a new token that may write, and these headers.
    pub(super) async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let bearer = format!("Bearer {}", tokens::token("instances:write"));
        let headers = [&[("Authorization", bearer.as_str())], headers].concat();
        self.ask("POST", path, &headers, Some(body)).await
    }

    pub(super) fn control_path(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// By the control socket, without any token.
    pub(super) async fn control(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let stream = soon(UnixStream::connect(self.control_path()))
            .await
            .unwrap();
        let body = body.map(Value::to_string);
        client::ask(stream, &request(method, path, &[], body.as_deref())).await
    }

    /// A central server that says welcome, and what it hears.
    pub(super) async fn session(&self) -> mpsc::Receiver<Event> {
        let (events, heard) = mpsc::channel(1024);
        let connected = FromServer::Connected {
            session: SessionNo(1),
            server_time: clock::now().wall,
            events,
        };
        self.inputs.from_server.send(connected).await.unwrap();
        heard
    }
}

/// The configuration of a rig.
pub(super) fn config(folder: &Path, keys: &[(&str, &str)]) -> Result<Config, config::ConfigError> {
    let secret = folder.join("secret");
    fs::write(&secret, [SECRET, b"\n"].concat()).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let socket = folder.join("control.sock");
    let mut env = std::collections::BTreeMap::new();
    for (name, value) in [
        ("AGENT_ID", AGENT),
        ("API_SERVER_URL", "ws://127.0.0.1:9"),
        ("AGENT_TOKEN", "t"),
        ("RENTAL_AGENT__HTTP__LISTEN", "127.0.0.1:0"),
        ("RENTAL_AGENT__HTTP__AUTH__ISSUER", ISSUER),
        (
            "RENTAL_AGENT__HTTP__AUTH__HS256_SECRET_FILE",
            secret.to_str().unwrap(),
        ),
        ("RENTAL_AGENT__CONTROL__SOCKET", socket.to_str().unwrap()),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    for (key, value) in keys {
        let name = format!("RENTAL_AGENT__{}", key.replace('.', "__").to_uppercase());
        env.insert(name, (*value).to_owned());
    }
    let none = folder.join("no.toml");
    fs::write(&none, "").unwrap();
    let overrides = Overrides {
        env_file: None,
        file: Some(none),
        settings: Vec::new(),
    };
    config::load(&overrides, env)
}

/// A spec of this id, of an image that is there.
pub(super) fn spec(id: &str) -> Value {
    json!({ "instance_id": id, "image": "alpha" })
}

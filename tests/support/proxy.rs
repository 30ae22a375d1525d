//! A proxy between an agent and its engine: it records every call, and it can cut off a chosen one,
//! before the engine sees it or after the engine has answered it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use rental_agent::config;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

use super::{
    background::Background,
    engine::Engine,
    rules::{self, Action, InForce, Rule, Rules},
};

/// Where a call is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The engine never sees it.
    BeforeEngine,
    /// The engine has answered; the agent never sees the answer.
    AfterEngine,
}

/// One call that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    /// `POST` and so on.
    pub(crate) method: String,
    /// Without its query.
    pub(crate) path: String,
    /// What follows the `?`, as it was sent.
    pub(crate) query: String,
    /// As JSON; null where there is none.
    pub(crate) body: serde_json::Value,
}

/// The proxy; its socket is as good as the engine's.
#[derive(Debug)]
pub(crate) struct EngineProxy {
    dir: TempDir,
    state: Arc<Mutex<State>>,
    rules: Rules,
    _background: Background,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    cut: Option<Cut>,
    /// Its call has come, and what is to happen then is not over.
    cutting: bool,
}

/// What happens to the first call that `due` picks.
struct Cut {
    due: Box<dyn FnMut(&Call) -> bool + Send>,
    side: Side,
    then: Box<dyn FnOnce() + Send>,
}

impl Call {
    /// Whether it may change something.
    pub(crate) fn changes(&self) -> bool {
        self.method != "GET" && self.method != "HEAD"
    }

    /// The name of what it makes, where the call says one: a container's or a volume's.
    pub(crate) fn name(&self) -> Option<&str> {
        let mut parameters = self.query.split('&');
        let in_query = parameters.find_map(|parameter| parameter.strip_prefix("name="));
        in_query.or_else(|| self.body["Name"].as_str())
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl EngineProxy {
    /// In front of `engine`.
    pub(crate) fn start(engine: &Engine) -> Self {
        Self::start_at(engine.host())
    }

    /// In front of the engine at `host`.
    pub(crate) fn start_at(host: &str) -> Self {
        let upstream = PathBuf::from(host.trim_start_matches("unix://"));
        let dir = tempfile::Builder::new()
            .prefix("rp")
            .tempdir()
            .expect("a folder");
        let listener = std::os::unix::net::UnixListener::bind(socket_in(dir.path()));
        let listener = listener.expect("bind the proxy's socket");
        listener.set_nonblocking(true).expect("a listener");
        let state = Arc::new(Mutex::new(State::default()));
        let rules = Rules::default();
        let (shared, in_force) = (Arc::clone(&state), rules.clone());
        let background = Background::run(move || async move {
            let listener = UnixListener::from_std(listener).expect("a listener");
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (shared, in_force) = (Arc::clone(&shared), in_force.clone());
                connections.spawn(serve(client, upstream.clone(), shared, in_force));
            }
        });
        Self {
            dir,
            state,
            rules,
            _background: background,
        }
    }

    /// Where an agent has to dial.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", socket_in(self.dir.path()).display())
    }

    /// `engine`'s configuration, but through here.
    pub(crate) fn config(&self, engine: &Engine) -> config::Docker {
        config::Docker {
            host: self.host(),
            ..engine.config()
        }
    }

    /// All calls so far, or since [`forget`](Self::forget).
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state.lock().expect("the proxy's state").calls.clone()
    }

    /// Those that may change something.
    pub(crate) fn changes(&self) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(Call::changes);
        calls
    }

    /// Starts counting anew.
    pub(crate) fn forget(&self) {
        self.state.lock().expect("the proxy's state").calls.clear();
    }

    /// Cuts off the `nth` changing call from now on, counted from 1: runs `then` (which may kill the
    /// agent, and waits until it is dead) and hangs up.
    pub(crate) fn cut(&self, nth: usize, side: Side, then: impl FnOnce() + Send + 'static) {
        let mut left = nth;
        let due = move |call: &Call| {
            left -= usize::from(call.changes());
            left == 0
        };
        self.cut_where(due, side, then);
    }

    /// As [`cut`](Self::cut), the first call that `due` picks.
    pub(crate) fn cut_where(
        &self,
        due: impl FnMut(&Call) -> bool + Send + 'static,
        side: Side,
        then: impl FnOnce() + Send + 'static,
    ) {
        let (due, then) = (Box::new(due), Box::new(then));
        self.state.lock().expect("the proxy's state").cut = Some(Cut { due, side, then });
    }

    /// Whether the cut has happened, with all that follows from it.
    pub(crate) fn has_cut(&self) -> bool {
        let state = self.state.lock().expect("the proxy's state");
        state.cut.is_none() && !state.cutting
    }

    /// Holds calls with this method whose path ends so.
    pub(crate) fn hold(&self, method: &'static str, path_end: &str, side: Side) -> InForce {
        self.rules.hold(method, path_end, side)
    }

    /// Answers calls with this method whose path ends so with an error of the engine's kind.
    pub(crate) fn answer(&self, method: &'static str, path_end: &str, status: u16) -> InForce {
        self.rules.answer(method, path_end, status)
    }

    /// Whether the call to be cut has not come yet.
    pub(crate) fn awaits_cut(&self) -> bool {
        self.state.lock().expect("the proxy's state").cut.is_some()
    }

    /// Nothing is cut off any more.
    pub(crate) fn let_all_pass(&self) {
        self.state.lock().expect("the proxy's state").cut = None;
    }
}

impl State {
    /// Records a call and says whether it is the one to be cut.
    fn record(&mut self, call: Call) -> Option<Cut> {
        let cut = self.cut.take_if(|cut| (cut.due)(&call));
        self.calls.push(call);
        self.cutting |= cut.is_some();
        cut
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("calls", &self.calls)
            .finish_non_exhaustive()
    }
}

fn socket_in(dir: &Path) -> PathBuf {
    dir.join("docker.sock")
}

/// One request per connection: the engine is told to hang up after its answer.
async fn serve(mut client: UnixStream, upstream: PathBuf, state: Arc<Mutex<State>>, rules: Rules) {
    let Ok(request) = read_request(&mut client).await else {
        return;
    };
    let cut = state
        .lock()
        .expect("the proxy's state")
        .record(request.call.clone());
    match (cut, rules.of(&request.call)) {
        (Some(cut), _) => {
            if cut.side == Side::AfterEngine {
                drop(ask(&upstream, &request).await);
            }
            (cut.then)();
            state.lock().expect("the proxy's state").cutting = false;
        }
        (None, Some(rule)) => drop(obey(&rule, &mut client, &upstream, &request).await),
        (None, None) => {
            if let Ok(mut engine) = UnixStream::connect(&upstream).await {
                drop(engine.write_all(&request.bytes).await);
                drop(copy_bidirectional(&mut client, &mut engine).await);
            }
        }
    }
}

/// The engine's whole answer.
async fn ask(upstream: &Path, request: &Request) -> io::Result<Vec<u8>> {
    let mut engine = UnixStream::connect(upstream).await?;
    engine.write_all(&request.bytes).await?;
    let mut answer = Vec::new();
    engine.read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn obey(
    rule: &Rule,
    client: &mut UnixStream,
    upstream: &Path,
    request: &Request,
) -> io::Result<()> {
    let answer = match &rule.action {
        Action::Answer(status) => {
            rule.meet();
            rules::error(*status)
        }
        Action::Hold(side, verdict) => {
            let early = match side {
                Side::BeforeEngine => None,
                Side::AfterEngine => Some(ask(upstream, request).await?),
            };
            rule.meet();
            if !rules::goes_on(verdict.clone()).await {
                return Ok(());
            }
            match early {
                Some(answer) => answer,
                None => ask(upstream, request).await?,
            }
        }
    };
    client.write_all(&answer).await
}

struct Request {
    call: Call,
    /// Head and body.
    bytes: Vec<u8>,
}

/// Reads the head and, where its length is told, the body. A body in chunks (an archive, which no
/// agent sends) is left to be copied.
async fn read_request(client: &mut UnixStream) -> io::Result<Request> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
        if head.len() > 65_536 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut words = text.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let header = |name: &str| {
        let lines = text.lines().filter_map(|line| line.split_once(':'));
        let mut found = lines.filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.trim().to_owned())
    };
    let mut body = vec![
        0;
        header("content-length")
            .and_then(|n| n.parse().ok())
            .unwrap_or(0)
    ];
    client.read_exact(&mut body).await?;
    let call = Call {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let mut bytes = Vec::new();
    if header("upgrade").is_some() {
        bytes.extend_from_slice(&head);
    } else {
        let lines = text.trim_end().lines();
        for line in lines.filter(|line| !line.to_lowercase().starts_with("connection:")) {
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"Connection: close\r\n\r\n");
    }
    bytes.extend_from_slice(&body);
    Ok(Request { call, bytes })
}

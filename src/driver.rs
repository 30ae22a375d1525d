//! The one task that owns the registry. Everybody else sends it inputs and reads a snapshot.
//!
//! It awaits nobody but its own queues: effects run as tasks of their own, events go to the session
//! by `try_send`. So nothing can wait in a circle, and one sick container slows no other.

mod fetch;
mod local;
mod operate;
mod watch;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, mpsc, watch as watched},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use self::local::Locals;
pub use self::local::{FromLocal, REPLIES};
use crate::{
    clock::{self, Timestamp},
    gpu::{ward::Wiped, wipe::Wiper},
    ids::{AgentId, CommandId, Epoch, Generation, GpuUuid, InstanceId},
    instance::{
        effect::{Effect, EngineOp, FetchId, OpDone, OpId},
        publish::{Event, Snapshot},
        registry::{Input, Registry},
    },
    protocol::{Command, Error},
    runtime::ContainerRuntime,
};

/// Numbers the sessions of one process, so that what a finished one still says is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionNo(pub u64);

/// What a session tells the driver. Sent through a bounded channel and awaited: when the driver is
/// behind, the socket is not read.
#[derive(Debug)]
pub enum FromServer {
    /// `welcome` came. From now on events go to `events` (bounded); when it is full the driver drops
    /// it, which tells the session to close with 1013 and to come back for the whole state.
    Connected {
        /// Which session.
        session: SessionNo,
        /// The server's clock.
        server_time: Timestamp,
        /// Where events go.
        events: mpsc::Sender<Event>,
    },
    /// A command that could be read.
    Command {
        /// Which session.
        session: SessionNo,
        /// What to do.
        command: Box<Command>,
    },
    /// A command whose id could be read, and why it is rejected.
    BadCommand {
        /// Which session.
        session: SessionNo,
        /// Its id.
        id: CommandId,
        /// Why.
        error: Box<Error>,
    },
    /// Records up to `generation` are stored. The session has checked that the epoch is ours and
    /// that it sent that generation.
    Ack {
        /// Up to which one.
        generation: Generation,
    },
    /// The session is over.
    Disconnected {
        /// Which session.
        session: SessionNo,
    },
}

/// Who this process is, for everything that speaks for it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// From the configuration.
    pub agent_id: AgentId,
    /// A random name of this process.
    pub epoch: Epoch,
    /// When it started.
    pub started_at: Timestamp,
    /// From the configuration.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// SIGTERM leaves so long for what cannot be cut; then it is left to the next start. The goodbye and
/// blocking calls that hang come on top: 10 s in all.
const DRAIN: Duration = Duration::from_secs(7);
/// The boot-time clock goes on while the machine sleeps and tokio's does not: looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// As many as there may be connections to this host's surfaces.
const LOCAL: usize = 128;
/// From the engine's watcher, the probes and the fetches: each waits or loses nothing but hints.
const INPUTS: usize = 256;

/// The ways into the driver.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// For sessions.
    pub from_server: mpsc::Sender<FromServer>,
    /// For surfaces of this host.
    pub from_local: mpsc::Sender<FromLocal>,
    /// For probes.
    pub from_below: mpsc::Sender<Input>,
    /// What everybody may read.
    pub snapshot: watched::Receiver<Arc<Snapshot>>,
    /// When the driver last had a turn, by the boot-time clock; it has one every 5 s at the latest.
    pub turned: watched::Receiver<Duration>,
}

/// The task that owns the registry.
#[derive(Debug)]
pub struct Driver<R> {
    registry: Registry,
    runtime: Arc<R>,
    from_server: mpsc::Receiver<FromServer>,
    from_local: mpsc::Receiver<FromLocal>,
    from_below: mpsc::Receiver<Input>,
    below: mpsc::Sender<Input>,
    snapshot: watched::Sender<Arc<Snapshot>>,
    turned: watched::Sender<Duration>,
    tasks: JoinSet<Input>,
    fetches: HashMap<FetchId, AbortHandle>,
    look: Arc<Notify>,
    wiper: Option<Wiper>,
    session: Option<(SessionNo, mpsc::Sender<Event>)>,
    locals: Locals,
}

/// What the driver woke up for.
enum Woken {
    Shutdown,
    Done(Option<Result<Input, tokio::task::JoinError>>),
    Below(Input),
    Server(FromServer),
    Local(FromLocal),
    Timeout,
}

impl<R: ContainerRuntime> Driver<R> {
    /// A driver over an engine, and the ways into it.
    pub fn new(registry: Registry, runtime: R) -> (Self, Inputs) {
        // As many commands as a server re-sends at once may wait; then the socket is not read.
        let (to_server, from_server) = mpsc::channel(1_024);
        let (to_local, from_local) = mpsc::channel(LOCAL);
        let (below, from_below) = mpsc::channel(INPUTS);
        let (snapshot, reader) = watched::channel(Arc::new(registry.snapshot()));
        let (turned, last_turn) = watched::channel(clock::now().boot);
        let driver = Self {
            registry,
            runtime: Arc::new(runtime),
            from_server,
            from_local,
            from_below,
            below: below.clone(),
            snapshot,
            turned,
            tasks: JoinSet::new(),
            fetches: HashMap::new(),
            look: Arc::default(),
            wiper: None,
            session: None,
            locals: Locals::default(),
        };
        (
            driver,
            Inputs {
                from_server: to_server,
                from_local: to_local,
                from_below: below,
                snapshot: reader,
                turned: last_turn,
            },
        )
    }

    /// With the probes' ear for wishes: told, they look at the GPUs out of turn.
    #[must_use]
    pub fn looking(mut self, look: Arc<Notify>) -> Self {
        self.look = look;
        self
    }

    /// With the means to wipe GPUs.
    #[must_use]
    pub fn wiping(mut self, wiper: Wiper) -> Self {
        self.wiper = Some(wiper);
        self
    }

    /// Runs until cancelled, then until what cannot be cut is done, at most 7 s.
    pub async fn run(&mut self, token: CancellationToken) -> anyhow::Result<()> {
        let (runtime, below, stop) = (self.runtime.clone(), self.below.clone(), token.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = watch::watch(&*runtime, &below, &stop) => {}
            }
            Input::Shutdown
        });
        let mut deadline = None;
        loop {
            let stopping = deadline.is_some();
            if stopping && (!self.registry.is_busy() || deadline <= Some(clock::now().boot)) {
                self.tasks.abort_all();
                return Ok(());
            }
            let wake = self.wake(deadline);
            let woken = tokio::select! {
                // Shutdown first; then what came from below, so that exits and completions are known
                // before a command is decided on; then time; commands last.
                biased;
                () = token.cancelled(), if !stopping => Woken::Shutdown,
                done = self.tasks.join_next(), if !self.tasks.is_empty() => Woken::Done(done),
                Some(input) = self.from_below.recv() => Woken::Below(input),
                () = tokio::time::sleep(wake) => Woken::Timeout,
                Some(from_server) = self.from_server.recv(), if !stopping => {
                    Woken::Server(from_server)
                }
                Some(from_local) = self.from_local.recv(), if !stopping => {
                    Woken::Local(from_local)
                }
            };
            if matches!(woken, Woken::Shutdown) {
                deadline = Some(clock::now().boot + DRAIN);
                self.fetches.drain().for_each(|(_, task)| task.abort());
            }
            self.wake_up(woken)?;
            self.turned.send_replace(clock::now().boot);
        }
    }

    fn wake(&self, deadline: Option<Duration>) -> Duration {
        let now = clock::now().boot;
        let due = self
            .registry
            .poll_timeout()
            .into_iter()
            .chain(deadline)
            .min();
        due.map_or(LOOK_EVERY, |due| due.saturating_sub(now))
            .min(LOOK_EVERY)
    }

    fn wake_up(&mut self, woken: Woken) -> anyhow::Result<()> {
        match woken {
            Woken::Shutdown => self.feed(Input::Shutdown),
            Woken::Below(input) => self.feed(input),
            Woken::Server(from_server) => self.hear(from_server),
            Woken::Local(from_local) => self.hear_local(from_local),
            Woken::Timeout => {
                let effects = self.registry.handle_timeout(clock::now());
                self.carry_out(effects);
            }
            Woken::Done(Some(Ok(input))) => {
                if let Input::Fetched(id, _) = &input {
                    self.fetches.remove(id);
                }
                self.feed(input);
            }
            // A fetch that nobody wants any more was aborted; everything else is a defect.
            Woken::Done(Some(Err(error))) if error.is_cancelled() => {}
            Woken::Done(Some(Err(error))) => anyhow::bail!("an operation on the engine: {error}"),
            Woken::Done(None) => {}
        }
        self.locals.greet(&self.registry);
        let snapshot = self.registry.snapshot();
        self.snapshot.send_if_modified(|last| {
            let changed = !last.is_same_as(&snapshot);
            if changed {
                *last = Arc::new(snapshot);
            }
            changed
        });
        Ok(())
    }

    fn feed(&mut self, input: Input) {
        let effects = self.registry.handle(input, clock::now());
        self.carry_out(effects);
    }

    fn hear(&mut self, from_server: FromServer) {
        match from_server {
            FromServer::Connected {
                session,
                server_time,
                events,
            } => {
                self.session = Some((session, events));
                self.feed(Input::Connected { server_time });
            }
            FromServer::Disconnected { session } => {
                if self
                    .session
                    .as_ref()
                    .is_some_and(|(current, _)| *current == session)
                {
                    self.session = None;
                    self.feed(Input::Disconnected);
                }
            }
            FromServer::Command { session, command } if self.is_current(session) => {
                self.locals.asked_by_server(&command.id);
                self.feed(Input::Command(command));
            }
            FromServer::BadCommand { session, id, error } if self.is_current(session) => {
                self.feed(Input::BadCommand(id, error));
            }
            // Of a session that is over: the server sends it again in the next one.
            FromServer::Command { .. } | FromServer::BadCommand { .. } => {}
            FromServer::Ack { generation } => self.feed(Input::Ack(generation)),
        }
    }

    fn hear_local(&mut self, from_local: FromLocal) {
        match from_local {
            FromLocal::Command { command, replies } => {
                self.locals.ask(&command.id, replies);
                self.feed(Input::Command(command));
            }
            FromLocal::Watch { events } => self.locals.watch(events, &self.registry),
        }
    }

    fn is_current(&self, session: SessionNo) -> bool {
        self.session
            .as_ref()
            .is_some_and(|(current, _)| *current == session)
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Emit(event) => {
                    if self.locals.hear(&event) {
                        self.emit(event);
                    }
                }
                Effect::Tell(event) => {
                    self.locals.hear(&event);
                }
                Effect::LookAtGpus => self.look.notify_one(),
                Effect::WipeGpu(uuid) => {
                    let wiper = self.wiper.clone();
                    self.tasks.spawn(wipe(wiper, uuid));
                }
                Effect::Engine { id, instance, op } => self.operate(id, instance, op),
                Effect::List(ticket) => {
                    let runtime = Arc::clone(&self.runtime);
                    self.tasks.spawn(async move {
                        Input::Listed(ticket, operate::list(&*runtime).await)
                    });
                }
                Effect::Fetch(id, request) => {
                    let (runtime, below) = (Arc::clone(&self.runtime), self.below.clone());
                    let task = self.tasks.spawn(async move {
                        Input::Fetched(id, fetch::fetch(&*runtime, id, request, below).await)
                    });
                    self.fetches.insert(id, task);
                }
                Effect::CancelFetch(id) => {
                    // Dropping the pull ends its connection, which cancels it in the engine.
                    if let Some(task) = self.fetches.remove(&id) {
                        task.abort();
                    }
                }
            }
        }
    }

    fn operate(&mut self, id: OpId, instance: InstanceId, op: EngineOp) {
        let runtime = Arc::clone(&self.runtime);
        self.tasks.spawn(async move {
            let result = operate::operate(&*runtime, op).await;
            Input::OpDone(Box::new(OpDone {
                id,
                instance,
                result,
            }))
        });
    }

    /// To the session, if there is one. A session that does not keep up loses its channel: it closes
    /// and comes back for the whole state.
    fn emit(&mut self, event: Event) {
        let Some((session, events)) = &self.session else {
            return;
        };
        let lossy = matches!(event, Event::Progress(_));
        match events.try_send(event) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) if lossy => {}
            Err(_) => {
                tracing::warn!(session = session.0, "the session does not keep up");
                self.session = None;
                // The registry's answer can only be more events, for which there is nobody now.
                let _ = self.registry.handle(Input::Disconnected, clock::now());
            }
        }
    }
}

async fn wipe(wiper: Option<Wiper>, uuid: GpuUuid) -> Input {
    let wiped = match wiper {
        Some(wiper) => wiper.wipe(&uuid).await,
        None => Wiped::Impossible("nothing is set up for it".to_owned()),
    };
    Input::GpuWiped { uuid, wiped }
}

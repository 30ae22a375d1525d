//! The server's memory as its sockets, its operators and tests share it: one lock, held for the time
//! of one decision and never across an await; whoever waits is woken by each change and looks again.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use tokio::sync::watch;

use super::{
    handle::LoggedFrame,
    link::{Link, Outgoing},
    state::{Care, Frame, Input, Output, Refused, SessionNo, State},
};
use crate::{
    clock,
    ids::{AgentId, CommandId, InstanceId},
};

/// What all tasks of one server share.
#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<Core>,
    changed: watch::Sender<u64>,
    /// Whether agents are let in.
    pub(super) accepting: watch::Sender<bool>,
}

#[derive(Debug)]
struct Core {
    state: State,
    links: BTreeMap<SessionNo, Link>,
    last_session: u64,
    frames: VecDeque<LoggedFrame>,
    frames_kept: usize,
}

impl Shared {
    pub(super) fn new(state: State, frames_kept: usize) -> Self {
        Self {
            core: Mutex::new(Core {
                state,
                links: BTreeMap::new(),
                last_session: 0,
                frames: VecDeque::new(),
                frames_kept,
            }),
            changed: watch::Sender::new(0),
            accepting: watch::Sender::new(true),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // Nothing panics while it holds the lock; if something did, the memory is still readable.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the memory.
    pub(super) fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.lock().state)
    }

    /// Changes the memory, sends what follows from it, and wakes whoever waits.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> (T, Vec<Output>)) -> T {
        let mut core = self.lock();
        let (value, outputs) = change(&mut core.state);
        for output in outputs {
            core.route(output);
        }
        drop(core);
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
        value
    }

    pub(super) fn open(&self, agent: AgentId, link: Link) -> SessionNo {
        let session = {
            let mut core = self.lock();
            core.last_session += 1;
            let session = SessionNo(core.last_session);
            core.links.insert(session, link);
            session
        };
        self.feed(Input::Opened { session, agent });
        session
    }

    pub(super) fn close(&self, session: SessionNo) {
        self.lock().links.remove(&session);
        self.feed(Input::Closed { session });
    }

    pub(super) fn feed(&self, input: Input) {
        self.change(|state| ((), state.handle(input, clock::now())));
    }

    pub(super) fn hang_up(&self, session: SessionNo, code: u16, reason: &'static str) {
        if let Some(link) = self.lock().links.get(&session) {
            link.send(Outgoing::Close(code, reason));
        }
    }

    /// Keeps a frame for whoever asks what came, the newest ones.
    pub(super) fn log(&self, session: SessionNo, frame: &Frame) {
        let mut core = self.lock();
        let begins = matches!(frame.message, crate::protocol::Message::Hello(_));
        let current = core.state.is_current(session) || begins;
        if core.frames.len() >= core.frames_kept {
            core.frames.pop_front();
        }
        if core.frames_kept > 0 {
            core.frames.push_back(LoggedFrame {
                session,
                current,
                frame: frame.written.clone(),
            });
        }
    }

    /// Looks at the kept frames.
    pub(super) fn frames<T>(&self, look: impl FnOnce(&VecDeque<LoggedFrame>) -> T) -> T {
        look(&self.lock().frames)
    }

    /// Drops a connection without a word.
    pub(super) fn cut(&self, session: SessionNo) {
        if let Some(link) = self.lock().links.get(&session) {
            link.cut();
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn submit(
        &self,
        agent: Option<&AgentId>,
        command: Value,
        care: Care,
    ) -> Result<CommandId, Refused> {
        self.change(
            |state| match state.submit(agent, command, care, clock::now()) {
                Ok((id, outputs)) => (Ok(id), outputs),
                Err(refused) => (Err(refused), Vec::new()),
            },
        )
    }

    pub(super) fn adopt(&self, agent: Option<&AgentId>, id: &InstanceId) -> bool {
        self.change(|state| (state.adopt(agent, id), Vec::new()))
    }
}

impl Core {
    fn route(&self, output: Output) {
        match output {
            Output::Send { session, text } => self.queue(session, Outgoing::Text(text)),
            Output::Close {
                session,
                code,
                reason,
            } => self.queue(session, Outgoing::Close(code, reason)),
            Output::Note { agent, note } => tracing::info!(%agent, "{note}"),
        }
    }

    fn queue(&self, session: SessionNo, outgoing: Outgoing) {
        if let Some(link) = self.links.get(&session) {
            link.send(outgoing);
        }
    }
}

//! The registry: every rental of this host, every command, every GPU and port, in one place. Pure:
//! [`Registry::handle`] takes an input and the time and returns what is to be done about it.
//!
//! Its parts, each in a file of its own: `admit` (may this deploy be taken), `ledger` (commands and
//! their replies), `slots` (GPUs, ports, cores, memory), `commands` (what each command does),
//! `deploys` (the one that begins a rental), `fetches` (shared pulls), `operate` (the next operation
//! on the engine), `outcome` (what came of it), `observe` (what a look at a container means), `ending`
//! (from the decision to the last marker), `engine` (whether it answers, and when it is listed),
//! `listing` (what a listing means), `handing` (how GPUs get into containers), `verify` (whether they
//! did), `gpus` (which of them may be given, and what ails them), `adopt` (rentals of an earlier
//! life), `publishing` (what leaves the registry).

mod admit;
mod adopt;
mod commands;
mod deploys;
mod ending;
mod engine;
mod entry;
mod fetches;
mod gpus;
mod handing;
mod ledger;
mod listing;
mod observe;
mod operate;
mod outcome;
mod publishing;
pub mod slots;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use self::{
    engine::EngineView,
    entry::Entry,
    fetches::Fetches,
    ledger::Ledger,
    slots::{Capacity, ForeignClaims, GpuView, Slots},
};
use super::{
    effect::{Effect, FetchId, Fetched, Listed, OpDone, Ticket},
    publish::Event,
};
use crate::{
    clock::{Now, ServerClock, Timestamp},
    config,
    gpu::{
        Found, Sampled, Xid,
        ward::{self, Ward, Wiped},
    },
    ids::{AgentId, CommandId, Generation, GpuUuid, InstanceId},
    protocol::{
        Command, Error,
        message::PullProgress,
        record::{Disk, EngineStatus, Gpu, Host},
    },
    runtime::{ContainerEvent, EngineFacts, Hardening},
};

/// What the registry has to know of its host and its configuration.
#[derive(Debug, Clone)]
pub struct Options {
    /// Who this is.
    pub agent_id: AgentId,
    /// The machine.
    pub host: Host,
    /// Where renters reach its ports.
    pub address: String,
    /// How much is rented out.
    pub limits: config::ResourceLimits,
    /// What is refused.
    pub policy: config::Policy,
    /// What every container gets.
    pub hardening: Hardening,
    /// How GPUs are given.
    pub gpu_rules: config::GpuRules,
    /// Host ports for rentals.
    pub port_range: crate::protocol::record::PortRange,
    /// Which GPUs may be given.
    pub gpus: ward::Policy,
}

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A server said `welcome`: it gets the whole state.
    Connected {
        /// The server's clock.
        server_time: Timestamp,
    },
    /// The session is over.
    Disconnected,
    /// A command that could be read.
    Command(Box<Command>),
    /// A command whose id could be read, and why the rest could not.
    BadCommand(CommandId, Box<Error>),
    /// The server has stored all records up to this one.
    Ack(Generation),
    /// The GPUs, as the probes see them.
    Gpus {
        /// All that there are.
        gpus: Vec<Found>,
        /// All probes have answered.
        complete: bool,
    },
    /// A look at the GPUs of one probe.
    GpuReadings(Arc<Sampled>),
    /// A GPU reported an error by itself.
    Xid(Xid),
    /// An answer to [`Effect::WipeGpu`].
    GpuWiped {
        /// Which.
        uuid: GpuUuid,
        /// What came of it.
        wiped: Wiped,
    },
    /// The engine answers: a listing is due.
    EngineUp {
        /// What it says of itself.
        facts: Box<EngineFacts>,
        /// The file systems of interest, the one with the engine's data among them.
        disks: Vec<Disk>,
    },
    /// The engine does not answer.
    EngineDown(EngineStatus),
    /// Its event stream is over: it may be another life of the engine that answers from now on.
    EngineLost,
    /// An answer to [`Effect::List`].
    Listed(Ticket, Listed),
    /// An answer to [`Effect::Engine`].
    OpDone(Box<OpDone>),
    /// A fetch goes on.
    FetchProgress(FetchId, PullProgress, String),
    /// An answer to [`Effect::Fetch`].
    Fetched(FetchId, Fetched),
    /// A hint that something happened to a container.
    Container(ContainerEvent),
    /// The process is going to stop: nothing new is begun.
    Shutdown,
}

/// Commands that arrive before the first listing wait for it so long.
const HOLD: Duration = Duration::from_secs(5);
/// So many of them: a server sends at most 1,000 at a time.
const HELD_MAX: usize = 1_024;

/// Every rental of this host, and all that is decided about them.
#[derive(Debug)]
pub struct Registry {
    options: Options,
    clock: ServerClock,
    generation: Generation,
    ticket: Ticket,
    next_op: u64,
    entries: BTreeMap<InstanceId, Entry>,
    /// Ids whose markers were removed, and when: an older listing does not bring them back.
    forgotten: HashMap<InstanceId, Ticket>,
    ledger: Ledger,
    fetches: Fetches,
    /// Repositories that somebody's credentials opened.
    private: BTreeSet<String>,
    slots: Slots,
    /// What others hold, in their own words, at the last listing.
    claims: ForeignClaims,
    engine: EngineView,
    connected: bool,
    /// The session has all records that there are: each change is sent.
    telling: bool,
    /// It has been told that these are all.
    synced: bool,
    /// Commands that wait for the first listing: until when, and whether they were accepted already.
    held: VecDeque<(Box<Command>, Duration)>,
    draining: bool,
    stopping: bool,
    inventory_complete: bool,
    gpus: Vec<Gpu>,
    ward: Ward,
    /// Device files of each GPU that was ever listed.
    nodes: BTreeMap<GpuUuid, Vec<String>>,
    records_dropped: u64,
    effects: Vec<Effect>,
}

impl Registry {
    /// An empty registry: what there is, the first listing tells.
    pub fn new(options: Options) -> Self {
        let capacity = Capacity::of(&options.host, &options.limits, options.port_range);
        let slots = Slots::new(capacity);
        let ward = Ward::new(options.gpus.clone());
        Self {
            options,
            clock: ServerClock::default(),
            generation: Generation::default(),
            ticket: Ticket::default(),
            next_op: 0,
            entries: BTreeMap::new(),
            forgotten: HashMap::new(),
            ledger: Ledger::default(),
            fetches: Fetches::default(),
            private: BTreeSet::new(),
            slots,
            claims: ForeignClaims::default(),
            engine: EngineView::default(),
            connected: false,
            telling: false,
            synced: false,
            held: VecDeque::new(),
            draining: false,
            stopping: false,
            inventory_complete: false,
            gpus: Vec::new(),
            ward,
            nodes: BTreeMap::new(),
            records_dropped: 0,
            effects: Vec::new(),
        }
    }

    /// Takes in one input and says what is to be done about it, in order.
    pub fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        match input {
            Input::Connected { server_time } => self.connect(server_time, now),
            Input::Disconnected => {
                self.connected = false;
                self.telling = false;
                self.synced = false;
            }
            Input::Command(command) => self.receive(command, now),
            Input::BadCommand(id, error) => self.refuse_unread(id, *error),
            Input::Ack(generation) => self.ack(generation, now),
            Input::Gpus { gpus, complete } => self.take_gpus(gpus, complete, now),
            Input::GpuReadings(sampled) => self.take_readings(&sampled, now),
            Input::Xid(xid) => self.take_xid(&xid, now),
            Input::GpuWiped { uuid, wiped } => self.gpu_wiped(&uuid, wiped, now),
            Input::EngineUp { facts, disks } => self.engine_up(*facts, disks, now),
            Input::EngineDown(status) => self.engine_down(status, now),
            Input::EngineLost => self.engine.lost = Some(self.touch()),
            Input::Listed(ticket, listed) => self.listed(ticket, listed, now),
            Input::OpDone(done) => self.operation_done(*done, now),
            Input::FetchProgress(id, progress, message) => {
                self.fetch_progress(id, &progress, &message, now);
            }
            Input::Fetched(id, fetched) => self.fetched(id, fetched, now),
            Input::Container(event) => self.container_event(&event, now),
            Input::Shutdown => self.stopping = true,
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`Registry::handle_timeout`] wants to be called next (boot-time clock).
    pub fn poll_timeout(&self) -> Option<Duration> {
        let entries = self
            .entries
            .values()
            .filter(|e| e.op.is_none())
            .filter_map(|e| e.not_before);
        let held = self.held.iter().map(|(_, until)| *until);
        let list = self
            .engine
            .list_at
            .filter(|_| self.engine.listing.is_none());
        entries
            .chain(held.filter(|until| *until != Duration::MAX))
            .chain(list)
            .min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Now) -> Vec<Effect> {
        if self.engine.listing.is_none() && self.engine.list_at.is_some_and(|at| at <= now.boot) {
            self.list(now);
        }
        self.release_held(now);
        let due: Vec<InstanceId> = self
            .entries
            .iter()
            .filter(|(_, e)| e.op.is_none() && e.not_before.is_some_and(|at| at <= now.boot))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.not_before = None;
            }
            self.drive(&id, now);
        }
        std::mem::take(&mut self.effects)
    }

    /// Whether an operation that should not be cut is in flight.
    pub fn is_busy(&self) -> bool {
        self.entries
            .values()
            .any(|e| e.op.is_some() || e.decision_op.is_some())
    }

    fn connect(&mut self, server_time: Timestamp, now: Now) {
        self.clock.set(server_time, now);
        self.connected = true;
        self.telling = false;
        self.synced = false;
        if self.engine.listed {
            self.sync();
        } else if !self.entries.is_empty() {
            self.tell();
        }
    }

    fn take_gpus(&mut self, found: Vec<Found>, complete: bool, now: Now) {
        for found in &found {
            let nodes = found.nodes.clone();
            self.nodes.insert(found.gpu.uuid.clone(), nodes);
        }
        let gpus: Vec<Gpu> = found.into_iter().map(|found| found.gpu).collect();
        // A GPU once listed stays listed for the epoch, also when it is lost.
        let lost = self
            .gpus
            .iter()
            .filter(|known| !gpus.iter().any(|gpu| gpu.uuid == known.uuid))
            .map(|known| Gpu {
                health: crate::protocol::record::Health::Failed,
                health_reasons: vec!["the driver does not list it any more".to_owned()],
                ..known.clone()
            })
            .collect::<Vec<_>>();
        self.gpus = gpus.into_iter().chain(lost).collect();
        self.inventory_complete = complete;
        self.ward.list(&self.gpus, now.boot);
        self.apply_claims(now);
        self.gpus_changed(now);
        self.settle_leaving(now);
    }

    fn gpu_view(&self) -> GpuView<'_> {
        GpuView {
            gpus: &self.gpus,
            complete: self.inventory_complete,
        }
    }

    fn emit(&mut self, event: Event) {
        self.effects.push(match self.connected {
            true => Effect::Emit(event),
            false => Effect::Tell(event),
        });
    }

    fn touch(&mut self) -> Ticket {
        self.ticket = Ticket(self.ticket.0 + 1);
        self.ticket
    }
}

#[cfg(test)]
mod tests;

/// A record for tests of the neighbours.
#[cfg(test)]
pub(crate) fn tests_record() -> crate::protocol::Instance {
    entry::blank_record("x".parse().unwrap_or_else(|_| unreachable!("a valid id")))
}

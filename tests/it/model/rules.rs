//! What has to hold at every moment, seen from outside: by what the registry asks of the engine, what
//! it tells the server, and what the engine holds then. Shares nothing with the registry but the
//! types of the seam.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rental_agent::{
    clock::Timestamp,
    ids::{CommandId, ContainerId, InstanceId},
    instance::publish::Snapshot,
    protocol::{Instance, Phase, Reply},
};

use super::{
    engine::SimEngine,
    server::{MayReject, SimServer},
};

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which one.
    pub(crate) rule: &'static str,
    /// How.
    pub(crate) detail: String,
}

/// Whether a rule holds.
pub(crate) type Check = Result<(), Violation>;

/// Returns a [`Violation`] unless the condition holds.
macro_rules! rule {
    ($holds:expr, $rule:expr, $($detail:tt)+) => {
        if !$holds {
            return Err($crate::model::rules::Violation { rule: $rule, detail: format!($($detail)+) });
        }
    };
}
pub(crate) use rule;

/// The names of the rules, as the broken registries have to break them.
pub(crate) mod name {
    pub(crate) const GENERATION: &str = "generation grows";
    pub(crate) const ENDED: &str = "ended stays ended";
    pub(crate) const GPU_ONCE: &str = "no GPU in two live rentals";
    pub(crate) const PORT_ONCE: &str = "no port in two live rentals";
    pub(crate) const ONE_FINAL: &str = "each command has one final reply";
    pub(crate) const VERBATIM: &str = "the same command gets the same reply";
    pub(crate) const FIRST_REPLY: &str = "accepted, already or rejected comes first";
    pub(crate) const ANSWERED: &str = "a command is answered in time";
    pub(crate) const NOT_REFUSED: &str = "a terminate is not refused";
    pub(crate) const WINS: &str = "terminate wins";
    pub(crate) const RECORD_FIRST: &str = "the record precedes the reply";
    pub(crate) const DECISION_FIRST: &str =
        "the decision is written before the container is touched";
    pub(crate) const FINAL_FIRST: &str = "the final record is written before the container goes";
    pub(crate) const KEPT_UNTIL_ACK: &str = "the final record is kept until the ack, and goes last";
    pub(crate) const BLIND: &str = "nothing is done to an engine that cannot be seen";
    pub(crate) const ONE_OPERATION: &str = "one operation in flight per rental";
    pub(crate) const FOREIGN: &str = "what is not ours is not touched";
    pub(crate) const NO_CAUSE: &str = "nothing runs is ended without a cause";
    pub(crate) const HOT_LOOP: &str = "no hot loop";
    pub(crate) const WHOLE: &str = "the server sees the whole state";
    pub(crate) const ADMISSION: &str = "a deploy is answered as its id's state says";
    pub(crate) const FOREIGN_CLAIM: &str = "what others hold is not rented out";
    pub(crate) const MATCHES: &str = "the record says what the container has";
    pub(crate) const RECHECKED: &str = "a GPU is looked for in other containers before a start";
    pub(crate) const ACCOUNTED: &str = "what is rented is counted as occupied";
    pub(crate) const SECRET: &str = "no secret in a label";
    pub(crate) const SHARED: &str = "equal fetches are shared";
    pub(crate) const REST: &str = "everything comes to rest";
    pub(crate) const LEFTOVER: &str = "nothing is left over";
    pub(crate) const KEPT: &str = "no rental is lost";
    pub(crate) const REASON: &str = "the end's reason is true";
}

/// What made the registry speak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A command, and whether it was heard before in this life of the agent.
    Command(CommandId),
    /// An operation on the engine is over.
    Operation,
    /// A listing came.
    Listing,
    /// A driver showed the GPUs, or a wipe of one is over.
    Driver,
    /// Time has passed.
    Time,
    /// Anything else.
    Other,
}

/// A command that this life of the agent has heard.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// Heard first in this session.
    pub(crate) session: u64,
    /// An earlier life heard it too, so that the engine may know of it.
    pub(crate) in_earlier_life: bool,
}

/// The rest of the world, for a look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Around<'a> {
    pub(crate) engine: &'a SimEngine,
    pub(crate) server: &'a SimServer,
    pub(crate) clock: Duration,
}

/// What was seen so far. What is not said to be otherwise is of this life of the agent.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// The highest generation that was told.
    pub(crate) generation: u64,
    /// The last record of each rental that was told, in any session.
    pub(crate) told: BTreeMap<InstanceId, (u64, Arc<Instance>)>,
    /// What the session's server knows.
    pub(crate) view: BTreeMap<InstanceId, Arc<Instance>>,
    /// Numbers the sessions.
    pub(crate) session: u64,
    pub(crate) connected: bool,
    /// The session has been told all records that there are.
    pub(crate) telling: bool,
    pub(crate) synced: bool,
    /// The registry's records after the last step.
    pub(crate) records: BTreeMap<InstanceId, Arc<Instance>>,
    /// The latest reply to each command.
    pub(crate) replies: BTreeMap<CommandId, Reply>,
    pub(crate) heard: BTreeMap<CommandId, Heard>,
    /// Heard in this session, and without any reply.
    pub(crate) unanswered: BTreeMap<CommandId, Duration>,
    /// A listing without its markers has been taken in.
    pub(crate) half_listed: bool,
    /// A listing has been taken in.
    pub(crate) listed: bool,
    /// The watcher's last word was that the engine answers.
    pub(crate) reachable: bool,
    /// And it was listed since.
    pub(crate) visible: bool,
    pub(crate) draining: bool,
    /// Rentals that were told to end.
    pub(crate) doomed: BTreeSet<InstanceId>,
    /// Of these the ones that only a terminate with a past `not_after` dooms: sent before the deploy,
    /// it was refused while the id was not known, and taken when it came again and it was.
    pub(crate) doomed_late: BTreeSet<InstanceId>,
    /// Rentals whose end the first listing showed.
    pub(crate) ending_at_start: BTreeSet<InstanceId>,
    /// Rentals whose final record the server has stored in this life.
    pub(crate) acked: BTreeSet<InstanceId>,
    /// Rentals whose GPUs were looked for in other containers: for which container, ended when.
    pub(crate) rechecked: BTreeMap<InstanceId, (ContainerId, Option<Timestamp>)>,
    /// What others held at the last listing.
    pub(crate) claimed_gpus: BTreeSet<String>,
    pub(crate) claimed_ports: BTreeSet<u16>,

    // Of all lives.
    /// Commands that an earlier life heard.
    pub(crate) heard_before: BTreeSet<CommandId>,
    /// Their final record was told.
    pub(crate) ever_ended: BTreeSet<InstanceId>,
    /// Their `ready` was told.
    pub(crate) ever_ready: BTreeSet<InstanceId>,
    /// A terminate of these was heard.
    pub(crate) ever_doomed: BTreeSet<InstanceId>,
    /// The spec of the deploy that was accepted last.
    pub(crate) specs: BTreeMap<InstanceId, serde_json::Value>,
    /// The engine refused these rentals' markers, or somebody else has their names.
    pub(crate) unmarked: BTreeSet<InstanceId>,
    /// Something happened to these that may end them.
    pub(crate) excused: BTreeSet<InstanceId>,
    /// Situations that were seen, for the coverage.
    pub(crate) seen: BTreeSet<&'static str>,
}

impl Rules {
    /// The agent died: what this life saw is over.
    pub(crate) fn next_life(&mut self) {
        let before = std::mem::take(self);
        self.session = before.session + 1;
        self.heard_before = before.heard_before;
        self.heard_before.extend(before.heard.into_keys());
        self.ever_ended = before.ever_ended;
        self.ever_ready = before.ever_ready;
        self.ever_doomed = before.ever_doomed;
        self.specs = before.specs;
        self.unmarked = before.unmarked;
        self.excused = before.excused;
        self.seen = before.seen;
    }

    /// A rental is told to end.
    pub(crate) fn doom(&mut self, id: &InstanceId, terminate: MayReject) {
        let is_first = self.doomed.insert(id.clone());
        match terminate {
            MayReject::Late if is_first => self.doomed_late.insert(id.clone()),
            MayReject::Late => false,
            MayReject::Never | MayReject::BadGrace => self.doomed_late.remove(id),
        };
    }

    /// Notes that a situation was seen.
    pub(crate) fn see(&mut self, what: &'static str) {
        self.seen.insert(what);
    }

    /// Looks at the registry's state and the engine's after a step.
    pub(crate) fn look(&mut self, snapshot: &Snapshot, cause: &Cause, around: Around<'_>) -> Check {
        rule!(
            snapshot.generation.0 >= self.generation,
            name::GENERATION,
            "it fell in the snapshot"
        );
        let records: BTreeMap<InstanceId, Arc<Instance>> = snapshot
            .instances
            .iter()
            .map(|i| (i.id.clone(), Arc::clone(i)))
            .collect();
        self.draining = snapshot.status.draining;
        self.look_at_changes(&records, cause)?;
        self.records = records;
        self.look_at_reservations(snapshot)?;
        self.look_at_containers(around)?;
        self.look_at_view()
    }

    /// Ended stays ended, nothing live vanishes, and an end needs an answer of the engine.
    fn look_at_changes(
        &mut self,
        records: &BTreeMap<InstanceId, Arc<Instance>>,
        cause: &Cause,
    ) -> Check {
        for (id, before) in &self.records {
            let after = records.get(id);
            match (before.phase, after) {
                (Phase::Ended, None) => {
                    let acked = self.acked.contains(id);
                    rule!(
                        acked,
                        name::KEPT_UNTIL_ACK,
                        "{id} was forgotten without an ack"
                    );
                }
                (Phase::Ended, Some(after)) => {
                    rule!(
                        before == after,
                        name::ENDED,
                        "{id}: {before:?} became {after:?}"
                    );
                }
                (_, None) => rule!(false, name::WHOLE, "{id} vanished alive: {before:?}"),
                (Phase::Ending, Some(after)) => {
                    let on = matches!(after.phase, Phase::Ending | Phase::Ended);
                    rule!(on, name::ENDED, "{id} was ending and is {:?}", after.phase);
                }
                (Phase::Ready | Phase::Restarting, Some(after)) => {
                    let back = matches!(
                        after.phase,
                        Phase::Accepted | Phase::Pulling | Phase::Creating | Phase::Starting
                    );
                    rule!(
                        !back,
                        name::MATCHES,
                        "{id} was {:?}, is {:?}",
                        before.phase,
                        after.phase
                    );
                }
                _ => {}
            }
        }
        for (id, after) in records {
            let before = self.records.get(id);
            let was_live = before.is_none_or(|before| before.phase != Phase::Ended);
            if after.phase == Phase::Ended && was_live {
                // What was verified gone before may have waited for its GPUs to be clean since, and does not
                // wait for a silent driver for ever.
                let was_ending = before.is_some_and(|before| before.phase == Phase::Ending);
                let answered = match cause {
                    Cause::Operation | Cause::Listing => true,
                    Cause::Driver | Cause::Time => was_ending,
                    Cause::Command(_) | Cause::Other => false,
                };
                rule!(
                    answered,
                    name::BLIND,
                    "{id} was declared ended by {cause:?}"
                );
                self.look_at_end(after)?;
            }
            let alive = !matches!(after.phase, Phase::Ending | Phase::Ended);
            let back = alive && self.ever_ended.contains(id) && !self.unmarked.contains(id);
            rule!(
                !back,
                name::ENDED,
                "{id} had ended and is {:?}",
                after.phase
            );
            let doomed = self.doomed.contains(id);
            rule!(
                !(alive && doomed),
                name::WINS,
                "{id} is {:?} after a terminate",
                after.phase
            );
        }
        Ok(())
    }

    /// A final record says nothing that cannot be true.
    fn look_at_end(&self, record: &Instance) -> Check {
        use rental_agent::protocol::EndReason;
        let id = &record.id;
        let Some(ended) = &record.ended else {
            rule!(false, name::REASON, "{id} ended without saying how");
            return Ok(());
        };
        let ready = record.timeline.ready_at.is_some();
        let holds = match ended.reason {
            EndReason::Terminated => self.ever_doomed.contains(id),
            EndReason::Cancelled => self.ever_doomed.contains(id) && !ready,
            EndReason::Failed => !ready && ended.error.is_some(),
            EndReason::Exited | EndReason::OomKilled => ready,
            EndReason::Lost | EndReason::Interrupted => true,
            EndReason::Expired => false,
        };
        rule!(holds, name::REASON, "{id}: {ended:?}, ready: {ready}");
        rule!(
            record.timeline.ended_at.is_some(),
            name::REASON,
            "{id} ended at no time"
        );
        rule!(
            record.usage.is_some() == ready,
            name::REASON,
            "{id}: usage {:?}",
            record.usage
        );
        Ok(())
    }

    fn look_at_reservations(&self, snapshot: &Snapshot) -> Check {
        let mut gpus = BTreeMap::new();
        let mut ports = BTreeMap::new();
        let mut memory = 0;
        for record in self
            .records
            .values()
            .filter(|record| record.phase != Phase::Ended)
        {
            memory += record.memory_bytes;
            for gpu in &record.gpus {
                let other = gpus.insert(gpu, &record.id);
                rule!(
                    other.is_none(),
                    name::GPU_ONCE,
                    "{gpu}: {} and {other:?}",
                    record.id
                );
            }
            for port in &record.ports {
                let other = ports.insert((port.host, port.protocol), &record.id);
                let once = other.is_none();
                rule!(
                    once,
                    name::PORT_ONCE,
                    "{}: {} and {other:?}",
                    port.host,
                    record.id
                );
            }
        }
        // A container that was found beside its final record holds what that does not name.
        let found = |r: &Arc<Instance>| r.recovered && r.phase == Phase::Ending;
        let exact = !self.records.values().any(found);
        let occupied = &snapshot.occupied;
        let count = usize::try_from(occupied.gpus).unwrap_or(usize::MAX);
        let counted = count == gpus.len() || (!exact && count > gpus.len());
        rule!(counted, name::ACCOUNTED, "{count} GPUs, of {gpus:?}");
        let bytes = occupied.memory_bytes;
        let counted = bytes == memory || (!exact && bytes > memory);
        rule!(counted, name::ACCOUNTED, "{bytes} bytes, of {memory}");
        for gpu in &snapshot.gpus {
            let held = gpus.contains_key(&gpu.uuid);
            let offered = gpu.state == rental_agent::protocol::record::GpuState::Available;
            rule!(
                !(held && offered),
                name::ACCOUNTED,
                "{} is offered and held",
                gpu.uuid
            );
        }
        Ok(())
    }

    /// What runs has what its record says, and nobody else has it.
    fn look_at_containers(&self, around: Around<'_>) -> Check {
        let mut holders: BTreeMap<&str, &InstanceId> = BTreeMap::new();
        for (id, container) in around.engine.rentals().filter(|(_, c)| c.runs()) {
            let record = self
                .records
                .get(&id)
                .filter(|record| record.phase != Phase::Ended);
            for gpu in &container.gpus {
                let other = around
                    .engine
                    .rentals()
                    .find(|(other, c)| *other != id && c.runs() && c.gpus.contains(gpu));
                rule!(
                    other.is_none(),
                    name::GPU_ONCE,
                    "{gpu} runs in {id} and {other:?}"
                );
                if let Some(record) = self.records.values().find(|record| {
                    record.id != id && record.phase != Phase::Ended && record.gpus.contains(gpu)
                }) {
                    holders.insert(gpu.as_str(), &record.id);
                }
            }
            if self.listed {
                rule!(
                    holders.is_empty(),
                    name::GPU_ONCE,
                    "running in {id}, given to {holders:?}"
                );
            }
            let Some(record) = record.filter(|r| r.container_id.as_ref() == Some(&container.id))
            else {
                continue;
            };
            rule!(
                record.gpus == container.gpus,
                name::MATCHES,
                "{id}: GPUs {record:?} {container:?}"
            );
            let said: BTreeSet<_> = record.ports.iter().map(|p| (p.host, p.protocol)).collect();
            let has: BTreeSet<_> = container
                .ports
                .iter()
                .map(|p| (p.host, p.protocol))
                .collect();
            rule!(
                said == has,
                name::MATCHES,
                "{id}: ports {said:?}, in the container {has:?}"
            );
        }
        Ok(())
    }

    /// While a session is synced its server knows everything but what it has acked as ended.
    fn look_at_view(&self) -> Check {
        if !self.connected || !self.synced {
            return Ok(());
        }
        for (id, record) in &self.records {
            if record.phase == Phase::Ended && self.acked.contains(id) {
                continue;
            }
            let seen = self.view.get(id);
            rule!(
                seen == Some(record),
                name::WHOLE,
                "{id}: {record:?} is seen as {seen:?}"
            );
        }
        Ok(())
    }
}

//! A central server as PROTOCOL wants it: it sends again what has no final reply, acks what it has
//! stored, and never uses an id twice. What it asks for, the script decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rental_agent::{
    ids::{CommandId, InstanceId},
    instance::publish::Event,
    protocol::{Instance, Outcome, Phase, Reply},
};
use serde_json::{Value, json};

/// What a command is about, as far as the model cares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum About {
    Deploy(InstanceId),
    DryRun(InstanceId),
    /// With what entitles the agent to reject it.
    Terminate(InstanceId, MayReject),
    Cancel(CommandId),
    Pull,
    Report,
    /// An op that the agent does not have.
    Unreadable,
    Drain,
    Resume,
}

/// What entitles the agent to reject a terminate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MayReject {
    Never,
    /// The grace is none.
    BadGrace,
    /// It was not to be begun any more, if the id is not known.
    Late,
}

/// A command that was sent at least once.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) id: CommandId,
    pub(crate) about: About,
    pub(crate) body: Value,
    /// The final reply, as far as the server knows.
    pub(crate) last: Option<Reply>,
    /// The server does not wait for it any more.
    pub(crate) settled: bool,
}

/// What the server has stored of a rental.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) instance: Arc<Instance>,
}

/// The server.
#[derive(Debug, Default)]
pub(crate) struct SimServer {
    pub(crate) commands: Vec<Sent>,
    pub(crate) records: BTreeMap<InstanceId, Stored>,
    /// Final records that it has acked: no deploy of these is ever sent again.
    pub(crate) acked: BTreeSet<InstanceId>,
    /// The highest generation that was read in this session.
    pub(crate) read_up_to: u64,
    /// Which rental each slot stands for, by how many came before.
    generations: BTreeMap<u8, u32>,
    serial: u64,
}

impl SimServer {
    /// The rental that a slot stands for now. One whose end is acked is never named again.
    pub(crate) fn in_slot(&mut self, slot: u8) -> InstanceId {
        let n = self.generations.entry(slot).or_default();
        loop {
            let id: InstanceId = format!("r{slot}-{n}").parse().unwrap();
            if !self.acked.contains(&id) {
                return id;
            }
            *n += 1;
        }
    }

    /// Notes a new command.
    pub(crate) fn write(&mut self, about: About, body: Value) -> Sent {
        self.serial += 1;
        let id: CommandId = format!("c{}", self.serial).parse().unwrap();
        let sent = Sent {
            id,
            about,
            body,
            last: None,
            settled: false,
        };
        self.commands.push(sent.clone());
        sent
    }

    pub(crate) fn find(&self, id: &CommandId) -> Option<&Sent> {
        self.commands.iter().find(|sent| sent.id == *id)
    }

    /// A new session begins: what has to be sent again, in order.
    pub(crate) fn begin(&mut self, new_epoch: bool) -> Vec<Sent> {
        self.read_up_to = 0;
        for sent in &mut self.commands {
            // Nobody knows whether a report of an earlier life was made.
            if new_epoch && sent.about == About::Report {
                sent.settled = true;
            }
        }
        self.commands
            .iter()
            .filter(|sent| !sent.settled)
            .cloned()
            .collect()
    }

    /// Takes in what the agent says. What the server then has to ask for comes back.
    pub(crate) fn read(&mut self, event: &Event) -> Vec<InstanceId> {
        match event {
            Event::Records(records) => {
                let unwanted: Vec<_> = records
                    .iter()
                    .filter_map(|record| self.store(&record.instance))
                    .collect();
                for record in records {
                    self.read_up_to = self.read_up_to.max(record.generation.0);
                }
                unwanted
            }
            Event::Record(record) => {
                self.read_up_to = self.read_up_to.max(record.generation.0);
                self.store(&record.instance).into_iter().collect()
            }
            Event::Reply(reply) => {
                self.note(reply);
                Vec::new()
            }
            Event::Synced(synced) => {
                self.end_what_is_gone(&synced.ids);
                Vec::new()
            }
            Event::Progress(_) | Event::Report => Vec::new(),
        }
    }

    /// Who is not in the state has ended, unless its deploy is still to be answered.
    fn end_what_is_gone(&mut self, ids: &[InstanceId]) {
        let awaited: BTreeSet<InstanceId> = self
            .commands
            .iter()
            .filter(|sent| !sent.settled)
            .filter_map(|sent| match &sent.about {
                About::Deploy(id) => Some(id.clone()),
                _ => None,
            })
            .collect();
        for (id, stored) in &mut self.records {
            if !ids.contains(id) && !awaited.contains(id) {
                Arc::make_mut(&mut stored.instance).phase = Phase::Ended;
            }
        }
    }

    /// Stores a record; the first final one wins. Returns the id when it has to be terminated.
    fn store(&mut self, instance: &Arc<Instance>) -> Option<InstanceId> {
        let id = &instance.id;
        let ended = |stored: &Stored| stored.instance.phase == Phase::Ended;
        if self.records.get(id).is_some_and(ended) {
            let alive = !matches!(instance.phase, Phase::Ended | Phase::Ending);
            return alive.then(|| id.clone());
        }
        self.records.insert(
            id.clone(),
            Stored {
                instance: Arc::clone(instance),
            },
        );
        let alive = !matches!(instance.phase, Phase::Ended | Phase::Ending);
        let refused = self.commands.iter().all(|sent| {
            let Some(last) = &sent.last else {
                return !self.is_deploy(sent, id);
            };
            !self.is_deploy(sent, id) || last.outcome == Outcome::Rejected
        });
        (alive && refused).then(|| id.clone())
    }

    fn is_deploy(&self, sent: &Sent, id: &InstanceId) -> bool {
        matches!(&sent.about, About::Deploy(of) if of == id)
    }

    fn note(&mut self, reply: &Reply) {
        if !reply.outcome.is_final() {
            return;
        }
        if let Some(sent) = self
            .commands
            .iter_mut()
            .find(|sent| sent.id == reply.command_id)
        {
            sent.last.get_or_insert_with(|| reply.clone());
            sent.settled = true;
        }
    }

    /// What it may ack: it promises that no deploy of an ended id among these will be sent again.
    pub(crate) fn ack(&mut self) -> u64 {
        let ended: BTreeSet<InstanceId> = self
            .records
            .values()
            .filter(|stored| stored.instance.phase == Phase::Ended)
            .map(|stored| stored.instance.id.clone())
            .collect();
        for sent in &mut self.commands {
            match &sent.about {
                About::Deploy(id) | About::DryRun(id) if ended.contains(id) => sent.settled = true,
                _ => {}
            }
        }
        self.acked.extend(ended);
        self.read_up_to
    }

    /// The body of a terminate.
    pub(crate) fn terminate(id: &InstanceId) -> Value {
        json!({ "op": "terminate", "instance_id": id.as_str(), "grace_s": 1 })
    }
}

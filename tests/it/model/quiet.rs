//! What has to hold once everything is well again: the engine answers, the server is connected, and
//! time has passed.

use std::{collections::BTreeSet, time::Duration};

use rental_agent::{
    ids::{ContainerId, InstanceId},
    protocol::{Outcome, Phase},
};
use serde_json::json;

use super::{
    engine::{Fault, LABEL_AGENT, Power},
    fixture,
    rules::{Check, name, rule},
    server::{About, MayReject, SimServer},
    world::World,
};

/// Longer than every wait of the registry: the longest pause after an unknown, then the next listing.
const LONG: Duration = Duration::from_secs(75);
/// Until every port may be handed out again, also those that somebody else had.
const RESTED: Duration = Duration::from_secs(300);

impl World {
    /// Answers what is in flight, round after round, until nothing is.
    pub(crate) fn answer_all(&mut self) -> Check {
        for _ in 0..400 {
            while !self.engine.events.is_empty() {
                self.hint(false)?;
            }
            if !self.flights.is_empty() {
                self.answer(0, Fault::None)?;
            } else if !self.fetches.is_empty() {
                self.fetch_done(0, Ok(()))?;
            } else if !self.lists.is_empty() {
                self.answer_list(false)?;
            } else {
                return Ok(());
            }
        }
        rule!(
            false,
            name::REST,
            "400 operations at one moment: {:?}",
            self.flights
        );
        Ok(())
    }

    /// Lets so much time pass with an engine and a server that do all they should.
    pub(crate) fn settle(&mut self, by: Duration) -> Check {
        let until = self.clock + by;
        for _ in 0..500 {
            self.notice()?;
            self.connect()?;
            self.answer_all()?;
            self.read(usize::MAX)?;
            self.ack()?;
            if self.is_waiting() {
                continue;
            }
            if self.clock >= until {
                return Ok(());
            }
            let next = self
                .next_timeout()
                .unwrap_or(until)
                .clamp(self.clock, until);
            // Where nothing is due at this very moment, time goes on.
            let step = (next - self.clock).max(Duration::from_millis(1));
            self.pass(step)?;
        }
        rule!(
            false,
            name::REST,
            "500 steps within {by:?}; in flight: {:?}",
            self.flights
        );
        Ok(())
    }

    /// All that can be made good is.
    fn heal(&mut self) -> Check {
        if self.engine.power != Power::Up {
            self.engine_up()?;
        }
        self.engine.left.clear();
        self.engine.bound.clear();
        self.gpus((0..fixture::GPUS).map(fixture::gpu).collect(), true)?;
        // What was lost is back, and is offered after three good tests.
        for _ in 0..3 {
            self.settle(Duration::from_secs(61))?;
            self.look_at_gpus()?;
        }
        self.send(About::Resume, json!({ "op": "resume" }))?;
        self.settle(LONG)
    }

    /// The end of each case: every promise is kept, and when all is terminated nothing is left.
    pub(crate) fn finish(&mut self) -> Check {
        self.heal()?;
        self.every_promise_is_kept()?;
        self.strangers_leave();
        self.terminate_everything()?;
        self.settle(LONG)?;
        self.nothing_is_left()?;
        self.settle(RESTED)?;
        self.everything_can_be_rented()?;
        self.terminate_everything()?;
        self.settle(LONG)?;
        self.nothing_is_left()
    }

    fn every_promise_is_kept(&self) -> Check {
        for sent in &self.server.commands {
            let Some(last) = &sent.last else {
                let given_up = sent.settled;
                rule!(
                    given_up,
                    name::REST,
                    "{} has no final reply: {sent:?}",
                    sent.id
                );
                continue;
            };
            let About::Deploy(id) = &sent.about else {
                continue;
            };
            if last.outcome == Outcome::Rejected {
                continue;
            }
            let stored = self.server.records.get(id).map(|stored| &stored.instance);
            rule!(
                stored.is_some(),
                name::WHOLE,
                "{id} was taken and never shown"
            );
            let doomed = self.rules.ever_doomed.contains(id);
            let excused = self.rules.excused.contains(id) || doomed;
            let phase = stored.map(|record| record.phase);
            let kept = phase == Some(Phase::Ready) || (excused && phase == Some(Phase::Ended));
            rule!(kept, name::KEPT, "{id} is {stored:?} without a cause");
        }
        for (id, record) in &self.rules.records {
            let runs = self
                .engine
                .rentals()
                .any(|(other, c)| other == *id && c.runs());
            let ready = record.phase == Phase::Ready;
            let at_rest = ready || record.phase == Phase::Ended;
            rule!(at_rest, name::REST, "{id} is {record:?}");
            rule!(
                ready == runs,
                name::REST,
                "{id} is {:?}, it runs: {runs}",
                record.phase
            );
        }
        for (id, _) in self.engine.rentals() {
            rule!(
                self.rules.records.contains_key(&id),
                name::LEFTOVER,
                "{id} belongs to nobody"
            );
        }
        Ok(())
    }

    /// The administrator removes what is not the agent's.
    fn strangers_leave(&mut self) {
        let ours: BTreeSet<ContainerId> = self
            .engine
            .rentals()
            .map(|(_, container)| container.id.clone())
            .collect();
        self.engine.containers.retain(|id, _| ours.contains(id));
        self.engine.volumes.retain(|_, labels| {
            labels
                .get(LABEL_AGENT)
                .is_none_or(|agent| agent == fixture::AGENT)
        });
    }

    fn terminate_everything(&mut self) -> Check {
        let live: Vec<InstanceId> = self
            .rules
            .records
            .values()
            .filter(|record| record.phase != Phase::Ended)
            .map(|record| record.id.clone())
            .collect();
        for id in live {
            let body = SimServer::terminate(&id);
            self.send(About::Terminate(id, MayReject::Never), body)?;
        }
        Ok(())
    }

    fn nothing_is_left(&self) -> Check {
        let containers = &self.engine.containers;
        rule!(
            containers.is_empty(),
            name::LEFTOVER,
            "containers: {containers:?}"
        );
        let volumes = &self.engine.volumes;
        rule!(volumes.is_empty(), name::LEFTOVER, "volumes: {volumes:?}");
        let snapshot = self.snapshot();
        let records = &snapshot.instances;
        rule!(records.is_empty(), name::LEFTOVER, "records: {records:?}");
        let occupied = &snapshot.occupied;
        let none = occupied.gpus == 0 && occupied.memory_bytes == 0 && occupied.instances == 0;
        rule!(
            none && occupied.cpus == 0.0,
            name::LEFTOVER,
            "occupied: {occupied:?}"
        );
        for sent in &self.server.commands {
            let answered = sent.last.is_some() || sent.settled;
            rule!(
                answered,
                name::REST,
                "{} has no final reply: {sent:?}",
                sent.id
            );
        }
        Ok(())
    }

    /// One rental takes all that the host has: nothing was lost on the way.
    fn everything_can_be_rented(&mut self) -> Check {
        let id = self.server.in_slot(99);
        let ports: Vec<_> = (1..=fixture::PORTS)
            .map(|n| json!({ "name": format!("p{n}"), "container": n }))
            .collect();
        let spec = json!({
            "instance_id": id.as_str(),
            "image": fixture::IMAGES[0],
            "gpus": { "count": fixture::GPUS },
            "cpus": fixture::CPUS,
            "memory_bytes": fixture::MEMORY,
            "ports": ports,
        });
        let sent = self.send(
            About::Deploy(id.clone()),
            json!({ "op": "deploy", "spec": spec }),
        )?;
        self.settle(Duration::from_secs(5))?;
        let last = self
            .server
            .find(&sent.id)
            .and_then(|sent| sent.last.clone());
        let done = last
            .as_ref()
            .is_some_and(|last| last.outcome == Outcome::Done);
        rule!(
            done,
            name::LEFTOVER,
            "the whole host cannot be rented: {last:?}"
        );
        Ok(())
    }
}

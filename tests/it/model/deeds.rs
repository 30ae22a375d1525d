//! What has to hold of everything that the registry asks of the engine.

use std::collections::BTreeMap;

use rental_agent::{
    clock::Timestamp,
    ids::{ContainerId, InstanceId},
    instance::effect::{EngineOp, OpOutput},
    protocol::Phase,
};

use super::{
    engine::SimContainer,
    fixture::{CANARY, STRANGER},
    rules::{Around, Check, Rules, name, rule},
};

/// What an operation is for, where more than its kind matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Create,
    Holders,
    Start,
    SeeGpus,
    Inspect,
    Remake,
    Stop,
    Examine,
    Remove,
    Verify,
    MarkReady,
    MarkEnding,
    MarkEnded,
    RemoveMarkers,
}

/// Sorts an operation.
pub(crate) fn kind(op: &EngineOp) -> Kind {
    match op {
        EngineOp::Create(_) => Kind::Create,
        EngineOp::Holders { .. } => Kind::Holders,
        EngineOp::Start { .. } => Kind::Start,
        EngineOp::SeeGpus { .. } => Kind::SeeGpus,
        EngineOp::Inspect { .. } => Kind::Inspect,
        EngineOp::Remake { .. } => Kind::Remake,
        EngineOp::Stop { .. } => Kind::Stop,
        EngineOp::Examine { .. } => Kind::Examine,
        EngineOp::Remove { .. } => Kind::Remove,
        EngineOp::Verify { .. } => Kind::Verify,
        EngineOp::PutMarker(marker) if marker.name.ends_with(".ending") => Kind::MarkEnding,
        EngineOp::PutMarker(marker) if marker.name.ends_with(".ended") => Kind::MarkEnded,
        EngineOp::PutMarker(_) => Kind::MarkReady,
        EngineOp::RemoveMarkers(_) => Kind::RemoveMarkers,
    }
}

/// The name that an operation acts on, where it acts on a container.
pub(crate) fn target(op: &EngineOp) -> Option<&str> {
    match op {
        EngineOp::Holders { name, .. }
        | EngineOp::Start { name }
        | EngineOp::SeeGpus { name, .. }
        | EngineOp::Inspect { name }
        | EngineOp::Remake { name }
        | EngineOp::Stop { name, .. }
        | EngineOp::Examine { name }
        | EngineOp::Remove { name }
        | EngineOp::Verify { name, .. } => Some(name),
        EngineOp::Create(plan) => Some(&plan.name),
        EngineOp::PutMarker(_) | EngineOp::RemoveMarkers(_) => None,
    }
}

impl Rules {
    /// The registry asks for an operation, while these are in flight for the same rental.
    pub(crate) fn ask(
        &mut self,
        id: &InstanceId,
        op: &EngineOp,
        in_flight: &[Kind],
        around: Around<'_>,
    ) -> Check {
        let kind = kind(op);
        rule!(self.visible, name::BLIND, "{id}: {kind:?}");
        // The decision is written at once, and a look at GPUs changes nothing.
        let beside = |kind: &Kind| !matches!(kind, Kind::MarkEnding | Kind::SeeGpus);
        let alone = !beside(&kind) || !in_flight.iter().any(beside);
        rule!(
            alone,
            name::ONE_OPERATION,
            "{id}: {kind:?} beside {in_flight:?}"
        );
        if let Some(target) = target(op) {
            let own = format!("rental-{id}");
            rule!(target == own, name::FOREIGN, "{id}: {kind:?} of {target}");
        }
        let ended = self
            .records
            .get(id)
            .is_some_and(|r| r.phase == Phase::Ended);
        match op {
            EngineOp::Create(plan) => {
                self.may_bring_up(id, kind)?;
                rule!(!ended, name::ENDED, "{id}: {kind:?}");
                let secret = plan.labels.values().any(|value| value.contains(CANARY));
                rule!(!secret, name::SECRET, "{id}: {:?}", plan.labels);
            }
            EngineOp::Remake { .. } => self.may_bring_up(id, kind)?,
            EngineOp::Start { name } => {
                self.may_bring_up(id, kind)?;
                let container = around.engine.named(name).filter(|c| !c.gpus.is_empty());
                let looked = container.is_none_or(|c| self.rechecked.get(id) == Some(&life(c)));
                rule!(looked, name::RECHECKED, "{id}: {container:?}");
            }
            EngineOp::Stop { name, .. } => {
                let decided = self.decision_is_written(id, around);
                let caused = decided || self.unmarked.contains(id);
                rule!(caused, name::DECISION_FIRST, "{id} is stopped");
                self.has_cause(id, around.engine.named(name), kind)?;
            }
            EngineOp::Remove { name } => {
                // One that never ran may be made anew with other ports.
                let container = around.engine.named(name);
                let replaced = !self.doomed.contains(id)
                    && container.is_none_or(|c| c.detail.started_at.is_none())
                    && self
                        .records
                        .get(id)
                        .is_some_and(|r| r.phase == Phase::Starting);
                let written = around.engine.has_volume(&format!("rental-{id}.ended"));
                let recorded = written || replaced || self.unmarked.contains(id);
                rule!(recorded, name::FINAL_FIRST, "{id} is removed");
                self.has_cause(id, container, kind)?;
            }
            EngineOp::PutMarker(marker) => {
                let secret = marker.labels.values().any(|value| value.contains(CANARY));
                rule!(!secret, name::SECRET, "{id}: {:?}", marker.labels);
            }
            EngineOp::RemoveMarkers(names) => self.may_forget(id, names, around)?,
            EngineOp::Holders { .. }
            | EngineOp::SeeGpus { .. }
            | EngineOp::Inspect { .. }
            | EngineOp::Examine { .. }
            | EngineOp::Verify { .. } => {}
        }
        Ok(())
    }

    fn may_bring_up(&self, id: &InstanceId, kind: Kind) -> Check {
        let doomed = self.doomed.contains(id) || self.ending_at_start.contains(id);
        rule!(
            !doomed,
            name::WINS,
            "{id}: {kind:?} after the decision to end"
        );
        Ok(())
    }

    fn decision_is_written(&self, id: &InstanceId, around: Around<'_>) -> bool {
        ["ending", "ended"]
            .iter()
            .any(|marker| around.engine.has_volume(&format!("rental-{id}.{marker}")))
    }

    /// What runs is only ended because somebody said so, or because something happened to it.
    fn has_cause(&self, id: &InstanceId, container: Option<&SimContainer>, kind: Kind) -> Check {
        let runs = container.is_some_and(SimContainer::runs);
        let caused = self.ever_doomed.contains(id) || self.excused.contains(id);
        rule!(
            !runs || caused,
            name::NO_CAUSE,
            "{id}: {kind:?} of {container:?}"
        );
        Ok(())
    }

    fn may_forget(&self, id: &InstanceId, names: &[String], around: Around<'_>) -> Check {
        rule!(
            self.acked.contains(id),
            name::KEPT_UNTIL_ACK,
            "{id} is not acked"
        );
        let own = format!("rental-{id}.");
        let ours = names.iter().all(|name| name.starts_with(&own));
        rule!(ours, name::FOREIGN, "{id}: {names:?}");
        let last = format!("{own}ended");
        // It may never have been written, on a full disk, or be another agent's.
        let is_ours = |labels: &BTreeMap<String, String>| !labels.values().any(|v| v == STRANGER);
        let is_there = around.engine.volume(&last).is_some_and(is_ours);
        rule!(
            names.last() == Some(&last) || (!is_there && !names.contains(&last)),
            name::KEPT_UNTIL_ACK,
            "{id}: {names:?}"
        );
        let container = around.engine.named(&format!("rental-{id}"));
        let gone = around.engine.rentals().all(|(other, _)| other != *id);
        rule!(
            gone,
            name::KEPT_UNTIL_ACK,
            "{id} is forgotten with {container:?}"
        );
        Ok(())
    }

    /// An answer to an operation is about to be handed over.
    pub(crate) fn learn(&mut self, id: &InstanceId, output: &OpOutput, around: Around<'_>) {
        match output {
            OpOutput::Holders(holders) => {
                let Some(mine) = around.engine.named(&format!("rental-{id}")) else {
                    return;
                };
                // While there is another one it is waited for, or left the GPU.
                if holders.iter().all(|holder| holder.id == mine.id) {
                    self.rechecked.insert(id.clone(), life(mine));
                } else {
                    self.excused.insert(id.clone());
                    self.see("a GPU found in another container");
                }
            }
            _ => {}
        }
    }
}

/// A container between two starts.
fn life(container: &SimContainer) -> (ContainerId, Option<Timestamp>) {
    (container.id.clone(), container.detail.finished_at)
}

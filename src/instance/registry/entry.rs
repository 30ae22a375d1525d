//! One rental as the registry keeps it: the record that is published, the facts that decide what
//! comes next, and who waits for what. Pure.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    ids::{CommandId, ContainerId, Generation, InstanceId},
    instance::{
        effect::{EngineOp, FetchId, OpId, Ticket},
        lifecycle::{End, Facts, Presence, Step},
        marker,
        spec::InstanceSpec,
    },
    protocol::{
        Instance, Phase,
        record::{Condition, Timeline},
    },
    runtime::{VolumeLabels, gpus::Means},
};

/// One rental.
#[derive(Debug)]
pub(super) struct Entry {
    /// As it will be published next.
    pub(super) record: Instance,
    /// It was seen running and its markers have not been read yet: a full listing adopts it anew.
    pub(super) is_provisional: bool,
    /// As it was published last, and at which generation.
    pub(super) published: Option<(Generation, Arc<Instance>)>,
    /// What decides what comes next.
    pub(super) facts: Facts,
    /// Whole, with secrets: only in the life that took the deploy.
    pub(super) spec: Option<Box<InstanceSpec>>,
    /// Between TERM and KILL, unless a terminate says otherwise.
    pub(super) stop_grace: Duration,
    /// The lifecycle's one operation in flight, and for which step.
    pub(super) op: Option<(OpId, Step)>,
    /// The write of the decision to end, which waits for nothing.
    pub(super) decision_op: Option<OpId>,
    /// The look at its GPUs that is under way, beside everything else.
    pub(super) gpu_op: Option<OpId>,
    /// By what its GPUs were seen last.
    pub(super) gpu_means: Option<Means>,
    /// Its container was made to get its GPUs by CDI.
    pub(super) by_cdi: bool,
    /// CDI has failed for it.
    pub(super) without_cdi: bool,
    /// The removal of its markers, once acked.
    pub(super) forget_op: Option<OpId>,
    /// The server has stored its final record.
    pub(super) acked: bool,
    /// The last operation on it was issued or answered at this ticket.
    pub(super) touched: Ticket,
    /// No operation before this (boot-time clock).
    pub(super) not_before: Option<Duration>,
    /// Its container was verified gone, and its GPUs have been looked at since (boot-time clock).
    pub(super) leaving_since: Option<Duration>,
    /// So long it waits for others that were made with the same GPU (boot-time clock).
    pub(super) contended_until: Option<Duration>,
    /// Operations in a row of which nothing is known.
    pub(super) unknowns: u32,
    /// A create or remake has had no answer since then (boot-time clock), and may be done late.
    pub(super) create_unknown: Option<Duration>,
    /// Something happened to its container while an operation was in flight.
    pub(super) dirty: bool,
    /// The kernel killed a process of it for memory, said an event.
    pub(super) oom_event: bool,
    /// Somebody else sent it a signal at this time (boot-time clock).
    pub(super) foreign_kill: Option<Duration>,
    /// Its shared pull.
    pub(super) fetch: Option<FetchId>,
    /// How often it was given other ports, started after a failure, fetched again, made again.
    pub(super) tries: Tries,
    /// Of its first process; 0 when it is not known.
    pub(super) pid: u32,
    /// When it was first ready, as its marker says.
    pub(super) marked_ready_at: Option<Timestamp>,
    /// Of the host's life in which it was made.
    pub(super) boot_id: Option<String>,
    /// Names of its markers that are in the engine, or may be.
    pub(super) markers: BTreeSet<String>,
    /// It was last seen running at this time, in server time.
    pub(super) seen_running: Option<Timestamp>,
    /// The run that a restart ended and that it is being brought back from: when that began.
    pub(super) restart_of: Option<Timestamp>,
    /// Deploys that wait for `ready`.
    pub(super) deploys: Vec<CommandId>,
    /// Terminates that wait for `ended`; true once accepted.
    pub(super) terminates: Vec<(CommandId, bool)>,
    /// Whether a deploy of it was ever seen: what a terminate answers.
    pub(super) known: bool,
}

/// What is bounded per rental.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tries {
    pub(super) name: u32,
    pub(super) ports: u32,
    pub(super) start: u32,
    pub(super) fetch: u32,
    pub(super) remake: u32,
}

impl Entry {
    /// A rental of which only its id is known.
    pub(super) fn new(id: InstanceId, touched: Ticket) -> Self {
        Self {
            record: blank_record(id),
            is_provisional: false,
            published: None,
            facts: Facts {
                presence: Presence::Absent,
                verified_absent: true,
                image: None,
                has_gpus: false,
                soiled: false,
                rechecked: false,
                gpus_verified: false,
                remake: false,
                replace: false,
                inspected: false,
                marked_ready: false,
                is_stopped: false,
                end: None,
            },
            spec: None,
            stop_grace: Duration::from_secs(10),
            op: None,
            decision_op: None,
            gpu_op: None,
            gpu_means: None,
            by_cdi: false,
            without_cdi: false,
            forget_op: None,
            acked: false,
            touched,
            not_before: None,
            leaving_since: None,
            contended_until: None,
            unknowns: 0,
            create_unknown: None,
            dirty: false,
            oom_event: false,
            foreign_kill: None,
            fetch: None,
            tries: Tries::default(),
            pid: 0,
            marked_ready_at: None,
            boot_id: None,
            markers: BTreeSet::new(),
            seen_running: None,
            restart_of: None,
            deploys: Vec::new(),
            terminates: Vec::new(),
            known: true,
        }
    }

    /// The container's name.
    pub(super) fn name(&self) -> String {
        marker::container_name(&self.record.id)
    }

    /// Whether it has ended and nothing of it is left in the engine but markers.
    pub(super) fn is_over(&self) -> bool {
        self.record.phase == Phase::Ended
    }

    /// Writes a marker. From the asking on it may be in the engine, whatever becomes of the answer,
    /// so it is among those that are removed in the end.
    pub(super) fn put_marker(&mut self, marker: VolumeLabels) -> EngineOp {
        self.markers.insert(marker.name.clone());
        EngineOp::PutMarker(marker)
    }

    /// The decision to end, where there is one.
    pub(super) fn end(&self) -> Option<&End> {
        self.facts.end.as_ref()
    }

    /// The last time that there is evidence of it running, in server time.
    pub(super) fn last_seen(&self) -> Option<Timestamp> {
        let timeline = &self.record.timeline;
        [self.seen_running, timeline.ready_at, timeline.running_at]
            .into_iter()
            .flatten()
            .max()
    }

    /// Moves the record to a phase and notes when it was first reached.
    pub(super) fn enter(&mut self, phase: Phase, at: Timestamp) {
        self.record.phase = phase;
        let timeline: &mut Timeline = &mut self.record.timeline;
        let slot = match phase {
            Phase::Accepted => &mut timeline.accepted_at,
            Phase::Pulling => &mut timeline.pulling_at,
            Phase::Creating => &mut timeline.creating_at,
            Phase::Starting => &mut timeline.starting_at,
            Phase::Running => &mut timeline.running_at,
            Phase::Ready => &mut timeline.ready_at,
            Phase::Ending => &mut timeline.ending_at,
            Phase::Ended => &mut timeline.ended_at,
            Phase::Stopping | Phase::Stopped | Phase::Restarting => return,
        };
        slot.get_or_insert(at);
    }

    /// Raises or clears a condition. `since` stays while it holds.
    pub(super) fn set_condition(
        &mut self,
        kind: &str,
        holds: Option<(&str, String)>,
        at: Timestamp,
    ) {
        let conditions = &mut self.record.conditions;
        match holds {
            None => conditions.retain(|c| c.kind != kind),
            Some((reason, message)) => match conditions.iter_mut().find(|c| c.kind == kind) {
                Some(condition) => {
                    condition.reason = reason.to_owned();
                    condition.message = message;
                }
                None => conditions.push(Condition {
                    kind: kind.to_owned(),
                    status: true,
                    reason: reason.to_owned(),
                    message,
                    since: at,
                }),
            },
        }
    }

    /// The container id that an observation has to show.
    pub(super) fn container(&self) -> Option<&ContainerId> {
        self.record.container_id.as_ref()
    }
}

/// A record of which only the id is known.
pub(super) fn blank_record(id: InstanceId) -> Instance {
    Instance {
        id,
        phase: Phase::Accepted,
        image: None,
        image_digest: None,
        container_id: None,
        spec_sha256: None,
        command_id: None,
        labels: Default::default(),
        gpus: Vec::new(),
        cpus: 0.0,
        memory_bytes: 0,
        ports: Vec::new(),
        lease: None,
        timeline: Timeline::default(),
        restarts: 0,
        recovered: false,
        conditions: Vec::new(),
        ended: None,
        usage: None,
    }
}

//! Registries that are broken on purpose, one rule each: what the rules are worth.

use std::{sync::Arc, time::Duration};

use rental_agent::{
    clock::Now,
    ids::InstanceId,
    instance::{
        effect::{Effect, EngineOp, OpDone, OpId, OpOutput},
        publish::{Event, Snapshot},
        registry::{Input, Options, Registry},
    },
    protocol::{Error, ErrorCode, Op, Outcome, Phase, Reply, message::InstanceMessage},
    runtime::VolumeLabels,
};

use super::world::Subject;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// The decision to end is not written.
    LosesDecision,
    /// The final record is not written.
    LosesFinalRecord,
    /// Final replies are said twice.
    AnswersTwice,
    /// A command that is sent again gets no answer.
    IgnoresRepetition,
    /// Replies come before the records that show their effect.
    RepliesFirst,
    /// Every record has the same generation.
    KeepsGeneration,
    /// An ended record changes.
    ChangesTheEnd,
    /// Records of `pulling` are not told.
    HidesPulling,
    /// Terminates are rejected.
    RefusesTerminate,
    /// Terminates are accepted and forgotten.
    ForgetsTerminate,
    /// It does not hear that the engine is away.
    SeesNothing,
    /// Starts come twice.
    StartsTwice,
    /// Containers are made with all GPUs the same.
    OneGpuForAll,
    /// GPUs are not looked for in other containers.
    SkipsRecheck,
    /// Its removes hit somebody else's container.
    RemovesStrangers,
    /// The lease markers are left.
    LeavesMarkers,
    /// The final record goes first.
    ForgetsTooSoon,
    /// Each answer of which nothing is known is asked for again at once.
    Hammers,
    /// An exit ends the neighbours as well.
    StopsNeighbours,
}

/// All of them.
pub(crate) const DEFECTS: &[(Defect, &[&str])] = {
    use super::rules::name::*;
    use Defect::*;
    &[
        (LosesDecision, &[DECISION_FIRST]),
        (LosesFinalRecord, &[FINAL_FIRST]),
        (AnswersTwice, &[ONE_FINAL]),
        (IgnoresRepetition, &[VERBATIM]),
        (RepliesFirst, &[RECORD_FIRST]),
        (KeepsGeneration, &[GENERATION]),
        (ChangesTheEnd, &[ENDED]),
        (HidesPulling, &[WHOLE]),
        (RefusesTerminate, &[NOT_REFUSED, ONE_FINAL]),
        (ForgetsTerminate, &[ANSWERED, WINS]),
        (SeesNothing, &[BLIND]),
        (StartsTwice, &[ONE_OPERATION]),
        (OneGpuForAll, &[MATCHES, GPU_ONCE]),
        (SkipsRecheck, &[RECHECKED]),
        (RemovesStrangers, &[FOREIGN]),
        (LeavesMarkers, &[LEFTOVER]),
        (ForgetsTooSoon, &[KEPT_UNTIL_ACK]),
        (Hammers, &[HOT_LOOP]),
        (StopsNeighbours, &[DECISION_FIRST, NO_CAUSE, ONE_OPERATION]),
    ]
};

/// A registry with a defect in front of it.
pub(crate) struct Broken {
    inner: Registry,
    defect: Defect,
    /// Numbers operations that the registry knows nothing of.
    made_up: u64,
}

impl Broken {
    pub(crate) fn new(options: Options, defect: Defect) -> Self {
        Self {
            inner: Registry::new(options),
            defect,
            made_up: 1 << 40,
        }
    }

    fn spoil(&mut self, effects: Vec<Effect>, now: Now) -> Vec<Effect> {
        let mut out = Vec::new();
        for effect in effects {
            self.spoil_one(effect, now, &mut out);
        }
        if self.defect == Defect::RepliesFirst {
            let is_reply = |effect: &Effect| matches!(effect, Effect::Emit(Event::Reply(_)));
            out.sort_by_key(|effect| !is_reply(effect));
        }
        out
    }

    fn spoil_one(&mut self, effect: Effect, now: Now, out: &mut Vec<Effect>) {
        match (self.defect, effect) {
            (
                defect,
                Effect::Engine {
                    id,
                    instance,
                    op: EngineOp::PutMarker(marker),
                },
            ) if (defect == Defect::LosesDecision && marker.name.ends_with(".ending"))
                || (defect == Defect::LosesFinalRecord && marker.name.ends_with(".ended")) =>
            {
                let then = self.pretend(id, instance, marker, now);
                out.extend(then);
            }
            (Defect::AnswersTwice, Effect::Emit(Event::Reply(reply)))
                if reply.outcome.is_final() =>
            {
                out.push(Effect::Emit(Event::Reply(reply.clone())));
                out.push(Effect::Emit(Event::Reply(reply)));
            }
            (Defect::KeepsGeneration, Effect::Emit(Event::Record(mut record))) => {
                record.generation.0 = 1;
                out.push(Effect::Emit(Event::Record(record)));
            }
            (Defect::ChangesTheEnd, Effect::Emit(Event::Record(record)))
                if record.instance.phase == Phase::Ended =>
            {
                let mut other = (*record.instance).clone();
                other.phase = Phase::Ready;
                let generation = record.generation.next();
                let again = InstanceMessage {
                    generation,
                    instance: Arc::new(other),
                };
                out.push(Effect::Emit(Event::Record(record)));
                out.push(Effect::Emit(Event::Record(again)));
            }
            (Defect::HidesPulling, Effect::Emit(Event::Record(record)))
                if record.instance.phase == Phase::Pulling => {}
            (
                Defect::StartsTwice,
                Effect::Engine {
                    id,
                    instance,
                    op: EngineOp::Start { name },
                },
            ) => {
                let again = EngineOp::Start { name: name.clone() };
                self.made_up += 1;
                let made_up = OpId(self.made_up);
                out.push(Effect::Engine {
                    id,
                    instance: instance.clone(),
                    op: EngineOp::Start { name },
                });
                out.push(Effect::Engine {
                    id: made_up,
                    instance,
                    op: again,
                });
            }
            (
                Defect::OneGpuForAll,
                Effect::Engine {
                    id,
                    instance,
                    op: EngineOp::Create(mut plan),
                },
            ) => {
                for gpu in &mut plan.gpus {
                    *gpu = super::fixture::gpu_uuid(0).parse().unwrap();
                }
                out.push(Effect::Engine {
                    id,
                    instance,
                    op: EngineOp::Create(plan),
                });
            }
            (
                Defect::SkipsRecheck,
                Effect::Engine {
                    id,
                    instance,
                    op: EngineOp::Holders { .. },
                },
            ) => {
                let done = OpDone {
                    id,
                    instance,
                    result: Ok(OpOutput::Holders(Vec::new())),
                };
                let effects = self.inner.handle(Input::OpDone(Box::new(done)), now);
                out.extend(self.spoil(effects, now));
            }
            (
                Defect::RemovesStrangers,
                Effect::Engine {
                    id,
                    instance,
                    op: EngineOp::Remove { .. },
                },
            ) => {
                let op = EngineOp::Remove {
                    name: "other".to_owned(),
                };
                out.push(Effect::Engine { id, instance, op });
            }
            (
                defect,
                Effect::Engine {
                    id,
                    instance,
                    op: EngineOp::RemoveMarkers(mut names),
                },
            ) => {
                match defect {
                    Defect::LeavesMarkers => names.retain(|name| !name.contains(".lease.")),
                    Defect::ForgetsTooSoon => names.reverse(),
                    _ => {}
                }
                out.push(Effect::Engine {
                    id,
                    instance,
                    op: EngineOp::RemoveMarkers(names),
                });
            }
            (_, effect) => out.push(effect),
        }
    }

    /// A marker that is not written is said to be.
    fn pretend(
        &mut self,
        id: OpId,
        instance: InstanceId,
        marker: VolumeLabels,
        now: Now,
    ) -> Vec<Effect> {
        let done = OpDone {
            id,
            instance,
            result: Ok(OpOutput::Marked(marker)),
        };
        let effects = self.inner.handle(Input::OpDone(Box::new(done)), now);
        self.spoil(effects, now)
    }

    /// An input that the registry does not get to see, and what is said instead.
    fn keep_back(&mut self, input: &Input, now: Now) -> Option<Vec<Effect>> {
        let (
            Defect::RefusesTerminate | Defect::ForgetsTerminate | Defect::IgnoresRepetition,
            Input::Command(command),
        ) = (self.defect, input)
        else {
            let away = matches!(input, Input::EngineDown(_));
            return (self.defect == Defect::SeesNothing && away).then(Vec::new);
        };
        let is_terminate = matches!(command.op, Op::Terminate(_));
        let id = command.id.clone();
        let reply = |outcome, error| {
            let reply = Reply {
                command_id: id.clone(),
                outcome,
                error,
                result: None,
            };
            vec![Effect::Emit(Event::Reply(reply))]
        };
        match self.defect {
            Defect::RefusesTerminate if is_terminate => {
                let error = Error::new(ErrorCode::Conflict, "not now");
                Some(reply(Outcome::Rejected, Some(error)))
            }
            Defect::ForgetsTerminate if is_terminate => Some(reply(Outcome::Accepted, None)),
            Defect::IgnoresRepetition => {
                let again = self.inner.handle(Input::Command(command.clone()), now);
                let known = matches!(again.as_slice(), [Effect::Emit(Event::Reply(reply))]
                    if reply.outcome == Outcome::Done);
                Some(if known { Vec::new() } else { again })
            }
            _ => None,
        }
    }
}

impl Subject for Broken {
    fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        if let Some(effects) = self.keep_back(&input, now) {
            return effects;
        }
        let unknown = match &input {
            Input::OpDone(done) if done.result.is_err() => Some(done.instance.clone()),
            _ => None,
        };
        let effects = self.inner.handle(input, now);
        let mut out = self.spoil(effects, now);
        if let Some(instance) = unknown
            && self.defect == Defect::Hammers
        {
            let name = format!("rental-{instance}");
            self.made_up += 1;
            let op = EngineOp::Inspect { name };
            out.push(Effect::Engine {
                id: OpId(self.made_up),
                instance,
                op,
            });
        }
        let exit = out.iter().find_map(|effect| match effect {
            Effect::Engine {
                instance,
                op: EngineOp::Examine { .. },
                ..
            } => Some(instance.clone()),
            _ => None,
        });
        if let Some(instance) = exit
            && self.defect == Defect::StopsNeighbours
            && let Some(other) = self
                .inner
                .snapshot()
                .instances
                .iter()
                .find(|other| other.id != instance && other.phase == Phase::Ready)
        {
            self.made_up += 1;
            let op = EngineOp::Stop {
                name: format!("rental-{}", other.id),
                grace: Duration::ZERO,
            };
            out.push(Effect::Engine {
                id: OpId(self.made_up),
                instance: other.id.clone(),
                op,
            });
        }
        out
    }

    fn handle_timeout(&mut self, now: Now) -> Vec<Effect> {
        let effects = self.inner.handle_timeout(now);
        self.spoil(effects, now)
    }

    fn poll_timeout(&self) -> Option<Duration> {
        self.inner.poll_timeout()
    }

    fn snapshot(&self) -> Snapshot {
        self.inner.snapshot()
    }
}

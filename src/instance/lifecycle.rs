//! What comes next for one rental, read off the facts. Pure.
//!
//! There is no program counter: after a crash the facts are rebuilt from the engine, and [`next`]
//! goes on from there. An operation whose outcome is not known makes the container's presence
//! `Unknown`, and an unknown is looked up before anything else happens.

use crate::{
    clock::Timestamp,
    ids::CommandId,
    protocol::{EndReason, Error, ErrorCode, Instance, Stage},
    runtime::{Class, ImageFacts, RuntimeError},
};

/// The container, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// There is none.
    Absent,
    /// It has to be looked up.
    Unknown,
    /// Made and not started, or ended by the engine's or the host's restart: to be started.
    Startable,
    /// Running, paused or restarting.
    Live,
    /// Its first process ended, or it could not be started.
    Finished,
    /// Only removing it is left.
    Dying,
}

/// Whether the decision to end is in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecisionMarker {
    /// The engine itself shows why it ended: the decision would be made again.
    NotNeeded,
    /// To be written before the container is touched.
    Wanted,
    /// Written.
    Written,
}

/// The decision to end, and how far it has been carried out.
#[derive(Debug, Clone)]
pub struct End {
    /// The first decision gives it.
    pub reason: EndReason,
    /// What went wrong, where something did.
    pub error: Option<Error>,
    /// The terminate, where it was one.
    pub command_id: Option<CommandId>,
    /// In server time.
    pub decided_at: Timestamp,
    /// When TERM has had its time, in server time.
    pub kill_at: Timestamp,
    /// Whether the decision is in the engine.
    pub marker: DecisionMarker,
    /// Exit code and log have been asked for.
    pub examined: bool,
    /// Of the tenant's first process.
    pub exit_code: Option<i64>,
    /// The last of the tenant's output.
    pub log_tail: Option<String>,
    /// When it ended, where that is not when it was noticed: in server time.
    pub ended_at: Option<Timestamp>,
    /// `ended_at` is the last time that it was seen running.
    pub is_estimated: bool,
    /// As it is in `.ended`; `None` until that is written.
    pub recorded: Option<Box<Instance>>,
}

impl End {
    /// An end that the engine shows by itself, decided at `at`, with nothing carried out yet.
    pub fn decided(reason: EndReason, at: Timestamp) -> Self {
        Self {
            reason,
            error: None,
            command_id: None,
            decided_at: at,
            kill_at: at,
            marker: DecisionMarker::NotNeeded,
            examined: false,
            exit_code: None,
            log_tail: None,
            ended_at: None,
            is_estimated: false,
            recorded: None,
        }
    }

    /// The same, ended at the last time that it was seen running, if there is evidence of one.
    #[must_use]
    pub fn estimated(mut self, last_seen: Option<Timestamp>) -> Self {
        self.ended_at = last_seen;
        self.is_estimated = last_seen.is_some();
        self
    }
}

/// All that decides what comes next.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The container.
    pub presence: Presence,
    /// It is certain that there is none, nor a process of it.
    pub verified_absent: bool,
    /// What it is made from; `None` until the host has it.
    pub image: Option<ImageFacts>,
    /// It has GPUs, so others are looked for before it starts.
    pub has_gpus: bool,
    /// Something of it was on its GPUs, and they have not been shown to be clean since.
    pub soiled: bool,
    /// No other live container has one of them.
    pub rechecked: bool,
    /// It was seen to have its GPUs, in its present run.
    pub gpus_verified: bool,
    /// It is to be made again from its own inspect before it is started.
    pub remake: bool,
    /// It is to be removed and made anew, with other ports.
    pub replace: bool,
    /// What only an inspect shows of the running container is known.
    pub inspected: bool,
    /// `.lease.1` is written.
    pub marked_ready: bool,
    /// It was stopped, and stays so: an exit is no end.
    pub is_stopped: bool,
    /// It is to end.
    pub end: Option<End>,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the operation of that name")]
pub enum Step {
    /// For the image.
    AwaitImage,
    /// For the decision's marker.
    AwaitDecision,
    LookUp,
    Create,
    Recheck,
    Remake,
    Start,
    VerifyGpus,
    Replace,
    Inspect,
    MarkReady,
    /// Nothing: it lives, or is stopped.
    Live,
    Stop,
    Examine,
    MarkEnded,
    Remove,
    Verify,
    /// Its GPUs, of what it left on them.
    Clean,
    /// Nothing: it has ended and nothing is left.
    Over,
}

/// What comes next for a rental with these facts.
pub fn next(facts: &Facts) -> Step {
    match &facts.end {
        None => next_alive(facts),
        Some(end) => next_ending(facts, end),
    }
}

fn next_alive(facts: &Facts) -> Step {
    match facts.presence {
        Presence::Unknown => Step::LookUp,
        Presence::Absent if facts.image.is_none() => Step::AwaitImage,
        Presence::Absent => Step::Create,
        Presence::Startable if facts.replace => Step::Replace,
        Presence::Startable if facts.remake => Step::Remake,
        Presence::Startable if facts.has_gpus && !facts.rechecked => Step::Recheck,
        Presence::Startable => Step::Start,
        Presence::Live if facts.has_gpus && !facts.gpus_verified => Step::VerifyGpus,
        // The look comes last, so that what ends at once has the longest time to show it.
        Presence::Live if !facts.marked_ready => Step::MarkReady,
        Presence::Live if !facts.inspected => Step::Inspect,
        Presence::Live => Step::Live,
        Presence::Finished if facts.is_stopped => Step::Live,
        // What ended or is going has been given its end when it was observed.
        Presence::Finished | Presence::Dying => Step::LookUp,
    }
}

fn next_ending(facts: &Facts, end: &End) -> Step {
    if end.marker == DecisionMarker::Wanted {
        return Step::AwaitDecision;
    }
    match facts.presence {
        Presence::Unknown => Step::LookUp,
        Presence::Live if end.recorded.is_none() => Step::Stop,
        Presence::Finished if !end.examined => Step::Examine,
        Presence::Absent | Presence::Startable | Presence::Finished | Presence::Dying
            if end.recorded.is_none() =>
        {
            Step::MarkEnded
        }
        Presence::Live | Presence::Startable | Presence::Finished | Presence::Dying => Step::Remove,
        Presence::Absent if !facts.verified_absent => Step::Verify,
        Presence::Absent if facts.soiled => Step::Clean,
        Presence::Absent => Step::Over,
    }
}

/// What an engine's error means to the server, at a stage.
pub fn failure(stage: Stage, error: &RuntimeError) -> Error {
    let code = match error.class {
        Class::Unknown | Class::Unreachable => ErrorCode::EngineUnavailable,
        Class::NameTaken => ErrorCode::Conflict,
        Class::PortTaken => ErrorCode::PortUnavailable,
        Class::GpuRuntime => ErrorCode::GpuRuntimeMissing,
        Class::DiskFull => ErrorCode::DiskFull,
        Class::ImageNotFound => ErrorCode::ImageNotFound,
        Class::RegistryAuth => ErrorCode::RegistryAuth,
        Class::RateLimited => ErrorCode::RegistryRateLimited,
        Class::RegistryFailed => ErrorCode::RegistryUnreachable,
        Class::ImageUnsupported => ErrorCode::ImageUnsupported,
        Class::ImageCorrupt => ErrorCode::ImageCorrupt,
        Class::Stalled => ErrorCode::PullStalled,
        Class::InUse => ErrorCode::InUse,
        Class::NotFound | Class::Unstartable | Class::Refused | Class::Failed => match stage {
            Stage::Pull => ErrorCode::RegistryUnreachable,
            Stage::Create => ErrorCode::CreateFailed,
            Stage::Start => ErrorCode::StartFailed,
            Stage::Validate | Stage::Admit | Stage::Ready | Stage::Run | Stage::End => {
                ErrorCode::Internal
            }
        },
    };
    let mut failure = Error::new(code, &error.message).at(stage);
    if code == ErrorCode::GpuRuntimeMissing {
        failure.message.push_str(
            "; the host needs the NVIDIA container toolkit, set up for its container engine, which \
             has to be restarted then",
        );
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(presence: Presence) -> Facts {
        Facts {
            presence,
            verified_absent: true,
            image: Some(ImageFacts::default()),
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
        }
    }

    fn ending(marker: DecisionMarker) -> End {
        let end = End::decided(EndReason::Terminated, Timestamp::from_millis(0));
        End { marker, ..end }
    }

    const ALL: [Presence; 6] = [
        Presence::Absent,
        Presence::Unknown,
        Presence::Startable,
        Presence::Live,
        Presence::Finished,
        Presence::Dying,
    ];

    #[test]
    fn an_unknown_container_is_looked_up_before_anything_else() {
        let mut unknown = facts(Presence::Unknown);
        assert_eq!(next(&unknown), Step::LookUp);
        unknown.end = Some(ending(DecisionMarker::Written));
        assert_eq!(next(&unknown), Step::LookUp);
    }

    #[test]
    fn no_container_is_touched_before_the_decision_is_written() {
        for presence in ALL {
            let mut facts = facts(presence);
            facts.end = Some(ending(DecisionMarker::Wanted));
            assert_eq!(next(&facts), Step::AwaitDecision, "{presence:?}");
        }
    }

    #[test]
    fn a_rental_with_gpus_looks_for_others_before_it_starts() {
        let mut with = facts(Presence::Startable);
        with.has_gpus = true;
        assert_eq!(next(&with), Step::Recheck);
        with.rechecked = true;
        assert_eq!(next(&with), Step::Start);
    }

    #[test]
    fn a_rental_with_gpus_shows_them_before_it_is_ready() {
        let mut with = facts(Presence::Live);
        with.has_gpus = true;
        assert_eq!(next(&with), Step::VerifyGpus);
        with.gpus_verified = true;
        assert_eq!(next(&with), Step::MarkReady);
        with.has_gpus = false;
        with.gpus_verified = false;
        assert_eq!(next(&with), Step::MarkReady);
    }

    #[test]
    fn nothing_is_removed_before_the_final_record_is_written() {
        for presence in ALL {
            let mut facts = facts(presence);
            facts.end = Some(ending(DecisionMarker::Written));
            assert_ne!(next(&facts), Step::Remove, "{presence:?}");
            assert_ne!(next(&facts), Step::Over, "{presence:?}");
        }
    }

    #[test]
    fn an_end_is_over_only_when_the_container_is_verified_gone_and_its_gpus_are_clean() {
        let mut gone = facts(Presence::Absent);
        let mut end = ending(DecisionMarker::NotNeeded);
        end.recorded = Some(Box::new(crate::instance::registry::tests_record()));
        gone.end = Some(end);
        gone.verified_absent = false;
        assert_eq!(next(&gone), Step::Verify);
        gone.verified_absent = true;
        gone.soiled = true;
        assert_eq!(next(&gone), Step::Clean);
        gone.soiled = false;
        assert_eq!(next(&gone), Step::Over);
    }
}

//! What can happen, and how it is carried out. Every action makes sense in every state: what it names
//! is picked from what is there.

use std::time::Duration;

use proptest::prelude::*;
use rental_agent::{
    ids::{ContainerId, InstanceId},
    protocol::record::Health,
    runtime::{Class, ContainerState, Detail},
};
use serde_json::json;

use super::{
    engine::{
        Fault, Going, LABEL_AGENT, LABEL_GPUS, LABEL_INSTANCE, LABEL_SCHEMA, Power, SimContainer,
    },
    fixture,
    rules::Check,
    server::{About, MayReject, SimServer},
    world::World,
};

/// So many rentals the server has in mind at once.
const SLOTS: u8 = 5;

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    // The server.
    Deploy {
        slot: u8,
        shape: u8,
    },
    DryRun {
        slot: u8,
        shape: u8,
    },
    /// Of what was deployed, again, in a command of its own.
    DeployEqual {
        slot: u8,
    },
    Terminate {
        slot: u8,
    },
    TerminateOddly {
        slot: u8,
        late: bool,
    },
    Repeat {
        pick: u8,
    },
    Cancel {
        pick: u8,
    },
    Pull {
        image: u8,
    },
    Drain(bool),
    Report,
    Unreadable,
    Connect,
    Disconnect,
    /// The connection breaks before the command arrives.
    SendIntoTheVoid {
        slot: u8,
        terminate: bool,
    },
    Read {
        count: u8,
    },
    Ack,
    // The engine.
    Answer {
        pick: u8,
        fault: Fault,
    },
    Perform {
        pick: u8,
    },
    /// So much of what is in flight is answered, oldest first.
    Advance {
        steps: u8,
    },
    LookAtContainers,
    AnswerList {
        fails: bool,
    },
    FetchProgress {
        pick: u8,
    },
    FetchDone {
        pick: u8,
        fails: Option<Class>,
    },
    Hint {
        count: u8,
        lost: bool,
    },
    Notice,
    EngineDown {
        going: Going,
        noticed: bool,
    },
    EngineHangs,
    EngineUp,
    /// Down and up before anybody notices.
    EngineBlinks(Going),
    // The host and its administrator.
    Pass {
        ms: u32,
    },
    NextTimeout,
    Exits {
        slot: u8,
        code: u8,
        oom: bool,
    },
    Vanishes {
        slot: u8,
    },
    Pauses {
        slot: u8,
    },
    Unpauses {
        slot: u8,
    },
    RestartedByHand {
        slot: u8,
    },
    Renamed {
        slot: u8,
    },
    StrangerTakesName {
        slot: u8,
    },
    StrangerTakesMarker {
        slot: u8,
        marker: u8,
    },
    Stranger {
        gpu: u8,
        port: u8,
    },
    StrangerLeaves,
    ImageGone,
    GpuLost {
        gpu: u8,
    },
    GpusBack,
    /// The agent dies; mostly what surrounds it is found well.
    Crash {
        fates: u32,
        calm: bool,
    },
    /// The host is switched off and on.
    Reboot {
        fates: u32,
        calm: bool,
    },
    /// All is well for a moment.
    Calm {
        seconds: u8,
    },
}

fn slot() -> impl Strategy<Value = u8> {
    0..SLOTS
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => Just(Fault::DoneUnknown),
        4 => Just(Fault::LostUnknown),
        2 => Just(Fault::Unreachable),
        3 => (100u64..8_000).prop_map(|ms| Fault::Late(Duration::from_millis(ms))),
        3 => Just(Fault::Failed),
        1 => Just(Fault::Noted),
        2 => Just(Fault::PortTaken),
        1 => Just(Fault::Unstartable),
        1 => Just(Fault::GpuRuntime),
        1 => Just(Fault::DiskFull),
        3 => Just(Fault::Half),
        1 => Just(Fault::ProcessLeft),
    ]
}

fn going() -> impl Strategy<Value = Going> {
    prop_oneof![
        Just(Going::Killed),
        Just(Going::Stopped),
        Just(Going::Alone)
    ]
}

fn pull_error() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::ImageNotFound),
        Just(Class::RegistryAuth),
        Just(Class::RegistryFailed),
        Just(Class::Stalled),
        Just(Class::DiskFull),
        Just(Class::Unknown),
    ]
}

/// What a world is made of: how often each kind of thing happens in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Operations that go wrong.
    pub(crate) faults: u32,
    /// The agent's and the host's deaths.
    pub(crate) deaths: u32,
    /// The connection's troubles, and commands that come twice.
    pub(crate) line: u32,
    /// The engine's absences.
    pub(crate) absences: u32,
    /// Tenants, administrators and strangers.
    pub(crate) people: u32,
}

/// One action.
pub(crate) fn action(weather: Weather) -> impl Strategy<Value = Action> {
    let Weather {
        faults,
        deaths,
        line,
        absences,
        people,
    } = weather;
    prop_oneof![
        10 => wish(),
        14 => progress(),
        5 => time(),
        faults => fault_in_flight(),
        deaths => death(),
        line => trouble_on_the_line(),
        absences => absence(),
        people => intervention(),
    ]
}

/// What the server wants.
fn wish() -> impl Strategy<Value = Action> {
    prop_oneof![
        24 => (slot(), any::<u8>()).prop_map(|(slot, shape)| Action::Deploy { slot, shape }),
        14 => slot().prop_map(|slot| Action::Terminate { slot }),
        4 => Just(Action::Ack),
        4 => (1u8..20).prop_map(|count| Action::Read { count }),
        2 => slot().prop_map(|slot| Action::DeployEqual { slot }),
        1 => (slot(), any::<u8>()).prop_map(|(slot, shape)| Action::DryRun { slot, shape }),
        1 => (slot(), any::<bool>()).prop_map(|(slot, late)| Action::TerminateOddly { slot, late }),
        2 => any::<u8>().prop_map(|pick| Action::Cancel { pick }),
        2 => (0u8..3).prop_map(|image| Action::Pull { image }),
        1 => any::<bool>().prop_map(Action::Drain),
        1 => Just(Action::Report),
        1 => Just(Action::Unreadable),
    ]
}

/// The engine does what it is asked.
fn progress() -> impl Strategy<Value = Action> {
    prop_oneof![
        20 => (1u8..9).prop_map(|steps| Action::Advance { steps }),
        3 => any::<u8>().prop_map(|pick| Action::Perform { pick }),
        2 => any::<u8>().prop_map(|pick| Action::Answer { pick, fault: Fault::None }),
        1 => Just(Action::LookAtContainers),
        3 => Just(Action::AnswerList { fails: false }),
        1 => any::<u8>().prop_map(|pick| Action::FetchProgress { pick }),
        3 => any::<u8>().prop_map(|pick| Action::FetchDone { pick, fails: None }),
        4 => (1u8..6).prop_map(|count| Action::Hint { count, lost: false }),
        3 => Just(Action::Notice),
        2 => Just(Action::Connect),
        1 => (1u8..15).prop_map(|seconds| Action::Calm { seconds }),
    ]
}

fn time() -> impl Strategy<Value = Action> {
    let steps = prop::sample::select(&[100u32, 600, 1_100, 2_500, 5_100, 11_000, 31_000][..]);
    prop_oneof![
        steps.prop_map(|ms| Action::Pass { ms }),
        Just(Action::NextTimeout)
    ]
}

fn fault_in_flight() -> impl Strategy<Value = Action> {
    prop_oneof![
        16 => (prop_oneof![3 => Just(0), 1 => any::<u8>()], fault())
            .prop_map(|(pick, fault)| Action::Answer { pick, fault }),
        1 => Just(Action::AnswerList { fails: true }),
        2 => (any::<u8>(), pull_error())
            .prop_map(|(pick, class)| Action::FetchDone { pick, fails: Some(class) }),
        1 => (1u8..6).prop_map(|count| Action::Hint { count, lost: true }),
        1 => Just(Action::ImageGone),
    ]
}

fn death() -> impl Strategy<Value = Action> {
    let calm = || prop_oneof![3 => Just(true), 1 => Just(false)];
    prop_oneof![
        5 => (any::<u32>(), calm()).prop_map(|(fates, calm)| Action::Crash { fates, calm }),
        1 => (any::<u32>(), calm()).prop_map(|(fates, calm)| Action::Reboot { fates, calm }),
    ]
}

fn trouble_on_the_line() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => any::<u8>().prop_map(|pick| Action::Repeat { pick }),
        4 => Just(Action::Connect),
        2 => Just(Action::Disconnect),
        1 => (slot(), any::<bool>())
            .prop_map(|(slot, terminate)| Action::SendIntoTheVoid { slot, terminate }),
    ]
}

fn absence() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => (going(), any::<bool>())
            .prop_map(|(going, noticed)| Action::EngineDown { going, noticed }),
        1 => Just(Action::EngineHangs),
        4 => Just(Action::EngineUp),
        2 => going().prop_map(Action::EngineBlinks),
        3 => Just(Action::Notice),
    ]
}

fn intervention() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (slot(), any::<u8>(), any::<bool>())
            .prop_map(|(slot, code, oom)| Action::Exits { slot, code, oom }),
        2 => slot().prop_map(|slot| Action::Vanishes { slot }),
        1 => slot().prop_map(|slot| Action::Pauses { slot }),
        1 => slot().prop_map(|slot| Action::Unpauses { slot }),
        2 => slot().prop_map(|slot| Action::RestartedByHand { slot }),
        2 => slot().prop_map(|slot| Action::Renamed { slot }),
        1 => slot().prop_map(|slot| Action::StrangerTakesName { slot }),
        1 => (slot(), 0u8..3)
            .prop_map(|(slot, marker)| Action::StrangerTakesMarker { slot, marker }),
        2 => (0u8..4, 0u8..10).prop_map(|(gpu, port)| Action::Stranger { gpu, port }),
        2 => Just(Action::StrangerLeaves),
        1 => (0u8..4).prop_map(|gpu| Action::GpuLost { gpu }),
        1 => Just(Action::GpusBack),
    ]
}

impl World {
    /// A host on which the agent runs and is connected, in most of the cases.
    pub(crate) fn begin(&mut self, calm: bool) -> Check {
        self.wake_up(calm)?;
        if calm {
            self.settle(Duration::from_secs(1))
        } else {
            Ok(())
        }
    }

    /// The probes, the watcher and the session do what they do first.
    fn wake_up(&mut self, calm: bool) -> Check {
        if calm {
            self.gpus((0..fixture::GPUS).map(fixture::gpu).collect(), true)?;
            self.notice()?;
            self.connect()?;
        }
        Ok(())
    }

    /// Carries out an action.
    pub(crate) fn act(&mut self, action: &Action) -> Check {
        if let Some(story) = &mut self.story {
            story.push(format!("== {action:?}"));
        }
        match *action {
            Action::Deploy { .. }
            | Action::DryRun { .. }
            | Action::DeployEqual { .. }
            | Action::Terminate { .. }
            | Action::TerminateOddly { .. }
            | Action::Repeat { .. }
            | Action::Cancel { .. }
            | Action::Pull { .. }
            | Action::Drain(_)
            | Action::Report
            | Action::Unreadable
            | Action::Connect
            | Action::Disconnect
            | Action::SendIntoTheVoid { .. }
            | Action::Read { .. }
            | Action::Ack => self.act_server(action),
            Action::Answer { pick, fault } => {
                let count = self.flights.len().max(1);
                self.answer(usize::from(pick) % count, fault)
            }
            Action::Perform { pick } => {
                let count = self.flights.len().max(1);
                self.perform(usize::from(pick) % count, Fault::None);
                Ok(())
            }
            Action::Advance { steps } => self.answer_some(steps.into()),
            Action::LookAtContainers => {
                self.look_at_containers();
                Ok(())
            }
            Action::AnswerList { fails } => self.answer_list(fails),
            Action::FetchProgress { pick } => {
                self.fetch_progress(usize::from(pick) % self.fetches.len().max(1))
            }
            Action::FetchDone { pick, fails } => {
                let index = usize::from(pick) % self.fetches.len().max(1);
                self.fetch_done(index, fails.map_or(Ok(()), Err))
            }
            Action::Hint { count, lost } => (0..count).try_for_each(|_| self.hint(lost)),
            Action::Notice => self.notice(),
            Action::EngineDown { going, noticed } => {
                self.engine_goes(going)?;
                if noticed { self.notice() } else { Ok(()) }
            }
            Action::EngineHangs => {
                if self.engine.power == Power::Up {
                    self.engine.power = Power::Hung;
                }
                Ok(())
            }
            Action::EngineUp => {
                if self.engine.power == Power::Hung {
                    self.engine.power = Power::Up;
                } else if self.engine.power == Power::Down {
                    self.engine_up()?;
                    return self.notice();
                }
                Ok(())
            }
            Action::EngineBlinks(going) => {
                self.engine_goes(going)?;
                self.see("the engine restarted unnoticed");
                self.engine_up()?;
                // The broken stream is reopened at once.
                self.notice()
            }
            Action::Pass { ms } => self.pass_noticing(Duration::from_millis(ms.into())),
            Action::NextTimeout => match self.next_timeout() {
                Some(at) => self.pass_noticing(at.saturating_sub(self.clock)),
                None => Ok(()),
            },
            Action::GpuLost { gpu } => {
                let mut gpus: Vec<_> = (0..fixture::GPUS).map(fixture::gpu).collect();
                gpus[usize::from(gpu)].health = Health::Failed;
                self.gpus(gpus, true)
            }
            Action::GpusBack => self.gpus((0..fixture::GPUS).map(fixture::gpu).collect(), true),
            Action::Crash { fates, calm } => {
                self.crash(fates);
                self.wake_up(calm)
            }
            Action::Reboot { fates, calm } => {
                self.reboot(fates);
                self.wake_up(calm)
            }
            Action::Calm { seconds } => {
                if self.engine.power != Power::Up {
                    return Ok(());
                }
                self.settle(Duration::from_secs(seconds.into()))
            }
            _ => {
                self.act_host(action);
                Ok(())
            }
        }
    }

    fn act_server(&mut self, action: &Action) -> Check {
        match *action {
            Action::Deploy { slot, shape } => {
                let id = self.server.in_slot(slot);
                let spec = fixture::spec(&id, shape);
                let body = json!({ "op": "deploy", "spec": spec });
                self.send(About::Deploy(id), body).map(drop)
            }
            Action::DryRun { slot, shape } => {
                let id = self.server.in_slot(slot);
                let spec = fixture::spec(&id, shape);
                let body = json!({ "op": "deploy", "spec": spec, "dry_run": true });
                self.send(About::DryRun(id), body).map(drop)
            }
            Action::DeployEqual { slot } => {
                let id = self.server.in_slot(slot);
                let Some(spec) = self.rules.specs.get(&id).cloned() else {
                    return Ok(());
                };
                self.send(About::Deploy(id), json!({ "op": "deploy", "spec": spec }))
                    .map(drop)
            }
            Action::Terminate { slot } => {
                let id = self.server.in_slot(slot);
                self.see_terminate(&id);
                let body = SimServer::terminate(&id);
                self.send(About::Terminate(id, MayReject::Never), body)
                    .map(drop)
            }
            Action::TerminateOddly { slot, late } => {
                let id = self.server.in_slot(slot);
                let mut body = SimServer::terminate(&id);
                let may_reject = if late {
                    body["not_after"] = json!(fixture::epoch_start().to_string());
                    MayReject::Late
                } else {
                    body["grace_s"] = json!(-1);
                    MayReject::BadGrace
                };
                self.send(About::Terminate(id, may_reject), body).map(drop)
            }
            Action::Repeat { pick } => {
                let count = self.server.commands.len().max(1);
                let Some(sent) = self.server.commands.get(usize::from(pick) % count).cloned()
                else {
                    return Ok(());
                };
                // What it has promised never to send again, it does not.
                let promised = match &sent.about {
                    About::Deploy(id) | About::DryRun(id) => self.server.acked.contains(id),
                    _ => sent.settled && sent.last.is_none(),
                };
                let readable = sent.body["op"] != "fly";
                if promised || !readable {
                    Ok(())
                } else {
                    self.deliver(&sent)
                }
            }
            Action::Cancel { pick } => {
                let count = self.server.commands.len().max(1);
                let target = self
                    .server
                    .commands
                    .get(usize::from(pick) % count)
                    .map_or_else(|| "none".parse().unwrap(), |sent| sent.id.clone());
                let body = json!({ "op": "cancel", "command_id": target.as_str() });
                self.send(About::Cancel(target), body).map(drop)
            }
            Action::Pull { image } => {
                let image = fixture::IMAGES[usize::from(image)];
                let body = json!({ "op": "pull_image", "image": image });
                self.send(About::Pull, body).map(drop)
            }
            Action::Drain(true) => self.send(About::Drain, json!({ "op": "drain" })).map(drop),
            Action::Drain(false) => self
                .send(About::Resume, json!({ "op": "resume" }))
                .map(drop),
            Action::Report => self
                .send(About::Report, json!({ "op": "report" }))
                .map(drop),
            Action::Unreadable => self
                .send(About::Unreadable, json!({ "op": "fly" }))
                .map(drop),
            Action::Connect => self.connect(),
            Action::Disconnect => self.disconnect(),
            Action::SendIntoTheVoid { slot, terminate } => {
                self.disconnect()?;
                let then = if terminate {
                    Action::Terminate { slot }
                } else {
                    Action::Deploy { slot, shape: slot }
                };
                self.act_server(&then)
            }
            Action::Read { count } => self.read(count.into()),
            Action::Ack => self.ack(),
            _ => Ok(()),
        }
    }

    fn see_terminate(&mut self, id: &InstanceId) {
        use rental_agent::protocol::Phase;
        if self.link.is_none() {
            return;
        }
        let phase = self.rules.records.get(id).map(|record| record.phase);
        self.see(match phase {
            None => "a terminate of an unknown id",
            Some(Phase::Accepted | Phase::Pulling) => "a terminate during the pull",
            Some(Phase::Creating) => "a terminate during the create",
            Some(Phase::Starting) => "a terminate during the start",
            Some(Phase::Running | Phase::Ready) => "a terminate of what runs",
            Some(Phase::Ending) => "a terminate during the end",
            Some(Phase::Ended) => "a terminate after the end",
            Some(Phase::Restarting | Phase::Stopping | Phase::Stopped) => {
                "a terminate in a restart"
            }
        });
    }

    /// Answers some of what is in flight, in order.
    fn answer_some(&mut self, count: usize) -> Check {
        for _ in 0..count {
            if !self.flights.is_empty() {
                self.answer(0, Fault::None)?;
            } else if !self.lists.is_empty() {
                self.answer_list(false)?;
            } else if !self.fetches.is_empty() {
                self.fetch_done(0, Ok(()))?;
            }
        }
        Ok(())
    }

    /// The watcher looks every few seconds.
    fn pass_noticing(&mut self, by: Duration) -> Check {
        if by < Duration::from_secs(10) {
            return self.pass(by);
        }
        self.pass(Duration::from_secs(10))?;
        self.notice()?;
        self.pass(by - Duration::from_secs(10))
    }

    /// An end that nobody can tell from the tenant's own is nobody's fault.
    fn engine_goes(&mut self, going: Going) -> Check {
        let alone = going == Going::Alone;
        let told = self.engine.tells_start;
        let runs: Vec<InstanceId> = self
            .engine
            .rentals()
            .filter(|(_, c)| c.runs())
            .map(|(id, _)| id)
            .collect();
        if !alone && (!told || going == Going::Stopped) {
            self.rules.excused.extend(runs);
        }
        self.see(match going {
            Going::Killed => "the engine killed",
            Going::Stopped => "the engine stopped",
            Going::Alone => "the engine killed, its containers go on",
        });
        self.engine_down(going)
    }

    fn act_host(&mut self, action: &Action) {
        let at = self.wall();
        let up = self.engine.power == Power::Up;
        let of = |world: &mut Self, slot: u8| -> Option<(InstanceId, ContainerId)> {
            let id = world.server.in_slot(slot);
            let container = world.container_of(&id)?;
            Some((id, container))
        };
        match *action {
            Action::Exits { slot, code, oom } => {
                if let Some((id, container)) = of(self, slot)
                    && self
                        .engine
                        .containers
                        .get(&container)
                        .is_some_and(SimContainer::runs)
                    && up
                {
                    self.engine
                        .exit(&container, if oom { 137 } else { code.into() }, oom, at);
                    self.rules.excused.insert(id);
                    self.see(if oom {
                        "a tenant out of memory"
                    } else {
                        "a tenant exits"
                    });
                }
            }
            Action::Vanishes { slot } => {
                if let Some((id, container)) = of(self, slot).filter(|_| up) {
                    self.engine.destroy(&container, at);
                    self.rules.excused.insert(id);
                    self.see("a container vanishes");
                }
            }
            Action::Pauses { slot } | Action::Unpauses { slot } => {
                let Some((_, container)) = of(self, slot).filter(|_| up) else {
                    return;
                };
                let Some(container) = self.engine.containers.get_mut(&container) else {
                    return;
                };
                let pauses = matches!(action, Action::Pauses { .. });
                if container.runs() {
                    container.state = if pauses {
                        ContainerState::Paused
                    } else {
                        ContainerState::Running
                    };
                    self.see("a container paused");
                }
            }
            Action::RestartedByHand { slot } => {
                let Some((id, container)) = of(self, slot).filter(|_| up) else {
                    return;
                };
                if self
                    .engine
                    .containers
                    .get(&container)
                    .is_some_and(SimContainer::runs)
                {
                    self.engine.exit(&container, 137, false, at);
                    self.engine.start_by_hand(&container, at);
                    self.rules.excused.insert(id);
                    self.see("a container restarted by hand");
                }
            }
            Action::Renamed { slot } => {
                let Some((id, container)) = of(self, slot).filter(|_| up) else {
                    return;
                };
                if let Some(container) = self.engine.containers.get_mut(&container) {
                    container.name = format!("other-{}", container.id.as_str().len());
                    self.rules.excused.insert(id);
                    self.see("a container renamed");
                }
            }
            Action::StrangerTakesName { slot } => {
                let id = self.server.in_slot(slot);
                if self.container_of(&id).is_none() && up {
                    self.plant(&format!("rental-{id}"), None, None);
                    self.rules.excused.insert(id);
                    self.see("a stranger with a rental's name");
                }
            }
            Action::StrangerTakesMarker { slot, marker } => {
                let id = self.server.in_slot(slot);
                let marker = ["ending", "ended", "lease.1"][usize::from(marker)];
                let name = format!("rental-{id}.{marker}");
                if !self.engine.has_volume(&name) && up {
                    let labels = [
                        (LABEL_SCHEMA.to_owned(), "1".to_owned()),
                        (LABEL_AGENT.to_owned(), fixture::STRANGER.to_owned()),
                        (LABEL_INSTANCE.to_owned(), id.to_string()),
                    ];
                    self.engine.volumes.insert(name, labels.into());
                    self.rules.excused.insert(id.clone());
                    self.rules.unmarked.insert(id);
                    self.see("a marker taken by a stranger");
                }
            }
            Action::Stranger { gpu, port } => {
                if up {
                    self.plant("other", Some(gpu), Some(port));
                    self.see("a stranger with a GPU and a port");
                }
            }
            Action::StrangerLeaves => {
                let theirs: Vec<ContainerId> = self
                    .engine
                    .containers
                    .values()
                    .filter(|c| {
                        c.labels
                            .get(LABEL_AGENT)
                            .is_some_and(|a| a == fixture::STRANGER)
                    })
                    .map(|c| c.id.clone())
                    .collect();
                for container in theirs.into_iter().filter(|_| up) {
                    self.engine.destroy(&container, at);
                }
            }
            Action::ImageGone => {
                // A second time within one deploy is a failure.
                if up && !self.rules.seen.contains("an image removed") {
                    self.engine.images.clear();
                    self.see("an image removed");
                }
            }
            _ => {}
        }
    }

    /// A container of another agent, running.
    fn plant(&mut self, name: &str, gpu: Option<u8>, port: Option<u8>) {
        let id = self.engine.fresh_id();
        let at = self.wall();
        let gpu = gpu.map(|gpu| fixture::gpu_uuid(gpu.into()));
        let name = if self.engine.named(name).is_some() {
            id.as_str()
        } else {
            name
        };
        let container = SimContainer {
            id: id.clone(),
            name: name.to_owned(),
            created_at: at,
            state: ContainerState::Running,
            labels: [
                (LABEL_SCHEMA.to_owned(), "1".to_owned()),
                (LABEL_AGENT.to_owned(), fixture::STRANGER.to_owned()),
                (LABEL_INSTANCE.to_owned(), "theirs".to_owned()),
                (LABEL_GPUS.to_owned(), gpu.clone().unwrap_or_default()),
            ]
            .into(),
            ports: port
                .map(|port| rental_agent::runtime::HostPort {
                    container: 1,
                    host: fixture::FIRST_PORT + u16::from(port),
                    protocol: Default::default(),
                })
                .into_iter()
                .collect(),
            gpus: gpu.iter().filter_map(|gpu| gpu.parse().ok()).collect(),
            detail: Detail {
                started_at: Some(at),
                pid: 1,
                ..Detail::default()
            },
            unstartable: false,
        };
        self.engine.containers.insert(id, container);
    }
}

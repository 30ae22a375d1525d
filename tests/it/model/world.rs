//! One host, one engine, one server and one agent after the other, with the rules watching each step
//! between them. Everything moves only when it is told to.

use std::rc::Rc;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use rental_agent::{
    clock::{Now, Timestamp},
    gpu::ward::Wiped,
    ids::{ContainerId, Generation, InstanceId},
    instance::{
        effect::{Effect, EngineOp, FetchId, FetchRequest, OpDone, OpId, Ticket},
        publish::{Event, Snapshot},
        registry::{Input, Options, Registry},
    },
    protocol::{
        message::PullProgress,
        record::{EngineStatus, Gpu},
    },
    runtime::{Class, Observed, RuntimeError},
};

use super::{
    deeds::{self, Kind},
    engine::{Answer, Fault, Going, LABEL_GPUS, Power, SimContainer, SimEngine},
    fixture,
    rules::{Around, Cause, Check, Rules, Violation, name, rule},
    server::{About, Sent, SimServer},
};

/// What is tested: the registry, or one that is broken on purpose.
pub(crate) trait Subject {
    fn handle(&mut self, input: Input, now: Now) -> Vec<Effect>;
    fn handle_timeout(&mut self, now: Now) -> Vec<Effect>;
    fn poll_timeout(&self) -> Option<Duration>;
    fn snapshot(&self) -> Snapshot;
}

impl Subject for Registry {
    fn handle(&mut self, input: Input, now: Now) -> Vec<Effect> {
        Registry::handle(self, input, now)
    }

    fn handle_timeout(&mut self, now: Now) -> Vec<Effect> {
        Registry::handle_timeout(self, now)
    }

    fn poll_timeout(&self) -> Option<Duration> {
        Registry::poll_timeout(self)
    }

    fn snapshot(&self) -> Snapshot {
        Registry::snapshot(self)
    }
}

/// An engine's restart is believed to explain an exit so long before it, and no longer.
const RESTART_WINDOW: Duration = Duration::from_secs(30);

/// Makes what is tested, once per life of the agent.
pub(crate) type Make = Rc<dyn Fn(Options) -> Box<dyn Subject>>;

/// An operation that has been asked for and not been answered.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) id: OpId,
    pub(crate) instance: InstanceId,
    pub(crate) op: EngineOp,
    /// The container that had the name when it was asked for.
    pub(crate) target: Option<ContainerId>,
    /// Done, and not answered yet.
    pub(crate) done: Option<Answer>,
    /// The engine died under it before it was done: there is no answer to come.
    pub(crate) broken: bool,
}

/// A listing that has been asked for.
#[derive(Debug)]
pub(crate) struct ListFlight {
    pub(crate) ticket: Ticket,
    /// The containers, once they are listed; the volumes are listed when it is answered.
    pub(crate) containers: Option<Vec<Observed>>,
    /// The engine went away meanwhile.
    pub(crate) broken: bool,
}

/// A session's way to the server: what was said and not read yet.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) unread: std::collections::VecDeque<Event>,
}

/// Everything.
pub(crate) struct World {
    make: Make,
    subject: Box<dyn Subject>,
    /// Time since the case began.
    pub(crate) clock: Duration,
    booted: Duration,
    boot: u32,
    pub(crate) engine: SimEngine,
    pub(crate) server: SimServer,
    pub(crate) link: Option<Link>,
    pub(crate) flights: Vec<Flight>,
    pub(crate) lists: Vec<ListFlight>,
    pub(crate) fetches: BTreeMap<u64, FetchRequest>,
    /// Operations whose asker is gone or has given up, and that are done all the same, at a time.
    pub(crate) late: Vec<(Duration, Flight)>,
    /// What the watcher has told last, and whether its stream was cut since.
    told: Option<Power>,
    cut: bool,
    pub(crate) rules: Rules,
    new_epoch: bool,
    /// What happened, where somebody wants to read it.
    pub(crate) story: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(make: Make, tells_start: bool) -> Self {
        let clock = Duration::from_secs(3600);
        let at = fixture::epoch_start();
        Self {
            subject: make(fixture::options("boot-0")),
            make,
            clock,
            booted: Duration::ZERO,
            boot: 0,
            engine: SimEngine::new(at, tells_start),
            server: SimServer::default(),
            link: None,
            flights: Vec::new(),
            lists: Vec::new(),
            fetches: BTreeMap::new(),
            late: Vec::new(),
            told: None,
            cut: false,
            rules: Rules::default(),
            new_epoch: true,
            story: None,
        }
    }

    pub(crate) fn wall(&self) -> Timestamp {
        fixture::epoch_start().plus(self.clock)
    }

    fn now(&self) -> Now {
        Now {
            wall: self.wall(),
            boot: self.clock.saturating_sub(self.booted),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.subject.snapshot()
    }

    pub(crate) fn see(&mut self, what: &'static str) {
        self.rules.see(what);
    }

    fn tell_story(&mut self, line: impl FnOnce() -> String) {
        let clock = self.clock;
        if let Some(story) = &mut self.story {
            story.push(format!("{:>10.3} {}", clock.as_secs_f64(), line()));
        }
    }

    // The registry's inputs.

    pub(crate) fn feed(&mut self, input: Input, cause: &Cause) -> Result<Vec<Event>, Violation> {
        // From the first listing and the first inventory on the drivers are heard.
        let is_first = matches!(input, Input::Gpus { .. } | Input::Listed(_, Ok(_)));
        let mut events = self.feed_one(input, cause)?;
        if is_first {
            events.extend(self.look_at_gpus()?);
        }
        Ok(events)
    }

    /// The GPUs are looked at, and nobody is on those that no rental has.
    pub(crate) fn look_at_gpus(&mut self) -> Result<Vec<Event>, Violation> {
        let sampled = fixture::idle_gpus(self.now().boot);
        self.feed_one(Input::GpuReadings(sampled.into()), &Cause::Driver)
    }

    fn feed_one(&mut self, input: Input, cause: &Cause) -> Result<Vec<Event>, Violation> {
        self.tell_story(|| format!("-> {input:?}"));
        let now = self.now();
        let effects = self.subject.handle(input, now);
        self.carry_out(effects, cause)
    }

    fn carry_out(&mut self, effects: Vec<Effect>, cause: &Cause) -> Result<Vec<Event>, Violation> {
        let mut events = Vec::new();
        let (mut looks, mut wipes) = (false, Vec::new());
        for effect in effects {
            self.tell_story(|| format!("   <- {effect:?}"));
            match effect {
                Effect::Emit(event) => {
                    rule!(
                        self.link.is_some(),
                        name::WHOLE,
                        "said to nobody: {event:?}"
                    );
                    let around = Around {
                        engine: &self.engine,
                        server: &self.server,
                        clock: self.clock,
                    };
                    self.rules.tell(&event, cause, around)?;
                    if let Some(link) = &mut self.link {
                        link.unread.push_back(event.clone());
                    }
                    events.push(event);
                }
                // For others than the server, which the model is about.
                Effect::Tell(_) => {}
                Effect::Engine { id, instance, op } => self.take_off(id, instance, op)?,
                Effect::LookAtGpus => looks = true,
                Effect::WipeGpu(uuid) => wipes.push(uuid),
                Effect::List(ticket) => {
                    rule!(
                        self.lists.is_empty(),
                        name::ONE_OPERATION,
                        "two listings at once"
                    );
                    self.lists.push(ListFlight {
                        ticket,
                        containers: None,
                        broken: false,
                    });
                }
                Effect::Fetch(id, request) => self.begin_fetch(id, request)?,
                Effect::CancelFetch(id) => {
                    let ran = self.fetches.remove(&id.0).is_some();
                    rule!(ran, name::SHARED, "{id:?} is cancelled and does not run");
                    self.see("a pull cancelled");
                }
            }
        }
        let around = Around {
            engine: &self.engine,
            server: &self.server,
            clock: self.clock,
        };
        self.rules.look(&self.subject.snapshot(), cause, around)?;
        for uuid in wipes {
            let wiped = Wiped::Done {
                wiped_bytes: 1,
                total_bytes: 1,
            };
            self.see("a GPU wiped");
            events.extend(self.feed_one(Input::GpuWiped { uuid, wiped }, &Cause::Driver)?);
        }
        if looks {
            events.extend(self.look_at_gpus()?);
        }
        Ok(events)
    }

    fn take_off(&mut self, id: OpId, instance: InstanceId, op: EngineOp) -> Check {
        let in_flight: Vec<Kind> = self
            .flights
            .iter()
            .filter(|flight| flight.instance == instance)
            .map(|flight| deeds::kind(&flight.op))
            .collect();
        let around = Around {
            engine: &self.engine,
            server: &self.server,
            clock: self.clock,
        };
        self.rules.ask(&instance, &op, &in_flight, around)?;
        let container = deeds::target(&op).and_then(|name| self.engine.named(name));
        let target = container.map(|container| container.id.clone());
        self.flights.push(Flight {
            id,
            instance,
            op,
            target,
            done: None,
            broken: false,
        });
        Ok(())
    }

    fn begin_fetch(&mut self, id: FetchId, request: FetchRequest) -> Check {
        let shared = self
            .fetches
            .values()
            .all(|other| other.reference != request.reference || other.pull != request.pull);
        rule!(shared, name::SHARED, "{request:?} is fetched twice at once");
        self.fetches.insert(id.0, request);
        Ok(())
    }

    /// Whether the registry asked for something that it has not been told.
    pub(crate) fn is_waiting(&self) -> bool {
        !(self.flights.is_empty() && self.lists.is_empty() && self.fetches.is_empty())
    }

    // The engine's answers.

    /// Does an operation, and does not answer yet.
    pub(crate) fn perform(&mut self, index: usize, fault: Fault) {
        if self.engine.power != Power::Up {
            return;
        }
        let at = self.wall();
        let Some(flight) = self
            .flights
            .get_mut(index)
            .filter(|flight| flight.done.is_none() && !flight.broken)
        else {
            return;
        };
        let (op, target) = (&flight.op, flight.target.clone());
        let needs_target = !matches!(op, EngineOp::Create(_)) && target.is_some();
        let target = target.filter(|_| needs_target);
        flight.done = Some(self.engine.perform(op, target.as_ref(), fault, at));
        note_fault(&mut self.rules, flight, fault);
    }

    /// Answers an operation; it is done first, unless the fault keeps it from that.
    pub(crate) fn answer(&mut self, index: usize, fault: Fault) -> Check {
        if index >= self.flights.len() {
            return Ok(());
        }
        let is_down = self.engine.power == Power::Down;
        let undone = matches!(
            fault,
            Fault::LostUnknown | Fault::Unreachable | Fault::Late(_)
        );
        if !undone {
            self.perform(index, fault);
        }
        let mut flight = self.flights.remove(index);
        let done = flight.done.take();
        self.see_lost_answer(&flight, fault, done.is_some());
        let (id, instance, kind) = (flight.id, flight.instance.clone(), deeds::kind(&flight.op));
        let heard = !matches!(
            fault,
            Fault::DoneUnknown | Fault::LostUnknown | Fault::Late(_)
        );
        let result = match done {
            Some(done) if heard && fault != Fault::Unreachable => done,
            None if heard && (fault == Fault::Unreachable || is_down) => Err(Class::Unreachable),
            None => {
                if let Fault::Late(after) = fault {
                    self.late.push((self.clock + after, flight));
                }
                Err(Class::Unknown)
            }
            Some(_) => Err(Class::Unknown),
        };
        if let Ok(output) = &result {
            let around = Around {
                engine: &self.engine,
                server: &self.server,
                clock: self.clock,
            };
            self.rules.learn(&instance, output, around);
        }
        let silent = matches!(result, Err(Class::Unknown | Class::Unreachable));
        let result = result
            .map_err(|class| RuntimeError::new("model", instance.as_str(), class, "simulated"));
        let done = OpDone {
            id,
            instance: instance.clone(),
            result,
        };
        self.feed(Input::OpDone(Box::new(done)), &Cause::Operation)?;
        let again = self
            .flights
            .iter()
            .any(|f| f.instance == instance && f.id > id && deeds::kind(&f.op) == kind);
        rule!(
            !(silent && again),
            name::HOT_LOOP,
            "{instance}: {kind:?} again at once"
        );
        Ok(())
    }

    fn see_lost_answer(&mut self, flight: &Flight, fault: Fault, done: bool) {
        if !matches!(
            fault,
            Fault::DoneUnknown | Fault::LostUnknown | Fault::Late(_)
        ) {
            return;
        }
        match (deeds::kind(&flight.op), fault, done) {
            (Kind::Create, Fault::Late(_), _) => self.see("a create that comes late"),
            (Kind::Create, _, true) => self.see("a create done, its answer lost"),
            (Kind::Create, _, false) => self.see("a create lost"),
            (Kind::Start, _, true) => self.see("a start done, its answer lost"),
            (Kind::Stop, ..) => self.see("a stop without an answer"),
            (Kind::Remove, ..) => self.see("a remove without an answer"),
            (Kind::MarkEnding, ..) => self.see("a decision without an answer"),
            (Kind::MarkEnded, ..) => self.see("a final record without an answer"),
            _ => {}
        }
    }

    /// Lists the containers; the volumes are listed when it is answered.
    pub(crate) fn look_at_containers(&mut self) {
        if self.engine.power != Power::Up {
            return;
        }
        let containers = self.engine.list_containers();
        if let Some(list) = self
            .lists
            .first_mut()
            .filter(|list| list.containers.is_none())
        {
            list.containers = Some(containers);
        }
    }

    /// Answers a listing, or fails it.
    pub(crate) fn answer_list(&mut self, fails: bool) -> Check {
        self.look_at_containers();
        if self.lists.is_empty() {
            return Ok(());
        }
        let list = self.lists.remove(0);
        let containers = list.containers.filter(|_| !list.broken && !fails);
        let Some(containers) = containers.filter(|_| self.engine.power == Power::Up) else {
            let class = if self.engine.power == Power::Down {
                Class::Unreachable
            } else {
                Class::Unknown
            };
            let error = RuntimeError::new("list", "all", class, "simulated");
            self.see("a listing that fails");
            self.feed(Input::Listed(list.ticket, Err(error)), &Cause::Other)?;
            return Ok(());
        };
        let listing = self.engine.listing(containers);
        self.note_listing(&listing);
        self.feed(Input::Listed(list.ticket, Ok(listing)), &Cause::Listing)?;
        let waiting = self.rules.unanswered.keys().find(|id| {
            let about = self.server.find(id).map(|sent| &sent.about);
            !matches!(about, Some(About::Terminate(..)))
        });
        rule!(
            waiting.is_none(),
            name::ANSWERED,
            "{waiting:?} waits after the first listing"
        );
        Ok(())
    }

    /// Answers a listing whose volumes cannot be read.
    pub(crate) fn answer_list_without_markers(&mut self) -> Check {
        self.look_at_containers();
        let list = self.lists.remove(0);
        self.rules.half_listed = true;
        let mut listing = self.engine.listing(list.containers.unwrap_or_default());
        listing.volumes = None;
        self.feed(Input::Listed(list.ticket, Ok(listing)), &Cause::Listing)?;
        Ok(())
    }

    /// A create that an earlier life left in flight may show up when its port or GPU has been given
    /// to another rental. Only one of the two can be started.
    fn excuse_twins(&mut self) {
        let wants = |container: &SimContainer| -> BTreeSet<String> {
            let gpus = container.labels.get(LABEL_GPUS).map(String::as_str);
            let gpus = gpus
                .unwrap_or_default()
                .split(',')
                .filter(|g| !g.is_empty());
            let ports = container.ports.iter().map(|port| port.host.to_string());
            gpus.map(str::to_owned).chain(ports).collect()
        };
        let rentals: Vec<_> = self
            .engine
            .rentals()
            .map(|(id, c)| (id, wants(c)))
            .collect();
        for (id, wanted) in &rentals {
            let twin = |(other, theirs): &(InstanceId, BTreeSet<String>)| {
                other != id && !theirs.is_disjoint(wanted)
            };
            if rentals.iter().any(twin) {
                self.rules.excused.insert(id.clone());
            }
        }
    }

    fn note_listing(&mut self, listing: &rental_agent::runtime::Listing) {
        let first = !self.rules.listed;
        self.rules.listed = true;
        self.excuse_twins();
        self.rules.visible |= self.rules.reachable;
        self.rules.claimed_gpus.clear();
        self.rules.claimed_ports.clear();
        for container in &listing.containers {
            let ours = self.engine.rentals().any(|(_, c)| c.id == container.id);
            if ours {
                continue;
            }
            if self
                .engine
                .containers
                .get(&container.id)
                .is_some_and(|c| c.runs())
            {
                let gpus = container
                    .labels
                    .get(LABEL_GPUS)
                    .map(String::as_str)
                    .unwrap_or_default();
                self.rules
                    .claimed_gpus
                    .extend(gpus.split(',').filter(|g| !g.is_empty()).map(str::to_owned));
            }
            self.rules
                .claimed_ports
                .extend(container.ports.iter().map(|port| port.host));
        }
        if first {
            let ends = [".ending", ".ended"];
            for volume in listing.volumes.iter().flatten() {
                let Some(id) = ends.iter().find_map(|end| volume.name.strip_suffix(end)) else {
                    continue;
                };
                let owner = volume
                    .labels
                    .get(super::engine::LABEL_AGENT)
                    .map(String::as_str);
                let ours = match owner {
                    None => !beside_a_strangers(listing, &volume.name),
                    Some(owner) => owner == fixture::AGENT,
                };
                if let Some(Ok(id)) = id.strip_prefix("rental-").map(str::parse::<InstanceId>)
                    && ours
                {
                    self.rules.ending_at_start.insert(id);
                }
            }
            self.see_adoption(listing);
        }
    }

    fn see_adoption(&mut self, listing: &rental_agent::runtime::Listing) {
        use rental_agent::runtime::ContainerState;
        for container in listing
            .containers
            .iter()
            .filter(|c| c.name.starts_with("rental-"))
        {
            match container.state {
                ContainerState::Created => self.see("a start finds a created container"),
                ContainerState::Running => self.see("a start finds a running container"),
                ContainerState::Paused => self.see("a start finds a paused container"),
                ContainerState::Exited => self.see("a start finds an ended container"),
                _ => {}
            }
        }
        for volume in listing.volumes.iter().flatten() {
            if volume.labels.is_empty() {
                self.see("a start finds a marker without labels");
            } else if volume.name.ends_with(".ending") {
                self.see("a start finds a decision to end");
            } else if volume.name.ends_with(".ended") {
                self.see("a start finds a final record");
            }
        }
    }

    // Fetches.

    pub(crate) fn fetch_progress(&mut self, index: usize) -> Check {
        let Some(id) = self.fetches.keys().nth(index).copied() else {
            return Ok(());
        };
        let progress = PullProgress {
            downloaded_bytes: 17,
            ..PullProgress::default()
        };
        let input = Input::FetchProgress(FetchId(id), progress, "downloading".to_owned());
        self.feed(input, &Cause::Other)?;
        Ok(())
    }

    pub(crate) fn fetch_done(&mut self, index: usize, result: Result<(), Class>) -> Check {
        let Some(id) = self.fetches.keys().nth(index).copied() else {
            return Ok(());
        };
        let Some(request) = self.fetches.remove(&id) else {
            return Ok(());
        };
        let result = match result {
            Ok(()) => {
                let facts = fixture::image_facts(&request.reference);
                self.engine.images.insert(facts.id.clone());
                Ok(facts)
            }
            Err(class) => {
                self.see("a pull fails");
                Err(RuntimeError::new(
                    "pull",
                    &request.reference,
                    class,
                    "simulated",
                ))
            }
        };
        if result.is_err() {
            // Whoever waits for it may fail; which ones, the model does not ask.
            let waiting: Vec<InstanceId> = self
                .rules
                .records
                .values()
                .filter(|r| r.container_id.is_none())
                .map(|r| r.id.clone())
                .collect();
            self.rules.excused.extend(waiting);
        }
        self.feed(Input::Fetched(FetchId(id), result), &Cause::Other)?;
        Ok(())
    }

    // The engine's watcher.

    /// The watcher tells what it sees, if it is news.
    pub(crate) fn notice(&mut self) -> Check {
        let power = self.engine.power;
        if self.told == Some(power) && !self.cut {
            return Ok(());
        }
        self.told = Some(power);
        self.cut = false;
        let input = match power {
            Power::Up => {
                self.rules.reachable = true;
                let started_at = self.engine.tells_start.then_some(self.engine.started_at);
                Input::EngineUp {
                    facts: Box::new(fixture::engine_facts(started_at)),
                    disks: Vec::new(),
                }
            }
            Power::Hung | Power::Down => {
                self.rules.reachable = false;
                self.rules.visible = false;
                self.see("the engine away");
                let hung = power == Power::Hung;
                Input::EngineDown(if hung {
                    EngineStatus::Degraded
                } else {
                    EngineStatus::Unavailable
                })
            }
        };
        self.feed(input, &Cause::Other)?;
        Ok(())
    }

    pub(crate) fn engine_down(&mut self, going: Going) -> Check {
        if self.engine.power == Power::Down {
            return Ok(());
        }
        self.pass(Duration::from_millis(10))?;
        let at = self.wall();
        self.engine.go_down(going, at);
        self.lists.iter_mut().for_each(|list| list.broken = true);
        self.flights
            .iter_mut()
            .for_each(|flight| flight.broken = true);
        self.late.clear();
        self.cut = true;
        Ok(())
    }

    pub(crate) fn engine_up(&mut self) -> Check {
        self.pass(Duration::from_millis(300))?;
        let at = self.wall();
        self.engine.come_up(at);
        self.excuse_what_an_earlier_restart_ended(at);
        self.cut = true;
        Ok(())
    }

    /// An exit that an earlier restart of the engine caused, and that nobody looked at before this
    /// one, is like the tenant's own: nothing in the engine tells them apart.
    fn excuse_what_an_earlier_restart_ended(&mut self, started_at: Timestamp) {
        let long_before = |finished: Timestamp| finished.plus(RESTART_WINDOW) < started_at;
        let ended = self.engine.rentals().filter(|(_, container)| {
            !container.runs() && container.detail.finished_at.is_some_and(long_before)
        });
        let ended: Vec<InstanceId> = ended.map(|(id, _)| id).collect();
        self.rules.excused.extend(ended);
    }

    /// Hands over the engine's oldest event, or loses it.
    pub(crate) fn hint(&mut self, lost: bool) -> Check {
        let Some(event) = self.engine.events.pop_front() else {
            return Ok(());
        };
        if lost || self.told != Some(Power::Up) || self.cut {
            return Ok(());
        }
        self.feed(Input::Container(event), &Cause::Other)?;
        Ok(())
    }

    pub(crate) fn gpus(&mut self, gpus: Vec<Gpu>, complete: bool) -> Check {
        let gpus = gpus.into_iter().map(Into::into).collect();
        self.feed(Input::Gpus { gpus, complete }, &Cause::Other)?;
        Ok(())
    }

    // The server's side.

    pub(crate) fn connect(&mut self) -> Check {
        if self.link.is_some() {
            return Ok(());
        }
        self.link = Some(Link::default());
        self.rules.connected();
        let server_time = self.wall().plus(Duration::from_secs(3));
        self.feed(Input::Connected { server_time }, &Cause::Other)?;
        let owed = self.server.begin(std::mem::take(&mut self.new_epoch));
        for sent in owed {
            self.deliver(&sent)?;
        }
        Ok(())
    }

    pub(crate) fn disconnect(&mut self) -> Check {
        if self.link.take().is_none() {
            return Ok(());
        }
        self.rules.disconnected();
        self.feed(Input::Disconnected, &Cause::Other)?;
        Ok(())
    }

    /// Hands a command to the agent, if a session is there to carry it.
    pub(crate) fn deliver(&mut self, sent: &Sent) -> Check {
        if self.link.is_none() {
            return Ok(());
        }
        let known = self.rules.replies.contains_key(&sent.id);
        self.rules.hear(sent, self.clock);
        let command = fixture::command(&sent.id, &sent.body);
        let events = self.feed(command, &Cause::Command(sent.id.clone()))?;
        let replies: Vec<_> = events
            .into_iter()
            .filter_map(|event| match event {
                Event::Reply(reply) => Some(reply),
                _ => None,
            })
            .collect();
        self.rules.answered(sent, known, &replies)?;
        let around = Around {
            engine: &self.engine,
            server: &self.server,
            clock: self.clock,
        };
        self.rules.waited(around)
    }

    /// A new command: written down by the server, and sent if there is a session.
    pub(crate) fn send(
        &mut self,
        about: About,
        body: serde_json::Value,
    ) -> Result<Sent, Violation> {
        let sent = self.server.write(about, body);
        self.deliver(&sent)?;
        Ok(sent)
    }

    /// The server reads so many of the messages that wait.
    pub(crate) fn read(&mut self, count: usize) -> Check {
        for _ in 0..count {
            let Some(event) = self.link.as_mut().and_then(|link| link.unread.pop_front()) else {
                break;
            };
            for id in self.server.read(&event) {
                self.see("a rental that the server does not want");
                let body = SimServer::terminate(&id);
                self.send(About::Terminate(id, super::server::MayReject::Never), body)?;
            }
        }
        Ok(())
    }

    pub(crate) fn ack(&mut self) -> Check {
        if self.link.is_none() || self.server.read_up_to == 0 {
            return Ok(());
        }
        let generation = self.server.ack();
        let stored: Vec<InstanceId> = self
            .rules
            .told
            .iter()
            .filter(|(_, (at, record))| {
                *at <= generation && record.phase == rental_agent::protocol::Phase::Ended
            })
            .map(|(id, _)| id.clone())
            .collect();
        self.rules.acked.extend(stored);
        self.feed(Input::Ack(Generation(generation)), &Cause::Other)?;
        Ok(())
    }

    // Time.

    /// Lets time pass, with all that is due on the way.
    pub(crate) fn pass(&mut self, by: Duration) -> Check {
        let until = self.clock + by;
        for _ in 0..2_000 {
            let due = self.next_due().filter(|due| *due <= until);
            let Some(due) = due else {
                self.clock = until;
                let around = Around {
                    engine: &self.engine,
                    server: &self.server,
                    clock: self.clock,
                };
                return self.rules.waited(around);
            };
            self.clock = self.clock.max(due);
            self.do_late();
            self.do_due()?;
        }
        rule!(false, name::HOT_LOOP, "2,000 timeouts within {by:?}");
        Ok(())
    }

    fn next_due(&self) -> Option<Duration> {
        let timeout = self.subject.poll_timeout().map(|boot| boot + self.booted);
        let late = self.late.iter().map(|(at, _)| *at).min();
        timeout.into_iter().chain(late).min()
    }

    /// When the registry wants to be called next.
    pub(crate) fn next_timeout(&self) -> Option<Duration> {
        self.subject.poll_timeout().map(|boot| boot + self.booted)
    }

    fn do_due(&mut self) -> Check {
        let now = self.now();
        if self.subject.poll_timeout().is_none_or(|at| at > now.boot) {
            return Ok(());
        }
        self.tell_story(|| "-> timeout".to_owned());
        let effects = self.subject.handle_timeout(now);
        self.carry_out(effects, &Cause::Time)?;
        let next = self.subject.poll_timeout();
        let later = next.is_none_or(|at| at > now.boot);
        rule!(
            later,
            name::HOT_LOOP,
            "due at {next:?} again at {:?}",
            now.boot
        );
        let around = Around {
            engine: &self.engine,
            server: &self.server,
            clock: self.clock,
        };
        self.rules.waited(around)
    }

    fn do_late(&mut self) {
        let clock = self.clock;
        match self.engine.power {
            Power::Up => {}
            Power::Hung => {
                let after = clock + Duration::from_secs(1);
                self.late
                    .iter_mut()
                    .for_each(|(when, _)| *when = after.max(*when));
                return;
            }
            Power::Down => return self.late.clear(),
        }
        let at = self.wall();
        let (due, later) = std::mem::take(&mut self.late)
            .into_iter()
            .partition(|(when, _)| *when <= clock);
        self.late = later;
        let due: Vec<(Duration, Flight)> = due;
        for (_, flight) in due {
            let target = flight
                .target
                .filter(|_| !matches!(flight.op, EngineOp::Create(_)));
            let answer = self
                .engine
                .perform(&flight.op, target.as_ref(), Fault::None, at);
            self.tell_story(|| format!("late: {:?}: {answer:?}", flight.op));
        }
    }

    // Lives.

    /// The agent is killed and starts again. What is in flight is done, is not, or is done later.
    pub(crate) fn crash(&mut self, fates: u32) {
        self.see_crash();
        for (n, flight) in std::mem::take(&mut self.flights).into_iter().enumerate() {
            let shift = 2 * u32::try_from(n).unwrap_or(31);
            let fault = match fates.checked_shr(shift).unwrap_or(0) & 3 {
                0 => continue,
                1 => Fault::None,
                2 => Fault::Half,
                _ if flight.done.is_none() => {
                    self.late
                        .push((self.clock + Duration::from_secs(6), flight));
                    continue;
                }
                _ => continue,
            };
            self.flights = vec![flight];
            self.perform(0, fault);
        }
        self.flights.clear();
        self.lists.clear();
        self.fetches.clear();
        self.engine.events.clear();
        self.link = None;
        self.told = None;
        self.rules.next_life();
        self.new_epoch = true;
        let make = Rc::clone(&self.make);
        self.subject = make(fixture::options(&format!("boot-{}", self.boot)));
        self.tell_story(|| "the agent is killed and starts again".to_owned());
    }

    fn see_crash(&mut self) {
        self.see("the agent killed");
        let kinds: Vec<Kind> = self.flights.iter().map(|f| deeds::kind(&f.op)).collect();
        for kind in kinds {
            self.see(match kind {
                Kind::Create => "killed in a create",
                Kind::Start => "killed in a start",
                Kind::Stop => "killed in a stop",
                Kind::Remove => "killed in a remove",
                Kind::Remake => "killed in a remake",
                Kind::MarkReady => "killed while ready is written",
                Kind::MarkEnding => "killed while the decision is written",
                Kind::MarkEnded => "killed while the final record is written",
                Kind::RemoveMarkers => "killed while markers are removed",
                Kind::Verify => "killed while it is verified",
                _ => "killed in a look",
            });
        }
        if !self.fetches.is_empty() {
            self.see("killed in a pull");
        }
    }

    /// The host is switched off and on.
    pub(crate) fn reboot(&mut self, fates: u32) {
        let at = self.wall();
        self.engine.go_down(Going::Killed, at);
        self.boot += 1;
        self.clock += Duration::from_secs(40);
        self.booted = self.clock - Duration::from_secs(10);
        self.engine.left.clear();
        self.crash(fates);
        self.late.clear();
        let at = self.wall();
        self.engine.come_up(at);
        self.see("the host rebooted");
    }

    /// The rental's container, where there is one.
    pub(crate) fn container_of(&self, id: &InstanceId) -> Option<ContainerId> {
        self.engine
            .named(&format!("rental-{id}"))
            .map(|container| container.id.clone())
    }
}

/// What a fault may lead to.
fn note_fault(rules: &mut Rules, flight: &Flight, fault: Fault) {
    let id = &flight.instance;
    let kind = deeds::kind(&flight.op);
    let failed = matches!(flight.done, Some(Err(_)));
    if failed {
        match kind {
            Kind::MarkEnding | Kind::MarkEnded => {
                rules.unmarked.insert(id.clone());
            }
            Kind::Create if fault == Fault::None => {}
            Kind::Create | Kind::Start | Kind::Remake => {
                rules.excused.insert(id.clone());
            }
            _ => {}
        }
    }
    match (kind, fault) {
        (Kind::Start, Fault::PortTaken) if failed => rules.see("a port taken by a stranger"),
        (Kind::Start, Fault::Failed) => rules.see("a start that fails with 5xx"),
        (Kind::Start, Fault::Unstartable) => rules.see("a container that can never be started"),
        (Kind::Start, Fault::Noted) => rules.see("a start that the engine notes as failed"),
        (Kind::Remake, _) => rules.see("a container made again"),
        (Kind::MarkEnding | Kind::MarkEnded | Kind::MarkReady, Fault::Half) => {
            rules.see("a marker written without labels");
        }
        (Kind::Verify, Fault::ProcessLeft) => rules.see("a process left behind"),
        _ => {}
    }
}

/// A marker without labels is the stranger's who has a container or a marker of that rental.
fn beside_a_strangers(listing: &rental_agent::runtime::Listing, marker: &str) -> bool {
    let rental = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let containers = listing.containers.iter().map(|c| (&c.name, &c.labels));
    let volumes = listing.volumes.iter().flatten();
    containers
        .chain(volumes.map(|v| (&v.name, &v.labels)))
        .filter(|(name, _)| rental(name) == rental(marker))
        .filter_map(|(_, labels)| labels.get(super::engine::LABEL_AGENT))
        .any(|owner| owner != fixture::AGENT)
}

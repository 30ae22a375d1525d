//! The engine as a whole: whether it answers, since when, and when it is listed. Pure.
//!
//! Operations make sense only while it answers and has been listed since it came back; until then
//! nothing is begun, freed or ended.

use std::{collections::VecDeque, time::Duration};

use super::{Options, Registry, slots::Capacity};
use crate::{
    clock::{Now, Seldom, Timestamp},
    instance::effect::{Effect, Listed, Ticket},
    protocol::record::{Disk, EngineStatus, View},
    runtime::EngineFacts,
};

/// A full list of the engine at least this often.
const LIST_EVERY: Duration = Duration::from_secs(30);
/// After the first listing of a life, and of an engine's, it is listed again after so long: a create
/// that was in flight when the agent or the engine died shows up then.
const LIST_AGAIN: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
/// A create or a remake without an answer may be done so long after: as for an earlier life's.
pub(super) const LATE: Duration = Duration::from_secs(10);
/// So many starts of the engine are remembered.
const STARTS_MAX: usize = 8;

/// What is known of the engine as a whole.
#[derive(Debug, Default)]
pub(super) struct EngineView {
    pub(super) status: EngineStatus,
    pub(super) facts: Option<EngineFacts>,
    /// It was seen in its present life to have no GPU runtime, and said this. It looks for one when
    /// it starts, and its event stream ends with its life: then this is forgotten.
    pub(super) gpu_runtime_missing: Option<String>,
    /// Why nothing may be started on the rentals' network.
    pub(super) network_fault: Option<String>,
    /// It answered since it was last away, but has not been listed yet.
    pub(super) reachable: bool,
    pub(super) listing: Option<Ticket>,
    /// One listing has been taken in by this process.
    pub(super) listed: bool,
    /// When its event stream ended last. An exit in a new life of the engine looks like the tenant's
    /// own until a listing from after that tells when that life began: until then nobody looks.
    pub(super) lost: Option<Ticket>,
    /// When to list next (boot-time clock).
    pub(super) list_at: Option<Duration>,
    /// How many of [`LIST_AGAIN`] are done.
    pub(super) listed_again: usize,
    /// From the last answer to the first one after it: exits in between are the engine's doing.
    pub(super) away_since: Option<Timestamp>,
    /// When the listing that is under way, or was taken in last, was asked for (boot-time clock).
    pub(super) asked_at: Duration,
    /// Starts of its last lives, by the host's clock, as far as they can be told; the present one
    /// last. More than one may pass before a container is looked at.
    pub(super) starts: VecDeque<Timestamp>,
    pub(super) outage: Option<(Timestamp, Timestamp)>,
    pub(super) last_answer: Option<Timestamp>,
    /// That it cannot be listed, which is tried every second.
    pub(super) unlistable: Seldom,
}

impl EngineView {
    pub(super) fn note_network(&mut self, fault: Option<String>) {
        if let Some(fault) = fault.as_ref().filter(|_| fault != self.network_fault) {
            tracing::warn!(fault, "nothing is rented out on this network");
        }
        self.network_fault = fault;
    }

    pub(super) fn note_start(&mut self, at: Option<Timestamp>) {
        let Some(at) = at.filter(|at| self.starts.back() != Some(at)) else {
            return;
        };
        self.starts.push_back(at);
        if self.starts.len() > STARTS_MAX {
            self.starts.pop_front();
        }
    }
}

impl Registry {
    pub(super) fn engine_up(&mut self, facts: EngineFacts, disks: Vec<Disk>, now: Now) {
        let at = self.clock.at(now);
        if let Some(since) = self.engine.away_since.take() {
            self.engine.outage = Some((since, at));
        }
        self.engine.last_answer = Some(at);
        self.engine.reachable = true;
        self.engine.note_start(facts.started_at);
        let Options {
            host,
            limits,
            port_range,
            ..
        } = &mut self.options;
        host.engine = Some(facts.engine.clone());
        host.disks = disks;
        if host.view == View::Container {
            // What the agent sees itself is its container's.
            host.hostname.clone_from(&facts.hostname);
            host.os.clone_from(&facts.os);
        }
        self.slots
            .set_capacity(Capacity::of(host, limits, *port_range));
        self.engine.facts = Some(facts);
        self.engine.gpu_runtime_missing = None;
        // Listing follows after each reopened event stream, whether or not it was noticed to be away.
        self.engine.listed_again = 0;
        if self.engine.listing.is_none() {
            self.list(now);
        } else {
            self.engine.list_at = Some(now.boot);
        }
    }

    pub(super) fn engine_down(&mut self, status: EngineStatus, now: Now) {
        if self.engine.away_since.is_none() {
            let at = self.clock.at(now);
            self.engine.away_since = Some(self.engine.last_answer.unwrap_or(at));
        }
        self.engine.reachable = false;
        self.engine.status = status;
        self.engine.list_at = None;
        self.accept_pending_terminates();
    }

    pub(super) fn list(&mut self, now: Now) {
        self.ticket = Ticket(self.ticket.0 + 1);
        self.engine.listing = Some(self.ticket);
        self.engine.asked_at = now.boot;
        self.engine.list_at = None;
        self.effects.push(Effect::List(self.ticket));
    }

    pub(super) fn listed(&mut self, ticket: Ticket, listed: Listed, now: Now) {
        if self.engine.listing != Some(ticket) {
            return;
        }
        self.engine.listing = None;
        match listed {
            Ok(listing) if listing.volumes.is_none() => {
                if !self.engine.listed {
                    self.take_running(listing, now);
                }
                self.cannot_list(now);
            }
            Ok(listing) => {
                self.schedule_next_list(now);
                self.engine.unlistable.over();
                self.engine.last_answer = Some(self.clock.at(now));
                if self.engine.reachable && self.engine.status != EngineStatus::Ok {
                    self.engine.status = EngineStatus::Ok;
                    tracing::info!(
                        containers = listing.containers.len(),
                        markers = listing.volumes.as_ref().map(Vec::len),
                        "the container engine is listed"
                    );
                }
                self.take_listing(ticket, listing, now);
                if !std::mem::replace(&mut self.engine.listed, true) {
                    // From now on it is known whose the GPUs are not.
                    self.effects.push(Effect::LookAtGpus);
                }
                self.engine.lost.take_if(|lost| *lost < ticket);
                if self.connected && !self.synced {
                    self.sync();
                }
                self.release_held(now);
                self.drive_all(now);
            }
            Err(error) => {
                if self.engine.unlistable.goes_on(now.boot) {
                    tracing::warn!(%error, "the container engine cannot be listed");
                }
                self.cannot_list(now);
            }
        }
    }

    /// It may answer and not list. Then nothing is known of what it holds.
    fn cannot_list(&mut self, now: Now) {
        // While it is away none is asked for: its return brings one.
        if !self.engine.reachable {
            return;
        }
        self.engine.list_at = Some(now.boot + Duration::from_secs(1));
        if self.engine.status != EngineStatus::Degraded {
            self.engine.status = EngineStatus::Degraded;
            self.accept_pending_terminates();
        }
    }

    pub(super) fn schedule_next_list(&mut self, now: Now) {
        let delay = match LIST_AGAIN.get(self.engine.listed_again) {
            Some(first) if self.engine.listed_again == 0 => *first,
            Some(second) => *second - LIST_AGAIN.first().copied().unwrap_or_default(),
            None => LIST_EVERY,
        };
        self.engine.listed_again = (self.engine.listed_again + 1).min(LIST_AGAIN.len() + 1);
        self.engine.list_at = Some(now.boot + delay);
    }

    /// Whether operations make sense: the engine answers and has been listed since it came back.
    pub(super) fn can_see(&self) -> bool {
        self.engine.status == EngineStatus::Ok
    }

    /// Whether what an operation shows can be told from what a restart of the engine did.
    pub(super) fn can_judge(&self) -> bool {
        self.can_see() && self.engine.lost.is_none()
    }

    /// Whether a create that was in flight before this life would have shown up by now.
    pub(super) fn settled(&self) -> bool {
        self.engine.listed_again > LIST_AGAIN.len()
    }
}

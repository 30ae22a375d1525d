//! What a listing means: known rentals are looked at, others are adopted, and what strangers hold
//! counts as taken. Pure.
//!
//! Only an absence in a listing that was asked for after the last operation on a rental is believed.

use super::{Registry, adopt::runs, engine::LATE};
use crate::{
    clock::Now,
    ids::InstanceId,
    instance::{
        effect::{Effect, Ticket},
        lifecycle::Presence,
        marker::{Marker, MarkerKind},
        reconcile::{self, Holdings},
    },
    runtime::Listing,
};

impl Registry {
    pub(super) fn take_listing(&mut self, ticket: Ticket, listing: Listing, now: Now) {
        self.engine.note_start(listing.engine_started_at);
        self.engine.note_network(listing.network_fault.clone());
        let sorted = reconcile::sort(listing, &self.options.agent_id);
        self.claims = sorted.claims;
        self.apply_claims(now);
        self.private.extend(sorted.private);
        let absent: Vec<InstanceId> = self
            .entries
            .keys()
            .filter(|id| !sorted.ours.contains_key(id))
            .cloned()
            .collect();
        let absent = absent
            .into_iter()
            .filter(|id| !sorted.untouchable.contains(id));
        let absent: Vec<InstanceId> = absent.collect();
        // What runs has what it has; only then is seen what is left for what does not.
        let runs = |holdings: &Holdings| holdings.container.as_ref().is_some_and(|c| runs(&c.seen));
        let (running, others): (Vec<_>, Vec<_>) = sorted
            .ours
            .into_iter()
            .partition(|(_, holdings)| runs(holdings));
        for (id, holdings) in running.into_iter().chain(others) {
            if self.entries.get(&id).is_some_and(|e| !e.is_provisional) {
                self.look_again(&id, ticket, &holdings, now);
            } else if self.forgotten.get(&id).is_none_or(|at| *at < ticket) {
                self.adopt(id, holdings, now);
            }
        }
        for id in absent {
            self.look_again(&id, ticket, &Holdings::default(), now);
        }
        for entry in self.entries.values_mut() {
            entry.is_provisional = false;
        }
        self.forgotten.retain(|_, at| *at >= ticket);
        self.look_at_gpus();
        self.give_up_old_records(now);
    }

    /// A rental that is known, as the listing shows it.
    fn look_again(&mut self, id: &InstanceId, ticket: Ticket, holdings: &Holdings, now: Now) {
        let asked_at = self.engine.asked_at;
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        let busy = entry.op.is_some() || entry.decision_op.is_some() || entry.forget_op.is_some();
        if busy || entry.touched > ticket {
            return;
        }
        let container = holdings.container.as_ref().map(|readable| &readable.seen);
        entry.markers = holdings.markers.names.clone();
        let late_by = entry.create_unknown.map(|since| since + LATE);
        if container.is_none() && late_by.is_some_and(|at| asked_at >= at) {
            entry.create_unknown = None;
        }
        if entry.is_over() {
            return self.keep_over(id, container.is_some());
        }
        let lease_lost = entry.facts.marked_ready && holdings.markers.lease.is_none();
        let expects = !matches!(entry.facts.presence, Presence::Absent);
        if container.is_some() || expects {
            self.observe(id, container, now);
        }
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if lease_lost && entry.facts.end.is_none() && entry.facts.presence == Presence::Live {
            entry.facts.marked_ready = false;
        }
    }

    /// An end stays an end: a container that shows up late is removed, a marker that is missing is
    /// made anew.
    fn keep_over(&mut self, id: &InstanceId, container_is_back: bool) {
        let agent = self.options.agent_id.clone();
        let can_see = self.can_see();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        if container_is_back {
            entry.facts.presence = Presence::Finished;
            return;
        }
        if !can_see || entry.acked || entry.markers.contains(&MarkerKind::Ended.volume_name(id)) {
            return;
        }
        let marker = Marker::Ended {
            record: Some(Box::new(entry.record.clone())),
        };
        let op = self.next_op_id();
        let touched = self.touch();
        let Some(entry) = self.entries.get_mut(id) else {
            return;
        };
        entry.decision_op = Some(op);
        entry.touched = touched;
        let body = entry.put_marker(marker.encode(&agent, id));
        self.effects.push(Effect::Engine {
            id: op,
            instance: id.clone(),
            op: body,
        });
    }
}

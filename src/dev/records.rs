//! Storing records: `(epoch, generation)` orders them, an absent field never erases a stored one,
//! and the first final record wins. Pure.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::state::{Live, Seen, Stored};
use crate::{
    clock::Timestamp,
    ids::Generation,
    protocol::{EndReason, Instance, Phase, record::Ended},
};

/// What storing a record came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is what is known now.
    Newest,
    /// A newer one of the same process is stored already.
    Stale,
    /// A final one is stored already.
    AfterTheEnd,
}

/// Keeps a record that came in the session `live`.
pub(super) fn keep(
    stored: &mut Stored,
    live: &Live,
    generation: Generation,
    instance: &Instance,
    written: &Value,
) -> Kept {
    if let Some((epoch, newest)) = &stored.at
        && *epoch == live.epoch
        && generation < *newest
    {
        return Kept::Stale;
    }
    stored.seen = Some(Seen {
        session: live.session,
        alive: instance.phase != Phase::Ended,
        expires_at: instance.lease.as_ref().map(|lease| lease.expires_at),
    });
    stored.at = Some((live.epoch.clone(), generation));
    if stored.has_ended() {
        return Kept::AfterTheEnd;
    }
    if let Value::Object(written) = written {
        merge(&mut stored.merged, written);
    }
    let merged = Instance::deserialize(&Value::Object(stored.merged.clone()));
    stored.record = Some(merged.unwrap_or_else(|_| instance.clone()));
    if stored.has_ended() {
        stored.progress = None;
    }
    Kept::Newest
}

/// Ends an instance of which nothing is left but its record.
pub(super) fn lose(stored: &mut Stored, at: Timestamp) {
    let Some(record) = &mut stored.record else {
        return;
    };
    record.phase = Phase::Ended;
    record.timeline.ended_at = Some(at);
    record.ended = Some(Ended {
        reason: EndReason::Lost,
        exit_code: None,
        error: None,
        log_tail: None,
    });
    stored.ended_here = true;
    stored.progress = None;
}

/// Lays `newer` over `older`, member by member. Labels are one value: they come from the spec, whole.
fn merge(older: &mut Map<String, Value>, newer: &Map<String, Value>) {
    for (key, value) in newer {
        match (older.get_mut(key), value) {
            (_, Value::Null) => {}
            (Some(Value::Object(old)), Value::Object(new)) if key != "labels" => merge(old, new),
            (Some(old), new) => *old = new.clone(),
            (None, new) => {
                older.insert(key.clone(), new.clone());
            }
        }
    }
}

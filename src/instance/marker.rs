//! What the engine holds for us: the name and the labels of a rental's container, and the marker
//! volumes that say what came later. Owns how each is written and read, and how far what is found
//! is believed; decides nothing about what follows from it. Pure.
//!
//! What is found may be anybody's: another agent's, another version's, cut off half-way, or forged.
//! So nothing is ours before name, agent id and instance id agree, and whatever cannot be read is
//! told apart from what is not there.

mod container;
mod record;

use std::collections::BTreeMap;

pub use self::{
    container::{ContainerFacts, ContainerLabels, Ownership, labels_for},
    record::{MAX_RECORD_BYTES, record_json},
};
use crate::{
    clock::Timestamp,
    ids::{AgentId, CommandId, InstanceId},
    protocol::record::{EndReason, Instance},
    runtime::VolumeLabels,
};

/// The version of everything that is written here.
pub const SCHEMA: &str = "1";

/// A lease marker names so many commands, the newest ones.
pub const MAX_LEASE_COMMANDS: usize = 32;

/// What the name of everything that is ours begins with.
const NAME_PREFIX: &str = "rental-";

/// Names of labels. On a container each of the first group is always set.
pub mod label {
    /// The version of the other labels.
    pub const SCHEMA: &str = "rental-agent.schema";
    /// Which agent it belongs to.
    pub const AGENT_ID: &str = "rental-agent.agent-id";
    /// Which rental it belongs to.
    pub const INSTANCE_ID: &str = "rental-agent.instance-id";
    /// The spec without secrets.
    pub const SPEC: &str = "rental-agent.spec";
    /// Which spec it was.
    pub const SPEC_SHA256: &str = "rental-agent.spec-sha256";
    /// The command that deployed it; on a marker the one that decided it.
    pub const COMMAND_ID: &str = "rental-agent.command-id";
    /// When that command was accepted, in server time.
    pub const ACCEPTED_AT: &str = "rental-agent.accepted-at";
    /// UUIDs of its GPUs, comma-separated.
    pub const GPUS: &str = "rental-agent.gpus";
    /// In which life of the host it was made.
    pub const BOOT_ID: &str = "rental-agent.boot-id";

    /// Of a lease: when the rental was first ready.
    pub const READY_AT: &str = "rental-agent.ready-at";
    /// Of a lease: when it runs out; empty without one.
    pub const EXPIRES_AT: &str = "rental-agent.expires-at";
    /// Of a lease: the commands that extended it, comma-separated.
    pub const COMMAND_IDS: &str = "rental-agent.command-ids";
    /// Of an end: why.
    pub const REASON: &str = "rental-agent.reason";
    /// Of an end: since when.
    pub const DECIDED_AT: &str = "rental-agent.decided-at";
    /// Of an end: when TERM has had its time.
    pub const KILL_AT: &str = "rental-agent.kill-at";
    /// Of a final end: the record.
    pub const RECORD: &str = "rental-agent.record";
}

/// The name of a rental's container.
pub fn container_name(instance: &InstanceId) -> String {
    format!("{NAME_PREFIX}{instance}")
}

/// The rental whose container has this name; ids have no dots, so no marker's name is one.
pub fn instance_of(container_name: &str) -> Option<InstanceId> {
    container_name.strip_prefix(NAME_PREFIX)?.parse().ok()
}

/// What came after create, as it is kept in the engine.
#[derive(Debug, Clone, PartialEq)]
pub enum Marker {
    /// The rental was ready, and until when it is paid.
    Lease {
        /// From 1 on; the highest counts.
        n: u32,
        /// When it was first ready, in server time.
        ready_at: Timestamp,
        /// In server time; `None` without a lease.
        expires_at: Option<Timestamp>,
        /// The commands that extended it, oldest first; the last 32 are kept.
        command_ids: Vec<CommandId>,
    },
    /// It is stopped because the server said so.
    Stopped {
        /// The command.
        command_id: CommandId,
    },
    /// It is to end, whatever else happens.
    Ending {
        /// Why.
        reason: EndReason,
        /// The command, where one decided it.
        command_id: Option<CommandId>,
        /// In server time.
        decided_at: Timestamp,
        /// In server time.
        kill_at: Timestamp,
    },
    /// Its end is final.
    Ended {
        /// The final record; `None` where it cannot be read.
        record: Option<Box<Instance>>,
    },
}

/// Which marker a volume is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MarkerKind {
    /// With its number.
    Lease(u32),
    /// See [`Marker::Stopped`].
    Stopped,
    /// See [`Marker::Ending`].
    Ending,
    /// See [`Marker::Ended`].
    Ended,
}

/// A volume with the name of a marker, as far as its labels can be believed.
#[derive(Debug, Clone, PartialEq)]
pub enum MarkerRead {
    /// Ours, and whole.
    Ours {
        /// Of which rental.
        instance: InstanceId,
        /// What it says.
        marker: Marker,
    },
    /// Without any label: the engine was killed while it made it. Only the name counts.
    Bare {
        /// Of which rental.
        instance: InstanceId,
        /// Which marker.
        kind: MarkerKind,
    },
    /// Another agent's.
    Foreign {
        /// Of which of its rentals.
        instance: InstanceId,
        /// Which marker.
        kind: MarkerKind,
        /// Whose.
        agent: AgentId,
    },
    /// With labels, and none of them says that it is an agent's: somebody took the name. It says
    /// nothing about any rental.
    Strange {
        /// How that is known.
        why: &'static str,
    },
    /// This agent's, but not as this version writes it: only the name counts.
    Conflict {
        /// Of which rental, by the name.
        instance: InstanceId,
        /// Which marker, by the name.
        kind: MarkerKind,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl Marker {
    /// Which marker it is.
    pub fn kind(&self) -> MarkerKind {
        match self {
            Self::Lease { n, .. } => MarkerKind::Lease(*n),
            Self::Stopped { .. } => MarkerKind::Stopped,
            Self::Ending { .. } => MarkerKind::Ending,
            Self::Ended { .. } => MarkerKind::Ended,
        }
    }

    /// The volume that says so.
    pub fn encode(&self, agent: &AgentId, instance: &InstanceId) -> VolumeLabels {
        let mut labels = identity(agent, instance);
        let mut put = |name: &str, value: String| labels.insert(name.to_owned(), value);
        match self {
            Self::Lease {
                n: _,
                ready_at,
                expires_at,
                command_ids,
            } => {
                let newest = command_ids.len().saturating_sub(MAX_LEASE_COMMANDS);
                let ids: Vec<&str> = command_ids
                    .iter()
                    .skip(newest)
                    .map(CommandId::as_str)
                    .collect();
                put(label::READY_AT, ready_at.to_string());
                put(label::EXPIRES_AT, optional(expires_at.as_ref()));
                put(label::COMMAND_IDS, ids.join(","));
            }
            Self::Stopped { command_id } => {
                put(label::COMMAND_ID, command_id.to_string());
            }
            Self::Ending {
                reason,
                command_id,
                decided_at,
                kill_at,
            } => {
                put(label::REASON, reason_name(*reason));
                put(label::COMMAND_ID, optional(command_id.as_ref()));
                put(label::DECIDED_AT, decided_at.to_string());
                put(label::KILL_AT, kill_at.to_string());
            }
            Self::Ended { record } => {
                put(
                    label::RECORD,
                    record.as_deref().map(record_json).unwrap_or_default(),
                );
            }
        }
        VolumeLabels {
            name: self.kind().volume_name(instance),
            labels,
        }
    }

    /// What a volume says to `agent`; `None` when its name is no marker's.
    pub fn decode(volume: &VolumeLabels, agent: &AgentId) -> Option<MarkerRead> {
        let (instance, kind) = MarkerKind::of_volume(&volume.name)?;
        let labels = &volume.labels;
        if labels.is_empty() {
            return Some(MarkerRead::Bare { instance, kind });
        }
        let owner: Option<AgentId> = parse(labels, label::AGENT_ID);
        let read = match owner {
            None => {
                let why = "it names no agent";
                return Some(MarkerRead::Strange { why });
            }
            Some(owner) if owner != *agent => {
                return Some(MarkerRead::Foreign {
                    instance,
                    kind,
                    agent: owner,
                });
            }
            Some(_) if text(labels, label::INSTANCE_ID) != instance.as_str() => {
                let why = "it names another rental";
                return Some(MarkerRead::Strange { why });
            }
            Some(_) if text(labels, label::SCHEMA) != SCHEMA => {
                Err("another version of the agent wrote it")
            }
            Some(_) => decode_own(kind, &instance, labels),
        };
        Some(match read {
            Ok(marker) => MarkerRead::Ours { instance, marker },
            Err(why) => MarkerRead::Conflict {
                instance,
                kind,
                why,
            },
        })
    }
}

fn decode_own(
    kind: MarkerKind,
    instance: &InstanceId,
    labels: &BTreeMap<String, String>,
) -> Result<Marker, &'static str> {
    let time = |name| parse(labels, name).ok_or("a time in it cannot be read");
    let command_id = || -> Result<Option<CommandId>, &'static str> {
        match text(labels, label::COMMAND_ID) {
            "" => Ok(None),
            id => id
                .parse()
                .map(Some)
                .map_err(|_| "its command id cannot be read"),
        }
    };
    Ok(match kind {
        MarkerKind::Lease(n) => Marker::Lease {
            n,
            ready_at: time(label::READY_AT)?,
            expires_at: match text(labels, label::EXPIRES_AT) {
                "" => None,
                _ => Some(time(label::EXPIRES_AT)?),
            },
            command_ids: command_ids(text(labels, label::COMMAND_IDS))?,
        },
        MarkerKind::Stopped => Marker::Stopped {
            command_id: command_id()?.ok_or("it names no command")?,
        },
        MarkerKind::Ending => Marker::Ending {
            reason: reason_of(text(labels, label::REASON)).ok_or("its reason cannot be read")?,
            command_id: command_id()?,
            decided_at: time(label::DECIDED_AT)?,
            kill_at: time(label::KILL_AT)?,
        },
        MarkerKind::Ended => Marker::Ended {
            record: record::read(text(labels, label::RECORD), instance),
        },
    })
}

fn command_ids(text: &str) -> Result<Vec<CommandId>, &'static str> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    text.split(',')
        .take(MAX_LEASE_COMMANDS)
        .map(|id| id.parse().map_err(|_| "its command ids cannot be read"))
        .collect()
}

impl MarkerKind {
    /// The name of a rental's marker of this kind.
    pub fn volume_name(self, instance: &InstanceId) -> String {
        match self {
            Self::Lease(n) => format!("{NAME_PREFIX}{instance}.lease.{n}"),
            Self::Stopped => format!("{NAME_PREFIX}{instance}.stopped"),
            Self::Ending => format!("{NAME_PREFIX}{instance}.ending"),
            Self::Ended => format!("{NAME_PREFIX}{instance}.ended"),
        }
    }

    /// The rental and the kind that a volume's name stands for; `None` for any other name.
    pub fn of_volume(name: &str) -> Option<(InstanceId, Self)> {
        let (instance, kind) = name.strip_prefix(NAME_PREFIX)?.split_once('.')?;
        let kind = match kind {
            "stopped" => Self::Stopped,
            "ending" => Self::Ending,
            "ended" => Self::Ended,
            _ => {
                let n = kind.strip_prefix("lease.")?;
                // One spelling per number, so that a kind has exactly one name.
                let canonical = !n.starts_with('0') && n.bytes().all(|b| b.is_ascii_digit());
                Self::Lease(n.parse().ok().filter(|_| canonical)?)
            }
        };
        Some((instance.parse().ok()?, kind))
    }
}

fn identity(agent: &AgentId, instance: &InstanceId) -> BTreeMap<String, String> {
    BTreeMap::from([
        (label::SCHEMA.to_owned(), SCHEMA.to_owned()),
        (label::AGENT_ID.to_owned(), agent.to_string()),
        (label::INSTANCE_ID.to_owned(), instance.to_string()),
    ])
}

/// A label's value; empty when it is not there, which is how an absent value is written.
fn text<'a>(labels: &'a BTreeMap<String, String>, name: &str) -> &'a str {
    labels.get(name).map(String::as_str).unwrap_or_default()
}

fn parse<T: std::str::FromStr>(labels: &BTreeMap<String, String>, name: &str) -> Option<T> {
    text(labels, name).parse().ok()
}

fn optional(value: Option<&impl ToString>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// The wire's own name of a reason.
fn reason_name(reason: EndReason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

fn reason_of(name: &str) -> Option<EndReason> {
    serde_json::from_value(name.into()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::{record::tests::ended_records, *};

    pub(super) fn times() -> impl Strategy<Value = Timestamp> {
        (-62_000_000_000_000i64..250_000_000_000_000).prop_map(Timestamp::from_millis)
    }

    pub(super) fn instances() -> impl Strategy<Value = InstanceId> {
        "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?".prop_map(|id| id.parse().unwrap())
    }

    fn commands() -> impl Strategy<Value = CommandId> {
        "[A-Za-z0-9._:-]{1,128}".prop_map(|id| id.parse().unwrap())
    }

    fn reasons() -> impl Strategy<Value = EndReason> {
        use EndReason::*;
        prop::sample::select(vec![
            Terminated,
            Expired,
            Exited,
            Failed,
            OomKilled,
            Lost,
            Interrupted,
            Cancelled,
        ])
    }

    fn markers() -> impl Strategy<Value = (InstanceId, Marker)> {
        let lease = (
            1u32..,
            times(),
            option::of(times()),
            vec(commands(), 0..=32),
        )
            .prop_map(|(n, ready_at, expires_at, command_ids)| Marker::Lease {
                n,
                ready_at,
                expires_at,
                command_ids,
            });
        let stopped = commands().prop_map(|command_id| Marker::Stopped { command_id });
        let ending = (reasons(), option::of(commands()), times(), times()).prop_map(
            |(reason, command_id, decided_at, kill_at)| Marker::Ending {
                reason,
                command_id,
                decided_at,
                kill_at,
            },
        );
        let with_instance = (instances(), prop_oneof![lease, stopped, ending]);
        let ended = ended_records().prop_map(|record| {
            let marker = Marker::Ended {
                record: Some(Box::new(record.clone())),
            };
            (record.id, marker)
        });
        prop_oneof![3 => with_instance, 1 => ended]
    }

    fn agent() -> AgentId {
        "host-1".parse().unwrap()
    }

    fn stopped() -> VolumeLabels {
        let marker = Marker::Stopped {
            command_id: "c1".parse().unwrap(),
        };
        marker.encode(&agent(), &"r-1".parse().unwrap())
    }

    #[track_caller]
    fn conflict(volume: &VolumeLabels) -> &'static str {
        match Marker::decode(volume, &agent()) {
            Some(MarkerRead::Conflict { why, .. } | MarkerRead::Strange { why }) => why,
            other => panic!("no conflict: {other:?}"),
        }
    }

    #[test]
    fn names_of_markers_are_read_strictly() {
        for (name, kind) in [
            ("rental-r-1.lease.1", MarkerKind::Lease(1)),
            ("rental-r-1.lease.4294967295", MarkerKind::Lease(u32::MAX)),
            ("rental-r-1.stopped", MarkerKind::Stopped),
            ("rental-r-1.ending", MarkerKind::Ending),
            ("rental-r-1.ended", MarkerKind::Ended),
        ] {
            let instance: InstanceId = "r-1".parse().unwrap();
            assert_eq!(MarkerKind::of_volume(name), Some((instance.clone(), kind)));
            assert_eq!(kind.volume_name(&instance), name);
        }
        for bad in [
            "",
            "rental-",
            "rental-r-1",
            "rental-r-1.",
            "rental-.ended",
            "rental-A.ended",
            "rental-r-1-.ended",
            "rental-r-1.ended.",
            "rental-r-1.Ended",
            "rental-r-1.lease",
            "rental-r-1.lease.",
            "rental-r-1.lease.0",
            "rental-r-1.lease.01",
            "rental-r-1.lease.+1",
            "rental-r-1.lease.-1",
            "rental-r-1.lease.4294967296",
            "rental-r-1.lease.1.2",
            "xrental-r-1.ended",
            "r-1.ended",
        ] {
            assert_eq!(MarkerKind::of_volume(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_container_s_name_is_never_a_markers() {
        let instance: InstanceId = "r-1".parse().unwrap();
        let name = container_name(&instance);
        assert_eq!(instance_of(&name), Some(instance));
        assert_eq!(MarkerKind::of_volume(&name), None);
        assert_eq!(instance_of("rental-r-1.ended"), None);
        assert_eq!(instance_of("r-1"), None);
    }

    #[test]
    fn a_marker_without_labels_counts_by_its_name() {
        let mut volume = stopped();
        volume.labels.clear();
        assert_eq!(
            Marker::decode(&volume, &agent()),
            Some(MarkerRead::Bare {
                instance: "r-1".parse().unwrap(),
                kind: MarkerKind::Stopped,
            })
        );
    }

    #[test]
    fn a_marker_of_another_agent_is_foreign() {
        let read = Marker::decode(&stopped(), &"host-2".parse().unwrap());
        assert!(
            matches!(read, Some(MarkerRead::Foreign { agent, .. }) if agent.as_str() == "host-1")
        );
    }

    #[test]
    fn a_marker_with_other_labels_is_a_conflict() {
        for (name, value, expected) in [
            (label::AGENT_ID, "", "it names no agent"),
            (label::AGENT_ID, "Not An Id", "it names no agent"),
            (label::INSTANCE_ID, "r-2", "it names another rental"),
            (label::SCHEMA, "2", "another version of the agent wrote it"),
            (label::SCHEMA, "", "another version of the agent wrote it"),
            (label::COMMAND_ID, "", "it names no command"),
            (label::COMMAND_ID, "a b", "its command id cannot be read"),
        ] {
            let mut volume = stopped();
            volume.labels.insert(name.into(), value.into());
            assert_eq!(conflict(&volume), expected, "{name}={value}");
        }
        let mut volume = stopped();
        volume.labels = BTreeMap::from([("made.by".into(), "hand".into())]);
        assert_eq!(conflict(&volume), "it names no agent");
    }

    #[test]
    fn an_ended_marker_whose_record_cannot_be_read_is_ended_all_the_same() {
        let marker = Marker::Ended { record: None };
        let volume = marker.encode(&agent(), &"r-1".parse().unwrap());
        for junk in [
            "",
            "{}",
            "[",
            r#"{"id":"r-2","phase":"ended","timeline":{}}"#,
        ] {
            let mut volume = volume.clone();
            volume.labels.insert(label::RECORD.into(), junk.into());
            let read = Marker::decode(&volume, &agent());
            assert!(
                matches!(
                    &read,
                    Some(MarkerRead::Ours {
                        marker: Marker::Ended { record: None },
                        ..
                    })
                ),
                "{read:?}"
            );
        }
    }

    #[test]
    fn a_lease_keeps_its_newest_commands() {
        let ids: Vec<CommandId> = (0..40).map(|n| format!("c{n}").parse().unwrap()).collect();
        let marker = Marker::Lease {
            n: 1,
            ready_at: Timestamp::from_millis(0),
            expires_at: None,
            command_ids: ids.clone(),
        };
        let volume = marker.encode(&agent(), &"r-1".parse().unwrap());
        match Marker::decode(&volume, &agent()) {
            Some(MarkerRead::Ours {
                marker: Marker::Lease { command_ids, .. },
                ..
            }) => assert_eq!(command_ids, ids[8..]),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn every_marker_is_read_as_it_was_written((instance, marker) in markers()) {
            let volume = marker.encode(&agent(), &instance);
            let read = Marker::decode(&volume, &agent());
            prop_assert_eq!(read, Some(MarkerRead::Ours { instance, marker }));
        }

        #[test]
        fn decoding_never_panics(
            (instance, marker) in markers(),
            name in option::of("rental-[a-z0-9.-]{0,30}|\\PC{0,40}"),
            junk in vec((0usize..12, "\\PC{0,80}"), 0..6),
        ) {
            let mut volume = marker.encode(&agent(), &instance);
            let names: Vec<String> = volume.labels.keys().cloned().collect();
            for (index, value) in junk {
                let name = names.get(index).cloned().unwrap_or_else(|| value.clone());
                volume.labels.insert(name, value);
            }
            if let Some(name) = name {
                volume.name = name;
            }
            let read = Marker::decode(&volume, &agent());
            prop_assert_eq!(read.is_some(), MarkerKind::of_volume(&volume.name).is_some());
        }
    }
}

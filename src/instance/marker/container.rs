//! The labels that a rental's container is made with, and whose container one is that was found.
//! Pure.

use std::collections::BTreeMap;

use super::{SCHEMA, container_name, identity, label, optional, parse, text};
use crate::{
    clock::Timestamp,
    ids::{AgentId, CommandId, GpuUuid, InstanceId, SpecHash},
    instance::spec::{InstanceSpec, PublicSpec},
};

/// No rental has more GPUs, so no honest label names more.
const MAX_GPUS: usize = 64;
/// The kernel's boot ids have 36.
const MAX_BOOT_ID_BYTES: usize = 128;

/// What a container says of itself from its first moment on.
#[derive(Debug, Clone, Copy)]
pub struct ContainerFacts<'a> {
    /// Whose it is.
    pub agent_id: &'a AgentId,
    /// Which rental it is.
    pub instance_id: &'a InstanceId,
    /// The spec without secrets, as JSON.
    pub spec: &'a str,
    /// Which spec it was.
    pub spec_sha256: &'a SpecHash,
    /// The command that deployed it.
    pub command_id: Option<&'a CommandId>,
    /// When that was accepted, in server time.
    pub accepted_at: Timestamp,
    /// Its GPUs.
    pub gpus: &'a [GpuUuid],
    /// This life of the host.
    pub boot_id: &'a str,
}

/// What the labels of a container that is ours say.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerLabels {
    /// Which rental it is.
    pub instance_id: InstanceId,
    /// What of the spec was written down.
    pub spec: PublicSpec,
    /// Which spec it was.
    pub spec_sha256: SpecHash,
    /// The command that deployed it.
    pub command_id: Option<CommandId>,
    /// When that was accepted, in server time.
    pub accepted_at: Timestamp,
    /// Its GPUs.
    pub gpus: Vec<GpuUuid>,
    /// The life of the host in which it was made; empty where that was not known.
    pub boot_id: String,
}

/// Whose container it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Ownership {
    /// This agent's, and everything that it says can be read.
    Ours(Box<ContainerLabels>),
    /// Somebody else's, or one of ours that was renamed: left alone, its GPUs and ports are taken.
    Foreign {
        /// The GPUs that its labels name.
        gpus: Vec<GpuUuid>,
    },
    /// An agent's, but not as this version writes them: left alone, its GPUs and ports are taken.
    Unreadable {
        /// Its GPUs; `None` where the labels do not tell.
        gpus: Option<Vec<GpuUuid>>,
        /// What cannot be read.
        why: String,
    },
}

/// All labels of a rental's container. Each is there on every rental, so that none of the image's
/// own can stand in for it.
pub fn labels_for(facts: &ContainerFacts<'_>) -> BTreeMap<String, String> {
    let gpus: Vec<&str> = facts.gpus.iter().map(GpuUuid::as_str).collect();
    let mut labels = identity(facts.agent_id, facts.instance_id);
    for (name, value) in [
        (label::SPEC, facts.spec.to_owned()),
        (label::SPEC_SHA256, facts.spec_sha256.to_string()),
        (label::COMMAND_ID, optional(facts.command_id)),
        (label::ACCEPTED_AT, facts.accepted_at.to_string()),
        (label::GPUS, gpus.join(",")),
        (label::BOOT_ID, facts.boot_id.to_owned()),
    ] {
        labels.insert(name.to_owned(), value);
    }
    labels
}

impl ContainerLabels {
    /// Reads what a container of this name and with these labels says to `agent`. Only the labels
    /// that have a meaning are looked at, however many there are.
    pub fn read(agent: &AgentId, name: &str, labels: &BTreeMap<String, String>) -> Ownership {
        let owner: Option<AgentId> = parse(labels, label::AGENT_ID);
        let instance: Option<InstanceId> = parse(labels, label::INSTANCE_ID);
        let (owner, instance) = match (owner, instance) {
            (Some(owner), Some(instance)) if name == container_name(&instance) => (owner, instance),
            // No rental under its own name, so its labels prove nothing. The GPUs that they name
            // count all the same: to believe too much costs an offer, too little a tenant.
            _ => {
                let gpus = gpus_within(text(labels, label::GPUS));
                return Ownership::Foreign { gpus };
            }
        };
        let gpus = gpus_exactly(text(labels, label::GPUS));
        let schema = text(labels, label::SCHEMA);
        if schema != SCHEMA {
            let shown: String = schema.chars().take(20).collect();
            let why = format!("its labels have the schema {shown:?}; this version reads {SCHEMA}");
            return Ownership::Unreadable { gpus, why };
        }
        let Some(gpus) = gpus else {
            let why = format!("its label {} cannot be read", label::GPUS);
            return Ownership::Unreadable { gpus, why };
        };
        if owner != *agent {
            return Ownership::Foreign { gpus };
        }
        match read_own(instance, &gpus, labels) {
            Ok(labels) => Ownership::Ours(Box::new(labels)),
            Err(why) => Ownership::Unreadable {
                gpus: Some(gpus),
                why,
            },
        }
    }
}

fn read_own(
    instance_id: InstanceId,
    gpus: &[GpuUuid],
    labels: &BTreeMap<String, String>,
) -> Result<ContainerLabels, String> {
    let unreadable = |name: &str| format!("its label {name} cannot be read");
    let boot_id = text(labels, label::BOOT_ID);
    if boot_id.len() > MAX_BOOT_ID_BYTES {
        return Err(unreadable(label::BOOT_ID));
    }
    let command_id = match text(labels, label::COMMAND_ID) {
        "" => None,
        id => Some(id.parse().map_err(|_| unreadable(label::COMMAND_ID))?),
    };
    Ok(ContainerLabels {
        instance_id,
        spec: InstanceSpec::from_public_json(text(labels, label::SPEC))
            .map_err(|error| error.to_string())?,
        spec_sha256: parse(labels, label::SPEC_SHA256)
            .ok_or_else(|| unreadable(label::SPEC_SHA256))?,
        command_id,
        accepted_at: parse(labels, label::ACCEPTED_AT)
            .ok_or_else(|| unreadable(label::ACCEPTED_AT))?,
        gpus: gpus.to_vec(),
        boot_id: boot_id.to_owned(),
    })
}

/// The GPUs that a label names, or `None` when it is not a list of them.
fn gpus_exactly(text: &str) -> Option<Vec<GpuUuid>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let uuids: Option<Vec<GpuUuid>> = text
        .split(',')
        .take(MAX_GPUS + 1)
        .map(|uuid| uuid.parse().ok())
        .collect();
    uuids.filter(|uuids| uuids.len() <= MAX_GPUS)
}

/// What of a label can be taken for GPUs.
fn gpus_within(text: &str) -> Vec<GpuUuid> {
    text.split(',')
        .take(MAX_GPUS)
        .filter_map(|uuid| uuid.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const NAME: &str = "rental-r-1";

    fn agent() -> AgentId {
        "host-1".parse().unwrap()
    }

    fn gpus() -> Vec<GpuUuid> {
        ["GPU-1", "GPU-2"]
            .map(|uuid| uuid.parse().unwrap())
            .to_vec()
    }

    fn labels() -> BTreeMap<String, String> {
        labels_for(&ContainerFacts {
            agent_id: &agent(),
            instance_id: &"r-1".parse().unwrap(),
            spec: r#"{"image":"busybox","labels":{"k":"v"}}"#,
            spec_sha256: &"0".repeat(64).parse().unwrap(),
            command_id: Some(&"c1".parse().unwrap()),
            accepted_at: Timestamp::from_millis(1_000),
            gpus: &gpus(),
            boot_id: "b-1",
        })
    }

    fn with(name: &str, value: &str) -> BTreeMap<String, String> {
        let mut labels = labels();
        labels.insert(name.into(), value.into());
        labels
    }

    #[test]
    fn all_labels_are_set_also_the_empty_ones() {
        let labels = labels_for(&ContainerFacts {
            agent_id: &agent(),
            instance_id: &"r-1".parse().unwrap(),
            spec: "{}",
            spec_sha256: &"0".repeat(64).parse().unwrap(),
            command_id: None,
            accepted_at: Timestamp::from_millis(1_000),
            gpus: &[],
            boot_id: "",
        });
        insta::assert_json_snapshot!(labels, @r#"
        {
          "rental-agent.accepted-at": "1970-01-01T00:00:01.000Z",
          "rental-agent.agent-id": "host-1",
          "rental-agent.boot-id": "",
          "rental-agent.command-id": "",
          "rental-agent.gpus": "",
          "rental-agent.instance-id": "r-1",
          "rental-agent.schema": "1",
          "rental-agent.spec": "{}",
          "rental-agent.spec-sha256": "0000000000000000000000000000000000000000000000000000000000000000"
        }
        "#);
    }

    #[test]
    fn what_was_written_is_read() {
        let Ownership::Ours(read) = ContainerLabels::read(&agent(), NAME, &labels()) else {
            panic!("not ours");
        };
        assert_eq!(read.instance_id.as_str(), "r-1");
        assert_eq!(read.spec.image.to_string(), "docker.io/library/busybox");
        assert_eq!(read.spec_sha256.as_str(), "0".repeat(64));
        assert_eq!(read.command_id, Some("c1".parse().unwrap()));
        assert_eq!(read.accepted_at, Timestamp::from_millis(1_000));
        assert_eq!(read.gpus, gpus());
        assert_eq!(read.boot_id, "b-1");
    }

    /// F37: what an image or somebody else writes into labels makes no container ours.
    #[test]
    fn forged_labels_make_no_container_ours() {
        let foreign = Ownership::Foreign { gpus: gpus() };
        for (name, labels) in [
            ("web", labels()),
            ("rental-r-2", labels()),
            ("xrental-r-1", labels()),
            (NAME, with(label::INSTANCE_ID, "r-2")),
            (NAME, with(label::INSTANCE_ID, "")),
            (NAME, with(label::AGENT_ID, "host-2")),
            (NAME, with(label::AGENT_ID, "")),
            (NAME, with(label::AGENT_ID, "host-1 ")),
        ] {
            let read = ContainerLabels::read(&agent(), name, &labels);
            assert_eq!(read, foreign, "{name} {labels:?}");
        }
        let read = ContainerLabels::read(&agent(), "web", &BTreeMap::new());
        assert_eq!(read, Ownership::Foreign { gpus: vec![] });
    }

    #[test]
    fn labels_of_another_version_are_left_alone_and_their_gpus_are_taken() {
        for (name, value) in [
            (label::SCHEMA, "2"),
            (label::SCHEMA, ""),
            (label::SPEC, ""),
            (label::SPEC, "{}"),
            (label::SPEC_SHA256, "x"),
            (label::COMMAND_ID, "a b"),
            (label::ACCEPTED_AT, "yesterday"),
            (label::BOOT_ID, &"x".repeat(129)),
        ] {
            let read = ContainerLabels::read(&agent(), NAME, &with(name, value));
            let Ownership::Unreadable { gpus: found, why } = read else {
                panic!("{name}={value}: {read:?}");
            };
            assert_eq!(found, Some(gpus()), "{name}");
            assert!(why.len() < 200, "{why}");
        }
    }

    #[test]
    fn gpus_that_cannot_be_read_are_unknown_and_not_none() {
        for value in ["GPU-1,", "all the GPUs", &vec!["GPU-1"; 65].join(",")] {
            for agent in ["host-1", "host-2"] {
                let agent = agent.parse().unwrap();
                let read = ContainerLabels::read(&agent, NAME, &with(label::GPUS, value));
                assert!(
                    matches!(read, Ownership::Unreadable { gpus: None, .. }),
                    "{read:?}"
                );
            }
        }
    }

    /// F38: however many and long the labels of an image are, what comes out is small.
    #[test]
    fn ten_thousand_labels_of_an_image_change_nothing() {
        let mut many = labels();
        for n in 0..10_000 {
            many.insert(format!("rental-agent.x{n}"), "x".repeat(1000));
            many.insert(format!("label-{n}"), "y".repeat(1000));
        }
        let read = ContainerLabels::read(&agent(), NAME, &many);
        assert_eq!(read, ContainerLabels::read(&agent(), NAME, &labels()));
        assert!(matches!(read, Ownership::Ours(_)));
    }

    #[test]
    fn labels_too_long_to_be_ours_are_unreadable_and_what_is_kept_of_them_is_small() {
        for name in [
            label::SCHEMA,
            label::SPEC,
            label::SPEC_SHA256,
            label::COMMAND_ID,
            label::ACCEPTED_AT,
            label::GPUS,
            label::BOOT_ID,
        ] {
            let huge = with(name, &"1,".repeat(5_000_000));
            let read = ContainerLabels::read(&agent(), NAME, &huge);
            let shown = format!("{read:?}");
            assert!(matches!(read, Ownership::Unreadable { .. }), "{name}");
            assert!(shown.len() < 10_000, "{name}: {}", shown.len());
        }
        let foreign = with(label::GPUS, &"1,".repeat(5_000_000));
        let Ownership::Foreign { gpus } = ContainerLabels::read(&agent(), "web", &foreign) else {
            panic!("ours");
        };
        assert!(gpus.len() <= MAX_GPUS);
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_is_ours_only_when_all_three_agree(
            name in "rental-r-[12]|\\PC{0,20}",
            junk in vec((0usize..9, "\\PC{0,60}|r-1|host-1|1"), 0..4),
        ) {
            let mut labels = labels();
            let names: Vec<String> = labels.keys().cloned().collect();
            for (index, value) in junk {
                labels.insert(names[index].clone(), value);
            }
            let read = ContainerLabels::read(&agent(), &name, &labels);
            if matches!(read, Ownership::Ours(_)) {
                prop_assert_eq!(name, NAME);
                prop_assert_eq!(labels[label::AGENT_ID].as_str(), "host-1");
                prop_assert_eq!(labels[label::INSTANCE_ID].as_str(), "r-1");
                prop_assert_eq!(labels[label::SCHEMA].as_str(), "1");
            }
        }
    }
}

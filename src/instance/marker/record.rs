//! The final record as the `.ended` marker keeps it: JSON within a limit, without the log's tail and
//! without anything secret. Pure.

use crate::{
    ids::InstanceId,
    protocol::{Phase, record::Instance, text::printable},
};

/// The record is at most this long, in bytes.
pub const MAX_RECORD_BYTES: usize = 4 * 1024;

/// A record that is longer than this is not read: another version may allow itself more, but not
/// without an end.
const MAX_READ_BYTES: usize = 32 * 1024;

/// What is left of an error's message where nothing else can go, in characters.
const SHORT_MESSAGE: usize = 200;

/// What goes, in this order, until the rest fits: what the server can do without first. Labels and
/// conditions are the wire's promise; the rest is for records that are long all the same.
const CUTS: &[fn(&mut Instance)] = &[
    |record| record.labels.clear(),
    |record| record.conditions.clear(),
    |record| record.ports.clear(),
    |record| {
        if let Some(error) = record.ended.as_mut().and_then(|ended| ended.error.as_mut()) {
            error.detail = None;
            error.message = printable(&error.message, SHORT_MESSAGE);
        }
    },
    |record| record.gpus.clear(),
    |record| record.image_digest = None,
    |record| record.image = None,
];

/// A final record as JSON of at most [`MAX_RECORD_BYTES`].
pub fn record_json(record: &Instance) -> String {
    let mut record = record.clone();
    if let Some(ended) = &mut record.ended {
        ended.log_tail = None;
    }
    let mut json = to_json(&record);
    for cut in CUTS {
        if json.len() <= MAX_RECORD_BYTES {
            break;
        }
        cut(&mut record);
        json = to_json(&record);
    }
    json
}

/// Reads what [`record_json`] of any version wrote for `instance`; `None` for anything else.
pub(super) fn read(json: &str, instance: &InstanceId) -> Option<Box<Instance>> {
    if json.len() > MAX_READ_BYTES {
        return None;
    }
    let record: Box<Instance> = serde_json::from_str(json).ok()?;
    let is_final = record.phase == Phase::Ended && record.ended.is_some();
    (record.id == *instance && is_final).then_some(record)
}

fn to_json(record: &Instance) -> String {
    // Every map in it has text for keys, which is all that can fail here.
    serde_json::to_string(record).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, option, prelude::*};
    use serde_json::json;

    use super::*;
    use crate::{
        instance::marker::tests::{instances, times},
        protocol::{
            Error, ErrorCode, Phase,
            record::{Condition, EndReason, Ended, PortProtocol, PublishedPort, Timeline, Usage},
        },
    };

    fn full(scale: usize) -> Instance {
        let time = crate::clock::Timestamp::from_millis(1_700_000_000_000);
        Instance {
            id: "r-1".parse().unwrap(),
            phase: Phase::Ended,
            image: Some(format!("docker.io/{}", "a".repeat(200))),
            image_digest: Some(format!("docker.io/a@sha256:{}", "0".repeat(64))),
            container_id: Some("0".repeat(64).parse().unwrap()),
            spec_sha256: Some("0".repeat(64).parse().unwrap()),
            command_id: Some("c".repeat(128).parse().unwrap()),
            labels: (0..scale)
                .map(|n| (n.to_string(), "é".repeat(500)))
                .collect(),
            gpus: (0..scale)
                .map(|n| format!("GPU-{n:060}").parse().unwrap())
                .collect(),
            cpus: 1.5,
            memory_bytes: 1 << 40,
            ports: (0..scale)
                .map(|n| PublishedPort {
                    name: format!("p{n:060}"),
                    container: 80,
                    host: 30000,
                    protocol: PortProtocol::Udp,
                    address: "2001:db8::1".into(),
                })
                .collect(),
            lease: None,
            timeline: Timeline {
                accepted_at: Some(time),
                ended_at: Some(time),
                ..Timeline::default()
            },
            restarts: 3,
            recovered: true,
            conditions: (0..scale)
                .map(|_| Condition {
                    kind: "paused".into(),
                    status: true,
                    reason: "x".into(),
                    message: "y".repeat(500),
                    since: time,
                })
                .collect(),
            ended: Some(Ended {
                reason: EndReason::Failed,
                exit_code: Some(i64::MIN),
                error: Some(
                    Error::new(ErrorCode::StartFailed, "\u{10348}\"".repeat(scale * 10))
                        .pointing("/x".repeat(scale * 100)),
                ),
                log_tail: Some("secret of the tenant".repeat(scale)),
            }),
            usage: Some(Usage {
                used_s: 12.5,
                estimated: Some(true),
            }),
        }
    }

    /// Final records that fit, without a tail: they come back as they were.
    pub(in crate::instance::marker) fn ended_records() -> impl Strategy<Value = Instance> {
        let ended = (option::of(any::<i64>()), option::of("\\PC{0,100}"));
        let labels = proptest::collection::btree_map("\\PC{1,20}", "\\PC{0,20}", 0..4);
        (
            instances(),
            times(),
            times(),
            ended,
            labels,
            0u32..1_000_000,
            vec("GPU-[0-9a-f-]{36}", 0..3),
        )
            .prop_map(
                |(id, accepted, since, (exit_code, error), labels, used, gpus)| {
                    let mut record = full(1);
                    record.id = id;
                    record.timeline.accepted_at = Some(accepted);
                    record.labels = labels;
                    record.gpus = gpus.into_iter().map(|uuid| uuid.parse().unwrap()).collect();
                    record.conditions[0].since = since;
                    record.usage = Some(Usage {
                        used_s: f64::from(used) / 1000.0,
                        estimated: None,
                    });
                    record.ended = Some(Ended {
                        reason: EndReason::Exited,
                        exit_code,
                        error: error.map(|text| Error::new(ErrorCode::ExitedEarly, text)),
                        log_tail: None,
                    });
                    record
                },
            )
    }

    #[test]
    fn the_tail_of_the_log_is_never_kept() {
        for scale in [1, 64] {
            let json = record_json(&full(scale));
            assert!(!json.contains("secret of the tenant"), "{json}");
        }
    }

    #[test]
    fn labels_go_first_and_conditions_next() {
        let mut record = full(1);
        record.labels = BTreeMap::from([("a".into(), "x".repeat(5000))]);
        let kept: Instance = serde_json::from_str(&record_json(&record)).unwrap();
        assert!(kept.labels.is_empty() && kept.conditions.len() == 1 && kept.ports.len() == 1);
        record.conditions[0].message = "y".repeat(5000);
        let kept: Instance = serde_json::from_str(&record_json(&record)).unwrap();
        assert!(kept.conditions.is_empty() && kept.ports.len() == 1);
        assert_eq!(kept.ended.unwrap().error, record.ended.unwrap().error);
    }

    #[test]
    fn however_long_a_record_is_what_counts_fits() {
        let mut record = full(64);
        record.image_digest = Some("x".repeat(10_000));
        let json = record_json(&record);
        assert!(json.len() <= MAX_RECORD_BYTES, "{}", json.len());
        let kept = read(&json, &record.id).unwrap();
        assert_eq!(kept.usage, record.usage);
        assert_eq!(kept.timeline, record.timeline);
        let ended = kept.ended.unwrap();
        assert_eq!(ended.reason, EndReason::Failed);
        assert_eq!(ended.exit_code, Some(i64::MIN));
        assert_eq!(ended.error.unwrap().code, ErrorCode::StartFailed);
    }

    #[test]
    fn only_a_final_record_of_the_same_rental_is_read() {
        let record = full(1);
        let json = record_json(&record);
        assert!(read(&json, &record.id).is_some());
        assert!(read(&json, &"r-2".parse().unwrap()).is_none());
        let live = json!({"id": "r-1", "phase": "ready", "timeline": {}}).to_string();
        assert!(read(&live, &record.id).is_none());
        assert!(read(&format!("{json}{}", " ".repeat(MAX_READ_BYTES)), &record.id).is_none());
        assert!(read(&"[".repeat(20_000), &record.id).is_none());
    }
}

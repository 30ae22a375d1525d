//! The outbox in order, in bounds, and lossy where it may be.

use proptest::prelude::*;

use super::*;
use crate::{
    ids::Generation,
    protocol::{
        Instance, Outcome, Phase,
        message::{Encoding, StreamName},
        record::Timeline,
    },
};

const NOW: Duration = Duration::from_secs(1);

fn outbox() -> Outbox {
    Outbox::new(Bounds::default())
}

fn instance(id: &str, phase: Phase, image: Option<String>) -> Arc<Instance> {
    let record = serde_json::json!({
        "id": id,
        "phase": phase,
        "image": image,
        "timeline": serde_json::to_value(Timeline::default()).unwrap(),
    });
    Arc::new(serde_json::from_value(record).unwrap())
}

fn record(generation: u64) -> InstanceMessage {
    InstanceMessage {
        generation: Generation(generation),
        instance: instance("r-1", Phase::Pulling, None),
    }
}

fn reply(id: &str, outcome: Outcome) -> Message {
    Message::Reply(Reply {
        command_id: id.parse().unwrap(),
        outcome,
        error: None,
        result: None,
    })
}

fn progress(id: &str, message: &str) -> Progress {
    Progress {
        instance_id: Some(id.parse().unwrap()),
        command_id: None,
        phase: Phase::Pulling,
        message: message.to_owned(),
        pull: None,
    }
}

fn chunk(id: &str, seq: u64, bytes: usize) -> Output {
    Output {
        command_id: id.parse().unwrap(),
        seq,
        stream: StreamName::Stdout,
        data: "x".repeat(bytes),
        encoding: Encoding::Utf8,
        dropped_bytes: None,
    }
}

fn heartbeat() -> Heartbeat {
    serde_json::from_value(serde_json::json!({
        "at": "2026-11-21T12:00:00.000Z",
        "generation": 1,
        "status": {"engine": "ok", "draining": false, "rentable": true},
        "occupied": {},
    }))
    .unwrap()
}

fn metrics() -> Arc<Metrics> {
    Arc::new(
        serde_json::from_value(serde_json::json!({
            "at": "2026-11-21T12:00:00.000Z", "host": {}, "gpus": [], "instances": [],
        }))
        .unwrap(),
    )
}

/// All that can go at `now`, in short.
fn drain(outbox: &mut Outbox, now: Duration) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(message) = outbox.next(now) {
        let value = serde_json::to_value(&message).unwrap();
        let what = ["generation", "command_id", "message"]
            .iter()
            .find_map(|key| value.get(key).map(|value| format!(" {value}")));
        names.push(format!(
            "{}{}",
            value["type"].as_str().unwrap(),
            what.unwrap_or_default()
        ));
    }
    names
}

#[test]
fn records_and_replies_keep_their_order() {
    let mut outbox = outbox();
    outbox.push(Message::Instance(record(1))).unwrap();
    outbox.push(reply("c1", Outcome::Done)).unwrap();
    outbox.push(Message::Instance(record(2))).unwrap();
    assert_eq!(
        drain(&mut outbox, NOW),
        ["instance 1", "reply \"c1\"", "instance 2"]
    );
    assert_eq!(outbox.next_at(NOW), None);
}

#[test]
fn what_changes_during_the_sync_comes_after_it() {
    let mut outbox = outbox();
    outbox.sync(vec![record(1), record(2)]);
    outbox.synced(Synced {
        generation: Generation(2),
        ids: Vec::new(),
    });
    outbox.push(Message::Instance(record(3))).unwrap();
    assert_eq!(
        drain(&mut outbox, NOW),
        ["instance 1", "instance 2", "synced 2", "instance 3"]
    );
}

#[test]
fn a_sync_of_any_length_leaves_room_for_what_happens_meanwhile() {
    let mut outbox = outbox();
    outbox.sync((0..100_000).map(record).collect());
    for _ in 0..1024 {
        outbox.push(reply("c1", Outcome::Done)).unwrap();
    }
    assert_eq!(outbox.push(reply("c1", Outcome::Done)), Err(Overflow));
}

#[test]
fn more_than_1024_waiting_is_too_many_and_room_comes_back() {
    let mut outbox = outbox();
    for generation in 0..1024 {
        outbox.push(Message::Instance(record(generation))).unwrap();
    }
    assert_eq!(outbox.push(Message::Instance(record(9))), Err(Overflow));
    outbox.next(NOW);
    outbox.push(Message::Instance(record(9))).unwrap();
}

#[test]
fn more_than_four_mebibytes_waiting_is_too_much() {
    let mut outbox = outbox();
    let large = |generation| {
        Message::Instance(InstanceMessage {
            generation: Generation(generation),
            instance: instance("r-1", Phase::Ready, Some("x".repeat(1024 * 1024))),
        })
    };
    for generation in 0..3 {
        outbox.push(large(generation)).unwrap();
    }
    assert_eq!(outbox.push(large(3)), Err(Overflow));
    outbox.push(reply("c1", Outcome::Done)).unwrap();
}

#[test]
fn a_heartbeat_does_not_wait_behind_records_and_the_newest_wins() {
    let mut outbox = outbox();
    outbox.push(Message::Instance(record(1))).unwrap();
    outbox.metrics(metrics());
    outbox.metrics(metrics());
    outbox.heartbeat(heartbeat());
    outbox.heartbeat(heartbeat());
    assert_eq!(
        drain(&mut outbox, NOW),
        ["heartbeat 1", "instance 1", "metrics"]
    );
}

#[test]
fn an_inventory_that_waits_takes_up_the_newer_fields() {
    let mut outbox = outbox();
    outbox.inventory(Inventory {
        gpus: Some(Vec::new()),
        inventory_complete: Some(false),
        ..Inventory::default()
    });
    outbox.inventory(Inventory {
        inventory_complete: Some(true),
        ..Inventory::default()
    });
    let Some(Message::Inventory(inventory)) = outbox.next(NOW) else {
        panic!("no inventory");
    };
    assert_eq!(inventory.gpus, Some(Vec::new()));
    assert_eq!(inventory.inventory_complete, Some(true));
}

#[test]
fn progress_is_at_most_four_a_second_per_subject_and_the_newest() {
    let mut outbox = outbox();
    let mut sent = Vec::new();
    for ms in (0..2000).step_by(10) {
        let now = Duration::from_millis(ms);
        outbox.progress(progress("r-1", &format!("at {ms}")), now);
        outbox.progress(progress("r-2", "other"), now);
        sent.extend(drain(&mut outbox, now));
    }
    let (other, first): (Vec<_>, Vec<_>) = sent.iter().partition(|name| name.contains("other"));
    assert_eq!((other.len(), first.len()), (8, 8));
    assert_eq!(first[1], "progress \"at 250\"");
}

#[test]
fn the_last_progress_is_sent_when_its_time_comes() {
    let mut outbox = outbox();
    outbox.progress(progress("r-1", "one"), NOW);
    drain(&mut outbox, NOW);
    outbox.progress(progress("r-1", "two"), NOW);
    assert!(drain(&mut outbox, NOW).is_empty());
    let later = NOW + Duration::from_millis(250);
    assert_eq!(outbox.next_at(NOW), Some(later));
    assert_eq!(drain(&mut outbox, later), ["progress \"two\""]);
}

#[test]
fn progress_never_comes_after_the_record_that_outdates_it() {
    let mut outbox = outbox();
    outbox.progress(progress("r-1", "old"), NOW);
    outbox.push(Message::Instance(record(1))).unwrap();
    assert_eq!(drain(&mut outbox, NOW), ["instance 1"]);
}

#[test]
fn output_goes_last_and_its_excess_is_dropped_and_counted() {
    let mut outbox = outbox();
    for seq in 0..5 {
        outbox.output(chunk("c1", seq, 60_000));
    }
    outbox.output(chunk("c2", 0, 10));
    outbox.push(Message::Instance(record(1))).unwrap();
    let names = drain(&mut outbox, NOW);
    assert_eq!(names[0], "instance 1");
    // Four of five chunks fit into 256 KiB; the other command is not affected.
    assert_eq!(names.len(), 1 + 4 + 1);
    outbox.output(chunk("c1", 5, 7));
    let Some(Message::Output(output)) = outbox.next(NOW) else {
        panic!("no output");
    };
    assert_eq!(output.dropped_bytes, Some(60_000));
}

#[test]
fn subjects_that_are_over_leave_nothing_behind() {
    let mut outbox = outbox();
    for number in 0u32..10_000 {
        let now = Duration::from_millis(u64::from(number));
        outbox.progress(progress(&format!("r-{number}"), "x"), now);
        drain(&mut outbox, now);
    }
    assert!(outbox.progress.len() <= 300, "{}", outbox.progress.len());
}

proptest! {
    #[test]
    fn whatever_waits_is_sent_once_and_in_order(
        steps in prop::collection::vec(prop_oneof![
            Just(None), (0usize..4).prop_map(Some),
        ], 1..300),
    ) {
        let mut outbox = outbox();
        let (mut pushed, mut seen, mut generation) = (Vec::new(), Vec::new(), 0);
        let take = |outbox: &mut Outbox, seen: &mut Vec<u64>| {
            if let Some(Message::Instance(record)) = outbox.next(NOW) {
                seen.push(record.generation.0);
            }
        };
        for step in steps {
            match step {
                None => take(&mut outbox, &mut seen),
                Some(0) => {
                    let records: Vec<_> = (generation..generation + 3).map(record).collect();
                    pushed.extend(generation..generation + 3);
                    generation += 3;
                    outbox.sync(records);
                }
                Some(_) => {
                    outbox.push(Message::Instance(record(generation))).unwrap();
                    pushed.push(generation);
                    generation += 1;
                }
            }
        }
        while outbox.next_at(NOW).is_some() {
            take(&mut outbox, &mut seen);
        }
        prop_assert_eq!(seen, pushed);
        prop_assert_eq!((outbox.messages, outbox.bytes), (0, 0));
    }
}

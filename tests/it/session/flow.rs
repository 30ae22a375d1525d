//! What is said in a session, and what is said again in the next.

use std::{sync::Arc, time::Duration};

use rental_agent::{
    clock::Timestamp,
    driver::FromServer,
    ids::Generation,
    instance::publish::Event,
    protocol::{
        Op, Outcome, Phase, Reply,
        message::{Progress, Synced},
    },
};
use serde_json::json;
use tokio::time::Instant;

use super::rig::{EPOCH, Rig, quick, record, samples, verdicts};
use crate::peer::{soon, welcome};

fn reply(id: &str) -> Event {
    Event::Reply(Reply {
        command_id: id.parse().unwrap(),
        outcome: Outcome::Done,
        error: None,
        result: None,
    })
}

fn progress(number: u32) -> Event {
    Event::Progress(Progress {
        instance_id: Some("r-1".parse().unwrap()),
        command_id: None,
        phase: Phase::Pulling,
        message: number.to_string(),
        pull: None,
    })
}

fn synced(generation: u64) -> Event {
    Event::Synced(Synced {
        generation: Generation(generation),
        ids: Vec::new(),
    })
}

#[tokio::test]
async fn hello_comes_first_and_says_what_is_served() {
    let rig = Rig::start(quick()).await;
    let mut connection = rig.peer.accept().await;
    let hello = connection.expect("hello").await;
    assert_eq!(
        hello["agent"],
        json!({
            "id": "host-7",
            "version": env!("CARGO_PKG_VERSION"),
            "epoch": EPOCH,
            "started_at": "2023-11-14T22:13:20.000Z",
            "labels": {"rack": "b4"},
        })
    );
    assert_eq!(
        hello["capabilities"]["ops"],
        json!([
            "cancel",
            "deploy",
            "drain",
            "pull_image",
            "quarantine_gpu",
            "release_gpu",
            "report",
            "resume",
            "terminate"
        ])
    );
    assert!(hello["capabilities"]["spec"].as_array().unwrap().len() > 10);
    assert_eq!(hello["inventory_complete"], false);
    assert_eq!(hello["status"]["engine"], "unavailable");
    assert!(hello["host"].get("engine").is_none());
}

#[tokio::test]
async fn welcome_reaches_the_driver_with_the_servers_time() {
    let mut rig = Rig::start(quick()).await;
    let _connection = rig.peer.session().await;
    match rig.input().await {
        FromServer::Connected { server_time, .. } => {
            let expected: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
            assert_eq!(server_time, expected);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn commands_reach_the_driver_in_order() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (session, _events) = rig.connected().await;
    // More than the driver's queue holds.
    for number in 0..50 {
        let command = json!({"type": "command", "id": format!("c{number}"), "op": "report"});
        connection.send(command).await;
    }
    for number in 0..50 {
        match rig.input().await {
            FromServer::Command {
                session: of,
                command,
            } => {
                assert_eq!(of, session);
                assert_eq!(command.id.as_str(), format!("c{number}"));
                assert!(matches!(command.op, Op::Report));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn records_and_replies_go_out_in_the_order_of_the_driver() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    for event in [
        Event::Records(vec![record(1), record(2)]),
        synced(2),
        Event::Record(record(3)),
        reply("c1"),
        Event::Record(record(4)),
    ] {
        events.send(event).await.unwrap();
    }
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let message = connection.message().await;
        let kind = message["type"].as_str().unwrap().to_owned();
        if ["instance", "synced", "reply"].contains(&kind.as_str()) {
            seen.push((kind, message["generation"].as_u64()));
        }
    }
    let seen: Vec<_> = seen.iter().map(|(kind, at)| (kind.as_str(), *at)).collect();
    assert_eq!(
        seen,
        [
            ("instance", Some(1)),
            ("instance", Some(2)),
            ("synced", Some(2)),
            ("instance", Some(3)),
            ("reply", None),
            ("instance", Some(4)),
        ]
    );
}

#[tokio::test]
async fn two_thousand_records_fit_into_one_sync() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    let records = (1..=2000).map(record).collect();
    events.send(Event::Records(records)).await.unwrap();
    events.send(synced(2000)).await.unwrap();
    let mut next = 1;
    loop {
        let message = connection.message().await;
        match message["type"].as_str().unwrap() {
            "instance" => {
                assert_eq!(message["generation"], next);
                assert_eq!(message["instance"]["id"], format!("r-{next}"));
                next += 1;
            }
            "synced" => break,
            _ => {}
        }
    }
    assert_eq!(next, 2001);
}

#[tokio::test]
async fn after_a_drop_the_driver_is_told_and_the_next_session_begins_anew() {
    let mut rig = Rig::start(quick()).await;
    let mut last = None;
    for _ in 0..3 {
        let mut connection = rig.peer.session().await;
        let (session, events) = rig.connected().await;
        assert!(last < Some(session));
        last = Some(session);
        events.send(Event::Records(vec![record(1)])).await.unwrap();
        events.send(synced(1)).await.unwrap();
        connection.find("instance").await;
        connection.find("synced").await;
        connection.close(1001).await;
        assert_eq!(rig.disconnected().await, session);
        // What is said to a session that is over goes nowhere.
        assert!(events.send(Event::Record(record(2))).await.is_err());
    }
}

#[tokio::test]
async fn acks_of_another_life_or_of_what_was_not_sent_are_ignored() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    let ack = |epoch: &str, generation: u64| json!({"type": "ack", "epoch": epoch, "generation": generation});
    connection.send(ack(EPOCH, 0)).await;
    let command = json!({"type": "command", "id": "c1", "op": "report"});
    connection.send(command).await;
    assert!(matches!(rig.input().await, FromServer::Command { .. }));
    events.send(Event::Record(record(5))).await.unwrap();
    connection.find("instance").await;
    connection.send(ack("another", 5)).await;
    connection.send(ack(EPOCH, 6)).await;
    connection.send(ack(EPOCH, 5)).await;
    match rig.input().await {
        FromServer::Ack { generation } => assert_eq!(generation, Generation(5)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_ack_of_the_last_session_is_ignored_in_this_one() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    events.send(Event::Record(record(5))).await.unwrap();
    connection.find("instance").await;
    connection.close(1001).await;
    rig.disconnected().await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    connection
        .send(json!({"type": "ack", "epoch": EPOCH, "generation": 5}))
        .await;
    connection
        .send(json!({"type": "command", "id": "c1", "op": "report"}))
        .await;
    assert!(matches!(rig.input().await, FromServer::Command { .. }));
}

#[tokio::test]
async fn a_change_of_status_is_a_heartbeat_and_a_change_of_hardware_an_inventory() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    rig.change(|snapshot| snapshot.status.rentable = true);
    let heartbeat = connection.find("heartbeat").await;
    assert_eq!(heartbeat["status"]["rentable"], true);
    rig.change(|snapshot| snapshot.inventory_complete = true);
    let inventory = connection.find("inventory").await;
    assert_eq!(
        inventory,
        json!({"type": "inventory", "inventory_complete": true})
    );
}

#[tokio::test]
async fn what_changed_between_hello_and_welcome_is_told_after_welcome() {
    let rig = Rig::start(quick()).await;
    let mut connection = rig.peer.accept().await;
    connection.expect("hello").await;
    rig.change(|snapshot| snapshot.inventory_complete = true);
    connection.send(welcome()).await;
    let inventory = connection.find("inventory").await;
    assert_eq!(inventory["inventory_complete"], true);
}

#[tokio::test]
async fn the_server_sets_the_intervals_within_limits() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.accept().await;
    connection.expect("hello").await;
    let mut welcome = welcome();
    welcome["heartbeat_interval_s"] = json!(0.0);
    welcome["metrics_interval_s"] = json!(1e300);
    welcome["health_interval_s"] = json!(-1);
    connection.send(welcome).await;
    rig.connected().await;
    let began = Instant::now();
    let (mut heartbeats, mut metrics, mut health) = (0, 0, 0);
    while heartbeats < 2 {
        match connection.message().await["type"].as_str().unwrap() {
            "heartbeat" => heartbeats += 1,
            "metrics" => metrics += 1,
            "health" => health += 1,
            other => panic!("{other}"),
        }
    }
    // Zero is one second, for ever is an hour.
    assert!(began.elapsed() >= Duration::from_millis(1900));
    assert_eq!(metrics, 1);
    assert!((2..=3).contains(&health), "{health}");
}

#[tokio::test]
async fn metrics_and_health_are_the_newest() {
    let mut rig = Rig::start(quick()).await;
    rig.metrics.send_replace(Arc::new(samples(41)));
    rig.metrics.send_replace(Arc::new(samples(42)));
    rig.health.send_replace(Arc::new(verdicts(7)));
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    let health = connection.find("health").await;
    assert_eq!(health["at"], "1970-01-01T00:00:00.007Z");
    let metrics = connection.find("metrics").await;
    assert_eq!(metrics["host"]["memory_used_bytes"], 42);
}

#[tokio::test]
async fn a_report_comes_in_order_before_its_reply() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    // The first ones of the session.
    connection.find("health").await;
    connection.find("metrics").await;
    events.send(Event::Record(record(1))).await.unwrap();
    events.send(Event::Report).await.unwrap();
    events.send(reply("c1")).await.unwrap();
    connection.expect("instance").await;
    let inventory = connection.expect("inventory").await;
    for part in ["host", "gpus", "inventory_complete", "capacity"] {
        assert!(inventory.get(part).is_some(), "no {part}");
    }
    connection.expect("metrics").await;
    connection.expect("health").await;
    connection.expect("reply").await;
}

#[tokio::test]
async fn of_a_flood_of_progress_the_newest_arrives() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    for number in 0..=5000 {
        soon(events.send(progress(number))).await.unwrap();
    }
    let mut seen = 1;
    while connection.find("progress").await["message"] != "5000" {
        seen += 1;
    }
    assert!(seen < 100, "{seen} of 5001");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_events_does_not_keep_commands_waiting() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    rig.tasks.spawn(async move {
        while events.send(progress(0)).await.is_ok() {}
        Ok(())
    });
    for number in 0..100 {
        let command = json!({"type": "command", "id": format!("c{number}"), "op": "report"});
        connection.send(command).await;
        assert!(matches!(rig.input().await, FromServer::Command { .. }));
    }
}

#[tokio::test]
async fn a_shutdown_says_what_is_left_then_goodbye_then_1001() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    for generation in 1..=20 {
        events
            .send(Event::Record(record(generation)))
            .await
            .unwrap();
    }
    let reading = async {
        let mut records = 0;
        loop {
            let message = connection.message().await;
            match message["type"].as_str().unwrap() {
                "instance" => records += 1,
                "goodbye" => {
                    assert_eq!(message["reason"], "shutdown");
                    break;
                }
                _ => {}
            }
        }
        assert_eq!(connection.closed().await, Some(1001));
        records
    };
    let (records, stopped) = tokio::join!(reading, rig.stopped());
    stopped.unwrap();
    assert_eq!(records, 20);
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_a_server_that_does_not_answer() {
    let mut rig = Rig::start(quick()).await;
    let _connection = rig.peer.session().await;
    rig.connected().await;
    let began = Instant::now();
    rig.stopped().await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_session_without_a_driver_is_an_error_and_no_loop() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    rig.inputs.close();
    connection
        .send(json!({"type": "command", "id": "c1", "op": "report"}))
        .await;
    assert_eq!(connection.closed().await, Some(1011));
    let ended = soon(rig.tasks.join_next()).await.unwrap().unwrap();
    assert!(ended.is_err());
}

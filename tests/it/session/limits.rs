//! What the session does not wait for, what it does not hold, and what it bears.

use std::time::Duration;

use rental_agent::{
    driver::FromServer,
    instance::publish::Event,
    protocol::{Outcome, Reply},
    session::Limits,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::rig::{Rig, quick, record};
use crate::peer::{PATIENCE, Peer, soon};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Resident memory of this process.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

fn reply(bytes: usize) -> Event {
    Event::Reply(Reply {
        command_id: "c1".parse().unwrap(),
        outcome: Outcome::Done,
        error: None,
        result: Some(Value::String("x".repeat(bytes))),
    })
}

#[tokio::test]
async fn a_server_that_never_welcomes_is_left() {
    let mut limits = quick();
    limits.welcome = ms(200);
    let mut rig = Rig::start(limits).await;
    let mut connection = rig.peer.accept().await;
    connection.expect("hello").await;
    assert_eq!(connection.closed().await, Some(1002));
    assert!(rig.inputs.try_recv().is_err());
    rig.peer.session().await;
    rig.connected().await;
}

#[tokio::test]
async fn it_pings_and_any_sign_of_life_keeps_the_link() {
    let mut limits = quick();
    (limits.ping, limits.silence) = (ms(50), ms(400));
    let mut rig = Rig::start(limits).await;
    let mut connection = rig.peer.session().await;
    let (session, _events) = rig.connected().await;
    let began = Instant::now();
    let mut pings = 0;
    // Reading answers the pings; nothing else is sent.
    while began.elapsed() < ms(1200) {
        if let Frame::Ping(_) = connection.frame().await.unwrap() {
            pings += 1;
        }
    }
    assert!(pings >= 8, "{pings}");
    connection.close(1000).await;
    assert_eq!(rig.disconnected().await, session);
}

#[tokio::test]
async fn f44_a_silent_peer_is_left_also_while_the_agent_only_writes() {
    let mut limits = quick();
    (limits.ping, limits.silence) = (ms(50), ms(400));
    let mut rig = Rig::start(limits).await;
    // Never read again: no pong is sent.
    let _silent = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    let began = Instant::now();
    let mut pace = tokio::time::interval(ms(20));
    loop {
        pace.tick().await;
        if events.send(Event::Record(record(1))).await.is_err() {
            break;
        }
        assert!(began.elapsed() < PATIENCE);
    }
    assert!(began.elapsed() >= ms(300));
    rig.disconnected().await;
    rig.peer.session().await;
    rig.connected().await;
}

#[tokio::test]
async fn a_driver_that_is_behind_stops_the_reading_and_costs_no_link() {
    let mut limits = quick();
    (limits.ping, limits.silence, limits.message) = (ms(50), ms(300), ms(300));
    let mut rig = Rig::start(limits).await;
    let mut connection = rig.peer.session().await;
    let (session, _events) = rig.connected().await;
    let command = |number: usize| {
        json!({"type": "command", "id": format!("c{number}"), "op": "report"}).to_string()
    };
    // Four fit into the driver's queue, one waits, the rest is not read.
    for number in 0..20 {
        connection.text(&command(number)).await;
    }
    // The driver takes nothing for three times the silence that ends a link; the pings go on.
    let began = Instant::now();
    let mut pings = 0;
    while began.elapsed() < ms(1000) {
        if let Frame::Ping(_) = connection.frame().await.unwrap() {
            pings += 1;
        }
    }
    assert!(pings >= 5, "{pings}");
    for number in 0..20 {
        match rig.input().await {
            FromServer::Command {
                session: of,
                command,
            } => {
                assert_eq!(command.id.as_str(), format!("c{number}"));
                assert_eq!(of, session);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn events_are_drained_while_the_driver_takes_nothing() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    for number in 0..20 {
        let command = json!({"type": "command", "id": format!("c{number}"), "op": "report"});
        connection.send(command).await;
    }
    for generation in 1..=3000 {
        soon(events.send(Event::Record(record(generation))))
            .await
            .unwrap();
        connection.find("instance").await;
    }
}

#[tokio::test]
async fn f48_a_stuck_write_ends_the_link() {
    let mut limits = quick();
    limits.stuck_write = ms(300);
    // Only the write is to blame: nothing is expected to come.
    limits.silence = Duration::from_secs(600);
    let mut rig = Rig::with(Peer::with_small_buffers(), limits, |_| {});
    let _unread = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    // More than the system's buffers take, less than ends the session by itself.
    for _ in 0..3 {
        events.send(reply(1_000_000)).await.unwrap();
    }
    let mut more = 0;
    while soon(events.reserve()).await.is_ok() && more < 200 {
        // The bound is on what waits; so it is filled up as the socket takes it.
        tokio::select! {
            () = events.closed() => break,
            () = tokio::time::sleep(ms(20)) => {}
        }
        let _ = events.try_send(reply(50_000));
        more += 1;
    }
    let (reason, _) = rig.down().await;
    assert!(reason.contains("took nothing"), "{reason}");
}

#[tokio::test]
async fn f48_a_slow_consumer_gets_1013_and_memory_stays_bounded() {
    let mut rig = Rig::with(Peer::with_small_buffers(), quick(), |_| {});
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    let before = resident_bytes();
    let mut accepted = 0usize;
    while let Ok(place) = soon(events.reserve()).await {
        place.send(reply(100_000));
        accepted += 1;
        // 4 MiB wait, some more are in the system's buffers and on their way to the outbox.
        assert!(accepted < 400, "the outbox has no bound");
    }
    let grown = resident_bytes().saturating_sub(before);
    let most = 64 * 1024 * 1024;
    assert!(grown < most, "{grown} bytes after {accepted} replies");
    // A server that reads at last learns why.
    assert_eq!(connection.closed().await, Some(1013));
    rig.disconnected().await;
    rig.peer.session().await;
    rig.connected().await;
}

#[tokio::test]
async fn a_reply_that_is_too_big_for_a_message_goes_without_its_result() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    events.send(reply(2 * 1024 * 1024)).await.unwrap();
    let expected = json!({"type": "reply", "command_id": "c1", "outcome": "done"});
    assert_eq!(connection.find("reply").await, expected);
}

#[tokio::test]
async fn f48_more_records_than_may_wait_is_1013() {
    let mut rig = Rig::with(Peer::with_small_buffers(), quick(), |_| {});
    let mut connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    let mut generation = 0;
    while let Ok(place) = soon(events.reserve()).await {
        generation += 1;
        place.send(Event::Record(record(generation)));
        assert!(generation < 100_000, "the outbox has no bound");
    }
    assert_eq!(connection.closed().await, Some(1013));
}

#[tokio::test]
async fn a_driver_that_gives_the_events_up_gets_a_new_session() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    let (session, events) = rig.connected().await;
    drop((events, rig.events.take()));
    assert_eq!(connection.closed().await, Some(1013));
    drop(connection);
    assert_eq!(rig.disconnected().await, session);
    rig.peer.session().await;
    rig.connected().await;
}

#[tokio::test]
async fn f53_a_flood_of_pings_starves_nothing_and_costs_no_memory() {
    let mut rig = Rig::start(quick()).await;
    let connection = rig.peer.session().await;
    let (_, events) = rig.connected().await;
    let before = resident_bytes();
    let (mut writer, mut reader) = futures_util::StreamExt::split(connection.socket);
    let flood = async {
        for _ in 0..50_000 {
            let ping = Frame::Ping(vec![7; 125].into());
            futures_util::SinkExt::send(&mut writer, ping)
                .await
                .unwrap();
        }
    };
    let records = async {
        for generation in 1..=200 {
            events
                .send(Event::Record(record(generation)))
                .await
                .unwrap();
        }
    };
    let reading = async {
        let mut seen = 0;
        while seen < 200 {
            let frame = soon(futures_util::StreamExt::next(&mut reader)).await;
            if let Frame::Text(text) = frame.unwrap().unwrap() {
                seen += usize::from(text.contains("\"instance\""));
            }
        }
        while !matches!(
            tokio::time::timeout(ms(300), futures_util::StreamExt::next(&mut reader)).await,
            Err(_) | Ok(None)
        ) {}
    };
    tokio::join!(flood, records, reading);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes");
}

#[tokio::test]
async fn f53_a_flood_of_pings_whose_answers_nobody_reads_costs_no_memory() {
    let mut limits = quick();
    (limits.stuck_write, limits.message) = (ms(60_000), ms(60_000));
    let mut rig = Rig::with(Peer::with_small_buffers(), limits, |_| {});
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    let before = resident_bytes();
    let ping = [&[0x89, 125][..], &[7; 125]].concat();
    // 38 MB of answers, all of which the agent could keep.
    for _ in 0..300 {
        connection.bytes(&ping.repeat(1000)).await;
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes");
}

#[tokio::test]
async fn f53_answers_to_pings_that_nobody_reads_are_a_stuck_write() {
    let mut limits = quick();
    limits.stuck_write = ms(300);
    let mut rig = Rig::with(Peer::with_small_buffers(), limits, |_| {});
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    let pings = [&[0x89, 125][..], &[7; 125]].concat().repeat(1000);
    let flood = async {
        let socket = connection.socket.get_mut();
        while tokio::io::AsyncWriteExt::write_all(socket, &pings)
            .await
            .is_ok()
        {}
    };
    soon(flood).await;
    rig.disconnected().await;
}

#[tokio::test]
async fn f43_an_outage_is_tried_again_for_ever_and_never_in_a_hot_loop() {
    let mut limits = Limits::default();
    limits.waits.base = ms(20);
    limits.waits.cap = ms(100);
    let mut rig = Rig::start(limits).await;
    let began = Instant::now();
    let mut tries = 0;
    while began.elapsed() < ms(1500) {
        drop(rig.peer.tcp().await);
        tries += 1;
    }
    // 20 ms is the shortest wait and 50 ms the mean of the longest.
    assert!((8..=60).contains(&tries), "{tries}");
    rig.peer.session().await;
    rig.connected().await;
}

//! Each close code, and when the agent comes back after it.

use rental_agent::{instance::publish::Event, session::Limits};
use serde_json::json;

use super::rig::{Rig, record};

/// Seconds until the next try after the server closed a welcomed session with `code`.
async fn back_after(code: u16, spread_s: Option<f64>) -> f64 {
    let mut rig = Rig::start(Limits::default()).await;
    let mut connection = rig.peer.accept().await;
    connection.expect("hello").await;
    let mut welcome = crate::peer::welcome();
    welcome["reconnect_spread_s"] = json!(spread_s);
    connection.send(welcome).await;
    rig.connected().await;
    connection.close(code).await;
    let (reason, retry_in) = rig.down().await;
    assert!(reason.contains(&code.to_string()), "{reason}");
    assert!(reason.contains("as the test says"), "{reason}");
    rig.disconnected().await;
    retry_in.as_secs_f64()
}

#[tokio::test]
async fn f45_after_an_ordinary_close_it_is_back_within_a_second() {
    for code in [1000, 1001, 1011, 4000] {
        let wait = back_after(code, Some(60.0)).await;
        assert!((0.0..=1.0).contains(&wait), "{code}: {wait}");
    }
}

#[tokio::test]
async fn f45_after_a_restart_of_the_server_it_is_back_within_the_spread() {
    for code in [1012, 1013, 4429] {
        let wait = back_after(code, None).await;
        assert!((0.0..=1.0).contains(&wait), "{code}: {wait}");
    }
    let mut longest: f64 = 0.0;
    for _ in 0..8 {
        let wait = back_after(1012, Some(60.0)).await;
        assert!((0.0..=60.0).contains(&wait), "{wait}");
        longest = longest.max(wait);
    }
    // All eight within the first second: once in 60^8.
    assert!(longest > 1.0, "{longest}");
}

#[tokio::test]
async fn f45_after_a_refusal_it_waits_fifteen_to_thirty_seconds() {
    for code in [1008, 4401, 4409, 4426] {
        let wait = back_after(code, Some(1.0)).await;
        assert!((15.0..=30.0).contains(&wait), "{code}: {wait}");
    }
}

#[tokio::test]
async fn a_refusal_before_welcome_is_a_refusal_too() {
    let mut rig = Rig::start(Limits::default()).await;
    let mut connection = rig.peer.accept().await;
    connection.expect("hello").await;
    connection.close(4401).await;
    let (_, retry_in) = rig.down().await;
    assert!((15.0..=30.0).contains(&retry_in.as_secs_f64()));
    assert!(rig.inputs.try_recv().is_err(), "the driver was told of it");
}

#[tokio::test]
async fn a_hang_up_without_a_close_is_a_drop() {
    let mut rig = Rig::start(Limits::default()).await;
    let connection = rig.peer.session().await;
    rig.connected().await;
    drop(connection);
    let (reason, retry_in) = rig.down().await;
    assert!(
        reason.contains("hung up") || reason.contains("broke"),
        "{reason}"
    );
    assert!(retry_in.as_secs_f64() <= 1.0);
}

#[tokio::test]
async fn the_close_is_answered() {
    let mut rig = Rig::start(Limits::default()).await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    let frame = tokio_tungstenite::tungstenite::Message::Close(None);
    connection.write(frame).await;
    connection.closed().await;
    let (reason, _) = rig.down().await;
    assert!(reason.contains("1005"), "{reason}");
}

#[tokio::test]
async fn the_code_counts_even_when_the_server_hangs_up_while_the_agent_writes() {
    for _ in 0..20 {
        let mut rig = Rig::start(Limits::default()).await;
        let connection = rig.peer.session().await;
        let (_, events) = rig.connected().await;
        events
            .send(Event::Records((1..=500).map(record).collect()))
            .await
            .unwrap();
        // What it has not read makes the system send a reset.
        connection.close(4401).await;
        let (reason, retry_in) = rig.down().await;
        assert!(reason.contains("4401"), "{reason}");
        assert!(retry_in.as_secs_f64() >= 15.0);
    }
}

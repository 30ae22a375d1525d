//! `/ws`.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rental_agent::api::Limits;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, ClientRequestBuilder, Message as Frame},
};

use super::{
    rig::{Rig, spec},
    tokens::{claims, now_s, token, with},
};
use crate::peer::soon;

type Socket = WebSocketStream<TcpStream>;

async fn open(
    rig: &Rig,
    headers: &[(&str, &str)],
) -> Result<(Socket, Option<String>), tungstenite::Error> {
    let uri = format!("ws://{}/ws", rig.address).parse().unwrap();
    let mut request = ClientRequestBuilder::new(uri);
    for (name, value) in headers {
        request = match *name {
            "Sec-WebSocket-Protocol" => request.with_sub_protocol(*value),
            _ => request.with_header(*name, *value),
        };
    }
    let (socket, answer) = client_async(request, rig.dial().await).await?;
    let protocol = answer.headers().get("sec-websocket-protocol");
    Ok((
        socket,
        protocol.map(|value| value.to_str().unwrap().to_owned()),
    ))
}

async fn watching(rig: &Rig) -> Socket {
    let bearer = format!("Bearer {}", token("events:read"));
    open(rig, &[("Authorization", &bearer)]).await.unwrap().0
}

/// The next text frame.
async fn next(socket: &mut Socket) -> Value {
    loop {
        match soon(socket.next()).await.unwrap().unwrap() {
            Frame::Text(text) => return serde_json::from_str(&text).unwrap(),
            Frame::Ping(_) | Frame::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn who_watches_gets_the_whole_state_and_then_each_change() {
    let rig = Rig::start().await;
    rig.post("/start_instance", &[], &spec("a")).await;
    let mut socket = watching(&rig).await;
    let first = next(&mut socket).await;
    assert_eq!(
        (&first["type"], &first["instance"]["id"]),
        (&json!("instance"), &json!("a"))
    );
    let synced = next(&mut socket).await;
    let expected = json!({ "type": "synced", "generation": first["generation"], "ids": ["a"] });
    assert_eq!(synced, expected);
    let body = json!({ "instance_id": "b", "image": "slow" });
    let detached = [("Prefer", "respond-async")];
    assert_eq!(
        rig.post("/start_instance", &detached, &body).await.status,
        202
    );
    let (mut phases, mut progress, mut generation) = (Vec::new(), 0, 0);
    while phases.last() != Some(&json!("ready")) {
        let frame = next(&mut socket).await;
        if frame["type"] == "progress" {
            progress += 1;
            continue;
        }
        assert_eq!(frame["instance"]["id"], "b");
        assert!(frame["generation"].as_u64().unwrap() > generation);
        generation = frame["generation"].as_u64().unwrap();
        if frame["instance"]["phase"] == "pulling" {
            rig.engine.let_a_pull_end();
        }
        phases.push(frame["instance"]["phase"].clone());
    }
    phases.dedup();
    let expected = ["accepted", "pulling", "creating", "starting"].map(|phase| json!(phase));
    assert_eq!(phases[..4], expected, "no change is skipped");
    assert!(progress > 0);
}

#[tokio::test]
async fn a_token_may_come_as_subprotocol_and_never_in_the_query() {
    let rig = Rig::start().await;
    let offered = format!("bearer.{}", token("events:read"));
    let (_, protocol) = open(&rig, &[("Sec-WebSocket-Protocol", &offered)])
        .await
        .unwrap();
    assert_eq!(protocol.as_deref(), Some(offered.as_str()));
    let both = [
        ("Sec-WebSocket-Protocol", "rental-agent.v1"),
        ("Sec-WebSocket-Protocol", offered.as_str()),
    ];
    let (mut socket, protocol) = open(&rig, &both).await.unwrap();
    assert_eq!(
        protocol.as_deref(),
        Some("rental-agent.v1"),
        "the token is not sent back"
    );
    assert_eq!(next(&mut socket).await["type"], "synced");
    let Err(tungstenite::Error::Http(answer)) = open(&rig, &[]).await else {
        panic!("let in without a token");
    };
    assert_eq!(answer.status(), 401);
    // Elsewhere a subprotocol is no token.
    let answer = rig
        .ask(
            "GET",
            "/instances",
            &[("Sec-WebSocket-Protocol", &offered)],
            None,
        )
        .await;
    assert_eq!(answer.status, 401);
}

#[tokio::test]
async fn what_is_no_websocket_is_told_so() {
    let rig = Rig::start().await;
    let answer = rig.get("/ws", "events:read").await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (426, "invalid_spec")
    );
    for (name, value) in [
        ("connection", "upgrade, close"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
    ] {
        assert_eq!(answer.headers[name], value, "{name}");
    }
}

#[tokio::test]
async fn who_watches_is_let_go_when_its_token_expires() {
    let rig = Rig::start().await;
    // It is taken for 10 s more, which leaves it one or two.
    let short = with(claims("events:read"), &[("exp", json!(now_s() - 8))]);
    let bearer = format!("Bearer {short}");
    let (mut socket, _) = open(&rig, &[("Authorization", &bearer)]).await.unwrap();
    let mut lasting = watching(&rig).await;
    assert_eq!(next(&mut socket).await["type"], "synced");
    assert_eq!(next(&mut lasting).await["type"], "synced");
    let mut code = None;
    while let Some(Ok(frame)) = soon(socket.next()).await {
        if let Frame::Close(Some(close)) = frame {
            code = Some(u16::from(close.code));
        }
    }
    assert_eq!(code, Some(4401));
    rig.post("/start_instance", &[], &spec("a")).await;
    assert_eq!(next(&mut lasting).await["instance"]["id"], "a");
}

#[tokio::test]
async fn one_that_does_not_keep_up_is_cut_and_nobody_waits_for_it() {
    // However slow the machine is, it is the full queue that ends it.
    let long = Duration::from_secs(600);
    let limits = Limits {
        events: 4,
        stuck_write: long,
        silence: long,
        ..Limits::default()
    };
    let rig = Rig::with(limits, &[]).await;
    let mut fast = watching(&rig).await;
    assert_eq!(next(&mut fast).await["type"], "synced");
    let mut slow = watching(&rig).await;
    let labels: std::collections::BTreeMap<_, _> = (0..28)
        .map(|n| (format!("k{n}"), "x".repeat(1000)))
        .collect();
    // Far more than the buffers between the two hold, and nobody reads.
    let cut = async {
        for n in 0.. {
            let id = format!("a-{n}");
            let mut body = spec(&id);
            body["labels"] = json!(labels);
            assert_eq!(rig.post("/start_instance", &[], &body).await.status, 200);
            let body = json!({ "instance_id": id });
            assert_eq!(
                rig.post("/terminate_instance", &[], &body).await.status,
                200
            );
            while rig.inputs.from_local.capacity() == 0 {}
            if n == 120 {
                break;
            }
        }
    };
    let reading = async { while let Some(Ok(_)) = fast.next().await {} };
    tokio::select! {
        () = cut => {}
        () = reading => {}
    }
    let mut code = None;
    let mut frames = 0;
    while let Some(Ok(frame)) = soon(slow.next()).await {
        frames += 1;
        if let Frame::Close(Some(close)) = frame {
            code = Some(u16::from(close.code));
        }
    }
    assert_eq!(code, Some(1013), "after {frames} frames");
}

#[tokio::test]
async fn watchers_leave_room_for_others_and_silent_ones_are_cut() {
    let limits = Limits {
        watchers: 2,
        ping: Duration::from_millis(50),
        silence: Duration::from_millis(200),
        ..Limits::default()
    };
    let rig = Rig::with(limits, &[]).await;
    let (_a, _b) = (watching(&rig).await, watching(&rig).await);
    let bearer = format!("Bearer {}", token("events:read"));
    let Err(tungstenite::Error::Http(answer)) = open(&rig, &[("Authorization", &bearer)]).await
    else {
        panic!("a third one is let in");
    };
    assert_eq!(answer.status(), 503);
    // Neither reads, so neither answers a ping.
    soon(async { while open(&rig, &[("Authorization", &bearer)]).await.is_err() {} }).await;
}

#[tokio::test]
async fn what_a_watcher_says_is_not_kept() {
    let rig = Rig::start().await;
    let mut socket = watching(&rig).await;
    assert_eq!(next(&mut socket).await["type"], "synced");
    socket
        .send(Frame::text(r#"{"type":"command","id":"x","op":"drain"}"#))
        .await
        .unwrap();
    rig.post("/start_instance", &[], &spec("a")).await;
    assert_eq!(next(&mut socket).await["instance"]["phase"], "accepted");
    assert!(!rig.snapshot().status.draining);
    let _ = socket.send(Frame::text("x".repeat(1 << 20))).await;
    soon(async { while let Some(Ok(_)) = socket.next().await {} }).await;
}

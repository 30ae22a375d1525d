//! Session, HTTP and control socket ask the same registry.

use rental_agent::{
    driver::{FromServer, SessionNo},
    instance::publish::Event,
    protocol::{Incoming, Phase, decode},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::rig::{Rig, spec};
use crate::peer::soon;

/// What the session hears until a rental is in this phase.
async fn heard_until(heard: &mut mpsc::Receiver<Event>, phase: Phase) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let event = soon(heard.recv()).await.expect("the session was dropped");
        let done = matches!(&event, Event::Record(r) if r.instance.phase == phase);
        events.push(event);
        if done {
            return events;
        }
    }
}

async fn command(rig: &Rig, body: Value) {
    let text = body.to_string();
    let Ok(Incoming::Command(command)) = decode(&text) else {
        panic!("no command: {text}");
    };
    let session = SessionNo(1);
    let sent = rig
        .inputs
        .from_server
        .send(FromServer::Command { session, command });
    sent.await.unwrap();
}

#[tokio::test]
async fn the_session_sees_what_was_started_by_http_and_is_not_answered_for_it() {
    let rig = Rig::start().await;
    let mut heard = rig.session().await;
    assert_eq!(
        rig.post("/start_instance", &[], &spec("a")).await.status,
        200
    );
    let events = heard_until(&mut heard, Phase::Ready).await;
    let replies = events
        .iter()
        .filter(|event| matches!(event, Event::Reply(_)));
    assert_eq!(replies.count(), 0, "it did not ask: {events:?}");
    let body = json!({ "type": "command", "id": "c1", "op": "terminate", "instance_id": "a" });
    command(&rig, body).await;
    let events = heard_until(&mut heard, Phase::Ended).await;
    assert!(
        events.iter().any(|event| matches!(event, Event::Reply(_))),
        "{events:?}"
    );
}

#[tokio::test]
async fn http_sees_what_the_session_started_and_may_not_have_it_twice() {
    let mut rig = Rig::start().await;
    let _heard = rig.session().await;
    let gpus = json!({ "uuids": [crate::model::fixture::gpu_uuid(0)] });
    let mut theirs = spec("a");
    theirs["gpus"] = gpus.clone();
    command(
        &rig,
        json!({ "type": "command", "id": "c1", "op": "deploy", "spec": theirs }),
    )
    .await;
    rig.until(|s| {
        s.instances
            .iter()
            .any(|record| record.phase == Phase::Ready)
    })
    .await;
    let all = rig.get("/instances", "instances:read").await.json();
    assert_eq!(all["instances"][0]["id"], "a");
    let mut ours = spec("b");
    ours["gpus"] = gpus;
    let answer = rig.post("/start_instance", &[], &ours).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (409, "gpu_unavailable")
    );
    // The same wish of the same id is the same rental.
    let same = rig.post("/start_instance", &[], &theirs).await;
    assert_eq!(same.status, 200, "{same:?}");
    assert_eq!(rig.engine.made(), 1);
}

#[tokio::test]
async fn replies_come_without_any_session() {
    let rig = Rig::start().await;
    assert_eq!(
        rig.post("/start_instance", &[], &spec("a")).await.status,
        200
    );
    // A session that comes later gets the whole state.
    let mut heard = rig.session().await;
    let first = soon(heard.recv()).await;
    assert!(
        matches!(&first, Some(Event::Records(records)) if records.len() == 1),
        "{first:?}"
    );
}

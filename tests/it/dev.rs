//! The reference server against a scripted agent over a real socket, duty by duty
//! (PROTOCOL, "What a server owes").
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod commands;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rental_agent::{
    dev::{
        AgentView, Options, Refused, Server, ServerHandle,
        client::Client,
        operator::{Event, Request},
        state::Source,
    },
    ids::InstanceId,
    protocol::{EndReason, Instance, Phase},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        self, ClientRequestBuilder, Message,
        protocol::frame::{
            Frame,
            coding::{Data, OpCode},
        },
    },
};

const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_deploy_goes_out_after_welcome_and_its_replies_come_back() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let ticket = handle.deploy(spec("r1")).unwrap();
    let command = agent.hear("command").await;
    assert_eq!(command["op"], "deploy");
    assert_eq!(command["spec"], spec("r1"));
    assert_eq!(command["id"], ticket.id.as_str());
    agent.reply(&command, "accepted").await;
    let first = handle.wait_reply(&ticket, LIMIT).await.unwrap();
    assert!(!first.outcome.is_final());
    agent.record(1, "r1", "ready").await;
    agent.reply(&command, "done").await;
    let reply = handle.wait_final(&ticket, LIMIT).await.unwrap();
    assert!(reply.outcome.is_final());
    assert_eq!(
        handle.instance(&id("r1")).unwrap().image.unwrap(),
        "busybox"
    );
}

#[tokio::test]
async fn the_subprotocol_is_required_and_selected() {
    let (server, _handle) = server().await;
    let url: tungstenite::http::Uri = session_url(&server).parse().unwrap();
    let without = connect_async(ClientRequestBuilder::new(url.clone())).await;
    assert_eq!(refused(without), 400);
    let other = ClientRequestBuilder::new(url.clone()).with_sub_protocol("rental-agent.v2");
    assert_eq!(refused(connect_async(other).await), 400);
    let right = ClientRequestBuilder::new(url).with_sub_protocol("rental-agent.v1");
    let (_socket, response) = connect_async(right).await.unwrap();
    assert_eq!(
        response.headers()["sec-websocket-protocol"],
        "rental-agent.v1"
    );
}

#[tokio::test]
async fn a_configured_token_is_asked_for() {
    let mut options = options();
    options.token = Some("right".into());
    let server = Server::bind(options).await.unwrap();
    let dial = |token: Option<&'static str>| {
        let mut request = ClientRequestBuilder::new(session_url(&server).parse().unwrap())
            .with_sub_protocol("rental-agent.v1");
        if let Some(token) = token {
            request = request.with_header("Authorization", token);
        }
        connect_async(request)
    };
    for wrong in [None, Some("Bearer wrong"), Some("right"), Some("Bearer ")] {
        assert_eq!(refused(dial(wrong).await), 401, "{wrong:?}");
    }
    dial(Some("Bearer right")).await.unwrap();
}

#[tokio::test]
async fn nothing_else_is_served() {
    let (server, _handle) = server().await;
    for path in [
        "",
        "/",
        "/agents/dev",
        "/agents/Not+An+Id/session",
        "/agents//session",
    ] {
        let request = ClientRequestBuilder::new(format!("{}{path}", server.url()).parse().unwrap())
            .with_sub_protocol("rental-agent.v1");
        assert_eq!(refused(connect_async(request).await), 404, "{path}");
    }
}

#[tokio::test]
async fn duty_1_open_commands_are_sent_again_unchanged_and_in_order() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let deploy = handle.deploy(spec("a")).unwrap();
    let terminate = handle.terminate(&id("b")).unwrap();
    let report = handle.command(json!({"op": "report"})).unwrap();
    let first = [
        agent.hear("command").await,
        agent.hear("command").await,
        agent.hear("command").await,
    ];
    agent.reply(&first[1], "done").await;
    handle.wait_final(&terminate, LIMIT).await.unwrap();
    handle.drop_connection();
    assert_eq!(agent.next().await, Err(1006));
    let mut agent = Agent::dial(&server, "e2").await;
    agent.hello("boot-1").await;
    agent.hear("welcome").await;
    assert_eq!(agent.hear("command").await, first[0]);
    agent.synced(0, &[]).await;
    agent.reply(&first[0], "done").await;
    handle.wait_final(&deploy, LIMIT).await.unwrap();
    // A report is not asked of a new process again.
    let unknown = handle.wait_final(&report, LIMIT).await.unwrap();
    assert!(unknown.error.unwrap().message.contains("outcome unknown"));
    assert_eq!(handle.settled_by(&report), Some(Source::Server));
}

#[tokio::test]
async fn duty_2_an_instance_id_is_used_once() {
    let (_server, handle) = server().await;
    handle.deploy(spec("a")).unwrap();
    assert!(matches!(handle.deploy(spec("a")), Err(Refused::Used(_))));
}

#[tokio::test]
async fn duty_3_a_new_session_of_the_same_boot_supersedes_the_old_one() {
    let (server, handle) = server().await;
    let mut old = Agent::connect(&server, "e1").await;
    let mut new = Agent::connect(&server, "e2").await;
    assert_eq!(old.next().await, Err(4409));
    new.record(1, "a", "ready").await;
    let ready = |instance: &Instance| instance.phase == Phase::Ready;
    handle.wait_instance(&id("a"), ready, LIMIT).await.unwrap();
}

#[tokio::test]
async fn duty_3_a_cloned_machine_is_turned_away() {
    let (server, handle) = server().await;
    let _first = Agent::connect(&server, "e1").await;
    let mut clone = Agent::dial(&server, "e2").await;
    clone.hello("boot-2").await;
    assert_eq!(clone.next().await, Err(4409));
    assert!(handle.connected());
}

#[tokio::test]
async fn duty_4_what_synced_does_not_name_is_lost() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    run(&handle, &mut agent, "a", 1).await;
    handle.drop_connection();
    let _agent = Agent::connect(&server, "e2").await;
    let lost = |instance: &Instance| {
        let ended = instance.ended.as_ref();
        ended.is_some_and(|ended| ended.reason == EndReason::Lost)
    };
    handle.wait_instance(&id("a"), lost, LIMIT).await.unwrap();
}

#[tokio::test]
async fn duty_4_what_has_ended_and_comes_back_is_terminated_again() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    run(&handle, &mut agent, "a", 1).await;
    let mut ended = record(2, "a", "ended");
    ended["instance"]["ended"] = json!({"reason": "exited", "exit_code": 0});
    agent.say(ended).await;
    agent.hear_until("ack", |ack| ack["generation"] == 2).await;
    handle.drop_connection();
    let mut agent = Agent::dial(&server, "e2").await;
    agent.hello("boot-1").await;
    agent.hear("welcome").await;
    agent.record(1, "a", "running").await;
    agent.synced(1, &["a"]).await;
    let again = agent.hear("command").await;
    assert_eq!(
        (&again["op"], &again["instance_id"]),
        (&json!("terminate"), &json!("a"))
    );
}

#[tokio::test]
async fn duty_4_an_unknown_instance_is_neither_adopted_nor_ended_by_itself() {
    let (server, handle) = server().await;
    let mut agent = Agent::dial(&server, "e1").await;
    agent.hello("boot-1").await;
    agent.hear("welcome").await;
    agent.record(1, "stranger", "ready").await;
    agent.synced(1, &["stranger"]).await;
    assert_eq!(agent.hear("ack").await["generation"], 1);
    assert!(handle.instance_view(&id("stranger")).unwrap().unadopted);
    assert!(handle.adopt(&id("stranger")));
    assert!(!handle.instance_view(&id("stranger")).unwrap().unadopted);
    // The next thing that the agent hears is what it is asked next.
    handle.command(json!({"op": "report"})).unwrap();
    assert_eq!(agent.hear("command").await["op"], "report");
}

#[tokio::test]
async fn duty_5_silence_is_said_and_ends_nothing() {
    let mut options = options();
    options.intervals.heartbeat = Duration::from_millis(100);
    let server = Server::bind(options).await.unwrap();
    let handle = server.handle();
    let mut agent = Agent::connect(&server, "e1").await;
    run(&handle, &mut agent, "a", 1).await;
    let silent = handle.wait_agent("silence", |agent| !agent.reachable, LIMIT);
    assert!(silent.await.unwrap().session.is_some());
    assert_eq!(handle.instance(&id("a")).unwrap().phase, Phase::Ready);
    agent.heartbeat(false).await;
    let back = handle.wait_agent("a heartbeat", |agent| agent.reachable, LIMIT);
    back.await.unwrap();
}

#[tokio::test]
async fn duty_5_a_wanted_drain_is_sent_again_to_an_agent_that_forgot_it() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let drain = handle.command(json!({"op": "drain"})).unwrap();
    let command = agent.hear("command").await;
    agent.reply(&command, "done").await;
    handle.wait_final(&drain, LIMIT).await.unwrap();
    agent.heartbeat(true).await;
    handle.drop_connection();
    let mut agent = Agent::dial(&server, "e2").await;
    agent.hello("boot-1").await;
    agent.hear("welcome").await;
    assert_eq!(agent.hear("command").await["op"], "drain");
}

#[tokio::test]
async fn duty_6_every_stored_record_is_acked_once_the_state_is_whole() {
    let (server, handle) = server().await;
    let mut agent = Agent::dial(&server, "e1").await;
    agent.hello("boot-1").await;
    agent.hear("welcome").await;
    agent.record(8, "b", "ready").await;
    agent.record(2, "a", "ready").await;
    agent.synced(8, &["a", "b"]).await;
    let ack = agent.hear("ack").await;
    assert_eq!(
        (&ack["epoch"], &ack["generation"]),
        (&json!("e1"), &json!(8))
    );
    handle.set_ack(false);
    agent.record(9, "a", "ending").await;
    let ending = |instance: &Instance| instance.phase == Phase::Ending;
    handle.wait_instance(&id("a"), ending, LIMIT).await.unwrap();
    handle.set_ack(true);
    assert_eq!(agent.hear("ack").await["generation"], 9);
}

#[tokio::test]
async fn two_thousand_records_in_one_sync_are_stored() {
    let (server, handle) = server().await;
    let mut agent = Agent::dial(&server, "e1").await;
    agent.hello("boot-1").await;
    agent.hear("welcome").await;
    let ids: Vec<String> = (0..2000).map(|n| format!("r{n}")).collect();
    for (id, generation) in ids.iter().zip(1..) {
        agent.record(generation, id, "ready").await;
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    agent.synced(2000, &ids).await;
    assert_eq!(agent.hear("ack").await["generation"], 2000);
    assert!(handle.instance(&id("r1999")).is_some());
}

#[tokio::test]
async fn unreadable_frames_are_ignored_until_there_are_too_many() {
    let (server, _handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    agent.say(json!({"type": "later"})).await;
    agent.socket.send(Message::text("{")).await.unwrap();
    agent.socket.send(Message::binary(vec![1])).await.unwrap();
    agent.record(1, "a", "ready").await;
    assert_eq!(agent.hear("ack").await["generation"], 1);
    for _ in 0..100 {
        // The server may hang up before it has read them all.
        let _ = agent.socket.send(Message::text("{")).await;
    }
    assert_eq!(agent.next().await, Err(1008));
}

#[tokio::test]
async fn a_message_that_is_too_big_ends_the_session() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let big = "x".repeat(1024 * 1024 + 1);
    let _ = agent.socket.send(Message::text(big)).await;
    assert_eq!(agent.next().await, Err(1009));
    let gone = handle.wait_agent("its end", |agent| agent.session.is_none(), LIMIT);
    gone.await.unwrap();
}

#[tokio::test]
async fn text_that_is_not_utf8_ends_the_session() {
    let (server, _handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let text = OpCode::Data(Data::Text);
    let frame = Frame::message(vec![0xff, 0xfe], text, true);
    agent.socket.send(Message::Frame(frame)).await.unwrap();
    assert_eq!(agent.next().await, Err(1007));
}

#[tokio::test]
async fn a_paused_server_lets_nobody_in_and_a_resumed_one_does() {
    let (server, handle) = server().await;
    handle.pause_accepting();
    let request = ClientRequestBuilder::new(session_url(&server).parse().unwrap())
        .with_sub_protocol("rental-agent.v1");
    assert!(connect_async(request).await.is_err());
    handle.resume_accepting();
    Agent::connect(&server, "e1").await;
}

#[tokio::test]
async fn a_server_that_is_gone_has_nobody_connected() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    drop(server);
    assert_eq!(agent.next().await, Err(1006));
    let nobody = handle.wait_agent("nobody", |agent| agent.session.is_none(), LIMIT);
    nobody.await.unwrap();
}

#[tokio::test]
async fn every_frame_is_logged_with_its_session() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    handle.drop_connection();
    let _ = agent.next().await;
    Agent::connect(&server, "e1").await;
    let kinds: Vec<(u64, String, bool)> = handle
        .frames()
        .into_iter()
        .map(|f| {
            (
                f.session.0,
                f.frame["type"].as_str().unwrap().into(),
                f.current,
            )
        })
        .collect();
    let expected = [(1, "hello"), (1, "synced"), (2, "hello"), (2, "synced")];
    assert_eq!(kinds, expected.map(|(n, kind)| (n, kind.to_owned(), true)));
}

#[tokio::test]
async fn an_operator_follows_a_deploy_to_its_end() {
    let (server, _handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    let deploy = Request::Deploy {
        agent: None,
        spec: spec("a"),
    };
    let mut operator = Client::ask(&server.url(), &deploy).await.unwrap();
    assert!(matches!(tell(&mut operator).await, Event::Sent { .. }));
    assert_eq!(tell(&mut operator).await, Event::Link { connected: true });
    let command = agent.hear("command").await;
    agent.reply(&command, "accepted").await;
    assert!(matches!(tell(&mut operator).await, Event::Reply { .. }));
    agent.record(1, "a", "pulling").await;
    assert!(matches!(tell(&mut operator).await, Event::Record { .. }));
    agent
        .say(json!({
            "type": "progress", "instance_id": "a", "phase": "pulling", "message": "",
            "pull": {"downloaded_bytes": 7},
        }))
        .await;
    let Event::Progress { progress } = tell(&mut operator).await else {
        panic!("no progress");
    };
    assert_eq!(progress.pull.unwrap().downloaded_bytes, 7);
    agent.record(2, "a", "ready").await;
    assert!(matches!(tell(&mut operator).await, Event::Record { .. }));
    agent.reply(&command, "done").await;
    let Event::Reply { reply, counted } = tell(&mut operator).await else {
        panic!("no reply");
    };
    assert!(reply.outcome.is_final() && !counted);
    assert_eq!(operator.next().await.unwrap(), None);
}

#[tokio::test]
async fn an_operator_is_told_what_there_is_and_what_is_refused() {
    let (server, handle) = server().await;
    let mut agent = Agent::connect(&server, "e1").await;
    run(&handle, &mut agent, "a", 1).await;
    let mut ps = Client::ask(&server.url(), &Request::Ps).await.unwrap();
    let Event::List { agents, instances } = tell(&mut ps).await else {
        panic!("no list");
    };
    assert!(agents[0].connected && agents[0].reachable);
    assert_eq!(instances[0].record.as_ref().unwrap().phase, Phase::Ready);
    assert_eq!(ps.next().await.unwrap(), None);
    let again = Request::Deploy {
        agent: None,
        spec: spec("a"),
    };
    let mut refused = Client::ask(&server.url(), &again).await.unwrap();
    let Event::Refused { message } = tell(&mut refused).await else {
        panic!("not refused");
    };
    assert!(message.contains("used once"), "{message}");
}

#[tokio::test]
async fn a_web_page_is_no_operator() {
    let (server, _handle) = server().await;
    let url = format!("{}/operator", server.url());
    let page = ClientRequestBuilder::new(url.parse().unwrap())
        .with_header("Origin", "http://127.0.0.1:7070");
    assert_eq!(refused(connect_async(page).await), 403);
}

/// Deploys `id`, and has the agent run it.
async fn run(handle: &ServerHandle, agent: &mut Agent, id: &str, generation: u64) {
    let ticket = handle.deploy(spec(id)).unwrap();
    let command = agent.hear("command").await;
    agent.record(generation, id, "ready").await;
    agent.reply(&command, "done").await;
    handle.wait_final(&ticket, LIMIT).await.unwrap();
    assert_eq!(agent.hear("ack").await["generation"], generation);
}

async fn tell(operator: &mut Client) -> Event {
    let event = tokio::time::timeout(LIMIT, operator.next()).await;
    event.expect("an event in time").unwrap().expect("an event")
}

type Dialled<T> = Result<(T, tungstenite::handshake::client::Response), tungstenite::Error>;

/// The status of an upgrade that was refused.
fn refused<T>(dialled: Dialled<T>) -> u16 {
    match dialled {
        Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was let in"),
    }
}

fn session_url(server: &Server) -> String {
    format!("{}/agents/dev/session", server.url())
}

fn options() -> Options {
    Options::new("dev".parse().unwrap())
}

/// The far end of a session, as a script drives it.
struct Agent {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    epoch: &'static str,
}

impl Agent {
    async fn dial(server: &Server, epoch: &'static str) -> Self {
        let uri = format!("{}/agents/dev/session", server.url());
        let request =
            ClientRequestBuilder::new(uri.parse().unwrap()).with_sub_protocol("rental-agent.v1");
        let (socket, _) = connect_async(request).await.unwrap();
        Self { socket, epoch }
    }

    /// Greeted and synced, with nothing running.
    async fn connect(server: &Server, epoch: &'static str) -> Self {
        let mut agent = Self::dial(server, epoch).await;
        agent.hello("boot-1").await;
        agent.hear("welcome").await;
        agent.synced(0, &[]).await;
        let epoch = |view: &AgentView| view.hello.as_ref().map(|h| h.agent.epoch.clone());
        let whole = |view: &AgentView| view.synced && epoch(view).unwrap().as_str() == agent.epoch;
        let handle = server.handle();
        handle
            .wait_agent("a synced session", whole, LIMIT)
            .await
            .unwrap();
        agent
    }

    async fn say(&mut self, message: Value) {
        let text = Message::text(message.to_string());
        self.socket.send(text).await.unwrap();
    }

    async fn hello(&mut self, boot_id: &str) {
        let hello = json!({
            "type": "hello",
            "agent": {
                "id": "dev", "version": "0.0.0", "epoch": self.epoch,
                "started_at": "2026-01-01T00:00:00.000Z", "labels": {},
            },
            "host": {"boot_id": boot_id}, "gpus": [], "inventory_complete": true,
            "capacity": {}, "occupied": {}, "capabilities": {"ops": [], "spec": []},
            "status": status(false),
        });
        self.say(hello).await;
    }

    async fn synced(&mut self, generation: u64, ids: &[&str]) {
        self.say(json!({"type": "synced", "generation": generation, "ids": ids}))
            .await;
    }

    async fn record(&mut self, generation: u64, id: &str, phase: &str) {
        self.say(record(generation, id, phase)).await;
    }

    async fn heartbeat(&mut self, draining: bool) {
        self.say(json!({
            "type": "heartbeat", "at": "2026-01-01T00:00:00.000Z", "generation": 0,
            "status": status(draining), "occupied": {},
        }))
        .await;
    }

    async fn reply(&mut self, command: &Value, outcome: &str) {
        self.say(json!({"type": "reply", "command_id": command["id"], "outcome": outcome}))
            .await;
    }

    /// The next text frame; that it is of this type.
    async fn hear(&mut self, kind: &str) -> Value {
        let heard = self.next().await.expect("a frame, not a close");
        assert_eq!(heard["type"], kind, "{heard}");
        heard
    }

    /// The first frame of this type that is as wanted, whatever comes before it.
    async fn hear_until(&mut self, kind: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let heard = self.next().await.expect("a frame, not a close");
            if heard["type"] == kind && wanted(&heard) {
                return heard;
            }
        }
    }

    /// The next text frame, or the code of the close frame.
    async fn next(&mut self) -> Result<Value, u16> {
        loop {
            let message = tokio::time::timeout(LIMIT, self.socket.next())
                .await
                .expect("something from the server");
            match message {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame.map_or(1005, |frame| frame.code.into()));
                }
                Some(Ok(_)) => {}
                None | Some(Err(_)) => return Err(1006),
            }
        }
    }
}

async fn server() -> (Server, ServerHandle) {
    let server = Server::bind(options()).await.unwrap();
    let handle = server.handle();
    (server, handle)
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn spec(id: &str) -> Value {
    json!({"instance_id": id, "image": "busybox"})
}

fn status(draining: bool) -> Value {
    json!({"engine": "ok", "draining": draining, "rentable": !draining, "reasons": []})
}

fn record(generation: u64, id: &str, phase: &str) -> Value {
    let instance = json!({
        "id": id, "phase": phase, "image": "busybox",
        "timeline": {"accepted_at": "2026-01-01T00:00:00.000Z"},
    });
    json!({"type": "instance", "generation": generation, "instance": instance})
}

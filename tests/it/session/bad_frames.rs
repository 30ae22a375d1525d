//! Every frame of the table of bad frames, over a real socket; and the decoder on its own with the
//! corpus that its fuzz target starts from.

use std::{collections::BTreeMap, fs, path::Path};

use futures_util::{SinkExt, StreamExt};
use rental_agent::{driver::FromServer, session::Limits};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;

use super::rig::{Rig, quick};
use crate::{
    bad_frames::{self, BadFrame, Expect},
    decoder,
    peer::Connection,
};

async fn session(limits: Limits) -> (Rig, Connection<TcpStream>) {
    let mut rig = Rig::start(limits).await;
    let connection = rig.peer.session().await;
    rig.connected().await;
    (rig, connection)
}

/// What the driver is told, until this marker comes.
async fn told_before(
    rig: &mut Rig,
    connection: &mut Connection<TcpStream>,
    marker: &str,
) -> Option<Vec<Expect>> {
    connection
        .send(json!({"type": "command", "id": marker, "op": "report"}))
        .await;
    let mut told = Vec::new();
    loop {
        match rig.input().await {
            FromServer::Command { command, .. } if command.id.as_str() == marker => {
                return Some(told);
            }
            FromServer::Command { .. } => told.push(Expect::Taken),
            FromServer::BadCommand { error, .. } => {
                let error = serde_json::to_value(&*error).unwrap();
                let pointer = error["detail"]["pointer"].as_str().unwrap_or_default();
                let code = ["invalid_spec", "unsupported"];
                told.push(Expect::Rejected {
                    code: code
                        .into_iter()
                        .find(|code| error["code"] == *code)
                        .unwrap(),
                    pointer: pointer.to_owned(),
                });
            }
            FromServer::Disconnected { .. } => return None,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn f51_there_are_hundreds_of_bad_frames_and_no_two_are_the_same() {
    let frames = bad_frames::all();
    let mut seen = BTreeMap::new();
    for frame in &frames {
        let bytes = (frame.bytes.clone(), frame.text().is_some());
        if let Some(line) = seen.insert(bytes, frame.line) {
            panic!("line {} says what line {line} says", frame.line);
        }
    }
    let bad = |frame: &&BadFrame| frame.expect != Expect::Taken;
    assert!(frames.iter().filter(bad).count() >= 300, "{}", frames.len());
}

#[tokio::test]
async fn f51_each_bad_frame_is_ignored_and_counted_or_rejected_with_its_pointer() {
    let frames = bad_frames::all();
    let ignored = frames
        .iter()
        .filter(|frame| frame.expect == Expect::Ignored)
        .count();
    let mut limits = quick();
    limits.bad_frames = ignored;
    let (mut rig, mut connection) = session(limits).await;
    let mut wrong = Vec::new();
    for frame in &frames {
        let Some(text) = frame.text() else {
            continue;
        };
        connection.text(text).await;
        let shown: String = text.chars().take(200).collect();
        let Some(told) = told_before(&mut rig, &mut connection, "marker").await else {
            wrong.push(format!("line {}: it has hung up\n    {shown}", frame.line));
            break;
        };
        let expected = match &frame.expect {
            Expect::Ignored | Expect::Unknown => Vec::new(),
            other => vec![other.clone()],
        };
        if told != expected {
            wrong.push(format!("line {}: {told:?}\n    {shown}", frame.line));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Exactly those that were to be counted were: all of them are borne, and not one more.
    connection.text("one more").await;
    assert_eq!(connection.closed().await, Some(1008));
}

#[tokio::test]
async fn f50_f51_bytes_that_are_no_websocket_or_no_utf8_or_too_long_close_with_their_code() {
    let mut wrong = Vec::new();
    for frame in bad_frames::all() {
        let Expect::Close(code) = frame.expect else {
            continue;
        };
        let (mut rig, mut connection) = session(quick()).await;
        connection.bytes(&frame.bytes).await;
        let closed = connection.closed().await;
        if closed != Some(code) {
            wrong.push(format!("line {}: {closed:?}", frame.line));
        }
        drop(connection);
        rig.disconnected().await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn f51_the_decoder_holds_on_the_whole_corpus_of_its_fuzz_target() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut replayed = 0;
    for frame in bad_frames::all() {
        decoder::holds(&frame.bytes);
        replayed += 1;
    }
    // What is good, and what the fuzzer has found so far.
    for folder in ["schemas/examples/server", "fuzz/found/decode"] {
        let Ok(files) = fs::read_dir(root.join(folder)) else {
            continue;
        };
        for file in files {
            decoder::holds(&fs::read(file.unwrap().path()).unwrap());
            replayed += 1;
        }
    }
    assert!(replayed > 400, "{replayed}");
}

#[tokio::test]
async fn f50_a_huge_frame_costs_no_memory() {
    let resident = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<i64>()
            .unwrap()
            * 1024
    };
    for length in [64u64 << 20, 1 << 63, u64::MAX >> 1] {
        let (mut rig, mut connection) = session(quick()).await;
        let before = resident();
        connection
            .bytes(&[&[0x82, 127][..], &length.to_be_bytes()].concat())
            .await;
        let code = connection.closed().await;
        // The highest bit may not be set: that is against the rules before it is too long.
        let expected = if length >> 63 == 1 {
            [1002, 1009]
        } else {
            [1009, 1009]
        };
        assert!(expected.contains(&code.unwrap()), "{length}: {code:?}");
        let grown = resident() - before;
        assert!(grown < 4 * 1024 * 1024, "{grown} bytes for {length}");
        drop(connection);
        rig.disconnected().await;
    }
}

#[tokio::test]
async fn f53_what_is_compressed_never_comes_and_a_bomb_of_it_closes_the_link() {
    let (mut rig, connection) = session(quick()).await;
    assert_eq!(connection.asked.header("sec-websocket-extensions"), "");
    let (mut writer, mut reader) = connection.socket.split();
    // A raw deflate stream with the bit that marks it compressed.
    let bomb = [&[0xc2, 0x05][..], &[0x4b, 0x4c, 0x1c, 0x05, 0xa3]].concat();
    let sent = Frame::Frame(
        tokio_tungstenite::tungstenite::protocol::frame::Frame::from_payload(
            tokio_tungstenite::tungstenite::protocol::frame::FrameHeader {
                is_final: true,
                rsv1: true,
                ..Default::default()
            },
            bomb[2..].to_vec().into(),
        ),
    );
    writer.send(sent).await.unwrap();
    let code = loop {
        if let Frame::Close(frame) = crate::peer::soon(reader.next()).await.unwrap().unwrap() {
            break u16::from(frame.unwrap().code);
        }
    };
    assert_eq!(code, 1002);
    rig.disconnected().await;
}

#[tokio::test]
async fn f52_a_newer_server_is_understood_as_far_as_this_version_goes() {
    let (mut rig, mut connection) = session(quick()).await;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/newer_server.json");
    let steps: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert!(steps.len() > 8);
    for step in steps {
        connection.send(step["frame"].clone()).await;
        let told = told_before(&mut rig, &mut connection, "marker")
            .await
            .unwrap();
        let expected = match step["expect"].as_str().unwrap() {
            "ignored" => Vec::new(),
            "taken" => vec![Expect::Taken],
            pointer => vec![Expect::Rejected {
                code: "unsupported",
                pointer: pointer.to_owned(),
            }],
        };
        assert_eq!(told, expected, "{step}");
    }
}

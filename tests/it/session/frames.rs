//! Frames that a server should not send.

use std::time::Duration;

use rental_agent::{
    driver::FromServer,
    protocol::{ErrorCode, MAX_MESSAGE_BYTES},
};
use serde_json::json;
use tokio::{net::TcpStream, time::interval};
use tokio_tungstenite::tungstenite::Message as Frame;

use super::rig::{Rig, quick};
use crate::peer::{Connection, soon};

/// A session that has begun.
async fn session() -> (Rig, Connection<TcpStream>) {
    let mut rig = Rig::start(quick()).await;
    let connection = rig.peer.session().await;
    rig.connected().await;
    (rig, connection)
}

/// That the link still works: a command arrives.
async fn works(rig: &mut Rig, connection: &mut Connection<TcpStream>) {
    let command = json!({"type": "command", "id": "still-here", "op": "report"});
    connection.send(command).await;
    match rig.input().await {
        FromServer::Command { command, .. } => assert_eq!(command.id.as_str(), "still-here"),
        other => panic!("{other:?}"),
    }
}

/// The code that the agent closes with after these bytes; then it comes back.
async fn closed_by(bytes: &[u8]) -> Option<u16> {
    let (mut rig, mut connection) = session().await;
    connection.bytes(bytes).await;
    let code = connection.closed().await;
    drop(connection);
    rig.disconnected().await;
    rig.peer.session().await;
    rig.connected().await;
    code
}

#[tokio::test]
async fn what_cannot_be_read_is_ignored() {
    let (mut rig, mut connection) = session().await;
    let (deep, wide) = ("[".repeat(100_000), format!("[{}0]", "0,".repeat(400_000)));
    for text in [
        "",
        "nonsense",
        "{}",
        "null",
        r#"{"type":7}"#,
        r#"{"type":"command"}"#,
        r#"{"type":"command","id":"no spaces allowed","op":"report"}"#,
        r#"{"type":"ack","epoch":"e-1","generation":-1}"#,
        r#"{"type":"ack","epoch":"e-1","generation":18446744073709551616}"#,
        r#"{"type":"welcome","session_id":NaN}"#,
        &deep,
        &wide,
    ] {
        connection.text(text).await;
    }
    connection.write(Frame::binary(vec![0; 1000])).await;
    works(&mut rig, &mut connection).await;
}

#[tokio::test]
async fn f52_unknown_types_and_unknown_fields_of_known_ones_are_ignored() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.accept().await;
    connection.expect("hello").await;
    connection.send(json!({"type": "later", "x": 1})).await;
    let mut welcome = crate::peer::welcome();
    welcome["later"] = json!({"deep": [1, 2, 3]});
    connection.send(welcome).await;
    rig.connected().await;
    // Not counted either: more than a hundred of them are fine.
    for _ in 0..300 {
        connection.send(json!({"type": "later"})).await;
    }
    // A second welcome changes nothing.
    connection.send(crate::peer::welcome()).await;
    works(&mut rig, &mut connection).await;
}

#[tokio::test]
async fn f51_f53_a_hundred_bad_frames_a_minute_are_borne_and_no_more() {
    let (mut rig, mut connection) = session().await;
    for number in 0..100 {
        match number % 2 {
            0 => connection.text("{").await,
            _ => connection.write(Frame::binary(vec![1])).await,
        }
    }
    works(&mut rig, &mut connection).await;
    connection.text("{").await;
    assert_eq!(connection.closed().await, Some(1008));
}

#[tokio::test]
async fn a_command_that_cannot_be_done_reaches_the_driver_with_its_reason() {
    let (mut rig, mut connection) = session().await;
    let long = "x".repeat(300 * 1024);
    for (command, code) in [
        (json!({"op": "fly"}), ErrorCode::Unsupported),
        (json!({"op": "terminate"}), ErrorCode::InvalidSpec),
        (json!({"op": "report", "x": 1}), ErrorCode::Unsupported),
        (json!({"op": "report", "x": long}), ErrorCode::InvalidSpec),
    ] {
        let mut command = command;
        command["type"] = json!("command");
        command["id"] = json!("c1");
        connection.send(command).await;
        match rig.input().await {
            FromServer::BadCommand { id, error, .. } => {
                assert_eq!(id.as_str(), "c1");
                assert_eq!(error.code, code);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn f61_a_command_before_welcome_is_rejected_and_forgotten() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.accept().await;
    connection.expect("hello").await;
    for op in ["report", "fly"] {
        let command = json!({"type": "command", "id": "early", "op": op});
        connection.send(command).await;
        let reply = connection.expect("reply").await;
        assert_eq!(reply["command_id"], "early");
        assert_eq!(reply["outcome"], "rejected");
        assert_eq!(reply["error"]["code"], "not_ready");
    }
    connection.send(crate::peer::welcome()).await;
    rig.connected().await;
    works(&mut rig, &mut connection).await;
}

#[tokio::test]
async fn a_message_of_exactly_one_mebibyte_is_read_and_a_longer_one_is_1009() {
    let (mut rig, mut connection) = session().await;
    let envelope = r#"{"type":"later","x":""}"#.len();
    let text = |bytes: usize| {
        format!(
            r#"{{"type":"later","x":"{}"}}"#,
            "x".repeat(bytes - envelope)
        )
    };
    connection.text(&text(MAX_MESSAGE_BYTES)).await;
    works(&mut rig, &mut connection).await;
    let too_long = Frame::text(text(MAX_MESSAGE_BYTES + 1));
    // It may hang up while this is still being sent.
    let (mut writer, mut reader) = futures_util::StreamExt::split(connection.socket);
    let sending = futures_util::SinkExt::send(&mut writer, too_long);
    let closing = async {
        loop {
            let frame = soon(futures_util::StreamExt::next(&mut reader)).await;
            if let Frame::Close(frame) = frame.unwrap().unwrap() {
                break frame.unwrap().code.into();
            }
        }
    };
    let (_, code): (_, u16) = tokio::join!(sending, closing);
    assert_eq!(code, 1009);
}

#[tokio::test]
async fn f50_a_frame_that_claims_to_be_huge_is_1009_without_waiting_for_it() {
    let huge = [&[0x81, 127][..], &(1u64 << 62).to_be_bytes()].concat();
    assert_eq!(closed_by(&huge).await, Some(1009));
    let large = [&[0x81, 127][..], &(64u64 << 20).to_be_bytes()].concat();
    assert_eq!(closed_by(&large).await, Some(1009));
}

#[tokio::test]
async fn f50_fragments_that_are_too_long_together_are_1009() {
    let (mut rig, mut connection) = session().await;
    let fragment = vec![b'x'; 300_000];
    let head = |first: u8| [&[first, 127][..], &300_000u64.to_be_bytes()].concat();
    connection
        .bytes(&[head(0x01), fragment.clone()].concat())
        .await;
    for _ in 0..3 {
        connection
            .bytes(&[head(0x00), fragment.clone()].concat())
            .await;
    }
    assert_eq!(connection.closed().await, Some(1009));
    rig.disconnected().await;
}

#[tokio::test]
async fn what_is_not_utf8_is_1007() {
    assert_eq!(closed_by(&[0x81, 2, 0xc3, 0x28]).await, Some(1007));
    // Also when only the whole of two fragments shows it.
    assert_eq!(closed_by(&[0x01, 1, 0xe2, 0x80, 1, 0x28]).await, Some(1007));
}

#[tokio::test]
async fn what_breaks_the_rules_of_websocket_is_1002() {
    for bytes in [
        // Compressed, which was never agreed.
        &[0xc1, 1, b'x'][..],
        // Masked, which only clients do.
        &[0x81, 0x81, 1, 2, 3, 4, b'x'],
        // A fragment of nothing.
        &[0x80, 1, b'x'],
        // A ping in fragments.
        &[0x09, 0],
        // Kinds of frames that do not exist.
        &[0x83, 0],
        &[0x8b, 0],
    ] {
        assert_eq!(closed_by(bytes).await, Some(1002), "{bytes:x?}");
    }
}

#[tokio::test]
async fn f45_a_reset_within_a_frame_is_a_drop() {
    let (mut rig, mut connection) = session().await;
    connection.bytes(&[0x81, 100, b'{']).await;
    connection.socket.get_ref().set_zero_linger().unwrap();
    drop(connection);
    rig.disconnected().await;
    rig.peer.session().await;
    rig.connected().await;
}

#[tokio::test]
async fn a_message_in_many_small_fragments_with_pings_between_is_read() {
    let (mut rig, mut connection) = session().await;
    let command = br#"{"type":"command","id":"in-pieces","op":"report"}"#;
    for (index, byte) in command.iter().enumerate() {
        let first = match index {
            0 => 0x01,
            _ if index + 1 == command.len() => 0x80,
            _ => 0x00,
        };
        connection.bytes(&[first, 1, *byte, 0x89, 0]).await;
    }
    match rig.input().await {
        FromServer::Command { command, .. } => assert_eq!(command.id.as_str(), "in-pieces"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn f49_a_message_that_trickles_in_is_given_up() {
    let mut limits = quick();
    limits.message = Duration::from_millis(300);
    let mut rig = Rig::start(limits).await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    connection.bytes(&[0x81, 100]).await;
    let mut pace = interval(Duration::from_millis(10));
    while rig.inputs.try_recv().is_err() {
        pace.tick().await;
        let byte = tokio::io::AsyncWriteExt::write_all(connection.socket.get_mut(), b"x").await;
        if byte.is_err() {
            break;
        }
    }
    rig.peer.session().await;
}

#[tokio::test]
async fn f49_fragments_that_never_end_are_given_up_even_with_pings_between() {
    let mut limits = quick();
    limits.message = Duration::from_millis(300);
    let mut rig = Rig::start(limits).await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    connection.bytes(&[0x01, 0]).await;
    let mut pace = interval(Duration::from_millis(10));
    let endless = async {
        loop {
            pace.tick().await;
            let piece = [0x00, 0, 0x89, 0];
            let socket = connection.socket.get_mut();
            if tokio::io::AsyncWriteExt::write_all(socket, &piece)
                .await
                .is_err()
            {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = rig.disconnected() => {}
        () = endless => {}
    }
}

//! A session that takes signed commands only.

use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine, prelude::BASE64_STANDARD};
use rental_agent::{
    config::CommandKey,
    dev::{Options, Server, Signer},
    driver::FromServer,
    protocol::{Op, command::Command},
};
use serde_json::{Value, json};

use super::rig::{Rig, quick};
use crate::peer::{Peer, soon};

fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(pair: &Ed25519KeyPair) -> CommandKey {
    CommandKey(pair.public_key().as_ref().try_into().unwrap())
}

async fn obeying(key: CommandKey) -> Rig {
    let peer = Peer::start().await;
    Rig::prepared(peer, quick(), |_| {}, |session| session.obeying(key))
}

fn signed(payload: &Value, by: &Ed25519KeyPair) -> Value {
    let payload = payload.to_string();
    json!({
        "type": "command",
        "id": payload_id(&payload),
        "signed": BASE64_STANDARD.encode(&payload),
        "sig": BASE64_STANDARD.encode(by.sign(payload.as_bytes())),
    })
}

fn payload_id(payload: &str) -> Value {
    serde_json::from_str::<Value>(payload).unwrap()["id"].take()
}

fn report() -> Value {
    json!({
        "id": "c1", "op": "report", "agent_id": "host-7",
        "not_after": "2026-11-21T12:10:00.000Z",
    })
}

async fn command(rig: &mut Rig) -> Command {
    match rig.input().await {
        FromServer::Command { command, .. } => *command,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_nobody_signed_is_rejected_and_its_id_stays_free_for_what_is_signed() {
    let (ours, theirs) = (key(1), key(2));
    let mut rig = obeying(public(&ours)).await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    let mut of_another_agent = report();
    of_another_agent["agent_id"] = json!("host-8");
    let mut without_end = report();
    without_end["not_after"] = json!(null);
    let mut changed = signed(&report(), &ours);
    let evil = report().to_string().replace("report", "drain");
    changed["signed"] = json!(BASE64_STANDARD.encode(evil));
    let plain = json!({"type": "command", "id": "c1", "op": "report"});
    for (frame, code, pointer) in [
        (plain, "policy_denied", "/signed"),
        (signed(&report(), &theirs), "policy_denied", "/sig"),
        (changed, "policy_denied", "/sig"),
        (
            signed(&of_another_agent, &ours),
            "policy_denied",
            "/agent_id",
        ),
        (signed(&without_end, &ours), "invalid_spec", "/not_after"),
    ] {
        connection.send(frame).await;
        let reply = connection.find("reply").await;
        assert_eq!(reply["command_id"], "c1");
        assert_eq!(reply["outcome"], "rejected");
        assert_eq!(reply["error"]["code"], code, "{reply}");
        assert_eq!(reply["error"]["detail"]["pointer"], pointer, "{reply}");
        assert!(rig.inputs.try_recv().is_err(), "the driver was told of it");
    }
    connection.send(signed(&report(), &ours)).await;
    let command = command(&mut rig).await;
    assert_eq!(command.id.as_str(), "c1");
    // Which is the driver's to compare with the time.
    assert_eq!(
        command.not_after.unwrap().to_string(),
        "2026-11-21T12:10:00.000Z"
    );
}

#[tokio::test]
async fn before_welcome_a_signed_command_is_not_ready_either() {
    let ours = key(1);
    let rig = obeying(public(&ours)).await;
    let mut connection = rig.peer.accept().await;
    connection.expect("hello").await;
    for frame in [signed(&report(), &ours), signed(&report(), &key(2))] {
        connection.send(frame).await;
        assert_eq!(
            connection.expect("reply").await["error"]["code"],
            "not_ready"
        );
    }
}

#[tokio::test]
async fn without_the_policy_a_signed_command_is_one_with_fields_that_are_not_served() {
    let mut rig = Rig::start(quick()).await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    connection.send(signed(&report(), &key(1))).await;
    assert!(matches!(rig.input().await, FromServer::BadCommand { .. }));
}

#[tokio::test]
async fn the_reference_server_signs_for_the_agent_that_is_meant() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    std::fs::write(file.path(), pair.serialize_pem()).unwrap();
    let signer = Signer::read(file.path()).unwrap();
    let trusted = CommandKey(signer.public_key().try_into().unwrap());
    assert_eq!(trusted.0, pair.public_key_raw());
    let mut options = Options::new("host-7".parse().unwrap());
    options.signer = Some(Arc::new(signer));
    let server = Server::bind(options).await.unwrap();
    let url = server.url().parse().unwrap();
    let mut rig = Rig::prepared(
        Peer::start().await,
        quick(),
        |config| config.url = url,
        |session| session.obeying(trusted),
    );
    rig.connected().await;
    let spec = json!({"instance_id": "r-1", "image": "busybox"});
    let ticket = server.handle().deploy(spec).unwrap();
    let first = soon(command(&mut rig)).await;
    assert_eq!(first.id, ticket.id);
    assert!(first.not_after.is_some());
    assert!(matches!(&first.op, Op::Deploy(deploy) if deploy.spec.image == "busybox"));
    // Sent again it is the same command, to the byte.
    assert!(server.handle().send_again(&ticket));
    assert_eq!(command(&mut rig).await.not_after, first.not_after);
}

//! The control socket.

use std::os::unix::fs::PermissionsExt;

use rental_agent::{api::Limits, protocol::record::GpuState};
use serde_json::json;

use super::rig::{Rig, spec};
use crate::peer::soon;

#[tokio::test]
async fn the_owner_needs_no_token_and_may_drain() {
    let rig = Rig::start().await;
    let started = rig
        .control("POST", "/start_instance", Some(&spec("a")))
        .await;
    assert_eq!(started.status, 200, "{started:?}");
    let all = rig.control("GET", "/instances", None).await.json();
    assert_eq!(all["instances"][0]["id"], "a");
    let drained = rig.control("POST", "/drain", None).await;
    assert_eq!(
        (drained.status, drained.json()),
        (200, json!({ "draining": true }))
    );
    let ready = rig.ask("GET", "/ready", &[], None).await;
    assert_eq!(
        (ready.status, ready.json()),
        (503, json!({ "ready": false, "reasons": ["draining"] }))
    );
    let refused = rig.post("/start_instance", &[], &spec("b")).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (409, "draining")
    );
    assert_eq!(
        rig.control("POST", "/resume", None).await.json(),
        json!({ "draining": false })
    );
    assert_eq!(
        rig.post("/start_instance", &[], &spec("b")).await.status,
        200
    );
    let body = json!({ "instance_id": "a" });
    assert_eq!(
        rig.control("POST", "/terminate_instance", Some(&body))
            .await
            .status,
        200
    );
}

/// What the program says to this command on the rig's socket.
async fn said(rig: &Rig, arguments: &[&str]) -> (bool, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_rental-agent"))
        .args(arguments)
        .arg("--socket")
        .arg(rig.control_path())
        .env_clear()
        .output();
    let output = soon(output).await.unwrap();
    let text = match output.status.success() {
        true => output.stdout,
        false => output.stderr,
    };
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn the_owner_asks_on_the_command_line() {
    let rig = Rig::start().await;
    assert_eq!(said(&rig, &["ps"]).await, (true, "no rentals\n".to_owned()));
    let started = rig.post("/start_instance", &[], &spec("a")).await.json();
    let (_, listed) = said(&rig, &["ps"]).await;
    assert!(
        listed.contains("ready") && listed.contains("alpha"),
        "{listed}"
    );
    let (_, listed) = said(&rig, &["ps", "--json"]).await;
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["instances"][0]["id"], "a");
    let (_, drained) = said(&rig, &["drain"]).await;
    assert!(drained.starts_with("draining"), "{drained}");
    assert!(rig.snapshot().status.draining);
    assert!(said(&rig, &["resume", "--json"]).await.1.contains("false"));
    let container = started["container_id"].as_str().unwrap();
    let ended = said(&rig, &["terminate", container]).await;
    assert_eq!(ended, (true, "terminated\n".to_owned()));
    assert!(rig.engine.held().containers.is_empty());
    let again = said(&rig, &["terminate", "a"]).await;
    assert_eq!(again, (true, "terminated\n".to_owned()));
    let (ok, none) = said(&rig, &["terminate", &"0".repeat(64)]).await;
    assert!(
        !ok && none.contains("no rental has this container"),
        "{none}"
    );
}

#[tokio::test]
async fn the_owner_keeps_a_gpu_back_and_gives_it_back() {
    let rig = Rig::start().await;
    let uuid = crate::model::fixture::gpu_uuid(0);
    let kept = ["gpu", "quarantine", &uuid, "--reason", "its fan rattles"];
    let (ok, kept) = said(&rig, &kept).await;
    assert!(ok && kept.contains("is quarantined"), "{kept}");
    assert_eq!(rig.snapshot().gpus[0].state, GpuState::Quarantined);
    let mut spec = spec("a");
    spec["gpus"] = json!({ "uuids": [uuid] });
    let refused = rig.post("/start_instance", &[], &spec).await;
    assert_eq!(refused.status, 409);
    let why = refused.json()["detail"].to_string();
    assert!(
        why.contains("its fan rattles") && why.contains("gpu release"),
        "{why}"
    );
    let (ok, released) = said(&rig, &["gpu", "release", &uuid]).await;
    assert!(ok && released.contains("is released"), "{released}");
    assert_ne!(rig.snapshot().gpus[0].state, GpuState::Quarantined);
    let (ok, again) = said(&rig, &["gpu", "release", &uuid]).await;
    assert!(ok && again.contains("was not quarantined"), "{again}");
    for verb in ["quarantine", "release"] {
        let (ok, nowhere) = said(&rig, &["gpu", verb, "GPU-nowhere"]).await;
        assert!(
            !ok && nowhere.contains("this host has no GPU GPU-nowhere"),
            "{nowhere}"
        );
    }
    let nothing = rig.control("POST", "/gpus/GPU-0/polish", None).await;
    assert_eq!(nothing.status, 404);
}

#[tokio::test]
async fn where_no_agent_runs_the_command_line_says_so() {
    let rig = Rig::with(Limits::default(), &[("control.socket", "off")]).await;
    let (ok, said) = said(&rig, &["ps"]).await;
    assert!(!ok && said.contains("no agent can be reached at"), "{said}");
}

#[tokio::test]
async fn nobody_else_can_open_the_control_socket() {
    let rig = Rig::start().await;
    rig.control("GET", "/health", None).await;
    let mode = std::fs::metadata(rig.control_path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn a_path_that_cannot_be_had_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let within = file.join("control.sock");
    let rig = Rig::with(
        Limits::default(),
        &[("control.socket", within.to_str().unwrap())],
    )
    .await;
    assert_eq!(rig.ask("GET", "/health", &[], None).await.status, 200);
}

//! Starting, ending and reading rentals.

use std::time::Duration;

use rental_agent::{api::Limits, protocol::Phase};
use serde_json::json;

use super::{
    client::request,
    rig::{Rig, spec},
    tokens::{claims, token, with},
};
use crate::{model::fixture::gpu_uuid, peer::soon};

#[tokio::test]
async fn a_rental_is_started_read_and_terminated() {
    let rig = Rig::start().await;
    let started = rig.post("/start_instance", &[], &spec("a")).await;
    assert_eq!(started.status, 200, "{started:?}");
    let started = started.json();
    assert_eq!(started["message"], "Instance started successfully");
    assert_eq!(started["instance_id"], "a");
    assert_eq!(started["instance"]["phase"], "ready");
    assert_eq!(started["container_id"], started["instance"]["container_id"]);
    let one = rig.get("/instances/a", "instances:read").await.json();
    assert_eq!(one, started["instance"]);
    let all = rig.get("/instances", "instances:read").await.json();
    assert_eq!(all, json!({ "instances": [one] }));
    let body = json!({ "container_id": started["container_id"] });
    let ended = rig.post("/terminate_instance", &[], &body).await;
    let expected = json!({ "message": "Instance terminated successfully", "instance_id": "a",
        "known": true });
    assert_eq!((ended.status, ended.json()), (200, expected.clone()));
    assert!(rig.engine.held().containers.is_empty());
    let again = rig
        .post("/terminate_instance", &[], &json!({ "instance_id": "a" }))
        .await;
    assert_eq!(again.json(), expected);
}

#[tokio::test]
async fn the_short_form_starts_a_rental_with_its_gpu_its_memory_and_its_keys() {
    let rig = Rig::start().await;
    let key = "ssh-ed25519 AAAAC3Nz renter@home; touch /tmp/x $(id)";
    let body = json!({ "image_name": "alpha", "user_ssh_key": key, "gpu_uuid": gpu_uuid(1),
        "memory_limit_mb": 512 });
    let started = rig.post("/start_instance", &[], &body).await;
    assert_eq!(started.status, 200, "{started:?}");
    let record = &started.json()["instance"];
    assert_eq!(record["gpus"], json!([gpu_uuid(1)]));
    assert_eq!(record["memory_bytes"], 512 * 1024 * 1024);
    let env = rig
        .engine
        .held()
        .containers
        .values()
        .next()
        .unwrap()
        .1
        .clone();
    for name in ["SSH_PUBLIC_KEYS", "PUBLIC_KEY"] {
        let value = env.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        assert_eq!(value, Some(key), "{name}, as it was given");
    }
    // The same GPU is not given out again.
    let second = rig.post("/start_instance", &[], &body).await;
    assert_eq!(
        (second.status, second.problem().as_str()),
        (409, "gpu_unavailable")
    );
}

#[tokio::test]
async fn a_request_that_is_sent_again_is_the_same_rental() {
    let rig = Rig::start().await;
    let body = json!({ "image_name": "alpha" });
    let first = rig
        .post("/start_instance", &[("Idempotency-Key", "order-1")], &body)
        .await
        .json();
    for _ in 0..3 {
        let again = rig
            .post("/start_instance", &[("Idempotency-Key", "order-1")], &body)
            .await;
        assert_eq!((again.status, again.json()), (200, first.clone()));
    }
    assert_eq!(rig.engine.made(), 1);
    let other = rig
        .post("/start_instance", &[("Idempotency-Key", "order-2")], &body)
        .await;
    assert_ne!(other.json()["instance_id"], first["instance_id"]);
    let without = rig.post("/start_instance", &[], &body).await;
    assert_eq!(without.status, 200);
    assert_eq!(rig.engine.made(), 3);
    // The same key with another wish is no retry.
    let body = json!({ "image_name": "alpha", "memory_limit_mb": 64 });
    let other = rig
        .post("/start_instance", &[("Idempotency-Key", "order-1")], &body)
        .await;
    assert_eq!((other.status, other.problem().as_str()), (409, "conflict"));
}

#[tokio::test]
async fn retries_at_the_same_time_make_one_rental() {
    let rig = Rig::start().await;
    let body = json!({ "image_name": "slow" });
    let ask = || rig.post("/start_instance", &[("Idempotency-Key", "k")], &body);
    let all = async { tokio::join!(ask(), ask(), ask(), ask()) };
    let end = async {
        let mut snapshot = rig.inputs.snapshot.clone();
        let pulls = |s: &std::sync::Arc<rental_agent::instance::publish::Snapshot>| {
            s.instances
                .iter()
                .any(|record| record.phase == Phase::Pulling)
        };
        soon(snapshot.wait_for(pulls)).await.unwrap();
        rig.engine.let_a_pull_end();
    };
    let (answers, ()) = tokio::join!(all, end);
    let (a, b, c, d) = answers;
    for answer in [&a, &b, &c, &d] {
        assert_eq!((answer.status, answer.json()), (200, a.json()));
    }
    assert_eq!(rig.engine.made(), 1);
}

#[tokio::test]
async fn ids_of_one_subject_are_not_those_of_another() {
    let rig = Rig::start().await;
    let mut ids = Vec::new();
    for sub in ["one", "two"] {
        let bearer = with(claims("instances:write"), &[("sub", json!(sub))]);
        let bearer = format!("Bearer {bearer}");
        let headers = [("Authorization", bearer.as_str()), ("Idempotency-Key", "k")];
        let body = json!({ "image_name": "alpha" });
        let started = rig
            .ask("POST", "/start_instance", &headers, Some(&body))
            .await
            .json();
        ids.push(started["instance_id"].as_str().unwrap().to_owned());
        let command = started["instance"]["command_id"].as_str().unwrap();
        assert!(
            command.starts_with("http:") && command.len() == 37,
            "{command}"
        );
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn who_prefers_not_to_wait_is_answered_when_it_is_accepted() {
    let mut rig = Rig::start().await;
    let body = json!({ "instance_id": "a", "image": "slow" });
    let answer = rig
        .post(
            "/start_instance",
            &[("Prefer", "wait=5, respond-async")],
            &body,
        )
        .await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json()["instance_id"], "a");
    assert_ne!(answer.json()["instance"]["phase"], "ready");
    rig.engine.let_a_pull_end();
    rig.until(|s| {
        s.instances
            .iter()
            .any(|record| record.phase == Phase::Ready)
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_changes_nothing() {
    use tokio::io::AsyncWriteExt;
    let mut rig = Rig::start().await;
    let bearer = format!("Bearer {}", token("instances:write"));
    let body = json!({ "instance_id": "a", "image": "slow" }).to_string();
    let text = request(
        "POST",
        "/start_instance",
        &[("Authorization", &bearer)],
        Some(&body),
    );
    let mut stream = rig.dial().await;
    stream.write_all(text.as_bytes()).await.unwrap();
    rig.until(|s| {
        s.instances
            .iter()
            .any(|record| record.phase == Phase::Pulling)
    })
    .await;
    drop(stream);
    rig.engine.let_a_pull_end();
    rig.until(|s| {
        s.instances
            .iter()
            .any(|record| record.phase == Phase::Ready)
    })
    .await;
    assert_eq!(rig.engine.made(), 1);
}

#[tokio::test]
async fn what_is_wrong_is_pointed_at_in_what_was_sent() {
    let rig = Rig::start().await;
    for (body, code, pointer) in [
        (
            json!({ "instance_id": "a", "image": "alpha", "colour": 1 }),
            "unsupported",
            "/colour",
        ),
        (
            json!({ "instance_id": "A", "image": "alpha" }),
            "invalid_spec",
            "/instance_id",
        ),
        (
            json!({ "instance_id": "a", "image": "A B" }),
            "invalid_spec",
            "/image",
        ),
        (
            json!({ "instance_id": "a", "image": "alpha", "ports": [{ "name": "x", "container": 0 }] }),
            "invalid_spec",
            "/ports/0/container",
        ),
        (
            json!({ "image_name": "A B" }),
            "invalid_spec",
            "/image_name",
        ),
        (
            json!({ "image_name": "alpha", "colour": 1 }),
            "unsupported",
            "/colour",
        ),
        (
            json!({ "image_name": "alpha", "memory_limit_mb": 1 }),
            "invalid_spec",
            "/memory_limit_mb",
        ),
        (
            json!({ "image_name": "alpha", "gpu_uuid": "a b" }),
            "invalid_spec",
            "/gpu_uuid",
        ),
    ] {
        let answer = rig.post("/start_instance", &[], &body).await;
        assert_eq!(
            (answer.status, answer.problem()),
            (400, code.to_owned()),
            "{body}: {answer:?}"
        );
        assert_eq!(answer.json()["pointer"], pointer, "{body}");
    }
    for (body, status, code) in [
        (json!({}), 400, "invalid_spec"),
        (
            json!({ "instance_id": "a", "container_id": "0123456789ab" }),
            400,
            "invalid_spec",
        ),
        (json!({ "instance_id": "A" }), 400, "invalid_spec"),
        (json!({ "container_id": "$(id)" }), 400, "invalid_spec"),
        (
            json!({ "instance_id": "a", "force": true }),
            400,
            "unsupported",
        ),
        (json!({ "container_id": "0123456789ab" }), 404, "not_found"),
    ] {
        let answer = rig.post("/terminate_instance", &[], &body).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (status, code),
            "{body}"
        );
    }
    assert_eq!(rig.snapshot().generation.0, 0, "nothing was changed");
}

#[tokio::test]
async fn how_a_deploy_fails_is_told_by_the_status() {
    let rig = Rig::start().await;
    for (change, status, code) in [
        (json!({ "image": "missing" }), 502, "image_not_found"),
        (json!({ "image": "10.0.0.1/a" }), 403, "policy_denied"),
        (
            json!({ "gpus": { "uuids": ["GPU-none"] } }),
            409,
            "gpu_unavailable",
        ),
        (
            json!({ "memory_bytes": 1u64 << 50 }),
            409,
            "insufficient_resources",
        ),
    ] {
        let mut body = spec(&format!("a-{code}").replace('_', "-"));
        body.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        let answer = rig.post("/start_instance", &[], &body).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (status, code),
            "{answer:?}"
        );
    }
    let unknown = rig
        .post(
            "/terminate_instance",
            &[],
            &json!({ "instance_id": "never" }),
        )
        .await;
    assert_eq!(unknown.json()["known"], false);
    let late = rig.post("/start_instance", &[], &spec("never")).await;
    assert_eq!(
        (late.status, late.problem().as_str()),
        (409, "conflict"),
        "terminate wins"
    );
}

#[tokio::test]
async fn a_terminate_overtakes_the_deploy_that_somebody_waits_for() {
    let rig = Rig::start().await;
    let body = json!({ "instance_id": "a", "image": "slow" });
    let deploy = rig.post("/start_instance", &[], &body);
    let terminate = async {
        let mut snapshot = rig.inputs.snapshot.clone();
        soon(snapshot.wait_for(|s| !s.instances.is_empty()))
            .await
            .unwrap();
        rig.post("/terminate_instance", &[], &json!({ "instance_id": "a" }))
            .await
    };
    let (deploy, terminate) = tokio::join!(deploy, terminate);
    assert_eq!(
        (deploy.status, deploy.problem().as_str()),
        (409, "cancelled")
    );
    assert_eq!(
        (terminate.status, &terminate.json()["known"]),
        (200, &json!(true))
    );
}

#[tokio::test]
async fn who_has_waited_long_enough_is_told_so_and_the_rental_goes_on() {
    let limits = Limits {
        answer: Duration::from_millis(100),
        ..Limits::default()
    };
    let mut rig = Rig::with(limits, &[]).await;
    let body = json!({ "instance_id": "a", "image": "slow" });
    let answer = rig.post("/start_instance", &[], &body).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (504, "deadline_exceeded")
    );
    rig.engine.let_a_pull_end();
    rig.until(|s| {
        s.instances
            .iter()
            .any(|record| record.phase == Phase::Ready)
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_ends_tells_those_who_wait() {
    let rig = Rig::start().await;
    let body = json!({ "instance_id": "a", "image": "slow" });
    let wait = rig.post("/start_instance", &[], &body);
    let end = async {
        let mut snapshot = rig.inputs.snapshot.clone();
        soon(snapshot.wait_for(|s| !s.instances.is_empty()))
            .await
            .unwrap();
        rig.stop.cancel();
    };
    let (answer, ()) = tokio::join!(wait, end);
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (503, "not_ready")
    );
}

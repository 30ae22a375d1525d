//! From the command to a rental that serves, and the ways in which that fails.

use std::time::Duration;

use rental_agent::protocol::{EndReason, ErrorCode, Outcome, Phase, Stage};
use serde_json::json;

use crate::{
    lab::Side,
    world::{Spec, World, exits, serves_http, sleeps},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_brings_up_what_was_asked_for_and_tells_every_step() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world
        .spec(&serves_http())
        .port("web", 80)
        .with("labels", json!({ "order": "17" }));
    let (id, record) = world.deploy_ready(&spec).await;

    let seen = world.running(&id).await;
    assert_eq!(record.container_id.as_ref().unwrap().as_str(), seen.id);
    assert_eq!(record.labels["order"], "17");
    assert_eq!(record.memory_bytes, 16 * 1024 * 1024);
    let port = record.ports[0].host;
    assert!((world.first_port()..world.first_port() + 10).contains(&port));
    assert_eq!(world.get(port).await, "hello\n");
    let over_ipv6 = world.get_over_ipv6(port);
    assert!(over_ipv6.is_none_or(|page| page == "hello\n"));

    let timeline = &record.timeline;
    let steps = [
        timeline.accepted_at,
        timeline.creating_at,
        timeline.starting_at,
        timeline.running_at,
        timeline.ready_at,
    ];
    assert!(steps.iter().all(Option::is_some), "{timeline:?}");
    assert!(steps.is_sorted(), "{timeline:?}");
    assert_eq!(
        world.phases(&id),
        ["accepted", "creating", "starting", "running", "ready"]
    );
    let markers = world.markers(&id).await;
    assert_eq!(markers.keys().collect::<Vec<_>>(), ["lease.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_that_shows_an_effect_precedes_the_reply() {
    let mut world = World::shared().await;
    world.up().await;
    let (id, deploy) = world.deploy(&world.sleeper());
    world.final_reply(&deploy).await;
    let terminate = world.server.terminate(&id).unwrap();
    world.final_reply(&terminate).await;
    let story = world.story(&id, &[&deploy, &terminate]);
    let place = |wanted: &str| {
        let found = story.iter().position(|step| step == wanted);
        found.unwrap_or_else(|| panic!("{wanted} in {story:?}"))
    };
    assert!(place("instance ready") < place("reply 0 done"));
    assert!(place("reply 1 accepted") < place("instance ended"));
    assert!(place("instance ended") < place("reply 1 done"));
    assert!(place("reply 0 accepted") < place("instance ready"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_answers_and_keeps_nothing() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.sleeper().port("web", 80);
    let id = spec.id();
    let command = json!({ "op": "deploy", "spec": spec.json(), "dry_run": true });
    let ticket = world.server.command(command).unwrap();
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Done);
    assert_eq!(reply.result.unwrap()["ports"].as_array().unwrap().len(), 1);
    assert!(world.server.instance(&id).is_none());
    assert!(world.container(&id).await.is_none());
    // The id is not used up.
    world.deploy_ready(&spec).await;
}

/// F32.
#[tokio::test(flavor = "multi_thread")]
async fn a_rental_that_ends_at_once_leaves_its_code_and_its_last_words() {
    let mut world = World::shared().await;
    world.up().await;
    let cases = [
        (world.spec(&exits(3)), 3, "last words"),
        (world.spec(&["/no/such/program"]), 127, "No such file"),
        (world.spec(&["/unique"]), 126, "Permission denied"),
    ];
    for (spec, code, words) in cases {
        let (id, _) = world.deploy(&spec);
        let record = world.wait_phase(&id, Phase::Ended).await;
        let ended = record.ended.unwrap();
        assert_eq!(ended.exit_code, Some(code));
        assert!(
            ended.log_tail.as_ref().unwrap().contains(words),
            "{ended:?}"
        );
        // Without a probe `ready` follows `running` at once: which of the two it was when it ended
        // is the engine's pace.
        match ended.reason {
            EndReason::Failed => assert_eq!(ended.error.unwrap().code, ErrorCode::ExitedEarly),
            reason => assert_eq!(reason, EndReason::Exited),
        }
    }
    world.assert_clean().await;
}

/// F32, in the order that is the worst.
#[tokio::test(flavor = "multi_thread")]
async fn a_rental_that_ends_before_it_was_seen_running_has_failed() {
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let started = proxy.hold("POST", "/start", Side::AfterEngine);
    let (id, ticket) = world.deploy(&world.spec(&exits(3)));
    world.wait_state(&id, "exited").await;
    started.release();
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Failed);
    let error = reply.error.unwrap();
    assert_eq!(
        (error.code, error.stage),
        (ErrorCode::ExitedEarly, Some(Stage::Ready))
    );
    let ended = world
        .wait_ended(&id, EndReason::Failed)
        .await
        .ended
        .unwrap();
    assert_eq!(ended.exit_code, Some(3));
    assert!(ended.log_tail.unwrap().contains("last words"));
    assert!(world.container(&id).await.is_none());
}

/// F32: what the engine refuses to start.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_the_engine_refuses_fails_the_deploy_and_leaves_nothing() {
    let mut world = World::shared().await;
    let above_the_engines_own = r#"{"nofile":{"soft":1073741816,"hard":1073741816}}"#;
    world.set_env("RENTAL_AGENT__RESOURCES__ULIMITS", above_the_engines_own);
    world.up().await;
    let (id, error) = world.deploy_failed(&world.sleeper().port("web", 80)).await;
    assert_eq!(
        (error.code, error.stage),
        (ErrorCode::StartFailed, Some(Stage::Start))
    );
    let record = world.wait_ended(&id, EndReason::Failed).await;
    assert_eq!(record.ended.unwrap().error.unwrap(), error);
    assert!(world.container(&id).await.is_none());
    world.assert_clean().await;
}

/// F34.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_a_stranger_has_is_left_for_another_one() {
    let mut world = World::shared().await;
    world.up().await;
    let taken = world.first_port();
    let _listener = world.listen_on(taken).await;
    let spec = world.spec(&serves_http()).port("web", 80);
    let (id, record) = world.deploy_ready(&spec).await;
    assert_ne!(record.ports[0].host, taken);
    assert_eq!(world.get(record.ports[0].host).await, "hello\n");
    assert_eq!(
        world.running(&id).await.id,
        record.container_id.unwrap().as_str()
    );
}

/// F15.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_another_agents_rental_is_taken() {
    let mut world = World::shared().await;
    let mut other = World::shared().await;
    let port = world.first_port();
    let range = format!("{port}-{}", port + 1);
    for one in [&mut world, &mut other] {
        one.set_env("RENTAL_AGENT__NETWORK__PORT_RANGE", range.clone());
    }
    other.up().await;
    let (_, theirs) = other.deploy_ready(&other.sleeper().port("web", 80)).await;
    world.up().await;
    let (_, ours) = world.deploy_ready(&world.sleeper().port("web", 80)).await;
    assert_ne!(ours.ports[0].host, theirs.ports[0].host);
    let (_, error) = world.deploy_failed(&world.sleeper().port("web", 80)).await;
    assert_eq!(error.code, ErrorCode::PortUnavailable, "{error:?}");
}

/// F34.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_free_port_the_deploy_fails_and_leaves_nothing() {
    let mut world = World::shared().await;
    let port = world.first_port();
    world.set_env(
        "RENTAL_AGENT__NETWORK__PORT_RANGE",
        format!("{port}-{port}"),
    );
    world.up().await;
    let _listener = world.listen_on(port).await;
    let spec = world.sleeper().port("web", 80);
    let (_, error) = world.deploy_failed(&spec).await;
    assert_eq!(error.code, ErrorCode::PortUnavailable, "{error:?}");
    assert!(world.containers().await.is_empty());
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_does_not_have_is_refused_before_the_engine_is_asked() {
    let mut world = World::shared().await;
    world.up().await;
    let too_much = world.sleeper().with("memory_bytes", 1_u64 << 50);
    let (_, error) = world.deploy_failed(&too_much).await;
    assert_eq!(error.code, ErrorCode::InsufficientResources, "{error:?}");
    let gpu = world.sleeper().gpus(1);
    let (_, error) = world.deploy_failed(&gpu).await;
    assert_eq!(error.code, ErrorCode::GpuUnavailable, "{error:?}");
    let unserved = world.sleeper().with("workspace", json!({ "user": "u" }));
    let (_, error) = world.deploy_failed(&unserved).await;
    assert_eq!(error.code, ErrorCode::Unsupported, "{error:?}");
    assert_eq!(error.detail.unwrap()["pointer"], "/spec/workspace");
    assert!(world.containers().await.is_empty());
}

/// F37.
#[tokio::test(flavor = "multi_thread")]
async fn an_images_own_labels_never_speak_for_the_agent() {
    let mut world = World::shared().await;
    let forged = json!({
        "rental-agent.agent-id": "somebody-else",
        "rental-agent.gpus": "GPU-forged",
        "rental-agent.ready-at": "2026-01-01T00:00:00.000Z",
        "rental-agent.record": "{}",
    });
    let image = world.labelled_image(forged).await;
    world.up().await;
    let spec = Spec::new(&world.instance_id(), &image, &sleeps());
    let (id, record) = world.deploy_ready(&spec).await;
    let labels = world.running(&id).await.labels;
    assert_eq!(labels["rental-agent.agent-id"], world.agent_id().as_str());
    assert_eq!(labels["rental-agent.gpus"], "");
    assert_eq!(labels["rental-agent.ready-at"], "");
    assert_eq!(labels["rental-agent.record"], "");
    assert!(record.gpus.is_empty());
    world.restart_agent().await;
    assert_eq!(
        world.wait_phase(&id, Phase::Ready).await.container_id,
        record.container_id
    );
}

/// F8.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_agent_in_order_and_leaves_rentals_alone() {
    let mut world = World::shared().await;
    world.up().await;
    let spec = world.sleeper();
    let (id, _) = world.deploy_ready(&spec).await;
    let before = world.running(&id).await;
    let (late, _) = world.deploy(&world.sleeper());
    world.wait_known(&late).await;
    let status = world.sigterm_agent(Duration::from_secs(10)).await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(world.wait_frame("goodbye").await["reason"], "shutdown");
    let after = world.running(&id).await;
    assert_eq!((after.id, after.started_at), (before.id, before.started_at));
    // What was under way goes on in the next life.
    world.up().await;
    world.wait_phase(&late, Phase::Ready).await;
    assert_eq!(world.containers().await.len(), 2);
}

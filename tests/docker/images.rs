//! Pulls from real and from broken registries: progress, retries, and a class for each failure.

use std::time::Duration;

use rental_agent::protocol::{EndReason, ErrorCode, Outcome, Phase, Retry, Stage};
use serde_json::json;
use tokio::time::Instant;

use crate::{
    lab::{BUSYBOX, Engine, PASSWORD, Registry, Repository, Side, StubRegistry, USERNAME},
    world::{LATER, SOON, Spec, World, sleeps, wait_for},
};

/// A world whose agent may pull from registries on loopback.
async fn stage() -> (World, Engine, StubRegistry) {
    let engine = Engine::shared();
    let stub = StubRegistry::start(&engine);
    let mut world = World::shared().await;
    allow(&mut world, &[stub.address()]);
    (world, engine, stub)
}

fn allow(world: &mut World, registries: &[&str]) {
    let list = json!(registries).to_string();
    world.set_env("RENTAL_AGENT__POLICY__ALLOWED_REGISTRIES", list);
}

/// A rental of that image.
fn of(world: &World, image: &str) -> Spec {
    Spec::new(&world.instance_id(), image, &sleeps())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_from_a_real_registry_tells_its_progress_and_its_digest() {
    let engine = Engine::shared();
    let registry = Registry::open(&engine);
    let mut world = World::shared().await;
    allow(&mut world, &[registry.address()]);
    let local = format!("{}:local", world.stranger_name("image"));
    // Progress is told four times a second, so a small image may be there before any byte is told.
    engine.import_large(&local, 96 << 20);
    let reference = registry.push(&engine, &local, "renters/app:1");
    engine.docker(&["rmi", &local]);
    world.up().await;
    let (id, record) = world.deploy_ready(&of(&world, &reference)).await;
    assert!(record.image_digest.unwrap().starts_with("sha256:"));
    assert!(record.timeline.pulling_at.is_some());
    assert!(world.phases(&id).contains(&"pulling".to_owned()));
    let pulls = world.progress(&id);
    assert!(!pulls.is_empty());
    assert!(
        pulls
            .iter()
            .any(|pull| pull["downloaded_bytes"].as_u64() > Some(0)),
        "{pulls:?}"
    );
    world.terminate(&id).await;
    engine.docker(&["rmi", "-f", &reference]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_pulled_with_the_credentials_of_its_deploy_and_of_no_other() {
    let engine = Engine::shared();
    let registry = Registry::private(&engine);
    let mut world = World::shared().await;
    allow(&mut world, &[registry.address()]);
    let reference = registry.push(&engine, BUSYBOX, "renters/secret:1");
    world.up().await;
    let auth = json!({ "username": USERNAME, "password": PASSWORD });
    let with = of(&world, &reference).with("registry_auth", auth);
    world.deploy_ready(&with).await;
    // The host has it by now; that is no licence for others.
    for spec in [
        of(&world, &reference),
        of(&world, &reference).with(
            "registry_auth",
            json!({ "username": USERNAME, "password": "wrong" }),
        ),
    ] {
        let (_, error) = world.deploy_failed(&spec).await;
        assert_eq!(
            (error.code, error.retry),
            (ErrorCode::RegistryAuth, Retry::Never),
            "{error:?}"
        );
    }
    let log = world.log();
    assert!(
        !log.contains(PASSWORD),
        "the registry's password is in the log"
    );
}

/// F29, F31.
#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_a_registry_that_stays_has_its_own_code_and_is_told_at_once() {
    let (mut world, _, stub) = stage().await;
    world.up().await;
    let cases = [
        (Repository::Missing, ErrorCode::ImageNotFound),
        (Repository::Unauthorized, ErrorCode::RegistryAuth),
        (Repository::RateLimited, ErrorCode::RegistryRateLimited),
        (Repository::WrongDigest, ErrorCode::ImageCorrupt),
        (Repository::BadArchive, ErrorCode::ImageCorrupt),
        (Repository::NoPlatform, ErrorCode::ImageUnsupported),
        (Repository::Foreign, ErrorCode::ImageUnsupported),
    ];
    for (repository, code) in cases {
        let spec = of(&world, &stub.reference(repository));
        let (id, error) = world.deploy_failed(&spec).await;
        assert_eq!(error.code, code, "{repository:?}: {error:?}");
        assert_eq!(error.stage, Some(Stage::Pull), "{repository:?}: {error:?}");
        let retry = match code {
            ErrorCode::RegistryRateLimited => Retry::Here,
            _ => Retry::Never,
        };
        assert_eq!(error.retry, retry, "{repository:?}");
        let record = world.wait_ended(&id, EndReason::Failed).await;
        assert_eq!(record.container_id, None, "{repository:?}");
    }
    assert!(world.containers().await.is_empty());
    world.assert_clean().await;
}

/// F29: what may pass is tried again, after 1, 2, 4, 8 and 16 s.
#[tokio::test(flavor = "multi_thread")]
async fn soak_a_registry_that_fails_is_tried_five_times_more() {
    let (mut world, _, stub) = stage().await;
    world.up().await;
    let began = Instant::now();
    let spec = of(&world, &stub.reference(Repository::Failing));
    let (id, error) = world.deploy_failed(&spec).await;
    assert_eq!(error.code, ErrorCode::RegistryUnreachable, "{error:?}");
    assert_eq!(error.retry, Retry::Here);
    assert!(
        began.elapsed() >= Duration::from_secs(31),
        "{:?}",
        began.elapsed()
    );
    let tries = world.progress_messages(&id);
    let retries = tries
        .iter()
        .filter(|message| message.contains("trying again"))
        .count();
    assert_eq!(retries, 5, "{tries:?}");
}

/// F29.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_fails_at_first_succeeds_when_the_registry_is_better() {
    let engine = Engine::shared();
    let registry = Registry::open(&engine);
    let mut world = World::shared().await;
    let proxy = world.behind_proxy();
    allow(&mut world, &[registry.address()]);
    let local = format!("{}:local", world.stranger_name("image"));
    engine.import(&local, &[]);
    let reference = registry.push(&engine, &local, "renters/later:1");
    engine.docker(&["rmi", &local]);
    world.up().await;
    let broken = proxy.answer("POST", "/images/create", 500);
    let (id, ticket) = world.deploy(&of(&world, &reference));
    wait_for("a try", SOON, || broken.met() == 1).await;
    drop(broken);
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
    let messages = world.progress_messages(&id);
    assert!(
        messages
            .iter()
            .any(|message| message.contains("trying again")),
        "{messages:?}"
    );
    world.terminate(&id).await;
    engine.docker(&["rmi", "-f", &reference]);
}

/// F30.
#[tokio::test(flavor = "multi_thread")]
async fn soak_a_pull_without_a_sign_of_life_is_given_up() {
    let (mut world, _, stub) = stage().await;
    world.set_env("RENTAL_AGENT__DOCKER__PULL_STALL_S", "2");
    world.up().await;
    let spec = of(&world, &stub.reference(Repository::Stalled));
    let (id, error) = world.deploy_failed(&spec).await;
    assert_eq!(error.code, ErrorCode::PullStalled, "{error:?}");
    assert_eq!((error.stage, error.retry), (Some(Stage::Pull), Retry::Here));
    world.wait_ended(&id, EndReason::Failed).await;
}

/// F30.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_pull_is_noticed_within_its_limit_and_can_be_terminated() {
    let (mut world, _, stub) = stage().await;
    world.set_env("RENTAL_AGENT__DOCKER__PULL_STALL_S", "2");
    world.up().await;
    let (id, deploy) = world.deploy(&of(&world, &stub.reference(Repository::Stalled)));
    let noticed = || {
        let messages = world.progress_messages(&id);
        messages
            .iter()
            .any(|message| message.contains("trying again"))
    };
    wait_for("the stall to be noticed", SOON, noticed).await;
    world.terminate(&id).await;
    let reply = world.final_reply(&deploy).await;
    assert_eq!(reply.error.unwrap().code, ErrorCode::Cancelled);
    world.wait_ended(&id, EndReason::Terminated).await;
    world.assert_clean().await;
}

/// F3.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_within_a_pull_leaves_no_container_and_the_next_agent_pulls_again() {
    let (mut world, engine, stub) = stage().await;
    world.up().await;
    let reference = stub.reference(Repository::Gated);
    let (id, ticket) = world.deploy(&of(&world, &reference));
    world.wait_phase(&id, Phase::Pulling).await;
    wait_for("the layer", SOON, || blobs(&stub) >= 2).await;
    world.kill_agent();
    assert!(world.container(&id).await.is_none());
    stub.release();
    world.up().await;
    assert_eq!(world.final_reply(&ticket).await.outcome, Outcome::Done);
    assert_eq!(world.containers().await.len(), 1);
    world.terminate(&id).await;
    engine.docker(&["rmi", "-f", &reference]);
    world.assert_clean().await;
}

fn blobs(stub: &StubRegistry) -> usize {
    let requests = stub.requests();
    requests
        .iter()
        .filter(|request| request.contains("/blobs/"))
        .count()
}

/// One pull for all who want the same image in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn deploys_of_one_image_share_its_pull_and_one_that_leaves_does_not_end_it() {
    let (mut world, engine, stub) = stage().await;
    world.up().await;
    let reference = stub.reference(Repository::Gated);
    let deploys: Vec<_> = (0..4)
        .map(|_| world.deploy(&of(&world, &reference)))
        .collect();
    for (id, _) in &deploys {
        world.wait_phase(id, Phase::Pulling).await;
    }
    wait_for("the layer", SOON, || blobs(&stub) >= 2).await;
    world.terminate(&deploys[0].0).await;
    stub.release();
    for (_, ticket) in &deploys[1..] {
        assert_eq!(world.final_reply(ticket).await.outcome, Outcome::Done);
    }
    let manifests = |request: &&String| request.contains("/manifests/");
    assert!(
        stub.requests().iter().filter(manifests).count() <= 2,
        "{:?}",
        stub.requests()
    );
    for (id, _) in &deploys[1..] {
        world.terminate(id).await;
    }
    engine.docker(&["rmi", "-f", &reference]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_by_command_can_be_cancelled() {
    let (mut world, _, stub) = stage().await;
    world.up().await;
    let image = stub.reference(Repository::Stalled);
    let pull = json!({ "op": "pull_image", "image": image });
    let pull = world.server.command(pull).unwrap();
    wait_for("the layer", SOON, || blobs(&stub) >= 2).await;
    let cancel = json!({ "op": "cancel", "command_id": pull.id });
    let cancel = world.server.command(cancel).unwrap();
    assert_eq!(
        world.final_reply(&cancel).await.result.unwrap(),
        json!({ "known": true })
    );
    let reply = world.server.wait_final(&pull, LATER).await.unwrap();
    assert_eq!(reply.error.unwrap().code, ErrorCode::Cancelled);
}

/// F40.
#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_somebody_removes_before_the_create_is_pulled_once_more() {
    let (mut world, engine, stub) = stage().await;
    let proxy = world.behind_proxy();
    world.up().await;
    let reference = stub.reference(Repository::Good);
    let create = proxy.hold("POST", "/containers/create", Side::BeforeEngine);
    let (id, ticket) = world.deploy(&of(&world, &reference));
    wait_for("the create", SOON, || create.met() == 1).await;
    engine.docker(&["rmi", "-f", &reference]);
    create.release();
    let reply = world.final_reply(&ticket).await;
    assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
    let pulls = proxy.changes();
    let pulls = pulls
        .iter()
        .filter(|call| call.path.ends_with("/images/create"));
    assert_eq!(pulls.count(), 2);
    world.terminate(&id).await;
    engine.docker(&["rmi", "-f", &reference]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_may_not_be_pulled_and_is_not_there_is_not_found() {
    let (mut world, _, stub) = stage().await;
    world.up().await;
    let never = of(&world, &stub.reference(Repository::Good)).with("pull", "never");
    let (_, error) = world.deploy_failed(&never).await;
    assert_eq!(error.code, ErrorCode::ImageNotFound, "{error:?}");
    assert!(stub.requests().is_empty(), "{:?}", stub.requests());
}

/// S14.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_the_host_does_not_allow_is_never_asked() {
    let engine = Engine::shared();
    let stub = StubRegistry::start(&engine);
    let mut world = World::shared().await;
    world.up().await;
    let (_, error) = world
        .deploy_failed(&of(&world, &stub.reference(Repository::Good)))
        .await;
    assert_eq!(error.code, ErrorCode::PolicyDenied, "{error:?}");
    assert!(stub.requests().is_empty(), "{:?}", stub.requests());
}

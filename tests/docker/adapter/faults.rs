//! An engine that is down, frozen, killed or full, and answers that get lost.

use std::process::Command;

use tokio::time::Instant;

use rental_agent::runtime::{Class, ContainerState, PullRequest};

use super::*;
use crate::lab::{EngineProxy, Own, Repository, Side, StubRegistry};

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_down_is_unreachable_and_serves_again_when_it_is_back() {
    let mut bench = Bench::on(Engine::own(Own::default())).await;
    bench.engine.stop();
    let late = Docker::connect(&bench.engine.config(), &network()).unwrap();
    for docker in [&bench.docker, &late] {
        let error = docker.list().await.unwrap_err();
        assert_eq!(error.class, Class::Unreachable, "{error}");
    }
    bench.engine.start();
    bench.engine.kill9();
    // The socket is there, nobody listens.
    assert!(bench.engine.socket().exists());
    for docker in [&bench.docker, &late] {
        let error = docker.list().await.unwrap_err();
        assert_eq!(error.class, Class::Unreachable, "{error}");
    }
    bench.engine.start();
    for docker in [&bench.docker, &late] {
        docker.list().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_no_socket_is_refused_at_once() {
    for host in ["tcp://127.0.0.1:2375", "unix://relative", ""] {
        let config = config::Docker {
            host: host.to_owned(),
            pull_stall: LIMIT,
        };
        let error = Docker::connect(&config, &network()).unwrap_err();
        assert_eq!(error.class, Class::Refused, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_engine_leaves_the_outcome_unknown_within_the_limit() {
    let bench = Bench::on(Engine::own(Own::default())).await;
    let late = Docker::connect(&bench.engine.config(), &network()).unwrap();
    bench.engine.freeze();
    let began = Instant::now();
    let (known, first_contact) = tokio::join!(bench.docker.list(), late.list());
    let took = began.elapsed();
    bench.engine.thaw();
    for error in [known.unwrap_err(), first_contact.unwrap_err()] {
        assert_eq!(error.class, Class::Unknown, "{error}");
    }
    assert!(took < Duration::from_secs(13), "{took:?}");
    bench.docker.list().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_leaves_the_outcome_unknown_whether_it_was_done_or_not() {
    let bench = Bench::shared().await;
    let proxy = EngineProxy::start(&bench.engine);
    let docker = Docker::connect(&proxy.config(&bench.engine), &network()).unwrap();
    for (part, side, exists) in [
        ("before", Side::BeforeEngine, false),
        ("after", Side::AfterEngine, true),
    ] {
        let plan = bench.plan(part, &["sleep", "1000"]).await;
        proxy.cut(1, side, || {});
        let error = docker.create(&plan).await.unwrap_err();
        assert_eq!(error.class, Class::Unknown, "{error}");
        assert!(proxy.has_cut());
        assert_eq!(
            docker.inspect(&plan.name).await.unwrap().is_some(),
            exists,
            "{part}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_breaks_a_pull_off_without_a_verdict() {
    let mut bench = Bench::on(Engine::own(Own::default())).await;
    let registry = StubRegistry::start(&bench.engine);
    let docker = Docker::connect(&bench.engine.config(), &network()).unwrap();
    let request = PullRequest {
        reference: registry.reference(Repository::Gated),
        auth: None,
    };
    let mut take = |_| {};
    let (pulled, ()) = tokio::join!(docker.pull(&request, &mut take), async {
        crate::lab::wait_until("the layer is asked for", LIMIT, || async {
            registry
                .requests()
                .iter()
                .filter(|r| r.contains("/blobs/"))
                .count()
                >= 2
        })
        .await;
        bench.engine.kill9();
    });
    let error = pulled.unwrap_err();
    assert_eq!(error.class, Class::Unknown, "{error}");
    registry.release();
    bench.engine.start();
    docker.pull(&request, &mut |_| {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_apart_from_a_bad_image() {
    let options = Own {
        disk_mib: Some(24),
        ..Own::default()
    };
    let bench = Bench::on(Engine::own(options)).await;
    let data = bench.docker.engine().await.unwrap().root_dir;
    let fill = format!("head -c 100000000 /dev/zero > {data}/filler");
    drop(Command::new("sh").args(["-c", &fill]).output());
    let registry = StubRegistry::start(&bench.engine);
    let request = PullRequest {
        reference: registry.reference(Repository::Good),
        auth: None,
    };
    let error = bench.docker.pull(&request, &mut |_| {}).await.unwrap_err();
    assert_eq!(error.class, Class::DiskFull, "{error}");
    let plan = bench.plan("full", &["sleep", "1000"]).await;
    let error = bench.docker.create(&plan).await.unwrap_err();
    assert_eq!(error.class, Class::DiskFull, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_of_the_engine_left_unstartable_is_made_again() {
    let options = Own {
        gpus: true,
        ..Own::default()
    };
    let mut bench = Bench::on(Engine::own(options)).await;
    let mut plan = bench.plan("half", &["sleep", "1000"]).await;
    plan.gpus = vec!["GPU-a".parse().unwrap()];
    let first = bench.docker.create(&plan).await.unwrap();
    let docker = Docker::connect(&bench.engine.config(), &network()).unwrap();
    bench.engine.hook().hold();
    let (started, ()) = tokio::join!(docker.start(&plan.name), async {
        crate::lab::wait_until("the start is under way", LIMIT, || async {
            bench.engine.hook().was_called(first.as_str())
        })
        .await;
        bench.engine.kill9();
    });
    assert_eq!(started.unwrap_err().class, Class::Unknown);
    bench.engine.hook().let_go();
    bench.engine.start();
    assert_eq!(bench.seen(&plan.name).await.state, ContainerState::Created);
    // Engine 20.10 can never start it again, 26 can.
    if let Err(error) = bench.docker.start(&plan.name).await {
        assert_eq!(error.class, Class::Unstartable, "{error}");
    }
    let second = bench.docker.remake(&plan.name).await.unwrap();
    assert_ne!(first, second);
    bench.docker.start(&plan.name).await.unwrap();
    assert_eq!(bench.seen(&plan.name).await.state, ContainerState::Running);
}

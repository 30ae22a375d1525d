//! The full list, and what it says of the engine's restarts.

use rental_agent::runtime::{ContainerState, Listing, VolumeLabels};
use rustix::process::{Signal, kill_process};

use super::*;
use crate::lab::{EngineProxy, Own, wait_until};

fn find<'a>(listing: &'a Listing, name: &str) -> &'a Observed {
    listing
        .containers
        .iter()
        .find(|container| container.name == name)
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_listed_and_rentals_that_do_not_run_with_their_detail() {
    let bench = Bench::shared().await;
    let running = bench.plan("running", &["sleep", "1000"]).await;
    let created = bench.plan("created", &["sleep", "1000"]).await;
    let exited = bench.plan("exited", &["sh", "-c", "exit 7"]).await;
    bench.run(&running).await;
    bench.docker.create(&created).await.unwrap();
    bench.run(&exited).await;
    bench.ended(&exited.name).await;
    let foreign = bench.name("foreign").replace("rental-", "");
    bench.engine.docker(&[
        "run", "-d", "--rm", "--name", &foreign, BUSYBOX, "sleep", "1000",
    ]);
    let marker = VolumeLabels {
        name: bench.name("a.stopped"),
        labels: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
    };
    bench.docker.put_volume(&marker).await.unwrap();
    bench
        .engine
        .docker(&["volume", "create", &format!("x-{}", bench.prefix)]);

    let listing = bench.docker.list().await.unwrap();
    bench.engine.docker(&["rm", "-f", &foreign]);
    bench
        .engine
        .docker(&["volume", "rm", &format!("x-{}", bench.prefix)]);

    assert_eq!(find(&listing, &running.name).state, ContainerState::Running);
    assert_eq!(find(&listing, &running.name).detail, None);
    assert_eq!(find(&listing, &running.name).labels, running.labels);
    assert_eq!(find(&listing, &foreign).detail, None);
    let created = find(&listing, &created.name);
    assert_eq!(created.state, ContainerState::Created);
    assert_eq!(created.detail.clone().unwrap().started_at, None);
    assert_eq!(
        find(&listing, &exited.name)
            .detail
            .clone()
            .unwrap()
            .exit_code,
        7
    );
    let volumes = listing.volumes.as_ref().unwrap();
    assert!(volumes.contains(&marker));
    assert!(
        volumes
            .iter()
            .all(|volume| volume.name.starts_with("rental-"))
    );
    assert!(listing.engine_started_at.unwrap() < created.created_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_three_calls_and_one_for_each_rental_that_does_not_run() {
    let bench = Bench::on(Engine::own(Own::default())).await;
    for part in ["aa", "bb"] {
        let plan = bench.plan(part, &["sleep", "1000"]).await;
        bench.run(&plan).await;
    }
    let plan = bench.plan("cc", &["sleep", "1000"]).await;
    bench.docker.create(&plan).await.unwrap();
    let proxy = EngineProxy::start(&bench.engine);
    let docker = Docker::connect(&proxy.config(&bench.engine), &network()).unwrap();
    docker.inspect(&plan.name).await.unwrap();
    proxy.forget();
    docker.list().await.unwrap();
    let mut calls: Vec<String> = proxy.calls().iter().map(ToString::to_string).collect();
    calls.sort();
    let id = bench
        .engine
        .docker(&["inspect", "-f", "{{.Id}}", &plan.name]);
    let inspect = format!("GET /containers/{id}/json");
    let mut expected = [
        "GET /containers/json",
        "GET /networks/bridge",
        "GET /volumes",
        &inspect,
    ];
    expected.sort_unstable();
    assert_eq!(calls, expected);
}

/// Each rental's end as the engine's restart explains it, or not.
async fn explained(bench: &Bench, names: &[&str]) -> Vec<bool> {
    let listing = bench.docker.list().await.unwrap();
    let started = listing.engine_started_at.unwrap();
    let of_name = |name: &&str| {
        let container = find(&listing, &bench.name(name));
        assert_eq!(container.state, ContainerState::Exited, "{name}");
        container.detail.as_ref().unwrap().ended_by_restart(started)
    };
    names.iter().map(of_name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_by_the_engine_s_stop_or_kill_are_told_apart_from_a_tenant_s_own() {
    for kill in [true, false] {
        let mut bench = Bench::on(Engine::own(Own::default())).await;
        let own_end = bench.plan("own-end", &["sh", "-c", "exit 3"]).await;
        let polite = bench.plan("polite", &["sleep", "1000"]).await;
        let script = "trap '' TERM; while true; do sleep 1; done";
        let mut stubborn = bench.plan("stubborn", &["sh", "-c", script]).await;
        stubborn.stop_grace = Duration::from_secs(2);
        for plan in [&polite, &stubborn, &own_end] {
            bench.run(plan).await;
        }
        bench.ended(&own_end.name).await;
        if kill {
            bench.engine.kill9();
        } else {
            bench.engine.stop();
        }
        bench.engine.start();
        let names = ["polite", "stubborn"];
        assert_eq!(
            explained(&bench, &names).await,
            [true, true],
            "kill: {kill}"
        );

        // What ends by itself after the restart was started after it.
        bench.docker.start(&own_end.name).await.unwrap();
        bench.ended(&own_end.name).await;
        assert_eq!(
            explained(&bench, &["own-end"]).await,
            [false],
            "kill: {kill}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_live_restore_an_end_after_the_engine_s_restart_is_the_tenant_s() {
    let options = Own {
        live_restore: true,
        ..Own::default()
    };
    let mut bench = Bench::on(Engine::own(options)).await;
    let before = bench.docker.list().await.unwrap().engine_started_at;
    for (part, kill) in [("killed", true), ("stopped", false)] {
        // Ends when it is told to, by a file.
        let script = "while [ ! -e /end ]; do sleep 0.1; done; exit 5";
        let plan = bench.plan(part, &["sh", "-c", script]).await;
        bench.run(&plan).await;
        if kill {
            bench.engine.kill9();
        } else {
            bench.engine.stop();
        }
        bench.engine.start();
        assert_eq!(bench.seen(&plan.name).await.state, ContainerState::Running);
        bench.engine.docker(&["exec", &plan.name, "touch", "/end"]);
        let detail = bench.ended(&plan.name).await.detail.unwrap();
        assert_eq!(detail.exit_code, 5);
        assert_eq!(explained(&bench, &[part]).await, [false]);
        assert_eq!(bench.docker.list().await.unwrap().engine_started_at, before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_says_what_it_is_and_since_when() {
    let bench = Bench::on(Engine::own(Own::default())).await;
    let facts = bench.docker.engine().await.unwrap();
    assert_eq!(
        facts.started_at,
        bench.docker.list().await.unwrap().engine_started_at
    );
    assert_eq!(facts.engine.name, "docker");
    assert!(!facts.engine.version.is_empty() && !facts.engine.storage_driver.is_empty());
    assert!(facts.security_options.contains(&"seccomp".to_owned()));
    assert!(facts.root_dir.ends_with("/data"), "{}", facts.root_dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_be_inspected_is_listed_without_its_detail() {
    let bench = Bench::on(Engine::own(Own::default())).await;
    let sick = bench.plan("sick", &["sleep", "1000"]).await;
    let well = bench.plan("well", &["sh", "-c", "exit 4"]).await;
    bench.run(&sick).await;
    bench.run(&well).await;
    bench.ended(&well.name).await;
    let shim = bench.engine.shim(&sick.name);
    kill_process(shim, Signal::STOP).unwrap();
    // From here on whoever asks for this one waits; a stop that hangs holds its lock.
    let stop = bench.docker.stop(&sick.name, Duration::from_secs(0));
    let listed = async {
        wait_until("an inspect of it hangs", LIMIT, || async {
            let inspect = bench.docker.inspect(&sick.name);
            tokio::time::timeout(Duration::from_millis(500), inspect)
                .await
                .is_err()
        })
        .await;
        bench.docker.list().await.unwrap()
    };
    let listing = tokio::select! {
        _ = stop => panic!("stopped although its shim is frozen"),
        listing = listed => listing,
    };
    kill_process(shim, Signal::CONT).unwrap();
    assert_eq!(find(&listing, &sick.name).state, ContainerState::Running);
    assert_eq!(
        find(&listing, &well.name).detail.clone().unwrap().exit_code,
        4
    );
}

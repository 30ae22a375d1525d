//! One container from its creation to its end.

use tokio::time::Instant;

use rental_agent::{
    protocol::record::PortProtocol,
    runtime::{Class, ContainerState, HostPort},
};

use super::*;
use crate::lab::{EngineProxy, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn every_step_of_a_life_is_one_call_to_the_engine() {
    let bench = Bench::shared().await;
    let proxy = EngineProxy::start(&bench.engine);
    let docker = Docker::connect(&proxy.config(&bench.engine), &network()).unwrap();
    let plan = bench.plan("life", &["sleep", "1000"]).await;

    docker.image(BUSYBOX).await.unwrap().unwrap();
    let id = docker.create(&plan).await.unwrap();
    let created = docker.inspect(&plan.name).await.unwrap().unwrap();
    docker.start(&plan.name).await.unwrap();
    let running = docker.inspect(&plan.name).await.unwrap().unwrap();
    docker
        .stop(&plan.name, Duration::from_secs(5))
        .await
        .unwrap();
    let stopped = docker.inspect(&plan.name).await.unwrap().unwrap();
    docker.log_tail(&plan.name, 4096).await.unwrap();
    docker.remove(&plan.name).await.unwrap();
    assert_eq!(docker.inspect(&plan.name).await.unwrap(), None);

    assert_eq!(created.id, id);
    assert_eq!(created.name, plan.name);
    assert_eq!(created.state, ContainerState::Created);
    assert_eq!(running.state, ContainerState::Running);
    assert!(running.detail.unwrap().pid > 0);
    assert_eq!(stopped.state, ContainerState::Exited);
    let detail = stopped.detail.unwrap();
    assert_eq!((detail.exit_code, detail.pid), (143, 0));
    assert!(detail.finished_at > detail.started_at);

    let calls: Vec<String> = proxy.calls().iter().map(ToString::to_string).collect();
    let container = format!("/containers/{}", plan.name);
    let expected = [
        "GET /version".to_owned(),
        format!("GET /images/{BUSYBOX}/json"),
        "POST /containers/create".to_owned(),
        format!("GET {container}/json"),
        format!("POST {container}/start"),
        format!("GET {container}/json"),
        format!("POST {container}/stop"),
        format!("GET {container}/json"),
        format!("GET {container}/logs"),
        format!("DELETE {container}"),
        format!("GET {container}/json"),
    ];
    assert_eq!(calls, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_can_be_stopped_and_removed_but_not_started() {
    let bench = Bench::shared().await;
    let name = bench.name("nobody");
    bench
        .docker
        .stop(&name, Duration::from_secs(1))
        .await
        .unwrap();
    bench.docker.remove(&name).await.unwrap();
    let error = bench.docker.start(&name).await.unwrap_err();
    assert_eq!(error.class, Class::NotFound, "{error}");
    let error = bench.docker.log_tail(&name, 10).await.unwrap_err();
    assert_eq!(error.class, Class::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_and_a_second_stop_are_fine() {
    let bench = Bench::shared().await;
    let plan = bench.plan("twice", &["sleep", "1000"]).await;
    bench.run(&plan).await;
    bench.docker.start(&plan.name).await.unwrap();
    for _ in 0..2 {
        bench
            .docker
            .stop(&plan.name, Duration::from_secs(5))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_name_is_told_apart_from_every_other_conflict() {
    let bench = Bench::shared().await;
    let plan = bench.plan("taken", &["sleep", "1000"]).await;
    bench.docker.create(&plan).await.unwrap();
    let error = bench.docker.create(&plan).await.unwrap_err();
    assert_eq!(error.class, Class::NameTaken, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_removed_in_between_is_not_found_at_create() {
    let bench = Bench::shared().await;
    let mut plan = bench.plan("no-image", &["sleep", "1000"]).await;
    plan.image.id = format!("sha256:{}", "0".repeat(64));
    let error = bench.docker.create(&plan).await.unwrap_err();
    assert_eq!(error.class, Class::NotFound, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ignores_the_request_to_end_is_killed_after_its_grace() {
    let bench = Bench::shared().await;
    let script = "trap '' TERM; while true; do sleep 1; done";
    let plan = bench.plan("stubborn", &["sh", "-c", script]).await;
    bench.run(&plan).await;
    // Once its trap is set the shell sleeps in a child.
    wait_until("the trap is set", LIMIT, || async {
        bench
            .engine
            .docker(&["top", &plan.name, "-o", "pid,comm"])
            .contains("sleep")
    })
    .await;
    let began = Instant::now();
    bench
        .docker
        .stop(&plan.name, Duration::from_millis(1500))
        .await
        .unwrap();
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(1500),
        "no grace is cut short: {took:?}"
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
    let detail = bench.seen(&plan.name).await.detail.unwrap();
    assert_eq!(detail.exit_code, 137);
    assert!(!detail.oom_killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_ends_what_runs_and_takes_the_image_s_volumes_along() {
    let bench = Bench::shared().await;
    let image = bench.name("volume").replace("rental-", "") + ":1";
    bench.engine.import(&image, &["VOLUME /data"]);
    let mut plan = bench.plan("volume", &["sleep", "1000"]).await;
    plan.image = bench.docker.image(&image).await.unwrap().unwrap();
    bench.run(&plan).await;
    let mounts = ["inspect", "-f", "{{(index .Mounts 0).Name}}", &plan.name];
    let volume = bench.engine.docker(&mounts);
    bench.docker.remove(&plan.name).await.unwrap();
    let inspected = bench.engine.try_docker(&["volume", "inspect", &volume]);
    bench.engine.docker(&["rmi", &image]);
    assert!(!inspected.status.success(), "{volume} is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_remove_the_same_both_succeed() {
    let bench = Bench::shared().await;
    for round in 0..5 {
        let plan = bench
            .plan(&format!("both-{round}"), &["sleep", "1000"])
            .await;
        bench.run(&plan).await;
        let (one, other) = tokio::join!(
            bench.docker.remove(&plan.name),
            bench.docker.remove(&plan.name)
        );
        one.unwrap();
        other.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn remade_it_is_the_same_container_with_another_id() {
    let bench = Bench::shared().await;
    let mut plan = bench
        .plan("remade", &["httpd", "-f", "-p", "80", "-h", "/www"])
        .await;
    plan.ports = vec![HostPort {
        container: 80,
        host: bench.engine.net().free_port(),
        protocol: PortProtocol::Tcp,
    }];
    let first = bench.docker.create(&plan).await.unwrap();
    let before = configuration(&bench, &plan.name);
    let second = bench.docker.remake(&plan.name).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(configuration(&bench, &plan.name), before);
    bench.docker.start(&plan.name).await.unwrap();
    let port = plan.ports[0].host;
    wait_until("its page is served", LIMIT, || async {
        bench.engine.net().http_get(port).as_deref() == Some("it works\n")
    })
    .await;
    assert_eq!(bench.seen(&plan.name).await.ports, plan.ports);
}

/// Its inspect without what the engine gives anew to each container.
fn configuration(bench: &Bench, name: &str) -> serde_json::Value {
    let text = bench.engine.docker(&["inspect", name]);
    let mut inspect: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut inspect = inspect[0].take();
    inspect["Config"]
        .as_object_mut()
        .unwrap()
        .remove("Hostname");
    serde_json::json!([inspect["Config"], inspect["HostConfig"], inspect["Image"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_command_stays_empty() {
    let bench = Bench::shared().await;
    let image = bench.name("argv").replace("rental-", "") + ":1";
    bench.engine.import(
        &image,
        &["ENTRYPOINT [\"echo\", \"entry\"]", "CMD [\"command\"]"],
    );
    let facts = bench.docker.image(&image).await.unwrap().unwrap();
    assert_eq!(facts.entrypoint, ["echo", "entry"]);
    let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
    type Argv = Option<Vec<String>>;
    let cases: [(_, Argv, Argv, &str); 4] = [
        ("as-is", None, None, "entry command\n"),
        ("no-command", None, words(&[]), "entry\n"),
        ("own-command", None, words(&["mine"]), "entry mine\n"),
        (
            "own-both",
            words(&["echo"]),
            words(&["all", "mine"]),
            "all mine\n",
        ),
    ];
    for (part, entrypoint, command, output) in cases {
        let mut plan = bench.plan(part, &[]).await;
        plan.image = facts.clone();
        plan.entrypoint = entrypoint;
        plan.command = command;
        bench.run(&plan).await;
        bench.ended(&plan.name).await;
        assert_eq!(
            bench.docker.log_tail(&plan.name, 100).await.unwrap(),
            output,
            "{part}"
        );
    }
    let mut plan = bench.plan("nothing", &[]).await;
    plan.image = facts;
    plan.entrypoint = Some(Vec::new());
    plan.command = Some(Vec::new());
    let error = bench.docker.create(&plan).await.unwrap_err();
    assert_eq!(error.class, Class::Refused, "{error}");
    bench.docker.remove(&bench.name("as-is")).await.unwrap();
    drop(bench.engine.try_docker(&["rmi", "-f", &image]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_ends_at_once_with_its_code_and_says_why() {
    let bench = Bench::shared().await;
    for (part, command, code) in [("missing", "/nowhere", 127), ("folder", "/www", 126)] {
        let plan = bench.plan(part, &[command]).await;
        // With an init the engine finds a program to start, and the init finds none.
        bench.run(&plan).await;
        let detail = bench.ended(&plan.name).await.detail.unwrap();
        let log = bench.docker.log_tail(&plan.name, 4096).await.unwrap();
        assert_eq!(detail.exit_code, code, "{log}");
        assert!(log.contains(command), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_something_else_has_is_port_taken() {
    let bench = Bench::shared().await;
    let listener = bench.engine.net().listen();
    let host = listener.local_addr().unwrap().port();
    let mut plan = bench.plan("port", &["sleep", "1000"]).await;
    plan.ports = vec![HostPort {
        container: 80,
        host,
        protocol: PortProtocol::Tcp,
    }];
    bench.docker.create(&plan).await.unwrap();
    let error = bench.docker.start(&plan.name).await.unwrap_err();
    assert_eq!(error.class, Class::PortTaken, "{error}");
    let left = bench.seen(&plan.name).await;
    assert_eq!(left.state, ContainerState::Created);
    assert!(!left.detail.unwrap().error.is_empty());

    drop(listener);
    bench.docker.start(&plan.name).await.unwrap();
    let mut second = bench.plan("port-2", &["sleep", "1000"]).await;
    second.ports.clone_from(&plan.ports);
    bench.docker.create(&second).await.unwrap();
    let error = bench.docker.start(&second.name).await.unwrap_err();
    assert_eq!(error.class, Class::PortTaken, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_impossible_limit_is_refused_at_create() {
    let bench = Bench::shared().await;
    let mut plan = bench.plan("tiny", &["sleep", "1000"]).await;
    plan.memory_bytes = 1024;
    let error = bench.docker.create(&plan).await.unwrap_err();
    assert_eq!(error.class, Class::Refused, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_of_a_flood_is_its_end_and_takes_no_time() {
    let bench = Bench::shared().await;
    let script = "yes 0123456789 | head -c 2999997; echo the last words";
    let plan = bench.plan("flood", &["sh", "-c", script]).await;
    bench.run(&plan).await;
    bench.ended(&plan.name).await;
    let began = Instant::now();
    let tail = bench.docker.log_tail(&plan.name, 100).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(tail.len() <= 100);
    assert!(tail.contains("the last words\n"), "{tail}");

    let lines = bench.plan("escape", &["printf", "a\\033[31mb\\n"]).await;
    bench.run(&lines).await;
    bench.ended(&lines.name).await;
    let tail = bench.docker.log_tail(&lines.name, 100).await.unwrap();
    assert_eq!(tail, "a\\u{1b}[31mb\n");
}

//! GPUs: who gets them and who has them. The engine is real, the vendor's hook is a stand-in.

use rental_agent::{
    ids::GpuUuid,
    runtime::{
        Class, Holder,
        gpus::{GpuNames, Listed, Means, judge},
    },
};

use super::*;
use crate::lab::{EngineProxy, Own};

fn gpu(letter: &str) -> GpuUuid {
    format!("GPU-{letter}").parse().unwrap()
}

fn named(letter: &str) -> GpuNames {
    GpuNames::bare(gpu(letter))
}

async fn bench() -> Bench {
    let options = Own {
        gpus: true,
        ..Own::default()
    };
    Bench::on(Engine::own(options)).await
}

/// A rental of these GPUs.
async fn rental(bench: &Bench, part: &str, letters: &[&str]) -> ContainerPlan {
    let mut plan = bench.plan(part, &["sleep", "1000"]).await;
    plan.gpus = letters.iter().map(|letter| gpu(letter)).collect();
    let uuids: Vec<&str> = plan.gpus.iter().map(GpuUuid::as_str).collect();
    plan.labels
        .insert("rental-agent.gpus".to_owned(), uuids.join(","));
    plan
}

async fn names(bench: &Bench, letters: &[&str], but: &str) -> Vec<String> {
    let gpus: Vec<GpuNames> = letters.iter().map(|letter| named(letter)).collect();
    let holders = bench.docker.holders(&gpus, but).await.unwrap();
    let mut names: Vec<String> = holders.into_iter().map(|holder| holder.name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_gets_exactly_its_gpus_whatever_the_image_asks_for() {
    let bench = bench().await;
    bench
        .engine
        .import("greedy:1", &["ENV NVIDIA_VISIBLE_DEVICES=all"]);
    let greedy = bench.docker.image("greedy:1").await.unwrap().unwrap();

    let mut two = rental(&bench, "two", &["a", "b"]).await;
    two.image = greedy.clone();
    let id = bench.docker.create(&two).await.unwrap();
    bench.docker.start(&two.name).await.unwrap();
    // Ours, and once more by the engine itself.
    let visible = bench.engine.hook().visible_devices(id.as_str());
    assert_eq!(visible, ["GPU-a,GPU-b", "GPU-a,GPU-b"]);
    let detail = bench.seen(&two.name).await.detail.unwrap();
    assert_eq!(detail.device_ids, ["GPU-a", "GPU-b"]);

    let mut none = bench.plan("none", &["env"]).await;
    none.image = greedy;
    let id = bench.docker.create(&none).await.unwrap();
    bench.docker.start(&none.name).await.unwrap();
    assert!(
        bench.engine.hook().visible_devices(id.as_str()).is_empty(),
        "no hook was called"
    );
    bench.ended(&none.name).await;
    let env = bench.docker.log_tail(&none.name, 4096).await.unwrap();
    assert!(env.contains("NVIDIA_VISIBLE_DEVICES=void"), "{env}");
    assert!(!env.contains("NVIDIA_VISIBLE_DEVICES=all"), "{env}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_cannot_hand_out_gpus_says_so_at_start() {
    let bench = Bench::on(Engine::own(Own::default())).await;
    let plan = rental(&bench, "none", &["a"]).await;
    bench.docker.create(&plan).await.unwrap();
    let error = bench.docker.start(&plan.name).await.unwrap_err();
    assert_eq!(error.class, Class::GpuRuntime, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_are_found_by_label_and_by_device_whoever_made_them() {
    let bench = bench().await;
    let rental_a = rental(&bench, "rental", &["a"]).await;
    bench.run(&rental_a).await;
    let foreign = |name: &str, gpus: &str| {
        let command = [
            "run", "-d", "--name", name, "--gpus", gpus, BUSYBOX, "sleep", "1000",
        ];
        bench.engine.docker(&command);
    };
    foreign("foreign-b", "device=GPU-b");
    // A forged label on what is not a rental counts for nothing.
    let forged = [
        "run",
        "-d",
        "--name",
        "forged",
        "--label",
        "rental-agent.gpus=GPU-c",
        BUSYBOX,
    ];
    bench
        .engine
        .docker(&[&forged[..], &["sleep", "1000"]].concat());

    assert_eq!(
        names(&bench, &["a"], "").await,
        std::slice::from_ref(&rental_a.name)
    );
    assert_eq!(names(&bench, &["a"], &rental_a.name).await, [""; 0]);
    assert_eq!(names(&bench, &["b"], "").await, ["foreign-b"]);
    assert_eq!(names(&bench, &["c"], "").await, [""; 0]);
    bench.engine.docker(&["pause", &rental_a.name]);
    assert_eq!(
        names(&bench, &["a", "b"], "").await,
        ["foreign-b", &rental_a.name]
    );

    foreign("foreign-all", "all");
    assert_eq!(names(&bench, &["c"], "").await, ["foreign-all"]);
    bench
        .engine
        .docker(&["rm", "-f", "foreign-all", "foreign-b"]);
    bench.engine.docker(&["unpause", &rental_a.name]);
    bench
        .docker
        .stop(&rental_a.name, Duration::from_secs(0))
        .await
        .unwrap();
    assert_eq!(names(&bench, &["a", "b", "c"], "").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_created_container_holds_its_gpus_until_its_start_has_failed() {
    let bench = bench().await;
    let listener = bench.engine.net().listen();
    let mut plan = rental(&bench, "created", &["a"]).await;
    plan.ports = vec![rental_agent::runtime::HostPort {
        container: 80,
        host: listener.local_addr().unwrap().port(),
        protocol: rental_agent::protocol::record::PortProtocol::Tcp,
    }];
    let id = bench.docker.create(&plan).await.unwrap();
    let holders = bench
        .docker
        .holders(&[named("a"), named("b")], "")
        .await
        .unwrap();
    let created_at = bench.seen(&plan.name).await.created_at;
    let holder = Holder {
        id,
        name: plan.name.clone(),
        created_at,
        runs: false,
        gpus: vec![gpu("a")],
    };
    assert_eq!(holders, [holder]);
    bench.docker.start(&plan.name).await.unwrap_err();
    assert_eq!(names(&bench, &["a"], "").await, [""; 0]);
}

/// What a container is seen to have: by the engine's words, by its device files, and by the word of a
/// program in it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_container_has_of_gpus_is_seen_from_outside_and_from_inside() {
    let bench = bench().await;
    let with_node = |letter: &str, number: u32| GpuNames {
        nodes: vec![format!("/dev/nvidia{number}")],
        ..named(letter)
    };
    let a = [with_node("a", 240)];
    let bare = rental(&bench, "bare", &["a"]).await;
    bench.run(&bare).await;
    let seen = bench.docker.evidence(&bare.name, true).await.unwrap();
    let seen = seen.unwrap();
    assert_eq!(seen.configured, ["GPU-a"]);
    assert_eq!(seen.visible.as_deref(), Some("GPU-a"));
    assert_eq!(seen.listed, Listed::Unasked, "its image has no nvidia-smi");
    assert_eq!(judge(&a, &seen), Ok(Means::Inspect));

    bench.engine.hook().makes_nodes(&[240]);
    let good = rental(&bench, "good", &["a"]).await;
    bench.run(&good).await;
    let seen = bench.docker.evidence(&good.name, true).await.unwrap();
    let mut seen = seen.unwrap();
    assert_eq!(judge(&a, &seen), Ok(Means::Devices), "{seen:?}");
    seen.listed = Listed::Unasked;
    let error = judge(&[with_node("a", 241)], &seen).unwrap_err();
    assert!(error.contains("/dev/nvidia240"), "{error}");

    bench.engine.hook().makes_nodes(&[240, 242]);
    let two = rental(&bench, "two", &["a"]).await;
    bench.run(&two).await;
    let seen = bench.docker.evidence(&two.name, false).await.unwrap();
    let error = judge(&a, &seen.unwrap()).unwrap_err();
    assert!(error.contains("/dev/nvidia240, /dev/nvidia242"), "{error}");

    bench.docker.stop(&two.name, Duration::ZERO).await.unwrap();
    let seen = bench.docker.evidence(&two.name, true).await.unwrap();
    assert!(!seen.unwrap().runs);
    assert_eq!(
        bench.docker.evidence("rental-nobody", true).await.unwrap(),
        None
    );
}

/// F71: what the list tells of containers that are no rentals, each looked at once.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_says_which_gpus_strangers_hold() {
    let bench = bench().await;
    let run = |name: &str, more: &[&str]| {
        let start = ["run", "-d", "--name", name];
        let end = [BUSYBOX, "sleep", "1000"];
        bench.engine.docker(&[&start[..], more, &end[..]].concat());
    };
    run("by-uuid", &["--gpus", "device=GPU-a"]);
    run("by-count", &["--gpus", "2"]);
    run("by-file", &["--device", "/dev/null:/dev/nvidia7"]);
    run("none", &["-e", "NVIDIA_VISIBLE_DEVICES=all"]);
    // Made, and not started: the lab itself may not be allowed to.
    let privileged = ["create", "--name", "privileged", "--privileged"];
    let end = [BUSYBOX, "sleep", "1000"];
    bench.engine.docker(&[&privileged[..], &end[..]].concat());
    let own = rental(&bench, "own", &["b"]).await;
    bench.run(&own).await;
    let proxy = EngineProxy::start(&bench.engine);
    let docker = Docker::connect(&proxy.config(&bench.engine), &network()).unwrap();
    docker.ping().await.unwrap();
    let mut counts = Vec::new();
    for _ in 0..2 {
        proxy.forget();
        let listing = docker.list().await.unwrap();
        counts.push(proxy.calls().len());
        let devices = |name: &str| {
            let mut containers = listing.containers.iter();
            let found = containers.find(|container| container.name == name);
            found.expect("it is listed").devices.clone()
        };
        assert_eq!(devices("by-uuid"), ["GPU-a"]);
        assert_eq!(devices("by-count"), ["all"]);
        for name in ["by-file", "none", "privileged", &own.name] {
            assert_eq!(devices(name), [""; 0], "{name}");
        }
    }
    // The first time there is a look at each of the five.
    assert_eq!(counts, [8, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_question_costs_one_call_when_nothing_conflicts() {
    let bench = bench().await;
    let (a, b) = (
        rental(&bench, "a", &["a"]).await,
        rental(&bench, "b", &["b"]).await,
    );
    bench.run(&a).await;
    bench.docker.create(&b).await.unwrap();
    bench
        .engine
        .docker(&["run", "-d", "--name", "foreign", BUSYBOX, "sleep", "1000"]);
    let proxy = EngineProxy::start(&bench.engine);
    let docker = Docker::connect(&proxy.config(&bench.engine), &network()).unwrap();
    let mut counts = Vec::new();
    for _ in 0..3 {
        proxy.forget();
        assert_eq!(docker.holders(&[named("b")], &b.name).await.unwrap(), []);
        counts.push(proxy.calls().len());
    }
    // The first time: the version, the list, and a look at the container that is not a rental.
    assert_eq!(counts, [3, 1, 1]);
}

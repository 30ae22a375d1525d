//! What a rental is given and what it is denied, as the engine and the kernel see it.

use rental_agent::runtime::Class;
use serde_json::{Value, json};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_live_rental_is_as_it_was_asked_for() {
    let bench = Bench::shared().await;
    let plan = bench.plan("asked", &["sleep", "1000"]).await;
    bench.run(&plan).await;
    let text = bench.engine.docker(&["inspect", &plan.name]);
    let inspect: Value = serde_json::from_str(&text).unwrap();
    let host = &inspect[0]["HostConfig"];
    let expected = json!({
        "Init": true, "Privileged": false, "Memory": 67_108_864, "MemorySwap": 67_108_864,
        "NanoCpus": 500_000_000, "PidsLimit": 256, "ShmSize": 16_777_216, "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"], "NetworkMode": "rental-agent", "IpcMode": "private",
        "PidMode": "", "UTSMode": "", "UsernsMode": "", "Binds": null, "Devices": null,
        "DeviceRequests": null, "PublishAllPorts": false, "AutoRemove": false, "VolumesFrom": null,
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}, "Ulimits": null,
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1048576", "max-file": "2"}},
    });
    for (key, value) in expected.as_object().unwrap() {
        let seen = &host[key];
        let empty = value.is_null() && seen.as_array().is_some_and(Vec::is_empty);
        assert!(seen == value || empty, "{key} is {seen}, not {value}");
    }
    assert_eq!(inspect[0]["Mounts"], json!([]));
    assert_eq!(inspect[0]["Config"]["StopTimeout"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_sees_the_small_set_of_capabilities_and_no_way_to_more() {
    let bench = Bench::shared().await;
    let plan = bench.plan("caps", &["cat", "/proc/self/status"]).await;
    bench.run(&plan).await;
    bench.ended(&plan.name).await;
    let status = bench.docker.log_tail(&plan.name, 4096).await.unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().to_owned()
    };
    // CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, NET_BIND_SERVICE 10,
    // AUDIT_WRITE 29.
    let bits: u64 = [0, 1, 3, 4, 5, 6, 7, 10, 29]
        .iter()
        .map(|bit| 1u64 << bit)
        .sum();
    for set in ["CapBnd:", "CapEff:", "CapPrm:"] {
        assert_eq!(u64::from_str_radix(&field(set), 16).unwrap(), bits, "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn sudo_lifts_no_new_privileges_and_nothing_else() {
    let bench = Bench::shared().await;
    let mut plan = bench
        .plan(
            "sudo",
            &[
                "grep",
                "-E",
                "NoNewPrivs|CapBnd|Seccomp:",
                "/proc/self/status",
            ],
        )
        .await;
    plan.hardening.sudo = true;
    bench.run(&plan).await;
    bench.ended(&plan.name).await;
    let status = bench.docker.log_tail(&plan.name, 4096).await.unwrap();
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(status.contains("CapBnd:\t00000000200004fb"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_s_kill_for_memory_is_told_apart_from_ours() {
    let bench = Bench::shared().await;
    let mut plan = bench.plan("oom", &["tail", "/dev/zero"]).await;
    plan.memory_bytes = 16 * 1024 * 1024;
    bench.run(&plan).await;
    let detail = bench.ended(&plan.name).await.detail.unwrap();
    assert_eq!(detail.exit_code, 137);
    assert!(detail.oom_killed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ulimit_above_the_engine_s_own_fails_the_start() {
    let bench = Bench::shared().await;
    let mut plan = bench.plan("ulimit", &["sh", "-c", "ulimit -n"]).await;
    plan.hardening.ulimits = vec![("nofile".to_owned(), 1024, 2048)];
    bench.run(&plan).await;
    bench.ended(&plan.name).await;
    assert_eq!(
        bench.docker.log_tail(&plan.name, 100).await.unwrap(),
        "1024\n"
    );

    let mut plan = bench.plan("ulimit-2", &["true"]).await;
    plan.hardening.ulimits = vec![("nofile".to_owned(), 1 << 40, 1 << 40)];
    bench.docker.create(&plan).await.unwrap();
    let error = bench.docker.start(&plan.name).await.unwrap_err();
    assert_eq!(error.class, Class::Failed, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_can_neither_speak_for_us_nor_choose_gpus_nor_preload_code() {
    let bench = Bench::shared().await;
    let image = bench.name("hostile").replace("rental-", "") + ":1";
    bench.engine.import(
        &image,
        &[
            "LABEL rental-agent.spec=forged rental-agent.agent-id=other maintainer=somebody",
            "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all LD_PRELOAD=/evil.so",
            "ENV KEPT=yes",
        ],
    );
    let mut plan = bench.plan("hostile", &["env"]).await;
    plan.image = bench.docker.image(&image).await.unwrap().unwrap();
    bench.run(&plan).await;
    let ended = bench.ended(&plan.name).await;
    let env = bench.docker.log_tail(&plan.name, 4096).await.unwrap();
    let mut env: Vec<&str> = env
        .lines()
        .filter(|line| !line.starts_with("HOSTNAME="))
        .collect();
    env.sort_unstable();
    bench.docker.remove(&plan.name).await.unwrap();
    bench.engine.docker(&["rmi", &image]);

    assert_eq!(
        ended.labels,
        BTreeMap::from(
            [
                ("maintainer", "somebody"),
                ("rental-agent.agent-id", ""),
                ("rental-agent.gpus", ""),
                ("rental-agent.instance-id", "hostile"),
                ("rental-agent.spec", ""),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
        )
    );
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let expected = [
        "GREETING=hello",
        "HOME=/",
        "KEPT=yes",
        "NVIDIA_VISIBLE_DEVICES=void",
        path,
    ];
    assert_eq!(env, expected);
}

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;
use crate::runtime::ImageFacts;

fn plan() -> ContainerPlan {
    ContainerPlan {
        name: "rental-a1".to_owned(),
        image: ImageFacts {
            id: "sha256:0123".to_owned(),
            ..ImageFacts::default()
        },
        entrypoint: None,
        command: None,
        env: vec![("GREETING".to_owned(), SecretString::from("hello=there"))],
        labels: BTreeMap::from([
            ("rental-agent.instance-id".to_owned(), "a1".to_owned()),
            ("rental-agent.gpus".to_owned(), String::new()),
        ]),
        ports: Vec::new(),
        gpus: Vec::new(),
        handing: Handing::Request,
        nano_cpus: 1_500_000_000,
        cpuset: None,
        memory_bytes: 2_147_483_648,
        shm_bytes: 67_108_864,
        hardening: Hardening {
            network: "rental-agent".to_owned(),
            pids_limit: 4096,
            log_max_bytes: 10_485_760,
            log_files: 3,
            sudo: false,
            ulimits: Vec::new(),
            runtime: None,
            driver_capabilities: "compute,utility".to_owned(),
        },
        stop_grace: Duration::from_millis(10_500),
    }
}

fn body(plan: &ContainerPlan) -> Value {
    serde_json::to_value(create_body(plan)).unwrap()
}

fn env(plan: &ContainerPlan) -> Vec<String> {
    create_body(plan).env.unwrap()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn port(container: u16, host: u16, protocol: PortProtocol) -> HostPort {
    HostPort {
        container,
        host,
        protocol,
    }
}

#[test]
fn a_plain_rental() {
    insta::assert_json_snapshot!(body(&plan()));
}

#[test]
fn a_rental_with_everything() {
    let mut plan = plan();
    plan.entrypoint = Some(words(&["/bin/sh", "-c"]));
    plan.command = Some(words(&["sleep 1"]));
    plan.ports = vec![
        port(80, 30_001, PortProtocol::Tcp),
        port(80, 30_002, PortProtocol::Tcp),
        port(53, 30_001, PortProtocol::Udp),
    ];
    plan.gpus = vec!["GPU-b".parse().unwrap(), "GPU-a".parse().unwrap()];
    plan.cpuset = Some("0-3,8-11".to_owned());
    plan.hardening.sudo = true;
    plan.hardening.runtime = Some("nvidia".to_owned());
    plan.hardening.ulimits = vec![("nofile".to_owned(), 1024, 4096)];
    plan.image.env_names = words(&["PATH", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_REQUIRE_CUDA"]);
    plan.image.label_names = words(&["maintainer", "rental-agent.spec", "rental-agent.gpus"]);
    insta::assert_json_snapshot!(body(&plan));
}

#[test]
fn gpus_by_cdi_are_named_and_nothing_else_may_add_any() {
    let mut plan = plan();
    plan.gpus = vec!["GPU-b".parse().unwrap(), "GPU-a".parse().unwrap()];
    plan.handing = Handing::Cdi;
    plan.image.env_names = words(&["NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"]);
    let body = body(&plan);
    let request =
        json!([{"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-b", "nvidia.com/gpu=GPU-a"]}]);
    assert_eq!(body["HostConfig"]["DeviceRequests"], request);
    let expected = [
        "NVIDIA_VISIBLE_DEVICES=void",
        "GREETING=hello=there",
        "NVIDIA_DRIVER_CAPABILITIES",
    ];
    assert_eq!(env(&plan), expected);
}

#[test]
fn gpus_as_files_can_be_opened_and_no_more_can_be_made() {
    let mut plan = plan();
    plan.gpus = vec!["GPU-a".parse().unwrap()];
    plan.handing = Handing::Files(words(&["/dev/dri/renderD128", "/dev/kfd"]));
    let host = &body(&plan)["HostConfig"];
    let file = |path: &str| json!({"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"});
    assert_eq!(
        host["Devices"],
        json!([file("/dev/dri/renderD128"), file("/dev/kfd")])
    );
    assert_eq!(host["DeviceRequests"], Value::Null);
    assert_eq!(env(&plan)[0], "NVIDIA_VISIBLE_DEVICES=void");
}

#[test]
fn without_gpus_an_image_that_asks_for_all_gets_none() {
    let mut plan = plan();
    plan.image.env_names = words(&[
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_DEBUG",
        "CUDA_VISIBLE_DEVICES",
        "GPU_DEVICE_ORDINAL",
        "RENTAL_AGENT_TOKEN",
    ]);
    assert_eq!(
        env(&plan),
        [
            "NVIDIA_VISIBLE_DEVICES=void",
            "GREETING=hello=there",
            "NVIDIA_DRIVER_CAPABILITIES",
            "LD_PRELOAD",
            "LD_DEBUG",
            "CUDA_VISIBLE_DEVICES",
            "GPU_DEVICE_ORDINAL",
            "RENTAL_AGENT_TOKEN",
        ]
    );
}

#[test]
fn a_tenant_cannot_choose_gpus_by_a_variable() {
    let mut plan = plan();
    plan.gpus = vec!["GPU-a".parse().unwrap()];
    for name in [
        "NVIDIA_VISIBLE_DEVICES",
        "nvidia_visible_devices",
        "LD_AUDIT",
    ] {
        plan.env.push((name.to_owned(), SecretString::from("all")));
    }
    assert_eq!(
        env(&plan),
        [
            "NVIDIA_VISIBLE_DEVICES=GPU-a",
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
            "GREETING=hello=there",
        ]
    );
}

#[test]
fn an_empty_list_clears_what_the_image_says() {
    type Argv = Option<&'static [&'static str]>;
    let cases: [(Argv, Argv, &[&str], Value, Value); 6] = [
        (None, None, &["init"], Value::Null, Value::Null),
        (None, Some(&[]), &["init"], json!(["init"]), json!([])),
        // Nothing is left to run: the engine refuses it.
        (None, Some(&[]), &[], json!([""]), json!([])),
        (Some(&[]), Some(&[]), &["init"], json!([""]), json!([])),
        (
            Some(&[]),
            Some(&["ls"]),
            &["init"],
            json!([]),
            json!(["ls"]),
        ),
        (
            Some(&["sh"]),
            Some(&[]),
            &["init"],
            json!(["sh"]),
            json!([]),
        ),
    ];
    for (entrypoint, command, image, want_entrypoint, want_command) in cases {
        let mut plan = plan();
        plan.entrypoint = entrypoint.map(words);
        plan.command = command.map(words);
        plan.image.entrypoint = words(image);
        let body = body(&plan);
        let case = format!("{entrypoint:?} {command:?} {image:?}");
        assert_eq!(body["Entrypoint"], want_entrypoint, "{case}");
        assert_eq!(body["Cmd"], want_command, "{case}");
    }
}

#[test]
fn remade_from_its_inspect_it_is_the_same_but_for_the_engine_s_own_names() {
    let plan = plan();
    let body = body(&plan);
    let mut config = body.clone();
    let host_config = config
        .as_object_mut()
        .unwrap()
        .remove("HostConfig")
        .unwrap();
    config["Hostname"] = json!("0123456789ab");
    let inspect = json!({
        "Id": "0123456789abcdef0123456789abcdef",
        "Name": "/rental-a1",
        "Image": "sha256:0123",
        "Config": config,
        "HostConfig": host_config,
    });
    let inspect = serde_json::from_value(inspect).unwrap();
    let remade = serde_json::to_value(remake_body(&inspect).unwrap()).unwrap();
    assert_eq!(remade, body);
}

#[test]
fn nothing_is_remade_from_half_an_inspect() {
    assert!(remake_body(&ContainerInspectResponse::default()).is_none());
}

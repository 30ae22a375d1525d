use serde_json::{Value, json};

use super::*;

const ID: &str = "4c482d4c41a48aefaae0d06bf33541eb92d7b3d9f7a6517403be3f51a969ca1b";

fn summary(value: Value) -> Option<Observed> {
    observed_from_summary(serde_json::from_value(value).unwrap())
}

fn inspect(value: Value) -> Option<Observed> {
    observed_from_inspect(serde_json::from_value(value).unwrap())
}

fn port(container: u16, host: u16, protocol: PortProtocol) -> HostPort {
    HostPort {
        container,
        host,
        protocol,
    }
}

#[test]
fn a_line_of_the_list() {
    let observed = summary(json!({
        "Id": ID,
        "Names": ["/other/alias", "/rental-a1"],
        "Created": 1_700_000_000,
        "State": "paused",
        "Labels": {"k": "v"},
        "Ports": [
            {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 30001, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 30001, "Type": "tcp"},
            {"PrivatePort": 53, "Type": "udp"},
        ],
    }))
    .unwrap();
    assert_eq!(observed.id.as_str(), ID);
    assert_eq!(observed.name, "rental-a1");
    assert_eq!(
        observed.created_at,
        Timestamp::from_millis(1_700_000_000_000)
    );
    assert_eq!(observed.state, ContainerState::Paused);
    assert_eq!(observed.labels.get("k").map(String::as_str), Some("v"));
    assert_eq!(observed.ports, [port(80, 30_001, PortProtocol::Tcp)]);
    assert_eq!(observed.detail, None);
}

#[test]
fn a_nameless_container_goes_by_its_id_and_one_without_id_is_not_read() {
    let dead = summary(json!({"Id": ID, "Names": null, "State": "dead"})).unwrap();
    assert_eq!(dead.name, ID);
    assert_eq!(dead.state, ContainerState::Dead);
    assert_eq!(summary(json!({"Names": ["/a"]})), None);
}

fn stopped() -> Value {
    json!({
        "Id": ID,
        "Name": "/rental-a1",
        "Created": "2026-11-21T03:26:44.023539981Z",
        "State": {
            "Status": "exited", "ExitCode": 137, "OOMKilled": true, "Pid": 0, "Error": "",
            "StartedAt": "2026-11-21T03:26:45.5Z", "FinishedAt": "0001-01-01T00:00:00Z",
        },
        "Config": {"Labels": {"k": "v"}},
        "HostConfig": {
            "PortBindings": {
                "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "30001"}],
                "81/tcp": [{"HostIp": "", "HostPort": ""}],
                "82/sctp": [{"HostIp": "", "HostPort": "30003"}],
                "83/tcp": null,
            },
            "DeviceRequests": [
                {"Driver": "", "Count": 0, "DeviceIDs": ["GPU-a"], "Capabilities": [["gpu"]]},
                {"Driver": "cdi", "DeviceIDs": ["nvidia.com/gpu=GPU-b"]},
            ],
        },
        "NetworkSettings": {"Ports": {}},
    })
}

#[test]
fn a_container_that_does_not_run_shows_what_it_would_publish() {
    let observed = inspect(stopped()).unwrap();
    assert_eq!(observed.name, "rental-a1");
    assert_eq!(
        observed.created_at,
        "2026-11-21T03:26:44.023539981Z".parse().unwrap()
    );
    assert_eq!(observed.ports, [port(80, 30_001, PortProtocol::Tcp)]);
    let detail = observed.detail.unwrap();
    assert_eq!(
        (detail.exit_code, detail.oom_killed, detail.pid),
        (137, true, 0)
    );
    assert_eq!(
        detail.started_at,
        Some("2026-11-21T03:26:45.5Z".parse().unwrap())
    );
    assert_eq!(detail.finished_at, None);
    assert_eq!(detail.device_ids, ["GPU-a", "nvidia.com/gpu=GPU-b"]);
}

#[test]
fn a_running_container_shows_what_it_publishes() {
    let mut value = stopped();
    value["State"]["Status"] = json!("running");
    value["NetworkSettings"]["Ports"] = json!({
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "49153"}],
        "90/tcp": null,
    });
    let observed = inspect(value).unwrap();
    assert_eq!(observed.ports, [port(80, 49_153, PortProtocol::Tcp)]);
}

#[test]
fn gpus_are_told_in_the_container_s_own_words_each_once() {
    let mut value = stopped();
    value["HostConfig"] = json!({
        "Runtime": "nvidia",
        "DeviceRequests": [{"DeviceIDs": ["GPU-a", "0"], "Capabilities": [["gpu"]]}],
        "Devices": [
            {"PathOnHost": "/dev/nvidia1"}, {"PathOnHost": "/dev/fuse"}, {"PathOnHost": "/dev/dri"},
        ],
    });
    value["Config"]["Env"] = json!([
        "A=b",
        "NVIDIA_VISIBLE_DEVICES=GPU-a,2",
        "NVIDIA_VISIBLE_DEVICES=all"
    ]);
    let ids = |value: &Value| inspect(value.clone()).unwrap().detail.unwrap().device_ids;
    assert_eq!(ids(&value), ["GPU-a", "0", "/dev/nvidia1", "/dev/dri", "2"]);
    // Only NVIDIA's runtime goes by the variable.
    value["HostConfig"] = json!({"Runtime": "runc"});
    assert_eq!(ids(&value), [""; 0]);
    value["HostConfig"] = json!({"Runtime": "nvidia"});
    for nothing in ["void", "none", ""] {
        value["Config"]["Env"] = json!([format!("NVIDIA_VISIBLE_DEVICES={nothing}")]);
        assert_eq!(ids(&value), [""; 0], "{nothing}");
    }
    // As many words as no host has GPUs.
    let many: Vec<String> = (0..300).map(|n| n.to_string()).collect();
    value["Config"]["Env"] = json!([format!("NVIDIA_VISIBLE_DEVICES={}", many.join(","))]);
    assert_eq!(ids(&value), ["all"]);
}

#[test]
fn a_count_of_gpus_is_any_of_them() {
    for count in [-1, 2] {
        let mut value = stopped();
        value["HostConfig"]["DeviceRequests"] =
            json!([{"Count": count, "Capabilities": [["gpu"]], "DeviceIDs": null}]);
        let detail = inspect(value).unwrap().detail.unwrap();
        assert_eq!(detail.device_ids, ["all"]);
    }
}

#[test]
fn an_image_gives_the_names_of_what_it_sets() {
    let image = serde_json::from_value(json!({
        "Id": "sha256:00", "RepoDigests": ["a@sha256:11"], "Architecture": "amd64", "Os": "linux",
        "Size": 12,
        "Config": {
            "Env": ["PATH=/bin", "NVIDIA_VISIBLE_DEVICES=all"],
            "Labels": {"b": "1", "a": "2"},
            "Entrypoint": ["/init"],
        },
    }));
    let facts = image_facts(image.unwrap()).unwrap();
    assert_eq!(
        facts,
        ImageFacts {
            id: "sha256:00".to_owned(),
            repo_digests: vec!["a@sha256:11".to_owned()],
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            size_bytes: 12,
            env_names: vec!["PATH".to_owned(), "NVIDIA_VISIBLE_DEVICES".to_owned()],
            label_names: vec!["a".to_owned(), "b".to_owned()],
            entrypoint: vec!["/init".to_owned()],
        }
    );
    assert_eq!(image_facts(ImageInspect::default()), None);
}

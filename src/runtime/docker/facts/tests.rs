use serde_json::json;

use super::*;

#[test]
fn what_an_engine_says_of_itself() {
    let version = json!({"Version": "20.10.24", "ApiVersion": "1.41", "Arch": "amd64"});
    let info = json!({
        "Driver": "overlay2", "CgroupVersion": "1", "DockerRootDir": "/var/lib/docker",
        "Name": "gpu-host-1", "OperatingSystem": "Debian GNU/Linux 12 (bookworm)",
        "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}},
        "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"],
    });
    let facts = facts(
        serde_json::from_value(version).unwrap(),
        serde_json::from_value(info).unwrap(),
        None,
        BTreeSet::new(),
    );
    assert_eq!(facts.engine.version, "20.10.24");
    assert_eq!(facts.engine.api_version, "1.41");
    assert_eq!(facts.engine.runtimes, ["nvidia", "runc"]);
    assert_eq!(facts.engine.cgroup_version, "1");
    assert!(facts.engine.gpu_runtime && !facts.engine.cdi);
    assert_eq!(facts.security_options, ["apparmor", "seccomp"]);
    assert_eq!(facts.architecture, "amd64");
    assert_eq!(facts.hostname, "gpu-host-1");
    assert_eq!(facts.os, "Debian GNU/Linux 12 (bookworm)");
}

#[test]
fn a_switched_off_profile_is_named() {
    assert_eq!(
        security_option("name=seccomp,profile=unconfined"),
        "unconfined"
    );
    assert_eq!(security_option("name=seccomp,profile=builtin"), "seccomp");
    assert_eq!(security_option("name=rootless"), "rootless");
    assert_eq!(security_option("selinux"), "selinux");
}

use super::{Operation::*, *};
use crate::runtime::Class::*;

type Cases = &'static [(Option<u16>, &'static str, Class)];

fn check(operation: Operation, cases: &[(Option<u16>, &str, Class)]) {
    for (status, message, class) in cases {
        assert_eq!(answer(operation, *status, message), *class, "{message}");
    }
}

#[test]
fn a_pull_says_what_is_wrong_with_the_image_or_its_registry() {
    check(Pull, PULL_SEEN);
    check(Pull, PULL_REPORTED);
}

#[test]
fn a_start_says_what_is_missing() {
    check(Start, START_SEEN);
    check(Start, START_REPORTED);
}

#[test]
fn a_create_says_whose_name_it_is() {
    check(Create, CREATE_SEEN);
    check(Create, CREATE_REPORTED);
}

#[test]
fn what_is_used_or_under_way_is_no_failure_of_the_engine() {
    let used = "remove rental-a: volume is in use - [00]";
    check(Volume, &[(Some(409), used, InUse)]);
    // Engine 26; 20.10 makes a second one.
    let same = "network with name rental-agent already exists";
    check(Network, &[(Some(409), same, NameTaken)]);
    let removing = "removal of container rental-a is already in progress";
    check(Remove, &[(Some(409), removing, Refused)]);
    check(
        Remove,
        &[(Some(404), "No such container: rental-a", NotFound)],
    );
}

#[test]
fn what_a_tenant_has_written_does_not_decide() {
    let quoted = "failed to create shim task: OCI runtime create failed: runc create failed: unable \
                  to start container process: exec: \"port is already allocated\": executable file \
                  not found in $PATH: unknown";
    check(Start, &[(Some(400), quoted, Refused)]);
}

// From Docker Engine 20.10, most of them by the tests in `tests/docker`.

const PULL_SEEN: Cases = &[
    (
        Some(404),
        "manifest for 127.0.0.1:41053/some/image:2 not found: manifest unknown: manifest unknown",
        ImageNotFound,
    ),
    (Some(500), "manifest unknown", ImageNotFound),
    (
        Some(500),
        "Head \"http://127.0.0.1:46411/v2/private/image/manifests/1\": no basic auth credentials",
        RegistryAuth,
    ),
    (
        Some(500),
        "unauthorized: authentication required",
        RegistryAuth,
    ),
    (Some(500), "unauthorized", RegistryAuth),
    (Some(500), "toomanyrequests: too much", RateLimited),
    (
        Some(500),
        "received unexpected HTTP status: 500 Internal Server Error",
        RegistryFailed,
    ),
    (
        None,
        "filesystem layer verification failed for digest sha256:00",
        ImageCorrupt,
    ),
    (
        None,
        "failed to register layer: Error processing tar file(exit status 1): archive/tar: invalid \
         tar header",
        ImageCorrupt,
    ),
    (
        Some(500),
        "error creating temporary lease: write /var/lib/docker/containerd/daemon/meta.db: no space \
         left on device: unknown",
        DiskFull,
    ),
    (
        None,
        "no matching manifest for linux/amd64 in the manifest list entries",
        ImageUnsupported,
    ),
    (
        Some(500),
        "Get \"http://127.0.0.1:45379/v2/\": dial tcp 127.0.0.1:45379: connect: connection refused",
        RegistryFailed,
    ),
    (
        Some(500),
        "Get \"https://registry.invalid/v2/\": dial tcp: lookup registry.invalid on 10.0.0.1:53: \
         dial udp 10.0.0.1:53: connect: network is unreachable",
        RegistryFailed,
    ),
    (
        Some(500),
        "Get \"https://127.0.0.1:36213/v2/\": net/http: TLS handshake timeout",
        RegistryFailed,
    ),
    (None, "unexpected EOF", RegistryFailed),
];

const START_SEEN: Cases = &[
    (
        Some(500),
        "could not select device driver \"\" with capabilities: [[gpu]]",
        GpuRuntime,
    ),
    (
        Some(500),
        "driver failed programming external connectivity on endpoint rental-a (00): Bind for \
         0.0.0.0:36019 failed: port is already allocated",
        PortTaken,
    ),
    (
        Some(500),
        "driver failed programming external connectivity on endpoint rental-a (00): Error starting \
         userland proxy: listen tcp4 0.0.0.0:36019: bind: address already in use",
        PortTaken,
    ),
    (
        Some(400),
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
         container process: exec: \"sleep\": executable file not found in $PATH: unknown",
        Refused,
    ),
    (
        Some(400),
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
         container process: exec: \"/nowhere\": stat /nowhere: no such file or directory: unknown",
        Refused,
    ),
    (
        Some(400),
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
         container process: exec: \"/www\": permission denied: unknown",
        Refused,
    ),
    (
        Some(500),
        "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
         container process: error during container init: error setting rlimits for ready process: \
         error setting rlimit type 7: operation not permitted: unknown",
        Failed,
    ),
    (
        Some(500),
        "task 31b30b2d0e0fa3ec3f2cd411681d0a2d9d3f924ddf6b5a29b99560b4a1e5689f: already exists",
        Unstartable,
    ),
    (Some(404), "No such container: rental-a", NotFound),
];

const CREATE_SEEN: Cases = &[
    (
        Some(409),
        "Conflict. The container name \"/rental-a\" is already in use by container \"00\". You have \
         to remove (or rename) that container to be able to reuse that name.",
        NameTaken,
    ),
    (Some(404), "No such image: sha256:00", NotFound),
    (Some(400), "Minimum memory limit allowed is 6MB", Refused),
    (Some(400), "No command specified", Refused),
    (
        Some(500),
        "mkdir /var/lib/docker/overlay2/00-init: no space left on device",
        DiskFull,
    ),
];

// From issue threads and documentation, of other versions, registries and vendors.

const PULL_REPORTED: Cases = &[
    (
        Some(404),
        "pull access denied for a/b, repository does not exist or may require 'docker login': \
         denied: requested access to the resource is denied",
        RegistryAuth,
    ),
    (
        Some(500),
        "unauthorized: incorrect username or password",
        RegistryAuth,
    ),
    (
        Some(404),
        "manifest for a:1 not found: name unknown: repository name not known to registry",
        ImageNotFound,
    ),
    (
        Some(500),
        "toomanyrequests: You have reached your pull rate limit. You may increase the limit by \
         authenticating and upgrading",
        RateLimited,
    ),
    (
        None,
        "failed to register layer: Error processing tar file(exit status 1): write /x: no space \
         left on device",
        DiskFull,
    ),
    (
        None,
        "image operating system \"windows\" cannot be used on this platform",
        ImageUnsupported,
    ),
    (
        Some(500),
        "Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host",
        RegistryFailed,
    ),
    (
        Some(500),
        "Get \"https://r.example/v2/\": x509: certificate signed by unknown authority",
        RegistryFailed,
    ),
    (
        Some(500),
        "Get \"https://r.example/v2/\": http: server gave HTTP response to HTTPS client",
        RegistryFailed,
    ),
    (Some(400), "invalid reference format", Refused),
];

const START_REPORTED: Cases = &[
    (
        Some(500),
        "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=GPU-a",
        GpuRuntime,
    ),
    (
        Some(500),
        "failed to create task for container: failed to create shim task: OCI runtime create \
         failed: runc create failed: unable to start container process: error during container \
         init: error running hook #0: error running hook: exit status 1, stdout: , stderr: \
         nvidia-container-cli: device error: GPU-a: unknown device: unknown",
        GpuRuntime,
    ),
    (
        Some(500),
        "failed to set up container networking: driver failed programming external connectivity on \
         endpoint a (00): failed to bind host port for 0.0.0.0:30000:172.17.0.2:80/tcp: address \
         already in use",
        PortTaken,
    ),
    (
        Some(409),
        "container is marked for removal and cannot be started",
        Unstartable,
    ),
    (
        Some(409),
        "cannot start a paused container, try unpause instead",
        Refused,
    ),
    (
        Some(500),
        "OCI runtime create failed: exec format error: unknown",
        ImageUnsupported,
    ),
    (Some(500), "something else", Failed),
];

const CREATE_REPORTED: Cases = &[
    (Some(400), "unknown runtime specified nvidia", Refused),
    (
        Some(500),
        "--storage-opt is supported only for overlay over xfs with 'pquota' mount option",
        Failed,
    ),
];

//! Input that means harm: image references, specs, and a generator of more. Test support, shared by
//! the test binaries; knows the wire's JSON and nothing of the agent's code.

#![allow(
    dead_code,
    reason = "each test binary that includes this uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use serde_json::{Map, Value, json};

/// A spec that somebody could send who means harm.
#[derive(Debug, Clone)]
pub(crate) struct Hostile {
    /// What is tried.
    pub(crate) what: String,
    /// As JSON, the value of `command.spec`.
    pub(crate) spec: Value,
    /// What has to come of it.
    pub(crate) verdict: Verdict,
}

/// What has to come of a hostile spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Never a container.
    Refused,
    /// A container, and nothing in the request that was tried.
    Harmless,
}

/// Hosts that lie inside the provider's network, or may: none is a public registry.
const PRIVATE_HOSTS: &[&str] = &[
    "127.0.0.1",
    "127.0.0.2",
    "127.1",
    "127.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.17.0.1",
    "172.31.255.254",
    "192.168.0.1",
    "192.168.178.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "169.254.170.2",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "8.8.8.8",
    "1.1.1.1",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f.1",
    "0x7F000001.0x0",
    "127.0.0.0x1",
    "1.2.3.4.5",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::ffff:a9fe:a9fe]",
    "[64:ff9b::7f00:1]",
    "[fe80::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fd12:3456::1]",
    "[ff02::1]",
    "[2001:db8::1]",
    "[2606:4700:4700::1111]",
    "[0:0:0:0:0:0:0:1]",
    "localhost",
    "LOCALHOST",
    "Localhost",
    "localhost.localdomain",
    "a.localhost",
    "nas.local",
    "NAS.LOCAL",
    "printer.lan",
    "router.home",
    "fritz.box.home.arpa",
    "git.corp",
    "vault.internal",
    "metadata.google.internal",
    "METADATA.GOOGLE.INTERNAL",
    "host.docker.internal",
    "gateway.docker.internal",
    "kubernetes.docker.internal",
    "host.containers.internal",
    "wiki.intranet",
    "db.private",
    "kubernetes.default.svc.cluster.local",
    "1.0.0.127.in-addr.arpa",
    "service.test",
    "x.invalid",
    "x.example",
    "facebookwkhpilnemxj7asaniu7vnjjbiltxjqhye3mhbshg7kx5tfyd.onion",
    "Registry",
    "REGISTRY",
    "Docker",
];

/// Hosts that only a port makes a domain of.
const PRIVATE_SINGLE_LABELS: &[&str] = &[
    "registry",
    "gitlab",
    "nas",
    "router",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "0",
    "1",
];

/// Ports where something else than a registry listens.
const PORTS: &[u16] = &[
    1, 22, 25, 53, 80, 111, 445, 1433, 2049, 2375, 2376, 2379, 3128, 3306, 5000, 5432, 6379, 6443,
    7070, 8000, 8080, 8443, 9000, 9200, 10250, 11211, 27017, 65535,
];

/// What is no reference at all.
const MALFORMED: &[&str] = &[
    "",
    " ",
    "\t",
    "\n",
    "\0",
    ".",
    "..",
    "/",
    "//",
    ":",
    "@",
    ":latest",
    "@sha256:",
    "/busybox",
    "busybox/",
    "busybox//x",
    "a//b",
    "./busybox",
    "../busybox",
    "a/../b",
    "a/./b",
    "../../etc/passwd",
    "/etc/passwd",
    "..%2f..%2fetc",
    "busybox%00",
    "busybox\0",
    "busybox\n",
    "busybox\r\nHost: evil",
    " busybox",
    "busybox ",
    "busy box",
    "busybox\u{1b}[2J",
    "busybox\u{202e}",
    "busybox\u{200b}",
    "büsybox",
    "bu\u{455}ybox",
    "ｂusybox",
    "BusyBox",
    "BUSYBOX",
    "ghcr.io/A/b",
    "http://ghcr.io/a/b",
    "https://ghcr.io/a/b",
    "docker://busybox",
    "oci://busybox",
    "file:///etc/passwd",
    "unix:///var/run/docker.sock",
    "ftp://a/b",
    "javascript:alert(1)",
    "user:password@ghcr.io/a",
    "user@ghcr.io/a",
    "ghcr.io@127.0.0.1/a",
    "ghcr.io\\@127.0.0.1/a",
    "ghcr.io/a?tag=x",
    "ghcr.io/a&fromSrc=-",
    "ghcr.io/a#x",
    "ghcr.io/a;b",
    "a|b",
    "a&&b",
    "$(id)",
    "`id`",
    "${IFS}",
    "a'b",
    "a\"b",
    "a\\b",
    "a*",
    "a?",
    "{a,b}",
    "-busybox",
    "--privileged",
    "-v/:/host",
    "_busybox",
    ".busybox",
    "busybox.",
    "busybox_",
    "busybox-",
    "a..b",
    "a___b",
    "a._b",
    "a_.b",
    "busybox:",
    "busybox::",
    "busybox:a:b",
    "busybox:-a",
    "busybox:.a",
    "busybox:a/b",
    "busybox:a b",
    "busybox:a\n",
    "busybox:ä",
    "busybox@",
    "busybox@sha256",
    "busybox@sha256:",
    "busybox@sha256:abc",
    "busybox@sha256:../../../../etc/passwd",
    "busybox@md5:d41d8cd98f00b204e9800998ecf8427e",
    "busybox@sha256:0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef",
    "busybox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdeg",
    "busybox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0",
    "busybox@sha512:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "busybox@@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef/a",
    "ghcr.io:/a",
    "ghcr.io:0/a",
    "ghcr.io:0443/a",
    "ghcr.io:+443/a",
    "ghcr.io:-1/a",
    "ghcr.io:65536/a",
    "ghcr.io:99999999999999999999/a",
    "ghcr.io:443:443/a",
    "ghcr.io:https/a",
    "ghcr.io:4 43/a",
    "ghcr.io:０/a",
    "ghcr.io./a",
    ".ghcr.io/a",
    "ghcr..io/a",
    "-ghcr.io/a",
    "ghcr-.io/a",
    "gh_cr.io/a",
    "*.ghcr.io/a",
    "ghcr.io/",
    "ghcr.io//a",
    "[::1/a",
    "::1]/a",
    "[::1]a/a",
    "[::1]:/a",
    "[::1%25eth0]/a",
    "[fe80::1%eth0]/a",
    "[::g]/a",
    "[]/a",
    "[127.0.0.1]/a",
    "[v1.x]/a",
    "::1/a",
    "fe80::1/a",
];

/// References that must be refused, or denied on a host whose configuration names no registry.
pub(crate) fn references() -> Vec<String> {
    let mut references: Vec<String> = MALFORMED.iter().map(|text| (*text).to_owned()).collect();
    for host in PRIVATE_HOSTS {
        references.push(format!("{host}/a"));
        references.push(format!("{host}:443/a:b"));
        references.push(format!("{host}:5000/a/b"));
    }
    for host in PRIVATE_SINGLE_LABELS {
        references.push(format!("{host}:443/a"));
        references.push(format!("{host}:5000/a"));
    }
    for port in PORTS {
        references.push(format!("ghcr.io:{port}/a"));
        references.push(format!("docker.io:{port}/library/a"));
    }
    references.push("a".repeat(513));
    references.push("a/".repeat(200) + "a");
    references.push(format!("ghcr.io/{}", "a".repeat(256)));
    references.push(format!("{}.io/a", "a".repeat(64)));
    references.push(format!("{}io/a", "a.".repeat(130)));
    references.push(format!("busybox:{}", "a".repeat(129)));
    references.push("busybox".to_owned() + &"\u{301}".repeat(50));
    references
}

/// Specs of which each is refused or yields a harmless container.
pub(crate) fn specs() -> Vec<Hostile> {
    let references = references()
        .into_iter()
        .map(|reference| ("image".to_owned(), json!(reference)));
    let refused = references
        .chain(values("unserved"))
        .chain(values("bad"))
        .chain(long_values())
        .map(|field| (field, Verdict::Refused));
    let harmless = values("harmless")
        .into_iter()
        .map(|field| (field, Verdict::Harmless));
    refused
        .chain(harmless)
        .map(|((name, value), verdict)| {
            let mut spec = plain();
            let what = format!("{name} = {value:.80}");
            spec[name] = value;
            Hostile {
                what,
                spec,
                verdict,
            }
        })
        .collect()
}

/// A spec that nobody could object to.
pub(crate) fn plain() -> Value {
    json!({"instance_id": "r-1", "image": "busybox"})
}

/// The values of `hostile.json` of one kind, as (name, value) of a spec's field:
/// - `unserved`: what other systems call the rights that no rental has, and what is not served;
/// - `bad`: served fields with values that break a limit, a type or a rule;
/// - `harmless`: what looks like an attack and is only text, or asks for what is not there.
fn values(kind: &str) -> Vec<(String, Value)> {
    let mut all: Value = serde_json::from_str(include_str!("hostile.json")).unwrap();
    serde_json::from_value(all[kind].take()).unwrap()
}

/// Bad values that are too long to be written down.
fn long_values() -> Vec<(String, Value)> {
    let ports: Vec<Value> = (1..=65)
        .map(|n| json!({"name": format!("p{n}"), "container": n}))
        .collect();
    let labels = |count: usize, value: &str| -> Value {
        let label = |n: usize| (n.to_string(), json!(value));
        (0..count).map(label).collect::<Map<_, _>>().into()
    };
    let mut values = vec![
        ("instance_id", json!("a".repeat(64))),
        ("env", json!({"A": "x".repeat(70_000)})),
        ("gpus", json!({"uuids": vec!["GPU-0"; 65]})),
        ("ports", json!(ports)),
        ("ports", json!([{"name": "a".repeat(64), "container": 80}])),
        ("labels", json!({"a".repeat(129): "x"})),
        ("labels", json!({"a": "x".repeat(1025)})),
        ("labels", labels(65, "")),
        ("labels", labels(60, &"x".repeat(1000))),
    ];
    for name in ["entrypoint", "command"] {
        values.push((name, json!(vec!["a"; 1025])));
        values.push((name, json!(["a".repeat(70_000)])));
        values.push((name, json!(["\u{1}".repeat(8_000)])));
    }
    let owned = |(name, value): (&str, Value)| (name.to_owned(), value);
    values.into_iter().map(owned).collect()
}

/// Random specs: good and bad values of every field in any combination.
pub(crate) fn any_spec() -> impl Strategy<Value = Value> {
    let pool: Vec<(String, Value)> = values("unserved")
        .into_iter()
        .chain(values("bad"))
        .chain(long_values())
        .collect();
    let harmless = values("harmless");
    let text = prop_oneof![
        "\\PC{0,40}",
        "[ -~]{0,40}",
        "[A-Z_]{1,20}",
        "[a-z0-9-]{1,20}"
    ];
    let texts = vec(text.clone(), 1..4);
    let map = btree_map(text.clone(), text.clone(), 0..4);
    let field = |name: &str, value: Value| (name.to_owned(), value);
    let random = prop_oneof![
        texts
            .clone()
            .prop_map(move |list| field("command", json!(list))),
        texts.prop_map(move |list| field("entrypoint", json!(list))),
        map.clone().prop_map(move |map| field("env", json!(map))),
        map.prop_map(move |map| field("labels", json!(map))),
        text.prop_map(move |text| field("image", json!(text))),
        (-1.0..5000.0).prop_map(move |cpus| field("cpus", json!(cpus))),
        (0u64..1 << 54).prop_map(move |bytes| field("memory_bytes", json!(bytes))),
        (0u64..1 << 54).prop_map(move |bytes| field("shm_bytes", json!(bytes))),
        select(references()).prop_map(move |text| field("image", json!(text))),
    ];
    // Mostly one fault at a time, since the first one hides the rest.
    let fields = (
        vec(select(harmless), 0..6),
        vec(prop_oneof![1 => select(pool), 2 => random], 0..2),
    );
    fields.prop_map(|(harmless, hostile)| {
        let mut spec = plain();
        for (name, value) in harmless.into_iter().chain(hostile) {
            spec[name] = value;
        }
        spec
    })
}

//! The HTTP surface of the whole agent above a real engine.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use jsonwebtoken::{EncodingKey, Header, encode};
use rental_agent::{clock, protocol::Phase};
use serde_json::{Value, json};

use crate::{
    lab::Engine,
    world::{SOON, Spec, World, wait_until},
};

const ISSUER: &str = "https://scheduler.test";
const SECRET: &str = "thirty-two bytes and some more of a secret";

/// A world whose agent serves HTTP on this address of its host, and its port.
async fn serving(listen: &str, settings: &[(&str, &str)]) -> (World, u16) {
    let mut world = World::shared().await;
    // Rentals of these tests publish no ports, so the last one is free.
    let port = world.first_port() + 9;
    let secret = secret_file(&world);
    world
        .set_env("RENTAL_AGENT__HTTP__LISTEN", format!("{listen}:{port}"))
        .set_env("RENTAL_AGENT__HTTP__AUTH__ISSUER", ISSUER)
        .set_env(
            "RENTAL_AGENT__HTTP__AUTH__HS256_SECRET_FILE",
            secret.to_str().unwrap(),
        );
    for (name, value) in settings {
        world.set_env(name, *value);
    }
    world.up().await;
    let open = || std::future::ready(world.is_open(port).then_some(()));
    wait_until("the HTTP surface", SOON, open).await;
    (world, port)
}

fn secret_file(world: &World) -> PathBuf {
    let path = world.folder().join("http-secret");
    fs::write(&path, format!("{SECRET}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Asks on the host's loopback with a new token; status and body.
async fn ask(
    world: &World,
    port: u16,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> (u16, Value) {
    let claims = json!({
        "iss": ISSUER, "aud": world.agent_id(), "sub": "test", "jti": uuid::Uuid::new_v4().to_string(),
        "exp": clock::now().wall.as_millis() / 1000 + 60,
        "scope": "instances:read instances:write",
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let token = encode(&Header::default(), &claims, &key).unwrap();
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    let text = format!(
        "{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    let mut stream = world.dial(port).unwrap();
    let asked = tokio::task::spawn_blocking(move || {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = asked.await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rental_of_http_runs_in_the_engine_and_is_seen_by_the_server() {
    let (world, port) = serving("127.0.0.1", &[]).await;
    let spec = world.sleeper();
    let (status, started) = ask(&world, port, "POST", "/start_instance", Some(&spec.json())).await;
    assert_eq!(status, 200, "{started}");
    let id = spec.id();
    let seen = world.running(&id).await;
    assert_eq!(started["container_id"], seen.id.as_str());
    assert_eq!(world.wait_phase(&id, Phase::Ready).await.id, id);
    // The server asks for its end, and HTTP sees that.
    world.terminate(&id).await;
    let (status, answer) = ask(&world, port, "GET", &format!("/instances/{id}"), None).await;
    // Once the server has stored the end, nothing is left of it here.
    assert!(
        status == 404 || answer["phase"] == "ended",
        "{status}: {answer}"
    );
    let spec = world.sleeper();
    world.deploy_ready(&spec).await;
    let body = json!({ "container_id": world.container_id(&spec.id()).await.unwrap() });
    let (status, ended) = ask(&world, port, "POST", "/terminate_instance", Some(&body)).await;
    assert_eq!((status, &ended["known"]), (200, &json!(true)), "{ended}");
    world.wait_phase(&spec.id(), Phase::Ended).await;
    assert!(world.container(&spec.id()).await.is_none());
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_client_of_the_short_form_works_unchanged() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/python/bin/python");
    let asked = Command::new(&python)
        .args(["-c", "import jwt, requests"])
        .output();
    if !asked.is_ok_and(|output| output.status.success()) {
        println!(
            "SKIPPED: requests and PyJWT are not in target/python; scripts/test installs them"
        );
        return;
    }
    let (world, port) = serving("127.0.0.1", &[]).await;
    let image = "lab/short-form:1";
    Engine::shared().import(image, &[r#"CMD ["httpd","-f","-p","80","-h","/www"]"#]);
    let output = Command::new(python)
        .arg(root.join("tests/python/short_form.py"))
        .env_clear()
        .env("AGENT_URL", format!("http://127.0.0.1:{port}"))
        .env("AGENT_ID", world.agent_id().as_str())
        .env("ISSUER", ISSUER)
        .env("SECRET_FILE", secret_file(&world))
        .env("IMAGE", image)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// Whatever is sent, the answer is one that the contract has.
#[tokio::test(flavor = "multi_thread")]
async fn the_contract_holds_for_whatever_is_sent() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/python/bin/schemathesis");
    if !program.exists() {
        println!("SKIPPED: schemathesis is not in target/python; scripts/test installs it");
        return;
    }
    // A made-up image is refused at once instead of being asked for again and again.
    let registries = (
        "RENTAL_AGENT__POLICY__ALLOWED_REGISTRIES",
        r#"["registry.test"]"#,
    );
    let (world, port) = serving("127.0.0.1", &[registries]).await;
    let folder = world.folder();
    let url = format!("http://127.0.0.1:{port}");
    let mut command = Command::new(program);
    command
        .arg("--config-file")
        .arg(root.join("tests/python/schemathesis.toml"))
        .args(["run", &format!("{url}/openapi.json"), "--url", &url])
        .args([
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            "40",
        ])
        .args([
            "--seed",
            "1",
            "--no-color",
            "--suppress-health-check",
            "all",
        ])
        // A WebSocket is no request with an answer. What no schema can say (an image that cannot be
        // pulled, a name that is taken) is refused too, and with a documented 5xx where it is that.
        .args(["--exclude-path", "/ws", "--request-timeout", "20"])
        .args([
            "--exclude-checks",
            "not_a_server_error,positive_data_acceptance",
        ])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", &folder)
        .env("PYTHONPATH", root.join("tests/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "contract")
        .env("AGENT_ID", world.agent_id().as_str())
        .env("ISSUER", ISSUER)
        .env("SECRET_FILE", secret_file(&world))
        .current_dir(&folder);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success());
    assert!(said.contains("6 selected"), "not all paths were tried");
}

/// S8. Published ports go around the bridge's isolation by the gateway's address.
#[tokio::test(flavor = "multi_thread")]
async fn a_rental_does_not_reach_the_agent_by_its_gateway() {
    let (world, port) = serving("0.0.0.0", &[]).await;
    let (status, _) = ask(&world, port, "GET", "/instances", None).await;
    assert_eq!(status, 200, "the host itself does");
    let script = format!(
        "gw=$(ip route | awk '/default/ {{print $3}}'); \
         said=$(printf 'GET /health HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $gw {port}); \
         echo asked $gw: \"$said\"; exec sleep 1000000"
    );
    let spec = Spec::new(&world.instance_id(), &world.image, &["sh", "-c", &script]);
    let (id, _) = world.deploy_ready(&spec).await;
    let said = wait_until("the rental's words", SOON, || async {
        let said = world.output(&id).await;
        said.contains("asked").then_some(said)
    })
    .await;
    assert!(!said.contains("HTTP"), "{said}");
    // It came as far as the agent's door.
    assert!(
        world
            .log()
            .contains("a rental has tried to reach the agent")
    );
}

//! What happens to an agent with secrets, good and bad.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use bollard::query_parameters::{ListContainersOptionsBuilder, ListVolumesOptions};
use rental_agent::protocol::{EndReason, ErrorCode, Outcome, Phase};
use serde_json::json;

use crate::{
    lab::{BUSYBOX, Engine, PASSWORD, Registry, USERNAME},
    world::{CANARY, LATER, Spec, World, exits, sleeps, wait_for},
};

use super::malformed;

/// The canaries, one for each place.
#[derive(Debug)]
pub(super) struct Secrets {
    /// The server's token, by variable and by file.
    pub(super) server_token: String,
    /// A token that the server does not take.
    pub(super) wrong_token: String,
    /// The value of a tenant's variable.
    pub(super) env: String,
    /// The registry's password.
    pub(super) registry_password: String,
    /// One that the registry does not take.
    pub(super) password: String,
    /// Instead of a password.
    pub(super) identity_token: String,
}

impl Secrets {
    pub(super) fn new() -> Self {
        let secret = |name: &str| format!("{CANARY}-{name}");
        Self {
            server_token: secret("token"),
            wrong_token: secret("wrong-token"),
            env: secret("variable"),
            registry_password: PASSWORD.to_owned(),
            password: secret("password"),
            identity_token: secret("identity"),
        }
    }

    pub(super) fn all(&self) -> Vec<String> {
        let all = [
            &self.server_token,
            &self.wrong_token,
            &self.env,
            &self.registry_password,
            &self.password,
            &self.identity_token,
        ];
        all.map(String::clone).to_vec()
    }
}

/// All of them, one after the other; `look` is called while there is something to be seen.
pub(super) async fn run(
    world: &mut World,
    engine: &Engine,
    registry: &Registry,
    secrets: &Secrets,
    mut look: impl AsyncFnMut(&World),
) {
    let private = registry.push(engine, BUSYBOX, "private:1");
    let allowed = json!([registry.address(), "docker.io"]).to_string();
    world.set_env("RENTAL_AGENT__POLICY__ALLOWED_REGISTRIES", allowed);
    bad_configurations(world, secrets).await;
    bad_token(world, secrets).await;
    world.up().await;

    let (id, _) = world.deploy_ready(&secret_spec(world, secrets)).await;
    look(world).await;
    for spec in [
        world.spec(&exits(3)),
        world.spec(&["/no/such/program"]),
        // More than there is.
        world.sleeper().with("memory_bytes", 1_u64 << 50),
    ] {
        let (_, ticket) = world.deploy(&with_secret(spec, secrets));
        world.final_reply(&ticket).await;
    }
    pulls(world, &private, secrets).await;
    malformed(world, secrets, &private).await;
    look(world).await;

    token_file(world, secrets).await;
    world.wait_phase(&id, Phase::Ready).await;
    look(world).await;
    world.terminate(&id).await;
    world.wait_ended(&id, EndReason::Terminated).await;
    world.sigterm_agent(Duration::from_secs(10)).await;
}

/// Faults of the configuration show keys and values, and secrets are values.
async fn bad_configurations(world: &mut World, secrets: &Secrets) {
    let token = secrets.server_token.as_str();
    let with_space = format!("{token} {token}");
    for (name, value, good) in [
        ("AGENT_TOKEN", with_space.as_str(), token),
        ("AGENT_TOKEN_FILE", token, ""),
        ("RENTAL_AGENT__SERVER__TOKN", token, ""),
        ("RENTAL_AGENT__LOG__FORMAT", "no such format", ""),
    ] {
        world.set_env(name, value);
        world.start_agent();
        assert_eq!(
            world.wait_agent_ended(LATER).await.code(),
            Some(78),
            "{name}"
        );
        world.set_env(name, good);
    }
}

async fn bad_token(world: &mut World, secrets: &Secrets) {
    world.set_env("AGENT_TOKEN", secrets.wrong_token.as_str());
    world.start_agent();
    wait_for("the refusal of a token", LATER, || {
        world.log().contains("401")
    })
    .await;
    world.kill_agent();
    world.set_env("AGENT_TOKEN", secrets.server_token.as_str());
}

/// The same token from a file, with a restart in between.
async fn token_file(world: &mut World, secrets: &Secrets) {
    let path = world.folder().join("token");
    fs::write(&path, format!("{}\n", secrets.server_token)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    world.set_env("AGENT_TOKEN", "");
    world.set_env("AGENT_TOKEN_FILE", path.display().to_string());
    world.restart_agent().await;
}

async fn pulls(world: &World, private: &str, secrets: &Secrets) {
    let pulled = |auth| {
        let spec = Spec::new(&world.instance_id(), private, &sleeps());
        with_secret(spec, secrets).with("registry_auth", auth)
    };
    let good = json!({ "username": USERNAME, "password": secrets.registry_password });
    let (id, _) = world.deploy_ready(&pulled(good)).await;
    world.terminate(&id).await;
    for bad in [
        json!({ "username": USERNAME, "password": secrets.password }),
        json!({ "identity_token": secrets.identity_token }),
    ] {
        let (_, error) = world.deploy_failed(&pulled(bad)).await;
        assert_eq!(error.code, ErrorCode::RegistryAuth, "{error:?}");
    }
}

/// Each often enough for the log to be worth a search, at most a server's thousand at a time.
async fn malformed(world: &World, secrets: &Secrets, image: &str) {
    for _ in 0..25 {
        let commands = malformed::commands(secrets, image).into_iter();
        let tickets: Vec<_> = commands.map(|c| world.server.command(c).unwrap()).collect();
        for ticket in tickets {
            let reply = world.final_reply(&ticket).await;
            assert_eq!(reply.outcome, Outcome::Rejected, "{reply:?}");
        }
    }
    for frame in malformed::frames(secrets) {
        assert!(world.server.send_text(frame));
    }
    // They are read in order.
    let ticket = world.server.command(json!({ "op": "report" })).unwrap();
    world.final_reply(&ticket).await;
}

fn secret_spec(world: &World, secrets: &Secrets) -> Spec {
    with_secret(world.sleeper().port("web", 80), secrets)
}

fn with_secret(spec: Spec, secrets: &Secrets) -> Spec {
    spec.with("env", json!({ "SECRET": secrets.env }))
}

/// What the engine says of a rental, its environment included.
pub(super) async fn inspect_of_a_rental(world: &mut World, secrets: &Secrets) -> String {
    world.up().await;
    let (id, _) = world.deploy_ready(&secret_spec(world, secrets)).await;
    serde_json::to_string(&world.running(&id).await.inspect).unwrap()
}

/// What everybody who may list sees: names, labels, commands.
pub(super) async fn lists(world: &World) -> String {
    let all = ListContainersOptionsBuilder::default().all(true).build();
    let containers = world.docker.list_containers(Some(all)).await.unwrap();
    let volumes = world
        .docker
        .list_volumes(None::<ListVolumesOptions>)
        .await
        .unwrap();
    json!({ "containers": containers, "volumes": volumes }).to_string()
}

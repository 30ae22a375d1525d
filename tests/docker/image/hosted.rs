//! A world whose agent is a container of the engine that it works with.

use std::{fs, net::IpAddr, process::Command};

use ipnet::Ipv4Net;
use rental_agent::dev::AgentView;

use super::front::Front;
use crate::{
    lab::Engine,
    world::{LATER, World, wait_for},
};

/// One engine, a server, and the agent in a container made from its image.
#[derive(Debug)]
pub(super) struct Hosted<'e> {
    pub(super) world: World,
    /// The name of the agent's container.
    pub(super) name: String,
    engine: &'e Engine,
    image: String,
    front: Front,
    /// What the command line has beside what every provider writes.
    extra: Vec<String>,
}

impl<'e> Hosted<'e> {
    /// Builds the image from the binary under test and starts nothing.
    pub(super) async fn build(engine: &'e Engine) -> Self {
        let world = World::own(engine).await;
        let server = world.env("API_SERVER_URL").trim_start_matches("ws://");
        let front = Front::start(&engine.net(), gateway(engine), server.to_owned());
        let name = format!("host-agent-{}", world.agent_id());
        let image = build_image(engine, &world, front.authority());
        Self {
            world,
            name,
            engine,
            image,
            front,
            extra: Vec::new(),
        }
    }

    /// Adds words to the command line of the next `docker run`.
    pub(super) fn with(mut self, words: &[&str]) -> Self {
        self.extra.extend(words.iter().map(|&word| word.to_owned()));
        self
    }

    /// `docker run`, in the words of the manual, and waits until the agent has sent its state.
    pub(super) async fn run(&mut self) -> AgentView {
        let volume = format!("{}:/var/run/docker.sock", self.engine.socket().display());
        let id = format!("AGENT_ID={}", self.world.env("AGENT_ID"));
        let url = format!("API_SERVER_URL={}", self.front.url());
        let token = format!("AGENT_TOKEN={}", self.world.env("AGENT_TOKEN"));
        let mut words = vec!["run", "-d", "--name", &self.name];
        words.extend(["--restart=unless-stopped", "-v", &volume]);
        words.extend(["-e", &id, "-e", &url, "-e", &token]);
        words.extend(self.extra.iter().map(String::as_str));
        words.push(&self.image);
        self.engine.docker(&words);
        self.world.wait_up(LATER).await
    }

    /// `docker restart`, and waits until the agent is back.
    pub(super) async fn restart(&mut self) -> AgentView {
        self.engine.docker(&["restart", &self.name]);
        self.world.wait_up(LATER).await
    }

    /// Another container in place of the agent's, as for a new version.
    pub(super) async fn replace(&mut self) -> AgentView {
        self.remove();
        self.run().await
    }

    /// `docker rm -f`.
    pub(super) fn remove(&self) {
        self.engine.docker(&["rm", "-f", &self.name]);
    }

    /// What `docker inspect` says of the agent's container.
    pub(super) fn inspect(&self, format: &str) -> String {
        self.engine.docker(&["inspect", "-f", format, &self.name])
    }

    /// Waits until the engine's health check has found it well.
    pub(super) async fn wait_healthy(&self) {
        let well = || self.inspect("{{.State.Health.Status}}") == "healthy";
        wait_for("the agent's container to be healthy", LATER, well).await;
    }
}

impl Drop for Hosted<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.engine.try_docker(&["logs", &self.name]);
            let logs = String::from_utf8_lossy(&logs.stderr).into_owned();
            println!("--- the agent's log ---\n{logs}");
        }
        // It shall not see the rest of the world go.
        self.engine.try_docker(&["rm", "-f", &self.name]);
    }
}

/// The host's address in the network that containers join unless they are told otherwise: not every
/// engine names it, but it is always the first one.
fn gateway(engine: &Engine) -> IpAddr {
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    let subnet = engine.docker(&["network", "inspect", "-f", format, "bridge"]);
    let subnet: Ipv4Net = subnet.parse().unwrap();
    IpAddr::V4(subnet.hosts().next().unwrap())
}

/// The image as `scripts/image` makes it, and on top, as for a server with an authority of its own,
/// whom to trust.
fn build_image(engine: &Engine, world: &World, authority: &str) -> String {
    let tag = format!("rental-agent-test:{}", world.agent_id());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/image");
    let built = Command::new(script)
        .args(["--binary", env!("CARGO_BIN_EXE_rental-agent")])
        .args(["--base", "local", "--tag", &tag])
        .env("DOCKER_HOST", engine.host())
        // The builder of every engine since 20.10.
        .env("DOCKER_BUILDKIT", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "scripts/image: {said}");
    assert_eq!(String::from_utf8_lossy(&built.stdout).trim(), tag);

    let context = world.folder();
    fs::write(context.join("ca.pem"), authority).unwrap();
    let file = format!("FROM {tag}\nCOPY ca.pem /etc/ssl/certs/ca-certificates.crt\n");
    fs::write(context.join("Dockerfile"), file).unwrap();
    let trusting = format!("{tag}-trusting");
    let folder = context.display().to_string();
    let built = engine
        .client()
        .args(["build", "-q", "-t", &trusting, &folder])
        .env("DOCKER_BUILDKIT", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "docker build: {said}");
    trusting
}

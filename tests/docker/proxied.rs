//! A world whose agent reaches its engine through a proxy that sees every call.

use rental_agent::ids::InstanceId;

use crate::{
    lab::{Call, Engine, EngineProxy},
    world::{LATER, World, container_name, wait_for},
};

/// The world and the proxy between its agent and the engine.
#[derive(Debug)]
pub(crate) struct Proxied {
    /// Before the proxy, so that the agent ends first.
    pub(crate) world: World,
    /// All of the agent's calls, and nobody else's.
    pub(crate) proxy: EngineProxy,
}

impl Proxied {
    /// At the engine that all tests share. The agent is configured and not started.
    pub(crate) async fn shared() -> Self {
        Self::between(World::shared().await, &Engine::shared())
    }

    /// At an engine of the test's own.
    pub(crate) async fn own(engine: &Engine) -> Self {
        Self::between(World::own(engine).await, engine)
    }

    fn between(mut world: World, engine: &Engine) -> Self {
        let proxy = EngineProxy::start(engine);
        world.set_env("DOCKER_HOST", proxy.host());
        Self { world, proxy }
    }

    /// Starts the agent and waits until it has looked at the engine as often as it does after a
    /// start: 10 s. Then it removes the markers of what has ended, and the next list is 30 s away.
    pub(crate) async fn up_and_settled(&mut self) {
        self.proxy.forget();
        self.world.up().await;
        let lists = || {
            let calls = self.proxy.calls();
            calls.iter().filter(|call| is_full_list(call)).count()
        };
        wait_for("the three lists after a start", LATER, || lists() >= 3).await;
    }
}

/// A call as it reads in a table: the API's version and the rental's id are left out.
pub(crate) fn label(call: &Call, id: &InstanceId) -> String {
    let path = call.path.trim_start_matches('/');
    let path = match path.split_once('/') {
        Some((version, rest)) if version.starts_with("v1.") => rest,
        _ => path,
    };
    let line = match call.name() {
        Some(name) => format!("{} /{path} {name}", call.method),
        None => format!("{} /{path}", call.method),
    };
    line.replace(&container_name(id), "*")
}

/// What the agent asks at its own pace, whatever it is told: whether the engine answers, what there
/// is, what happens.
pub(crate) fn is_routine(call: &Call) -> bool {
    let of_no_rental = ["/_ping", "/version", "/info", "/events", "/volumes"];
    let looks = call.method == "GET" && of_no_rental.iter().any(|path| call.path.ends_with(path));
    looks || call.method == "HEAD" || is_full_list(call)
}

/// The recheck before a start with GPUs lists too, but only what lives.
fn is_full_list(call: &Call) -> bool {
    call.path.ends_with("/containers/json") && !call.query.contains("status")
}

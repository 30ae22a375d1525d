//! What `check` asks the world. Each answer is one line for people.

use crate::{
    config::Config,
    protocol::text::chain,
    runtime::{ContainerRuntime, docker::Docker},
    session::{self, Limits},
};

/// Whether the engine answers, and which one it is.
pub(super) async fn engine(config: &Config) -> Result<String, String> {
    let docker = Docker::connect(&config.docker, &config.network).map_err(|e| chain(&e))?;
    let facts = docker
        .engine()
        .await
        .map_err(|e| format!("{}: {}", config.docker.host, chain(&e)))?;
    let engine = facts.engine;
    Ok(format!(
        "{} {}, API {}, {}",
        engine.name, engine.version, engine.api_version, engine.storage_driver
    ))
}

/// Whether the server can be reached and takes the token.
pub(super) async fn server(config: &Config) -> Result<String, String> {
    let url = &config.server.url;
    let dialled = session::dial(&config.server, &config.agent.id, &Limits::default()).await;
    dialled.map_err(|error| format!("{url}: {}", chain(&error)))?;
    Ok(format!("{url} takes the token"))
}

//! What the engine holds, asked of the engine itself and not of the agent.

use std::collections::{BTreeMap, HashMap};

use bollard::{
    Docker,
    errors::Error,
    models::{ContainerInspectResponse, ContainerStateStatusEnum},
    query_parameters::{
        ListContainersOptionsBuilder, ListVolumesOptions, RemoveContainerOptionsBuilder,
        RemoveVolumeOptions,
    },
};

/// A container as the engine shows it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The engine's id.
    pub(crate) id: String,
    /// Its state: `running`, `exited`, …
    pub(crate) state: String,
    /// Of its first process, 0 when there is none.
    pub(crate) pid: i64,
    /// When it was started last, as the engine writes it.
    pub(crate) started_at: String,
    /// Of its first process.
    pub(crate) exit_code: i64,
    /// Its labels.
    pub(crate) labels: HashMap<String, String>,
    /// The whole answer.
    pub(crate) inspect: ContainerInspectResponse,
}

/// The container of that name or id, if there is one.
pub(crate) async fn container(docker: &Docker, name: &str) -> Option<Seen> {
    let inspect = match docker.inspect_container(name, None).await {
        Ok(inspect) => inspect,
        Err(error) if is_absence(&error) => return None,
        Err(error) => panic!("inspect {name}: {error}"),
    };
    let state = inspect.state.clone().unwrap();
    let labels = inspect.config.as_ref().and_then(|c| c.labels.clone());
    Some(Seen {
        id: inspect.id.clone().unwrap(),
        state: state
            .status
            .unwrap_or(ContainerStateStatusEnum::EMPTY)
            .to_string(),
        pid: state.pid.unwrap_or(0),
        started_at: state.started_at.unwrap_or_default(),
        exit_code: state.exit_code.unwrap_or(0),
        labels: labels.unwrap_or_default(),
        inspect,
    })
}

/// Names of all containers that begin with `prefix`.
pub(crate) async fn containers(docker: &Docker, prefix: &str) -> Result<Vec<String>, Error> {
    let all = ListContainersOptionsBuilder::default().all(true).build();
    let listed = docker.list_containers(Some(all)).await?;
    let names = listed.into_iter().flat_map(|c| c.names.unwrap_or_default());
    let names = names.map(|name| name.trim_start_matches('/').to_owned());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// The id of the container of that name, by the list.
pub(crate) async fn id_of(docker: &Docker, name: &str) -> Result<Option<String>, Error> {
    let all = ListContainersOptionsBuilder::default().all(true).build();
    let name = format!("/{name}");
    let listed = docker.list_containers(Some(all)).await?;
    let mut found = listed
        .into_iter()
        .filter(|c| c.names.as_ref().is_some_and(|names| names.contains(&name)));
    Ok(found.next().and_then(|container| container.id))
}

/// All volumes whose names begin with `prefix`, with their labels.
pub(crate) async fn volumes(
    docker: &Docker,
    prefix: &str,
) -> Result<BTreeMap<String, HashMap<String, String>>, Error> {
    let listed = docker.list_volumes(None::<ListVolumesOptions>).await?;
    let volumes = listed.volumes.unwrap_or_default().into_iter();
    let ours = volumes.filter(|volume| volume.name.starts_with(prefix));
    Ok(ours.map(|volume| (volume.name, volume.labels)).collect())
}

/// Removes all containers and volumes whose names begin with `prefix`.
pub(crate) async fn remove_all(docker: &Docker, prefix: &str) -> Result<(), Error> {
    for name in containers(docker, prefix).await? {
        let force = RemoveContainerOptionsBuilder::default()
            .force(true)
            .v(true)
            .build();
        ignore_absence(docker.remove_container(&name, Some(force)).await)?;
    }
    for name in volumes(docker, prefix).await?.into_keys() {
        let removed = docker
            .remove_volume(&name, None::<RemoveVolumeOptions>)
            .await;
        ignore_absence(removed)?;
    }
    Ok(())
}

/// Whether the engine says that there is no such thing, or that it is being removed.
fn is_absence(error: &Error) -> bool {
    matches!(
        error,
        Error::DockerResponseServerError {
            status_code: 404,
            ..
        }
    )
}

pub(super) fn ignore_absence(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(Error::DockerResponseServerError {
            status_code: 404 | 409,
            ..
        }) => Ok(()),
        other => other,
    }
}

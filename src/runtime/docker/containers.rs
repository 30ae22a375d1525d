//! One container: made, started, stopped, removed, looked at.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt, time::Duration};

use bollard::{
    models::{ContainerCreateBody, ContainerInspectResponse},
    query_parameters::{
        CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    },
};

use super::{
    classify::Operation,
    connection::{CHANGE, CONTROL, Call, Connection},
};
use crate::{
    ids::ContainerId,
    runtime::{Class, ContainerPlan, Observed, RuntimeError, gpus::Handing, translate},
};

/// The engine may wait 10 s for the exit after its KILL, twice; the rest is for a busy machine.
const AFTER_GRACE: Duration = Duration::from_secs(25);

/// One call.
pub(super) async fn inspect(
    connection: &Connection,
    name: &str,
) -> Result<Option<Observed>, RuntimeError> {
    inspect_within(connection, name, CONTROL).await
}

/// One call, under a limit of the caller's.
pub(super) async fn inspect_within(
    connection: &Connection,
    name: &str,
    limit: Duration,
) -> Result<Option<Observed>, RuntimeError> {
    let call = Call {
        operation: Operation::Inspect,
        subject: name,
    };
    let Some(inspect) = found(raw_inspect(connection, call, limit).await)? else {
        return Ok(None);
    };
    let observed = translate::observed_from_inspect(inspect);
    observed
        .map(Some)
        .ok_or_else(|| call.nonsense("id, name or time of creation"))
}

/// One call. 404 is the image here, which is gone then: [`Class::NotFound`].
pub(super) async fn create(
    connection: &Connection,
    plan: &ContainerPlan,
) -> Result<ContainerId, RuntimeError> {
    let call = Call {
        operation: Operation::Create,
        subject: &plan.name,
    };
    let mut body = translate::create_body(plan);
    if let (Handing::Files(paths), Some(host)) = (&plan.handing, &mut body.host_config) {
        host.group_add = Some(owning_groups(paths).await);
    }
    create_from(connection, call, body).await
}

/// Which groups of the host may open these files, by number, since an image names its groups as it
/// likes. What cannot be seen, from inside a container for one, is left out.
async fn owning_groups(paths: &[String]) -> Vec<String> {
    let mut groups = BTreeSet::new();
    for path in paths {
        let gid = tokio::fs::metadata(path).await.map(|file| file.gid());
        groups.extend(gid.ok().filter(|gid| *gid != 0));
    }
    groups.iter().map(ToString::to_string).collect()
}

/// Three calls: the engine has no "once more". Whoever dies between the second and the third leaves
/// nothing behind, as if the create had never been asked for.
pub(super) async fn remake(
    connection: &Connection,
    name: &str,
) -> Result<ContainerId, RuntimeError> {
    let call = Call {
        operation: Operation::Remake,
        subject: name,
    };
    let inspect = raw_inspect(connection, call, CONTROL).await?;
    let body = translate::remake_body(&inspect).ok_or_else(|| call.nonsense("configuration"))?;
    remove(connection, name).await?;
    create_from(connection, call, body).await
}

/// One call.
pub(super) async fn start(connection: &Connection, name: &str) -> Result<(), RuntimeError> {
    let call = Call {
        operation: Operation::Start,
        subject: name,
    };
    let start = |client: bollard::Docker| async move { client.start_container(name, None).await };
    connection.call(call, CHANGE, start).await
}

/// One call. The image's own stop signal is used where it has one.
pub(super) async fn stop(
    connection: &Connection,
    name: &str,
    grace: Duration,
) -> Result<(), RuntimeError> {
    let call = Call {
        operation: Operation::Stop,
        subject: name,
    };
    let seconds = grace.as_secs() + u64::from(grace.subsec_nanos() > 0);
    let options = StopContainerOptionsBuilder::default()
        .t(i32::try_from(seconds).unwrap_or(i32::MAX))
        .build();
    let stop =
        |client: bollard::Docker| async move { client.stop_container(name, Some(options)).await };
    let limit = grace.saturating_add(AFTER_GRACE);
    found(connection.call(call, limit, stop).await).map(|_| ())
}

/// One call: kills what runs and takes the volumes along that the image asked for; named ones stay.
pub(super) async fn remove(connection: &Connection, name: &str) -> Result<(), RuntimeError> {
    let call = Call {
        operation: Operation::Remove,
        subject: name,
    };
    let options = RemoveContainerOptionsBuilder::default()
        .force(true)
        .v(true)
        .build();
    let remove =
        |client: bollard::Docker| async move { client.remove_container(name, Some(options)).await };
    match found(connection.call(call, CHANGE, remove).await) {
        Err(error) if is_being_removed(&error) => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Ok(()),
    }
}

async fn create_from(
    connection: &Connection,
    call: Call<'_>,
    body: ContainerCreateBody,
) -> Result<ContainerId, RuntimeError> {
    let options = CreateContainerOptionsBuilder::default()
        .name(call.subject)
        .build();
    let create =
        |client: bollard::Docker| async move { client.create_container(Some(options), body).await };
    let created = connection.call(call, CHANGE, create).await?;
    for warning in &created.warnings {
        tracing::debug!(
            container = call.subject,
            warning,
            "the engine warns at create"
        );
    }
    created
        .id
        .parse()
        .map_err(|_| call.nonsense("container id"))
}

pub(super) async fn raw_inspect(
    connection: &Connection,
    call: Call<'_>,
    limit: Duration,
) -> Result<ContainerInspectResponse, RuntimeError> {
    let name = call.subject;
    let inspect =
        |client: bollard::Docker| async move { client.inspect_container(name, None).await };
    connection.call(call, limit, inspect).await
}

/// What is not there is no error to whoever looks, stops or removes.
pub(super) fn found<T>(result: Result<T, RuntimeError>) -> Result<Option<T>, RuntimeError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.class == Class::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// 409, "removal of container … is already in progress".
fn is_being_removed(error: &RuntimeError) -> bool {
    error.message.contains("already in progress")
}

//! `POST /terminate_instance`.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use hyper::StatusCode;
use serde_json::{Map, Value};

use super::{
    App, Problem,
    answer::{Terminated, json},
    auth::Caller,
    body, short,
};
use crate::{
    ids::{ContainerId, InstanceId},
    instance::publish::Snapshot,
    protocol::{Error, ErrorCode, Stage, command, command::escape},
};

pub(super) async fn terminate_instance(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let body = body::object(request, &app.limits).await?;
    let id = subject(body, &app.surface.snapshot())?;
    let fields = Map::from_iter([
        ("op".to_owned(), Value::from("terminate")),
        ("instance_id".to_owned(), Value::from(id.as_str())),
    ]);
    let command = command::compose(short::command_id(&caller), fields)?;
    tracing::info!(instance_id = %id, command_id = %command.id, "terminate by HTTP");
    let mut given = app.surface.give(command, app.limits.answer).await?;
    let reply = given.last().await?;
    let known = reply
        .result
        .is_some_and(|result| result.get("known") == Some(&Value::Bool(true)));
    let terminated = Terminated {
        message: "Instance terminated successfully",
        instance_id: id,
        known,
    };
    Ok(json(StatusCode::OK, &terminated))
}

/// Which rental is meant.
fn subject(mut body: Map<String, Value>, snapshot: &Arc<Snapshot>) -> Result<InstanceId, Problem> {
    body.retain(|_, value| !value.is_null());
    let (instance, container) = (body.remove("instance_id"), body.remove("container_id"));
    if let Some(name) = body.keys().next() {
        let pointer = format!("/{}", escape(name));
        let message = format!("there is no field at {pointer}");
        let error = Error::new(ErrorCode::Unsupported, message).at(Stage::Validate);
        return Err(Problem::from(error.pointing(pointer)));
    }
    match (instance, container) {
        (Some(id), None) => id
            .as_str()
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| body::invalid("this is no instance id").pointing("/instance_id")),
        (None, Some(id)) => {
            let id: Option<ContainerId> = id.as_str().and_then(|id| id.parse().ok());
            let why = "this is no container id";
            let id = id.ok_or_else(|| body::invalid(why).pointing("/container_id"))?;
            by_container(&id, snapshot)
        }
        (Some(_), Some(_)) | (None, None) => {
            Err(body::invalid("name the container_id or the instance_id"))
        }
    }
}

/// The engine takes the beginning of a container's id for the whole, and so do its users.
fn by_container(id: &ContainerId, snapshot: &Arc<Snapshot>) -> Result<InstanceId, Problem> {
    let mut found = snapshot.instances.iter().filter(|record| {
        let container = record.container_id.as_ref();
        container.is_some_and(|container| container.as_str().starts_with(id.as_str()))
    });
    match (found.next(), found.next()) {
        (Some(record), None) => Ok(record.id.clone()),
        (Some(_), Some(_)) => {
            let why = "several containers have an id that begins so";
            Err(body::invalid(why).pointing("/container_id"))
        }
        (None, _) => {
            let message = "no rental has this container";
            let error = Error::new(ErrorCode::NotFound, message).pointing("/container_id");
            Err(Problem::from(error))
        }
    }
}

//! `GET /health`, `GET /ready`, `GET /openapi.json`; and for the owner `POST /drain`, `POST /resume`,
//! `POST /gpus/UUID/quarantine`, `POST /gpus/UUID/release`.

use axum::{
    Extension,
    extract::{Path, Request, State},
    response::Response,
};
use hyper::StatusCode;
use serde_json::{Map, Value};

use super::{
    App, Problem,
    answer::{Draining, Health, Readiness, json},
    auth::Caller,
    body, openapi, short,
};
use crate::protocol::command;

/// That it answers is the answer.
pub(super) async fn health() -> Response {
    json(StatusCode::OK, &Health { status: "ok" })
}

pub(super) async fn ready(State(app): State<App>) -> Response {
    let snapshot = app.surface.snapshot();
    let readiness = Readiness {
        ready: snapshot.status.rentable,
        reasons: snapshot.status.reasons.clone(),
    };
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &readiness)
}

pub(super) async fn contract() -> Response {
    json(StatusCode::OK, &openapi::document())
}

pub(super) async fn drain(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    set_draining(&app, &caller, "drain").await
}

pub(super) async fn resume(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    set_draining(&app, &caller, "resume").await
}

/// A GPU out of the offer, or back.
pub(super) async fn gpu(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    Path((uuid, verb)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let op = match verb.as_str() {
        "quarantine" => "quarantine_gpu",
        "release" => "release_gpu",
        _ => return Err(Problem::no_such_path()),
    };
    let mut fields = body::object(request, &app.limits).await?;
    fields.insert("op".to_owned(), Value::from(op));
    fields.insert("uuid".to_owned(), Value::from(uuid));
    let command = command::compose(short::command_id(&caller), fields)?;
    tracing::info!(op, "by the machine's owner");
    let mut given = app.surface.give(command, app.limits.answer).await?;
    let reply = given.last().await?;
    Ok(json(
        StatusCode::OK,
        &reply.result.unwrap_or_else(|| Value::Object(Map::new())),
    ))
}

async fn set_draining(app: &App, caller: &Caller, op: &str) -> Result<Response, Problem> {
    let fields = Map::from_iter([("op".to_owned(), Value::from(op))]);
    let command = command::compose(short::command_id(caller), fields)?;
    tracing::info!(op, "by the machine's owner");
    let mut given = app.surface.give(command, app.limits.answer).await?;
    given.last().await?;
    let draining = op == "drain";
    Ok(json(StatusCode::OK, &Draining { draining }))
}

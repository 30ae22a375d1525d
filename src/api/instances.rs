//! `GET /instances` and `GET /instances/{id}`.

use axum::{
    Extension,
    extract::{Path, State, rejection::PathRejection},
    response::Response,
};
use hyper::StatusCode;

use super::{
    App, Problem,
    answer::{Instances, json},
    auth::Caller,
    surface::find,
};
use crate::{
    ids::InstanceId,
    protocol::{Error, ErrorCode},
};

pub(super) async fn instances(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let snapshot = app.surface.snapshot();
    let records = snapshot.instances.iter().cloned();
    let instances = records.map(|record| caller.may_see(record)).collect();
    json(StatusCode::OK, &Instances { instances })
}

pub(super) async fn instance(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Problem> {
    // What is no text is no id either.
    let id: Option<InstanceId> = id.ok().and_then(|Path(id)| id.parse().ok());
    let record = id.and_then(|id| find(&app.surface.snapshot(), &id));
    let none = || Problem::from(Error::new(ErrorCode::NotFound, "there is no such rental"));
    let record = record.ok_or_else(none)?;
    Ok(json(StatusCode::OK, &*caller.may_see(record)))
}

//! JSON answers, and what the routes answer with.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    ids::{ContainerId, InstanceId},
    protocol::Instance,
};

/// A value as the body of an answer.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    // The types have no map with keys that are not strings, which is all that can fail here.
    let text = serde_json::to_string(value).unwrap_or_default();
    let json = HeaderValue::from_static("application/json");
    let headers = [
        (CONTENT_TYPE, json),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, text).into_response()
}

/// A rental that is ready.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Started {
    /// `Instance started successfully`.
    pub(super) message: &'static str,
    /// The engine's name of its container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) container_id: Option<ContainerId>,
    /// Its id.
    pub(super) instance_id: InstanceId,
    /// Its record.
    pub(super) instance: Arc<Instance>,
}

/// A rental that is on its way.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Accepted {
    /// Its id.
    pub(super) instance_id: InstanceId,
    /// Its record as it is now.
    pub(super) instance: Arc<Instance>,
}

/// A rental that is over: its container is gone and its GPUs are free.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Terminated {
    /// `Instance terminated successfully`.
    pub(super) message: &'static str,
    /// Its id.
    pub(super) instance_id: InstanceId,
    /// Whether there was one of this id.
    pub(super) known: bool,
}

/// All records.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Instances {
    /// Live ones, and ended ones that the central server has not acknowledged yet.
    pub(super) instances: Vec<Arc<Instance>>,
}

/// The process answers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Health {
    /// `ok`.
    pub(super) status: &'static str,
}

/// Whether a deploy has a chance.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Readiness {
    /// Whether it has.
    pub(super) ready: bool,
    /// Why not, or what is odd: `engine_unavailable`, `draining`, `clock_skew`, …
    pub(super) reasons: Vec<String>,
}

/// Whether new deploys are refused.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub(super) struct Draining {
    /// Whether they are.
    pub(super) draining: bool,
}

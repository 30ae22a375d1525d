//! `POST /start_instance`.

use axum::{
    Extension,
    extract::{Request, State},
    response::Response,
};
use hyper::{HeaderMap, StatusCode, header::HeaderName};
use serde_json::{Map, Value};

use super::{
    App, Problem,
    answer::{Accepted, Started, json},
    auth::Caller,
    body, short,
};
use crate::{
    ids::InstanceId,
    protocol::{Instance, Op, command},
};

/// Long enough for any UUID or hash, short enough to be nothing else.
const MAX_KEY_BYTES: usize = 255;

pub(super) async fn start_instance(
    State(app): State<App>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let key = idempotency_key(request.headers())?;
    let detached = wants_async(request.headers());
    let mut body = body::object(request, &app.limits).await?;
    body.retain(|_, value| !value.is_null());
    let is_short = short::is_short(&body);
    let spec = match is_short {
        true => short::spec(body, &short::instance_id(&caller, key.as_deref()))?,
        false => body,
    };
    let moved = |problem: Problem| {
        problem.moved(|pointer| {
            let in_spec = pointer.strip_prefix("/spec").unwrap_or(pointer);
            match is_short {
                true => short::pointer(in_spec),
                false => in_spec.to_owned(),
            }
        })
    };
    let fields = Map::from_iter([
        ("op".to_owned(), Value::from("deploy")),
        ("spec".to_owned(), Value::Object(spec)),
    ]);
    let command = command::compose(short::command_id(&caller), fields);
    let command = command.map_err(|error| moved(Problem::from(error)))?;
    let Op::Deploy(deploy) = &command.op else {
        unreachable!("it was composed as a deploy");
    };
    let id: InstanceId = deploy.spec.instance_id.clone();
    tracing::info!(instance_id = %id, command_id = %command.id, "deploy by HTTP");
    let mut given = app.surface.give(command, app.limits.answer).await?;
    if detached {
        given.first().await.map_err(moved)?;
        let instance = app.surface.record(&id).await?;
        let instance = caller.may_see(instance);
        let accepted = Accepted {
            instance_id: id,
            instance,
        };
        return Ok(json(StatusCode::ACCEPTED, &accepted));
    }
    let reply = given.last().await.map_err(moved)?;
    let instance = reply.result.and_then(|mut result| {
        let record = result.get_mut("instance").map(Value::take)?;
        serde_json::from_value::<Instance>(record).ok()
    });
    let instance = match instance {
        Some(instance) => instance.into(),
        None => app.surface.record(&id).await?,
    };
    let started = Started {
        message: "Instance started successfully",
        container_id: instance.container_id.clone(),
        instance_id: id,
        instance: caller.may_see(instance),
    };
    Ok(json(StatusCode::OK, &started))
}

/// What makes a request that is sent again the same request.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers
        .get_all(HeaderName::from_static("idempotency-key"))
        .iter();
    let key = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(key), None) => key.to_str().ok().filter(|key| {
            (1..=MAX_KEY_BYTES).contains(&key.len())
                && key.bytes().all(|b| (0x20..0x7f).contains(&b))
        }),
        (Some(_), Some(_)) => None,
    };
    let why = "Idempotency-Key has to be one text of 1 to 255 visible ASCII characters";
    key.map(|key| Some(key.to_owned()))
        .ok_or_else(|| body::invalid(why))
}

/// `Prefer: respond-async` (RFC 7240).
fn wants_async(headers: &HeaderMap) -> bool {
    let values = headers.get_all(HeaderName::from_static("prefer")).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|preference| {
        let name = preference.split([';', '=']).next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("respond-async")
    })
}

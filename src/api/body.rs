//! Reading a request's body: JSON objects of limited size, in limited time.

use axum::extract::Request;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{body::Body, header::CONTENT_TYPE};
use serde_json::{Map, Value};
use tokio::time::timeout;

use super::{Limits, Problem};
use crate::protocol::{Error, ErrorCode, Stage, text::without_value};

/// The body as a JSON object.
pub(super) async fn object(
    request: Request,
    limits: &Limits,
) -> Result<Map<String, Value>, Problem> {
    let is_json = |value: &hyper::header::HeaderValue| {
        let text = value.to_str().unwrap_or_default();
        let bare = text.split(';').next().unwrap_or_default().trim();
        bare.eq_ignore_ascii_case("application/json")
    };
    if !request.headers().get(CONTENT_TYPE).is_none_or(is_json) {
        return Err(Problem::media_type());
    }
    let body = request.into_body();
    let most = limits.body_bytes;
    // What says beforehand that it is too much is not read at all.
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > most {
        return Err(Problem::too_large(most));
    }
    let collected = timeout(limits.send, Limited::new(body, most).collect()).await;
    let bytes = match collected.map_err(|_| Problem::too_slow(limits.send))? {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.downcast_ref::<LengthLimitError>().is_some() => {
            return Err(Problem::too_large(most));
        }
        Err(_) => return Err(invalid("the body was cut off")),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(invalid("the body is no JSON object")),
        Err(error) => {
            let why = without_value(&error.to_string());
            Err(invalid(&format!("the body is no JSON: {why}")))
        }
    }
}

/// A body that cannot be what is meant.
pub(super) fn invalid(message: &str) -> Problem {
    Problem::from(Error::new(ErrorCode::InvalidSpec, message).at(Stage::Validate))
}

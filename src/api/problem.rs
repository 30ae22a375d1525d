//! What a client is told when something is not as it wished: RFC 9457, from this one place.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use hyper::{
    StatusCode,
    header::{
        CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, SEC_WEBSOCKET_VERSION,
        UPGRADE, WWW_AUTHENTICATE,
    },
};
use schemars::JsonSchema;
use serde::Serialize;

use crate::protocol::{Error, ErrorCode, Retry};

/// `application/problem+json`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Problem {
    /// The status in words.
    pub title: &'static str,
    /// The answer's status.
    #[schemars(range(min = 400, max = 599))]
    pub status: u16,
    /// For programs.
    pub code: Code,
    /// For people.
    #[schemars(length(max = 1000))]
    pub detail: String,
    /// Where another try has a chance.
    pub retry: Retry,
    /// To what is wrong in the request's body (RFC 6901).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
}

/// What went wrong, for programs: the codes of the session and those of HTTP alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Code {
    /// As on the session.
    Wire(ErrorCode),
    /// Here only.
    Http(HttpCode),
}

/// Codes that the session does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HttpCode {
    /// No token, a bad one, or one that was used.
    Unauthenticated,
    /// A token without the scope.
    Forbidden,
    /// The host has no key to check tokens with.
    AuthNotConfigured,
    /// A body over the limit.
    TooLarge,
}

impl Problem {
    fn new(status: StatusCode, code: Code, detail: impl Into<String>, retry: Retry) -> Self {
        Self {
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            retry,
            pointer: None,
        }
    }

    /// The same whatever is wrong with a token: the reason is in the agent's log.
    pub(super) fn unauthenticated() -> Self {
        let code = Code::Http(HttpCode::Unauthenticated);
        let detail = "a valid token is needed; one that changes something is taken once";
        Self::new(StatusCode::UNAUTHORIZED, code, detail, Retry::Never)
    }

    pub(super) fn scope() -> Self {
        let code = Code::Http(HttpCode::Forbidden);
        let detail = "the token has not the scope that this needs";
        Self::new(StatusCode::FORBIDDEN, code, detail, Retry::Never)
    }

    pub(super) fn not_the_owner() -> Self {
        let code = Code::Http(HttpCode::Forbidden);
        let detail = "only the machine's owner may ask this";
        Self::new(StatusCode::FORBIDDEN, code, detail, Retry::Never)
    }

    pub(super) fn auth_not_configured() -> Self {
        let code = Code::Http(HttpCode::AuthNotConfigured);
        let detail = "this host has no key to check tokens with (http.auth)";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::new(status, code, detail, Retry::Elsewhere)
    }

    pub(super) fn too_large(most: usize) -> Self {
        let code = Code::Http(HttpCode::TooLarge);
        let detail = format!("the body has more than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail, Retry::Never)
    }

    pub(super) fn too_slow(limit: Duration) -> Self {
        let code = Code::Wire(ErrorCode::DeadlineExceeded);
        let detail = format!(
            "the whole body did not come within {} s; nothing was done",
            limit.as_secs_f64()
        );
        Self::new(StatusCode::REQUEST_TIMEOUT, code, detail, Retry::Here)
    }

    pub(super) fn no_such_path() -> Self {
        Self::from(Error::new(ErrorCode::NotFound, "there is no such path"))
    }

    pub(super) fn method() -> Self {
        let code = Code::Wire(ErrorCode::Unsupported);
        let detail = "this path has other methods";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self::new(status, code, detail, Retry::Never)
    }

    pub(super) fn media_type() -> Self {
        let code = Code::Wire(ErrorCode::Unsupported);
        let detail = "the body has to be application/json";
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, code, detail, Retry::Never)
    }

    pub(super) fn no_websocket() -> Self {
        let code = Code::Wire(ErrorCode::InvalidSpec);
        let detail = "this path is a WebSocket: ask with Connection: Upgrade, Upgrade: websocket, \
                      Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key (RFC 6455)";
        let status = StatusCode::UPGRADE_REQUIRED;
        Self::new(status, code, detail, Retry::Never)
    }

    /// The same with a pointer from the body's root.
    pub(super) fn pointing(mut self, pointer: impl Into<String>) -> Self {
        self.pointer = Some(pointer.into());
        self
    }

    /// The same with its pointer as `change` has it: what was checked is not what was sent.
    pub(super) fn moved(mut self, change: impl FnOnce(&str) -> String) -> Self {
        if let Some(before) = self.pointer.take() {
            let after = change(&before);
            self.detail = self.detail.replace(&before, &after);
            self.pointer = Some(after);
        }
        self
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let pointer = error
            .detail
            .as_ref()
            .and_then(|d| d.get("pointer")?.as_str());
        let pointer = pointer.map(str::to_owned);
        let code = Code::Wire(error.code);
        let problem = Self::new(status(error.code), code, error.message, error.retry);
        Self { pointer, ..problem }
    }
}

/// The status of each code.
pub(super) fn status(code: ErrorCode) -> StatusCode {
    use ErrorCode::*;
    match code {
        InvalidSpec | Unsupported => StatusCode::BAD_REQUEST,
        PolicyDenied => StatusCode::FORBIDDEN,
        NotFound => StatusCode::NOT_FOUND,
        Conflict
        | InUse
        | Cancelled
        | Draining
        | InsufficientResources
        | GpuUnavailable
        | GpuUnhealthy
        | GpuRuntimeMissing
        | PortUnavailable => StatusCode::CONFLICT,
        ImageNotFound | ImageUnsupported | ImageCorrupt | RegistryAuth | RegistryRateLimited
        | RegistryUnreachable => StatusCode::BAD_GATEWAY,
        EngineUnavailable | NotReady => StatusCode::SERVICE_UNAVAILABLE,
        DeadlineExceeded | ReadinessTimeout | PullStalled => StatusCode::GATEWAY_TIMEOUT,
        DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        CreateFailed | StartFailed | ExitedEarly | OomKilled | Internal => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let json = HeaderValue::from_static("application/problem+json");
        let text = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, json)], text).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // What goes with a status is the same wherever it comes from.
        let mut add =
            |name: HeaderName, value| headers.insert(name, HeaderValue::from_static(value));
        if status == StatusCode::UNAUTHORIZED {
            add(WWW_AUTHENTICATE, "Bearer");
        } else if status == StatusCode::REQUEST_TIMEOUT {
            add(CONNECTION, "close");
        } else if status == StatusCode::UPGRADE_REQUIRED {
            add(CONNECTION, "upgrade");
            add(UPGRADE, "websocket");
            add(SEC_WEBSOCKET_VERSION, "13");
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_the_error_of_the_session_in_http_form() {
        let error =
            Error::new(ErrorCode::Unsupported, "not served: /spec/colour").pointing("/spec/colour");
        let problem = Problem::from(error).moved(|p| p.trim_start_matches("/spec").to_owned());
        let text = serde_json::to_string(&problem).unwrap();
        insta::assert_snapshot!(text, @r#"{"title":"Bad Request","status":400,"code":"unsupported","detail":"not served: /colour","retry":"elsewhere","pointer":"/colour"}"#);
    }

    #[test]
    fn the_refusal_of_a_token_says_nothing_of_why() {
        let text = serde_json::to_string(&Problem::unauthenticated()).unwrap();
        insta::assert_snapshot!(text, @r#"{"title":"Unauthorized","status":401,"code":"unauthenticated","detail":"a valid token is needed; one that changes something is taken once","retry":"never"}"#);
    }
}

//! The errors of the wire: a stable code, where it happened, and what the server may do about it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::limits::MAX_ERROR_CHARS;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(
    missing_docs,
    reason = "the names are the documentation; PROTOCOL lists them"
)]
pub enum ErrorCode {
    InvalidSpec,
    Conflict,
    Unsupported,
    PolicyDenied,
    InsufficientResources,
    GpuUnavailable,
    GpuUnhealthy,
    GpuRuntimeMissing,
    ImageNotFound,
    ImageUnsupported,
    ImageCorrupt,
    RegistryAuth,
    RegistryRateLimited,
    RegistryUnreachable,
    PullStalled,
    DiskFull,
    PortUnavailable,
    CreateFailed,
    StartFailed,
    ExitedEarly,
    OomKilled,
    ReadinessTimeout,
    EngineUnavailable,
    NotFound,
    InUse,
    NotReady,
    Draining,
    Cancelled,
    DeadlineExceeded,
    Internal,
}

/// Where another try has a chance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// On this host, with a new instance id.
    Here,
    /// On another host.
    Elsewhere,
    /// Nowhere: the request itself has to change.
    Never,
}

/// How far a deploy had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Reading the command.
    Validate,
    /// Policy and reservation.
    Admit,
    /// Fetching the image.
    Pull,
    /// Making the container.
    Create,
    /// Starting it.
    Start,
    /// Between start and ready.
    Ready,
    /// After ready.
    Run,
    /// While ending it.
    End,
}

/// An error as the server and HTTP clients see it: never a secret, a path of the host, or debug output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Error {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what was wrong, where, and what would be right. At most 1,000 characters.
    #[schemars(length(max = MAX_ERROR_CHARS))]
    pub message: String,
    /// How far it had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    /// Where another try has a chance.
    pub retry: Retry,
    /// More for programs, like `{"pointer": "/spec/image"}` (RFC 6901, from the command's root).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
}

impl ErrorCode {
    /// Where another try has a chance, unless the case at hand knows better.
    pub fn retry(self) -> Retry {
        use ErrorCode::*;
        match self {
            PolicyDenied
            | InsufficientResources
            | GpuUnavailable
            | GpuUnhealthy
            | GpuRuntimeMissing
            | DiskFull
            | EngineUnavailable
            | Draining
            | Unsupported => Retry::Elsewhere,
            RegistryRateLimited | RegistryUnreachable | PullStalled | PortUnavailable | InUse
            | NotReady | Internal => Retry::Here,
            InvalidSpec | Conflict | ImageNotFound | ImageUnsupported | ImageCorrupt
            | RegistryAuth | CreateFailed | StartFailed | ExitedEarly | OomKilled
            | ReadinessTimeout | NotFound | Cancelled | DeadlineExceeded => Retry::Never,
        }
    }
}

impl Error {
    /// An error with the code's usual retry class. The message is made safe to show: control
    /// characters are escaped and it is cut at 1,000 characters.
    pub fn new(code: ErrorCode, message: impl AsRef<str>) -> Self {
        let message = super::text::printable(message.as_ref(), MAX_ERROR_CHARS);
        Self {
            code,
            message,
            stage: None,
            retry: code.retry(),
            detail: None,
        }
    }

    /// The same at a stage.
    #[must_use]
    pub fn at(mut self, stage: Stage) -> Self {
        self.stage = Some(stage);
        self
    }

    /// The same with the RFC 6901 pointer, from the command's root, to what is wrong.
    #[must_use]
    pub fn pointing(mut self, pointer: impl Into<String>) -> Self {
        self.detail = Some(serde_json::json!({ "pointer": pointer.into() }));
        self
    }
}

//! What the engine's words mean. Pure: a table over status codes and texts. Its tests say which of
//! them were seen on a real engine and which are taken from reports.
//!
//! The engine passes on what registries, runtimes and kernels said, as text and often with a status
//! of 500. Texts may also quote a tenant: nothing is read into a text before the status has been
//! asked, and a wrong class costs a tenant no more than its own deploy.

use crate::runtime::Class;

/// What was asked of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Connect,
    Ping,
    Version,
    Info,
    Network,
    List,
    Inspect,
    Create,
    Remake,
    Start,
    Stop,
    Remove,
    Logs,
    Volume,
    Image,
    Pull,
    Events,
    Exec,
}

impl Operation {
    /// For [`RuntimeError::operation`](crate::runtime::RuntimeError::operation).
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Ping => "ping",
            Self::Version => "version",
            Self::Info => "info",
            Self::Network => "network",
            Self::List => "list",
            Self::Inspect => "inspect",
            Self::Create => "create",
            Self::Remake => "remake",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Remove => "remove",
            Self::Logs => "logs",
            Self::Volume => "volume",
            Self::Image => "image",
            Self::Pull => "pull",
            Self::Events => "events",
            Self::Exec => "exec",
        }
    }
}

/// What an answer with an error means. `status` is absent for an error inside a stream, whose status
/// had been 200.
pub(super) fn answer(operation: Operation, status: Option<u16>, message: &str) -> Class {
    let text = message.to_lowercase();
    if operation == Operation::Pull {
        return pull(status, &text);
    }
    match status {
        Some(404) => Class::NotFound,
        Some(409) => conflict(operation, &text),
        Some(400..=499) => refused(&text),
        _ => failed(&text),
    }
}

fn conflict(operation: Operation, text: &str) -> Class {
    let makes = matches!(operation, Operation::Create | Operation::Remake);
    let taken = makes && text.contains("is already in use by container");
    if taken || (operation == Operation::Network && text.contains("already exists")) {
        Class::NameTaken
    } else if text.contains("marked for removal") || text.contains("already exists") {
        Class::Unstartable
    } else if text.contains("in use") || text.contains("is being used") {
        Class::InUse
    } else {
        Class::Refused
    }
}

/// A bad entrypoint is a 400 too, and its text quotes the tenant: only what the runtime itself puts
/// at the end is looked for.
fn refused(text: &str) -> Class {
    if text
        .trim_end_matches(": unknown")
        .ends_with("exec format error")
    {
        Class::ImageUnsupported
    } else {
        Class::Refused
    }
}

fn failed(text: &str) -> Class {
    if any(text, &["no space left on device", "disk quota exceeded"]) {
        Class::DiskFull
    } else if text.contains("could not select device driver")
        || text.contains("unresolvable cdi devices")
        || text.contains("nvidia-container-cli")
        || text.contains("nvidia-container-runtime")
    {
        Class::GpuRuntime
    } else if any(
        text,
        &[
            "port is already allocated",
            "address already in use",
            "failed to bind host port",
            "failed to bind port",
        ],
    ) {
        Class::PortTaken
    } else if text.contains("already exists") {
        Class::Unstartable
    } else if text.contains("exec format error") {
        Class::ImageUnsupported
    } else {
        Class::Failed
    }
}

/// In order: what is certain first. `failed to register layer` may hide a full disk, and `denied`
/// may stand for an image that does not exist (registries do not tell which).
fn pull(status: Option<u16>, text: &str) -> Class {
    if any(text, &["no space left on device", "disk quota exceeded"]) {
        Class::DiskFull
    } else if any(text, &["toomanyrequests", "too many requests"]) {
        Class::RateLimited
    } else if any(text, UNSUPPORTED) {
        Class::ImageUnsupported
    } else if any(text, CORRUPT) {
        Class::ImageCorrupt
    } else if any(text, UNAUTHORISED) {
        Class::RegistryAuth
    } else if any(text, MISSING) {
        Class::ImageNotFound
    } else if status == Some(400) {
        Class::Refused
    } else {
        Class::RegistryFailed
    }
}

const UNSUPPORTED: &[&str] = &[
    "no matching manifest for",
    "no match for platform in manifest",
    "does not match the specified platform",
    "cannot be used on this platform",
    "operating system is not supported",
    "unsupported manifest",
    "unsupported media type",
    "media type not supported",
    "not implemented for oci",
    "invalid rootfs in image configuration",
];

const CORRUPT: &[&str] = &[
    "layer verification failed",
    "failed to register layer",
    "manifest verification failed",
    "does not match digest",
    "unexpected commit digest",
    "size validation failed",
    "failed size validation",
    "invalid checksum digest",
    "invalid tar header",
    "gzip: invalid",
    "flate: corrupt",
    "error unmarshalling content",
    "error unmarshaling content",
    "failed to extract layer",
];

const UNAUTHORISED: &[&str] = &[
    "unauthorized",
    "authentication required",
    "no basic auth credentials",
    "incorrect username or password",
    "access denied",
    "denied: ",
    "403 forbidden",
    "status: 401",
    "status code 401",
    "code: 401",
];

const MISSING: &[&str] = &[
    "manifest unknown",
    "name unknown",
    "repository name not known",
    "not found",
    "does not exist",
];

fn any(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests;

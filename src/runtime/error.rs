//! What went wrong between the agent and the engine, and what it means. Pure.

/// What an error means for whoever has to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Whether it was done is not known: no answer in time, connection lost, or the engine is gone.
    Unknown,
    /// Nobody listens: it was not done.
    Unreachable,
    /// There is no such thing.
    NotFound,
    /// A container of that name exists.
    NameTaken,
    /// The host's port is taken.
    PortTaken,
    /// The engine cannot hand out GPUs, or not this one.
    GpuRuntime,
    /// No space left.
    DiskFull,
    /// The container can never be started again, only made anew ("already exists").
    Unstartable,
    /// The request is wrong and stays wrong: a bad entrypoint, a bad option.
    Refused,
    /// The registry has no such image.
    ImageNotFound,
    /// The registry wants other credentials.
    RegistryAuth,
    /// The registry wants to be left alone for a while.
    RateLimited,
    /// The registry cannot be reached, or failed.
    RegistryFailed,
    /// Not for this machine's architecture or system.
    ImageUnsupported,
    /// The image's bytes are wrong.
    ImageCorrupt,
    /// Nothing came for too long.
    Stalled,
    /// The image is in use.
    InUse,
    /// Anything else that the engine said with 5xx.
    Failed,
}

/// An operation on the engine that was not done, or of which that is not known.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}: {message}")]
pub struct RuntimeError {
    /// Like `start`.
    pub operation: &'static str,
    /// A container's, volume's or image's name.
    pub subject: String,
    /// What it means.
    pub class: Class,
    /// The engine's words, printable, at most 1,000 characters.
    pub message: String,
    /// What lies beneath.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl RuntimeError {
    /// The engine has nothing that could hand out GPUs, whichever: it looked when it started.
    pub fn lacks_gpu_runtime(&self) -> bool {
        let said = "could not select device driver";
        self.class == Class::GpuRuntime && self.message.contains(said)
    }

    /// An error in the engine's words.
    pub fn new(
        operation: &'static str,
        subject: impl Into<String>,
        class: Class,
        message: impl AsRef<str>,
    ) -> Self {
        let message = crate::protocol::text::printable(message.as_ref(), 1000);
        Self {
            operation,
            subject: subject.into(),
            class,
            message,
            source: None,
        }
    }
}

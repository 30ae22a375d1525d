//! The way to the engine: one connection per request over its unix socket, the version negotiated at
//! the first contact and again after each loss, and every request under a time limit of the agent's.

use std::{
    error::Error as StdError,
    fmt, io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bollard::{API_DEFAULT_VERSION, BollardRequest, errors::Error};
use futures_util::Stream;
use tokio::time::timeout;

use super::classify::{self, Operation};
use crate::{
    clock::{self, Seldom},
    protocol::text::chain,
    runtime::{Class, RuntimeError},
};

/// For what the engine answers from memory. It answers in milliseconds; this is for a machine under
/// load.
pub(super) const CONTROL: Duration = Duration::from_secs(10);

/// For what makes, starts and removes containers, on slow disks and with slow hooks.
pub(super) const CHANGE: Duration = Duration::from_secs(60);

/// The library's own limit covers only the time to the headers, of everything, streams included. It
/// is put out of the way; ours cover whole calls.
const LIBRARY_LIMIT_S: u64 = 10 * 365 * 24 * 3600;

/// Device requests came with 1.40 (Docker 19.03).
const OLDEST_API: (usize, usize) = (1, 40);

/// For whom the system keeps away from the socket.
const FORBIDDEN: &str = "this user may not use the engine's socket: run as root or as a member of the group \
     that owns the socket, which is `docker` on most systems";

/// What is asked, and of what: for errors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) operation: Operation,
    /// A container's, volume's, network's or image's name.
    pub(super) subject: &'a str,
}

/// The engine's socket.
pub(super) struct Connection {
    socket: String,
    /// `None` before the first contact and after a loss. Never held across an await.
    client: Mutex<Option<bollard::Docker>>,
    /// That markers cannot be read, which is asked every second then.
    unreadable_markers: Mutex<Seldom>,
}

impl Connection {
    /// For the engine at `host` (`unix:///…`). Nothing is dialled.
    pub(super) fn new(host: &str) -> Result<Self, RuntimeError> {
        let path = host.strip_prefix("unix://").filter(|p| p.starts_with('/'));
        let Some(path) = path else {
            return Err(RuntimeError::new(
                Operation::Connect.name(),
                host,
                Class::Refused,
                "the engine's address has to be unix:// and an absolute path",
            ));
        };
        Ok(Self {
            socket: path.to_owned(),
            client: Mutex::new(None),
            unreadable_markers: Mutex::default(),
        })
    }

    /// One call, all of it within `limit`.
    pub(super) async fn call<T, F, Fut>(
        &self,
        call: Call<'_>,
        limit: Duration,
        request: F,
    ) -> Result<T, RuntimeError>
    where
        F: FnOnce(bollard::Docker) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let work = async {
            let client = self.client(call).await?;
            request(client)
                .await
                .map_err(|error| self.failure(call, error))
        };
        match timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(call.no_answer(limit)),
        }
    }

    /// A stream whose items come under the caller's own limits.
    pub(super) async fn stream<S, F>(&self, call: Call<'_>, open: F) -> Result<S, RuntimeError>
    where
        F: FnOnce(bollard::Docker) -> S,
        S: Stream,
    {
        match timeout(CONTROL, self.client(call)).await {
            Ok(client) => Ok(open(client?)),
            Err(_) => Err(call.no_answer(CONTROL)),
        }
    }

    /// What an error of the library means. After a lost socket the next call negotiates again: it
    /// may be another engine that comes back.
    pub(super) fn failure(&self, call: Call<'_>, error: Error) -> RuntimeError {
        let failure = failure(call, error);
        if failure.class == Class::Unreachable {
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        failure
    }

    /// Whether the markers could be read this time: a failure is logged at once, and then seldom.
    pub(super) fn note_markers(&self, error: Option<&RuntimeError>) {
        let mut seldom = self
            .unreadable_markers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match error {
            None => seldom.over(),
            Some(error) if seldom.goes_on(clock::now().boot) => {
                tracing::warn!(error = chain(error), "the markers cannot be read");
            }
            Some(error) => tracing::debug!(%error, "the markers cannot be read"),
        }
    }

    /// The client, after a first contact that asks the engine for its version. Later versions of
    /// the library send the number that was agreed on, this one only tells it.
    async fn client(&self, call: Call<'_>) -> Result<bollard::Docker, RuntimeError> {
        let known = self
            .client
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client =
            bollard::Docker::connect_with_unix(&self.socket, LIBRARY_LIMIT_S, API_DEFAULT_VERSION)
                .map_err(|error| failure(call, error))?
                .with_request_modifier(with_url_safe_auth)
                .negotiate_version()
                .await
                .map_err(|error| failure(call, error))?;
        let version = client.client_version();
        if (version.major_version, version.minor_version) < OLDEST_API {
            return Err(call.error(
                Class::Refused,
                format!("the engine's API {version} is too old: 1.40 (Docker 19.03) is needed"),
            ));
        }
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        Ok(client)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.socket).finish()
    }
}

impl Call<'_> {
    /// An error of this call.
    pub(super) fn error(&self, class: Class, message: impl AsRef<str>) -> RuntimeError {
        RuntimeError::new(self.operation.name(), self.subject, class, message)
    }

    /// An answer that makes no sense. Whether something was done is not known.
    pub(super) fn nonsense(&self, what: &str) -> RuntimeError {
        self.error(Class::Unknown, format!("the engine's answer has no {what}"))
    }

    /// Silence. Whether something was done is not known.
    pub(super) fn no_answer(&self, limit: Duration) -> RuntimeError {
        let message = format!("the engine did not answer within {} s", limit.as_secs());
        self.error(Class::Unknown, message)
    }
}

#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else the library reports, whether the thing was done is not known"
)]
fn failure(call: Call<'_>, error: Error) -> RuntimeError {
    let answer = |status, message: &String| {
        call.error(classify::answer(call.operation, status, message), message)
    };
    let (class, message) = match &error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => return answer(Some(*status_code), message),
        Error::DockerStreamError { error } => return answer(None, error),
        Error::SocketNotFoundError(_) => (Class::Unreachable, "the engine's socket is not there"),
        Error::HyperLegacyError { err } if err.is_connect() => dial_failure(err),
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => {
            (Class::Unknown, "the engine's answer cannot be read")
        }
        _ => (Class::Unknown, "the connection to the engine was lost"),
    };
    let mut failure = call.error(class, message);
    failure.source = Some(Box::new(error));
    failure
}

/// A frozen engine whose backlog is full answers a dial with "would block": somebody is there. A
/// socket that may not be written to is no dead one, and needs another remedy.
fn dial_failure(error: &(dyn StdError + 'static)) -> (Class, &'static str) {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if kind == Some(io::ErrorKind::WouldBlock) {
            return (Class::Unknown, "the engine takes no more connections");
        }
        if kind == Some(io::ErrorKind::PermissionDenied) {
            return (Class::Unreachable, FORBIDDEN);
        }
        cause = error.source();
    }
    (Class::Unreachable, "nobody listens on the engine's socket")
}

/// The library writes credentials in plain base64; the engine reads URL-safe base64 and pulls
/// without any credentials, silently, when it meets `+` or `/`.
fn with_url_safe_auth(mut request: BollardRequest) -> BollardRequest {
    if let Some(value) = request.headers_mut().get_mut("x-registry-auth") {
        let plain = value.to_str().unwrap_or_default();
        if let Ok(safe) = plain.replace('+', "-").replace('/', "_").parse() {
            *value = safe;
        }
        value.set_sensitive(true);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forbidden_socket_is_told_from_a_dead_one_and_the_remedy_is_named() {
        let dial = |kind| dial_failure(&io::Error::from(kind));
        let (class, words) = dial(io::ErrorKind::PermissionDenied);
        assert_eq!(class, Class::Unreachable);
        assert!(
            words.contains("root") && words.contains("`docker`"),
            "{words}"
        );
        let (class, words) = dial(io::ErrorKind::ConnectionRefused);
        assert_eq!(class, Class::Unreachable);
        assert!(words.contains("nobody listens"), "{words}");
    }
}

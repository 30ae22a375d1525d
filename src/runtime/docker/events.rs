//! What happens to containers, as the engine tells it.

use bollard::{errors::Error, models::EventMessage, query_parameters::EventsOptionsBuilder};
use futures_util::StreamExt;

use super::{
    classify::Operation,
    connection::{Call, Connection},
    filters,
};
use crate::{
    clock::{self, Timestamp},
    runtime::{ContainerEvent, RuntimeError},
};

/// What changes a container's state. Execs and health checks would come by the thousand and say
/// nothing of it.
const ACTIONS: [&str; 10] = [
    "create", "start", "die", "oom", "kill", "stop", "pause", "unpause", "destroy", "rename",
];

/// The action of an event that could not be read.
const UNREADABLE: &str = "unreadable";

/// One call that lasts. There is no limit to its silence: an engine where nothing happens says
/// nothing. An event that cannot be read is handed on as one without a name, and ends the stream,
/// because the reader has lost its place.
pub(super) async fn events(
    connection: &Connection,
    since: Option<Timestamp>,
    on_event: &mut (dyn FnMut(ContainerEvent) + Send),
) -> Result<(), RuntimeError> {
    let call = Call {
        operation: Operation::Events,
        subject: "containers",
    };
    let mut options = EventsOptionsBuilder::default()
        .filters(&filters([("type", &["container"]), ("event", &ACTIONS)]));
    if let Some(since) = since {
        options = options.since(&engine_time(since));
    }
    let options = options.build();
    let mut stream = connection
        .stream(call, |client| client.events(Some(options)))
        .await?;
    while let Some(item) = stream.next().await {
        match item {
            Ok(message) => on_event(event(message)),
            Err(error) if is_unreadable(&error) => {
                tracing::warn!(error = %error, "an event of the engine cannot be read");
                on_event(unreadable());
            }
            Err(error) => return Err(connection.failure(call, error)),
        }
    }
    Ok(())
}

fn event(message: EventMessage) -> ContainerEvent {
    let Some(action) = message.action else {
        return unreadable();
    };
    let attributes = message.actor.and_then(|actor| actor.attributes);
    let name = attributes.and_then(|mut attributes| attributes.remove("name"));
    let millis = message.time_nano.map(|nanos| nanos / 1_000_000);
    let millis = millis.or(message.time.map(|seconds| seconds.saturating_mul(1000)));
    ContainerEvent {
        name: name.unwrap_or_default(),
        action,
        at: millis.map_or_else(|| clock::now().wall, Timestamp::from_millis),
    }
}

fn unreadable() -> ContainerEvent {
    ContainerEvent {
        name: String::new(),
        action: UNREADABLE.to_owned(),
        at: clock::now().wall,
    }
}

fn is_unreadable(error: &Error) -> bool {
    matches!(
        error,
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. }
    )
}

/// Seconds and a fraction.
fn engine_time(time: Timestamp) -> String {
    let millis = time.as_millis().max(0);
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

#[cfg(test)]
mod tests;

//! Images: looked up and fetched.

use std::time::Duration;

use bollard::{
    auth::DockerCredentials, models::CreateImageInfo, query_parameters::CreateImageOptionsBuilder,
};
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::{
    classify::Operation,
    connection::{CONTROL, Call, Connection},
    containers::found,
};
use crate::runtime::{
    Class, Credentials, ImageFacts, LayerEvent, PullRequest, RuntimeError, translate,
};

/// What the engine writes at the end of every pull that worked.
const DONE: &str = "Status: ";

/// One call.
pub(super) async fn facts(
    connection: &Connection,
    reference: &str,
) -> Result<Option<ImageFacts>, RuntimeError> {
    let call = Call {
        operation: Operation::Image,
        subject: reference,
    };
    let inspect = |client: bollard::Docker| async move { client.inspect_image(reference).await };
    let Some(image) = found(connection.call(call, CONTROL, inspect).await)? else {
        return Ok(None);
    };
    let facts = translate::image_facts(image);
    facts.map(Some).ok_or_else(|| call.nonsense("image id"))
}

/// One call that lasts, given up after `stall` without a word from the engine: downloads, retries
/// and extraction all make it speak. A stream that ends without its last line has been cut off.
pub(super) async fn pull(
    connection: &Connection,
    request: &PullRequest,
    stall: Duration,
    on_event: &mut (dyn FnMut(LayerEvent) + Send),
) -> Result<(), RuntimeError> {
    let call = Call {
        operation: Operation::Pull,
        subject: &request.reference,
    };
    let options = CreateImageOptionsBuilder::default()
        .from_image(&request.reference)
        .build();
    let auth = request.auth.as_ref().map(credentials);
    let mut stream = connection
        .stream(call, |client| {
            client.create_image(Some(options), None, auth)
        })
        .await?;
    let mut done = false;
    loop {
        let Ok(item) = timeout(stall, stream.next()).await else {
            let message = format!("nothing came for {} s", stall.as_secs());
            return Err(call.error(Class::Stalled, message));
        };
        match item {
            Some(Ok(info)) => {
                let event = layer_event(info);
                done |= event.layer.is_none() && event.status.starts_with(DONE);
                on_event(event);
            }
            Some(Err(error)) => return Err(connection.failure(call, error)),
            None if done => return Ok(()),
            None => {
                return Err(call.error(Class::Unknown, "the engine broke off in the middle"));
            }
        }
    }
}

fn credentials(credentials: &Credentials) -> DockerCredentials {
    match credentials {
        Credentials::Password { username, password } => DockerCredentials {
            username: Some(username.clone()),
            password: Some(password.expose_secret().to_owned()),
            ..DockerCredentials::default()
        },
        Credentials::IdentityToken(token) => DockerCredentials {
            identitytoken: Some(token.expose_secret().to_owned()),
            ..DockerCredentials::default()
        },
    }
}

fn layer_event(info: CreateImageInfo) -> LayerEvent {
    let progress = info.progress_detail.unwrap_or_default();
    let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
    LayerEvent {
        layer: info.id,
        status: info.status.unwrap_or_default(),
        current_bytes: bytes(progress.current),
        // Zero is how the engine writes "not known".
        total_bytes: bytes(progress.total).filter(|total| *total > 0),
    }
}

#[cfg(test)]
mod tests;

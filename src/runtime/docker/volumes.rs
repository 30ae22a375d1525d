//! Named volumes, of which only the labels matter: they are markers.

use std::collections::HashMap;

use bollard::{
    models::{Volume, VolumeCreateRequest},
    query_parameters::RemoveVolumeOptions,
};

use super::{
    classify::Operation,
    connection::{CONTROL, Call, Connection},
    containers::found,
};
use crate::runtime::{RuntimeError, VolumeLabels};

/// One call when the volume is new or is there with these labels, else two.
///
/// The engine answers 201 with the volume that is there then, its labels the stored ones. Of a
/// volume that it has not touched since its own restart it answers without labels although it has
/// them (seen on 20.10; an inspect shows them). So an answer with the wanted labels is the read-back,
/// and any other is checked by an inspect.
pub(super) async fn put(
    connection: &Connection,
    wanted: &VolumeLabels,
) -> Result<VolumeLabels, RuntimeError> {
    let name = wanted.name.as_str();
    let call = Call {
        operation: Operation::Volume,
        subject: name,
    };
    let request = VolumeCreateRequest {
        name: Some(wanted.name.clone()),
        driver: Some("local".to_owned()),
        labels: Some(wanted.labels.clone().into_iter().collect::<HashMap<_, _>>()),
        ..VolumeCreateRequest::default()
    };
    let create = |client: bollard::Docker| async move { client.create_volume(request).await };
    let answered = labels(connection.call(call, CONTROL, create).await?);
    if answered == *wanted {
        return Ok(answered);
    }
    let inspect = |client: bollard::Docker| async move { client.inspect_volume(name).await };
    connection.call(call, CONTROL, inspect).await.map(labels)
}

/// One call.
pub(super) async fn remove(connection: &Connection, name: &str) -> Result<(), RuntimeError> {
    let call = Call {
        operation: Operation::Volume,
        subject: name,
    };
    let remove = |client: bollard::Docker| async move {
        client
            .remove_volume(name, None::<RemoveVolumeOptions>)
            .await
    };
    found(connection.call(call, CONTROL, remove).await).map(|_| ())
}

/// The part of a volume that matters here.
pub(super) fn labels(volume: Volume) -> VolumeLabels {
    VolumeLabels {
        name: volume.name,
        labels: volume.labels.into_iter().collect(),
    }
}

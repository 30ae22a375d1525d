//! The bridge that all rentals share. Made when it is absent; never changed here, because rentals may
//! hang on it.

use std::collections::HashMap;

use bollard::{
    models::{Ipam, IpamConfig, Network, NetworkCreateRequest},
    query_parameters::ListNetworksOptionsBuilder,
};
use ipnet::Ipv4Net;

use super::{
    classify::Operation,
    connection::{CHANGE, CONTROL, Call, Connection},
    containers::found,
    filters,
};
use crate::runtime::{Class, RuntimeError};

const ICC: &str = "com.docker.network.bridge.enable_icc";

/// Says whose network it is.
const LABEL: &str = "rental-agent.network";

/// One call when it is there, three when it is made.
pub(super) async fn ensure(
    connection: &Connection,
    name: &str,
    subnet: Option<Ipv4Net>,
) -> Result<(), RuntimeError> {
    let call = Call {
        operation: Operation::Network,
        subject: name,
    };
    let mut networks = named(connection, call).await?;
    if networks.is_empty() {
        let request = request(name, subnet);
        let create = |client: bollard::Docker| async move { client.create_network(request).await };
        match connection.call(call, CHANGE, create).await {
            Ok(_) => {}
            // Another agent was faster.
            Err(error) if error.class == Class::NameTaken => {}
            Err(error) => return Err(error),
        }
        networks = named(connection, call).await?;
    }
    let mut networks = networks.iter();
    let Some(first) = networks.next() else {
        return Err(call.nonsense("network of that name"));
    };
    for later in networks {
        let id = later.id.as_deref().unwrap_or_default();
        let remove = |client: bollard::Docker| async move { client.remove_network(id).await };
        found(connection.call(call, CHANGE, remove).await)?;
    }
    check(call, first, subnet)
}

/// Whether a start failed because somebody has removed the network since it was looked at last.
pub(super) fn is_missing(error: &RuntimeError, name: &str) -> bool {
    error.message.contains(&format!("network {name} not found"))
}

/// All networks of that name, the earliest first. Engines before 25 make a second one without a
/// word where two agents make it at once, and then nothing can be attached by that name: the
/// earliest stays, and the engine itself refuses to remove one that is in use.
async fn named(connection: &Connection, call: Call<'_>) -> Result<Vec<Network>, RuntimeError> {
    let options = ListNetworksOptionsBuilder::default()
        .filters(&filters([("name", &[call.subject])]))
        .build();
    let list = |client: bollard::Docker| async move { client.list_networks(Some(options)).await };
    let mut networks = connection.call(call, CONTROL, list).await?;
    // The filter takes parts of names too.
    networks.retain(|network| network.name.as_deref() == Some(call.subject));
    networks.sort_by_key(|network| (network.created.clone(), network.id.clone()));
    Ok(networks)
}

fn request(name: &str, subnet: Option<Ipv4Net>) -> NetworkCreateRequest {
    let config = subnet.map(|subnet| IpamConfig {
        subnet: Some(subnet.to_string()),
        ..IpamConfig::default()
    });
    NetworkCreateRequest {
        name: name.to_owned(),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(false),
        internal: Some(false),
        options: Some(HashMap::from([(ICC.to_owned(), "false".to_owned())])),
        labels: Some(HashMap::from([(LABEL.to_owned(), "1".to_owned())])),
        ipam: config.map(|config| Ipam {
            config: Some(vec![config]),
            ..Ipam::default()
        }),
        ..NetworkCreateRequest::default()
    }
}

fn check(call: Call<'_>, network: &Network, subnet: Option<Ipv4Net>) -> Result<(), RuntimeError> {
    let mut wrong = Vec::new();
    let driver = network.driver.as_deref().unwrap_or_default();
    if driver != "bridge" {
        wrong.push(format!("its driver is {driver}, not bridge"));
    }
    let options = network.options.as_ref();
    if options
        .and_then(|options| options.get(ICC))
        .map(String::as_str)
        != Some("false")
    {
        wrong.push("rentals could reach each other (enable_icc is not false)".to_owned());
    }
    if network.enable_ipv6 == Some(true) {
        wrong.push("it has IPv6".to_owned());
    }
    if network.internal == Some(true) {
        wrong.push("it is internal".to_owned());
    }
    if let Some(wanted) = subnet.map(|subnet| subnet.trunc().to_string()) {
        let configs = network.ipam.as_ref().and_then(|ipam| ipam.config.as_ref());
        let mut subnets = configs
            .into_iter()
            .flatten()
            .filter_map(|c| c.subnet.as_deref());
        if !subnets.any(|subnet| subnet == wanted) {
            wrong.push(format!("its subnet is not {wanted}"));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let name = call.subject;
    let message = format!(
        "the network {name} exists, but {}; when no container uses it, remove it with \
         `docker network rm {name}` and it is made anew",
        wrong.join(", ")
    );
    Err(call.error(Class::Refused, message))
}

#[cfg(test)]
mod tests;

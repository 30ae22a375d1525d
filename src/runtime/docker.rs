//! The container engine over its API, by bollard; nothing outside this folder knows bollard's client.
//!
//! What holds for every call: one HTTP request where that is possible at all; a time limit of its
//! own that covers the whole call; after it, and after a lost connection,
//! [`Class::Unknown`](super::Class::Unknown), because the engine goes on with what it was asked. Only
//! a pull ends when its future is dropped.
//!
//! Bollard writes whole request and response bodies, environments included, to the log at DEBUG and
//! TRACE; `cli::logging` lets no library be heard below INFO.

mod cdi;
mod classify;
mod connection;
mod containers;
mod events;
mod evidence;
mod facts;
mod holders;
mod images;
mod listing;
mod logs;
mod network;
mod volumes;

use std::{collections::HashMap, time::Duration};

use ipnet::Ipv4Net;

use self::{connection::Connection, holders::ForeignDevices};
use super::{
    ContainerEvent, ContainerPlan, ContainerRuntime, EngineFacts, Holder, ImageFacts, LayerEvent,
    Listing, Observed, PullRequest, RuntimeError, VolumeLabels,
    gpus::{Evidence, GpuNames},
};
use crate::{clock::Timestamp, config, ids::ContainerId};

/// Every name of ours begins with this, containers and markers alike.
const NAME_PREFIX: &str = "rental-";

/// A Docker Engine. Made without a call, so that the agent starts while the engine is down.
#[derive(Debug)]
pub struct Docker {
    connection: Connection,
    pull_stall: Duration,
    network: String,
    subnet: Option<Ipv4Net>,
    foreign: ForeignDevices,
    /// The container that the agent runs in; it holds nothing that could be rented out.
    own: Option<ContainerId>,
}

impl Docker {
    /// For the engine that the configuration names. Fails only for an address that is no unix
    /// socket's.
    pub fn connect(
        docker: &config::Docker,
        network: &config::Network,
    ) -> Result<Self, RuntimeError> {
        Ok(Self {
            connection: Connection::new(&docker.host)?,
            pull_stall: docker.pull_stall,
            network: network.name.clone(),
            subnet: network.subnet,
            foreign: ForeignDevices::default(),
            own: None,
        })
    }

    /// For an agent that runs in a container itself, which then is never counted.
    #[must_use]
    pub fn from_within(mut self, own: Option<ContainerId>) -> Self {
        self.own = own;
        self
    }
}

impl ContainerRuntime for Docker {
    async fn engine(&self) -> Result<EngineFacts, RuntimeError> {
        facts::engine(&self.connection).await
    }

    async fn ping(&self) -> Result<(), RuntimeError> {
        facts::ping(&self.connection).await
    }

    async fn ensure_network(&self) -> Result<(), RuntimeError> {
        network::ensure(&self.connection, &self.network, self.subnet).await
    }

    async fn list(&self) -> Result<Listing, RuntimeError> {
        listing::list(&self.connection, &self.foreign, self.own.as_ref()).await
    }

    async fn evidence(&self, name: &str, inside: bool) -> Result<Option<Evidence>, RuntimeError> {
        evidence::evidence(&self.connection, name, inside).await
    }

    async fn holders(&self, gpus: &[GpuNames], mine: &str) -> Result<Vec<Holder>, RuntimeError> {
        let own = self.own.as_ref();
        holders::holders(&self.connection, &self.foreign, gpus, mine, own).await
    }

    async fn inspect(&self, name: &str) -> Result<Option<Observed>, RuntimeError> {
        containers::inspect(&self.connection, name).await
    }

    async fn create(&self, plan: &ContainerPlan) -> Result<ContainerId, RuntimeError> {
        containers::create(&self.connection, plan).await
    }

    async fn remake(&self, name: &str) -> Result<ContainerId, RuntimeError> {
        containers::remake(&self.connection, name).await
    }

    async fn start(&self, name: &str) -> Result<(), RuntimeError> {
        match containers::start(&self.connection, name).await {
            Err(error) if network::is_missing(&error, &self.network) => {
                self.ensure_network().await?;
                containers::start(&self.connection, name).await
            }
            started => started,
        }
    }

    async fn stop(&self, name: &str, grace: Duration) -> Result<(), RuntimeError> {
        containers::stop(&self.connection, name, grace).await
    }

    async fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        containers::remove(&self.connection, name).await
    }

    async fn log_tail(&self, name: &str, max_bytes: usize) -> Result<String, RuntimeError> {
        logs::tail(&self.connection, name, max_bytes).await
    }

    async fn put_volume(&self, volume: &VolumeLabels) -> Result<VolumeLabels, RuntimeError> {
        volumes::put(&self.connection, volume).await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        volumes::remove(&self.connection, name).await
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageFacts>, RuntimeError> {
        images::facts(&self.connection, reference).await
    }

    async fn pull(
        &self,
        request: &PullRequest,
        on_event: &mut (dyn FnMut(LayerEvent) + Send),
    ) -> Result<(), RuntimeError> {
        images::pull(&self.connection, request, self.pull_stall, on_event).await
    }

    async fn events(
        &self,
        since: Option<Timestamp>,
        on_event: &mut (dyn FnMut(ContainerEvent) + Send),
    ) -> Result<(), RuntimeError> {
        events::events(&self.connection, since, on_event).await
    }
}

/// Filters as the engine takes them.
fn filters<const N: usize>(entries: [(&str, &[&str]); N]) -> HashMap<String, Vec<String>> {
    let owned = |values: &[&str]| values.iter().map(|&v| v.to_owned()).collect();
    entries
        .into_iter()
        .map(|(name, values)| (name.to_owned(), owned(values)))
        .collect()
}

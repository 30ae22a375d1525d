//! What the agent did not make: strangers' containers and ports, an administrator's hands, and an
//! engine's content as a crash would have left it.

use std::collections::HashMap;

use bollard::{
    models::{ContainerCreateBody, HostConfig, PortBinding, VolumeCreateRequest},
    query_parameters::{
        CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, KillContainerOptionsBuilder,
        LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
        StartContainerOptions,
    },
};
use futures_util::TryStreamExt;
use rental_agent::ids::InstanceId;
use serde_json::Value;

use super::{
    holdings::{self, Seen},
    host::World,
    rentals::container_name,
    specs::ASLEEP,
    wait::{SOON, wait_until},
};

impl World {
    /// `docker rm -f`. Somebody else may be at it.
    pub(crate) async fn remove_container(&self, id: &InstanceId) {
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        let removed = self
            .docker
            .remove_container(&container_name(id), Some(force))
            .await;
        holdings::ignore_absence(removed).unwrap();
    }

    /// Sends a signal to the rental's first process.
    pub(crate) async fn signal_container(&self, id: &InstanceId, signal: &str) {
        let options = KillContainerOptionsBuilder::default()
            .signal(signal)
            .build();
        self.docker
            .kill_container(&container_name(id), Some(options))
            .await
            .unwrap();
    }

    /// Wakes a rental that was told what to do `when_woken`.
    pub(crate) async fn wake(&self, id: &InstanceId) {
        let look = || async { self.output(id).await.contains(ASLEEP).then_some(()) };
        wait_until("a rental that sleeps", SOON, look).await;
        self.signal_container(id, "USR1").await;
    }

    /// What it has printed so far.
    pub(crate) async fn output(&self, id: &InstanceId) -> String {
        let options = LogsOptionsBuilder::default().stdout(true).build();
        let lines = self.docker.logs(&container_name(id), Some(options));
        let lines: Vec<String> = lines
            .map_ok(|line| line.to_string())
            .try_collect()
            .await
            .unwrap();
        lines.concat()
    }

    /// Any container by its name.
    pub(crate) async fn container_named(&self, name: &str) -> Option<Seen> {
        holdings::container(&self.docker, name).await
    }

    /// A name that begins like the rentals' of this world, so that it is swept with them, and that is
    /// none.
    pub(crate) fn stranger_name(&self, name: &str) -> String {
        format!("{}.{name}", super::rentals::container_prefix(&self.prefix))
    }

    /// Makes a container that is not the agent's, and starts it.
    pub(crate) async fn stranger(&self, name: &str, labels: Value, host: HostConfig) -> Seen {
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(vec!["sleep".into(), "1000000".into()]),
            labels: Some(serde_json::from_value(labels).unwrap()),
            exposed_ports: host
                .port_bindings
                .as_ref()
                .map(|ports| ports.keys().cloned().collect()),
            host_config: Some(host),
            ..Default::default()
        };
        self.create(name, body).await;
        self.docker
            .start_container(name, None::<StartContainerOptions>)
            .await
            .unwrap();
        self.container_named(name).await.unwrap()
    }

    /// Makes a container as another one is, under another rental's name, as a create of an earlier
    /// life would: not started.
    pub(crate) async fn twin(&self, of: &InstanceId, id: &InstanceId) {
        let inspect = self.container(of).await.unwrap().inspect;
        let config = serde_json::to_value(inspect.config.unwrap()).unwrap();
        let mut body: ContainerCreateBody = serde_json::from_value(config).unwrap();
        body.host_config = inspect.host_config;
        let labels = body.labels.as_mut().unwrap();
        labels.insert("rental-agent.instance-id".into(), id.to_string());
        labels.insert("rental-agent.command-id".into(), format!("command-of-{id}"));
        self.create(&container_name(id), body).await;
    }

    /// Writes a marker as a crash of the engine, or somebody else, would have left it.
    pub(crate) async fn put_marker(&self, id: &InstanceId, kind: &str, labels: &[(&str, &str)]) {
        let labels = labels
            .iter()
            .map(|(k, v)| (format!("rental-agent.{k}"), (*v).to_owned()));
        let request = VolumeCreateRequest {
            name: Some(format!("{}.{kind}", container_name(id))),
            labels: Some(labels.collect::<HashMap<_, _>>()),
            ..Default::default()
        };
        self.docker.create_volume(request).await.unwrap();
    }

    /// Removes a marker, as `docker volume prune` would.
    pub(crate) async fn remove_marker(&self, id: &InstanceId, kind: &str) {
        let name = format!("{}.{kind}", container_name(id));
        self.docker
            .remove_volume(&name, None::<RemoveVolumeOptions>)
            .await
            .unwrap();
    }

    /// An image like the one of this world, with labels of its own.
    pub(crate) async fn labelled_image(&self, labels: Value) -> String {
        let name = self.stranger_name("image");
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            cmd: Some(vec!["true".into()]),
            ..Default::default()
        };
        self.create(&name, body).await;
        let repository = format!("{}/labelled", self.prefix);
        let options = CommitContainerOptionsBuilder::default()
            .container(&name)
            .repo(&repository)
            .tag("1");
        let config = bollard::models::ContainerConfig {
            labels: Some(serde_json::from_value(labels).unwrap()),
            ..Default::default()
        };
        self.docker
            .commit_container(options.build(), config)
            .await
            .unwrap();
        format!("{repository}:1")
    }

    async fn create(&self, name: &str, body: ContainerCreateBody) {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.docker
            .create_container(Some(options), body)
            .await
            .unwrap();
    }
}

/// A container that publishes this port of the host.
pub(crate) fn publishes(port: u16) -> HostConfig {
    let binding = PortBinding {
        host_ip: None,
        host_port: Some(port.to_string()),
    };
    HostConfig {
        port_bindings: Some(HashMap::from([("80/tcp".to_owned(), Some(vec![binding]))])),
        ..Default::default()
    }
}

//! An engine in memory that does what it is asked. It has every image but those whose name begins
//! with `slow`, whose pull ends when the test says so, and those with `missing`, which are nowhere.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rental_agent::{
    clock::{self, Timestamp},
    ids::ContainerId,
    runtime::{
        Class, ContainerEvent, ContainerPlan, ContainerRuntime, ContainerState, Detail,
        EngineFacts, Holder, ImageFacts, LayerEvent, Listing, Observed, PullRequest, RuntimeError,
        VolumeLabels,
        gpus::{Evidence, GpuNames, Listed},
    },
};
use tokio::sync::Semaphore;

use crate::model::fixture;

/// The engine; clones are the same one.
#[derive(Clone)]
pub(super) struct Engine(Arc<Inside>);

struct Inside {
    held: Mutex<Held>,
    pulls: Semaphore,
}

/// What it holds.
#[derive(Default)]
pub(super) struct Held {
    pub(super) containers: BTreeMap<String, (Observed, Vec<(String, String)>)>,
    pub(super) volumes: BTreeMap<String, BTreeMap<String, String>>,
    pulled: Vec<String>,
    serial: u32,
}

impl Engine {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inside {
            held: Mutex::default(),
            pulls: Semaphore::new(0),
        }))
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap()
    }

    /// How many containers it has ever made.
    pub(super) fn made(&self) -> u32 {
        self.held().serial
    }

    /// Lets one slow pull come to its end.
    pub(super) fn let_a_pull_end(&self) {
        self.0.pulls.add_permits(1);
    }
}

fn missing(operation: &'static str, name: &str) -> RuntimeError {
    RuntimeError::new(operation, name, Class::NotFound, "there is none")
}

impl ContainerRuntime for Engine {
    async fn engine(&self) -> Result<EngineFacts, RuntimeError> {
        Ok(EngineFacts {
            root_dir: "/".into(),
            ..fixture::engine_facts(None)
        })
    }

    async fn ping(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn ensure_network(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn list(&self) -> Result<Listing, RuntimeError> {
        let held = self.held();
        let volumes = held.volumes.iter().map(|(name, labels)| VolumeLabels {
            name: name.clone(),
            labels: labels.clone(),
        });
        Ok(Listing {
            containers: held
                .containers
                .values()
                .map(|(seen, _)| seen.clone())
                .collect(),
            volumes: Some(volumes.collect()),
            engine_started_at: None,
            network_fault: None,
        })
    }

    async fn evidence(&self, name: &str, _: bool) -> Result<Option<Evidence>, RuntimeError> {
        let held = self.held();
        let seen = held.containers.get(name).map(|(seen, _)| seen);
        Ok(seen.map(|seen| {
            let gpus = seen.labels.get("rental-agent.gpus");
            let gpus = gpus.into_iter().flat_map(|gpus| gpus.split(','));
            Evidence {
                container: seen.id.clone(),
                runs: seen.state == ContainerState::Running,
                configured: gpus.map(str::to_owned).collect(),
                visible: None,
                nodes: None,
                host_nodes: Default::default(),
                listed: Listed::Unasked,
            }
        }))
    }

    async fn holders(&self, _: &[GpuNames], _: &str) -> Result<Vec<Holder>, RuntimeError> {
        Ok(Vec::new())
    }

    async fn inspect(&self, name: &str) -> Result<Option<Observed>, RuntimeError> {
        Ok(self
            .held()
            .containers
            .get(name)
            .map(|(seen, _)| seen.clone()))
    }

    async fn create(&self, plan: &ContainerPlan) -> Result<ContainerId, RuntimeError> {
        use secrecy::ExposeSecret;
        let mut held = self.held();
        held.serial += 1;
        let id: ContainerId = format!("{:064x}", held.serial).parse().unwrap();
        let seen = Observed {
            id: id.clone(),
            name: plan.name.clone(),
            created_at: clock::now().wall,
            state: ContainerState::Created,
            labels: plan.labels.clone(),
            ports: plan.ports.clone(),
            devices: Vec::new(),
            detail: Some(Detail::default()),
        };
        let env = plan.env.iter();
        let env = env.map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        held.containers
            .insert(plan.name.clone(), (seen, env.collect()));
        Ok(id)
    }

    async fn remake(&self, name: &str) -> Result<ContainerId, RuntimeError> {
        Err(missing("remake", name))
    }

    async fn start(&self, name: &str) -> Result<(), RuntimeError> {
        let mut held = self.held();
        let found = held.containers.get_mut(name);
        let (seen, _) = found.ok_or_else(|| missing("start", name))?;
        seen.state = ContainerState::Running;
        seen.detail = Some(Detail {
            started_at: Some(clock::now().wall),
            ..Detail::default()
        });
        Ok(())
    }

    async fn stop(&self, name: &str, _: Duration) -> Result<(), RuntimeError> {
        if let Some((seen, _)) = self.held().containers.get_mut(name) {
            seen.state = ContainerState::Exited;
        }
        Ok(())
    }

    async fn remove(&self, name: &str) -> Result<(), RuntimeError> {
        self.held().containers.remove(name);
        Ok(())
    }

    async fn log_tail(&self, _: &str, _: usize) -> Result<String, RuntimeError> {
        Ok(String::new())
    }

    async fn put_volume(&self, volume: &VolumeLabels) -> Result<VolumeLabels, RuntimeError> {
        let mut held = self.held();
        let labels = held.volumes.entry(volume.name.clone());
        let labels = labels.or_insert_with(|| volume.labels.clone()).clone();
        Ok(VolumeLabels {
            labels,
            ..volume.clone()
        })
    }

    async fn remove_volume(&self, name: &str) -> Result<(), RuntimeError> {
        self.held().volumes.remove(name);
        Ok(())
    }

    async fn image(&self, reference: &str) -> Result<Option<ImageFacts>, RuntimeError> {
        let away = reference.contains("slow") || reference.contains("missing");
        let here = !away || self.held().pulled.iter().any(|image| image == reference);
        Ok(here.then(|| fixture::image_facts(reference)))
    }

    async fn pull(
        &self,
        request: &PullRequest,
        on_event: &mut (dyn FnMut(LayerEvent) + Send),
    ) -> Result<(), RuntimeError> {
        let reference = &request.reference;
        if reference.contains("missing") {
            let why = "manifest unknown";
            return Err(RuntimeError::new(
                "pull",
                reference,
                Class::ImageNotFound,
                why,
            ));
        }
        on_event(LayerEvent {
            layer: Some("0123456789ab".into()),
            status: "Downloading".into(),
            current_bytes: Some(1),
            total_bytes: Some(2),
        });
        self.0.pulls.acquire().await.unwrap().forget();
        self.held().pulled.push(reference.clone());
        Ok(())
    }

    async fn events(
        &self,
        _: Option<Timestamp>,
        _: &mut (dyn FnMut(ContainerEvent) + Send),
    ) -> Result<(), RuntimeError> {
        std::future::pending().await
    }
}

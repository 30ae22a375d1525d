//! A world's rentals: deployed through the server, looked at in the engine.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering,
};

use rental_agent::{
    dev::CommandTicket,
    ids::InstanceId,
    protocol::{EndReason, Error, Instance, Outcome, Phase, Reply},
};

use super::{
    holdings::{self, Seen},
    host::World,
    specs::{self, Spec},
    wait::{LATER, SOON, wait_for, wait_until},
};

/// Rentals.
impl World {
    /// An instance id that no other test has.
    pub(crate) fn instance_id(&self) -> InstanceId {
        let number = self.instances.fetch_add(1, Ordering::Relaxed);
        format!("{}-{number}", self.prefix).parse().unwrap()
    }

    /// A rental with an id of its own that runs `command` of busybox.
    pub(crate) fn spec(&self, command: &[impl AsRef<str>]) -> Spec {
        Spec::new(&self.instance_id(), &self.image, command)
    }

    /// A rental that runs until it is told to end.
    pub(crate) fn sleeper(&self) -> Spec {
        self.spec(&specs::sleeps())
    }

    /// Gives the server a deploy.
    pub(crate) fn deploy(&self, spec: &Spec) -> (InstanceId, CommandTicket) {
        (spec.id(), self.server.deploy(spec.json()).unwrap())
    }

    /// Deploys and waits for `done`.
    pub(crate) async fn deploy_ready(&self, spec: &Spec) -> (InstanceId, Instance) {
        let (id, ticket) = self.deploy(spec);
        let reply = self.final_reply(&ticket).await;
        assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
        let record = self.server.instance(&id).unwrap();
        assert_eq!(record.phase, Phase::Ready, "{record:?}");
        (id, record)
    }

    /// Deploys and waits for the reply that says that it failed, or was refused.
    pub(crate) async fn deploy_failed(&self, spec: &Spec) -> (InstanceId, Error) {
        let (id, ticket) = self.deploy(spec);
        let reply = self.final_reply(&ticket).await;
        assert!(
            matches!(reply.outcome, Outcome::Failed | Outcome::Rejected),
            "{reply:?}"
        );
        (id, reply.error.unwrap())
    }

    /// Terminates and waits for `done`.
    pub(crate) async fn terminate(&self, id: &InstanceId) -> Reply {
        let ticket = self.server.terminate(id).unwrap();
        let reply = self.final_reply(&ticket).await;
        assert_eq!(reply.outcome, Outcome::Done, "{reply:?}");
        reply
    }

    /// The final reply to a command.
    pub(crate) async fn final_reply(&self, ticket: &CommandTicket) -> Reply {
        self.server.wait_final(ticket, LATER).await.unwrap()
    }

    /// The record once it is in this phase.
    pub(crate) async fn wait_phase(&self, id: &InstanceId, phase: Phase) -> Instance {
        let waited = self
            .server
            .wait_instance(id, |record| record.phase == phase, LATER);
        waited.await.unwrap()
    }

    /// The record as soon as there is one.
    pub(crate) async fn wait_known(&self, id: &InstanceId) -> Instance {
        self.server.wait_instance(id, |_| true, SOON).await.unwrap()
    }

    /// The final record; it has to say this reason.
    pub(crate) async fn wait_ended(&self, id: &InstanceId, reason: EndReason) -> Instance {
        let record = self.wait_phase(id, Phase::Ended).await;
        let ended = record.ended.as_ref().unwrap();
        assert_eq!(ended.reason, reason, "{record:?}");
        record
    }
}

/// What the engine holds of this world.
impl World {
    /// The rental's container, if there is one.
    pub(crate) async fn container(&self, id: &InstanceId) -> Option<Seen> {
        holdings::container(&self.docker, &container_name(id)).await
    }

    /// The engine's id of the rental's container, also while an inspect would wait for its start.
    pub(crate) async fn container_id(&self, id: &InstanceId) -> Option<String> {
        let listed = holdings::id_of(&self.docker, &container_name(id)).await;
        listed.unwrap()
    }

    /// The rental's container, which has to be there.
    pub(crate) async fn running(&self, id: &InstanceId) -> Seen {
        let seen = self.container(id).await.expect("a container");
        assert_eq!(seen.state, "running", "{seen:?}");
        seen
    }

    /// The rental's container once the engine shows it in this state.
    pub(crate) async fn wait_state(&self, id: &InstanceId, state: &str) -> Seen {
        let what = format!("the container of {id} to be {state}");
        let look = || async { self.container(id).await.filter(|seen| seen.state == state) };
        wait_until(&what, SOON, look).await
    }

    /// Waits until the engine has no container of that rental.
    pub(crate) async fn wait_gone(&self, id: &InstanceId) {
        let what = format!("the container of {id} to be gone");
        let look = || async { self.container(id).await.is_none().then_some(()) };
        wait_until(&what, LATER, look).await;
    }

    /// The rental's markers: what follows `rental-<id>.` in each name, with the labels.
    pub(crate) async fn markers(
        &self,
        id: &InstanceId,
    ) -> BTreeMap<String, HashMap<String, String>> {
        let prefix = format!("{}.", container_name(id));
        let volumes = holdings::volumes(&self.docker, &prefix).await.unwrap();
        let kind = |name: String| name[prefix.len()..].to_owned();
        volumes
            .into_iter()
            .map(|(name, labels)| (kind(name), labels))
            .collect()
    }

    /// The labels of a marker once it is there with some.
    pub(crate) async fn wait_marker(&self, id: &InstanceId, kind: &str) -> HashMap<String, String> {
        let look = || async {
            let mut markers = self.markers(id).await;
            markers.remove(kind).filter(|labels| !labels.is_empty())
        };
        wait_until(&format!("the marker {kind} of {id}"), SOON, look).await
    }

    /// Names of all containers of this world.
    pub(crate) async fn containers(&self) -> Vec<String> {
        let prefix = container_prefix(&self.prefix);
        holdings::containers(&self.docker, &prefix).await.unwrap()
    }

    /// Waits until the engine holds nothing of this world. Markers of ended rentals go some seconds
    /// after the agent's start at the earliest: they keep a create that is still under way from
    /// being adopted.
    pub(crate) async fn assert_clean(&self) {
        let prefix = container_prefix(&self.prefix);
        let look = || async {
            let containers = holdings::containers(&self.docker, &prefix).await.unwrap();
            let volumes = holdings::volumes(&self.docker, &prefix).await.unwrap();
            (containers.is_empty() && volumes.is_empty()).then_some(())
        };
        wait_until("the engine to hold nothing of this world", SOON, look).await;
    }

    /// Waits until the agent's log says this.
    pub(crate) async fn wait_log(&self, text: &str) {
        wait_for(&format!("{text:?} in the log"), SOON, || {
            self.log().contains(text)
        })
        .await;
    }
}

/// The name of a rental's container.
pub(crate) fn container_name(id: &InstanceId) -> String {
    format!("rental-{id}")
}

pub(super) fn container_prefix(prefix: &str) -> String {
    format!("rental-{prefix}")
}

//! What the server has been told of the snapshot, and what of a newer one is news to it. Pure.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    driver::Identity,
    instance::publish::Snapshot,
    protocol::{
        command::SERVED_OPS,
        message::{AgentInfo, Capabilities, Heartbeat, Hello, Inventory},
        record::Host,
        spec::SERVED_SPEC,
    },
};

/// The snapshot as the server knows it.
#[derive(Debug)]
pub(super) struct Told(Arc<Snapshot>);

/// What the server does not know yet.
#[derive(Debug, Default, PartialEq)]
pub(super) struct News {
    /// What changed of the hardware.
    pub inventory: Option<Inventory>,
    /// Whether `status` changed.
    pub status: bool,
}

impl Told {
    /// By a `hello` made of this one.
    pub(super) fn by_hello(snapshot: Arc<Snapshot>) -> Self {
        Self(snapshot)
    }

    /// Compares, and counts as told from now on.
    pub(super) fn news(&mut self, newer: Arc<Snapshot>) -> News {
        let older = std::mem::replace(&mut self.0, Arc::clone(&newer));
        if Arc::ptr_eq(&older, &newer) {
            return News::default();
        }
        let inventory = Inventory {
            host: differs(&older.host, &newer.host).then(|| newer.host.clone()),
            gpus: (older.gpus != newer.gpus).then(|| newer.gpus.clone()),
            inventory_complete: (older.inventory_complete != newer.inventory_complete)
                .then_some(newer.inventory_complete),
            capacity: (older.capacity != newer.capacity).then(|| newer.capacity.clone()),
        };
        News {
            inventory: (inventory != Inventory::default()).then_some(inventory),
            status: older.status != newer.status,
        }
    }
}

/// How much is free on a disk changes all the time and is no change of hardware: it travels along
/// with what is.
fn differs(older: &Host, newer: &Host) -> bool {
    let mut older = older.clone();
    for (older, newer) in older.disks.iter_mut().zip(&newer.disks) {
        older.free_bytes = newer.free_bytes;
    }
    older != *newer
}

/// The first message of a session.
pub(super) fn hello(identity: &Identity, snapshot: &Snapshot) -> Hello {
    let names = |served: &[&str]| served.iter().map(|&name| name.to_owned()).collect();
    Hello {
        agent: AgentInfo {
            id: identity.agent_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: identity.epoch.clone(),
            started_at: identity.started_at,
            labels: identity.labels.clone(),
        },
        host: snapshot.host.clone(),
        gpus: snapshot.gpus.clone(),
        inventory_complete: snapshot.inventory_complete,
        capacity: snapshot.capacity.clone(),
        occupied: snapshot.occupied.clone(),
        capabilities: Capabilities {
            ops: names(SERVED_OPS),
            spec: names(SERVED_SPEC),
        },
        status: snapshot.status.clone(),
    }
}

/// All of the inventory, for `report`.
pub(super) fn inventory(snapshot: &Snapshot) -> Inventory {
    Inventory {
        host: Some(snapshot.host.clone()),
        gpus: Some(snapshot.gpus.clone()),
        inventory_complete: Some(snapshot.inventory_complete),
        capacity: Some(snapshot.capacity.clone()),
    }
}

/// A sign of life.
pub(super) fn heartbeat(snapshot: &Snapshot, at: Timestamp) -> Heartbeat {
    Heartbeat {
        at,
        generation: snapshot.generation,
        status: snapshot.status.clone(),
        occupied: snapshot.occupied.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::Generation,
        protocol::record::{Disk, Resources},
    };

    fn snapshot(change: impl FnOnce(&mut Snapshot)) -> Arc<Snapshot> {
        let mut snapshot = Snapshot::default();
        snapshot.host.disks.push(Disk {
            mount: "/".into(),
            total_bytes: 100,
            free_bytes: 50,
        });
        change(&mut snapshot);
        Arc::new(snapshot)
    }

    fn news(change: impl FnOnce(&mut Snapshot)) -> News {
        Told::by_hello(snapshot(|_| {})).news(snapshot(change))
    }

    #[test]
    fn only_what_changed_of_the_hardware_is_sent() {
        let told = news(|snapshot| snapshot.inventory_complete = true);
        let expected = Inventory {
            inventory_complete: Some(true),
            ..Inventory::default()
        };
        assert_eq!(told.inventory, Some(expected));
        assert!(!told.status);
        let told = news(|snapshot| {
            snapshot.capacity = Resources {
                gpus: 8,
                ..Resources::default()
            }
        });
        assert_eq!(told.inventory.unwrap().capacity.unwrap().gpus, 8);
        let told = news(|snapshot| snapshot.host.engine = Some(Default::default()));
        assert!(told.inventory.unwrap().host.is_some());
    }

    #[test]
    fn a_change_of_status_is_news_and_no_inventory() {
        let told = news(|snapshot| snapshot.status.draining = true);
        assert_eq!(
            told,
            News {
                inventory: None,
                status: true
            }
        );
    }

    #[test]
    fn records_and_free_space_are_no_news() {
        let told = news(|snapshot| {
            snapshot.generation = Generation(7);
            snapshot.occupied.cpus = 3.0;
            snapshot.host.disks[0].free_bytes = 1;
        });
        assert_eq!(told, News::default());
    }

    #[test]
    fn the_same_change_is_told_once() {
        let mut told = Told::by_hello(snapshot(|_| {}));
        let newer = snapshot(|snapshot| snapshot.status.rentable = true);
        assert!(told.news(Arc::clone(&newer)).status);
        assert_eq!(told.news(newer), News::default());
    }
}

//! The part of AMD's driver that programs compute with: who does, and which GPUs it joins directly.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use crate::gpu::{GpuProcess, sysfs, sysfs::SysFs};

const NODES: &str = "/sys/class/kfd/kfd/topology/nodes";
const PROCESSES: &str = "/sys/class/kfd/kfd/proc";

/// HSA_IOLINK_TYPE_XGMI.
const XGMI: u64 = 11;

/// Its view of the GPUs, by their PCI addresses.
#[derive(Debug, Default)]
pub(super) struct Kfd {
    /// Its own number of each.
    ids: BTreeMap<String, u64>,
    /// Pairs with a direct link.
    joined: BTreeSet<(String, String)>,
}

impl Kfd {
    pub(super) fn read(sysfs: &SysFs) -> Self {
        let folder = sysfs.path(NODES);
        let mut kfd = Self::default();
        let mut by_node = BTreeMap::new();
        for node in sysfs::names(&folder) {
            // Processors are nodes, too, with 0 for an id.
            let id = sysfs::number::<u64>(&folder.join(&node).join("gpu_id"));
            let Some(id) = id.filter(|id| *id != 0) else {
                continue;
            };
            let properties = properties(&folder.join(&node).join("properties"));
            if let Some(address) = address(&properties) {
                kfd.ids.insert(address.clone(), id);
                by_node.insert(node, address);
            }
        }
        for (node, here) in &by_node {
            let links = folder.join(node).join("io_links");
            for link in sysfs::names(&links) {
                let link = properties(&links.join(link).join("properties"));
                let to = link.get("node_to").map(u64::to_string);
                let there = to.and_then(|node| by_node.get(&node));
                if let (Some(&XGMI), Some(there)) = (link.get("type"), there) {
                    kfd.joined.insert((here.clone(), there.clone()));
                }
            }
        }
        kfd
    }

    /// A direct link, in either direction.
    pub(super) fn are_joined(&self, one: &str, other: &str) -> bool {
        let (one, other) = (one.to_owned(), other.to_owned());
        self.joined.contains(&(one.clone(), other.clone())) || self.joined.contains(&(other, one))
    }

    /// Who has some of its memory; `None` where that cannot be seen.
    pub(super) fn processes(&self, sysfs: &SysFs, address: &str) -> Option<Vec<GpuProcess>> {
        let id = self.ids.get(address)?;
        let folder = sysfs.path(PROCESSES);
        if !folder.is_dir() {
            return None;
        }
        let processes = sysfs::names(&folder).into_iter().filter_map(|name| {
            let pid = name.parse().ok()?;
            let memory = sysfs::number(&folder.join(&name).join(format!("vram_{id}")));
            let memory_bytes: u64 = memory.filter(|bytes| *bytes > 0)?;
            Some(GpuProcess {
                pid,
                name: sysfs::word(&sysfs.path(&format!("/proc/{pid}/comm"))),
                memory_bytes: Some(memory_bytes),
            })
        });
        Some(processes.collect())
    }
}

/// `name value` a line.
fn properties(path: &std::path::Path) -> BTreeMap<String, u64> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let pairs = text.lines().filter_map(|line| {
        let (name, value) = line.split_once(' ')?;
        Some((name.to_owned(), value.trim().parse().ok()?))
    });
    pairs.collect()
}

/// Bus, device and function are packed into one number.
fn address(properties: &BTreeMap<String, u64>) -> Option<String> {
    let place = properties.get("location_id")?;
    let domain = properties.get("domain").unwrap_or(&0);
    let (bus, device, function) = (place >> 8 & 0xff, place >> 3 & 0x1f, place & 7);
    Some(format!("{domain:04x}:{bus:02x}:{device:02x}.{function:x}"))
}

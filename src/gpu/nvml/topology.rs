//! How GPUs are connected, with each other and with processors.

use std::collections::BTreeSet;

use nvml_wrapper::{
    Device, enum_wrappers::device::TopologyLevel, struct_wrappers::device::PciInfo,
};

use crate::{
    gpu::{Found, sysfs},
    ids::GpuUuid,
    protocol::record::{GpuLink, LinkKind},
};

/// No GPU has more of NVIDIA's links.
const MAX_NVLINKS: u32 = 18;

/// NVIDIA's number as a maker of PCI devices.
const NVIDIA: u32 = 0x10de;

/// Bits of processors that the driver is asked for: 1,024.
const CPU_WORDS: usize = 16;

/// Fills in the links between these GPUs, which come in the same order in both lists.
pub(super) fn link(gpus: &mut [Found], devices: &[(u32, GpuUuid, Device<'_>)]) {
    let addresses: Vec<String> = gpus.iter().map(|gpu| gpu.gpu.pci_bus_id.clone()).collect();
    let ends: Vec<BTreeSet<String>> = match gpus.len() {
        0 | 1 => return,
        _ => devices.iter().map(|(.., device)| nvlinks(device)).collect(),
    };
    let places = || addresses.iter().zip(&ends).zip(devices);
    for (gpu, ((address, reached), (_, uuid, device))) in gpus.iter_mut().zip(places()) {
        let others = places().filter(|(_, (_, other, _))| other != uuid);
        let links = others.filter_map(|((other_address, others_reach), (_, other, there))| {
            let direct = reached.contains(other_address) || others_reach.contains(address);
            // Both are on the same switch, which joins all that are on it.
            let by_switch = || {
                let mut shared = reached.intersection(others_reach);
                shared.any(|end| !addresses.contains(end))
            };
            let kind = if direct || by_switch() {
                LinkKind::Nvlink
            } else {
                ancestor(device, there)?
            };
            Some(GpuLink {
                uuid: other.clone(),
                kind,
            })
        });
        gpu.gpu.links = links.collect();
    }
}

/// What is at the other ends of its links that are up: PCI addresses of GPUs and of NVIDIA's switches.
fn nvlinks(device: &Device<'_>) -> BTreeSet<String> {
    let links = (0..MAX_NVLINKS).map(|number| device.link_wrapper_for(number));
    let ends = links.filter_map(|link| {
        let up = link.is_active().ok()?;
        let end = up.then(|| link.remote_pci_info().ok())??;
        is_nvidia(&end).then(|| sysfs::pci_address(&end.bus_id))?
    });
    ends.collect()
}

/// The processors of some machines are at the ends of such links, too, and join nothing.
fn is_nvidia(end: &PciInfo) -> bool {
    end.pci_device_id & 0xffff == NVIDIA
}

fn ancestor(here: &Device<'_>, there: &Device<'_>) -> Option<LinkKind> {
    let level = here.nvml().topology_common_ancestor(here, there).ok()?;
    Some(match level {
        TopologyLevel::Internal | TopologyLevel::Single | TopologyLevel::Multiple => {
            LinkKind::PcieSwitch
        }
        TopologyLevel::HostBridge => LinkKind::HostBridge,
        TopologyLevel::Node => LinkKind::NumaNode,
        TopologyLevel::System => LinkKind::System,
    })
}

/// The processors that the driver finds near, where the system itself does not tell.
pub(super) fn cpus_near(device: &Device<'_>) -> Option<String> {
    let words = device.cpu_affinity(CPU_WORDS).ok()?;
    sysfs::cpu_list(words.into_iter())
}

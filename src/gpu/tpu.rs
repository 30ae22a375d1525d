//! Google's TPUs by what the system lists: PCI devices, and the files that programs open. There is no
//! driver to ask how they are, so a sample says only that they are there.

use std::path::Path;

use super::{Found, GpuProbe, ProbeError, Reading, sysfs, sysfs::SysFs};
use crate::{ids::GpuUuid, protocol::record::Gpu};

/// Google's number as a maker of PCI devices. It makes network cards and disks, too.
const GOOGLE: &str = "0x1ae0";

const GIB: u64 = 1 << 30;

/// By device number: model and memory. One number is of two models, which their subsystem tells apart.
const MODELS: &[(&str, &str, u64)] = &[
    ("0x005e", "Google TPU v4", 32 * GIB),
    ("0x0062", "Google TPU v5p", 95 * GIB),
    ("0x0063", "Google TPU v5e", 16 * GIB),
    ("0x006f", "Google TPU v6e", 32 * GIB),
];
const V2_OR_V3: &str = "0x0027";
const V3_SUBSYSTEM: &str = "0x004f";

const PCI: &str = "/sys/bus/pci/devices";

/// The host's TPUs.
#[derive(Debug)]
pub struct Tpu {
    sysfs: SysFs,
    /// As last listed.
    known: Vec<GpuUuid>,
}

impl Tpu {
    /// Looks below `root`, which is `/` but in tests.
    ///
    /// # Errors
    /// [`ProbeError::Absent`] on a host without TPUs.
    pub fn open(root: &Path) -> Result<Self, ProbeError> {
        let mut probe = Self {
            sysfs: SysFs::at(root),
            known: Vec::new(),
        };
        probe.inventory()?;
        Ok(probe)
    }

    fn found(&self, address: &str) -> Option<Found> {
        let device = self.sysfs.pci(address);
        if sysfs::word(&device.join("vendor"))? != GOOGLE {
            return None;
        }
        let number = sysfs::word(&device.join("device"))?;
        let (model, memory_bytes) = if number == V2_OR_V3 {
            let subsystem = sysfs::word(&device.join("subsystem_device"));
            match subsystem.as_deref() == Some(V3_SUBSYSTEM) {
                true => ("Google TPU v3", 32 * GIB),
                false => ("Google TPU v2", 16 * GIB),
            }
        } else {
            let (_, model, memory) = MODELS.iter().find(|(known, ..)| *known == number)?;
            (*model, *memory)
        };
        let gpu = Gpu {
            model: model.to_owned(),
            memory_bytes,
            pci_bus_id: address.to_owned(),
            driver_version: self.driver(address).unwrap_or_default(),
            numa_node: self.sysfs.numa_node(address),
            cpu_affinity: self.sysfs.cpus_near(address),
            ..Gpu::bare(format!("TPU-{address}").parse().ok()?, "google")
        };
        Some(Found {
            gpu,
            nodes: self.nodes(address),
        })
    }

    /// The driver that has it, and its version where it has one.
    fn driver(&self, address: &str) -> Option<String> {
        let link = self.sysfs.pci(address).join("driver").canonicalize().ok()?;
        let name = link.file_name()?.to_str()?.to_owned();
        let version = sysfs::word(&link.join("module/version"));
        Some(version.map_or(name.clone(), |version| format!("{name} {version}")))
    }

    /// `/dev/accel0` with the older driver, the file of its group with the newer one.
    fn nodes(&self, address: &str) -> Vec<String> {
        let device = self.sysfs.pci(address);
        let accel = sysfs::names(&device.join("accel"));
        let accel = accel
            .iter()
            .find(|name| sysfs::numbered(name, "accel").is_some());
        if let Some(name) = accel {
            return vec![format!("/dev/{name}")];
        }
        let group = device.join("iommu_group").canonicalize().ok();
        let group = group.and_then(|link| Some(link.file_name()?.to_str()?.to_owned()));
        let node = group.map(|group| format!("/dev/vfio/{group}"));
        match node.filter(|node| self.sysfs.path(node).exists()) {
            Some(node) => vec!["/dev/vfio/vfio".to_owned(), node],
            None => Vec::new(),
        }
    }
}

impl GpuProbe for Tpu {
    fn inventory(&mut self) -> Result<Vec<Found>, ProbeError> {
        let addresses = self.sysfs.names(PCI);
        let found = addresses.iter().filter_map(|address| self.found(address));
        let mut found: Vec<Found> = found.collect();
        if found.is_empty() {
            return Err(ProbeError::Absent(format!("no TPU in {PCI}")));
        }
        // The order of their addresses is the one in which programs number them.
        for (index, found) in (0..).zip(&mut found) {
            found.gpu.index = index;
        }
        self.known = found.iter().map(|found| found.gpu.uuid.clone()).collect();
        Ok(found)
    }

    fn sample(&mut self) -> Result<Vec<Reading>, ProbeError> {
        let there = self.known.iter().filter(|uuid| {
            let address = uuid.as_str().strip_prefix("TPU-").unwrap_or_default();
            self.sysfs.pci(address).exists()
        });
        Ok(there.cloned().map(Reading::of).collect())
    }
}

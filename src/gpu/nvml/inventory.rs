//! One GPU as the driver describes it.

use nvml_wrapper::{
    Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor, error::NvmlError,
};

use super::{failed, is_no_answer, line, said_of, topology, uuid_of};
use crate::{
    gpu::{Found, ProbeError, sysfs, sysfs::SysFs},
    ids::GpuUuid,
    protocol::record::{Gpu, Health, Mig, MigDevice},
};

/// A library that counts more partitions on one GPU is not believed.
const MAX_PARTITIONS: u32 = 64;

/// What all GPUs of the driver have in common.
pub(super) struct Driver {
    version: String,
    cuda: Option<String>,
}

impl Driver {
    pub(super) fn ask(nvml: &Nvml) -> Result<Self, ProbeError> {
        let version = nvml
            .sys_driver_version()
            .map_err(|error| failed("asking for the driver's version", &error))?;
        let cuda = nvml.sys_cuda_driver_version().ok().map(|version| {
            let (major, minor) = (
                cuda_driver_version_major(version),
                cuda_driver_version_minor(version),
            );
            format!("{major}.{minor}")
        });
        Ok(Self {
            version: line(&version, 80),
            cuda,
        })
    }

    /// The GPU, without its links.
    pub(super) fn found(
        &self,
        index: u32,
        uuid: &GpuUuid,
        device: &Device<'_>,
        sysfs: &SysFs,
    ) -> Found {
        let mut reasons = Vec::new();
        let pci_bus_id = told("PCI address", &mut reasons, device.pci_info())
            .map(|pci| sysfs::pci_address(&pci.bus_id).unwrap_or_else(|| line(&pci.bus_id, 40)))
            .unwrap_or_default();
        let gpu = Gpu {
            index,
            model: told("name", &mut reasons, device.name())
                .map_or_else(|| "unknown".to_owned(), |name| line(&name, 100)),
            memory_bytes: told("memory", &mut reasons, device.memory_info())
                .map_or(0, |memory| memory.total),
            driver_version: self.version.clone(),
            cuda_version: self.cuda.clone(),
            compute_capability: device
                .cuda_compute_capability()
                .ok()
                .map(|capability| format!("{}.{}", capability.major, capability.minor)),
            mig: mig(device),
            numa_node: sysfs.numa_node(&pci_bus_id),
            cpu_affinity: sysfs
                .cpus_near(&pci_bus_id)
                .or_else(|| topology::cpus_near(device)),
            health: if reasons.is_empty() {
                Health::Ok
            } else {
                Health::Failed
            },
            health_reasons: reasons,
            pci_bus_id,
            ..Gpu::bare(uuid.clone(), "nvidia")
        };
        let minor = device.minor_number().ok();
        let nodes = minor.map(|minor| format!("/dev/nvidia{minor}"));
        Found {
            gpu,
            nodes: nodes.into_iter().collect(),
        }
    }
}

/// `None` where the driver cannot divide it.
fn mig(device: &Device<'_>) -> Option<Mig> {
    let enabled = device.mig_mode().ok()?.current == 1;
    let places = if enabled {
        device.mig_device_count().unwrap_or(0).min(MAX_PARTITIONS)
    } else {
        0
    };
    // Most places are empty.
    let partitions = (0..places).filter_map(|place| {
        let partition = device.mig_device_by_index(place).ok()?;
        Some(MigDevice {
            uuid: uuid_of(&partition).ok()?,
            memory_bytes: partition.memory_info().ok().map(|memory| memory.total),
        })
    });
    Some(Mig {
        enabled,
        devices: partitions.collect(),
    })
}

/// What the driver answered; what it should have answered and did not is noted in `reasons`.
fn told<T>(what: &str, reasons: &mut Vec<String>, answer: Result<T, NvmlError>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        Err(error) if is_no_answer(&error) => None,
        Err(error) => {
            reasons.push(format!("{what}: {}", said_of(&error)));
            None
        }
    }
}

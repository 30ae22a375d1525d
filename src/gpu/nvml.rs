//! NVIDIA's GPUs by the driver's own library, loaded at run time. The only place that names NVML.
//!
//! Every call may block for ever (a GPU that fell off the bus, a driver in trouble), so a probe
//! lives on a thread of its own: `gpu::watch` gives it one. Symbols are resolved one by one, so what
//! an old driver lacks is merely absent.

use std::path::Path;

use nvml_wrapper::{
    Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor,
    enum_wrappers::device::TemperatureSensor, error::NvmlError,
};

use super::{Found, GpuProbe, ProbeError, Reading, Vitals};
use crate::{
    ids::GpuUuid,
    protocol::{
        message::GpuSample,
        record::{Gpu, Health},
        text::printable,
    },
};

/// What is loaded when the configuration names no library.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// No host has more; a library that says so is not believed.
const MAX_GPUS: u32 = 256;

/// The driver's library, loaded and initialised.
#[derive(Debug)]
pub struct NvmlProbe {
    nvml: Nvml,
}

impl NvmlProbe {
    /// Loads `library`, or the system's by the loader's search, and initialises it.
    ///
    /// # Errors
    /// [`ProbeError::Absent`] when there is no such library, [`ProbeError::Failed`] when it cannot be
    /// loaded or does not answer as it should.
    pub fn open(library: Option<&Path>) -> Result<Self, ProbeError> {
        let path = library.unwrap_or(Path::new(LIBRARY));
        let nvml = Nvml::builder()
            .lib_path(path.as_os_str())
            .init()
            .map_err(|error| opening(path, error))?;
        if nvml.lib().nvmlShutdown.is_err() {
            // Dropping it would call what is not there, which panics.
            std::mem::forget(nvml);
            return Err(ProbeError::Failed(format!(
                "{} has no nvmlShutdown: it is not NVIDIA's",
                path.display()
            )));
        }
        Ok(Self { nvml })
    }

    /// The GPUs that the driver hands out, by its index; one that it refuses is left out, and said.
    fn devices(&self) -> Result<Vec<(u32, Device<'_>)>, ProbeError> {
        let count = self
            .nvml
            .device_count()
            .map_err(|error| failed("counting the GPUs", &error))?;
        if count > MAX_GPUS {
            return Err(ProbeError::Failed(format!(
                "the driver counts {count} GPUs, which no host has"
            )));
        }
        let mut devices = Vec::new();
        let mut refused = None;
        for index in 0..count {
            match self.nvml.device_by_index(index) {
                Ok(device) => devices.push((index, device)),
                Err(error) => {
                    tracing::warn!(index, %error, "the driver does not hand out a GPU that it counts");
                    refused = Some(failed(&format!("GPU {index}"), &error));
                }
            }
        }
        match refused {
            // Half-initialised: that it shows none does not mean that there are none.
            Some(error) if devices.is_empty() => Err(error),
            _ => Ok(devices),
        }
    }
}

impl GpuProbe for NvmlProbe {
    fn inventory(&mut self) -> Result<Vec<Found>, ProbeError> {
        let driver_version = self
            .nvml
            .sys_driver_version()
            .map_err(|error| failed("asking for the driver's version", &error))?;
        let driver_version = line(&driver_version, 80);
        let cuda_version = self.nvml.sys_cuda_driver_version().ok().map(|version| {
            let (major, minor) = (
                cuda_driver_version_major(version),
                cuda_driver_version_minor(version),
            );
            format!("{major}.{minor}")
        });
        let gpus = self.devices()?.into_iter().filter_map(|(index, device)| {
            let uuid = uuid_of(index, &device)?;
            let mut reasons = Vec::new();
            let gpu = Gpu {
                index,
                model: told("name", &mut reasons, device.name())
                    .map_or_else(|| "unknown".to_owned(), |name| line(&name, 100)),
                memory_bytes: told("memory", &mut reasons, device.memory_info())
                    .map_or(0, |memory| memory.total),
                pci_bus_id: told("PCI address", &mut reasons, device.pci_info())
                    .map(|pci| line(&pci.bus_id, 40))
                    .unwrap_or_default(),
                driver_version: driver_version.clone(),
                cuda_version: cuda_version.clone(),
                compute_capability: device
                    .cuda_compute_capability()
                    .ok()
                    .map(|capability| format!("{}.{}", capability.major, capability.minor)),
                health: if reasons.is_empty() {
                    Health::Ok
                } else {
                    Health::Failed
                },
                health_reasons: reasons,
                ..Gpu::bare(uuid, "nvidia")
            };
            let minor = device.minor_number().ok();
            let nodes = minor.map(|minor| format!("/dev/nvidia{minor}"));
            Some(Found {
                gpu,
                nodes: nodes.into_iter().collect(),
            })
        });
        Ok(gpus.collect())
    }

    fn sample(&mut self) -> Result<Vec<Reading>, ProbeError> {
        let samples = self.devices()?.into_iter().filter_map(|(index, device)| {
            let sample = GpuSample {
                uuid: uuid_of(index, &device)?,
                memory_used_bytes: device.memory_info().ok().map(|memory| memory.used),
                utilization_percent: device
                    .utilization_rates()
                    .ok()
                    .map(|rates| f64::from(rates.gpu)),
                temperature_c: device
                    .temperature(TemperatureSensor::Gpu)
                    .ok()
                    .map(f64::from),
                power_w: device
                    .power_usage()
                    .ok()
                    .map(|milliwatts| f64::from(milliwatts) / 1000.0),
            };
            Some(Reading {
                sample,
                processes: None,
                vitals: Vitals::default(),
            })
        });
        Ok(samples.collect())
    }
}

/// A GPU without a name that can be passed on cannot be rented out, so it is left out, and said.
fn uuid_of(index: u32, device: &Device<'_>) -> Option<GpuUuid> {
    let uuid = match device.uuid() {
        Ok(text) => text.parse::<GpuUuid>().map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    uuid.inspect_err(
        |error| tracing::warn!(index, %error, "a GPU without a usable UUID is ignored"),
    )
    .ok()
}

/// What the driver answered; what it should have answered and did not is noted in `reasons`.
fn told<T>(what: &str, reasons: &mut Vec<String>, answer: Result<T, NvmlError>) -> Option<T> {
    match answer {
        Ok(value) => Some(value),
        // An older driver, or a GPU that has no such thing.
        Err(NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_)) => None,
        Err(error) => {
            reasons.push(format!("{what}: {}", line(&error.to_string(), 200)));
            None
        }
    }
}

fn opening(path: &Path, error: NvmlError) -> ProbeError {
    let path = path.display();
    // The loader tells why only in words; these are the operating system's.
    let words = error.to_string();
    if matches!(error, NvmlError::LibloadingError(_)) && words.contains("No such file") {
        return ProbeError::Absent(format!("{path} not found: no NVIDIA driver on this host"));
    }
    failed(&format!("initialising {path}"), &error)
}

fn failed(what: &str, error: &NvmlError) -> ProbeError {
    ProbeError::Failed(format!("{what}: {}", line(&error.to_string(), 300)))
}

/// Foreign text as one printable line of at most `max` characters.
fn line(text: &str, max: usize) -> String {
    printable(&text.replace(['\n', '\t'], " "), max)
}

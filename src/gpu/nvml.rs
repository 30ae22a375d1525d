//! NVIDIA's GPUs by the driver's own library, loaded at run time. With the files below it the only
//! place that names NVML.
//!
//! Every call may block for ever (a GPU that fell off the bus, a driver in trouble), so a probe
//! lives on a thread of its own: `gpu::watch` gives it one. Symbols are resolved one by one, so what
//! an old driver lacks is merely absent.

mod inventory;
mod library;
mod reading;
mod topology;
pub mod xid;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use nvml_wrapper::{Device, Nvml, error::NvmlError};

use self::library::LoadedFile;
use super::{Found, GpuProbe, ProbeError, Reading, sysfs::SysFs};
use crate::{
    ids::GpuUuid,
    protocol::{record::Health, text::printable},
};

/// What is loaded when the configuration names no library.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// No host has more; a library that says so is not believed.
const MAX_GPUS: u32 = 256;

/// How the driver is asked.
#[derive(Debug, Clone, Default)]
pub struct Asking {
    /// The library; unset: `libnvidia-ml.so.1` by the loader's search.
    pub library: Option<PathBuf>,
    /// The processes of the host can be seen from here. Else the driver lists none, which does not
    /// mean that there are none.
    pub sees_processes: bool,
}

/// The driver's library, loaded and initialised.
#[derive(Debug)]
pub struct NvmlProbe {
    nvml: Nvml,
    file: Option<LoadedFile>,
    sees_processes: bool,
    sysfs: SysFs,
    /// What was listed at each index: a GPU that the driver refuses later is still known by it.
    listed: BTreeMap<u32, Found>,
    /// What the driver said of GPUs that it does not hand out.
    refused: BTreeMap<u32, String>,
}

impl NvmlProbe {
    /// Loads the library and initialises it.
    ///
    /// # Errors
    /// [`ProbeError::Absent`] when there is no such library, [`ProbeError::Unloadable`] when it is
    /// none, [`ProbeError::Failed`] when it does not answer as it should.
    pub fn open(asking: &Asking) -> Result<Self, ProbeError> {
        let nvml = load(asking.library.as_deref())?;
        Ok(Self {
            file: LoadedFile::find(asking.library.as_deref()),
            nvml,
            sees_processes: asking.sees_processes,
            sysfs: SysFs::default(),
            listed: BTreeMap::new(),
            refused: BTreeMap::new(),
        })
    }

    /// How many GPUs the driver counts.
    fn count(&self) -> Result<u32, ProbeError> {
        count(&self.nvml)
    }
}

impl GpuProbe for NvmlProbe {
    fn inventory(&mut self) -> Result<Vec<Found>, ProbeError> {
        if self.file.as_ref().is_some_and(LoadedFile::is_replaced) {
            // The old one may go on answering for the driver that it came with, while every
            // container that is started gets the new one.
            return Err(ProbeError::Failed(
                "the driver's library on this host was replaced; it is loaded anew".to_owned(),
            ));
        }
        let driver = inventory::Driver::ask(&self.nvml)?;
        let mut devices = Vec::new();
        let mut refused = BTreeMap::new();
        for index in 0..self.count()? {
            match self.nvml.device_by_index(index).map_err(said) {
                Ok(device) => match uuid_of(&device) {
                    Ok(uuid) => devices.push((index, uuid, device)),
                    Err(why) => drop(refused.insert(index, why)),
                },
                Err(why) => drop(refused.insert(index, why)),
            }
        }
        let mut gpus: Vec<Found> = devices
            .iter()
            .map(|(index, uuid, device)| driver.found(*index, uuid, device, &self.sysfs))
            .collect();
        topology::link(&mut gpus, &devices);
        let lost = refused.iter().filter_map(|(index, why)| {
            let known = self.listed.get(index)?;
            let elsewhere = gpus.iter().any(|gpu| gpu.gpu.uuid == known.gpu.uuid);
            (!elsewhere).then(|| lost(known, why))
        });
        let lost: Vec<Found> = lost.collect();
        gpus.extend(lost);
        for gpu in &gpus {
            self.listed.insert(gpu.gpu.index, gpu.clone());
        }
        if refused != self.refused {
            for (index, why) in &refused {
                tracing::warn!(
                    index,
                    why,
                    "the driver does not hand out a GPU that it counts"
                );
            }
            self.refused = refused;
        }
        match self.trouble() {
            // Half-initialised: that it shows none does not mean that there are none.
            Some(trouble) if gpus.is_empty() => Err(ProbeError::Failed(trouble)),
            _ => Ok(gpus),
        }
    }

    fn sample(&mut self) -> Result<Vec<Reading>, ProbeError> {
        let readings = (0..self.count()?).filter_map(|index| {
            let device = self.nvml.device_by_index(index).ok()?;
            let uuid = uuid_of(&device).ok()?;
            Some(reading::of(uuid, &device, self.sees_processes))
        });
        Ok(readings.collect())
    }

    fn trouble(&self) -> Option<String> {
        let refused = self.refused.iter();
        let refused: Vec<String> = refused
            .map(|(index, why)| format!("GPU {index}: {why}"))
            .collect();
        (!refused.is_empty()).then(|| refused.join("; "))
    }
}

fn load(library: Option<&Path>) -> Result<Nvml, ProbeError> {
    let path = library.unwrap_or(Path::new(LIBRARY));
    let nvml = Nvml::builder()
        .lib_path(path.as_os_str())
        .init()
        .map_err(|error| opening(path, &error))?;
    if nvml.lib().nvmlShutdown.is_err() {
        // Dropping it would call what is not there, which panics.
        std::mem::forget(nvml);
        return Err(ProbeError::Unloadable(format!(
            "{} has no nvmlShutdown: it is not NVIDIA's",
            path.display()
        )));
    }
    Ok(nvml)
}

fn count(nvml: &Nvml) -> Result<u32, ProbeError> {
    let count = nvml
        .device_count()
        .map_err(|error| failed("counting the GPUs", &error))?;
    if count > MAX_GPUS {
        return Err(ProbeError::Failed(format!(
            "the driver counts {count} GPUs, which no host has"
        )));
    }
    Ok(count)
}

/// A GPU without a name that can be passed on cannot be rented out.
fn uuid_of(device: &Device<'_>) -> Result<GpuUuid, String> {
    let text = device.uuid().map_err(said)?;
    text.parse()
        .map_err(|_| format!("`{}` is no UUID", line(&text, 100)))
}

fn lost(known: &Found, why: &str) -> Found {
    let mut lost = known.clone();
    lost.gpu.health = Health::Failed;
    lost.gpu.health_reasons = vec![why.to_owned()];
    lost
}

/// What a GPU has by nature: an older driver, a GPU that has no such thing, or one that is divided
/// and tells only those who may see all parts.
fn is_no_answer(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::NotSupported | NvmlError::FailedToLoadSymbol(_) | NvmlError::NoPermission
    )
}

fn opening(path: &Path, error: &NvmlError) -> ProbeError {
    let shown = path.display();
    let what = format!("loading {shown}: {}", said_of(error));
    if !matches!(error, NvmlError::LibloadingError(_)) {
        return failed(&format!("initialising {shown}"), error);
    }
    // The loader tells why only in words; these are the operating system's.
    if error.to_string().contains("No such file") {
        return ProbeError::Absent(format!("{shown} not found: no NVIDIA driver on this host"));
    }
    ProbeError::Unloadable(what)
}

fn failed(what: &str, error: &NvmlError) -> ProbeError {
    ProbeError::Failed(format!("{what}: {}", said_of(error)))
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: NvmlError) -> String {
    said_of(&error)
}

fn said_of(error: &NvmlError) -> String {
    line(&error.to_string(), 300)
}

/// Foreign text as one printable line of at most `max` characters.
fn line(text: &str, max: usize) -> String {
    printable(&text.replace(['\n', '\t'], " "), max)
}

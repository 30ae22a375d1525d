//! AMD's GPUs by the files of their driver, `amdgpu`, below `/sys`.

mod kfd;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use self::kfd::Kfd;
use super::{Found, GpuProbe, ProbeError, Reading, Vitals, sysfs, sysfs::SysFs};
use crate::{
    ids::GpuUuid,
    protocol::{
        message::GpuSample,
        record::{Gpu, GpuLink, LinkKind},
    },
};

/// With less memory of its own it is part of a processor, and nobody rents that.
const LEAST_BYTES: u64 = 3 << 30;

/// AMD's number as a maker of PCI devices.
const AMD: &str = "0x1002";

const CARDS: &str = "/sys/class/drm";

/// The cards that the driver has.
#[derive(Debug)]
pub struct Amd {
    sysfs: SysFs,
    sees_processes: bool,
    /// Cards as last listed.
    cards: BTreeMap<GpuUuid, Card>,
    /// Cards that the driver does not serve.
    without_driver: Vec<String>,
}

#[derive(Debug, Clone)]
struct Card {
    /// `/sys/class/drm/card0/device`, at its real place.
    device: PathBuf,
    address: String,
}

impl Amd {
    /// Looks below `root`, which is `/` but in tests.
    ///
    /// # Errors
    /// [`ProbeError::Absent`] on a host without such cards, [`ProbeError::Failed`] where there are
    /// some and the driver has none of them.
    pub fn open(root: &Path, sees_processes: bool) -> Result<Self, ProbeError> {
        let mut probe = Self {
            sysfs: SysFs::at(root),
            sees_processes,
            cards: BTreeMap::new(),
            without_driver: Vec::new(),
        };
        probe.inventory()?;
        Ok(probe)
    }

    /// The card of that name, if it is AMD's.
    fn card(&self, name: &str) -> Option<Card> {
        sysfs::numbered(name, "card")?;
        let link = self.sysfs.path(CARDS).join(name).join("device");
        let device = link.canonicalize().ok()?;
        (sysfs::word(&device.join("vendor"))? == AMD).then(|| {
            let address = device.file_name()?.to_str()?.to_owned();
            Some(Card { device, address })
        })?
    }

    fn found(&self, index: u32, card: &Card) -> Option<Found> {
        let device = &card.device;
        // The driver's own file: without it, another one or none has the card.
        let memory_bytes = sysfs::number(&device.join("mem_info_vram_total"))?;
        if memory_bytes < LEAST_BYTES {
            return None;
        }
        let id = sysfs::word(&device.join("unique_id")).filter(|id| id.bytes().any(|b| b != b'0'));
        let uuid = format!("GPU-{}", id.as_deref().unwrap_or(&card.address));
        let model = sysfs::word(&device.join("product_name")).unwrap_or_else(|| {
            let number = sysfs::word(&device.join("device"));
            format!("AMD {}", number.as_deref().unwrap_or("GPU"))
        });
        let gpu = Gpu {
            index,
            model,
            memory_bytes,
            pci_bus_id: card.address.clone(),
            driver_version: self.driver_version(),
            numa_node: self.sysfs.numa_node(&card.address),
            cpu_affinity: self.sysfs.cpus_near(&card.address),
            ..Gpu::bare(uuid.parse().ok()?, "amd")
        };
        // What computes opens both.
        let render = sysfs::names(&device.join("drm"));
        let render = render.iter().filter(|name| name.starts_with("renderD"));
        let render = render.map(|name| format!("/dev/dri/{name}"));
        Some(Found {
            gpu,
            nodes: ["/dev/kfd".to_owned()].into_iter().chain(render).collect(),
        })
    }

    /// The driver that comes with Linux has no version of its own.
    fn driver_version(&self) -> String {
        let own = sysfs::word(&self.sysfs.path("/sys/module/amdgpu/version"));
        own.or_else(|| {
            let linux = sysfs::word(&self.sysfs.path("/proc/sys/kernel/osrelease"))?;
            Some(format!("linux {linux}"))
        })
        .unwrap_or_default()
    }

    fn link(&self, gpus: &mut [Found], kfd: &Kfd) {
        let names: Vec<(GpuUuid, String)> = gpus
            .iter()
            .map(|found| (found.gpu.uuid.clone(), found.gpu.pci_bus_id.clone()))
            .collect();
        for found in gpus {
            let here = &found.gpu.pci_bus_id;
            let others = names.iter().filter(|(_, address)| address != here);
            let links = others.map(|(uuid, there)| GpuLink {
                uuid: uuid.clone(),
                kind: match kfd.are_joined(here, there) {
                    true => LinkKind::Nvlink,
                    false => self.sysfs.link(here, there),
                },
            });
            found.gpu.links = links.collect();
        }
    }
}

impl GpuProbe for Amd {
    fn inventory(&mut self) -> Result<Vec<Found>, ProbeError> {
        let names = self.sysfs.names(CARDS);
        let mut cards: Vec<Card> = names.iter().filter_map(|name| self.card(name)).collect();
        if cards.is_empty() {
            return Err(ProbeError::Absent(format!("no AMD GPU in {CARDS}")));
        }
        cards.sort_by(|one, other| one.address.cmp(&other.address));
        self.without_driver.clear();
        self.cards.clear();
        let mut gpus = Vec::new();
        for (index, card) in (0..).zip(cards) {
            match self.found(index, &card) {
                Some(found) => {
                    self.cards.insert(found.gpu.uuid.clone(), card);
                    gpus.push(found);
                }
                None => self.without_driver.push(card.address),
            }
        }
        let kfd = Kfd::read(&self.sysfs);
        self.link(&mut gpus, &kfd);
        match self.trouble() {
            Some(trouble) if gpus.is_empty() => Err(ProbeError::Failed(trouble)),
            _ => Ok(gpus),
        }
    }

    fn sample(&mut self) -> Result<Vec<Reading>, ProbeError> {
        let kfd = Kfd::read(&self.sysfs);
        let there = self.cards.iter().filter(|(_, card)| card.device.exists());
        let readings = there.map(|(uuid, card)| Reading {
            processes: self
                .sees_processes
                .then(|| kfd.processes(&self.sysfs, &card.address))
                .flatten(),
            ..reading(uuid, &card.device)
        });
        Ok(readings.collect())
    }

    fn trouble(&self) -> Option<String> {
        let without = self.without_driver.join(", ");
        (!without.is_empty()).then(|| format!("the driver amdgpu does not have {without}"))
    }
}

fn reading(uuid: &GpuUuid, device: &Path) -> Reading {
    let sensors = sensors(device);
    let sensor = |name: &str| sysfs::number::<f64>(&sensors.as_ref()?.join(name));
    let power = sensor("power1_average").or_else(|| sensor("power1_input"));
    let sample = GpuSample {
        uuid: uuid.clone(),
        memory_used_bytes: sysfs::number(&device.join("mem_info_vram_used")),
        utilization_percent: sysfs::number(&device.join("gpu_busy_percent")),
        temperature_c: sensor("temp1_input").map(|millidegrees| millidegrees / 1_000.0),
        power_w: power.map(|microwatts| microwatts / 1_000_000.0),
    };
    let fan = sensors
        .as_ref()
        .and_then(|sensors| sysfs::number::<u32>(&sensors.join("pwm1")));
    let vitals = Vitals {
        ecc_uncorrected_volatile: uncorrected(device),
        // Of 255.
        fan_percent: fan.map(|fan| fan.min(255) * 100 / 255),
        pcie_generation: pair(device, "link_speed", generation),
        pcie_width: pair(device, "link_width", |text| text.parse().ok()),
        ..Vitals::default()
    };
    Reading {
        sample,
        processes: None,
        vitals,
    }
}

fn sensors(device: &Path) -> Option<PathBuf> {
    let folder = device.join("hwmon");
    let name = sysfs::names(&folder).into_iter().next()?;
    Some(folder.join(name))
}

/// Errors of its memory that could not be corrected, since the driver was loaded: `ue: 0`.
fn uncorrected(device: &Path) -> Option<u64> {
    let counts = fs::read_to_string(device.join("ras/umc_err_count")).ok()?;
    let mut lines = counts.lines();
    lines.find_map(|line| line.strip_prefix("ue:")?.trim().parse().ok())
}

fn pair(device: &Path, what: &str, read: fn(&str) -> Option<u32>) -> Option<(u32, u32)> {
    let value = |name: &str| read(&sysfs::word(&device.join(format!("{name}_{what}")))?);
    Some((value("current")?, value("max")?))
}

/// `16.0 GT/s PCIe` is the fourth.
fn generation(speed: &str) -> Option<u32> {
    let speeds = [
        ("2.5", 1),
        ("5", 2),
        ("8", 3),
        ("16", 4),
        ("32", 5),
        ("64", 6),
    ];
    let word = speed.split(' ').next()?;
    let word = word.strip_suffix(".0").unwrap_or(word);
    let found = speeds.iter().find(|(speed, _)| *speed == word)?;
    Some(found.1)
}

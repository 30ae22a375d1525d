//! AMD's GPUs and Google's TPUs by the files of the system, in a folder that stands for its root.

use std::{fs, os::unix::fs::symlink, path::Path};

use rental_agent::{
    gpu::{GpuProbe, GpuProcess, ProbeError, amd::Amd, tpu::Tpu},
    protocol::record::{Gpu, LinkKind},
};
use tempfile::TempDir;

/// A host's files.
struct Root(TempDir);

impl Root {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn link(&self, path: &str, target: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(self.path().join(target), path).unwrap();
    }

    /// A PCI device at `place` below `sys/devices`, with these files.
    fn device(&self, place: &str, files: &[(&str, &str)]) {
        let device = format!("sys/devices/{place}");
        for (name, text) in files {
            self.write(&format!("{device}/{name}"), text);
        }
        let address = place.rsplit('/').next().unwrap();
        self.link(&format!("sys/bus/pci/devices/{address}"), &device);
    }
}

const MI300X: &str = "pci0000:05/0000:05:00.0/0000:06:00.0/0000:07:00.0";
const RADEON: &str = "pci0000:40/0000:40:01.1/0000:41:00.0";

/// An accelerator of a data centre, and a gaming card that tells less.
fn two_cards() -> Root {
    let root = Root::new();
    root.device(
        MI300X,
        &[
            ("vendor", "0x1002"),
            ("device", "0x74a1"),
            ("unique_id", "94ab5f00e3d0c1a2"),
            ("product_name", "AMD Instinct MI300X OAM"),
            ("mem_info_vram_total", "206141652992"),
            ("mem_info_vram_used", "297295872"),
            ("gpu_busy_percent", "93"),
            ("numa_node", "1"),
            ("local_cpulist", "48-95,144-191"),
            ("current_link_speed", "32.0 GT/s PCIe"),
            ("max_link_speed", "32.0 GT/s PCIe"),
            ("current_link_width", "16"),
            ("max_link_width", "16"),
            ("ras/umc_err_count", "ue: 2\nce: 7"),
            ("drm/renderD129/dev", "226:129"),
            ("drm/card1/dev", "226:1"),
            ("hwmon/hwmon5/temp1_input", "51000"),
            ("hwmon/hwmon5/power1_input", "143000000"),
        ],
    );
    root.device(
        RADEON,
        &[
            ("vendor", "0x1002"),
            ("device", "0x744c"),
            ("unique_id", "0"),
            ("mem_info_vram_total", "25753026560"),
            ("mem_info_vram_used", "27107328"),
            ("gpu_busy_percent", "0"),
            ("numa_node", "-1"),
            ("current_link_speed", "2.5 GT/s PCIe"),
            ("max_link_speed", "16.0 GT/s PCIe"),
            ("current_link_width", "8"),
            ("max_link_width", "16"),
            ("drm/renderD128/dev", "226:128"),
            ("hwmon/hwmon3/temp1_input", "38000"),
            ("hwmon/hwmon3/power1_average", "15500000"),
            ("hwmon/hwmon3/pwm1", "102"),
        ],
    );
    // Another vendor's, and a connector, which is no card.
    root.device("pci0000:00/0000:00:02.0", &[("vendor", "0x8086")]);
    for (name, place) in [
        ("card0", RADEON),
        ("card1", MI300X),
        ("card2", "pci0000:00/0000:00:02.0"),
        ("card0-HDMI-A-1", RADEON),
    ] {
        root.link(
            &format!("sys/class/drm/{name}/device"),
            &format!("sys/devices/{place}"),
        );
    }
    root.write("sys/module/amdgpu/version", "6.8.5");
    root
}

#[test]
fn amds_cards_are_listed_in_the_order_of_their_addresses() {
    let root = two_cards();
    let gpus = Amd::open(root.path(), true).unwrap().inventory().unwrap();
    let mut gpu = gpus[0].gpu.clone();
    assert_eq!(std::mem::take(&mut gpu.links)[0].kind, LinkKind::System);
    assert_eq!(
        gpu,
        Gpu {
            index: 0,
            model: "AMD Instinct MI300X OAM".to_owned(),
            memory_bytes: 206_141_652_992,
            pci_bus_id: "0000:07:00.0".to_owned(),
            driver_version: "6.8.5".to_owned(),
            numa_node: Some(1),
            cpu_affinity: Some("48-95,144-191".to_owned()),
            ..Gpu::bare("GPU-94ab5f00e3d0c1a2".parse().unwrap(), "amd")
        }
    );
    assert_eq!(gpus[0].nodes, ["/dev/kfd", "/dev/dri/renderD129"]);
    let gpu = &gpus[1].gpu;
    // It has no number of its own, so its place is its name.
    assert_eq!(gpu.uuid.as_str(), "GPU-0000:41:00.0");
    assert_eq!((gpu.index, gpu.model.as_str()), (1, "AMD 0x744c"));
    assert_eq!((gpu.numa_node, gpu.cpu_affinity.clone()), (None, None));
    assert_eq!(gpus[1].nodes, ["/dev/kfd", "/dev/dri/renderD128"]);
    assert_eq!(gpus.len(), 2);
}

#[test]
fn amds_cards_are_measured() {
    let root = two_cards();
    let readings = Amd::open(root.path(), true).unwrap().sample().unwrap();
    let of = |uuid: &str| {
        let mut readings = readings.iter();
        readings
            .find(|reading| reading.sample.uuid.as_str() == uuid)
            .unwrap()
    };
    let large = of("GPU-94ab5f00e3d0c1a2");
    assert_eq!(large.sample.memory_used_bytes, Some(297_295_872));
    assert_eq!(large.sample.utilization_percent, Some(93.0));
    assert_eq!(large.sample.temperature_c, Some(51.0));
    assert_eq!(large.sample.power_w, Some(143.0));
    assert_eq!(large.vitals.ecc_uncorrected_volatile, Some(2));
    assert_eq!(large.vitals.pcie_generation, Some((5, 5)));
    assert_eq!(large.vitals.fan_percent, None);
    assert_eq!(large.processes, None, "nobody tells");
    let small = of("GPU-0000:41:00.0");
    assert_eq!(small.sample.power_w, Some(15.5));
    assert_eq!(small.vitals.ecc_uncorrected_volatile, None);
    assert_eq!(small.vitals.pcie_generation, Some((1, 4)));
    assert_eq!(small.vitals.pcie_width, Some((8, 16)));
    assert_eq!(small.vitals.fan_percent, Some(40));
}

#[test]
fn amds_driver_tells_who_computes_and_which_cards_it_joins() {
    let root = two_cards();
    let nodes = "sys/class/kfd/kfd/topology/nodes";
    // A processor, and the two cards.
    root.write(&format!("{nodes}/0/gpu_id"), "0");
    for (node, id, place, other) in [("1", "5125", 0x700, 2), ("2", "60313", 0x4100, 1)] {
        root.write(&format!("{nodes}/{node}/gpu_id"), id);
        let properties = format!("simd_count 304\nlocation_id {place}\ndomain 0");
        root.write(&format!("{nodes}/{node}/properties"), &properties);
        let link = format!("type 11\nnode_from {node}\nnode_to {other}");
        root.write(&format!("{nodes}/{node}/io_links/1/properties"), &link);
        root.write(
            &format!("{nodes}/{node}/io_links/0/properties"),
            "type 2\nnode_to 0",
        );
    }
    root.write("sys/class/kfd/kfd/proc/4711/vram_5125", "1073741824");
    root.write("sys/class/kfd/kfd/proc/4711/vram_60313", "0");
    root.write("proc/4711/comm", "python3");
    let mut probe = Amd::open(root.path(), true).unwrap();
    let gpus = probe.inventory().unwrap();
    assert!(
        gpus.iter()
            .all(|gpu| gpu.gpu.links[0].kind == LinkKind::Nvlink)
    );
    let readings = probe.sample().unwrap();
    let on = |uuid: &str| {
        let mut readings = readings.iter();
        let found = readings.find(|reading| reading.sample.uuid.as_str() == uuid);
        found.unwrap().processes.clone()
    };
    let process = GpuProcess {
        pid: 4711,
        name: Some("python3".to_owned()),
        memory_bytes: Some(1 << 30),
    };
    assert_eq!(on("GPU-94ab5f00e3d0c1a2"), Some(vec![process]));
    assert_eq!(on("GPU-0000:41:00.0"), Some(vec![]));
    let blind = Amd::open(root.path(), false).unwrap().sample().unwrap();
    assert!(blind.iter().all(|reading| reading.processes.is_none()));
}

#[test]
fn a_card_that_amds_driver_does_not_have_is_trouble_and_no_gpu() {
    let root = two_cards();
    let memory = root
        .path()
        .join("sys/devices")
        .join(RADEON)
        .join("mem_info_vram_total");
    fs::remove_file(memory).unwrap();
    let mut probe = Amd::open(root.path(), true).unwrap();
    assert_eq!(probe.inventory().unwrap().len(), 1);
    let trouble = probe.trouble().unwrap();
    assert_eq!(trouble, "the driver amdgpu does not have 0000:41:00.0");
}

#[test]
fn a_card_that_is_gone_is_not_measured() {
    let root = two_cards();
    let mut probe = Amd::open(root.path(), true).unwrap();
    assert_eq!(probe.sample().unwrap().len(), 2);
    fs::remove_dir_all(root.path().join("sys/devices").join(RADEON)).unwrap();
    assert_eq!(probe.sample().unwrap().len(), 1);
    assert_eq!(probe.inventory().unwrap().len(), 1);
}

#[test]
fn a_host_without_such_devices_says_so() {
    let root = Root::new();
    let amd = Amd::open(root.path(), true).unwrap_err();
    assert_eq!(
        amd,
        ProbeError::Absent("no AMD GPU in /sys/class/drm".to_owned())
    );
    let tpu = Tpu::open(root.path()).unwrap_err();
    assert_eq!(
        tpu,
        ProbeError::Absent("no TPU in /sys/bus/pci/devices".to_owned())
    );
}

#[test]
fn tpus_are_found_by_their_numbers_with_the_files_of_either_driver() {
    let root = Root::new();
    let google = |device: &'static str| [("vendor", "0x1ae0"), ("device", device)];
    root.device("pci0000:00/0000:00:04.0", &google("0x0063"));
    root.write(
        "sys/devices/pci0000:00/0000:00:04.0/accel/accel0/dev",
        "121:0",
    );
    root.device("pci0000:00/0000:00:05.0", &google("0x006f"));
    root.link(
        "sys/devices/pci0000:00/0000:00:05.0/iommu_group",
        "sys/kernel/iommu_groups/7",
    );
    fs::create_dir_all(root.path().join("sys/kernel/iommu_groups/7")).unwrap();
    root.write("dev/vfio/7", "");
    root.device("pci0000:00/0000:00:06.0", &google("0x0027"));
    root.write(
        "sys/devices/pci0000:00/0000:00:06.0/subsystem_device",
        "0x004f",
    );
    // Google's network card.
    root.device("pci0000:00/0000:00:07.0", &google("0x0042"));
    let mut probe = Tpu::open(root.path()).unwrap();
    let gpus = probe.inventory().unwrap();
    let seen: Vec<_> = gpus
        .iter()
        .map(|found| {
            let gpu = &found.gpu;
            let nodes = found.nodes.join(" ");
            (
                gpu.index,
                gpu.uuid.as_str(),
                gpu.model.as_str(),
                gpu.memory_bytes >> 30,
                nodes,
            )
        })
        .collect();
    let nodes = ["/dev/accel0", "/dev/vfio/vfio /dev/vfio/7", ""].map(str::to_owned);
    let [accel, vfio, none] = nodes;
    assert_eq!(
        seen,
        [
            (0, "TPU-0000:00:04.0", "Google TPU v5e", 16, accel),
            (1, "TPU-0000:00:05.0", "Google TPU v6e", 32, vfio),
            (2, "TPU-0000:00:06.0", "Google TPU v3", 32, none),
        ]
    );
    assert_eq!(probe.sample().unwrap().len(), 3);
    fs::remove_file(root.path().join("sys/bus/pci/devices/0000:00:04.0")).unwrap();
    assert_eq!(probe.sample().unwrap().len(), 2);
}

//! NVIDIA's GPUs by what nvidia-smi prints, by a script that prints what stands for its output.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use rental_agent::gpu::{
    Found, GpuProbe, GpuProcess, ProbeError, Reading,
    nvidia_smi::{Asking, NvidiaSmi},
};
use tempfile::TempDir;

/// A program called nvidia-smi.
struct Tool {
    path: PathBuf,
    folder: TempDir,
}

impl Tool {
    fn new(script: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("nvidia-smi");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self { path, folder }
    }

    /// One that prints what the files of a card hold.
    fn of(card: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/nvidia-smi");
        let folder = folder.join(card);
        let folder = folder.display();
        Self::new(&format!(
            "case $1 in
               --query-gpu=index,*) cat {folder}/gpu.csv ;;
               --query-gpu=uuid,*) cat {folder}/sample.csv ;;
               --query-compute-apps=*) cat {folder}/apps.csv ;;
               *) exit 1 ;;
             esac"
        ))
    }

    fn open(&self) -> Result<NvidiaSmi, ProbeError> {
        NvidiaSmi::open(&Asking {
            tool: Some(self.path.clone()),
            sees_processes: true,
        })
    }

    fn read(&self) -> (Vec<Found>, Vec<Reading>) {
        let mut opened = self.open().unwrap();
        (opened.inventory().unwrap(), opened.sample().unwrap())
    }
}

#[test]
fn cards_are_listed_as_the_tool_prints_them() {
    for (card, model, mib, address, driver, capability) in [
        (
            "rtx-3090",
            "NVIDIA GeForce RTX 3090",
            24_576,
            "0000:0b:00.0",
            "535.183.01",
            "8.6",
        ),
        (
            "rtx-4090",
            "NVIDIA GeForce RTX 4090",
            24_564,
            "0000:01:00.0",
            "550.120",
            "8.9",
        ),
        (
            "a100-80gb-mig",
            "NVIDIA A100-SXM4-80GB",
            81_920,
            "0000:07:00.0",
            "525.147.05",
            "8.0",
        ),
        (
            "h100",
            "NVIDIA H100 80GB HBM3",
            81_559,
            "0000:19:00.0",
            "570.133.20",
            "9.0",
        ),
        (
            "t4",
            "Tesla T4",
            15_360,
            "0000:00:1e.0",
            "470.256.02",
            "7.5",
        ),
        (
            "l40s-sick",
            "NVIDIA L40S",
            46_068,
            "0000:c1:00.0",
            "560.35.03",
            "8.9",
        ),
    ] {
        let (gpus, readings) = Tool::of(card).read();
        let gpu = &gpus[0].gpu;
        assert_eq!(gpu.model, model);
        assert_eq!(gpu.memory_bytes, mib << 20, "{card}");
        assert_eq!(gpu.pci_bus_id, address);
        assert_eq!(gpu.driver_version, driver);
        assert_eq!(gpu.compute_capability.as_deref(), Some(capability));
        assert_eq!(gpu.vendor, "nvidia");
        let names = |gpu: &Found| gpu.gpu.uuid.clone();
        let read: Vec<_> = readings
            .iter()
            .map(|reading| reading.sample.uuid.clone())
            .collect();
        assert_eq!(gpus.iter().map(names).collect::<Vec<_>>(), read, "{card}");
    }
}

#[test]
fn measurements_are_read_and_what_is_none_is_absent() {
    let (_, readings) = Tool::of("rtx-4090").read();
    let busy = &readings[0];
    assert_eq!(busy.sample.memory_used_bytes, Some(20_417 << 20));
    assert_eq!(busy.sample.utilization_percent, Some(100.0));
    assert_eq!(busy.sample.temperature_c, Some(71.0));
    assert_eq!(busy.sample.power_w, Some(431.87));
    assert_eq!(busy.vitals.fan_percent, Some(62));
    assert_eq!(busy.vitals.ecc_uncorrected_volatile, None);
    assert_eq!(busy.vitals.throttle_reasons, ["sw_power_cap"]);
    assert_eq!(readings[1].vitals.pcie_generation, Some((1, 4)));
    assert_eq!(readings[1].vitals.pcie_width, Some((8, 16)));
    assert!(
        readings[1].vitals.throttle_reasons.is_empty(),
        "idle is no reason"
    );

    let (_, readings) = Tool::of("h100").read();
    assert_eq!(readings[0].vitals.fan_percent, None, "it has none");
    assert_eq!(readings[1].vitals.ecc_uncorrected_volatile, Some(2));
    assert_eq!(readings[1].vitals.ecc_uncorrected_aggregate, Some(5));
    let reasons = &readings[1].vitals.throttle_reasons;
    assert_eq!(reasons, &["hw_slowdown", "hw_thermal_slowdown"]);

    let (_, readings) = Tool::of("l40s-sick").read();
    assert_eq!(readings[0].sample.power_w, None);
    assert_eq!(readings[0].sample.utilization_percent, None);
    assert_eq!(readings[0].vitals.fan_percent, None);
    assert_eq!(readings[0].vitals.remap_pending, Some(true));
}

#[test]
fn a_partitioned_gpu_is_told_as_such() {
    let (gpus, readings) = Tool::of("a100-80gb-mig").read();
    assert!(gpus[0].gpu.mig.as_ref().unwrap().enabled);
    assert_eq!(readings[0].sample.utilization_percent, None);
    let (gpus, _) = Tool::of("h100").read();
    assert!(!gpus[0].gpu.mig.as_ref().unwrap().enabled);
    let (gpus, _) = Tool::of("rtx-3090").read();
    assert_eq!(gpus[0].gpu.mig, None);
}

#[test]
fn f71_who_computes_is_told_with_the_gpu_it_is_on() {
    let (_, readings) = Tool::of("rtx-4090").read();
    let process = |pid, name: &str, mib: Option<u64>| GpuProcess {
        pid,
        name: Some(name.to_owned()),
        memory_bytes: mib.map(|mib| mib << 20),
    };
    let expected = vec![
        process(4_194_300, "python3.11", Some(20_396)),
        process(4_194_301, "render", None),
    ];
    assert_eq!(readings[0].processes, Some(expected));
    assert_eq!(readings[1].processes, Some(vec![]));
}

#[test]
fn f74_a_tool_that_is_missing_is_an_absence_and_one_that_fails_says_why() {
    let missing = Asking {
        tool: Some("/nonexistent/nvidia-smi".into()),
        sees_processes: true,
    };
    let error = NvidiaSmi::open(&missing).unwrap_err();
    assert!(matches!(error, ProbeError::Absent(_)), "{error:?}");
    let said = "NVIDIA-SMI has failed because it couldn'\\''t communicate with the NVIDIA driver.";
    let tool = Tool::new(&format!("printf '%s\\n\\033[1mMake sure' '{said}'; exit 9"));
    let error = tool.open().unwrap_err();
    let ProbeError::Failed(why) = error else {
        panic!("{error:?}");
    };
    assert!(
        why.contains("couldn't communicate") && !why.contains('\u{1b}'),
        "{why}"
    );
}

#[test]
fn f74_a_tool_that_hangs_is_ended() {
    let tool = Tool::new("echo $$ > \"$0.pid\"; exec sleep 600");
    let error = tool.open().unwrap_err();
    assert!(error.to_string().contains("no answer within"), "{error}");
    let pid = fs::read_to_string(tool.folder.path().join("nvidia-smi.pid")).unwrap();
    let left = Path::new("/proc").join(pid.trim());
    assert!(!left.exists(), "process {pid} is left behind");
}

#[test]
fn f74_a_column_that_an_old_version_does_not_know_is_asked_for_once() {
    let tool = Tool::new(
        "echo \"$1\" >> \"$0.asked\"
         case $1 in
           *compute_cap*) echo 'Field \"compute_cap\" is not a valid field to query.'; exit 2 ;;
           *) printf 'index, uuid, name\\n0, GPU-old, Tesla K80\\n' ;;
         esac",
    );
    let mut opened = tool.open().unwrap();
    let gpus = opened.inventory().unwrap();
    assert_eq!(gpus[0].gpu.model, "Tesla K80");
    assert_eq!(gpus[0].gpu.compute_capability, None);
    let asked = fs::read_to_string(tool.folder.path().join("nvidia-smi.asked")).unwrap();
    assert_eq!(asked.matches("compute_cap").count(), 1, "{asked}");
}

#[test]
fn f74_the_tool_is_asked_in_a_language_that_can_be_read() {
    let tool = Tool::new("printf 'index, uuid, name\\n0, GPU-a, %s %s\\n' \"$LC_ALL\" \"$LANG\"");
    let gpus = tool.open().unwrap().inventory().unwrap();
    assert_eq!(gpus[0].gpu.model, "C C");
}

#[test]
fn garbage_is_no_gpu_and_no_panic() {
    for output in [
        "",
        "\\377\\376\\n\\001",
        "uuid\\n\\033]0;x\\007",
        ",,,\\n,,,",
        "uuid, uuid\\n, ",
    ] {
        let tool = Tool::new(&format!("printf '{output}'"));
        let (gpus, readings) = tool.read();
        assert!(gpus.is_empty() && readings.is_empty(), "{output}: {gpus:?}");
    }
}

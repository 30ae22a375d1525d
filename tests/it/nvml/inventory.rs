//! What is listed.

use std::{collections::BTreeSet, fs, path::Path};

use rental_agent::{
    gpu::{Found, GpuProbe, ProbeError},
    protocol::record::{Gpu, Health, LinkKind, Mig, MigDevice},
};
use tempfile::TempDir;

use super::{
    fake_nvml::{FakeNvml, build},
    open, uuid,
};

fn listed(script: &str) -> Vec<Found> {
    let nvml = FakeNvml::with(script);
    open(&nvml.library).unwrap().inventory().unwrap()
}

#[test]
fn every_gpu_is_listed_with_what_the_driver_says_of_it() {
    let gpus = listed("gpus 2\nname 1 NVIDIA H200\ncpus 1 ff0f\n");
    let mut gpu = gpus[1].gpu.clone();
    let links = std::mem::take(&mut gpu.links);
    assert_eq!(links.len(), 1);
    assert_eq!(
        gpu,
        Gpu {
            index: 1,
            model: "NVIDIA H200".to_owned(),
            memory_bytes: 24 << 30,
            pci_bus_id: "fa7e:02:00.0".to_owned(),
            driver_version: "570.86.15".to_owned(),
            cuda_version: Some("12.8".to_owned()),
            compute_capability: Some("8.9".to_owned()),
            cpu_affinity: Some("0-3,8-15".to_owned()),
            ..Gpu::bare(uuid(1).parse().unwrap(), "nvidia")
        }
    );
    assert_eq!(gpus[1].nodes, ["/dev/nvidia1"]);
    assert_eq!(gpus.len(), 2);
}

#[test]
fn none_to_sixteen_gpus_are_numbers_like_others() {
    let nvml = FakeNvml::with("");
    let mut probe = open(&nvml.library).unwrap();
    for count in 0..=16 {
        nvml.script(&format!("gpus {count}\n"));
        let gpus = probe.inventory().unwrap();
        assert_eq!(gpus.len(), count);
        assert_eq!(probe.sample().unwrap().len(), count);
        let others = count.saturating_sub(1);
        assert!(gpus.iter().all(|gpu| gpu.gpu.links.len() == others));
    }
}

#[test]
fn links_are_told_by_the_best_way_there_is() {
    // 0 and 1 are joined directly, 2 and 3 by a switch of NVIDIA's.
    let script = "gpus 5\nnvlink 0 1\nnvswitch 2 0\nnvswitch 3 0\nnvswitch 4 1\n\
                  topology 0 2 10\ntopology 0 3 20\ntopology 0 4 30\ntopology 1 2 40\n";
    let gpus = listed(script);
    let kind = |from: usize, to: u32| {
        let mut links = gpus[from].gpu.links.iter();
        links
            .find(|link| link.uuid.as_str() == uuid(to))
            .unwrap()
            .kind
    };
    assert_eq!(kind(0, 1), LinkKind::Nvlink);
    assert_eq!(kind(1, 0), LinkKind::Nvlink, "a link goes both ways");
    assert_eq!(kind(2, 3), LinkKind::Nvlink);
    assert_eq!(
        kind(3, 4),
        LinkKind::System,
        "these are on different switches"
    );
    assert_eq!(kind(0, 2), LinkKind::PcieSwitch);
    assert_eq!(kind(0, 3), LinkKind::PcieSwitch);
    assert_eq!(kind(4, 0), LinkKind::HostBridge);
    assert_eq!(kind(1, 2), LinkKind::NumaNode);
    assert_eq!(kind(1, 4), LinkKind::System);
}

#[test]
fn f73_a_partitioned_gpu_is_listed_once_with_its_partitions() {
    let script = "gpus 3\nmig 1 1\npartition 1 MIG-a 9856\npartition 1 MIG-b 4864\nmig 2 0\n";
    let gpus = listed(script);
    assert_eq!(gpus.len(), 3);
    assert_eq!(gpus[0].gpu.mig, None);
    let part = |name: &str, mib: u64| MigDevice {
        uuid: name.parse().unwrap(),
        memory_bytes: Some(mib << 20),
    };
    let parts = Mig {
        enabled: true,
        devices: vec![part("MIG-a", 9856), part("MIG-b", 4864)],
    };
    assert_eq!(gpus[1].gpu.mig, Some(parts));
    assert_eq!(gpus[2].gpu.mig, Some(Mig::default()));
}

#[test]
fn f70_a_gpu_keeps_its_name_when_the_driver_numbers_anew() {
    let nvml = FakeNvml::with("gpus 3\n");
    let mut probe = open(&nvml.library).unwrap();
    let places = |gpus: &[Found]| -> BTreeSet<(String, String, Vec<String>)> {
        let places = gpus.iter().map(|gpu| {
            let uuid = gpu.gpu.uuid.as_str().to_owned();
            (uuid, gpu.gpu.pci_bus_id.clone(), gpu.nodes.clone())
        });
        places.collect()
    };
    let before = probe.inventory().unwrap();
    nvml.script("gpus 3\norder 2 0 1\ntemperature 2 71\n");
    let after = probe.inventory().unwrap();
    assert_eq!(places(&before), places(&after));
    assert_eq!(after[0].gpu.uuid.as_str(), uuid(2));
    let readings = probe.sample().unwrap();
    assert_eq!(readings[0].sample.uuid.as_str(), uuid(2));
    assert_eq!(readings[0].sample.temperature_c, Some(71.0));
}

#[test]
fn f67_an_absent_library_is_a_host_without_nvidia_gpus() {
    let missing = Path::new("/nonexistent/libnvidia-ml.so.1");
    let error = open(missing).unwrap_err();
    assert!(
        matches!(&error, ProbeError::Absent(why) if why.contains("libnvidia-ml.so.1 not found")),
        "{error:?}"
    );
}

#[test]
fn f67_a_library_of_another_version_than_the_driver_is_a_failure_and_not_an_absence() {
    let nvml = FakeNvml::with("init 18\n");
    let error = open(&nvml.library).unwrap_err();
    assert!(
        matches!(&error, ProbeError::Failed(why) if why.contains("mismatch")),
        "{error:?}"
    );
}

#[test]
fn what_is_no_nvml_is_refused_without_a_panic() {
    let folder = TempDir::new().unwrap();
    let library = build(folder.path(), &["-DWITHOUT_SHUTDOWN"]);
    let text = folder.path().join("text.so");
    fs::write(&text, "no library").unwrap();
    for library in [library, text] {
        let error = open(&library).unwrap_err();
        assert!(matches!(error, ProbeError::Unloadable(_)), "{error:?}");
    }
}

#[test]
fn foreign_text_is_made_printable_and_a_gpu_without_a_usable_name_is_left_out() {
    let script = "gpus 3\nname 0 \u{1b}[31mred\nuuid 1 not a uuid\ndriver 5\u{7}70\n\
                  mig 0 1\npartition 0 \u{1b}c 5\n";
    let nvml = FakeNvml::with(script);
    fs::write(
        nvml.library.with_extension("so.script"),
        [script.as_bytes(), b"name 2 \xff\xfe\n"].concat(),
    )
    .unwrap();
    let mut probe = open(&nvml.library).unwrap();
    let gpus = probe.inventory().unwrap();
    assert_eq!(gpus.len(), 2);
    assert_eq!(gpus[0].gpu.model, "\\u{1b}[31mred");
    assert_eq!(gpus[0].gpu.driver_version, "5\\u{7}70");
    assert_eq!(gpus[0].gpu.mig.as_ref().unwrap().devices, []);
    // Not even text.
    assert_eq!(gpus[1].gpu.model, "unknown");
    assert_eq!(gpus[1].gpu.health, Health::Failed);
    let trouble = probe.trouble().unwrap();
    assert_eq!(trouble, "GPU 1: `not a uuid` is no UUID");
}

#[test]
fn f68_one_sick_gpu_does_not_hide_the_others() {
    let nvml = FakeNvml::with("gpus 3\nhandle 1 15\nmemory 2 15\n");
    let mut probe = open(&nvml.library).unwrap();
    let healths = |gpus: &[Found]| -> Vec<(u32, Health)> {
        let gpus = gpus.iter();
        gpus.map(|gpu| (gpu.gpu.index, gpu.gpu.health)).collect()
    };
    let gpus = probe.inventory().unwrap();
    assert_eq!(healths(&gpus), [(0, Health::Ok), (2, Health::Failed)]);
    let trouble = probe.trouble().unwrap();
    assert!(trouble.starts_with("GPU 1: ") && trouble.contains("fell off the bus"));

    nvml.script("gpus 3\n");
    assert_eq!(probe.inventory().unwrap().len(), 3);
    assert_eq!(probe.trouble(), None);
    // It is known by now, so it stays, and why it is not well is the driver's word.
    for script in ["gpus 3\nhandle 1 15\n", "gpus 3\nlost 1\n"] {
        nvml.script(script);
        let gpus = probe.inventory().unwrap();
        let lost = gpus.iter().find(|gpu| gpu.gpu.uuid.as_str() == uuid(1));
        let lost = &lost.unwrap().gpu;
        assert_eq!(lost.health, Health::Failed);
        assert!(lost.health_reasons[0].contains("fell off the bus"));
        assert_eq!(probe.sample().unwrap().len(), 2);
    }
}

#[test]
fn a_driver_that_counts_gpus_and_shows_none_has_failed() {
    for script in ["gpus 1\nhandle 0 15\n", "gpus 100000\n"] {
        let nvml = FakeNvml::with(script);
        let mut probe = open(&nvml.library).unwrap();
        assert!(matches!(probe.inventory(), Err(ProbeError::Failed(_))));
    }
}

//! The NVML probe against a stand-in for the driver's library, built here from
//! `tests/support/fake_nvml.c`: it shows the agent's logic and says nothing about hardware.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot set up its stage fails"
)]

#[path = "../support/fake_nvml.rs"]
mod fake_nvml;

use std::{fs, path::Path, time::Duration};

use rental_agent::{
    gpu::{
        GpuProbe, ProbeError,
        nvml::NvmlProbe,
        watch::{GpuReport, GpuWatch, Pace, Readings},
    },
    protocol::record::{Gpu, Health},
};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use self::fake_nvml::{FakeNvml, build};

const LIMIT: Duration = Duration::from_secs(20);
const GPU_1: &str = "GPU-00000001-0000-0000-0000-000000000000";

#[test]
fn every_gpu_is_listed_with_what_the_driver_says_of_it() {
    let nvml = FakeNvml::with("gpus 2\nname 1 NVIDIA H200\n");
    let mut probe = NvmlProbe::open(Some(&nvml.library)).unwrap();
    let gpus = probe.inventory().unwrap();
    assert_eq!(
        gpus[1].gpu,
        Gpu {
            index: 1,
            model: "NVIDIA H200".to_owned(),
            memory_bytes: 24 << 30,
            pci_bus_id: "00000000:02:00.0".to_owned(),
            driver_version: "570.86.15".to_owned(),
            cuda_version: Some("12.8".to_owned()),
            compute_capability: Some("8.9".to_owned()),
            ..Gpu::bare(GPU_1.parse().unwrap(), "nvidia")
        }
    );
    assert_eq!(gpus.len(), 2);
}

#[test]
fn none_and_sixteen_gpus_are_numbers_like_others() {
    for count in [0, 1, 16] {
        let nvml = FakeNvml::with(&format!("gpus {count}\n"));
        let mut probe = NvmlProbe::open(Some(&nvml.library)).unwrap();
        assert_eq!(probe.inventory().unwrap().len(), count);
        assert_eq!(probe.sample().unwrap().len(), count);
    }
}

#[test]
fn a_sample_leaves_out_what_an_old_driver_cannot_measure() {
    let nvml = FakeNvml::with("gpus 1\n");
    let mut probe = NvmlProbe::open(Some(&nvml.library)).unwrap();
    let samples = probe.sample().unwrap();
    assert_eq!(samples[0].sample.utilization_percent, Some(42.0));
    assert_eq!(samples[0].sample.temperature_c, Some(55.0));
    assert_eq!(samples[0].sample.memory_used_bytes, Some(1 << 30));
    assert_eq!(samples[0].sample.power_w, None);
}

#[test]
fn an_absent_library_is_a_host_without_nvidia_gpus() {
    let missing = Path::new("/nonexistent/libnvidia-ml.so.1");
    let error = NvmlProbe::open(Some(missing)).unwrap_err();
    assert!(
        matches!(&error, ProbeError::Absent(why) if why.contains("libnvidia-ml.so.1 not found")),
        "{error:?}"
    );
}

#[test]
fn a_library_of_another_version_than_the_driver_is_a_failure_and_not_an_absence() {
    let nvml = FakeNvml::with("init 18\n");
    let error = NvmlProbe::open(Some(&nvml.library)).unwrap_err();
    assert!(
        matches!(&error, ProbeError::Failed(why) if why.contains("mismatch")),
        "{error:?}"
    );
}

#[test]
fn what_is_no_nvml_is_refused_without_a_panic() {
    let folder = TempDir::new().unwrap();
    let library = build(folder.path(), &["-DWITHOUT_SHUTDOWN"]);
    let error = NvmlProbe::open(Some(&library)).unwrap_err();
    assert!(matches!(error, ProbeError::Failed(_)), "{error:?}");

    let text = folder.path().join("text.so");
    fs::write(&text, "no library").unwrap();
    let error = NvmlProbe::open(Some(&text)).unwrap_err();
    assert!(matches!(error, ProbeError::Failed(_)), "{error:?}");
}

#[test]
fn foreign_text_is_made_printable_and_a_gpu_without_a_usable_name_is_left_out() {
    let nvml = FakeNvml::with("gpus 2\nname 0 \u{1b}[31mred\nuuid 1 not a uuid\n");
    let mut probe = NvmlProbe::open(Some(&nvml.library)).unwrap();
    let gpus = probe.inventory().unwrap();
    assert_eq!(gpus.len(), 1);
    assert_eq!(gpus[0].gpu.model, "\\u{1b}[31mred");
}

#[test]
fn one_sick_gpu_does_not_hide_the_others() {
    let nvml = FakeNvml::with("gpus 3\nhandle 1 15\nmemory 2 15\n");
    let mut probe = NvmlProbe::open(Some(&nvml.library)).unwrap();
    let gpus = probe.inventory().unwrap();
    let healths: Vec<_> = gpus
        .iter()
        .map(|gpu| (gpu.gpu.index, gpu.gpu.health))
        .collect();
    assert_eq!(healths, [(0, Health::Ok), (2, Health::Failed)]);
}

#[test]
fn a_driver_that_counts_gpus_and_shows_none_has_failed() {
    for script in ["gpus 1\nhandle 0 15\n", "gpus 100000\n"] {
        let nvml = FakeNvml::with(script);
        let mut probe = NvmlProbe::open(Some(&nvml.library)).unwrap();
        assert!(matches!(probe.inventory(), Err(ProbeError::Failed(_))));
    }
}

#[tokio::test]
async fn a_hanging_driver_is_reported_and_found_again_when_it_answers() {
    let nvml = FakeNvml::with("gpus 2\n");
    let mut watched = Watched::start(&nvml.library);
    watched
        .until("both are seen", |report| {
            report.gpus.len() == 2 && report.health == Health::Ok
        })
        .await;

    nvml.script("gpus 2\nhang\n");
    let report = watched
        .until("the silence is seen", |report| {
            report.health == Health::Unknown
        })
        .await;
    assert!(
        report.complete && report.gpus.len() == 2,
        "nothing is forgotten"
    );
    assert!(
        report
            .gpus
            .iter()
            .all(|gpu| gpu.gpu.health == Health::Unknown)
    );
    assert!(watched.readings.samples.borrow().readings.is_empty());

    nvml.script("gpus 2\n");
    watched
        .until("both are seen again", |report| {
            report.health == Health::Ok
                && report.gpus.iter().all(|gpu| gpu.gpu.health == Health::Ok)
        })
        .await;
    watched.stop().await;
}

#[tokio::test]
async fn a_probe_that_hangs_does_not_hold_up_the_end_of_the_agent() {
    let nvml = FakeNvml::with("gpus 1\nhang\n");
    let mut watched = Watched::start(&nvml.library);
    let report = watched
        .until("the silence is seen", |report| report.problem.is_some())
        .await;
    assert!(!report.complete, "it has never answered");
    watched.stop().await;
}

#[tokio::test]
async fn a_driver_that_is_repaired_or_installed_later_is_found() {
    let nvml = FakeNvml::with("init 18\n");
    let mut watched = Watched::start(&nvml.library);
    let report = watched
        .until("the mismatch is told", |report| report.complete)
        .await;
    assert_eq!((report.gpus.len(), report.health), (0, Health::Failed));

    nvml.script("gpus 4\n");
    watched
        .until("all are seen", |report| report.gpus.len() == 4)
        .await;
    let samples = watched
        .readings
        .samples
        .wait_for(|samples| samples.readings.len() == 4);
    timeout(LIMIT, samples).await.unwrap().unwrap();
    watched.stop().await;
}

struct Watched {
    readings: Readings,
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    #[allow(
        clippy::disallowed_methods,
        reason = "one task, joined by stop, or ended with the test"
    )]
    fn start(library: &Path) -> Self {
        let library = library.to_owned();
        let pace = Pace {
            inventory_every: Duration::from_millis(50),
            sample_every: Duration::from_millis(20),
            answer_within: Duration::from_millis(200),
        };
        let open = move || NvmlProbe::open(Some(&library));
        let (watch, readings) = GpuWatch::start("nvidia", open, pace).unwrap();
        let token = CancellationToken::new();
        let until = token.clone();
        let task = tokio::task::spawn(async move { watch.run(until).await.unwrap() });
        Self {
            readings,
            token,
            task,
        }
    }

    async fn until(&mut self, what: &str, seen: impl FnMut(&GpuReport) -> bool) -> GpuReport {
        let found = timeout(LIMIT, self.readings.report.wait_for(seen)).await;
        let found = found.map(|report| report.unwrap().clone());
        found.unwrap_or_else(|_| panic!("not {what}: {:?}", self.readings.report.borrow()))
    }

    async fn stop(self) {
        self.token.cancel();
        timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

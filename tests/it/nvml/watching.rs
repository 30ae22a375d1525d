//! A driver that comes, goes, hangs and changes while it is watched.

use std::{fs, path::Path, time::Duration};

use rental_agent::{
    gpu::{
        Found, GpuProbe, ProbeError, Reading,
        watch::{GpuReport, GpuWatch, Readings},
    },
    protocol::record::Health,
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    LIMIT,
    fake_nvml::{FakeNvml, build},
    open, pace, uuid,
};

fn health(report: &GpuReport) -> Health {
    report.probes[0].health
}

fn problem(report: &GpuReport) -> &str {
    report.probes[0].problem.as_deref().unwrap_or_default()
}

fn all_are(report: &GpuReport, wanted: Health) -> bool {
    report.gpus.iter().all(|gpu| gpu.gpu.health == wanted)
}

#[tokio::test]
async fn f69_a_hung_probe_thread_is_reported_not_waited_for_and_found_again() {
    let nvml = FakeNvml::with("gpus 2\n");
    let mut watched = Watched::start(&nvml.library);
    let both = |report: &GpuReport| report.gpus.len() == 2 && health(report) == Health::Ok;
    watched.until("both are seen", both).await;

    // In the middle of a sample, where the driver has answered the questions before.
    nvml.script("gpus 2\nhang nvmlDeviceGetTemperature\n");
    let silent = |report: &GpuReport| health(report) == Health::Unknown;
    let report = watched.until("the silence is seen", silent).await;
    assert!(
        report.complete() && report.gpus.len() == 2,
        "nothing is forgotten"
    );
    assert!(all_are(&report, Health::Unknown));
    assert!(problem(&report).contains("has not answered for"));
    assert!(watched.readings.samples.borrow().readings.is_empty());

    nvml.script("gpus 2\n");
    let well = |report: &GpuReport| health(report) == Health::Ok && all_are(report, Health::Ok);
    watched.until("both are seen again", well).await;
    watched.stop().await;
}

/// A heartbeat is a timer on the same threads, here on one alone.
#[tokio::test(flavor = "current_thread")]
async fn f69_a_hanging_driver_delays_no_heartbeat() {
    let nvml = FakeNvml::with("gpus 4\nhang\n");
    let mut watched = Watched::start(&nvml.library);
    let silent = |report: &GpuReport| report.probes[0].problem.is_some();
    let heartbeats = async {
        let mut latest = Duration::ZERO;
        let mut interval = tokio::time::interval(Duration::from_millis(10));
        for _ in 0..50 {
            let due = interval.tick().await;
            latest = latest.max(Instant::now() - due);
        }
        latest
    };
    let (_, latest) = tokio::join!(watched.until("the silence is seen", silent), heartbeats);
    // The driver hangs for ever; a busy machine may be late by a little.
    assert!(latest < Duration::from_secs(2), "{latest:?} late");
    watched.stop().await;
}

#[tokio::test]
async fn f69_a_probe_that_hangs_does_not_hold_up_the_end_of_the_agent() {
    let nvml = FakeNvml::with("gpus 1\nhang\n");
    let mut watched = Watched::start(&nvml.library);
    let silent = |report: &GpuReport| report.probes[0].problem.is_some();
    let report = watched.until("the silence is seen", silent).await;
    assert!(!report.complete(), "it has never answered");
    watched.stop().await;
}

#[tokio::test]
async fn f67_a_driver_that_is_repaired_or_installed_later_is_found() {
    let nvml = FakeNvml::with("init 18\n");
    let mut watched = Watched::start(&nvml.library);
    let report = watched
        .until("the mismatch is told", GpuReport::complete)
        .await;
    assert_eq!((report.gpus.len(), health(&report)), (0, Health::Failed));
    assert!(problem(&report).contains("mismatch"));

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

#[tokio::test]
async fn f67_a_library_that_appears_is_loaded_and_one_that_disappears_is_missed() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("nvml.so");
    fs::write(place.with_extension("so.script"), "gpus 1\n").unwrap();
    let mut watched = Watched::start(&place);
    let report = watched
        .until("the host is looked at", GpuReport::complete)
        .await;
    assert_eq!(
        health(&report),
        Health::Ok,
        "a host without a driver is a normal host"
    );
    assert!(problem(&report).contains("not found"));

    let elsewhere = TempDir::new_in(folder.path()).unwrap();
    fs::rename(build(elsewhere.path(), &[]), &place).unwrap();
    let well = |report: &GpuReport| report.gpus.len() == 1 && all_are(report, Health::Ok);
    watched.until("the driver is found", well).await;

    fs::remove_file(&place).unwrap();
    let gone = |report: &GpuReport| problem(report).contains("not found");
    let report = watched.until("the driver is missed", gone).await;
    assert_eq!(health(&report), Health::Failed);
    assert!(
        all_are(&report, Health::Unknown),
        "that it cannot be seen does not mean it is gone"
    );
    watched.stop().await;
}

#[tokio::test]
async fn f67_a_driver_that_is_upgraded_below_the_agent_is_loaded_anew() {
    let nvml = FakeNvml::with("gpus 1\n");
    let mut watched = Watched::start(&nvml.library);
    let version = |wanted: &'static str| {
        move |report: &GpuReport| {
            let mut gpus = report.gpus.iter();
            gpus.any(|gpu| gpu.gpu.driver_version == wanted && gpu.gpu.health == Health::Ok)
        }
    };
    watched.until("it is seen", version("570.86.15")).await;
    // Another file in the same place: the loaded one still answers as it did.
    let elsewhere = TempDir::new_in(nvml.library.parent().unwrap()).unwrap();
    let newer = build(elsewhere.path(), &["-DVERSION=\"580.95.05\""]);
    fs::rename(newer, &nvml.library).unwrap();
    watched
        .until("the newer one is loaded", version("580.95.05"))
        .await;
    watched.stop().await;
}

#[tokio::test]
async fn f68_a_gpu_that_falls_off_the_bus_is_failed_before_the_next_inventory_is_due() {
    let nvml = FakeNvml::with("gpus 3\n");
    let rarely = rental_agent::gpu::watch::Pace {
        inventory_every: Duration::from_secs(3_600),
        ..pace()
    };
    let mut watched = Watched::paced(&nvml.library, rarely);
    let three = |report: &GpuReport| report.gpus.len() == 3;
    watched.until("all are seen", three).await;
    nvml.script("gpus 3\nlost 1\n");
    let failed = |report: &GpuReport| {
        let mut gpus = report.gpus.iter();
        gpus.any(|gpu| gpu.gpu.uuid.as_str() == uuid(1) && gpu.gpu.health == Health::Failed)
    };
    let report = watched.until("it is failed", failed).await;
    let others = report
        .gpus
        .iter()
        .filter(|gpu| gpu.gpu.uuid.as_str() != uuid(1));
    assert!(others.into_iter().all(|gpu| gpu.gpu.health == Health::Ok));
    watched.stop().await;
}

#[tokio::test]
async fn a_look_follows_a_gpu_that_is_new_and_one_that_is_asked_for() {
    let nvml = FakeNvml::with("gpus 1\n");
    let rarely = rental_agent::gpu::watch::Pace {
        sample_every: Duration::from_secs(3_600),
        ..pace()
    };
    let mut watched = Watched::paced(&nvml.library, rarely);
    let mut looks = watched.readings.samples.clone();
    let mut look = async |what: &str, count: usize, after: Duration| {
        let seen = looks.wait_for(|look| look.readings.len() == count && look.asked_at > after);
        let seen = timeout(LIMIT, seen)
            .await
            .unwrap_or_else(|_| panic!("no look {what}"));
        seen.unwrap().asked_at
    };
    let first = look("at the start", 1, Duration::ZERO).await;
    nvml.script("gpus 2\n");
    let second = look("at the new one", 2, first).await;
    watched
        .until("both are listed", |report| report.gpus.len() == 2)
        .await;
    watched.readings.look.notify_one();
    look("that is asked for", 2, second).await;
    watched.stop().await;
}

/// Says on which threads it was asked.
struct Located(tokio::sync::mpsc::Sender<Option<String>>);

impl Located {
    fn say(&self) {
        let thread = std::thread::current();
        let _ = self.0.try_send(thread.name().map(ToOwned::to_owned));
    }
}

impl GpuProbe for Located {
    fn inventory(&mut self) -> Result<Vec<Found>, ProbeError> {
        self.say();
        Ok(Vec::new())
    }

    fn sample(&mut self) -> Result<Vec<Reading>, ProbeError> {
        self.say();
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_driver_is_asked_on_a_thread_of_its_own_alone() {
    let (say, mut said) = tokio::sync::mpsc::channel(16);
    let opened = say.clone();
    let open = move || {
        let probe = Located(opened.clone());
        probe.say();
        Ok(probe)
    };
    let watched = Watched::of(open, pace());
    for _ in 0..10 {
        let thread = timeout(LIMIT, said.recv()).await.unwrap().unwrap();
        assert_eq!(thread.as_deref(), Some("gpu-nvidia"));
    }
    watched.stop().await;
}

struct Watched {
    readings: Readings,
    token: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    fn start(library: &Path) -> Self {
        Self::paced(library, pace())
    }

    fn paced(library: &Path, pace: rental_agent::gpu::watch::Pace) -> Self {
        let library = library.to_owned();
        Self::of(move || open(&library), pace)
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "one task, joined by stop, or ended with the test"
    )]
    fn of<P: GpuProbe>(
        open: impl FnMut() -> Result<P, ProbeError> + Send + 'static,
        pace: rental_agent::gpu::watch::Pace,
    ) -> Self {
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

//! Samples and verdicts: looks at the host, the GPUs and the registry's snapshot every few seconds
//! and publishes what it finds. Whoever is connected sends the newest at the server's pace; what
//! nobody fetches is replaced, so this costs no memory. It changes nothing and decides nothing.

mod checks;

use std::{convert::Infallible, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use self::checks::Seen;
use crate::{
    blocking::{Aside, Asked},
    clock,
    gpu::{health::Thresholds, watch::Readings as GpuReadings},
    host::{self, sample::HostSampler},
    instance::publish::Snapshot,
    protocol::{
        message::{GpuSample, HealthReport, Metrics},
        record::Disk,
    },
};

/// From one look to the next. The server may ask for samples each second and then gets some twice.
const EVERY: Duration = Duration::from_secs(5);

/// A file system that has not answered by then is reported; less than `EVERY`, so that a dead one
/// costs freshness of nothing else.
const DISKS_WITHIN: Duration = Duration::from_secs(3);

/// Where the newest samples and verdicts can be read.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the types are documented")]
pub struct Readings {
    pub metrics: watch::Receiver<Arc<Metrics>>,
    pub health: watch::Receiver<Arc<HealthReport>>,
}

/// The thread that asks the file systems has ended, which only a panic does.
#[derive(Debug, thiserror::Error)]
#[error("the thread that reads the disks is gone")]
pub struct DiskThreadGone;

/// The task.
#[derive(Debug)]
pub struct Telemetry {
    snapshot: watch::Receiver<Arc<Snapshot>>,
    gpus: GpuReadings,
    reserve_disk_bytes: u64,
    thresholds: Thresholds,
    host: HostSampler,
    disks: Aside<Vec<PathBuf>, Vec<Disk>>,
    metrics: watch::Sender<Arc<Metrics>>,
    health: watch::Sender<Arc<HealthReport>>,
}

impl Telemetry {
    /// Takes a first look, without the disks, so that there is something to read at once.
    /// `reserve_disk_bytes` is what the configuration keeps for the host.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        reserve_disk_bytes: u64,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        gpus: GpuReadings,
        thresholds: Thresholds,
    ) -> io::Result<(Self, Readings)> {
        let disks = Aside::start("disks", |mounts: Vec<PathBuf>| {
            host::disks(mounts.iter().map(PathBuf::as_path))
        })?;
        let at = clock::now().wall;
        let (metrics, metrics_reader) = watch::channel(Arc::new(Metrics {
            at,
            host: Default::default(),
            gpus: Vec::new(),
            instances: Vec::new(),
        }));
        let (health, health_reader) = watch::channel(Arc::new(HealthReport {
            at,
            checks: Vec::new(),
        }));
        let mut telemetry = Self {
            snapshot,
            gpus,
            reserve_disk_bytes,
            thresholds,
            host: HostSampler::default(),
            disks,
            metrics,
            health,
        };
        telemetry.measure();
        telemetry.judge(None);
        let readings = Readings {
            metrics: metrics_reader,
            health: health_reader,
        };
        Ok((telemetry, readings))
    }

    /// Looks until `token` is cancelled.
    ///
    /// # Errors
    /// When the thread that reads the disks panicked.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), DiskThreadGone> {
        match token.run_until_cancelled(self.look()).await {
            None => Ok(()),
            Some(Err(gone)) => Err(gone),
        }
    }

    async fn look(&mut self) -> Result<Infallible, DiskThreadGone> {
        let mut interval = time::interval(EVERY);
        interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.measure();
            match self.disks.ask(self.mounts(), DISKS_WITHIN).await {
                Asked::Answer(disks) => self.judge(Some(&disks)),
                Asked::Silent => self.judge(None),
                Asked::Gone => return Err(DiskThreadGone),
            }
        }
    }

    fn mounts(&self) -> Vec<PathBuf> {
        let snapshot = self.snapshot.borrow();
        let disks = snapshot.host.disks.iter();
        disks.map(|disk| PathBuf::from(&disk.mount)).collect()
    }

    fn measure(&mut self) {
        self.metrics.send_replace(Arc::new(Metrics {
            at: clock::now().wall,
            host: self.host.sample(),
            gpus: self.gpu_samples(),
            instances: Vec::new(),
        }));
    }

    fn gpu_samples(&self) -> Vec<GpuSample> {
        let sampled = self.gpus.samples.borrow();
        let samples = sampled.readings.iter();
        samples.map(|reading| reading.sample.clone()).collect()
    }

    fn judge(&self, disks: Option<&[Disk]>) {
        let checks = checks::all(&Seen {
            snapshot: &self.snapshot.borrow(),
            gpus: &self.gpus.report.borrow(),
            samples: &self.gpu_samples(),
            thresholds: &self.thresholds,
            disks,
            reserve_disk_bytes: self.reserve_disk_bytes,
        });
        self.health.send_replace(Arc::new(HealthReport {
            at: clock::now().wall,
            checks,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gpu::{Reading, Sampled, watch::GpuReport},
        protocol::record::{Health, Host},
    };

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn disks_and_gpus_are_looked_at_until_the_end() {
        let disk = Disk {
            mount: "/".to_owned(),
            total_bytes: 0,
            free_bytes: 0,
        };
        let (_snapshot, snapshot_reader) = watch::channel(Arc::new(Snapshot {
            host: Host {
                disks: vec![disk],
                ..Host::default()
            },
            ..Snapshot::default()
        }));
        let (_report, report) = watch::channel(GpuReport::default());
        let sampled = Sampled {
            readings: vec![Reading::of("GPU-a".parse().unwrap())],
            ..Sampled::default()
        };
        let (_samples, samples) = watch::channel(Arc::new(sampled));
        let look = Arc::default();
        let gpus = GpuReadings {
            report,
            samples,
            look,
        };
        let (telemetry, mut readings) =
            Telemetry::start(1, snapshot_reader, gpus, Thresholds::default()).unwrap();
        assert_eq!(readings.metrics.borrow().gpus.len(), 1);

        let token = CancellationToken::new();
        let run = telemetry.run(token.clone());
        let seen = async {
            let ok = |report: &Arc<HealthReport>| {
                let mut disks = report.checks.iter().filter(|check| check.name == "disk");
                disks.all(|check| check.status == Health::Ok)
            };
            time::timeout(LIMIT, readings.health.wait_for(ok))
                .await
                .unwrap()
                .unwrap();
            token.cancel();
        };
        let (ended, ()) = tokio::join!(time::timeout(LIMIT, run), seen);
        ended.unwrap().unwrap();
    }
}

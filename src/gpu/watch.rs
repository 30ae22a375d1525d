//! Watches one probe: asks it again and again on a thread of its own and publishes what it says.
//!
//! A probe that hangs is reported and never waited for; a failed one is opened anew at the next
//! turn, so a driver that is installed, updated or repaired later is found. A GPU once listed stays
//! listed: one that the driver no longer shows has failed, and while the driver says nothing all of
//! them are unknown, which is not the same as gone.

use std::{collections::BTreeSet, convert::Infallible, io, sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{Found, GpuProbe, ProbeError, Reading, Sampled};
use crate::{
    blocking::{Aside, Asked},
    clock,
    ids::GpuUuid,
    protocol::record::{Gpu, Health},
};

/// What probes have said so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GpuReport {
    /// Every GPU that they have ever listed, with `state` left to the registry.
    pub gpus: Vec<Found>,
    /// Each probe.
    pub probes: Vec<ProbeReport>,
}

impl GpuReport {
    /// All probes have answered.
    pub fn complete(&self) -> bool {
        self.probes.iter().all(|probe| probe.complete)
    }
}

/// How a probe is.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeReport {
    /// Whose GPUs it lists.
    pub vendor: &'static str,
    /// It has answered, if only that it sees nothing.
    pub complete: bool,
    /// `ok` also on a host without such GPUs, `warning` when the driver lists less than it counts,
    /// `failed` when it answers with an error, `unknown` before the first answer and while there is
    /// none.
    pub health: Health,
    /// Why it sees nothing, or less than there is.
    pub problem: Option<String>,
}

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// From one inventory to the next.
    pub inventory_every: Duration,
    /// From one sample to the next.
    pub sample_every: Duration,
    /// A probe that has not answered by then is reported. With `sample_every` it bounds how long a
    /// hang goes unseen: 15 s.
    pub answer_within: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            inventory_every: Duration::from_secs(30),
            sample_every: Duration::from_secs(5),
            answer_within: Duration::from_secs(10),
        }
    }
}

/// Where a watched probe's words can be read; the newest win.
#[derive(Debug, Clone)]
pub struct Readings {
    /// Changes only when something did.
    pub report: watch::Receiver<GpuReport>,
    /// The last look.
    pub samples: watch::Receiver<Arc<Sampled>>,
    /// Asks for a look out of turn.
    pub look: Arc<Notify>,
}

/// The probe's thread has ended, which only a panic does.
#[derive(Debug, thiserror::Error)]
#[error("the thread of the {vendor} probe is gone")]
pub struct ProbeThreadGone {
    vendor: &'static str,
}

/// The task that watches one probe.
#[derive(Debug)]
pub struct GpuWatch {
    vendor: &'static str,
    aside: Aside<Question, Answer>,
    pace: Pace,
    report: watch::Sender<GpuReport>,
    samples: watch::Sender<Arc<Sampled>>,
    look: Arc<Notify>,
}

#[derive(Debug, Clone, Copy)]
enum Question {
    Inventory,
    Sample,
}

#[derive(Debug)]
enum Answer {
    Inventory(Result<Listed, ProbeError>),
    Sample(Vec<Reading>),
}

/// A driver's answer, and what it could not list.
#[derive(Debug, Default)]
struct Listed {
    gpus: Vec<Found>,
    trouble: Option<String>,
}

impl GpuWatch {
    /// Starts the thread; nothing is asked before [`GpuWatch::run`]. `open` is called on the thread,
    /// at first and after each failure.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start<P: GpuProbe>(
        vendor: &'static str,
        open: impl FnMut() -> Result<P, ProbeError> + Send + 'static,
        pace: Pace,
    ) -> io::Result<(Self, Readings)> {
        let (report, report_reader) = watch::channel(GpuReport {
            gpus: Vec::new(),
            probes: vec![ProbeReport {
                vendor,
                complete: false,
                health: Health::Unknown,
                problem: None,
            }],
        });
        let (samples, samples_reader) = watch::channel(Arc::default());
        let look = Arc::new(Notify::new());
        let watch = Self {
            vendor,
            aside: Aside::start(&format!("gpu-{vendor}"), answering(open))?,
            pace,
            report,
            samples,
            look: Arc::clone(&look),
        };
        let readings = Readings {
            report: report_reader,
            samples: samples_reader,
            look,
        };
        Ok((watch, readings))
    }

    /// Watches until `token` is cancelled.
    ///
    /// # Errors
    /// When the probe panicked.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), ProbeThreadGone> {
        match token.run_until_cancelled(self.watch()).await {
            None => Ok(()),
            Some(Err(gone)) => Err(gone),
        }
    }

    async fn watch(&mut self) -> Result<Infallible, ProbeThreadGone> {
        let mut inventory = every(self.pace.inventory_every);
        let mut sample = every(self.pace.sample_every);
        let mut was_silent = false;
        loop {
            let question = tokio::select! {
                biased;
                // First: without an inventory there is nothing to sample.
                _ = inventory.tick() => Question::Inventory,
                _ = sample.tick() => Question::Sample,
                () = self.look.notified() => Question::Sample,
            };
            let asked_at = clock::now().boot;
            match self.aside.ask(question, self.pace.answer_within).await {
                Asked::Gone => {
                    return Err(ProbeThreadGone {
                        vendor: self.vendor,
                    });
                }
                Asked::Silent => {
                    self.silent();
                    was_silent = true;
                }
                Asked::Answer(answer) => {
                    let asks_anew = was_silent && matches!(answer, Answer::Sample(_));
                    was_silent = false;
                    match self.answered(answer, asked_at) {
                        Some(Question::Inventory) => inventory.reset_immediately(),
                        Some(Question::Sample) => sample.reset_immediately(),
                        None if asks_anew => inventory.reset_immediately(),
                        None => {}
                    }
                }
            }
        }
    }

    /// Publishes the answer, and says what has to be asked at once because of it.
    fn answered(&self, answer: Answer, asked_at: Duration) -> Option<Question> {
        match answer {
            Answer::Inventory(outcome) => {
                let known = names(&self.report.borrow().gpus);
                self.publish(|old| reported(self.vendor, &old.gpus, outcome));
                let listed = names(&self.report.borrow().gpus);
                // A new one: whether it is free and well, only a look tells.
                (!listed.is_subset(&known)).then_some(Question::Sample)
            }
            Answer::Sample(readings) => {
                let missing = is_missing(&self.report.borrow().gpus, &readings);
                let sampled = Sampled { asked_at, readings };
                self.samples.send_replace(Arc::new(sampled));
                missing.then_some(Question::Inventory)
            }
        }
    }

    fn silent(&self) {
        let limit = self.pace.answer_within;
        let problem = format!("the {} driver has not answered for {limit:?}", self.vendor);
        self.samples.send_replace(Arc::default());
        self.publish(|old| GpuReport {
            gpus: unknown(&old.gpus, &problem),
            probes: vec![ProbeReport {
                vendor: self.vendor,
                complete: old.complete(),
                health: Health::Unknown,
                problem: Some(problem.clone()),
            }],
        });
    }

    /// Publishes what differs; a change for the worse is logged here, once.
    fn publish(&self, next: impl FnOnce(&GpuReport) -> GpuReport) {
        self.report.send_if_modified(|report| {
            let next = next(report);
            let differs = *report != next;
            if differs && problem(&next) != problem(report) {
                log(&next);
            }
            *report = next;
            differs
        });
    }
}

/// Of a report on one probe.
fn problem(report: &GpuReport) -> Option<&str> {
    report
        .probes
        .iter()
        .find_map(|probe| probe.problem.as_deref())
}

fn log(report: &GpuReport) {
    let gpus = report.gpus.len();
    for probe in &report.probes {
        let vendor = probe.vendor;
        match (&probe.problem, probe.health) {
            (None, _) => tracing::info!(vendor, gpus, "the GPU driver answers"),
            (Some(problem), Health::Ok) => tracing::info!(vendor, problem, "no GPU driver"),
            (Some(problem), _) => tracing::warn!(vendor, gpus, problem, "trouble with the GPUs"),
        }
    }
}

fn names(gpus: &[Found]) -> BTreeSet<GpuUuid> {
    let names = gpus.iter().map(|found| found.gpu.uuid.clone());
    names.collect()
}

/// Whether a look does not show a GPU that was listed as present.
fn is_missing(gpus: &[Found], readings: &[Reading]) -> bool {
    gpus.iter().any(|found| {
        let present = matches!(found.gpu.health, Health::Ok | Health::Warning);
        let uuid = &found.gpu.uuid;
        present && readings.iter().all(|reading| reading.sample.uuid != *uuid)
    })
}

fn every(period: Duration) -> time::Interval {
    let mut interval = time::interval(period);
    // After a hang one question is enough; the missed ones ask nothing new.
    interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    interval
}

/// What the thread does.
fn answering<P: GpuProbe>(
    mut open: impl FnMut() -> Result<P, ProbeError> + Send + 'static,
) -> impl FnMut(Question) -> Answer + Send + 'static {
    let mut probe: Option<P> = None;
    move |question| match question {
        Question::Inventory => {
            let mut opened = match probe.take() {
                Some(opened) => opened,
                None => match open() {
                    Ok(opened) => opened,
                    Err(error) => return Answer::Inventory(Err(error)),
                },
            };
            let outcome = opened.inventory().map(|gpus| Listed {
                gpus,
                trouble: opened.trouble(),
            });
            // A library that failed is unloaded: the next one may be another version.
            probe = outcome.is_ok().then_some(opened);
            Answer::Inventory(outcome)
        }
        Question::Sample => {
            let sampled = probe.as_mut().map(GpuProbe::sample);
            Answer::Sample(match sampled {
                Some(Ok(samples)) => samples,
                // The next inventory says what is wrong.
                Some(Err(_)) | None => Vec::new(),
            })
        }
    }
}

/// The report after an answer, by what was known before.
fn reported(
    vendor: &'static str,
    known: &[Found],
    outcome: Result<Listed, ProbeError>,
) -> GpuReport {
    let (gpus, health, problem) = match outcome {
        Ok(Listed { gpus, trouble }) => {
            let mut listed: Vec<Found> = Vec::new();
            for found in gpus {
                // A driver that says a name twice means one GPU.
                if listed.iter().all(|other| other.gpu.uuid != found.gpu.uuid) {
                    listed.push(found);
                }
            }
            let lost: Vec<Found> = known
                .iter()
                .filter(|old| listed.iter().all(|found| found.gpu.uuid != old.gpu.uuid))
                .map(|old| judged(old, Health::Failed, "the driver no longer lists it"))
                .collect();
            listed.extend(lost);
            let health = match trouble {
                None => Health::Ok,
                Some(_) => Health::Warning,
            };
            (listed, health, trouble)
        }
        Err(ProbeError::Absent(why)) => {
            let gpus = unknown(known, &why);
            let health = if gpus.is_empty() {
                Health::Ok
            } else {
                Health::Failed
            };
            (gpus, health, Some(why))
        }
        Err(ProbeError::Failed(why) | ProbeError::Unloadable(why)) => {
            (unknown(known, &why), Health::Failed, Some(why))
        }
    };
    GpuReport {
        gpus,
        probes: vec![ProbeReport {
            vendor,
            complete: true,
            health,
            problem,
        }],
    }
}

fn unknown(known: &[Found], why: &str) -> Vec<Found> {
    let unknown = known.iter();
    unknown
        .map(|old| judged(old, Health::Unknown, why))
        .collect()
}

fn judged(old: &Found, health: Health, why: &str) -> Found {
    Found {
        gpu: Gpu {
            health,
            health_reasons: vec![why.to_owned()],
            ..old.gpu.clone()
        },
        nodes: old.nodes.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, index: u32) -> Found {
        Found {
            gpu: Gpu {
                index,
                ..Gpu::bare(uuid.parse().unwrap(), "nvidia")
            },
            nodes: Vec::new(),
        }
    }

    fn healths(report: &GpuReport) -> Vec<(&str, Health)> {
        let healths = report.gpus.iter();
        healths
            .map(|found| (found.gpu.uuid.as_str(), found.gpu.health))
            .collect()
    }

    fn listing(gpus: &[Found]) -> Result<Listed, ProbeError> {
        Ok(Listed {
            gpus: gpus.to_vec(),
            trouble: None,
        })
    }

    #[test]
    fn a_gpu_that_the_driver_drops_stays_listed_as_failed() {
        let known = [gpu("GPU-a", 0), gpu("GPU-b", 1)];
        let report = reported("nvidia", &known, listing(&[gpu("GPU-b", 0)]));
        assert_eq!(
            healths(&report),
            [("GPU-b", Health::Ok), ("GPU-a", Health::Failed)]
        );
        let back = reported("nvidia", &report.gpus, listing(&known));
        assert_eq!(
            healths(&back),
            [("GPU-a", Health::Ok), ("GPU-b", Health::Ok)]
        );
    }

    #[test]
    fn a_name_that_is_listed_twice_is_one_gpu() {
        let report = reported("nvidia", &[], listing(&[gpu("GPU-a", 0), gpu("GPU-a", 1)]));
        assert_eq!(healths(&report), [("GPU-a", Health::Ok)]);
    }

    #[test]
    fn what_cannot_be_listed_is_a_warning_of_the_probe() {
        let some = Listed {
            gpus: vec![gpu("GPU-a", 0)],
            trouble: Some("GPU 1: lost".to_owned()),
        };
        let report = reported("nvidia", &[], Ok(some));
        assert_eq!(report.probes[0].health, Health::Warning);
        assert_eq!(problem(&report), Some("GPU 1: lost"));
        assert_eq!(healths(&report), [("GPU-a", Health::Ok)]);
    }

    #[test]
    fn a_failing_driver_makes_gpus_unknown_and_not_gone() {
        let known = [gpu("GPU-a", 0)];
        for error in [
            ProbeError::Failed("mismatch".to_owned()),
            ProbeError::Unloadable("no library".to_owned()),
            ProbeError::Absent("not found".to_owned()),
        ] {
            let report = reported("nvidia", &known, Err(error));
            assert_eq!(healths(&report), [("GPU-a", Health::Unknown)]);
            assert_eq!(report.probes[0].health, Health::Failed);
            assert!(report.complete() && problem(&report).is_some());
        }
    }

    #[test]
    fn a_host_without_a_driver_is_a_healthy_host() {
        let absent = ProbeError::Absent("not found".to_owned());
        let report = reported("nvidia", &[], Err(absent));
        assert_eq!(report.probes[0].health, Health::Ok);
        assert_eq!(problem(&report), Some("not found"));
        assert!(report.complete() && report.gpus.is_empty());
    }

    #[test]
    fn a_look_that_lacks_a_gpu_that_was_well_asks_for_the_list() {
        let reading = |uuid: &str| Reading::of(uuid.parse().unwrap());
        let both = [gpu("GPU-a", 0), gpu("GPU-b", 1)];
        assert!(is_missing(&both, &[reading("GPU-a")]));
        assert!(!is_missing(&both, &[reading("GPU-b"), reading("GPU-a")]));
        let lost = judged(&both[1], Health::Failed, "lost");
        assert!(!is_missing(&[both[0].clone(), lost], &[reading("GPU-a")]));
    }
}

//! All probes of this host: which there are, started together, and their words as one. A new vendor is
//! a file beside this one and a line in [`start`].

use std::{
    collections::BTreeSet,
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc as std_mpsc},
};

use futures_util::future::select_all;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    Sampled, Xid,
    amd::Amd,
    nvidia::{self, Nvidia},
    nvidia_smi, nvml,
    tpu::Tpu,
    watch::{GpuReport, GpuWatch, Pace, Readings},
};
use crate::ids::GpuUuid;

/// Where there are no files to read but the host's own.
const ROOT: &str = "/";

/// What is heard waits for whoever takes it; nothing but a host with very sick GPUs fills this.
const XIDS: usize = 64;
const HEARD: usize = 16;

/// How the host's GPUs are looked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// NVIDIA's library; unset: by the loader's search.
    pub nvml_library: Option<PathBuf>,
    /// NVIDIA's tool; unset: by PATH.
    pub nvidia_smi: Option<PathBuf>,
    /// The processes of the host can be seen from here.
    pub sees_processes: bool,
    /// GPUs that are rented out; unset: all. The others are the provider's own and are never named.
    pub offered: Option<BTreeSet<GpuUuid>>,
}

/// What the probes have to say, in the order in which it has to be known: a GPU before what was read
/// of it.
#[derive(Debug)]
pub enum Heard {
    /// Every GPU that there is, after each change.
    Gpus(GpuReport),
    /// A look at those of one probe.
    Readings(Arc<Sampled>),
    /// An error that one reports by itself.
    Xid(Xid),
}

/// A probe has ended, which none does by itself.
#[derive(Debug, thiserror::Error)]
#[error("the probes of GPUs have ended: {0}")]
pub struct Ended(String);

/// The task that runs all probes.
#[derive(Debug)]
pub struct Probes {
    watches: Vec<GpuWatch>,
    merge: Merge,
    /// Tells the thread that hears errors to end.
    _hearing: std_mpsc::Sender<()>,
}

/// Starts a thread for each vendor; nothing is asked before [`Probes::run`]. What all say together can
/// be read any time; what has to be known in order comes through the channel.
///
/// # Errors
/// When the system has no thread to give.
pub fn start(
    options: &Options,
    pace: Pace,
) -> io::Result<(Probes, Readings, mpsc::Receiver<Heard>)> {
    let root = Path::new(ROOT);
    let sees_processes = options.sees_processes;
    let asking = nvidia::Asking {
        library: nvml::Asking {
            library: options.nvml_library.clone(),
            sees_processes,
        },
        tool: nvidia_smi::Asking {
            tool: options.nvidia_smi.clone(),
            sees_processes,
        },
    };
    let started = [
        GpuWatch::start("nvidia", move || Nvidia::open(&asking), pace)?,
        GpuWatch::start("amd", move || Amd::open(root, sees_processes), pace)?,
        GpuWatch::start("google", move || Tpu::open(root), pace)?,
    ];
    let (xids_in, xids) = mpsc::channel(XIDS);
    let (hearing, until) = std_mpsc::channel();
    nvml::xid::listen(
        options.nvml_library.clone(),
        xids_in,
        until,
        pace.inventory_every,
    )?;
    let (watches, vendors): (Vec<GpuWatch>, Vec<Readings>) = started.into_iter().unzip();
    let (merge, readings, heard) = Merge::new(vendors, xids, options.offered.clone());
    let probes = Probes {
        watches,
        merge,
        _hearing: hearing,
    };
    Ok((probes, readings, heard))
}

impl Probes {
    /// Runs until `token` is cancelled.
    ///
    /// # Errors
    /// When a probe panicked, or nobody listens any more.
    pub async fn run(mut self, token: CancellationToken) -> Result<(), Ended> {
        let mut tasks = JoinSet::new();
        for watch in self.watches {
            tasks.spawn(watch.run(token.clone()));
        }
        tokio::select! {
            biased;
            () = token.cancelled() => Ok(()),
            // Why one ended says more than that its words have.
            Some(ended) = tasks.join_next() => Err(Ended(match ended {
                Ok(Ok(())) => "one was told to".to_owned(),
                Ok(Err(gone)) => gone.to_string(),
                Err(error) => error.to_string(),
            })),
            ended = self.merge.run() => match ended {
                Err(why) => Err(Ended(why.to_owned())),
            },
        }
    }
}

/// Makes one of what several probes say.
#[derive(Debug)]
struct Merge {
    vendors: Vec<Readings>,
    xids: mpsc::Receiver<Xid>,
    xids_end: bool,
    offered: Option<BTreeSet<GpuUuid>>,
    told_missing: bool,
    /// The last look of each vendor that was passed on.
    looks: Vec<Arc<Sampled>>,
    report: watch::Sender<GpuReport>,
    samples: watch::Sender<Arc<Sampled>>,
    look: Arc<Notify>,
    heard: mpsc::Sender<Heard>,
}

enum News {
    Said,
    Look,
    Xid(Xid),
    NoMoreXids,
}

impl Merge {
    fn new(
        vendors: Vec<Readings>,
        xids: mpsc::Receiver<Xid>,
        offered: Option<BTreeSet<GpuUuid>>,
    ) -> (Self, Readings, mpsc::Receiver<Heard>) {
        let first = vendors.iter().map(|vendor| vendor.report.borrow().clone());
        let (report, report_reader) = watch::channel(merged(first, offered.as_ref()));
        let (samples, samples_reader) = watch::channel(Arc::default());
        let (heard, hears) = mpsc::channel(HEARD);
        let look = Arc::new(Notify::new());
        let readings = Readings {
            report: report_reader,
            samples: samples_reader,
            look: Arc::clone(&look),
        };
        let looks = vendors.iter().map(|vendor| vendor.samples.borrow().clone());
        let merge = Self {
            looks: looks.collect(),
            vendors,
            xids,
            xids_end: false,
            offered,
            told_missing: false,
            report,
            samples,
            look,
            heard,
        };
        (merge, readings, hears)
    }

    async fn run(&mut self) -> Result<Infallible, &'static str> {
        const NOBODY: &str = "nobody listens";
        loop {
            let news = self.next().await?;
            let heard = match news {
                News::Said => self.said(),
                News::Xid(xid) => vec![Heard::Xid(xid)],
                News::Look => {
                    for vendor in &self.vendors {
                        vendor.look.notify_one();
                    }
                    continue;
                }
                News::NoMoreXids => {
                    // Its thread has nothing more to hear; the probes say why.
                    self.xids_end = true;
                    continue;
                }
            };
            for heard in heard {
                self.heard.send(heard).await.map_err(|_| NOBODY)?;
            }
        }
    }

    async fn next(&mut self) -> Result<News, &'static str> {
        let said = self.vendors.iter_mut().map(|vendor| {
            Box::pin(async {
                tokio::select! {
                    biased;
                    changed = vendor.report.changed() => changed,
                    changed = vendor.samples.changed() => changed,
                }
            })
        });
        tokio::select! {
            biased;
            // An error first: what is read after it may show it.
            xid = self.xids.recv(), if !self.xids_end => {
                Ok(xid.map_or(News::NoMoreXids, News::Xid))
            }
            () = self.look.notified() => Ok(News::Look),
            (changed, ..) = select_all(said) => {
                changed.map(|()| News::Said).map_err(|_| "a probe is gone")
            }
        }
    }

    /// All that is new, published for those who read, and in order for those who listen.
    fn said(&mut self) -> Vec<Heard> {
        // Looks before reports: a GPU that was looked at is then among those that are reported.
        let vendors = self.vendors.iter();
        let looks: Vec<Arc<Sampled>> = vendors
            .map(|vendor| vendor.samples.borrow().clone())
            .collect();
        let vendors = self.vendors.iter();
        let reports = vendors.map(|vendor| vendor.report.borrow().clone());
        let merged = merged(reports, self.offered.as_ref());
        let mut heard = Vec::new();
        if *self.report.borrow() != merged {
            self.say_what_is_missing(&merged);
            self.report.send_replace(merged.clone());
            heard.push(Heard::Gpus(merged));
        }
        let new: Vec<bool> = (looks.iter().zip(&self.looks))
            .map(|(now, before)| !Arc::ptr_eq(now, before))
            .collect();
        if new.contains(&true) {
            self.looks = looks;
            let owned = self
                .looks
                .iter()
                .map(|look| own(look, self.offered.as_ref()));
            let owned: Vec<Arc<Sampled>> = owned.collect();
            self.samples.send_replace(Arc::new(together(&owned)));
            let new = owned
                .into_iter()
                .zip(new)
                .filter(|(look, new)| *new && !look.readings.is_empty());
            heard.extend(new.map(|(look, _)| Heard::Readings(look)));
        }
        heard
    }

    /// A name that the configuration offers and nobody lists is said once.
    fn say_what_is_missing(&mut self, report: &GpuReport) {
        if self.told_missing || !report.complete() {
            return;
        }
        self.told_missing = true;
        for uuid in self.offered.iter().flatten() {
            if report.gpus.iter().all(|found| found.gpu.uuid != *uuid) {
                tracing::warn!(%uuid, "resources.gpus names a GPU that is not there");
            }
        }
    }
}

/// What all say, less what the provider keeps for himself.
fn merged(
    reports: impl Iterator<Item = GpuReport>,
    offered: Option<&BTreeSet<GpuUuid>>,
) -> GpuReport {
    let is_offered = |uuid: &GpuUuid| offered.is_none_or(|offered| offered.contains(uuid));
    let mut all = GpuReport::default();
    for report in reports {
        for mut found in report.gpus {
            let twice = all
                .gpus
                .iter()
                .any(|other| other.gpu.uuid == found.gpu.uuid);
            if is_offered(&found.gpu.uuid) && !twice {
                found.gpu.links.retain(|link| is_offered(&link.uuid));
                all.gpus.push(found);
            }
        }
        all.probes.extend(report.probes);
    }
    all
}

fn own(look: &Arc<Sampled>, offered: Option<&BTreeSet<GpuUuid>>) -> Arc<Sampled> {
    let Some(offered) = offered else {
        return Arc::clone(look);
    };
    let readings = look.readings.iter();
    let own = readings.filter(|reading| offered.contains(&reading.sample.uuid));
    Arc::new(Sampled {
        asked_at: look.asked_at,
        readings: own.cloned().collect(),
    })
}

/// Of all that is in it, the oldest was asked for then.
fn together(looks: &[Arc<Sampled>]) -> Sampled {
    let some = looks.iter().filter(|look| !look.readings.is_empty());
    Sampled {
        asked_at: some.map(|look| look.asked_at).min().unwrap_or_default(),
        readings: looks
            .iter()
            .flat_map(|look| look.readings.clone())
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gpu::{Found, Reading, watch::ProbeReport},
        protocol::record::{Gpu, GpuLink, Health, LinkKind},
    };

    fn uuid(name: &str) -> GpuUuid {
        name.parse().unwrap()
    }

    fn report(vendor: &'static str, complete: bool, names: &[&str]) -> GpuReport {
        let link = |to: &&&str| GpuLink {
            uuid: uuid(to),
            kind: LinkKind::System,
        };
        let found = |name: &&str| {
            Found::from(Gpu {
                links: names
                    .iter()
                    .filter(|other| *other != name)
                    .map(|to| link(&to))
                    .collect(),
                ..Gpu::bare(uuid(name), vendor)
            })
        };
        GpuReport {
            gpus: names.iter().map(found).collect(),
            probes: vec![ProbeReport {
                vendor,
                complete,
                health: Health::Ok,
                problem: None,
            }],
        }
    }

    fn look(asked_at: u64, names: &[&str]) -> Arc<Sampled> {
        Arc::new(Sampled {
            asked_at: std::time::Duration::from_secs(asked_at),
            readings: names.iter().map(|name| Reading::of(uuid(name))).collect(),
        })
    }

    #[test]
    fn the_inventory_is_complete_when_every_probe_has_answered() {
        let nvidia = report("nvidia", true, &["GPU-a"]);
        let half = [nvidia.clone(), report("amd", false, &[])];
        assert!(!merged(half.into_iter(), None).complete());
        let whole = merged([nvidia, report("amd", true, &["GPU-b"])].into_iter(), None);
        assert!(whole.complete());
        assert_eq!((whole.gpus.len(), whole.probes.len()), (2, 2));
    }

    #[test]
    fn what_the_provider_keeps_is_neither_listed_nor_linked_to_nor_measured() {
        let offered = BTreeSet::from([uuid("GPU-a"), uuid("GPU-c")]);
        let all = report("nvidia", true, &["GPU-a", "GPU-b", "GPU-c"]);
        let report = merged([all].into_iter(), Some(&offered));
        let names: Vec<&str> = report
            .gpus
            .iter()
            .map(|found| found.gpu.uuid.as_str())
            .collect();
        assert_eq!(names, ["GPU-a", "GPU-c"]);
        let links: Vec<&str> = report.gpus[0]
            .gpu
            .links
            .iter()
            .map(|link| link.uuid.as_str())
            .collect();
        assert_eq!(links, ["GPU-c"]);
        let look = own(&look(1, &["GPU-b", "GPU-c"]), Some(&offered));
        assert_eq!(look.readings, [Reading::of(uuid("GPU-c"))]);
    }

    #[test]
    fn looks_together_are_as_old_as_the_oldest_that_shows_something() {
        let all = together(&[look(9, &["GPU-a"]), look(0, &[]), look(7, &["GPU-b"])]);
        assert_eq!(all.asked_at.as_secs(), 7);
        assert_eq!(all.readings.len(), 2);
    }

    #[tokio::test]
    async fn a_gpu_is_heard_of_before_what_was_read_of_it() {
        let (reports, report_reader) = watch::channel(report("nvidia", false, &[]));
        let (samples, samples_reader) = watch::channel(Arc::default());
        let vendor = Readings {
            report: report_reader,
            samples: samples_reader,
            look: Arc::default(),
        };
        let looked = Arc::clone(&vendor.look);
        let (_xids, xids) = mpsc::channel(1);
        let (mut merge, readings, mut heard) = Merge::new(vec![vendor], xids, None);
        let hearing = async {
            samples.send_replace(look(1, &["GPU-a"]));
            reports.send_replace(report("nvidia", true, &["GPU-a"]));
            assert!(matches!(heard.recv().await, Some(Heard::Gpus(_))));
            assert!(matches!(heard.recv().await, Some(Heard::Readings(_))));
            assert_eq!(readings.samples.borrow().readings.len(), 1);
            readings.look.notify_one();
            looked.notified().await;
        };
        tokio::select! {
            ended = merge.run() => panic!("{ended:?}"),
            () = hearing => {}
        }
    }
}

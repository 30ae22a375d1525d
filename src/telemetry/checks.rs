//! Verdicts on what has been seen: engine, disks, GPUs and their probe, clock. No IO, no clock.

use crate::{
    gpu::{
        health::Thresholds,
        ward::Wiped,
        watch::{GpuReport, ProbeReport},
    },
    ids::GpuUuid,
    instance::publish::Snapshot,
    protocol::{
        message::{GpuSample, HealthCheck},
        record::{Disk, EngineStatus, Health},
    },
};

/// Server time and host time differ by more: something is wrong with one of them.
const SKEW_WARNING_S: f64 = 5.0;
/// By more: not rentable.
const SKEW_FAILED_S: f64 = 60.0;

/// All that verdicts are made from.
pub(super) struct Seen<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) gpus: &'a GpuReport,
    /// The last ones; a GPU without one was not seen.
    pub(super) samples: &'a [GpuSample],
    pub(super) thresholds: &'a Thresholds,
    /// `None` while a file system does not answer.
    pub(super) disks: Option<&'a [Disk]>,
    pub(super) reserve_disk_bytes: u64,
}

/// One verdict on each part, in an order that does not change.
pub(super) fn all(seen: &Seen<'_>) -> Vec<HealthCheck> {
    let mut checks = vec![engine(seen.snapshot.status.engine)];
    for known in &seen.snapshot.host.disks {
        checks.push(disk(known, seen));
    }
    checks.extend(seen.gpus.probes.iter().map(probe));
    for gpu in &seen.snapshot.gpus {
        let message = gpu.health_reasons.join("; ");
        checks.push(check("gpu", gpu.uuid.as_str(), gpu.health, message));
        let mut samples = seen.samples.iter();
        let sample = samples.find(|sample| sample.uuid == gpu.uuid);
        checks.extend(climate(&gpu.uuid, sample, seen.thresholds));
        let wiped = seen.snapshot.wipes.get(&gpu.uuid);
        checks.extend(wiped.map(|wiped| wipe(&gpu.uuid, wiped)));
    }
    checks.push(clock(seen.snapshot.status.clock_offset_s));
    checks
}

fn check(name: &str, subject: &str, status: Health, message: impl Into<String>) -> HealthCheck {
    HealthCheck {
        name: name.to_owned(),
        subject: subject.to_owned(),
        status,
        message: message.into(),
        value: None,
        threshold: None,
    }
}

fn engine(status: EngineStatus) -> HealthCheck {
    let (health, message) = match status {
        EngineStatus::Ok => (Health::Ok, "it answers"),
        EngineStatus::Degraded => (Health::Warning, "it takes connections and is silent"),
        EngineStatus::Unavailable => (Health::Failed, "it cannot be reached"),
    };
    check("engine", "docker", health, message)
}

fn disk(known: &Disk, seen: &Seen<'_>) -> HealthCheck {
    let found = seen
        .disks
        .and_then(|disks| disks.iter().find(|disk| disk.mount == known.mount));
    let (health, message) = match found {
        None => (Health::Unknown, "the file system does not answer"),
        Some(disk) if disk.free_bytes < seen.reserve_disk_bytes => {
            (Health::Failed, "less is free than is kept for the host")
        }
        Some(_) => (Health::Ok, "there is room"),
    };
    HealthCheck {
        value: found.map(|disk| float(disk.free_bytes)),
        threshold: Some(float(seen.reserve_disk_bytes)),
        ..check("disk", &known.mount, health, message)
    }
}

fn probe(report: &ProbeReport) -> HealthCheck {
    let message = report.problem.as_deref().unwrap_or(if report.complete {
        "the driver answers"
    } else {
        "the driver has not answered yet"
    });
    check("gpu_probe", report.vendor, report.health, message)
}

/// A GPU's temperature, and its power where there is a limit for it.
fn climate(
    uuid: &GpuUuid,
    sample: Option<&GpuSample>,
    thresholds: &Thresholds,
) -> Vec<HealthCheck> {
    let judged = |name, value: Option<f64>, threshold: f64| {
        let (health, message) = match value {
            None => (Health::Unknown, "it is not told"),
            Some(value) if value > threshold => (Health::Warning, "more than is usual"),
            Some(_) => (Health::Ok, "as usual"),
        };
        HealthCheck {
            value,
            threshold: Some(threshold),
            ..check(name, uuid.as_str(), health, message)
        }
    };
    let temperature = sample.and_then(|sample| sample.temperature_c);
    let power = sample.and_then(|sample| sample.power_w);
    let hot = judged("gpu_temperature", temperature, thresholds.temperature_max_c);
    let limit = thresholds.power_max_w;
    let hungry = limit.map(|limit| judged("gpu_power", power, limit));
    std::iter::once(hot).chain(hungry).collect()
}

/// What came of the last wipe. A host without the means to is told so; its GPUs are offered.
fn wipe(uuid: &GpuUuid, wiped: &Wiped) -> HealthCheck {
    let (health, message) = match wiped {
        Wiped::Done {
            wiped_bytes,
            total_bytes,
        } => {
            let message = format!("{wiped_bytes} of {total_bytes} bytes were overwritten");
            (Health::Ok, message)
        }
        Wiped::Impossible(why) => {
            let message = format!("what a rental leaves in its memory is not wiped: {why}");
            (Health::Warning, message)
        }
        Wiped::Failed(why) => (Health::Failed, format!("it could not be wiped: {why}")),
    };
    check("gpu_wipe", uuid.as_str(), health, message)
}

fn clock(offset_s: Option<f64>) -> HealthCheck {
    let (health, message) = match offset_s.map(f64::abs) {
        None => (Health::Unknown, "the server has not told the time yet"),
        Some(off) if off > SKEW_FAILED_S => (Health::Failed, "the host's clock is wrong"),
        Some(off) if off > SKEW_WARNING_S => (Health::Warning, "the host's clock is off"),
        Some(_) => (Health::Ok, "the clocks agree"),
    };
    HealthCheck {
        value: offset_s,
        threshold: Some(SKEW_WARNING_S),
        ..check("clock", "host", health, message)
    }
}

/// The nearest floating point number, without a cast.
fn float(number: u64) -> f64 {
    let half = |part: u64| f64::from(u32::try_from(part & 0xffff_ffff).unwrap_or(u32::MAX));
    half(number >> 32) * 4_294_967_296.0 + half(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::record::{Gpu, Host, Status};

    const RESERVE: u64 = 10 << 30;

    fn disk_of(free_bytes: u64) -> Disk {
        Disk {
            mount: "/".to_owned(),
            total_bytes: 100 << 30,
            free_bytes,
        }
    }

    fn verdict(name: &str, status: Status, probe: Health, disks: Option<&[Disk]>) -> Health {
        let snapshot = Snapshot {
            status,
            host: Host {
                disks: vec![disk_of(0)],
                ..Host::default()
            },
            ..Snapshot::default()
        };
        let gpus = GpuReport {
            gpus: Vec::new(),
            probes: vec![ProbeReport {
                vendor: "nvidia",
                complete: true,
                health: probe,
                problem: None,
            }],
        };
        let checks = all(&Seen {
            snapshot: &snapshot,
            gpus: &gpus,
            samples: &[],
            thresholds: &Thresholds::default(),
            disks,
            reserve_disk_bytes: RESERVE,
        });
        let mut named = checks.iter().filter(|check| check.name == name);
        let found = named.next().unwrap().status;
        assert!(named.next().is_none(), "one verdict on each part");
        found
    }

    #[test]
    fn room_below_the_reserve_is_a_failure_and_silence_is_unknown() {
        let of = |disks: Option<&[Disk]>| verdict("disk", Status::default(), Health::Ok, disks);
        assert_eq!(of(Some(&[disk_of(RESERVE)])), Health::Ok);
        assert_eq!(of(Some(&[disk_of(RESERVE - 1)])), Health::Failed);
        assert_eq!(of(Some(&[])), Health::Unknown);
        assert_eq!(of(None), Health::Unknown);
    }

    #[test]
    fn a_clock_that_is_off_is_told_in_both_directions() {
        let of = |clock_offset_s| {
            let status = Status {
                clock_offset_s,
                ..Status::default()
            };
            verdict("clock", status, Health::Ok, None)
        };
        assert_eq!(of(None), Health::Unknown);
        assert_eq!(of(Some(-4.9)), Health::Ok);
        assert_eq!(of(Some(-5.1)), Health::Warning);
        assert_eq!(of(Some(61.0)), Health::Failed);
    }

    #[test]
    fn the_engine_and_the_probe_are_judged_by_what_they_say() {
        let of = |engine| {
            let status = Status {
                engine,
                ..Status::default()
            };
            verdict("engine", status, Health::Ok, None)
        };
        assert_eq!(of(EngineStatus::Ok), Health::Ok);
        assert_eq!(of(EngineStatus::Degraded), Health::Warning);
        assert_eq!(of(EngineStatus::Unavailable), Health::Failed);
        let stale = verdict("gpu_probe", Status::default(), Health::Unknown, None);
        assert_eq!(stale, Health::Unknown);
    }

    fn checks_of(sample: Option<GpuSample>, wiped: Option<Wiped>) -> Vec<(String, Health)> {
        let gpu = Gpu::bare("GPU-a".parse().unwrap(), "nvidia");
        let wipes = wiped.map(|wiped| (gpu.uuid.clone(), wiped));
        let snapshot = Snapshot {
            gpus: vec![gpu],
            wipes: wipes.into_iter().collect(),
            ..Snapshot::default()
        };
        let samples: Vec<GpuSample> = sample.into_iter().collect();
        let checks = all(&Seen {
            snapshot: &snapshot,
            gpus: &GpuReport::default(),
            samples: &samples,
            thresholds: &Thresholds {
                power_max_w: Some(300.0),
                ..Thresholds::default()
            },
            disks: None,
            reserve_disk_bytes: RESERVE,
        });
        let gpu = checks
            .into_iter()
            .filter(|check| check.name.starts_with("gpu_"));
        let gpu = gpu.filter(|check| check.name != "gpu_probe");
        gpu.map(|check| (check.name, check.status)).collect()
    }

    #[test]
    fn a_gpus_climate_is_told_with_its_limits_and_is_unknown_when_it_is_not_seen() {
        let named = |temperature, power| {
            [
                ("gpu_temperature".to_owned(), temperature),
                ("gpu_power".to_owned(), power),
            ]
        };
        assert_eq!(
            checks_of(None, None),
            named(Health::Unknown, Health::Unknown)
        );
        let mut sample = crate::gpu::Reading::of("GPU-a".parse().unwrap()).sample;
        sample.temperature_c = Some(90.0);
        sample.power_w = Some(250.0);
        assert_eq!(
            checks_of(Some(sample), None),
            named(Health::Warning, Health::Ok)
        );
    }

    #[test]
    fn what_came_of_a_wipe_is_told() {
        let of = |wiped| checks_of(None, Some(wiped)).pop().unwrap();
        let told = |status| ("gpu_wipe".to_owned(), status);
        let done = Wiped::Done {
            wiped_bytes: 1,
            total_bytes: 2,
        };
        assert_eq!(of(done), told(Health::Ok));
        assert_eq!(of(Wiped::Impossible("x".to_owned())), told(Health::Warning));
        assert_eq!(of(Wiped::Failed("x".to_owned())), told(Health::Failed));
    }

    #[test]
    fn numbers_stay_what_they_are() {
        assert_eq!(float(0), 0.0);
        assert_eq!(float(4_294_967_297), 4_294_967_297.0);
        assert_eq!(float(1 << 53), 9_007_199_254_740_992.0);
    }
}

//! How a GPU is, by what its driver tells of it at one moment. Severities and not a yes or no: what
//! is only unusual is a warning, so that a check that is too strict costs nobody a good GPU. Errors of
//! its whole life are not judged; those since the driver was loaded are. Pure.

use super::{Reading, Recovery};
use crate::protocol::record::Health;

/// Where a reading becomes remarkable.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// Hotter is a warning.
    pub temperature_max_c: f64,
    /// More power is a warning; `None`: never.
    pub power_max_w: Option<f64>,
    /// More uncorrected memory errors since the driver was loaded are a failure.
    pub ecc_uncorrected_max: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            temperature_max_c: 85.0,
            power_max_w: None,
            ecc_uncorrected_max: 0,
        }
    }
}

/// How a GPU is, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// How it is.
    pub health: Health,
    /// Nothing new may be let onto it, although it is no failure.
    pub drain: bool,
    /// Why it is not `ok`.
    pub reasons: Vec<String>,
}

impl Verdict {
    /// Nothing is wrong.
    pub fn ok() -> Self {
        Self {
            health: Health::Ok,
            drain: false,
            reasons: Vec::new(),
        }
    }

    /// With one more thing that is wrong.
    pub fn add(&mut self, health: Health, reason: String) {
        if severity(health) > severity(self.health) {
            self.health = health;
        }
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    /// Whether a tenant can be let onto it.
    pub fn is_fit(&self) -> bool {
        !self.drain && matches!(self.health, Health::Ok | Health::Warning)
    }
}

/// What is not known weighs more than what is only unusual, and less than a failure.
fn severity(health: Health) -> u8 {
    match health {
        Health::Ok => 0,
        Health::Warning => 1,
        Health::Unknown => 2,
        Health::Failed => 3,
    }
}

/// A GPU that does less than this much of the time runs its link slower, to save power.
const UNDER_LOAD_PERCENT: f64 = 10.0;

/// Throttling by these is not how a GPU is meant to run; a power limit is.
const TROUBLED_CLOCKS: [&str; 3] = ["thermal", "brake", "hw_slowdown"];

/// Judges one reading.
pub fn judge(reading: &Reading, thresholds: &Thresholds) -> Verdict {
    let mut verdict = Verdict::ok();
    memory(reading, thresholds, &mut verdict);
    recovery(reading, &mut verdict);
    climate(reading, thresholds, &mut verdict);
    link(reading, &mut verdict);
    verdict
}

fn memory(reading: &Reading, thresholds: &Thresholds, verdict: &mut Verdict) {
    let vitals = &reading.vitals;
    let errors = vitals.ecc_uncorrected_volatile.unwrap_or(0);
    if errors > thresholds.ecc_uncorrected_max {
        let reason = format!("{errors} uncorrected memory errors; it has to be reset");
        verdict.add(Health::Failed, reason);
    }
    if vitals.remap_failed == Some(true) {
        let reason = "it has no spare memory row left; it has to be replaced";
        verdict.add(Health::Failed, reason.to_owned());
    }
    if vitals.remap_pending == Some(true) {
        let reason = "a memory row waits to be remapped; it has to be reset";
        verdict.add(Health::Warning, reason.to_owned());
        verdict.drain = true;
    }
}

fn recovery(reading: &Reading, verdict: &mut Verdict) {
    match reading.vitals.recovery {
        None => {}
        Some(Recovery::ResetGpu) => {
            let reason = "the driver wants it to be reset";
            verdict.add(Health::Failed, reason.to_owned());
        }
        Some(Recovery::RebootNode) => {
            let reason = "the driver wants the host to be rebooted";
            verdict.add(Health::Failed, reason.to_owned());
        }
        Some(Recovery::DrainAndReset) => {
            let reason = "the driver wants it to be drained and reset";
            verdict.add(Health::Warning, reason.to_owned());
            verdict.drain = true;
        }
    }
}

/// The numbers are in the samples: a reason that changes with each of them would be told each time.
fn climate(reading: &Reading, thresholds: &Thresholds, verdict: &mut Verdict) {
    let (sample, vitals) = (&reading.sample, &reading.vitals);
    let most = thresholds.temperature_max_c;
    if sample.temperature_c.is_some_and(|now| now > most) {
        verdict.add(Health::Warning, format!("it is hotter than {most} °C"));
        if vitals.fan_percent == Some(0) {
            verdict.add(Health::Warning, "its fan stands still".to_owned());
        }
    }
    if let (Some(now), Some(most)) = (sample.power_w, thresholds.power_max_w)
        && now > most
    {
        verdict.add(Health::Warning, format!("it takes more than {most} W"));
    }
    let troubled = |name: &&String| {
        let name = name.to_ascii_lowercase().replace(' ', "_");
        TROUBLED_CLOCKS.iter().any(|word| name.contains(word))
    };
    for name in vitals.throttle_reasons.iter().filter(troubled) {
        verdict.add(Health::Warning, format!("its clocks are held down: {name}"));
    }
}

/// Idle ones run it slower on purpose.
fn link(reading: &Reading, verdict: &mut Verdict) {
    let load = reading.sample.utilization_percent.unwrap_or(0.0);
    if load < UNDER_LOAD_PERCENT {
        return;
    }
    let links = [
        ("lanes", reading.vitals.pcie_width),
        ("generation", reading.vitals.pcie_generation),
    ];
    for (what, now_and_most) in links {
        if let Some((now, most)) = now_and_most.filter(|(now, most)| now < most) {
            let reason = format!("its PCIe link is slow under load: {what} {now} of {most}");
            verdict.add(Health::Warning, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Vitals;

    fn reading(change: impl FnOnce(&mut Reading)) -> Reading {
        let mut reading = Reading::of("GPU-a".parse().unwrap());
        reading.sample.temperature_c = Some(55.0);
        reading.sample.power_w = Some(120.0);
        reading.sample.utilization_percent = Some(80.0);
        reading.vitals = Vitals {
            ecc_uncorrected_volatile: Some(0),
            ecc_uncorrected_aggregate: Some(7),
            remap_pending: Some(false),
            remap_failed: Some(false),
            fan_percent: Some(40),
            throttle_reasons: vec!["sw_power_cap".to_owned()],
            pcie_generation: Some((4, 4)),
            pcie_width: Some((16, 16)),
            recovery: None,
        };
        change(&mut reading);
        reading
    }

    #[track_caller]
    fn check(expected: (Health, bool), change: impl FnOnce(&mut Reading)) {
        let thresholds = Thresholds {
            power_max_w: Some(300.0),
            ..Thresholds::default()
        };
        let verdict = judge(&reading(change), &thresholds);
        assert_eq!((verdict.health, verdict.drain), expected, "{verdict:?}");
        assert_eq!(verdict.reasons.is_empty(), verdict.health == Health::Ok);
    }

    #[test]
    fn a_gpu_that_works_hard_is_well() {
        check((Health::Ok, false), |_| {});
        check((Health::Ok, false), |r| r.sample.temperature_c = Some(85.0));
    }

    #[test]
    fn one_that_tells_nothing_is_well() {
        check((Health::Ok, false), |r| {
            *r = Reading::of(r.sample.uuid.clone())
        });
    }

    #[test]
    fn memory_that_lost_data_is_a_failure() {
        let failed = (Health::Failed, false);
        check(failed, |r| r.vitals.ecc_uncorrected_volatile = Some(1));
        check(failed, |r| r.vitals.remap_failed = Some(true));
    }

    #[test]
    fn a_repair_that_waits_for_a_reset_drains() {
        let drained = (Health::Warning, true);
        check(drained, |r| r.vitals.remap_pending = Some(true));
        check(drained, |r| {
            r.vitals.recovery = Some(Recovery::DrainAndReset)
        });
    }

    #[test]
    fn what_the_driver_wants_done_is_a_failure() {
        for wanted in [Recovery::ResetGpu, Recovery::RebootNode] {
            check((Health::Failed, false), |r| {
                r.vitals.recovery = Some(wanted)
            });
        }
    }

    #[test]
    fn heat_power_and_clocks_are_warnings() {
        let warning = (Health::Warning, false);
        check(warning, |r| r.sample.temperature_c = Some(85.5));
        check(warning, |r| r.sample.power_w = Some(301.0));
        check(warning, |r| {
            r.vitals.throttle_reasons = vec!["HW Thermal Slowdown".to_owned()]
        });
    }

    #[test]
    fn a_narrow_link_is_a_warning_under_load_only() {
        check((Health::Warning, false), |r| {
            r.vitals.pcie_width = Some((8, 16))
        });
        check((Health::Ok, false), |r| {
            r.vitals.pcie_generation = Some((1, 4));
            r.sample.utilization_percent = Some(0.0);
        });
    }

    #[test]
    fn the_worst_counts_and_every_reason_is_told() {
        let sick = reading(|r| {
            r.sample.temperature_c = Some(95.0);
            r.vitals.ecc_uncorrected_volatile = Some(3);
        });
        let verdict = judge(&sick, &Thresholds::default());
        assert_eq!(verdict.health, Health::Failed);
        assert_eq!(verdict.reasons.len(), 2);
        assert!(!verdict.is_fit());
    }
}

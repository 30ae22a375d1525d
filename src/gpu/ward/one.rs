//! One GPU of the ward: what its driver says, what a look shows, and how clean it is. Pure.

use std::time::Duration;

use super::{Holder, Policy, Wiped};
use crate::{
    gpu::{
        Reading,
        health::{self, Verdict},
        occupancy,
        quarantine::{Quarantine, Trouble},
    },
    protocol::record::Health,
};

/// How much is known of what is on a GPU. Times are of the boot-time clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tidiness {
    Dirty {
        since: Duration,
    },
    /// With when something was on it again meanwhile.
    BeingWiped {
        soiled: Option<Duration>,
    },
    Clean {
        since: Duration,
    },
}

/// What a driver is able to tell of a GPU.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tells {
    processes: bool,
    memory: bool,
}

impl Tells {
    fn with(self, reading: &Reading) -> Self {
        Self {
            processes: self.processes || reading.processes.is_some(),
            memory: self.memory || reading.sample.memory_used_bytes.is_some(),
        }
    }

    /// It leaves out what it could tell before.
    fn is_less_in(self, reading: &Reading) -> bool {
        (self.processes && reading.processes.is_none())
            || (self.memory && reading.sample.memory_used_bytes.is_none())
    }
}

/// One GPU.
#[derive(Debug, Clone)]
pub(super) struct One {
    pub(super) vendor: String,
    /// What the probe says of it.
    pub(super) driver: Verdict,
    /// Programs see its partitions only.
    pub(super) partitioned: bool,
    /// Why it cannot be wiped, where its kind says that.
    pub(super) unwipeable: Option<&'static str>,
    pub(super) reading: Option<Reading>,
    /// The last sample lacked it although an earlier one had it.
    pub(super) missing: bool,
    /// Its driver has told who works on it, and how much memory is in use: when it does not any more,
    /// that is no sign that nobody is there.
    pub(super) tells: Tells,
    /// The least memory that was in use while nobody was on it.
    pub(super) baseline: Option<u64>,
    pub(super) tidiness: Tidiness,
    /// Who was on it at the last look that counts.
    pub(super) user: Option<String>,
    /// A look that counts has shown that nobody is.
    pub(super) idle: bool,
    pub(super) quarantine: Quarantine,
    pub(super) wiped: Option<Wiped>,
}

impl One {
    pub(super) fn new(vendor: &str) -> Self {
        Self {
            vendor: vendor.to_owned(),
            driver: Verdict::ok(),
            partitioned: false,
            unwipeable: None,
            reading: None,
            missing: false,
            tells: Tells::default(),
            baseline: None,
            tidiness: Tidiness::Dirty {
                since: Duration::ZERO,
            },
            user: None,
            idle: false,
            quarantine: Quarantine::default(),
            wiped: None,
        }
    }

    pub(super) fn read(
        &mut self,
        reading: &Reading,
        asked_at: Duration,
        holder: Holder,
        policy: &Policy,
    ) {
        self.missing = false;
        self.reading = Some(reading.clone());
        let seen = self.seen(policy);
        match seen.health {
            _ if seen.is_fit() => {
                self.quarantine.seen_well(asked_at);
            }
            Health::Unknown => self.quarantine.unseen(),
            Health::Ok | Health::Warning | Health::Failed => self.ail(&seen, asked_at),
        }
        match holder {
            Holder::Rental => {}
            Holder::Stranger => self.soil(asked_at),
            Holder::Nobody | Holder::Leaving => self.look(reading, asked_at, policy),
        }
    }

    /// What a look says of whether it is used, if it is later than what it is to show.
    fn look(&mut self, reading: &Reading, asked_at: Duration, policy: &Policy) {
        let counts = match self.tidiness {
            Tidiness::BeingWiped { .. } => false,
            Tidiness::Dirty { since } | Tidiness::Clean { since } => asked_at >= since,
        };
        if !counts {
            return;
        }
        if self.tells.is_less_in(reading) {
            return self.soil(asked_at);
        }
        self.tells = self.tells.with(reading);
        self.user = occupancy::user(reading, self.baseline, &policy.idle);
        self.idle = self.user.is_none();
        if self.idle {
            let used = occupancy::memory_used(reading, &policy.idle);
            self.baseline = [self.baseline, used].into_iter().flatten().min();
        } else {
            self.tidiness = Tidiness::Dirty { since: asked_at };
        }
    }

    pub(super) fn missed(&mut self, asked_at: Duration) {
        self.missing = self.missing || self.reading.is_some();
        self.reading = None;
        self.quarantine.unseen();
        self.soil(asked_at);
    }

    /// Something was on it until now, or may have been: nobody saw.
    pub(super) fn soil(&mut self, now: Duration) {
        self.tidiness = match self.tidiness {
            Tidiness::BeingWiped { .. } => Tidiness::BeingWiped { soiled: Some(now) },
            Tidiness::Dirty { .. } | Tidiness::Clean { .. } => Tidiness::Dirty { since: now },
        };
        self.idle = false;
        self.user = None;
    }

    pub(super) fn ail(&mut self, verdict: &Verdict, now: Duration) {
        let trouble = Trouble {
            why: verdict.reasons.join("; "),
            health: verdict.health,
            needs_a_person: false,
        };
        self.quarantine.ail(trouble, now);
    }

    /// How it is by what can be seen of it now.
    pub(super) fn seen(&self, policy: &Policy) -> Verdict {
        if self.driver.health == Health::Unknown {
            return self.driver.clone();
        }
        let mut verdict = match &self.reading {
            Some(reading) => health::judge(reading, &policy.thresholds),
            None => Verdict::ok(),
        };
        for reason in &self.driver.reasons {
            verdict.add(self.driver.health, reason.clone());
        }
        if self.missing {
            let reason = "the driver has no answer for it";
            verdict.add(Health::Unknown, reason.to_owned());
        }
        verdict
    }

    /// The same, with what was wrong and has not been shown to be mended.
    pub(super) fn verdict(&self, policy: &Policy) -> Verdict {
        let mut verdict = self.seen(policy);
        if let Some(trouble) = self.quarantine.trouble()
            && trouble.why != verdict.reasons.join("; ")
        {
            verdict.add(trouble.health, trouble.why.clone());
        }
        verdict
    }

    pub(super) fn unclean(&self) -> Option<String> {
        let why = match self.tidiness {
            Tidiness::Clean { .. } => return None,
            Tidiness::BeingWiped { .. } => "its memory is being wiped",
            Tidiness::Dirty { .. } => "the driver has not shown yet that nobody is on it",
        };
        Some(why.to_owned())
    }
}

//! Which GPUs may be given to a tenant: the clean, idle, healthy ones that nobody keeps back. Pure.
//!
//! Every GPU is dirty until it was shown otherwise: at the start, since nobody knows what was on it,
//! after each tenant, and after whoever else used it. It is clean when a look that was asked for
//! later than that shows it idle and its memory has been wiped, where it can be.
//!
//! ```text
//!  dirty --a later look: idle--> being wiped --done, or impossible here--> clean
//!    ^                               | failed                               |
//!    |<-- quarantine, tests ---------+                                      |
//!    +<-- a tenant left it, somebody else is on it -------------------------+
//! ```

mod one;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::one::{One, Tidiness};
use super::{
    Sampled, Xid,
    health::{Thresholds, Verdict},
    occupancy::IdleRule,
    quarantine::Trouble,
    xid::{self, Action, Actions},
};
use crate::{
    ids::GpuUuid,
    protocol::{
        record::{Gpu, Health},
        text::printable,
    },
};

/// What the host's owner has to say on it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Policy {
    /// Where readings become remarkable.
    pub thresholds: Thresholds,
    /// What Xids mean.
    pub xid_actions: Actions,
    /// When a GPU counts as unused.
    pub idle: IdleRule,
    /// Wipe the memory after each tenant.
    pub wipe: bool,
}

/// Who has a GPU at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// Nobody that is known.
    Nobody,
    /// A rental.
    Rental,
    /// A rental whose container is verified gone.
    Leaving,
    /// Somebody else, or nobody knows: it is left alone.
    Stranger,
}

/// What came of a wipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wiped {
    /// So much of the memory has been overwritten.
    Done {
        /// Overwritten.
        wiped_bytes: u64,
        /// What there is.
        total_bytes: u64,
    },
    /// This host has no means to; nothing was done.
    Impossible(String),
    /// It was tried, and what is on the GPU now nobody knows.
    Failed(String),
}

/// Why a GPU is given to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withheld {
    /// Programs see its partitions only, and those are not rented out.
    Partitioned,
    /// It is in quarantine.
    Quarantined(String),
    /// Somebody uses it who is not this agent's.
    Used(String),
    /// What an earlier tenant left may still be on it.
    Unclean(String),
    /// It cannot be seen.
    Unseen(String),
}

/// All GPUs of the host.
#[derive(Debug, Clone)]
pub struct Ward {
    policy: Policy,
    gpus: BTreeMap<GpuUuid, One>,
}

impl Ward {
    /// Without any GPU.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            gpus: BTreeMap::new(),
        }
    }

    /// Takes in what the probes list: all that were ever listed, each with what its driver says. `now`
    /// is of the boot-time clock, as everywhere here.
    pub fn list(&mut self, gpus: &[Gpu], now: Duration) {
        for gpu in gpus {
            let one = self
                .gpus
                .entry(gpu.uuid.clone())
                .or_insert_with(|| One::new(&gpu.vendor));
            one.driver = Verdict {
                health: gpu.health,
                drain: false,
                reasons: gpu.health_reasons.clone(),
            };
            one.partitioned = gpu.mig.as_ref().is_some_and(|mig| mig.enabled);
            one.unwipeable = match gpu.vendor.as_str() {
                "nvidia" => None,
                _ => Some("only NVIDIA's can be wiped"),
            };
            match gpu.health {
                Health::Ok | Health::Warning => {}
                // Who uses it while its driver is silent, nobody sees.
                Health::Unknown => one.soil(now),
                Health::Failed => {
                    one.soil(now);
                    one.ail(&one.driver.clone(), now);
                }
            }
        }
    }

    /// Takes in a look at all of one vendor, or of several. One that shows none of a vendor's says
    /// nothing of them.
    pub fn read(&mut self, sampled: &Sampled, holder: impl Fn(&GpuUuid) -> Holder) {
        let of = |uuid: &GpuUuid| {
            let mut readings = sampled.readings.iter();
            readings.find(|reading| reading.sample.uuid == *uuid)
        };
        let shown = self.gpus.iter().filter(|(uuid, _)| of(uuid).is_some());
        let vendors: BTreeSet<String> = shown.map(|(_, one)| one.vendor.clone()).collect();
        for (uuid, one) in &mut self.gpus {
            match of(uuid) {
                Some(reading) => one.read(reading, sampled.asked_at, holder(uuid), &self.policy),
                None if vendors.contains(&one.vendor) => one.missed(sampled.asked_at),
                None => {}
            }
        }
    }

    /// Begins to clean those that a look has shown to be idle and that nobody holds. Those that have to
    /// be wiped are returned; each is answered by [`Ward::wiped`].
    pub fn clean(&mut self, now: Duration, holder: impl Fn(&GpuUuid) -> Holder) -> Vec<GpuUuid> {
        let mut to_wipe = Vec::new();
        for (uuid, one) in &mut self.gpus {
            let is_free = matches!(holder(uuid), Holder::Nobody | Holder::Leaving);
            let is_dirty = matches!(one.tidiness, Tidiness::Dirty { .. });
            if !is_free || !is_dirty || !one.idle || one.quarantine.holds() {
                continue;
            }
            match one.unwipeable {
                _ if !self.policy.wipe => one.tidiness = Tidiness::Clean { since: now },
                Some(why) => {
                    one.wiped = Some(Wiped::Impossible(why.to_owned()));
                    one.tidiness = Tidiness::Clean { since: now };
                }
                None => {
                    one.tidiness = Tidiness::BeingWiped { soiled: None };
                    to_wipe.push(uuid.clone());
                }
            }
        }
        to_wipe
    }

    /// A wipe is over.
    pub fn wiped(&mut self, uuid: &GpuUuid, wiped: Wiped, now: Duration) {
        let Some(one) = self.gpus.get_mut(uuid) else {
            return;
        };
        if let Tidiness::BeingWiped { soiled } = one.tidiness {
            one.tidiness = match (&wiped, soiled) {
                (Wiped::Done { .. } | Wiped::Impossible(_), Some(since)) => {
                    Tidiness::Dirty { since }
                }
                (Wiped::Done { .. } | Wiped::Impossible(_), None) => Tidiness::Clean { since: now },
                (Wiped::Failed(why), _) => {
                    let trouble = Trouble {
                        why: format!("its memory could not be wiped: {}", printable(why, 300)),
                        health: Health::Warning,
                        needs_a_person: false,
                    };
                    one.quarantine.ail(trouble, now);
                    one.idle = false;
                    Tidiness::Dirty { since: now }
                }
            };
        }
        one.wiped = Some(wiped);
    }

    /// A GPU reported an error: what has to be done, and the error in words.
    pub fn xid(&mut self, xid: &Xid, now: Duration) -> (Action, String) {
        let action = self.policy.xid_actions.of(xid.code);
        let words = format!("Xid {} ({})", xid.code, xid::name(xid.code));
        let (health, why) = match action {
            Action::Ignore | Action::RestartApp => return (action, words),
            Action::Drain => (Health::Warning, format!("{words}; it gets no new tenant")),
            Action::Reset => (
                Health::Failed,
                format!("{words}; it has to be reset, or the host rebooted"),
            ),
            Action::Replace => (
                Health::Failed,
                format!("{words}; somebody has to look at the hardware"),
            ),
        };
        if let Some(one) = self.gpus.get_mut(&xid.uuid) {
            let trouble = Trouble {
                why,
                health,
                needs_a_person: action == Action::Replace,
            };
            one.quarantine.ail(trouble, now);
        }
        (action, words)
    }

    /// Something was on it until now.
    pub fn soil(&mut self, uuid: &GpuUuid, now: Duration) {
        if let Some(one) = self.gpus.get_mut(uuid) {
            one.soil(now);
        }
    }

    /// Its owner keeps it back; `false` when there is no such GPU.
    pub fn keep(&mut self, uuid: &GpuUuid, why: String) -> bool {
        let one = self.gpus.get_mut(uuid);
        one.map(|one| one.quarantine.keep(why)).is_some()
    }

    /// Its owner wants it back in the offer; `None` when there is no such GPU, `false` when nothing
    /// kept it back.
    pub fn release(&mut self, uuid: &GpuUuid) -> Option<bool> {
        let one = self.gpus.get_mut(uuid)?;
        // A driver may have come since that takes more for itself.
        one.baseline = None;
        Some(one.quarantine.release())
    }

    /// How a GPU is.
    pub fn verdict(&self, uuid: &GpuUuid) -> Option<Verdict> {
        self.gpus.get(uuid).map(|one| one.verdict(&self.policy))
    }

    /// The driver says nothing of it now, neither good nor bad.
    pub fn is_silent(&self, uuid: &GpuUuid) -> bool {
        let one = self.gpus.get(uuid);
        one.is_some_and(|one| one.seen(&self.policy).health == Health::Unknown)
    }

    /// The driver itself says that it cannot be used any more.
    pub fn is_lost(&self, uuid: &GpuUuid) -> bool {
        let driver = self.gpus.get(uuid).map(|one| one.driver.health);
        driver == Some(Health::Failed)
    }

    /// Why a GPU is given to nobody, leaving aside who holds it; `None`: it can be given.
    pub fn withheld(&self, uuid: &GpuUuid) -> Option<Withheld> {
        let Some(one) = self.gpus.get(uuid) else {
            return Some(Withheld::Unseen("it was never listed".to_owned()));
        };
        let verdict = one.verdict(&self.policy);
        if one.partitioned {
            Some(Withheld::Partitioned)
        } else if let Some(why) = one.quarantine.why() {
            Some(Withheld::Quarantined(why))
        } else if !verdict.is_fit() {
            Some(Withheld::Unseen(verdict.reasons.join("; ")))
        } else if let Some(user) = &one.user {
            Some(Withheld::Used(user.clone()))
        } else {
            one.unclean().map(Withheld::Unclean)
        }
    }

    /// Why the rental that leaves a GPU still holds it; `None`: it need not.
    pub fn unsettled(&self, uuid: &GpuUuid) -> Option<String> {
        let one = self.gpus.get(uuid)?;
        if one.quarantine.holds() || one.partitioned {
            return None;
        }
        let user = one
            .user
            .as_ref()
            .map(|user| format!("it is used by {user}"));
        user.or_else(|| one.unclean())
    }

    /// Whether it was ever listed.
    pub fn knows(&self, uuid: &GpuUuid) -> bool {
        self.gpus.contains_key(uuid)
    }

    /// What came of the last wipe of each that was to be wiped.
    pub fn wipes(&self) -> BTreeMap<GpuUuid, Wiped> {
        let wiped = self.gpus.iter();
        wiped
            .filter_map(|(uuid, one)| Some((uuid.clone(), one.wiped.clone()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests;

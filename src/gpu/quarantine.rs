//! Why a GPU is kept out of the offer, and when it comes back. Pure.
//!
//! ```text
//!            trouble                     three good tests in a row, 60 s apart
//! offered ------------> quarantined ------------------------------------------> offered
//!    |                      ^  | a bad one: counted anew
//!    |                      +--+
//!    +-- by hand ----> quarantined -- released by hand ----------------------> offered
//! ```
//!
//! What a person decided only a person takes back, and trouble that only a person can mend waits for
//! one, too. A release by hand ends both kinds: what still ails the GPU brings it back here.

use std::time::Duration;

use crate::protocol::record::Health;

/// From one test to the next.
pub const TEST_EVERY: Duration = Duration::from_secs(60);

/// So many good ones in a row.
const GOOD_TESTS: u32 = 3;

/// Whether a GPU is kept out of the offer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// A person said so, and why.
    by_hand: Option<String>,
    ailing: Option<Ailing>,
}

/// Something was wrong with a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub why: String,
    /// How bad it is.
    pub health: Health,
    /// No test shows that it is mended.
    pub needs_a_person: bool,
}

/// The trouble, and what the tests since have shown.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ailing {
    trouble: Trouble,
    good: u32,
    /// Boot-time clock.
    next_test: Duration,
}

impl Quarantine {
    /// Whether there is one.
    pub fn holds(&self) -> bool {
        self.by_hand.is_some() || self.ailing.is_some()
    }

    /// Why, in words, and what ends it; `None` where there is none.
    pub fn why(&self) -> Option<String> {
        let by_hand = self.by_hand.as_ref().map(|why| match why.as_str() {
            "" => "its owner keeps it back".to_owned(),
            why => format!("its owner keeps it back: {why}"),
        });
        let trouble = self.trouble().map(|trouble| match trouble.needs_a_person {
            true => format!("{}; only its owner releases it", trouble.why),
            false => trouble.why.clone(),
        });
        match (by_hand, trouble) {
            (Some(by_hand), Some(trouble)) => Some(format!("{by_hand}; {trouble}")),
            (one, other) => one.or(other),
        }
    }

    /// What is wrong with it, where that is why.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.ailing.as_ref().map(|ailing| &ailing.trouble)
    }

    /// A person keeps it back.
    pub fn keep(&mut self, why: String) {
        self.by_hand = Some(why);
    }

    /// Something is wrong with it at `now` (boot-time clock). What only a person can mend stays what
    /// is told, whatever comes on top.
    pub fn ail(&mut self, trouble: Trouble, now: Duration) {
        let graver = self.trouble().filter(|old| old.needs_a_person).cloned();
        self.ailing = Some(Ailing {
            trouble: graver.unwrap_or(trouble),
            good: 0,
            next_test: now + TEST_EVERY,
        });
    }

    /// It was seen to be well at `now` (boot-time clock). Counts where a test is due; `true` when the
    /// trouble is over.
    pub fn seen_well(&mut self, now: Duration) -> bool {
        let Some(ailing) = &mut self.ailing else {
            return false;
        };
        if ailing.trouble.needs_a_person || now < ailing.next_test {
            return false;
        }
        ailing.good += 1;
        ailing.next_test = now + TEST_EVERY;
        let over = ailing.good >= GOOD_TESTS;
        if over {
            self.ailing = None;
        }
        over
    }

    /// Nothing could be seen of it: good tests have to follow each other.
    pub fn unseen(&mut self) {
        if let Some(ailing) = &mut self.ailing {
            ailing.good = 0;
        }
    }

    /// Its owner wants it back in the offer; `false` when it was in.
    pub fn release(&mut self) -> bool {
        let held = self.holds();
        *self = Self::default();
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(1_000);

    fn trouble(needs_a_person: bool) -> Trouble {
        Trouble {
            why: "Xid 119".to_owned(),
            health: Health::Failed,
            needs_a_person,
        }
    }

    fn ailing(needs_a_person: bool) -> Quarantine {
        let mut quarantine = Quarantine::default();
        quarantine.ail(trouble(needs_a_person), START);
        quarantine
    }

    fn after(seconds: u64) -> Duration {
        START + Duration::from_secs(seconds)
    }

    #[test]
    fn three_good_tests_a_minute_apart_end_it() {
        let mut quarantine = ailing(false);
        // Looks in between are no tests.
        for seconds in [0, 5, 59, 60, 65, 119, 120, 179] {
            assert!(!quarantine.seen_well(after(seconds)), "{seconds}");
            assert!(quarantine.holds());
        }
        assert!(quarantine.seen_well(after(180)));
        assert!(!quarantine.holds());
    }

    #[test]
    fn a_bad_test_and_an_unseen_one_begin_the_count_anew() {
        let mut quarantine = ailing(false);
        quarantine.seen_well(after(60));
        quarantine.seen_well(after(120));
        quarantine.ail(trouble(false), after(130));
        for seconds in [190, 250] {
            assert!(!quarantine.seen_well(after(seconds)));
        }
        quarantine.unseen();
        for (seconds, over) in [(310, false), (370, false), (430, true)] {
            assert_eq!(quarantine.seen_well(after(seconds)), over, "{seconds}");
        }
    }

    #[test]
    fn what_a_person_decided_no_test_ends() {
        let mut quarantine = ailing(false);
        quarantine.keep("smells".to_owned());
        for seconds in [60, 120, 180] {
            quarantine.seen_well(after(seconds));
        }
        assert!(quarantine.holds());
        let why = quarantine.why().unwrap();
        assert_eq!(why, "its owner keeps it back: smells");
        assert!(quarantine.release());
        assert!(!quarantine.holds() && !quarantine.release());
    }

    #[test]
    fn trouble_that_needs_a_person_waits_for_one() {
        let mut quarantine = ailing(true);
        quarantine.ail(trouble(false), after(10));
        for seconds in [70, 130, 190, 250] {
            assert!(!quarantine.seen_well(after(seconds)));
        }
        assert!(quarantine.why().unwrap().contains("only its owner"));
        assert!(quarantine.release());
    }
}

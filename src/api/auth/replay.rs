//! Tokens that were used: each is remembered until it expires, and never more than there is room for.
//! What an earlier process took is not known; a token that says when it was issued is taken by the
//! process that ran then, and by no later one (ADR 9). Decides without a clock.

use std::collections::{BTreeSet, HashSet};

use sha2::{Digest, Sha256};

use super::claims::LEEWAY_S;

type Key = [u8; 32];

/// Used tokens by the time at which they expire.
#[derive(Debug)]
pub(super) struct Replay {
    most: usize,
    known: HashSet<Key>,
    /// The second after which nobody would take it any more.
    ends: BTreeSet<(u64, Key)>,
}

/// What came of using a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Used {
    First,
    Again,
    /// Nobody can tell: there is no room for another one.
    Full,
}

impl Replay {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: HashSet::new(),
            ends: BTreeSet::new(),
        }
    }

    pub(super) fn use_up(&mut self, sub: &str, jti: &str, exp_s: f64, now_s: f64) -> Used {
        let now = whole(now_s);
        while let Some(oldest) = self.ends.first().filter(|(end, _)| *end < now).copied() {
            self.ends.remove(&oldest);
            self.known.remove(&oldest.1);
        }
        let digest = Sha256::new()
            .chain_update(sub)
            .chain_update([0])
            .chain_update(jti);
        let key: Key = digest.finalize().into();
        if self.known.contains(&key) {
            return Used::Again;
        }
        if self.known.len() >= self.most {
            return Used::Full;
        }
        self.known.insert(key);
        // A second more, since the clocks of claims and of this list are cut to whole ones.
        self.ends.insert((whole(exp_s + LEEWAY_S) + 1, key));
        Used::First
    }
}

/// How long before this process's start a token was issued, in seconds, if it was; `up_s` is how long
/// the process runs. Issuers count whole seconds, so that the second of the start is not before it.
pub(super) fn issued_before(iat: f64, now_s: f64, up_s: f64) -> Option<f64> {
    let began = (now_s - up_s).floor();
    (iat < began).then_some(began - iat)
}

fn whole(seconds: f64) -> u64 {
    std::time::Duration::try_from_secs_f64(seconds).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_once_until_nobody_would_take_it() {
        let mut replay = Replay::new(10);
        assert_eq!(replay.use_up("s", "j", 100.0, 50.0), Used::First);
        for now in [50.0, 100.0, 109.9, 110.0] {
            assert_eq!(replay.use_up("s", "j", 100.0, now), Used::Again, "{now}");
        }
        assert_eq!(
            replay.use_up("t", "j", 100.0, 50.0),
            Used::First,
            "another's"
        );
        assert_eq!(replay.known.len(), 2);
        assert_eq!(replay.use_up("s", "k", 900.0, 200.0), Used::First);
        assert_eq!(replay.known.len(), 1, "what has expired is forgotten");
    }

    #[test]
    fn a_token_is_of_the_process_that_ran_when_it_was_issued() {
        // It began at 1000.7.
        let before = |iat: f64, now_s: f64| issued_before(iat, now_s, now_s - 1000.7);
        assert_eq!(before(999.5, 1001.0), Some(0.5));
        assert_eq!(before(940.0, 1500.0), Some(60.0));
        for iat in [1000.0, 1000.9, 1400.0, 1509.0] {
            assert_eq!(before(iat, 1500.0), None, "{iat}");
        }
    }

    #[test]
    fn above_its_bound_no_new_token_is_taken() {
        let mut replay = Replay::new(2);
        assert_eq!(replay.use_up("s", "1", 100.0, 0.0), Used::First);
        assert_eq!(replay.use_up("s", "2", 200.0, 0.0), Used::First);
        assert_eq!(replay.use_up("s", "3", 200.0, 0.0), Used::Full);
        assert_eq!(replay.use_up("s", "2", 200.0, 0.0), Used::Again);
        assert_eq!(
            replay.use_up("s", "3", 200.0, 112.0),
            Used::First,
            "room again"
        );
    }
}

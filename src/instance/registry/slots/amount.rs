//! How much of one resource a rental gets: what it asks for, or what the host decides. Pure.

use crate::protocol::{Error, ErrorCode, Stage};

/// One resource, one demand.
pub(super) struct Amount {
    /// For the error.
    pub(super) resource: &'static str,
    /// What the spec says.
    pub(super) asked: Option<u64>,
    /// Without a word in the spec.
    pub(super) default: u64,
    /// The host never decides on less.
    pub(super) floor: u64,
    /// The GPUs' part of the host, where there are GPUs.
    pub(super) share: Option<u64>,
    /// What nobody has.
    pub(super) free: u64,
}

impl Amount {
    /// The effective amount, or what is short.
    pub(super) fn decide(&self) -> Result<u64, Error> {
        // A GPU brings its share of the host, and not less than a rental without one gets. What is
        // free may be less than that; it is enough down to the smaller of the two.
        let (wanted, least) = match (self.asked, self.share) {
            (Some(asked), _) => (asked, asked),
            (None, None) => (self.default, self.default),
            (None, Some(share)) => (share.max(self.default), share.min(self.default)),
        };
        let floor = if self.asked.is_some() { 0 } else { self.floor };
        let (wanted, least) = (wanted.max(floor), least.max(floor));
        if self.free >= least {
            Ok(wanted.min(self.free))
        } else {
            Err(short(self.resource, least, self.free))
        }
    }
}

/// `all * part / whole`, rounded down.
pub(super) fn share_of(all: u64, part: usize, whole: usize) -> u64 {
    let wide = |n: usize| u128::try_from(n).unwrap_or(u128::MAX);
    let share = u128::from(all).saturating_mul(wide(part)) / wide(whole.max(1));
    u64::try_from(share).unwrap_or(all).min(all)
}

/// There is less of a resource than is asked.
pub(super) fn short(resource: &str, asked: u64, free: u64) -> Error {
    let message = format!("{resource}: {asked} asked, {free} free on this host");
    let mut error = Error::new(ErrorCode::InsufficientResources, message).at(Stage::Admit);
    error.detail = Some(serde_json::json!({ "resource": resource, "asked": asked, "free": free }));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(asked: Option<u64>, share: Option<u64>, free: u64, expected: Option<u64>) {
        let amount = Amount {
            resource: "memory_bytes",
            asked,
            default: 100,
            floor: 10,
            share,
            free,
        };
        assert_eq!(amount.decide().ok(), expected);
    }

    #[test]
    fn what_is_asked_is_given_or_refused_but_never_cut() {
        check(Some(50), None, 50, Some(50));
        check(Some(50), None, 49, None);
        check(Some(50), Some(1000), 1000, Some(50));
    }

    #[test]
    fn without_a_word_a_rental_gets_the_default() {
        check(None, None, 1000, Some(100));
        check(None, None, 99, None);
    }

    #[test]
    fn gpus_bring_their_share_as_far_as_it_is_free_and_not_less_than_the_default() {
        check(None, Some(500), 1000, Some(500));
        check(None, Some(500), 300, Some(300));
        check(None, Some(500), 100, Some(100));
        check(None, Some(500), 99, None);
        check(None, Some(50), 1000, Some(100));
        check(None, Some(50), 60, Some(60));
        check(None, Some(50), 49, None);
        check(None, Some(0), 1000, Some(100));
        check(None, Some(0), 9, None);
    }

    #[test]
    fn shares_add_up_to_the_whole_at_most() {
        assert_eq!(share_of(100, 1, 3), 33);
        assert_eq!(share_of(100, 3, 3), 100);
        assert_eq!(share_of(u64::MAX, 7, 8) / 7, u64::MAX / 8);
        assert_eq!(share_of(100, 1, 0), 100);
    }
}

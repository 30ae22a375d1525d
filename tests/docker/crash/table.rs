//! What was cut, where, and how often.

use std::collections::BTreeMap;

use crate::lab::Side;

use super::matrix::Target;

/// Counts by call and side.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<(Target, &'static str), usize>);

impl Table {
    /// It was reached once more.
    pub(crate) fn count(&mut self, target: &Target, side: Side) {
        *self.0.entry((target.clone(), name(side))).or_default() += 1;
    }

    /// How often it was reached.
    pub(crate) fn reached(&self, target: &Target, side: Side) -> usize {
        let key = (target.clone(), name(side));
        self.0.get(&key).copied().unwrap_or_default()
    }

    /// For whoever reads the test's output.
    #[allow(clippy::print_stdout, reason = "the table is what the test shows")]
    pub(crate) fn print(&self, title: &str, targets: &[Target]) {
        println!("{title}");
        println!("  {:<44} {:>7} {:>7}", "call", BEFORE, AFTER);
        for target in targets {
            let before = self.reached(target, Side::BeforeEngine);
            let after = self.reached(target, Side::AfterEngine);
            println!("  {:<44} {before:>7} {after:>7}", target.to_string());
        }
        println!("  in all {}", self.0.values().sum::<usize>());
    }
}

const BEFORE: &str = "before";
const AFTER: &str = "after";

fn name(side: Side) -> &'static str {
    match side {
        Side::BeforeEngine => BEFORE,
        Side::AfterEngine => AFTER,
    }
}

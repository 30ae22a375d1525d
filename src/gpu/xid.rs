//! What NVIDIA's Xid errors mean and what is to be done about each, as its catalogue says for Ampere
//! and later (docs.nvidia.com/deploy/xid-errors). The host's configuration may say otherwise. Pure.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What has to be done after an Xid, the mildest first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Action {
    /// Nothing.
    Ignore,
    /// Start the program anew; the GPU is fine.
    RestartApp,
    /// Let nothing new onto the GPU; who is on it may go on.
    Drain,
    /// Reset the GPU or reboot the host: until then nothing on it can be relied on.
    Reset,
    /// A person has to look at the hardware.
    Replace,
}

/// What a code stands for and what is done about it. One that is not listed is ignored: a new driver's
/// new code must not take GPUs out of the offer before anybody knows what it means.
const CATALOG: &[(u64, &str, Action)] = &[
    (8, "GPU stopped processing", Action::RestartApp),
    (11, "invalid push buffer stream", Action::RestartApp),
    (13, "graphics engine exception", Action::RestartApp),
    (25, "illegal push buffer stream", Action::RestartApp),
    (31, "GPU memory page fault", Action::RestartApp),
    (32, "corrupted push buffer stream", Action::RestartApp),
    (39, "copy engine exception", Action::RestartApp),
    (40, "copy engine exception", Action::RestartApp),
    (41, "copy engine exception", Action::RestartApp),
    // The catalogue ignores it, since the GPU is well; but a program has ended, and its owner asks.
    (43, "a program's fault, which ended it", Action::RestartApp),
    (44, "fault during a context switch", Action::Ignore),
    // Logged at each kill of a program, ours included.
    (45, "cleanup after a program", Action::Ignore),
    (46, "GPU stopped processing", Action::Reset),
    (48, "double bit memory error", Action::Reset),
    (54, "auxiliary power is not connected", Action::Replace),
    (60, "video processor exception", Action::RestartApp),
    (62, "internal micro-controller halt", Action::Reset),
    // Whether a reset is due, the row remapper itself says.
    (63, "memory row remapped", Action::Ignore),
    (64, "memory row could not be remapped", Action::Reset),
    (68, "video decoder exception", Action::RestartApp),
    (69, "graphics engine class error", Action::RestartApp),
    (74, "NVLink error", Action::Reset),
    (79, "GPU has fallen off the bus", Action::Reset),
    (80, "corrupted data sent to the GPU", Action::RestartApp),
    (86, "optical flow exception", Action::RestartApp),
    (92, "high rate of corrected memory errors", Action::Ignore),
    (94, "contained memory error", Action::RestartApp),
    (95, "uncontained memory error", Action::Reset),
    (109, "context switch timeout", Action::Reset),
    (110, "security fault", Action::Reset),
    (119, "GSP does not answer", Action::Reset),
    (120, "GSP error", Action::Reset),
    (
        121,
        "corrected error of the link to the processor",
        Action::Ignore,
    ),
    (136, "link training failed", Action::Reset),
    (137, "NVLink privilege error", Action::Ignore),
    (140, "uncorrected memory error", Action::Reset),
    (142, "video encoder exception", Action::RestartApp),
    (143, "initialisation failed", Action::Reset),
    // What these ask for depends on a detail that the driver's event does not carry.
    (144, "NVLink SAW error", Action::Drain),
    (145, "NVLink RLW error", Action::Drain),
    (146, "NVLink TLW error", Action::Drain),
    (147, "NVLink TREX error", Action::Drain),
    (148, "NVLink control error", Action::Drain),
    (149, "NVLink NETIR error", Action::Drain),
    (150, "NVLink MSE error", Action::Drain),
    (151, "key rotation error", Action::Reset),
    // Follows another one; the action that it announces is read from the driver.
    (154, "recovery action changed", Action::Ignore),
    (155, "NVLink is down", Action::Drain),
    (156, "resource retired", Action::Reset),
    (157, "resource could not be retired", Action::Ignore),
    (158, "fatal timeout", Action::Reset),
    (167, "fatal PCIe timeout", Action::Drain),
    (169, "internal micro-controller halt", Action::Drain),
];

/// The catalogue, as this host's configuration changes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actions(BTreeMap<u64, Action>);

impl Actions {
    /// With these instead of the catalogue's.
    pub fn with(changed: BTreeMap<u64, Action>) -> Self {
        Self(changed)
    }

    /// What is to be done about a code.
    pub fn of(&self, code: u64) -> Action {
        let changed = self.0.get(&code).copied();
        let listed = || entry(code).map(|(_, _, action)| *action);
        changed.or_else(listed).unwrap_or(Action::Ignore)
    }
}

/// A code in words.
pub fn name(code: u64) -> &'static str {
    entry(code).map_or("not in the catalogue", |(_, name, _)| name)
}

fn entry(code: u64) -> Option<&'static (u64, &'static str, Action)> {
    CATALOG.iter().find(|(listed, _, _)| *listed == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_followed_where_nothing_else_is_said() {
        let actions = Actions::default();
        let expected = [
            (31, Action::RestartApp),
            (45, Action::Ignore),
            (79, Action::Reset),
            (94, Action::RestartApp),
            (109, Action::Reset),
            (4_711, Action::Ignore),
        ];
        for (code, action) in expected {
            assert_eq!(actions.of(code), action, "Xid {code}");
        }
    }

    #[test]
    fn the_configuration_changes_what_is_done_about_a_code() {
        let changed = BTreeMap::from([(79, Action::Replace), (4_711, Action::Drain)]);
        let actions = Actions::with(changed);
        assert_eq!(actions.of(79), Action::Replace);
        assert_eq!(actions.of(4_711), Action::Drain);
        assert_eq!(actions.of(48), Action::Reset);
    }

    #[test]
    fn no_code_is_listed_twice() {
        let mut codes: Vec<u64> = CATALOG.iter().map(|(code, _, _)| *code).collect();
        codes.dedup();
        assert!(codes.is_sorted());
        assert_eq!(codes.len(), CATALOG.len());
    }
}

//! What can be set about GPUs.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::validate::DRIVER_CAPABILITIES;

fn driver_capabilities() -> String {
    let one = DRIVER_CAPABILITIES.join("|");
    format!("^(?:{one})(?:,(?:{one}))*$")
}

/// GPUs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::config) struct Gpu {
    /// NVIDIA's management library, absolute. Unset: libnvidia-ml.so.1 where the loader finds it.
    #[schemars(example = &"/usr/lib/libnvidia-ml.so.1", extend("format" = "path"))]
    pub(in crate::config) nvml_library: Option<PathBuf>,
    /// What of the driver rentals see, comma-separated: compute, utility, graphics, video,
    /// display, ngx, compat32, or all.
    #[schemars(example = &"compute,utility,video", extend("pattern" = driver_capabilities()))]
    pub(in crate::config) driver_capabilities: String,
    /// Whether a rental has to show its GPUs before it is ready: strict refuses one whose GPUs can
    /// be seen by no other means than the engine's own words, best_effort only one that shows
    /// others, off none.
    pub(in crate::config) verify: Verify,
    /// Where the engine has no GPU runtime: refuse, or cpu, which lets rentals whose spec says
    /// `gpus.optional` run without GPUs.
    pub(in crate::config) on_missing_runtime: OnMissingRuntime,
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            nvml_library: None,
            driver_capabilities: "compute,utility".into(),
            verify: Verify::default(),
            on_missing_runtime: OnMissingRuntime::default(),
        }
    }
}

/// Whether processors of the GPUs' memory node are preferred.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Numa {
    #[default]
    Prefer,
    Off,
}

/// What a rental has to show of its GPUs before it is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Verify {
    #[default]
    BestEffort,
    Strict,
    Off,
}

/// What becomes of a deploy with GPUs where the engine cannot hand any out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum OnMissingRuntime {
    #[default]
    Refuse,
    Cpu,
}

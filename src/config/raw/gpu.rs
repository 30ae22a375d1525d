//! The sections on GPUs as they are written.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::MIB;
use crate::{config::validate::DRIVER_CAPABILITIES, gpu::xid::Action};

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
    /// NVIDIA's tool, absolute, asked where the library cannot be loaded. Unset: nvidia-smi by PATH.
    #[schemars(example = &"/usr/bin/nvidia-smi", extend("format" = "path"))]
    pub(in crate::config) nvidia_smi: Option<PathBuf>,
    /// What of the driver rentals see, comma-separated: compute, utility, graphics, video,
    /// display, ngx, compat32, or all.
    #[schemars(example = &"compute,utility,video", extend("pattern" = driver_capabilities()))]
    pub(in crate::config) driver_capabilities: String,
    /// Wipe a GPU's memory at the start and after each rental, before it is given again: auto, where
    /// CUDA's library is there; off, never.
    pub(in crate::config) wipe: GpuWipe,
    /// CUDA's driver library, absolute, named libcuda.so.1. Unset: where the loader finds it.
    #[schemars(example = &"/usr/lib/libcuda.so.1", extend("format" = "path"))]
    pub(in crate::config) cuda_library: Option<PathBuf>,
    /// A GPU without a process counts as used while more of its memory is in use, until it was seen
    /// idle once; from then on it has to come back to what it was then.
    #[schemars(range(max = 9_007_199_254_740_991_u64))]
    pub(in crate::config) idle_memory_bytes: u64,
    /// Programs that do not make a GPU used, by their names, like those of a desktop.
    #[schemars(example = ["Xorg", "gnome-shell"])]
    pub(in crate::config) ignored_processes: Vec<String>,
    /// What is done after an Xid, where not what NVIDIA's catalogue says: ignore, restart_app (the
    /// rental is told), drain (no other rental gets the GPU), reset (quarantined until it is well
    /// again), replace (quarantined until it is released by hand).
    #[schemars(example = BTreeMap::from([("79", "replace")]))]
    #[schemars(extend("propertyNames" = { "pattern": "^[0-9]{1,9}$" }))]
    pub(in crate::config) xid_actions: BTreeMap<String, Action>,
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
            nvidia_smi: None,
            driver_capabilities: "compute,utility".into(),
            wipe: GpuWipe::Auto,
            cuda_library: None,
            idle_memory_bytes: 512 * MIB,
            ignored_processes: Vec::new(),
            xid_actions: BTreeMap::new(),
            verify: Verify::default(),
            on_missing_runtime: OnMissingRuntime::default(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(in crate::config) enum GpuWipe {
    Auto,
    Off,
}

/// What is looked for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::config) struct Monitoring {
    /// Where a GPU's readings become remarkable.
    #[schemars(example = BTreeMap::from([("temperature_max_c", 83)]))]
    pub(in crate::config) gpu_thresholds: GpuThresholds,
}

/// Where a GPU's readings become remarkable.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::config) struct GpuThresholds {
    /// Hotter is a warning.
    #[schemars(range(min = 1, max = 200))]
    pub(in crate::config) temperature_max_c: f64,
    /// More power is a warning. Unset: never.
    #[schemars(range(min = 1, max = 10_000), example = 350)]
    pub(in crate::config) power_max_w: Option<f64>,
    /// More uncorrected memory errors since the driver was loaded are a failure.
    #[schemars(range(max = 1_000_000), example = 1)]
    pub(in crate::config) ecc_uncorrected_max: u64,
}

impl Default for GpuThresholds {
    fn default() -> Self {
        Self {
            temperature_max_c: 85.0,
            power_max_w: None,
            ecc_uncorrected_max: 0,
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

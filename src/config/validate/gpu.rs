//! What the schema cannot say of the sections on GPUs.

use std::{collections::BTreeMap, path::Path};

use super::{
    super::{Gpu, GpuRules, fault::Faults, raw},
    DRIVER_CAPABILITIES, absolute,
};
use crate::gpu::{
    health::Thresholds,
    occupancy::IdleRule,
    ward::Policy,
    xid::{Action, Actions},
};

/// Checks both sections: what is looked for decides which GPUs are given.
pub(super) fn check(
    raw: raw::Gpu,
    monitoring: raw::Monitoring,
    faults: &mut Faults,
) -> Option<Gpu> {
    const KEY: &str = "gpu.driver_capabilities";
    if let Some(library) = &raw.nvml_library {
        absolute("gpu.nvml_library", library, faults);
    }
    if let Some(tool) = &raw.nvidia_smi {
        absolute("gpu.nvidia_smi", tool, faults);
    }
    let text = raw.driver_capabilities;
    if !text
        .split(',')
        .all(|word| DRIVER_CAPABILITIES.contains(&word))
    {
        let reason = "is no list of driver capabilities";
        let remedy = format!(
            "write some of {}, with commas",
            DRIVER_CAPABILITIES.join(", ")
        );
        faults.shown(KEY, &text, reason, remedy);
    }
    cuda_library(raw.cuda_library.as_deref(), faults);
    ignored_processes(&raw.ignored_processes, faults);
    let thresholds = monitoring.gpu_thresholds;
    Some(Gpu {
        nvml_library: raw.nvml_library,
        nvidia_smi: raw.nvidia_smi,
        driver_capabilities: text,
        rules: GpuRules {
            verify: raw.verify,
            on_missing_runtime: raw.on_missing_runtime,
        },
        cuda_library: raw.cuda_library,
        policy: Policy {
            thresholds: Thresholds {
                temperature_max_c: thresholds.temperature_max_c,
                power_max_w: thresholds.power_max_w,
                ecc_uncorrected_max: thresholds.ecc_uncorrected_max,
            },
            xid_actions: xid_actions(&raw.xid_actions, faults),
            idle: IdleRule {
                memory_bytes: raw.idle_memory_bytes,
                ignored: raw.ignored_processes,
            },
            wipe: raw.wipe == raw::GpuWipe::Auto,
        },
    })
}

/// CUDA's own name is asked of the loader, which is shown the folder.
fn cuda_library(library: Option<&Path>, faults: &mut Faults) {
    const KEY: &str = "gpu.cuda_library";
    let Some(library) = library else { return };
    let name = library.file_name();
    if absolute(KEY, library, faults) && name != Some("libcuda.so.1".as_ref()) {
        let shown = library.display().to_string();
        let remedy = "write a path that ends in /libcuda.so.1, or leave it unset";
        faults.shown(KEY, &shown, "is no libcuda.so.1", remedy);
    }
}

fn ignored_processes(names: &[String], faults: &mut Faults) {
    for name in names {
        if name.is_empty() || name.chars().any(char::is_control) {
            let remedy = "write a program's name as nvidia-smi shows it";
            faults.shown("gpu.ignored_processes", name, "names no program", remedy);
        }
    }
}

fn xid_actions(raw: &BTreeMap<String, Action>, faults: &mut Faults) -> Actions {
    let mut changed = BTreeMap::new();
    for (code, action) in raw {
        match code.parse() {
            Ok(code) => {
                changed.insert(code, *action);
            }
            Err(_) => {
                let remedy = "write the number of an Xid, like \"79\" = \"replace\"";
                faults.shown("gpu.xid_actions", code, "is no number of an Xid", remedy);
            }
        }
    }
    Actions::with(changed)
}

//! One GPU at one moment. What the driver does not tell is absent.

use std::{collections::BTreeMap, fs};

use nvml_wrapper::{
    Device,
    bitmasks::device::ThrottleReasons,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    enums::device::{SampleValue, UsedGpuMemory},
    error::NvmlError,
    struct_wrappers::device::ProcessInfo,
    structs::device::FieldId,
    sys_exports::field_id::{
        NVML_FI_DEV_GET_GPU_RECOVERY_ACTION, NVML_FI_DEV_REMAPPED_FAILURE,
        NVML_FI_DEV_REMAPPED_PENDING, NVML_FI_DEV_RETIRED_PENDING,
    },
};

use super::{is_no_answer, line};
use crate::{
    gpu::{GpuProcess, Reading, Recovery, Vitals},
    ids::GpuUuid,
    protocol::message::GpuSample,
};

/// No GPU has more fans.
const MAX_FANS: u32 = 16;

/// Asks for everything.
pub(super) fn of(uuid: GpuUuid, device: &Device<'_>, sees_processes: bool) -> Reading {
    let sample = GpuSample {
        uuid,
        memory_used_bytes: device.memory_info().ok().map(|memory| memory.used),
        utilization_percent: device
            .utilization_rates()
            .ok()
            .map(|rates| f64::from(rates.gpu)),
        temperature_c: device
            .temperature(TemperatureSensor::Gpu)
            .ok()
            .map(f64::from),
        power_w: device
            .power_usage()
            .ok()
            .map(|milliwatts| f64::from(milliwatts) / 1000.0),
    };
    Reading {
        sample,
        processes: sees_processes.then(|| processes(device)).flatten(),
        vitals: vitals(device),
    }
}

fn vitals(device: &Device<'_>) -> Vitals {
    let uncorrected = |since| {
        device
            .total_ecc_errors(MemoryError::Uncorrected, since)
            .ok()
    };
    let [pending, failure, retired, recovery] = fields(
        device,
        [
            NVML_FI_DEV_REMAPPED_PENDING,
            NVML_FI_DEV_REMAPPED_FAILURE,
            NVML_FI_DEV_RETIRED_PENDING,
            NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
        ],
    );
    // Newer GPUs remap rows, older ones retire pages.
    let pending = pending.or(retired).map(|value| value != 0);
    Vitals {
        ecc_uncorrected_volatile: uncorrected(EccCounter::Volatile),
        ecc_uncorrected_aggregate: uncorrected(EccCounter::Aggregate),
        remap_pending: pending.or_else(|| device.are_pages_pending_retired().ok()),
        remap_failed: failure.map(|value| value != 0),
        fan_percent: fan(device),
        throttle_reasons: throttling(device),
        pcie_generation: both(device.current_pcie_link_gen(), device.max_pcie_link_gen()),
        pcie_width: both(
            device.current_pcie_link_width(),
            device.max_pcie_link_width(),
        ),
        recovery: recovery.and_then(recovery_of),
    }
}

fn both(now: Result<u32, NvmlError>, most: Result<u32, NvmlError>) -> Option<(u32, u32)> {
    Some((now.ok()?, most.ok()?))
}

/// The fastest one.
fn fan(device: &Device<'_>) -> Option<u32> {
    let fans = device.num_fans().unwrap_or(1).min(MAX_FANS);
    let speeds = (0..fans).filter_map(|fan| device.fan_speed(fan).ok());
    speeds.max()
}

fn throttling(device: &Device<'_>) -> Vec<String> {
    let reasons = device.current_throttle_reasons();
    let reasons = reasons.unwrap_or(ThrottleReasons::NONE) - ThrottleReasons::GPU_IDLE;
    let names = reasons.iter_names();
    names.map(|(name, _)| name.to_ascii_lowercase()).collect()
}

/// Values that have no function of their own, by one call.
fn fields<const N: usize>(device: &Device<'_>, numbers: [u32; N]) -> [Option<u64>; N] {
    let mut values = [None; N];
    let answers = device.field_values_for(&numbers.map(FieldId));
    for (value, answer) in values.iter_mut().zip(answers.unwrap_or_default()) {
        *value = answer.and_then(|sample| sample.value).ok().and_then(whole);
    }
    values
}

fn whole(value: SampleValue) -> Option<u64> {
    match value {
        SampleValue::U32(value) => Some(u64::from(value)),
        SampleValue::U64(value) => Some(value),
        SampleValue::I64(value) => u64::try_from(value).ok(),
        SampleValue::F64(_) => None,
    }
}

/// nvmlDeviceGpuRecoveryAction_t.
fn recovery_of(action: u64) -> Option<Recovery> {
    match action {
        1 => Some(Recovery::ResetGpu),
        2 => Some(Recovery::RebootNode),
        // Drain its links to other GPUs, or all of it.
        3 | 4 => Some(Recovery::DrainAndReset),
        _ => None,
    }
}

/// Everybody on it, however; `None` when the driver does not say so for every kind that it knows.
fn processes(device: &Device<'_>) -> Option<Vec<GpuProcess>> {
    let kinds = [
        Some(device.running_compute_processes().ok()?),
        known_kind(device.running_graphics_processes())?,
        known_kind(device.mps_running_compute_processes())?,
    ];
    let mut by_pid: BTreeMap<u32, Option<u64>> = BTreeMap::new();
    for process in kinds.into_iter().flatten().flatten() {
        let memory = match process.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        };
        let known = by_pid.entry(process.pid).or_default();
        *known = (*known).max(memory);
    }
    let processes = by_pid.into_iter().map(|(pid, memory_bytes)| GpuProcess {
        pid,
        name: name_of(pid),
        memory_bytes,
    });
    Some(processes.collect())
}

/// The outer `None`: the driver knows the kind and does not list it. The inner one: it has no such kind.
fn known_kind(listed: Result<Vec<ProcessInfo>, NvmlError>) -> Option<Option<Vec<ProcessInfo>>> {
    match listed {
        Ok(processes) => Some(Some(processes)),
        Err(error) if is_no_answer(&error) => Some(None),
        Err(_) => None,
    }
}

fn name_of(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(line(name.trim_end(), 100))
}

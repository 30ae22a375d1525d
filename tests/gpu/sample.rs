//! What is measured, and what that costs.

use rental_agent::gpu::GpuProbe;
use rustix::time::{ClockId, clock_gettime};

use super::{probe, report, xml::GpuReport};

/// CPU for a sample of all GPUs, at most.
const CPU_MS: f64 = 5.0;

#[test]
fn a_sample_is_within_tolerance_of_what_nvidia_smi_says() {
    let report = report();
    let readings = probe().sample().unwrap();
    let said = report.gpus();
    assert_eq!(readings.len(), said.len());
    for (reading, said) in readings.iter().zip(&said) {
        let (sample, vitals) = (&reading.sample, &reading.vitals);
        assert_eq!(Some(sample.uuid.as_str()), said.text(&["uuid"]));
        let used = sample.memory_used_bytes.map(|bytes| (bytes >> 20) as f64);
        near(
            "memory in use",
            used,
            said,
            &[&["fb_memory_usage", "used"]],
            512.0,
        );
        near(
            "temperature",
            sample.temperature_c,
            said,
            &[&["temperature", "gpu_temp"]],
            8.0,
        );
        let power: &[&[&str]] = &[
            &["gpu_power_readings", "instant_power_draw"],
            &["gpu_power_readings", "power_draw"],
            &["gpu_power_readings", "average_power_draw"],
            &["power_readings", "power_draw"],
        ];
        near("power", sample.power_w, said, power, 60.0);
        let fan = vitals.fan_percent.map(f64::from);
        near("fan", fan, said, &[&["fan_speed"]], 10.0);
        let most = |pair: Option<(u32, u32)>| pair.map(|(_, most)| f64::from(most));
        let link = ["pci", "pci_gpu_link_info"];
        let path = |part: &'static str, name: &'static str| [link[0], link[1], part, name];
        let generation = path("pcie_gen", "max_link_gen");
        near(
            "PCIe generation",
            most(vitals.pcie_generation),
            said,
            &[&generation],
            0.0,
        );
        let width = path("link_widths", "max_link_width");
        near("PCIe width", most(vitals.pcie_width), said, &[&width], 0.0);
        let utilization = sample.utilization_percent;
        assert!(utilization.is_none_or(|percent| (0.0..=100.0).contains(&percent)));
        // Newer GPUs remap rows, older ones retire pages.
        let pending = said.text(&["remapped_rows", "remapped_row_pending"]);
        let pending = pending.or_else(|| said.text(&["retired_pages", "pending_retirement"]));
        assert_eq!(vitals.remap_pending, pending.map(|text| text == "Yes"));
        let mut pids: Vec<u32> = (reading.processes.iter().flatten())
            .map(|process| process.pid)
            .collect();
        let mut theirs = said.pids();
        pids.sort_unstable();
        theirs.sort_unstable();
        theirs.dedup();
        assert_eq!(pids, theirs);
        println!("{reading:?}");
    }
}

/// Both tell nothing, or about the same; the first of the paths that there is counts.
fn near(what: &str, ours: Option<f64>, said: &GpuReport<'_>, paths: &[&[&str]], within: f64) {
    let theirs = paths.iter().find_map(|path| said.number(path));
    match (ours, theirs) {
        (None, None) => {}
        (Some(ours), Some(theirs)) if (ours - theirs).abs() <= within => {}
        _ => panic!("{what}: {ours:?} here, {theirs:?} there"),
    }
}

#[test]
fn a_sample_of_all_gpus_costs_at_most_5_ms_of_cpu() {
    let mut probe = probe();
    let gpus = probe.sample().unwrap().len();
    let mut costs: Vec<f64> = (0..50)
        .map(|_| {
            let before = cpu_ms();
            probe.sample().unwrap();
            cpu_ms() - before
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    let (median, most) = (costs[costs.len() / 2], costs[costs.len() - 1]);
    println!("a sample of {gpus} GPUs: {median:.3} ms of CPU, at most {most:.3} ms");
    assert!(median <= CPU_MS, "{median:.3} ms");
}

/// Of this thread.
fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

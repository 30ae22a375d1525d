//! What is measured.

use rental_agent::gpu::{
    GpuProbe, GpuProcess, Reading, Recovery, Vitals,
    nvml::{Asking, NvmlProbe},
};

use rustix::time::{ClockId, clock_gettime};

use super::{fake_nvml::FakeNvml, open};

/// CPU for a sample of eight GPUs, at most.
const CPU_MS: f64 = 5.0;

fn reading(script: &str) -> Reading {
    let nvml = FakeNvml::with(script);
    let mut readings = open(&nvml.library).unwrap().sample().unwrap();
    assert_eq!(readings.len(), 1);
    readings.remove(0)
}

#[test]
fn a_sample_has_what_the_driver_measures() {
    let sample =
        reading("gpus 1\nused 0 2048\nbusy 0 97\ntemperature 0 83\npower 0 350250\n").sample;
    assert_eq!(sample.utilization_percent, Some(97.0));
    assert_eq!(sample.temperature_c, Some(83.0));
    assert_eq!(sample.memory_used_bytes, Some(2 << 30));
    assert_eq!(sample.power_w, Some(350.25));
}

#[test]
fn what_an_old_driver_cannot_measure_is_left_out() {
    let nvml = FakeNvml::built(&["-DWITHOUT_POWER"], "gpus 1\n");
    let readings = open(&nvml.library).unwrap().sample().unwrap();
    assert_eq!(readings[0].sample.power_w, None);
    assert_eq!(readings[0].sample.temperature_c, Some(55.0));
    let nothing = Vitals {
        pcie_generation: Some((4, 4)),
        pcie_width: Some((16, 16)),
        ..Vitals::default()
    };
    assert_eq!(readings[0].vitals, nothing);
}

#[test]
fn vitals_are_told_as_the_driver_has_them() {
    let script = "gpus 1\necc 0 3 17\nremap 0 1 0\nfan 0 40\npcie 0 1 5 8 16\nrecovery 0 2\n\
                  throttle 0 41\n";
    let expected = Vitals {
        ecc_uncorrected_volatile: Some(3),
        ecc_uncorrected_aggregate: Some(17),
        remap_pending: Some(true),
        remap_failed: Some(false),
        fan_percent: Some(41),
        // Bit 0 is idleness.
        throttle_reasons: vec!["hw_thermal_slowdown".to_owned()],
        pcie_generation: Some((1, 5)),
        pcie_width: Some((8, 16)),
        recovery: Some(Recovery::RebootNode),
    };
    assert_eq!(reading(script).vitals, expected);
}

#[test]
fn the_drivers_own_advice_is_passed_on() {
    let advice = |action: u32| {
        reading(&format!("gpus 1\nrecovery 0 {action}\n"))
            .vitals
            .recovery
    };
    assert_eq!(advice(0), None);
    assert_eq!(advice(1), Some(Recovery::ResetGpu));
    assert_eq!(advice(4), Some(Recovery::DrainAndReset));
}

#[test]
fn f71_whoever_is_on_a_gpu_is_named_whatever_he_does_there() {
    let own = std::process::id();
    let script = format!(
        "gpus 1\nprocess 0 {own} 512\nprocess 0 {own} 600 graphics\n\
         process 0 4194304 7 mps\nprocess 0 4194303 1\n"
    );
    let processes = reading(&script).processes.unwrap();
    let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    let expect = |pid, name: Option<&str>, mib: u64| GpuProcess {
        pid,
        name: name.map(ToOwned::to_owned),
        memory_bytes: Some(mib << 20),
    };
    // Larger numbers than Linux gives, so nobody has them.
    let expected = [
        expect(own, Some(name.trim_end()), 600),
        expect(4_194_303, None, 1),
        expect(4_194_304, None, 7),
    ];
    assert_eq!(processes, expected);
}

#[test]
fn a_list_of_processes_that_cannot_be_had_is_not_an_empty_one() {
    assert_eq!(reading("gpus 1\n").processes, Some(vec![]));
    assert_eq!(reading("gpus 1\nprocesses 0 999\n").processes, None);
    let nvml = FakeNvml::with("gpus 1\n");
    // In a container the driver lists nobody.
    let blind = Asking {
        library: Some(nvml.library.clone()),
        sees_processes: false,
    };
    let readings = NvmlProbe::open(&blind).unwrap().sample().unwrap();
    assert_eq!(readings[0].processes, None);
}

/// With all that the stand-in can say of a GPU; its own work counts, too.
#[test]
fn a_sample_of_eight_gpus_costs_at_most_5_ms_of_cpu() {
    let about = |gpu: u32| {
        format!(
            "ecc {gpu} 0 0\nremap {gpu} 0 0\nfan {gpu} 30\nrecovery {gpu} 0\n\
             process {gpu} {} 100\n",
            std::process::id()
        )
    };
    let script: String = (0..8).map(about).collect();
    let nvml = FakeNvml::with(&format!("gpus 8\n{script}"));
    let mut probe = open(&nvml.library).unwrap();
    assert_eq!(probe.sample().unwrap().len(), 8);
    let cpu_ms = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
    };
    let mut costs: Vec<f64> = (0..21)
        .map(|_| {
            let before = cpu_ms();
            probe.sample().unwrap();
            cpu_ms() - before
        })
        .collect();
    costs.sort_by(f64::total_cmp);
    println!("a sample costs {:.3} ms", costs[10]);
    assert!(costs[10] <= CPU_MS, "{costs:?}");
}

//! What a look at the GPUs costs: the thread's own time on a processor, of eight stand-ins. It says
//! what the agent and the calls cost and nothing about a real driver; `scripts/test gpu` measures that.

use rental_agent::gpu::{
    GpuProbe,
    nvml::{Asking, NvmlProbe},
};
use rustix::time::{ClockId, clock_gettime};

use crate::{fake_nvml::FakeNvml, report::Figure};

const GPUS: usize = 8;
const BAR_MS: f64 = 5.0;

/// All of them, so often.
pub(crate) fn samples(count: usize) -> Figure {
    let nvml = FakeNvml::with(&format!("gpus {GPUS}\n"));
    let asking = Asking {
        library: Some(nvml.library.clone()),
        sees_processes: true,
    };
    let mut probe = NvmlProbe::open(&asking).unwrap();
    let samples: Vec<f64> = (0..count)
        .map(|_| {
            let before = cpu_ms();
            assert_eq!(probe.sample().unwrap().len(), GPUS);
            cpu_ms() - before
        })
        .collect();
    Figure::of_samples("CPU of a sample of 8 GPUs", "ms", &samples, BAR_MS)
}

fn cpu_ms() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 / 1e6
}

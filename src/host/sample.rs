//! How the host is doing: processors, memory, load.

use std::fs;

use super::system::Memory;
use crate::protocol::message::HostSample;

/// Takes samples; remembers the last one, since the kernel only counts.
#[derive(Debug, Default)]
pub struct HostSampler {
    last: Option<CpuTimes>,
}

impl HostSampler {
    /// How the host is, `cpu_percent` since the last call and absent at the first.
    pub fn sample(&mut self) -> HostSample {
        let memory = Memory::read();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let times = fs::read_to_string("/proc/stat")
            .ok()
            .and_then(|stat| CpuTimes::parse(&stat));
        let since = self.last;
        self.last = times;
        HostSample {
            cpu_percent: times
                .zip(since)
                .and_then(|(now, then)| now.busy_since(then)),
            memory_used_bytes: memory.total_bytes.saturating_sub(memory.available_bytes),
            memory_total_bytes: memory.total_bytes,
            load_1m: first_number(&load),
        }
    }
}

fn first_number(text: &str) -> f64 {
    let first = text.split_whitespace().next();
    first.and_then(|word| word.parse().ok()).unwrap_or(0.0)
}

/// Ticks of all processors since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTimes {
    idle: u64,
    total: u64,
}

impl CpuTimes {
    /// Reads the line `cpu user nice system idle iowait irq softirq steal guest guest_nice`, where
    /// guest time is already counted as user time.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line
            .split_whitespace()
            .take(8)
            .map_while(|word| word.parse().ok())
            .collect();
        let [_, _, _, idle, ..] = *ticks.as_slice() else {
            return None;
        };
        Some(Self {
            idle: idle.saturating_add(ticks.get(4).copied().unwrap_or(0)),
            total: ticks.iter().fold(0, |sum, part| sum.saturating_add(*part)),
        })
    }

    /// Percent of the time since `then` in which the processors were not idle. `iowait` may fall a
    /// little between two readings, so the parts are clamped.
    fn busy_since(self, then: Self) -> Option<f64> {
        let total = u32::try_from(self.total.checked_sub(then.total)?).ok()?;
        let idle = u32::try_from(self.idle.saturating_sub(then.idle)).ok()?;
        (total > 0).then(|| {
            let busy = f64::from(total.saturating_sub(idle));
            (busy * 1000.0 / f64::from(total)).round() / 10.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_the_disk_is_idle_and_guest_time_is_counted_once() {
        let then = CpuTimes::parse("cpu  100 0 0 100 0 0 0 0 0 0\ncpu0 1\n").unwrap();
        let now = CpuTimes::parse("cpu  150 0 0 130 20 0 0 0 50 0\n").unwrap();
        assert_eq!(now.busy_since(then), Some(50.0));
    }

    #[test]
    fn nothing_is_said_of_no_time_and_of_counters_that_fell() {
        let times = CpuTimes { idle: 5, total: 10 };
        assert_eq!(times.busy_since(times), None);
        let fallen = CpuTimes { idle: 5, total: 9 };
        assert_eq!(fallen.busy_since(times), None);
    }

    #[test]
    fn what_is_no_statistic_is_left_out() {
        for text in ["", "cpu\n", "cpu 1 2 3\n", "intr 1 2 3 4 5\n"] {
            assert_eq!(CpuTimes::parse(text), None, "{text:?}");
        }
        assert_eq!(first_number("0.52 0.4 0.3 1/2 3"), 0.52);
        assert_eq!(first_number("odd"), 0.0);
    }

    #[test]
    fn the_first_sample_has_no_percentage() {
        let mut sampler = HostSampler::default();
        let first = sampler.sample();
        assert_eq!(first.cpu_percent, None);
        assert!(first.memory_used_bytes <= first.memory_total_bytes);
    }
}

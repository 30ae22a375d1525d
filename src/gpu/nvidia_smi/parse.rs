//! What nvidia-smi prints, read. Columns are found by their names, so their order and number do not
//! matter; what is no value (`[N/A]`, `[Not Supported]`, `ERR!`, nothing) is absent. No IO.

use std::collections::BTreeMap;

use crate::{
    gpu::{Found, GpuProcess, Reading, Vitals, sysfs},
    protocol::{
        record::{Gpu, Mig},
        text::printable,
    },
};

const MIB: u64 = 1 << 20;

/// Of the inventory.
pub(super) const GPU_COLUMNS: &[&str] = &[
    "index",
    "uuid",
    "name",
    "memory.total",
    "pci.bus_id",
    "driver_version",
    "compute_cap",
    "mig.mode.current",
];

/// Of a sample.
pub(super) const SAMPLE_COLUMNS: &[&str] = &[
    "uuid",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "power.draw",
    "fan.speed",
    "ecc.errors.uncorrected.volatile.total",
    "ecc.errors.uncorrected.aggregate.total",
    "retired_pages.pending",
    "pcie.link.gen.current",
    "pcie.link.gen.max",
    "pcie.link.width.current",
    "pcie.link.width.max",
    "clocks_throttle_reasons.active",
];

/// Of the processes; the name last, since it may hold anything.
pub(super) const PROCESS_COLUMNS: &[&str] = &["gpu_uuid", "pid", "used_memory", "process_name"];

/// Names under which newer versions print columns that they still take by the old ones.
const RENAMED: &[(&str, &str)] = &[
    ("used_memory", "used_gpu_memory"),
    (
        "clocks_throttle_reasons.active",
        "clocks_event_reasons.active",
    ),
];

/// Bits of nvmlClocksThrottleReasons and their names; idle is none.
const THROTTLING: &[(u64, &str)] = &[
    (0x02, "applications_clocks_setting"),
    (0x04, "sw_power_cap"),
    (0x08, "hw_slowdown"),
    (0x10, "sync_boost"),
    (0x20, "sw_thermal_slowdown"),
    (0x40, "hw_thermal_slowdown"),
    (0x80, "hw_power_brake_slowdown"),
    (0x100, "display_clock_setting"),
];

/// Lines with a heading.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One line of it.
#[derive(Clone, Copy)]
struct Row<'a> {
    heading: &'a [String],
    cells: &'a [String],
}

impl Table {
    pub(super) fn read(text: &str) -> Self {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        // `memory.total [MiB]`: the unit is known.
        let name = |cell: String| cell.split(' ').next().unwrap_or_default().to_owned();
        let heading: Vec<String> = lines.next().map(cells).unwrap_or_default();
        Self {
            heading: heading.into_iter().map(name).collect(),
            rows: lines.map(cells).collect(),
        }
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row {
            heading: &self.heading,
            cells,
        })
    }
}

fn cells(line: &str) -> Vec<String> {
    // A comma without a space is a decimal one.
    let cells = line.split(", ").map(str::trim);
    cells.map(ToOwned::to_owned).collect()
}

impl<'a> Row<'a> {
    /// What is there, if it is a value.
    fn text(self, column: &str) -> Option<&'a str> {
        let renamed = RENAMED.iter().find(|(name, _)| *name == column);
        let is_it = |name: &&String| {
            name.as_str() == column || renamed.is_some_and(|(_, newer)| name.as_str() == *newer)
        };
        let place = self.heading.iter().position(|name| is_it(&name))?;
        let text = self.cells.get(place)?.as_str();
        let is_none = text.is_empty() || text.starts_with('[') || text == "N/A" || text == "ERR!";
        (!is_none).then_some(text)
    }

    fn whole<T: std::str::FromStr>(self, column: &str) -> Option<T> {
        first_word(self.text(column)?).parse().ok()
    }

    fn float(self, column: &str) -> Option<f64> {
        let text = first_word(self.text(column)?).replace(',', ".");
        let value: f64 = text.parse().ok()?;
        value.is_finite().then_some(value)
    }

    fn mebibytes(self, column: &str) -> Option<u64> {
        self.whole::<u64>(column)?.checked_mul(MIB)
    }

    fn pair(self, now: &str, most: &str) -> Option<(u32, u32)> {
        Some((self.whole(now)?, self.whole(most)?))
    }
}

/// Some versions print a unit although they are asked for none.
fn first_word(text: &str) -> &str {
    text.split([' ', '%']).next().unwrap_or_default()
}

/// In a row of another length no cell is sure to be under its heading.
fn is_whole(row: &Row<'_>) -> bool {
    row.cells.len() == row.heading.len()
}

pub(super) fn gpus(table: &Table) -> Vec<Found> {
    let found = table.rows().filter_map(|row| {
        let uuid = row.text("uuid")?.parse().ok()?;
        let text = |column, max| row.text(column).map(|text| printable(text, max));
        let bus_id = row.text("pci.bus_id").unwrap_or_default();
        Some(Found::from(Gpu {
            index: row.whole("index").unwrap_or(0),
            model: text("name", 100).unwrap_or_else(|| "unknown".to_owned()),
            memory_bytes: row.mebibytes("memory.total").unwrap_or(0),
            pci_bus_id: sysfs::pci_address(bus_id).unwrap_or_else(|| printable(bus_id, 40)),
            driver_version: text("driver_version", 80).unwrap_or_default(),
            compute_capability: text("compute_cap", 20),
            mig: row.text("mig.mode.current").map(|mode| Mig {
                enabled: mode == "Enabled",
                devices: Vec::new(),
            }),
            ..Gpu::bare(uuid, "nvidia")
        }))
    });
    found.collect()
}

pub(super) fn readings(table: &Table) -> Vec<Reading> {
    let readings = table.rows().filter_map(|row| {
        let mut reading = Reading::of(row.text("uuid")?.parse().ok()?);
        if !is_whole(&row) {
            return Some(reading);
        }
        let sample = &mut reading.sample;
        sample.memory_used_bytes = row.mebibytes("memory.used");
        sample.utilization_percent = row.float("utilization.gpu");
        sample.temperature_c = row.float("temperature.gpu");
        sample.power_w = row.float("power.draw");
        reading.vitals = Vitals {
            ecc_uncorrected_volatile: row.whole("ecc.errors.uncorrected.volatile.total"),
            ecc_uncorrected_aggregate: row.whole("ecc.errors.uncorrected.aggregate.total"),
            remap_pending: row.text("retired_pages.pending").and_then(yes_or_no),
            remap_failed: None,
            fan_percent: row.whole("fan.speed"),
            throttle_reasons: row
                .text("clocks_throttle_reasons.active")
                .map(throttling)
                .unwrap_or_default(),
            pcie_generation: row.pair("pcie.link.gen.current", "pcie.link.gen.max"),
            pcie_width: row.pair("pcie.link.width.current", "pcie.link.width.max"),
            recovery: None,
        };
        Some(reading)
    });
    readings.collect()
}

/// By the GPU's UUID. `name_of` looks a process up; else its name is what the tool prints, without its
/// folder.
pub(super) fn processes(
    table: &Table,
    name_of: impl Fn(u32) -> Option<String>,
) -> BTreeMap<String, Vec<GpuProcess>> {
    let mut by_gpu: BTreeMap<String, Vec<GpuProcess>> = BTreeMap::new();
    for row in table.rows() {
        let (Some(uuid), Some(pid)) = (row.text("gpu_uuid"), row.whole("pid")) else {
            continue;
        };
        let printed = || {
            let path = row.text("process_name")?;
            Some(printable(path.rsplit('/').next()?, 100))
        };
        by_gpu.entry(uuid.to_owned()).or_default().push(GpuProcess {
            pid,
            name: name_of(pid).or_else(printed),
            memory_bytes: row.mebibytes("used_memory"),
        });
    }
    by_gpu
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

fn throttling(text: &str) -> Vec<String> {
    let bits = text.strip_prefix("0x").unwrap_or(text);
    let bits = u64::from_str_radix(bits, 16).unwrap_or(0);
    let named = THROTTLING.iter().filter(|(bit, _)| bits & bit != 0);
    named.map(|(_, name)| (*name).to_owned()).collect()
}

/// The column that the tool says it does not know.
pub(super) fn unknown_column(said: &str) -> Option<String> {
    let (_, rest) = said.split_once("Field \"")?;
    let (column, rest) = rest.split_once('"')?;
    rest.contains("not a valid field")
        .then(|| column.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(heading: &str, row: &str) -> Reading {
        let text = format!("{heading}\n{row}\n");
        readings(&Table::read(&text)).remove(0)
    }

    #[test]
    fn what_is_no_value_is_absent() {
        for none in [
            "[N/A]",
            "[Not Supported]",
            "ERR!",
            "N/A",
            "",
            "[Unknown Error]",
        ] {
            let reading = reading(
                "uuid, power.draw [W], fan.speed [%]",
                &format!("GPU-1, {none}, {none}"),
            );
            assert_eq!(reading.sample.power_w, None, "{none}");
            assert_eq!(reading.vitals.fan_percent, None, "{none}");
        }
    }

    #[test]
    fn columns_are_found_by_name_and_missing_ones_are_absent() {
        let reading = reading("temperature.gpu, uuid", "41, GPU-1");
        assert_eq!(reading.sample.temperature_c, Some(41.0));
        assert_eq!(reading.sample.memory_used_bytes, None);
    }

    #[test]
    fn decimal_commas_are_read_as_such() {
        let reading = reading("uuid, power.draw [W], temperature.gpu", "GPU-1, 61,5, 40");
        assert_eq!(reading.sample.power_w, Some(61.5));
        assert_eq!(reading.sample.temperature_c, Some(40.0));
    }

    #[test]
    fn a_row_of_another_length_says_only_that_the_gpu_is_there() {
        let reading = reading("uuid, power.draw [W], temperature.gpu", "GPU-1, 61, 5, 40");
        assert_eq!(reading, Reading::of("GPU-1".parse().unwrap()));
    }

    #[test]
    fn throttle_reasons_are_named_and_idle_is_none() {
        assert_eq!(throttling("0x0000000000000001"), Vec::<String>::new());
        assert_eq!(
            throttling("0x0000000000000045"),
            ["sw_power_cap", "hw_thermal_slowdown"]
        );
    }

    #[test]
    fn a_column_that_an_old_version_does_not_know_is_named() {
        let said = "Field \"compute_cap\" is not a valid field to query.";
        assert_eq!(unknown_column(said), Some("compute_cap".to_owned()));
        assert_eq!(unknown_column("No devices were found"), None);
    }
}

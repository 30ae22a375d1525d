//! Figures, their bars, and how sure they are.

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

const RESAMPLES: usize = 10_000;
/// Of a normal interval of 95 %.
const TAILS: [f64; 2] = [0.025, 0.975];

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    /// What was measured of the agent: a median, or what the name says.
    pub(crate) value: f64,
    /// The engine alone, where there is such a thing.
    pub(crate) raw: Option<f64>,
    /// What the bar is about: the difference to the engine alone, or the value itself.
    pub(crate) judged: f64,
    /// With 95 %, where there are samples enough to say.
    pub(crate) interval: Option<[f64; 2]>,
    /// `judged` is at most this.
    pub(crate) bar: f64,
    /// What else has to be known.
    pub(crate) note: String,
}

impl Figure {
    /// A value by itself.
    pub(crate) fn absolute(name: &str, unit: &'static str, value: f64, bar: f64) -> Self {
        Self {
            name: name.to_owned(),
            unit,
            value,
            raw: None,
            judged: value,
            interval: None,
            bar,
            note: String::new(),
        }
    }

    /// The median of samples.
    pub(crate) fn of_samples(name: &str, unit: &'static str, samples: &[f64], bar: f64) -> Self {
        let interval = bootstrap(samples, median);
        Self {
            interval: Some(interval),
            note: format!("n = {}", samples.len()),
            ..Self::absolute(name, unit, median(samples), bar)
        }
    }

    /// Pairs of (agent, engine alone), in milliseconds. The median difference is at most `share` of
    /// the engine's median, or `floor` where that is more.
    pub(crate) fn of_pairs(name: &str, pairs: &[(f64, f64)], share: f64, floor: f64) -> Self {
        let (ours, raw): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
        let over = |pairs: &[(f64, f64)]| {
            let over: Vec<f64> = pairs.iter().map(|(ours, raw)| ours - raw).collect();
            median(&over)
        };
        Self {
            name: name.to_owned(),
            unit: "ms",
            value: median(&ours),
            raw: Some(median(&raw)),
            judged: over(pairs),
            interval: Some(bootstrap(pairs, over)),
            bar: (share * median(&raw)).max(floor),
            note: format!("n = {}", pairs.len()),
        }
    }

    fn met(&self) -> bool {
        self.judged <= self.bar
    }

    fn line(&self) -> String {
        let number = |value: f64| format!("{value:.1}");
        let raw = self.raw.map(number).unwrap_or_default();
        let over = self.raw.map(|_| format!("{:+.1}", self.judged));
        let interval = self
            .interval
            .map(|[low, high]| format!("{low:.1} … {high:.1}"));
        format!(
            "{:<48} {:>4} {:>9} {:>9} {:>8} {:>18} {:>8}  {:<6}  {}",
            self.name,
            self.unit,
            number(self.value),
            raw,
            over.unwrap_or_default(),
            interval.unwrap_or_default(),
            number(self.bar),
            if self.met() { "met" } else { "MISSED" },
            self.note,
        )
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "unit": self.unit, "value": self.value, "raw": self.raw,
            "judged": self.judged, "interval_95": self.interval, "bar": self.bar,
            "met": self.met(), "note": self.note,
        })
    }
}

/// Prints the table and the JSON line; whether all bars are met.
pub(crate) fn print(figures: &[Figure], machine: Value) -> bool {
    let met = figures.iter().all(Figure::met);
    let text = |name: &str| machine[name].as_str().unwrap_or_default().to_owned();
    println!(
        "rental-agent {} beside Docker Engine {}, Linux {} on {}, {} processors",
        text("agent"),
        text("engine"),
        text("kernel"),
        text("arch"),
        machine["cpus"]
    );
    println!(
        "{:<48} {:>4} {:>9} {:>9} {:>8} {:>18} {:>8}",
        "", "", "agent", "raw", "over", "95 %", "bar"
    );
    for figure in figures {
        println!("{}", figure.line());
    }
    let figures: Vec<Value> = figures.iter().map(Figure::json).collect();
    println!(
        "{}",
        json!({ "machine": machine, "met": met, "figures": figures })
    );
    met
}

/// The middle one.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value that this share of all is not above, between neighbours where it falls between them.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len() - 1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * place.fract()
}

/// Between which values the statistic lies with 95 %, by drawing samples from the sample again. The
/// same sample gives the same interval.
fn bootstrap<T: Copy>(sample: &[T], statistic: impl Fn(&[T]) -> f64) -> [f64; 2] {
    let mut random = StdRng::seed_from_u64(1);
    let drawn = (0..RESAMPLES).map(|_| {
        let again: Vec<T> = (0..sample.len())
            .map(|_| sample[random.random_range(0..sample.len())])
            .collect();
        statistic(&again)
    });
    let drawn: Vec<f64> = drawn.collect();
    TAILS.map(|tail| percentile(&drawn, tail))
}

//! Folds what the engine tells of each layer into one [`PullProgress`]. Pure: the time comes in.
//!
//! Engines differ in what they tell. The classic one announces every layer first and counts bytes of
//! downloads and of extraction; with a small layer it goes straight to "complete". The containerd
//! store of Docker 29 announces nothing and counts extraction in seconds. So a total is said only
//! when it is known, and a number is believed to be bytes only where it cannot be anything else.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{protocol::message::PullProgress, runtime::LayerEvent};

/// The rate is taken over so long: shorter jumps, longer hides that a registry slowed down.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Samples are at least so far apart, which bounds their number to 41.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);

/// An engine takes 127 layers; a manifest may name any number.
const LAYERS_MAX: usize = 1000;

/// One pull under way.
#[derive(Debug, Clone)]
pub struct Pull {
    layers: BTreeMap<String, Layer>,
    counting: Counting,
    /// When and how much had been downloaded, oldest first; never empty.
    samples: VecDeque<(Duration, u64)>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Layer {
    stage: Stage,
    downloaded: u64,
    total: Option<u64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    #[default]
    Waiting,
    Downloading,
    Downloaded,
    Extracting,
    Extracted,
}

/// Whether the number of layers is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counting {
    /// So far every layer was announced before anything else was said of it.
    Announced,
    /// A layer came out of the blue: more may follow.
    Open,
    /// The engine has said that it is done.
    Complete,
}

impl Pull {
    /// A pull that begins at `at`, by any clock that does not step.
    pub fn new(at: Duration) -> Self {
        Self {
            layers: BTreeMap::new(),
            counting: Counting::Announced,
            samples: VecDeque::from([(at, 0)]),
        }
    }

    /// Takes in what the engine has told.
    pub fn apply(&mut self, event: &LayerEvent, at: Duration) {
        let status = Status::of(&event.status);
        match (&event.layer, status) {
            (None, Status::Finished) => self.finish(),
            (Some(id), status) if status.is_of_layer() => self.apply_to_layer(id, status, event),
            (None | Some(_), _) => return,
        }
        self.sample(at);
    }

    /// How far it is, at `now`.
    pub fn progress(&self, now: Duration) -> PullProgress {
        let at_least = |stage| {
            self.layers
                .values()
                .filter(move |l| l.stage >= stage)
                .count()
        };
        let downloaded = self.downloaded();
        let total = self.total();
        let rate = self.rate(now);
        let left = total.map(|total| total.saturating_sub(downloaded));
        PullProgress {
            layers_total: self.layers_total().map(count),
            layers_done: count(at_least(Stage::Downloaded)),
            downloaded_bytes: downloaded,
            total_bytes: total,
            extracted_layers: count(at_least(Stage::Extracted)),
            bytes_per_s: rate,
            eta_s: left.and_then(|left| eta(left, rate)),
        }
    }

    fn finish(&mut self) {
        self.counting = Counting::Complete;
        for layer in self.layers.values_mut() {
            layer.reach(Stage::Extracted);
        }
    }

    fn apply_to_layer(&mut self, id: &str, status: Status, event: &LayerEvent) {
        if !self.layers.contains_key(id) {
            let full = self.layers.len() >= LAYERS_MAX;
            if full || !status.announces() {
                self.counting = Counting::Open;
            }
            if full {
                return;
            }
        }
        let layer = self.layers.entry(id.to_owned()).or_default();
        match status {
            Status::Announced | Status::Other | Status::Finished => {}
            Status::Exists => *layer = Layer::present(),
            Status::Downloading => {
                layer.stage = Stage::Downloading;
                layer.total = event.total_bytes.or(layer.total);
                let current = event.current_bytes.unwrap_or(layer.downloaded);
                layer.downloaded = current.min(layer.total.unwrap_or(u64::MAX));
            }
            Status::Retrying => layer.stage = Stage::Waiting,
            Status::Downloaded => layer.reach(Stage::Downloaded),
            Status::Extracting => {
                // The size of what is extracted, where it is told, is that of what was downloaded.
                layer.total = layer.total.or(event.total_bytes);
                layer.reach(Stage::Extracting);
            }
            Status::Extracted => layer.reach(Stage::Extracted),
        }
    }

    fn layers_total(&self) -> Option<usize> {
        let known = match self.counting {
            Counting::Announced => !self.layers.is_empty(),
            Counting::Open => false,
            Counting::Complete => true,
        };
        known.then_some(self.layers.len())
    }

    fn downloaded(&self) -> u64 {
        let each = self.layers.values().map(|layer| layer.downloaded);
        each.fold(0, u64::saturating_add)
    }

    fn total(&self) -> Option<u64> {
        self.layers_total()?;
        let mut totals = self.layers.values().map(|layer| layer.total);
        totals.try_fold(0u64, |sum, total| Some(sum.saturating_add(total?)))
    }

    fn sample(&mut self, at: Duration) {
        let downloaded = self.downloaded();
        match self.samples.back_mut() {
            Some(last) if at.saturating_sub(last.0) < SAMPLE_EVERY && last.1 > 0 => {
                last.1 = downloaded;
            }
            Some(_) | None => self.samples.push_back((at, downloaded)),
        }
        // One sample older than the window stays, so that the window is covered whole.
        while let (Some(_), Some(second)) = (self.samples.front(), self.samples.get(1)) {
            if at.saturating_sub(second.0) < RATE_WINDOW {
                break;
            }
            self.samples.pop_front();
        }
    }

    /// Bytes per second over the window that ends at `now`; sinks while nothing comes.
    fn rate(&self, now: Duration) -> u64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let millis = now.max(last.0).saturating_sub(first.0).as_millis();
        let bytes = u128::from(last.1.saturating_sub(first.1));
        let rate = (bytes * 1000).checked_div(millis).unwrap_or(0);
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

impl Layer {
    /// One that the host has already: nothing of it is downloaded.
    fn present() -> Self {
        Self {
            stage: Stage::Extracted,
            downloaded: 0,
            total: Some(0),
        }
    }

    /// All of it is here. One whose size was never told counts as what was seen of it.
    fn reach(&mut self, stage: Stage) {
        let total = self.total.unwrap_or(self.downloaded);
        self.total = Some(total);
        self.downloaded = total;
        self.stage = self.stage.max(stage);
    }
}

/// What the engine's wording means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Announced,
    Exists,
    Downloading,
    Retrying,
    Downloaded,
    Extracting,
    Extracted,
    /// Of the pull as a whole: its last line.
    Finished,
    Other,
}

impl Status {
    fn of(text: &str) -> Self {
        match text {
            "Pulling fs layer" | "Waiting" => Self::Announced,
            "Already exists" => Self::Exists,
            "Downloading" => Self::Downloading,
            "Verifying Checksum" | "Download complete" => Self::Downloaded,
            "Extracting" => Self::Extracting,
            "Pull complete" => Self::Extracted,
            _ if text.starts_with("Retrying in ") => Self::Retrying,
            _ if text.starts_with("Status: ") => Self::Finished,
            _ => Self::Other,
        }
    }

    /// "Pulling from …" also comes with an id: the tag.
    fn is_of_layer(self) -> bool {
        !matches!(self, Self::Other | Self::Finished)
    }

    fn announces(self) -> bool {
        matches!(self, Self::Announced | Self::Exists)
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Seconds to one decimal; unknown while nothing comes and once all has come (what is left then is
/// extraction, which no engine foretells).
fn eta(left: u64, rate: u64) -> Option<f64> {
    if left == 0 || rate == 0 {
        return None;
    }
    let tenths = (u128::from(left) * 10).div_ceil(u128::from(rate));
    // A day or more is no estimate.
    let tenths = u32::try_from(tenths).ok().filter(|t| *t < 864_000)?;
    Some(f64::from(tenths) / 10.0)
}

#[cfg(test)]
mod tests;

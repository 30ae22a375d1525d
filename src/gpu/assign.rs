//! Which of the free GPUs a rental gets: a set of one vendor that works well together, chosen so that
//! what stays free works well together too. Pure.
//!
//! Of two sets the better one has, in this order: fewer pairs of different models; fewer pairs that
//! reach each other only through the system's interconnect, then only within a memory node, then only
//! through a host bridge, then only through PCIe switches, because the slowest way between two of its
//! GPUs is what a job waits for; a better connected rest, so that of a whole group and a broken one
//! the broken one is used up; lower indexes.
//!
//! Of at most 16 free GPUs the best set is found by looking at all. Of more it is grown: from each
//! GPU as a seed, by whichever GPU adds the best pairs and takes the fewest from the rest; the best of
//! these sets wins.

use std::cmp::Reverse;

use crate::{
    ids::GpuUuid,
    protocol::{
        limits::MAX_GPUS,
        record::{Gpu, LinkKind},
    },
};

/// So many are looked at in all combinations: 12,870 sets at most.
const EXACT: usize = 16;

/// Chooses `count` of `free`, or `None` when there is no such set: all or nothing. The order of `free`
/// means nothing. More than [`MAX_GPUS`] are not looked at.
pub fn choose(free: &[&Gpu], count: usize) -> Option<Vec<GpuUuid>> {
    let mut gpus = free.to_vec();
    gpus.sort_by(|a, b| (a.index, &a.uuid).cmp(&(b.index, &b.uuid)));
    gpus.truncate(MAX_GPUS);
    if count == 0 || count > gpus.len() {
        return (count == 0).then(Vec::new);
    }
    let pairs = Pairs::of(&gpus);
    let sets = if gpus.len() <= EXACT {
        let all = 1..(1_u64 << gpus.len());
        all.filter(|set| ones(*set) == count).collect()
    } else {
        pairs.grown(gpus.len(), count)
    };
    let (_, best) = sets
        .into_iter()
        .filter_map(|set| Some((pairs.score(set)?, set)))
        .min_by_key(|(score, set)| (*score, Reverse(lowest_first(*set))))?;
    let chosen = gpus
        .iter()
        .enumerate()
        .filter(|(at, _)| best & bit(*at) != 0);
    Some(chosen.map(|(_, gpu)| gpu.uuid.clone()).collect())
}

/// How two GPUs are connected: by the best way that either of them names, else by the memory node.
fn kind(a: &Gpu, b: &Gpu) -> LinkKind {
    let named = |from: &Gpu, to: &Gpu| {
        let links = from.links.iter().filter(|link| link.uuid == to.uuid);
        links.map(|link| link.kind).min()
    };
    let by_node = if a.numa_node == b.numa_node {
        LinkKind::NumaNode
    } else {
        LinkKind::System
    };
    let best = [named(a, b), named(b, a)].into_iter().flatten().min();
    best.unwrap_or(by_node)
}

/// Pairs by what connects them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Tally {
    mixed: u32,
    system: u32,
    numa_node: u32,
    host_bridge: u32,
    pcie_switch: u32,
    nvlink: u32,
}

impl Tally {
    fn add(&mut self, pair: &Pair) {
        let counted = match pair.kind {
            LinkKind::Nvlink => &mut self.nvlink,
            LinkKind::PcieSwitch => &mut self.pcie_switch,
            LinkKind::HostBridge => &mut self.host_bridge,
            LinkKind::NumaNode => &mut self.numa_node,
            LinkKind::System => &mut self.system,
        };
        *counted += 1;
        self.mixed += u32::from(pair.is_mixed);
    }

    /// What is worth keeping, the best first.
    fn worth(&self) -> [u32; 4] {
        [
            self.nvlink,
            self.pcie_switch,
            self.host_bridge,
            self.numa_node,
        ]
    }
}

/// Less is better: of the set the bad pairs, of the rest the good ones.
type Score = (Tally, Reverse<[u32; 4]>);

struct Pair {
    /// Both.
    mask: u64,
    kind: LinkKind,
    /// Of two models.
    is_mixed: bool,
    /// Of two vendors: no set has such a pair.
    is_foreign: bool,
}

/// Of each GPU its pairs, so that each pair is there twice.
struct Pairs(Vec<Vec<Pair>>);

impl Pairs {
    fn of(gpus: &[&Gpu]) -> Self {
        let of_one = |(at, a): (usize, &&Gpu)| {
            let others = gpus.iter().enumerate().filter(|(other, _)| *other != at);
            let pair = |(other, b): (usize, &&Gpu)| Pair {
                mask: bit(at) | bit(other),
                kind: kind(a, b),
                is_mixed: a.model != b.model,
                is_foreign: a.vendor != b.vendor,
            };
            others.map(pair).collect()
        };
        Self(gpus.iter().enumerate().map(of_one).collect())
    }

    /// `None` for a set that cannot be given.
    fn score(&self, set: u64) -> Option<Score> {
        let (mut inside, mut outside) = (Tally::default(), Tally::default());
        for pair in self.0.iter().flatten() {
            if pair.mask & set == pair.mask {
                if pair.is_foreign {
                    return None;
                }
                inside.add(pair);
            } else if pair.mask & set == 0 && !pair.is_foreign && !pair.is_mixed {
                outside.add(pair);
            }
        }
        // So many pairs a set has in any case.
        inside.nvlink = 0;
        Some((inside, Reverse(outside.worth())))
    }

    /// One set for each GPU as the seed, as far as there are enough of its vendor.
    fn grown(&self, gpus: usize, count: usize) -> Vec<u64> {
        let grow = |seed| {
            (1..count).try_fold(bit(seed), |set, _| {
                let outside = (0..gpus).filter(|at| set & bit(*at) == 0);
                let next = outside.filter_map(|at| Some((self.step(set, at)?, at)));
                next.min().map(|(_, at)| set | bit(at))
            })
        };
        (0..gpus).filter_map(grow).collect()
    }

    /// What the GPU at `at` adds to a set, and what it takes from the rest.
    fn step(&self, set: u64, at: usize) -> Option<(Tally, [u32; 4])> {
        let (mut added, mut taken) = (Tally::default(), Tally::default());
        for pair in self.0.get(at)? {
            let joins = pair.mask & set != 0;
            if joins && pair.is_foreign {
                return None;
            } else if joins {
                added.add(pair);
            } else if !pair.is_foreign && !pair.is_mixed {
                taken.add(pair);
            }
        }
        added.nvlink = 0;
        Some((added, taken.worth()))
    }
}

fn bit(at: usize) -> u64 {
    1_u64
        .checked_shl(u32::try_from(at).unwrap_or(u32::MAX))
        .unwrap_or(0)
}

fn ones(set: u64) -> usize {
    usize::try_from(set.count_ones()).unwrap_or(usize::MAX)
}

/// Greater for the set whose first GPU is lower, then the second, and so on.
fn lowest_first(set: u64) -> u64 {
    set.reverse_bits()
}

#[cfg(test)]
mod tests;

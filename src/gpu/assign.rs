//! Which of the free GPUs a rental gets. Pure.

use crate::{ids::GpuUuid, protocol::record::Gpu};

/// Chooses `count` of `free`, or `None` when there are fewer: those with the lowest index, so that
/// the choice is the same each time and the rest stays together.
pub fn choose(free: &[&Gpu], count: usize) -> Option<Vec<GpuUuid>> {
    let mut by_index = free.to_vec();
    by_index.sort_by(|a, b| (a.index, &a.uuid).cmp(&(b.index, &b.uuid)));
    let chosen = by_index.get(..count)?;
    Some(chosen.iter().map(|gpu| gpu.uuid.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32) -> Gpu {
        Gpu {
            index,
            ..Gpu::bare(format!("GPU-{index}").parse().unwrap(), "nvidia")
        }
    }

    #[test]
    fn the_lowest_indices_are_chosen_whatever_the_order() {
        let gpus = [gpu(10), gpu(2), gpu(1)];
        let free: Vec<&Gpu> = gpus.iter().collect();
        let chosen = choose(&free, 2).unwrap();
        assert_eq!(chosen, [gpu(1).uuid, gpu(2).uuid]);
        assert_eq!(choose(&free, 4), None);
        assert_eq!(choose(&free, 0), Some(vec![]));
    }
}

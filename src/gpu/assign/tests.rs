use proptest::prelude::*;

use super::*;
use crate::protocol::record::GpuLink;

fn gpu(index: u32) -> Gpu {
    Gpu {
        index,
        model: "H100".to_owned(),
        ..Gpu::bare(format!("GPU-{index}").parse().unwrap(), "nvidia")
    }
}

/// `groups` of so many GPUs each, within which `kind` connects all.
fn host(groups: &[(usize, LinkKind)]) -> Vec<Gpu> {
    let mut gpus: Vec<Gpu> = Vec::new();
    for (node, (size, kind)) in groups.iter().enumerate() {
        let first = gpus.len();
        let group: Vec<usize> = (first..first + size).collect();
        for at in &group {
            let mut gpu = gpu(u32::try_from(*at).unwrap());
            gpu.numa_node = Some(u32::try_from(node).unwrap());
            let others = group.iter().filter(|other| *other != at);
            gpu.links = others
                .map(|other| GpuLink {
                    uuid: format!("GPU-{other}").parse().unwrap(),
                    kind: *kind,
                })
                .collect();
            gpus.push(gpu);
        }
    }
    gpus
}

#[track_caller]
fn check(gpus: &[Gpu], free: &[u32], count: usize, expected: &[u32]) {
    let free: Vec<&Gpu> = gpus
        .iter()
        .filter(|gpu| free.contains(&gpu.index))
        .collect();
    let expected: Vec<GpuUuid> = expected.iter().map(|index| gpu(*index).uuid).collect();
    assert_eq!(choose(&free, count), Some(expected));
}

#[test]
fn without_a_reason_the_lowest_indices_are_chosen_whatever_the_order() {
    let gpus = [gpu(10), gpu(2), gpu(1), gpu(3)];
    let free: Vec<&Gpu> = gpus.iter().collect();
    assert_eq!(choose(&free, 2).unwrap(), [gpu(1).uuid, gpu(2).uuid]);
    assert_eq!(choose(&free, 5), None);
    assert_eq!(choose(&free, 0), Some(vec![]));
    assert_eq!(choose(&[], 1), None);
}

#[test]
fn a_broken_group_is_used_up_before_a_whole_one_is_broken() {
    let gpus = host(&[(4, LinkKind::Nvlink), (4, LinkKind::Nvlink)]);
    check(&gpus, &[0, 2, 3, 4, 5, 6, 7], 1, &[0]);
    check(&gpus, &[0, 1, 2, 3, 5, 6, 7], 1, &[5]);
    check(&gpus, &[0, 1, 2, 3, 5, 6, 7], 2, &[5, 6]);
    check(&gpus, &[0, 1, 2, 3, 5, 6, 7], 3, &[5, 6, 7]);
    check(&gpus, &[0, 1, 2, 3, 5, 6, 7], 4, &[0, 1, 2, 3]);
}

#[test]
fn the_best_connected_set_wins_by_its_weakest_pair() {
    let gpus = host(&[
        (2, LinkKind::HostBridge),
        (2, LinkKind::PcieSwitch),
        (2, LinkKind::NumaNode),
        (2, LinkKind::Nvlink),
    ]);
    let all = [0, 1, 2, 3, 4, 5, 6, 7];
    check(&gpus, &all, 2, &[6, 7]);
    check(&gpus, &all[..6], 2, &[2, 3]);
    check(&gpus, &[0, 1, 4, 5], 2, &[0, 1]);
    check(&gpus, &[0, 2, 4, 5], 2, &[4, 5]);
    // A link that only one side names counts.
    let mut gpus = host(&[
        (1, LinkKind::System),
        (1, LinkKind::System),
        (1, LinkKind::System),
    ]);
    let link = |uuid: &GpuUuid| GpuLink {
        uuid: uuid.clone(),
        kind: LinkKind::Nvlink,
    };
    gpus[2].links = vec![link(&gpu(1).uuid)];
    check(&gpus, &[0, 1, 2], 2, &[1, 2]);
}

#[test]
fn models_are_not_mixed_where_that_can_be_helped_and_vendors_never() {
    let mut gpus = host(&[(3, LinkKind::Nvlink), (2, LinkKind::HostBridge)]);
    gpus[1].model = "A100".to_owned();
    gpus[2].model = "L4".to_owned();
    check(&gpus, &[0, 1, 2, 3, 4], 2, &[3, 4]);
    check(&gpus, &[0, 1, 2], 2, &[0, 1]);
    gpus[0].vendor = "amd".to_owned();
    check(&gpus, &[0, 1, 2], 2, &[1, 2]);
    let free: Vec<&Gpu> = gpus[..3].iter().collect();
    assert_eq!(choose(&free, 3), None);
}

#[test]
fn of_many_gpus_a_set_is_grown_that_stays_within_groups() {
    let gpus = host(&[
        (8, LinkKind::Nvlink),
        (8, LinkKind::Nvlink),
        (8, LinkKind::Nvlink),
    ]);
    let all: Vec<u32> = (0..24).collect();
    check(&gpus, &all, 8, &[0, 1, 2, 3, 4, 5, 6, 7]);
    let free: Vec<u32> = (0..24).filter(|index| *index != 17).collect();
    check(&gpus, &free, 1, &[16]);
    check(&gpus, &free, 3, &[16, 18, 19]);
    let many: Vec<Gpu> = (0..80).map(gpu).collect();
    let free: Vec<&Gpu> = many.iter().collect();
    assert_eq!(choose(&free, 64).unwrap().len(), 64);
    assert_eq!(choose(&free, 65), None);
}

/// Hosts of up to `most` GPUs with any links, models and vendors.
fn any_host(most: usize) -> impl Strategy<Value = Vec<Gpu>> {
    let one = (0..4_u8, 0..3_u8, 0..8_u8);
    let kinds = proptest::collection::vec(0..6_u8, most * most);
    (proptest::collection::vec(one, 1..=most), kinds).prop_map(|(ones, kinds)| {
        let mut kinds = kinds.into_iter();
        let mut gpus: Vec<Gpu> = Vec::new();
        for (at, (node, model, vendor)) in ones.into_iter().enumerate() {
            let mut new = gpu(u32::try_from(at).unwrap());
            new.numa_node = (node > 0).then_some(u32::from(node));
            new.model = format!("model {}", model.min(1));
            new.vendor = if vendor == 0 { "amd" } else { "nvidia" }.to_owned();
            for other in &gpus {
                let kind = match kinds.next().unwrap_or(0) {
                    0 => LinkKind::Nvlink,
                    1 => LinkKind::PcieSwitch,
                    2 => LinkKind::HostBridge,
                    3 => LinkKind::NumaNode,
                    4 => LinkKind::System,
                    _ => continue,
                };
                let uuid = other.uuid.clone();
                new.links.push(GpuLink { uuid, kind });
            }
            gpus.push(new);
        }
        gpus
    })
}

/// The rule as the module states it, counted without its means: bad pairs of the set, the worst
/// first, then what is lost of the rest.
fn cost(all: &[&Gpu], set: &[&Gpu]) -> Option<Vec<i32>> {
    let is_in = |gpu: &Gpu| set.iter().any(|one| one.uuid == gpu.uuid);
    let mut cost = vec![0; 9];
    for a in all {
        for b in all.iter().filter(|b| a.uuid < b.uuid) {
            let at = match kind(a, b) {
                LinkKind::System => 1,
                LinkKind::NumaNode => 2,
                LinkKind::HostBridge => 3,
                LinkKind::PcieSwitch => 4,
                LinkKind::Nvlink => 5,
            };
            if is_in(a) && is_in(b) {
                if a.vendor != b.vendor {
                    return None;
                }
                cost[0] += i32::from(a.model != b.model);
                cost[at] += i32::from(at < 5);
            } else if !is_in(a) && !is_in(b) && a.vendor == b.vendor && a.model == b.model && at > 1
            {
                cost[5 + (5 - at)] -= 1;
            }
        }
    }
    Some(cost)
}

proptest! {
    #[test]
    fn no_other_set_is_better_and_the_order_means_nothing(
        (gpus, order) in any_host(8).prop_flat_map(|gpus| {
            let order = Just((0..gpus.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(gpus), order)
        }),
        count in 0_usize..9,
    ) {
        let free: Vec<&Gpu> = gpus.iter().collect();
        let chosen = choose(&free, count);
        let shuffled: Vec<&Gpu> = order.iter().map(|at| &gpus[*at]).collect();
        prop_assert_eq!(&choose(&shuffled, count), &chosen);

        let subsets = (0_usize..1 << gpus.len()).filter(|set| ones(u64::try_from(*set).unwrap()) == count);
        let sets = subsets.map(|set| -> Vec<&Gpu> {
            let chosen = free.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0);
            chosen.map(|(_, gpu)| *gpu).collect()
        });
        let best = sets.filter_map(|set| cost(&free, &set)).min();
        let Some(chosen) = chosen else {
            prop_assert_eq!(best, None, "there was a set");
            return Ok(());
        };
        let chosen: Vec<&Gpu> = free.iter().filter(|gpu| chosen.contains(&gpu.uuid)).copied().collect();
        prop_assert_eq!(chosen.len(), count);
        prop_assert_eq!(cost(&free, &chosen), best);
    }

    #[test]
    fn a_grown_set_has_the_right_size_and_one_vendor(gpus in any_host(40), count in 1_usize..41) {
        let free: Vec<&Gpu> = gpus.iter().collect();
        let of = |vendor: &str| gpus.iter().filter(|gpu| gpu.vendor == vendor).count();
        let possible = of("amd").max(of("nvidia")) >= count;
        let chosen = choose(&free, count);
        prop_assert_eq!(chosen.is_some(), possible);
        let chosen = chosen.unwrap_or_default();
        let mut vendors: Vec<&str> = gpus.iter()
            .filter(|gpu| chosen.contains(&gpu.uuid)).map(|gpu| &*gpu.vendor).collect();
        prop_assert!(chosen.is_empty() || vendors.len() == count);
        vendors.dedup();
        prop_assert!(vendors.len() <= 1);
    }
}

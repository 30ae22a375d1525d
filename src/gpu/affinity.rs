//! Which processors are near GPUs. Pure.

use std::collections::BTreeSet;

use crate::protocol::record::Gpu;

/// No machine has more; a list that names more is none.
const MAX_PROCESSORS: u32 = 8192;

/// The list of the processors that are near all of `gpus`, as Linux writes it: where they hang on one
/// memory node, and that has at least `cores` processors, all of which this host of `host_cpus` has.
pub fn near(gpus: &[&Gpu], cores: u32, host_cpus: u32) -> Option<String> {
    let (first, others) = gpus.split_first()?;
    first.numa_node?;
    let shared =
        |gpu: &&&Gpu| (gpu.numa_node, &gpu.cpu_affinity) == (first.numa_node, &first.cpu_affinity);
    if others.iter().filter(shared).count() != others.len() {
        return None;
    }
    let list = first.cpu_affinity.as_deref()?;
    let processors = processors(list)?;
    let enough = u32::try_from(processors.len()).is_ok_and(|n| n >= cores);
    // The engine refuses a list with one that is not there.
    let all_there = processors.last().is_some_and(|last| *last < host_cpus);
    (enough && all_there).then(|| list.to_owned())
}

/// `0-3,8,10-11`: numbers and ranges, each upwards, with commas between. `None` for anything else.
fn processors(list: &str) -> Option<BTreeSet<u32>> {
    let mut all = BTreeSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

fn number(text: &str) -> Option<u32> {
    // The parser would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number: u32 = digits.then(|| text.parse().ok())??;
    (number < MAX_PROCESSORS).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(numa_node: Option<u32>, cpus: &str) -> Gpu {
        Gpu {
            numa_node,
            cpu_affinity: Some(cpus.to_owned()),
            ..Gpu::bare("GPU-1".parse().unwrap(), "nvidia")
        }
    }

    #[track_caller]
    fn check(gpus: &[(Option<u32>, &str)], cores: u32, expected: Option<&str>) {
        let gpus: Vec<Gpu> = gpus.iter().map(|(node, cpus)| gpu(*node, cpus)).collect();
        let gpus: Vec<&Gpu> = gpus.iter().collect();
        assert_eq!(near(&gpus, cores, 64).as_deref(), expected, "{gpus:?}");
    }

    #[test]
    fn gpus_of_one_node_bring_its_processors_where_they_are_enough() {
        check(&[(Some(0), "0-3,8-11")], 8, Some("0-3,8-11"));
        check(&[(Some(0), "0-3,8-11")], 9, None);
        check(&[(Some(1), "4-7"), (Some(1), "4-7")], 1, Some("4-7"));
        check(&[(Some(1), "4-7"), (Some(0), "0-3")], 1, None);
        // With one memory node for all there is nothing to prefer.
        check(&[(None, "0-7")], 1, None);
        check(&[], 1, None);
        // One that the host does not have.
        check(&[(Some(0), "0-64")], 1, None);
    }

    #[test]
    fn what_is_no_list_of_processors_never_reaches_the_engine() {
        for bad in [
            "", " ", "a", "0-", "-3", "3-1", "0,,1", "0-1-2", "+1", "0x1", "1\n", "0-99999", "0;1",
            "٣",
        ] {
            assert_eq!(processors(bad), None, "{bad:?}");
        }
        assert_eq!(processors("5,1-2").unwrap(), BTreeSet::from([1, 2, 5]));
    }
}

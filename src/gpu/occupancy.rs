//! Whether anybody uses a GPU, by its processes and its memory. Pure.
//!
//! A GPU that is idle still shows some megabytes: the driver's own. How many, differs by model and
//! driver, so the least that was seen without a process is what it comes back to. What a driver does
//! not tell speaks against nobody.

use super::{GpuProcess, Reading};
use crate::protocol::text::printable;

const MIB: u64 = 1024 * 1024;

/// An idle GPU's memory use moves by so much from one time to another.
const TOLERANCE_BYTES: u64 = 128 * MIB;

/// When a GPU counts as unused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdleRule {
    /// Until it was seen idle once: with more memory in use than this it is used.
    pub memory_bytes: u64,
    /// Programs that may be on it all the same, a desktop's for example.
    pub ignored: Vec<String>,
}

impl Default for IdleRule {
    fn default() -> Self {
        Self {
            memory_bytes: 512 * MIB,
            ignored: Vec::new(),
        }
    }
}

/// Who uses it, in words; `None`: nobody that could be seen. `baseline`: the least memory that was in
/// use while nobody was on it.
pub fn user(reading: &Reading, baseline: Option<u64>, rule: &IdleRule) -> Option<String> {
    let mut strangers = reading
        .processes
        .iter()
        .flatten()
        .filter(|process| !is_ignored(process, rule));
    if let Some(first) = strangers.next() {
        let others = strangers.count();
        let more = match others {
            0 => String::new(),
            _ => format!(" and {others} more"),
        };
        return Some(format!("{}{more}", in_words(first)));
    }
    let used = memory_used(reading, rule)?;
    let most = baseline.map_or(rule.memory_bytes, |least| {
        least.saturating_add(TOLERANCE_BYTES)
    });
    (used > most).then(|| {
        let (used, most) = (used / MIB, most / MIB);
        format!("nobody that can be seen, with {used} MiB of its memory; {most} are usual")
    })
}

/// What is in use of its memory beside what the ignored programs have; `None` where nobody tells.
pub fn memory_used(reading: &Reading, rule: &IdleRule) -> Option<u64> {
    let used = reading.sample.memory_used_bytes?;
    let ignored = reading
        .processes
        .iter()
        .flatten()
        .filter(|process| is_ignored(process, rule))
        .filter_map(|process| process.memory_bytes);
    Some(ignored.fold(used, u64::saturating_sub))
}

fn is_ignored(process: &GpuProcess, rule: &IdleRule) -> bool {
    let name = process.name.as_ref();
    name.is_some_and(|name| rule.ignored.contains(name))
}

fn in_words(process: &GpuProcess) -> String {
    let one_line = |name: &str| printable(&name.replace(['\n', '\t'], " "), 80);
    let name = process.name.as_deref().map(one_line);
    match name {
        Some(name) => format!("process {} ({name})", process.pid),
        None => format!("process {}", process.pid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(used_mib: Option<u64>, processes: Option<&[(u32, &str, u64)]>) -> Reading {
        let mut reading = Reading::of("GPU-a".parse().unwrap());
        reading.sample.memory_used_bytes = used_mib.map(|mib| mib * MIB);
        reading.processes = processes.map(|processes| {
            let process = |(pid, name, mib): &(u32, &str, u64)| GpuProcess {
                pid: *pid,
                name: (!name.is_empty()).then(|| (*name).to_owned()),
                memory_bytes: Some(mib * MIB),
            };
            processes.iter().map(process).collect()
        });
        reading
    }

    fn rule() -> IdleRule {
        IdleRule {
            ignored: vec!["Xorg".to_owned()],
            ..IdleRule::default()
        }
    }

    /// F71.
    #[test]
    fn a_process_is_named() {
        let python = (71, "python3", 10);
        let one = reading(Some(10), Some(&[python]));
        let said = user(&one, None, &rule()).unwrap();
        assert_eq!(said, "process 71 (python3)");
        let two = reading(Some(10), Some(&[(72, "", 1), python]));
        assert_eq!(user(&two, None, &rule()).unwrap(), "process 72 and 1 more");
    }

    #[test]
    fn what_a_process_calls_itself_is_made_printable() {
        let hostile = reading(Some(1), Some(&[(9, "a\u{1b}[2Jb\nc", 1)]));
        let said = user(&hostile, None, &rule()).unwrap();
        assert!(!said.contains(['\u{1b}', '\n']), "{said:?}");
    }

    #[test]
    fn an_ignored_process_counts_neither_itself_nor_with_its_memory() {
        let desktop = reading(Some(900), Some(&[(5, "Xorg", 880)]));
        assert_eq!(user(&desktop, None, &rule()), None);
        assert_eq!(memory_used(&desktop, &rule()), Some(20 * MIB));
    }

    /// F72.
    #[test]
    fn memory_that_did_not_come_back_is_used() {
        let idle = |mib| user(&reading(Some(mib), Some(&[])), Some(300 * MIB), &rule());
        assert_eq!(idle(300 + 128), None);
        assert!(idle(300 + 129).unwrap().contains("429 MiB"));
    }

    #[test]
    fn before_it_was_seen_idle_the_configuration_says_how_much_is_usual() {
        let unseen = |mib| user(&reading(Some(mib), Some(&[])), None, &rule());
        assert_eq!(unseen(512), None);
        assert!(unseen(513).is_some());
    }

    #[test]
    fn what_a_driver_does_not_tell_speaks_against_nobody() {
        assert_eq!(user(&reading(None, None), None, &rule()), None);
        assert!(user(&reading(Some(4_000), None), None, &rule()).is_some());
    }
}

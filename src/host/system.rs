//! System, processor and memory, from the kernel and `/etc/os-release`.

use std::{fs, thread};

use crate::protocol::{record::Host, text::printable};

/// What the kernel and the distribution say; the rest of the record is left at its default.
pub(super) fn facts() -> Host {
    let kernel = rustix::system::uname();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let os_release = fs::read_to_string("/etc/os-release")
        .or_else(|_| fs::read_to_string("/usr/lib/os-release"))
        .unwrap_or_default();
    Host {
        hostname: printable(&kernel.nodename().to_string_lossy(), 255),
        os: os_name(&os_release),
        kernel: printable(&kernel.release().to_string_lossy(), 100),
        arch: printable(&kernel.machine().to_string_lossy(), 40),
        cpu_model: cpu_model(&cpuinfo),
        cpus: cpus(&cpuinfo),
        memory_bytes: Memory::read().total_bytes,
        ..Host::default()
    }
}

/// The host's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) total_bytes: u64,
    /// That programs could have without swapping.
    pub(super) available_bytes: u64,
}

impl Memory {
    pub(super) fn read() -> Self {
        Self::parse(&fs::read_to_string("/proc/meminfo").unwrap_or_default())
    }

    fn parse(meminfo: &str) -> Self {
        let kib = |name| {
            let value = field(meminfo, name)?.strip_suffix(" kB")?;
            value.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Self {
            total_bytes: kib("MemTotal").unwrap_or(0),
            available_bytes: kib("MemAvailable").unwrap_or(0),
        }
    }
}

/// The value of the first `name : value` line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

/// The distribution's name for people, `Linux` without one.
fn os_name(os_release: &str) -> String {
    let pretty = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|value| value.trim().trim_matches(['"', '\'']))
        .filter(|value| !value.is_empty());
    printable(pretty.unwrap_or("Linux"), 100)
}

/// x86 names the model; Arm gives numbers of the maker and the part.
fn cpu_model(cpuinfo: &str) -> String {
    let arm = || {
        let (maker, part) = (
            field(cpuinfo, "CPU implementer")?,
            field(cpuinfo, "CPU part")?,
        );
        Some(format!("Arm {maker} {part}"))
    };
    let model = field(cpuinfo, "model name").map(str::to_owned);
    printable(
        &model.or_else(arm).unwrap_or_else(|| "unknown".to_owned()),
        100,
    )
}

/// All logical processors of the host, whatever share of them this process may use.
fn cpus(cpuinfo: &str) -> u32 {
    let listed = cpuinfo
        .lines()
        .filter(|line| {
            line.split_once(':')
                .is_some_and(|(key, _)| key.trim() == "processor")
        })
        .count();
    let usable = || thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(if listed > 0 { listed } else { usable() }).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: &str = "processor\t: 0\nmodel name\t: AMD EPYC 9454\n\nprocessor\t: 1\nmodel name\t: AMD EPYC 9454\n";
    const ARM: &str = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n";

    #[test]
    fn processors_are_counted_and_named() {
        assert_eq!((cpus(X86), cpu_model(X86).as_str()), (2, "AMD EPYC 9454"));
        assert_eq!((cpus(ARM), cpu_model(ARM).as_str()), (1, "Arm 0x41 0xd4f"));
        assert!(cpus("") >= 1);
        assert_eq!(cpu_model(""), "unknown");
    }

    #[test]
    fn the_distribution_is_named_as_it_names_itself() {
        assert_eq!(
            os_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os_name("PRETTY_NAME='Alpine'\n"), "Alpine");
        assert_eq!(os_name("ID=odd\n"), "Linux");
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let memory =
            Memory::parse("MemTotal:       16 kB\nMemFree:  1 kB\nMemAvailable:    8 kB\n");
        assert_eq!(
            memory,
            Memory {
                total_bytes: 16_384,
                available_bytes: 8_192
            }
        );
        assert_eq!(Memory::parse("MemTotal: lots\n"), Memory::default());
    }

    #[test]
    fn this_machine_has_all_of_it() {
        let host = facts();
        assert!(host.memory_bytes > 0 && host.cpus > 0);
        assert!(!host.kernel.is_empty() && !host.arch.is_empty() && !host.os.is_empty());
    }
}

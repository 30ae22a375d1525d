//! What the system itself tells of devices, below `/sys`. What cannot be read is absent.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::protocol::{record::LinkKind, text::printable};

/// A word of a device's file is no longer.
const MAX_WORD: usize = 100;

/// The system's files, below a folder that is `/` but in tests.
#[derive(Debug, Clone)]
pub(super) struct SysFs {
    root: PathBuf,
}

impl Default for SysFs {
    fn default() -> Self {
        Self::at(Path::new("/"))
    }
}

impl SysFs {
    pub(super) fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// An absolute path of the host.
    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    /// What is in a folder, sorted; nothing where there is no such folder.
    pub(super) fn names(&self, absolute: &str) -> Vec<String> {
        names(&self.path(absolute))
    }

    /// The folder of a PCI device; `address` as in [`pci_address`].
    pub(super) fn pci(&self, address: &str) -> PathBuf {
        self.path("/sys/bus/pci/devices").join(address)
    }

    /// The memory node that a PCI device hangs on, where the system knows it.
    pub(super) fn numa_node(&self, address: &str) -> Option<u32> {
        // -1 where the machine does not say.
        (!address.is_empty()).then(|| number(&self.pci(address).join("numa_node")))?
    }

    /// The processors of that node.
    pub(super) fn cpus_near(&self, address: &str) -> Option<String> {
        (!address.is_empty()).then(|| word(&self.pci(address).join("local_cpulist")))?
    }

    /// How two PCI devices are connected, by what they hang on.
    pub(super) fn link(&self, one: &str, other: &str) -> LinkKind {
        let real = |address| self.pci(address).canonicalize().unwrap_or_default();
        let nodes = (self.numa_node(one), self.numa_node(other));
        common(&real(one), &real(other)).unwrap_or(match nodes {
            (Some(here), Some(there)) if here == there => LinkKind::NumaNode,
            _ => LinkKind::System,
        })
    }
}

/// By the bridges that both paths go through: one beyond the host bridge is a switch.
fn common(one: &Path, other: &Path) -> Option<LinkKind> {
    let shared = one.components().zip(other.components());
    let shared = shared.take_while(|(a, b)| a == b).map(|(a, _)| a);
    let shared: PathBuf = shared.collect();
    let mut below = shared.iter().filter_map(|name| name.to_str());
    below.find(|name| name.starts_with("pci"))?;
    Some(match below.next() {
        Some(_) => LinkKind::PcieSwitch,
        None => LinkKind::HostBridge,
    })
}

/// The file's first word or line, printable; `None` also where it is empty.
pub(super) fn word(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| printable(line, MAX_WORD))
}

/// The file's first line as a number of that type.
pub(super) fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    word(path)?.parse().ok()
}

/// The names in a folder, sorted.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// `name` without `prefix`, as a number.
pub(super) fn numbered(name: &str, prefix: &str) -> Option<u32> {
    name.strip_prefix(prefix)?.parse().ok()
}

/// A PCI address as the system writes it, `0000:01:00.0`; NVIDIA writes `00000000:01:00.0`.
pub(super) fn pci_address(text: &str) -> Option<String> {
    let (text, function) = text.trim().rsplit_once('.')?;
    let mut parts = text.rsplit(':');
    let (device, bus) = (hex(parts.next()?)?, hex(parts.next()?)?);
    let domain = parts.next().map_or(Some(0), hex)?;
    let whole = parts.next().is_none() && bus <= 0xff && device <= 0x1f;
    whole.then(|| {
        Some(format!(
            "{domain:04x}:{bus:02x}:{device:02x}.{:x}",
            hex(function)?
        ))
    })?
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

/// Bits, the lowest first, as Linux writes lists of processors.
pub(super) fn cpu_list(words: impl Iterator<Item = u64>) -> Option<String> {
    let bits = words.enumerate().flat_map(|(place, word)| {
        let set = (0..64).filter(move |bit| word >> bit & 1 == 1);
        set.map(move |bit| place * 64 + bit)
    });
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for bit in bits {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == bit => *last = bit,
            _ => runs.push((bit, bit)),
        }
    }
    let runs: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| match first == last {
            true => first.to_string(),
            false => format!("{first}-{last}"),
        })
        .collect();
    (!runs.is_empty()).then(|| runs.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nvidias_addresses_become_the_systems() {
        let address = |text| pci_address(text).unwrap_or_default();
        assert_eq!(address("00000000:0A:00.0"), "0000:0a:00.0");
        assert_eq!(address("00010000:C1:1F.0"), "10000:c1:1f.0");
        assert_eq!(address("0000:01:00.1"), "0000:01:00.1");
        assert_eq!(address("01:00.0"), "0000:01:00.0");
        for garbage in ["", ".", "a.b.c", "zz:00.0", "0000:00:100:00.0", "1:2:3:4.0"] {
            assert_eq!(pci_address(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn processors_are_listed_as_linux_does() {
        let list = |words: &[u64]| cpu_list(words.iter().copied()).unwrap_or_default();
        assert_eq!(list(&[0xffff, 0]), "0-15");
        assert_eq!(list(&[0b1011, 1]), "0-1,3,64");
        assert_eq!(list(&[1 << 63, 1]), "63-64");
        assert_eq!(list(&[0, 0]), "");
    }

    #[test]
    fn devices_are_connected_by_what_both_hang_on() {
        let under = |path: &str| PathBuf::from(format!("/sys/devices/{path}"));
        let one = under("pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0");
        let beside = under("pci0000:00/0000:00:01.0/0000:01:00.0/0000:03:00.0");
        let across = under("pci0000:00/0000:00:03.0/0000:05:00.0");
        let far = under("pci0000:80/0000:80:01.0/0000:81:00.0");
        assert_eq!(common(&one, &beside), Some(LinkKind::PcieSwitch));
        assert_eq!(common(&one, &across), Some(LinkKind::HostBridge));
        assert_eq!(common(&one, &far), None);
    }
}

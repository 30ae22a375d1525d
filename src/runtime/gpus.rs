//! How a rental's GPUs get into its container, what shows there that they have, and what of other
//! containers' words means which GPU. Pure.

use std::collections::BTreeSet;

use crate::ids::{ContainerId, GpuUuid};

/// Stands for "some GPUs, which ones is the runtime's choice", and for what cannot be told.
pub const ALL: &str = "all";

/// Device files that go with every GPU of their vendor, and say nothing of which.
const SHARED: [&str; 2] = ["/dev/kfd", "/dev/vfio/vfio"];

/// What CDI calls NVIDIA's GPUs.
const CDI_KIND: &str = "nvidia.com/gpu";

/// The names that a GPU goes by on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuNames {
    /// The one that stays.
    pub uuid: GpuUuid,
    /// The driver's number today; `None` where it is not known.
    pub index: Option<u32>,
    /// Its device files on the host; empty where they are not known.
    pub nodes: Vec<String>,
}

impl GpuNames {
    /// A GPU of which only the UUID is known.
    pub fn bare(uuid: GpuUuid) -> Self {
        Self {
            uuid,
            index: None,
            nodes: Vec::new(),
        }
    }
}

/// How the engine is asked for a rental's GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Handing {
    /// By UUID, for the engine's GPU runtime to do.
    Request,
    /// By their CDI names, for the engine itself to do.
    Cdi,
    /// As device files: their vendor's programs need nothing else.
    Files(Vec<String>),
}

/// What CDI calls a GPU.
pub fn cdi_name(gpu: &GpuUuid) -> String {
    format!("{CDI_KIND}={gpu}")
}

/// Whether a container with these [`Detail::device_ids`](super::Detail::device_ids) holds `gpu`, or
/// may hold it: what cannot be told apart from it counts as it.
///
/// A privileged container sees every device and holds none: those that watch the host are privileged.
pub fn holds<'a>(device_ids: impl IntoIterator<Item = &'a String>, gpu: &GpuNames) -> bool {
    device_ids.into_iter().any(|id| names(id, gpu))
}

fn names(id: &str, gpu: &GpuNames) -> bool {
    if id.starts_with('/') {
        return has_file(id, gpu);
    }
    let id = match id.split_once('=') {
        // A CDI name of something else.
        Some((kind, _)) if !(kind.ends_with("/gpu") || kind.ends_with("/mig")) => return false,
        Some((_, device)) => device,
        None => id,
    };
    if id.eq_ignore_ascii_case(gpu.uuid.as_str()) {
        true
    } else if let Some(rest) = id.get(..4).filter(|p| p.eq_ignore_ascii_case("GPU-")) {
        // NVIDIA's runtime takes the beginning of a UUID for the whole.
        let own = gpu.uuid.as_str().get(..id.len());
        id.len() > rest.len() && own.is_some_and(|own| own.eq_ignore_ascii_case(id))
    } else if let Ok(index) = id.parse::<u32>() {
        gpu.index.is_none_or(|own| own == index)
    } else {
        // Any of these may be it; another vendor's name of another GPU is not.
        id == ALL || id.starts_with("MIG-") || is_bus_address(id)
    }
}

/// `00000000:65:00.0`.
fn is_bus_address(id: &str) -> bool {
    let fits = |c: char| c.is_ascii_hexdigit() || c == ':' || c == '.';
    id.contains(':') && id.chars().all(fits)
}

/// A device file, or a folder of them.
fn has_file(path: &str, gpu: &GpuNames) -> bool {
    let path = path.trim_end_matches('/');
    if SHARED.contains(&path) {
        return false;
    }
    let in_folder = |node: &String| {
        let rest = node.strip_prefix(path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let may_be_nvidias = class_of(path) == Some("/dev/nvidia");
    gpu.nodes.iter().any(in_folder) || (gpu.nodes.is_empty() && may_be_nvidias)
}

/// What can be seen of a container's GPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// Which container.
    pub container: ContainerId,
    /// It runs.
    pub runs: bool,
    /// What the engine was asked for, as [`Detail::device_ids`](super::Detail::device_ids).
    pub configured: Vec<String>,
    /// `NVIDIA_VISIBLE_DEVICES` in its configured environment; the first, which a program sees.
    pub visible: Option<String>,
    /// Its device files; `None` where they cannot be seen.
    pub nodes: Option<BTreeSet<String>>,
    /// Those of the host, of the same folders.
    pub host_nodes: BTreeSet<String>,
    /// What `nvidia-smi -L` inside says.
    pub listed: Listed,
}

/// What came of asking `nvidia-smi` inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed {
    /// It was not asked, the image has none, or there was no answer in time.
    Unasked,
    /// It ran and failed, and said this.
    Failed(String),
    /// It listed these.
    Gpus(BTreeSet<String>),
}

/// By what a container was seen to have its GPUs, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Means {
    /// The engine's own words.
    Inspect,
    /// The device files in it.
    Devices,
    /// What `nvidia-smi` in it says.
    NvidiaSmi,
}

impl Means {
    /// As a condition's reason.
    pub fn name(self) -> &'static str {
        match self {
            Self::Inspect => "inspect",
            Self::Devices => "devices",
            Self::NvidiaSmi => "nvidia_smi",
        }
    }
}

/// Whether a container has exactly `gpus`: by the strongest means that there is, or what contradicts
/// it, for people.
pub fn judge(gpus: &[GpuNames], seen: &Evidence) -> Result<Means, String> {
    let uuids: BTreeSet<&str> = gpus.iter().map(|gpu| gpu.uuid.as_str()).collect();
    judge_configuration(gpus, &uuids, seen)?;
    let files = judge_files(gpus, seen)?;
    match &seen.listed {
        Listed::Gpus(listed) => {
            let listed: BTreeSet<&str> = listed.iter().map(String::as_str).collect();
            differ("nvidia-smi inside the container lists", &listed, &uuids)?;
            Ok(Means::NvidiaSmi)
        }
        Listed::Unasked | Listed::Failed(_) if files => Ok(Means::Devices),
        Listed::Unasked | Listed::Failed(_) => Ok(Means::Inspect),
    }
}

fn judge_configuration(
    gpus: &[GpuNames],
    uuids: &BTreeSet<&str>,
    seen: &Evidence,
) -> Result<(), String> {
    let (files, ids): (Vec<&String>, Vec<&String>) =
        seen.configured.iter().partition(|id| id.starts_with('/'));
    if ids.is_empty() && !files.is_empty() {
        let given: BTreeSet<&str> = files.into_iter().map(String::as_str).collect();
        let needed = gpus.iter().flat_map(|gpu| &gpu.nodes);
        let needed: BTreeSet<&str> = needed.map(String::as_str).collect();
        return match needed.is_subset(&given) {
            true => Ok(()),
            false => differ("the engine was asked for", &given, &needed),
        };
    }
    let bare = |id: &&String| id.rsplit('=').next().unwrap_or_default().to_owned();
    let configured: BTreeSet<String> = ids.iter().map(bare).collect();
    let configured: BTreeSet<&str> = configured.iter().map(String::as_str).collect();
    differ("the engine was asked for", &configured, uuids)?;
    let visible = seen.visible.as_deref().unwrap_or("void");
    let named: BTreeSet<&str> = visible.split(',').collect();
    if visible == "void" || named == *uuids {
        Ok(())
    } else {
        differ("NVIDIA_VISIBLE_DEVICES names", &named, uuids)
    }
}

/// Whether the device files tell at all; an error where they tell something else.
fn judge_files(gpus: &[GpuNames], seen: &Evidence) -> Result<bool, String> {
    let Some(nodes) = &seen.nodes else {
        return Ok(false);
    };
    if gpus.iter().any(|gpu| gpu.nodes.is_empty()) {
        return Ok(false);
    }
    let wanted = gpus.iter().flat_map(|gpu| &gpu.nodes);
    let wanted: BTreeSet<&str> = wanted
        .map(String::as_str)
        .filter(|path| class_of(path).is_some())
        .collect();
    let classes: BTreeSet<&str> = wanted.iter().filter_map(|path| class_of(path)).collect();
    let of_class = |path: &&str| class_of(path).is_some_and(|class| classes.contains(class));
    let inside: BTreeSet<&str> = nodes.iter().map(String::as_str).filter(of_class).collect();
    // A stand-in's GPU has no file anywhere, and then none says nothing.
    let host_has_them = wanted.iter().all(|path| seen.host_nodes.contains(*path));
    if wanted.is_empty() || (inside.is_empty() && !host_has_them) {
        return Ok(false);
    }
    differ("the container has the device files", &inside, &wanted)?;
    Ok(true)
}

fn differ(what: &str, seen: &BTreeSet<&str>, wanted: &BTreeSet<&str>) -> Result<(), String> {
    if seen == wanted {
        return Ok(());
    }
    let list = |set: &BTreeSet<&str>| match set.is_empty() {
        true => "none".to_owned(),
        false => set.iter().copied().collect::<Vec<_>>().join(", "),
    };
    Err(format!(
        "{what} {}; its GPUs are {}",
        list(seen),
        list(wanted)
    ))
}

/// `/dev/nvidia` of `/dev/nvidia0`: what files of one kind have before their number.
fn class_of(path: &str) -> Option<&str> {
    let class = path.trim_end_matches(|c: char| c.is_ascii_digit());
    (class.len() < path.len()).then_some(class)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(n: u32) -> GpuNames {
        GpuNames {
            uuid: format!("GPU-{n}aaa").parse().unwrap(),
            index: Some(n),
            nodes: vec![format!("/dev/nvidia{n}")],
        }
    }

    fn set(paths: &[&str]) -> BTreeSet<String> {
        paths.iter().map(|&path| path.to_owned()).collect()
    }

    fn evidence() -> Evidence {
        Evidence {
            container: "c0ffee".repeat(2).parse().unwrap(),
            runs: true,
            configured: vec!["GPU-1aaa".to_owned()],
            visible: Some("GPU-1aaa".to_owned()),
            nodes: None,
            host_nodes: BTreeSet::new(),
            listed: Listed::Unasked,
        }
    }

    #[test]
    fn a_container_holds_what_it_names_in_whatever_way() {
        let own = gpu(1);
        for id in [
            "all",
            "1",
            "GPU-1aaa",
            "gpu-1aaa",
            "GPU-1",
            "nvidia.com/gpu=1",
            "nvidia.com/gpu=all",
            "nvidia.com/gpu=GPU-1aaa",
            "nvidia.com/mig=MIG-x",
            "MIG-x",
            "00000000:65:00.0",
            "/dev/nvidia1",
        ] {
            assert!(holds(&[id.to_owned()], &own), "{id}");
        }
        for id in [
            "0",
            "11",
            "GPU-2aaa",
            "GPU-",
            "GPU-1aaab",
            "nvidia.com/gpu=0",
            "nvidia.com/gpu=GPU-2",
            "amd-0000:03:00.0",
            "vendor.example/nic=1",
            "/dev/nvidia0",
            "/dev/nvidia10",
            "/dev/nvidiactl",
            "/dev/fuse",
        ] {
            assert!(!holds(&[id.to_owned()], &own), "{id}");
        }
        assert!(!holds(&[], &own));
        // What is not known cannot be told apart.
        let bare = GpuNames::bare(own.uuid.clone());
        for id in ["0", "/dev/nvidia7"] {
            assert!(holds(&[id.to_owned()], &bare), "{id}");
        }
        let amd = GpuNames {
            nodes: vec!["/dev/dri/renderD129".to_owned()],
            ..bare
        };
        assert!(holds(&["/dev/dri".to_owned()], &amd));
        assert!(holds(&["/dev/dri/renderD129".to_owned()], &amd));
        for id in ["/dev/dri/renderD128", "/dev/kfd", "/dev/dr"] {
            assert!(!holds(&[id.to_owned()], &amd), "{id}");
        }
    }

    #[test]
    fn the_strongest_means_that_there_is_verifies() {
        let mut seen = evidence();
        assert_eq!(judge(&[gpu(1)], &seen), Ok(Means::Inspect));
        // A stand-in's GPU has no device file.
        seen.nodes = Some(set(&["/dev/null1"]));
        assert_eq!(judge(&[gpu(1)], &seen), Ok(Means::Inspect));
        seen.nodes = Some(set(&["/dev/nvidia1", "/dev/nvidia-uvm", "/dev/dri/card0"]));
        assert_eq!(judge(&[gpu(1)], &seen), Ok(Means::Devices));
        seen.listed = Listed::Failed("Driver/library version mismatch".to_owned());
        assert_eq!(judge(&[gpu(1)], &seen), Ok(Means::Devices));
        seen.listed = Listed::Gpus(set(&["GPU-1aaa"]));
        assert_eq!(judge(&[gpu(1)], &seen), Ok(Means::NvidiaSmi));
        // By CDI, and as files.
        seen.configured = vec!["nvidia.com/gpu=GPU-1aaa".to_owned()];
        seen.visible = Some("void".to_owned());
        assert_eq!(judge(&[gpu(1)], &seen), Ok(Means::NvidiaSmi));
        seen.configured = vec!["/dev/nvidia1".to_owned(), "/dev/kfd".to_owned()];
        assert_eq!(judge(&[gpu(1)], &seen), Ok(Means::NvidiaSmi));
    }

    #[test]
    fn a_contradiction_by_any_means_says_what_was_seen() {
        #[track_caller]
        fn check(change: impl FnOnce(&mut Evidence), said: &str) {
            let mut seen = evidence();
            change(&mut seen);
            let error = judge(&[gpu(1)], &seen).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        check(
            |seen| seen.configured = vec!["all".to_owned()],
            "asked for all",
        );
        check(
            |seen| seen.configured.clear(),
            "asked for none; its GPUs are GPU-1aaa",
        );
        check(
            |seen| seen.configured.push("GPU-2aaa".to_owned()),
            "GPU-1aaa, GPU-2aaa;",
        );
        check(
            |seen| seen.configured = vec!["/dev/kfd".to_owned()],
            "asked for /dev/kfd",
        );
        check(
            |seen| seen.visible = Some("all".to_owned()),
            "NVIDIA_VISIBLE_DEVICES names all",
        );
        check(
            |seen| seen.nodes = Some(set(&["/dev/nvidia0"])),
            "files /dev/nvidia0; its",
        );
        let both = set(&["/dev/nvidia0", "/dev/nvidia1"]);
        check(
            |seen| seen.nodes = Some(both.clone()),
            "/dev/nvidia0, /dev/nvidia1;",
        );
        check(
            |seen| {
                seen.nodes = Some(BTreeSet::new());
                seen.host_nodes = both;
            },
            "files none; its GPUs are /dev/nvidia1",
        );
        check(
            |seen| seen.listed = Listed::Gpus(set(&["GPU-2aaa"])),
            "lists GPU-2aaa;",
        );
        check(
            |seen| seen.listed = Listed::Gpus(BTreeSet::new()),
            "lists none;",
        );
    }
}

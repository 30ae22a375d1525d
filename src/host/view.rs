//! From where the agent sees the host: as a process of it, or from inside a container.

use std::{fs, path::Path};

use crate::protocol::record::View;

/// Files that container engines put into every container.
const MARKERS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// Looks for the marks of a container. An engine that runs beside the agent in the same container
/// makes that container the host: what the agent sees is then what the engine sees.
pub(super) fn detect() -> View {
    let inside = MARKERS.iter().any(|marker| Path::new(marker).exists())
        || fs::read("/proc/1/environ").is_ok_and(|environ| names_a_container(&environ));
    view(inside, inside && engine_is_beside_us())
}

fn view(inside_a_container: bool, with_the_engine: bool) -> View {
    if inside_a_container && !with_the_engine {
        View::Container
    } else {
        View::Host
    }
}

/// systemd-nspawn, podman and LXC set `container` for the first process.
fn names_a_container(environ: &[u8]) -> bool {
    environ
        .split(|byte| *byte == 0)
        .any(|variable| variable.starts_with(b"container="))
}

/// Whether a `dockerd` can be seen that has the same root file system as we have.
fn engine_is_beside_us() -> bool {
    let Ok(ours) = fs::read_link("/proc/self/ns/mnt") else {
        return false;
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return false;
    };
    processes.flatten().any(|process| {
        let path = process.path();
        fs::read(path.join("comm")).is_ok_and(|comm| comm == b"dockerd\n")
            && fs::read_link(path.join("ns/mnt")).is_ok_and(|theirs| theirs == ours)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_with_the_engine_in_it_is_a_host() {
        assert_eq!(view(false, false), View::Host);
        assert_eq!(view(true, false), View::Container);
        assert_eq!(view(true, true), View::Host);
    }

    #[test]
    fn the_first_process_may_name_the_container() {
        assert!(names_a_container(b"PATH=/bin\0container=podman\0"));
        assert!(!names_a_container(b"PATH=/bin\0mycontainer=1\0"));
    }
}

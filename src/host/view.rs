//! From where the agent sees the host: as a process of it, or from inside a container.

use std::{fs, path::Path};

use crate::{ids::ContainerId, protocol::record::View};

/// Files that container engines put into every container.
const MARKERS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

/// The namespace of processes that the kernel starts with; its number is the same on every host.
const FIRST_PIDS: &str = "pid:[4026531836]";

/// Looks for the marks of a container. An engine that runs beside the agent in the same container
/// makes that container the host: what the agent sees is then what the engine sees.
pub(super) fn detect() -> View {
    let inside = MARKERS.iter().any(|marker| Path::new(marker).exists())
        || fs::read("/proc/1/environ").is_ok_and(|environ| names_a_container(&environ));
    view(inside, inside && engine_is_beside_us())
}

/// The container that the agent runs in, as the engine names it; `None` on the host, and where the
/// engine leaves no trace of the name.
pub fn own_container() -> Option<ContainerId> {
    if detect() != View::Container {
        return None;
    }
    container_of(&fs::read_to_string("/proc/self/mountinfo").ok()?)
}

/// Whether the numbers of processes mean here what they mean on the host: on the host itself, and in a
/// container with `--pid=host`.
pub fn sees_processes() -> bool {
    detect() == View::Host
        || fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == FIRST_PIDS)
}

/// Docker mounts files of its own into every container, from a folder named by the container's id.
/// Control groups do not tell: in a namespace of their own they begin at `/`.
fn container_of(mountinfo: &str) -> Option<ContainerId> {
    let ours = ["/etc/hostname", "/etc/resolv.conf", "/etc/hosts"];
    mountinfo.lines().find_map(|line| {
        // Id, parent, device, path within the file system, mount point, …
        let mut columns = line.split(' ').skip(3);
        let (source, target) = (columns.next()?, columns.next()?);
        let (_, rest) = source.rsplit_once("/containers/")?;
        let id = rest.split('/').next()?;
        (ours.contains(&target) && id.len() == 64).then(|| id.parse().ok())?
    })
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
    fn the_own_container_is_known_by_the_files_that_the_engine_mounts() {
        let id = "0123456789abcdef".repeat(4);
        let mounts = |source: &str, target: &str| {
            let line = format!("740 730 254:1 {source} {target} rw,relatime - ext4 /dev/vda1 rw");
            container_of(&format!("730 1 0:50 / / rw - overlay overlay rw\n{line}\n"))
        };
        let own = Some(id.parse().unwrap());
        let folder = format!("/var/lib/docker/containers/{id}");
        assert_eq!(mounts(&format!("{folder}/hostname"), "/etc/hostname"), own);
        // The engine's data on a file system of its own.
        let short = format!("/containers/{id}/resolv.conf");
        assert_eq!(mounts(&short, "/etc/resolv.conf"), own);
        // A folder that the operator mounts is nobody's name.
        assert_eq!(mounts(&folder, "/rentals"), None);
        assert_eq!(mounts("/containers/short/hostname", "/etc/hostname"), None);
    }

    #[test]
    fn the_first_process_may_name_the_container() {
        assert!(names_a_container(b"PATH=/bin\0container=podman\0"));
        assert!(!names_a_container(b"PATH=/bin\0mycontainer=1\0"));
    }
}

//! Room on the file systems of interest.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::protocol::record::Disk;

/// The file systems that hold `paths`, each once, by where they are mounted. A path that cannot be
/// read is left out. Blocks for as long as the file system does.
pub fn disks<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Vec<Disk> {
    let mut disks: Vec<Disk> = Vec::new();
    for path in paths {
        let Some(mount) = mount_of(path) else {
            continue;
        };
        let mount = mount.display().to_string();
        if disks.iter().any(|disk| disk.mount == mount) {
            continue;
        }
        match rustix::fs::statvfs(path) {
            Ok(fs) => disks.push(Disk {
                mount,
                total_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
                // What is left for everybody; the blocks reserved for root are not ours to rent.
                free_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
            }),
            Err(error) => tracing::debug!(mount, %error, "the room cannot be read"),
        }
    }
    disks
}

/// The topmost folder above `path` on the same file system.
fn mount_of(path: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(path).ok()?;
    let device = fs::metadata(&path).ok()?.dev();
    let same = |folder: &&Path| fs::metadata(folder).is_ok_and(|above| above.dev() == device);
    path.ancestors()
        .take_while(same)
        .last()
        .map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_listed_once_by_its_mount() {
        let paths = ["/proc/self", "/proc", "/proc/sys/kernel"].map(Path::new);
        let mounts: Vec<_> = disks(paths).into_iter().map(|disk| disk.mount).collect();
        assert_eq!(mounts, ["/proc"]);
    }

    #[test]
    fn a_path_that_is_not_there_is_left_out() {
        assert_eq!(disks([Path::new("/nonexistent/folder")]), []);
    }

    #[test]
    fn the_root_has_room() {
        let disks = disks([Path::new("/")]);
        let root = disks.first().unwrap();
        assert_eq!(root.mount, "/");
        assert!(root.free_bytes > 0 && root.free_bytes <= root.total_bytes);
    }
}

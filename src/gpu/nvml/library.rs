//! Which file the loader took, and whether it is still the one on the disk: a driver that is upgraded
//! replaces it below a process that has it open.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A file that is mapped into this process.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoadedFile {
    path: PathBuf,
    inode: u64,
}

impl LoadedFile {
    /// Looks for what was just loaded; `None` where it cannot be told.
    pub(super) fn find(library: Option<&Path>) -> Option<Self> {
        let wanted = match library {
            Some(path) => path.canonicalize().ok()?.to_str()?.to_owned(),
            None => "/libnvidia-ml.so".to_owned(),
        };
        let path = mapped(&fs::read_to_string("/proc/self/maps").ok()?, &wanted)?;
        // Not the inode of the mapping: on stacked file systems that is another one.
        let inode = fs::metadata(&path).ok()?.ino();
        Some(Self { path, inode })
    }

    /// It is gone from its place, or another one is there.
    pub(super) fn is_replaced(&self) -> bool {
        fs::metadata(&self.path).map_or(true, |now| now.ino() != self.inode)
    }
}

fn mapped(maps: &str, wanted: &str) -> Option<PathBuf> {
    maps.lines().find_map(|line| {
        let path = line.get(line.find('/')?..)?;
        let (path, deleted) = match path.strip_suffix(" (deleted)") {
            Some(path) => (path, true),
            None => (path, false),
        };
        (path.contains(wanted) && !deleted).then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapped_library_is_found_and_a_deleted_one_is_not() {
        let maps = "\
7f10 r--p 00000000 fe:01 42 /usr/lib/libc.so.6
7f20 r--p 00000000 fe:01 43 /usr/lib/libnvidia-ml.so.535.1 (deleted)
7f30 r--p 00000000 fe:01 44 /usr/lib/libnvidia-ml.so.570.86
7f40 rw-p 00000000 00:00 0 [heap]
";
        let found = mapped(maps, "/libnvidia-ml.so").unwrap();
        assert_eq!(found, Path::new("/usr/lib/libnvidia-ml.so.570.86"));
        assert_eq!(mapped(maps, "/libcuda.so"), None);
    }
}

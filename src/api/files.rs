//! Files that are read again when they change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// What tells one content of a file from the next.
type Stamp = (u64, u64, i64, i64);

/// Files of which a change of any counts.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    seen: Mutex<Vec<Option<Stamp>>>,
}

impl Files {
    /// As they are now.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let seen = Mutex::new(stamps(&paths));
        Self { paths, seen }
    }

    /// Whether one is not as it was at the last look. Blocks for as long as the file system does.
    pub(super) fn changed(&self) -> bool {
        let now = stamps(&self.paths);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *seen != now;
        *seen = now;
        changed
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let facts = fs::metadata(path).ok()?;
        Some((facts.ino(), facts.size(), facts.mtime(), facts.mtime_nsec()))
    };
    paths.iter().map(stamp).collect()
}

/// A whole file of reasonable size.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    const MOST: u64 = 1024 * 1024;
    if fs::metadata(path)?.len() > MOST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it has more than 1 MiB",
        ));
    }
    fs::read(path)
}

//! Files that are read again when they change.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use crate::clock::{self, Seldom};

/// What tells one content of a file from the next: where it is, how long it is, and when it and its
/// mode were changed last. A file whose owner or mode is mended can be read then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    place: (u64, u64),
    bytes: u64,
    written: (i64, i64),
    changed: (i64, i64),
}

/// Files of which a change of any counts.
#[derive(Debug)]
pub(super) struct Files {
    paths: Vec<PathBuf>,
    last: Mutex<Last>,
}

/// What is known of the last looks.
#[derive(Debug)]
struct Last {
    /// As they were when they could be used.
    used: Vec<Option<Stamp>>,
    unusable: Seldom,
}

impl Files {
    /// As they are now, which is before they are read for the first time.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let used = stamps(&paths);
        let unusable = Seldom::default();
        Self {
            paths,
            last: Mutex::new(Last { used, unusable }),
        }
    }

    /// What they hold, when they are not as they were when they could last be used. `what` that is,
    /// for the log. What cannot be used now is read again at the next look: it may have been half
    /// written, or its reading may have failed. Blocks for as long as the file system does.
    pub(super) fn read_changed<T>(
        &self,
        what: &str,
        read: impl FnOnce() -> anyhow::Result<T>,
    ) -> Option<T> {
        let now = stamps(&self.paths);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.used == now {
            last.unusable.over();
            return None;
        }
        match read() {
            Ok(value) => {
                last.used = now;
                last.unusable.over();
                tracing::info!(what, "what the HTTP surface uses was replaced");
                Some(value)
            }
            Err(error) => {
                if last.unusable.goes_on(clock::now().boot) {
                    tracing::warn!(
                        what,
                        error = format!("{error:#}"),
                        "the HTTP surface goes on with what it had"
                    );
                }
                None
            }
        }
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let facts = fs::metadata(path).ok()?;
        Some(Stamp {
            place: (facts.dev(), facts.ino()),
            bytes: facts.size(),
            written: (facts.mtime(), facts.mtime_nsec()),
            changed: (facts.ctime(), facts.ctime_nsec()),
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn number(path: &Path) -> anyhow::Result<u32> {
        Ok(String::from_utf8(read(path)?)?.parse()?)
    }

    #[test]
    fn what_could_not_be_used_is_read_again_though_its_file_has_not_changed_since() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "1").unwrap();
        let files = Files::new(vec![path.clone()]);
        let look = |works: bool| {
            files.read_changed("number", || {
                anyhow::ensure!(works, "no file descriptors are left");
                number(&path)
            })
        };
        assert_eq!(look(true), None, "nothing has changed");
        fs::write(&path, "23").unwrap();
        assert_eq!(look(false), None);
        assert_eq!(look(true), Some(23));
        assert_eq!(look(true), None, "it is read once");
    }

    #[test]
    fn a_file_that_keeps_its_length_and_its_time_has_changed_when_its_content_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "1").unwrap();
        let written = fs::metadata(&path).unwrap().modified().unwrap();
        let files = Files::new(vec![path.clone()]);
        let look = || files.read_changed("number", || number(&path));
        // As `rsync --times --inplace` does. The kernel's time of a change has steps of some
        // milliseconds, so that the first one may fall into the same.
        let mut found = None;
        while found.is_none() {
            fs::write(&path, "2").unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(written).unwrap();
            found = look();
        }
        assert_eq!(found, Some(2));
    }
}

//! A stand-in for CUDA's driver library, built from `fake_cuda.c`: it shows how the agent wipes and says
//! nothing about hardware. Included with `#[path]` by the test binaries that need it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of it, and one that cannot set up its stage fails"
)]

use std::{fs, path::PathBuf, process::Command};

use tempfile::TempDir;

/// The library, which does what its script says. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct FakeCuda {
    /// What the agent's `gpu.cuda_library` names.
    pub(crate) library: PathBuf,
    _folder: TempDir,
}

impl FakeCuda {
    /// Builds it.
    pub(crate) fn with(script: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let library = folder.path().join("libcuda.so.1");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/fake_cuda.c");
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .args([source, "-ldl"])
            .status()
            .expect("a C compiler, which Rust needs to link, is there as `cc`");
        assert!(status.success(), "the stand-in does not compile");
        let fake = Self {
            library,
            _folder: folder,
        };
        fake.script(script);
        fake
    }

    /// Replaces the script whole.
    pub(crate) fn script(&self, script: &str) {
        let new = self.library.with_extension("new");
        fs::write(&new, script).unwrap();
        fs::rename(&new, format!("{}.script", self.library.display())).unwrap();
    }

    /// What it was asked so far, by this word.
    pub(crate) fn asked(&self, word: &str) -> Vec<String> {
        let log = fs::read_to_string(format!("{}.log", self.library.display()));
        let log = log.unwrap_or_default();
        let lines = log.lines().filter_map(|line| line.strip_prefix(word));
        lines.map(|rest| rest.trim().to_owned()).collect()
    }
}

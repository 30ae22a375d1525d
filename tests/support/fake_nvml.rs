//! A stand-in for the GPU driver's library, built from `fake_nvml.c`: it shows the agent's logic and
//! says nothing about hardware. Included with `#[path]` by the test binaries that need it.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test binary uses a part of it, and one that cannot set up its stage fails"
)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// The library, which does what its script says. It is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct FakeNvml {
    /// What the agent's `gpu.nvml_library` names.
    pub(crate) library: PathBuf,
    _folder: TempDir,
}

impl FakeNvml {
    /// Builds it.
    pub(crate) fn with(script: &str) -> Self {
        Self::built(&[], script)
    }

    /// Builds it with these arguments of the compiler.
    pub(crate) fn built(arguments: &[&str], script: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let fake = Self {
            library: build(folder.path(), arguments),
            _folder: folder,
        };
        fake.script(script);
        fake
    }

    /// Replaces the script whole, so that the library never reads half of one.
    pub(crate) fn script(&self, script: &str) {
        let path = self.library.with_extension("so.script");
        let new = self.library.with_extension("new");
        fs::write(&new, script).unwrap();
        fs::rename(&new, &path).unwrap();
    }
}

/// Compiles it into `folder`.
pub(crate) fn build(folder: &Path, arguments: &[&str]) -> PathBuf {
    let library = folder.join("nvml.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/fake_nvml.c");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1"])
        .args(arguments)
        .arg("-o")
        .arg(&library)
        .args([source, "-ldl", "-lpthread"])
        .status()
        .expect("a C compiler, which Rust needs to link, is there as `cc`");
    assert!(status.success(), "the stand-in does not compile");
    library
}

//! How large what is shipped is.

use std::{
    fs,
    process::{Command, Stdio},
};

use crate::{lab::Engine, report::Figure};

const MIB: f64 = 1024.0 * 1024.0;
const MB: f64 = 1_000_000.0;

/// The binary, and the image as a registry would have it.
pub(crate) fn sizes() -> Vec<Figure> {
    let engine = Engine::shared();
    let binary = std::env::var("BENCH_AGENT").expect("scripts/bench says where the agent is");
    let bytes = fs::metadata(&binary).unwrap().len() as f64;
    let tag = format!("rental-agent-bench:{}", std::process::id());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/image");
    let built = Command::new(script)
        .args(["--binary", &binary, "--tag", &tag])
        .env("DOCKER_HOST", engine.host())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success(), "scripts/image: {said}");
    let image = compressed(&engine, &tag);
    engine.docker(&["rmi", &tag]);
    let mut image = Figure::absolute("image, compressed", "MB", image / MB, 40.0);
    image.note = said.lines().last().unwrap_or_default().to_owned();
    vec![Figure::absolute("binary", "MiB", bytes / MIB, 20.0), image]
}

/// Layers are compressed one by one in a registry; all of them at once are no larger.
fn compressed(engine: &Engine, tag: &str) -> f64 {
    let mut save = engine
        .client()
        .args(["save", tag])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let gzip = Command::new("gzip")
        .arg("-c")
        .stdin(save.stdout.take().unwrap())
        .output()
        .unwrap();
    assert!(save.wait().unwrap().success() && gzip.status.success());
    gzip.stdout.len() as f64
}

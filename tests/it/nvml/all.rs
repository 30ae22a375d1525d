//! All probes of a host together, NVIDIA's by the stand-in.

use std::{
    collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command,
};

use rental_agent::{
    gpu::{
        GpuProbe, ProbeError,
        nvidia::{Asking, Nvidia},
        nvidia_smi, nvml,
        probes::{self, Heard, Options},
        watch::GpuReport,
    },
    protocol::record::{Gpu, GpuState, Health, LinkKind},
};
use tempfile::TempDir;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{LIMIT, fake_nvml::FakeNvml, pace, uuid};

fn nvidia(report: &GpuReport) -> &rental_agent::gpu::watch::ProbeReport {
    report
        .probes
        .iter()
        .find(|probe| probe.vendor == "nvidia")
        .unwrap()
}

/// Runs the probes until the closure has come to an end.
async fn with_probes<T>(
    options: Options,
    test: impl AsyncFnOnce(&mut tokio::sync::mpsc::Receiver<Heard>) -> T,
) -> T {
    let (probes, _readings, mut heard) = probes::start(&options, pace()).unwrap();
    let token = CancellationToken::new();
    let tested = async {
        let tested = timeout(LIMIT, test(&mut heard))
            .await
            .expect("it takes too long");
        token.cancel();
        tested
    };
    let (ended, tested) = tokio::join!(probes.run(token.clone()), tested);
    ended.unwrap();
    tested
}

#[tokio::test]
async fn gpus_are_heard_of_then_read_and_their_errors_with_them() {
    let nvml = FakeNvml::with("gpus 2\n");
    let options = Options {
        nvml_library: Some(nvml.library.clone()),
        ..Options::default()
    };
    with_probes(options, async |heard| {
        let mut listed = BTreeSet::new();
        let mut number = 0;
        loop {
            match heard.recv().await.unwrap() {
                Heard::Gpus(report) => {
                    listed.extend(report.gpus.into_iter().map(|found| found.gpu.uuid));
                }
                Heard::Readings(look) => {
                    let mut readings = look.readings.iter();
                    assert!(readings.all(|reading| listed.contains(&reading.sample.uuid)));
                    number += 1;
                    nvml.script(&format!("gpus 2\nxid 1 31 {number}\n"));
                }
                Heard::Xid(xid) => {
                    assert_eq!((xid.uuid.as_str(), xid.code), (uuid(1).as_str(), 31));
                    break;
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn gpus_that_the_provider_keeps_are_never_named() {
    let nvml = FakeNvml::with("gpus 3\n");
    let offered = BTreeSet::from([uuid(2).parse().unwrap(), "GPU-none".parse().unwrap()]);
    let options = Options {
        nvml_library: Some(nvml.library.clone()),
        offered: Some(offered),
        ..Options::default()
    };
    with_probes(options, async |heard| {
        loop {
            match heard.recv().await.unwrap() {
                Heard::Gpus(report) => {
                    let mut gpus = report.gpus.iter();
                    assert!(gpus.all(|gpu| gpu.gpu.uuid.as_str() == uuid(2)));
                    assert!(report.gpus.iter().all(|gpu| gpu.gpu.links.is_empty()));
                }
                Heard::Readings(look) => {
                    assert_eq!(look.readings.len(), 1);
                    assert_eq!(look.readings[0].sample.uuid.as_str(), uuid(2));
                    break;
                }
                Heard::Xid(xid) => panic!("{xid:?}"),
            }
        }
    })
    .await;
}

#[tokio::test]
async fn f67_every_probe_says_why_it_sees_nothing() {
    let options = Options {
        nvml_library: Some("/nonexistent/libnvidia-ml.so.1".into()),
        nvidia_smi: Some("/nonexistent/nvidia-smi".into()),
        ..Options::default()
    };
    let report = with_probes(options, async |heard| {
        loop {
            if let Heard::Gpus(report) = heard.recv().await.unwrap()
                && report.complete()
            {
                return report;
            }
        }
    })
    .await;
    assert_eq!(report.probes.len(), 3);
    let nvidia = nvidia(&report);
    assert_eq!(nvidia.health, Health::Ok);
    let why = nvidia.problem.as_deref().unwrap();
    assert_eq!(
        why,
        "/nonexistent/libnvidia-ml.so.1 not found: no NVIDIA driver on this host; \
         /nonexistent/nvidia-smi not found"
    );
}

/// A program that stands for nvidia-smi.
fn tool(folder: &TempDir, script: &str) -> PathBuf {
    let path = folder.path().join("nvidia-smi");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn asking(library: Option<PathBuf>, tool: PathBuf) -> Asking {
    Asking {
        library: nvml::Asking {
            library,
            sees_processes: true,
        },
        tool: nvidia_smi::Asking {
            tool: Some(tool),
            sees_processes: true,
        },
    }
}

#[test]
fn f74_the_tool_is_asked_only_where_the_library_cannot_be_loaded() {
    let folder = TempDir::new().unwrap();
    let one = tool(&folder, "printf 'index, uuid\\n0, GPU-by-tool\\n'");
    let gpus = |library: PathBuf| {
        let mut opened = Nvidia::open(&asking(Some(library), one.clone()))?;
        let gpus = opened.inventory()?;
        Ok::<_, ProbeError>(gpus[0].gpu.uuid.to_string())
    };
    let none = folder.path().join("none.so");
    assert_eq!(gpus(none).unwrap(), "GPU-by-tool");
    let broken = folder.path().join("broken.so");
    fs::write(&broken, "no library").unwrap();
    assert_eq!(gpus(broken).unwrap(), "GPU-by-tool");

    let nvml = FakeNvml::with("gpus 1\n");
    assert_eq!(gpus(nvml.library.clone()).unwrap(), uuid(0));
    // It has answered; the tool would only find the same.
    nvml.script("init 18\n");
    let error = gpus(nvml.library.clone()).unwrap_err();
    assert!(error.to_string().contains("mismatch"), "{error}");
}

#[test]
fn f74_the_library_is_asked_as_soon_as_it_is_there() {
    let folder = TempDir::new().unwrap();
    let library = folder.path().join("nvml.so");
    let one = tool(&folder, "printf 'index, uuid\\n0, GPU-by-tool\\n'");
    let mut opened = Nvidia::open(&asking(Some(library.clone()), one)).unwrap();
    assert_eq!(
        opened.inventory().unwrap()[0].gpu.uuid.as_str(),
        "GPU-by-tool"
    );
    let nvml = FakeNvml::with("gpus 1\n");
    fs::copy(&nvml.library, &library).unwrap();
    fs::write(library.with_extension("so.script"), "gpus 1\n").unwrap();
    assert_eq!(opened.inventory().unwrap()[0].gpu.uuid.as_str(), uuid(0));
}

/// `rental-agent inventory` in an environment of its own.
fn inventory(library: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_rental-agent"))
        .args(["--config", "/dev/null", "inventory"])
        .args(arguments)
        .env_clear()
        .envs([
            ("AGENT_ID", "a"),
            ("AGENT_TOKEN", "t"),
            ("API_SERVER_URL", "ws://127.0.0.1:9"),
            ("RENTAL_AGENT__GPU__NVML_LIBRARY", library),
            ("RENTAL_AGENT__GPU__NVIDIA_SMI", "/nonexistent/nvidia-smi"),
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    (output.status.code(), text)
}

#[test]
fn the_inventory_is_printed_as_a_table_and_as_json() {
    let nvml = FakeNvml::with("gpus 2\nname 1 NVIDIA H200\nnvlink 0 1\n");
    let library = nvml.library.to_str().unwrap();
    let (code, text) = inventory(library, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("NVIDIA H200") && text.contains(&uuid(0)),
        "{text}"
    );
    let (code, text) = inventory(library, &["--json"]);
    assert_eq!(code, Some(0), "{text}");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let gpu: Gpu = serde_json::from_value(json["gpus"][0].clone()).unwrap();
    assert_eq!(gpu.links[0].kind, LinkKind::Nvlink);
    assert_eq!(gpu.state, GpuState::Unknown, "the agent was not asked");
    assert_eq!(json["probes"][0]["vendor"], "nvidia");
    assert_eq!(json["probes"][0]["health"], "ok");
}

#[test]
fn an_inventory_of_nothing_says_why_and_one_that_fails_ends_with_1() {
    let (code, text) = inventory("/nonexistent/nvml.so", &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("/nonexistent/nvml.so not found"), "{text}");
    let nvml = FakeNvml::with("init 18\n");
    let (code, text) = inventory(nvml.library.to_str().unwrap(), &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("mismatch"), "{text}");
}

#[test]
fn f69_an_inventory_of_a_driver_that_hangs_comes_to_an_end() {
    let nvml = FakeNvml::with("gpus 1\nhang\n");
    let (code, text) = inventory(nvml.library.to_str().unwrap(), &[]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("has not answered for 10s"), "{text}");
}

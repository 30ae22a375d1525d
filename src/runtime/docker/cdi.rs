//! Which devices the engine can hand out by CDI: what it says itself, where it does, else what the
//! specifications in the folders say that it reads. From inside a container those are not to be seen,
//! and then there are none.

use std::{collections::BTreeSet, path::Path, time::Duration};

use bollard::models::SystemInfo;
use serde::Deserialize;
use tokio::{fs, io::AsyncReadExt, time::timeout};
use yaml_rust2::{Yaml, YamlLoader};

/// A generated specification for eight GPUs is 40 kB.
const MAX_BYTES: u64 = 1024 * 1024;

/// In one folder.
const MAX_FILES: usize = 64;

/// For all of it.
const LIMIT: Duration = Duration::from_secs(5);

/// Names like `nvidia.com/gpu=GPU-…`. What cannot be read has no device: the engine cannot use it
/// either.
pub(super) async fn devices(info: &SystemInfo) -> BTreeSet<String> {
    if let Some(told) = &info.discovered_devices {
        let of_cdi = |source: &Option<String>| source.as_deref() == Some("cdi");
        let told = told.iter().filter(|device| of_cdi(&device.source));
        return told.filter_map(|device| device.id.clone()).collect();
    }
    let read = async {
        let mut devices = BTreeSet::new();
        for folder in info.cdi_spec_dirs.iter().flatten() {
            devices.extend(in_folder(Path::new(folder)).await);
        }
        devices
    };
    timeout(LIMIT, read).await.unwrap_or_default()
}

async fn in_folder(folder: &Path) -> BTreeSet<String> {
    let mut devices = BTreeSet::new();
    let Ok(mut entries) = fs::read_dir(folder).await else {
        return devices;
    };
    let mut files = 0;
    while let Ok(Some(entry)) = entries.next_entry().await {
        let path = entry.path();
        let ending = path.extension().and_then(|ending| ending.to_str());
        if !matches!(ending, Some("json" | "yaml" | "yml")) {
            continue;
        }
        files += 1;
        if files > MAX_FILES {
            tracing::warn!(folder = %folder.display(), "more than {MAX_FILES} CDI specifications");
            break;
        }
        match text(&path).await.and_then(|text| names(&text)) {
            Some(names) => devices.extend(names),
            None => tracing::warn!(file = %path.display(), "no CDI specification"),
        }
    }
    devices
}

async fn text(path: &Path) -> Option<String> {
    let file = fs::File::open(path).await.ok()?;
    if !file.metadata().await.ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut text).await;
    read.ok()
        .filter(|_| u64::try_from(text.len()).is_ok_and(|n| n <= MAX_BYTES))?;
    Some(text)
}

/// What matters here of a specification.
#[derive(Deserialize)]
struct Spec {
    kind: String,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
struct Device {
    name: String,
}

/// The full names of the devices of a specification, which is JSON or YAML.
fn names(text: &str) -> Option<Vec<String>> {
    let spec = serde_json::from_str(text)
        .ok()
        .or_else(|| from_yaml(text))?;
    let Spec { kind, devices } = spec;
    let full = |device: Device| format!("{kind}={}", device.name);
    Some(devices.into_iter().map(full).collect())
}

fn from_yaml(text: &str) -> Option<Spec> {
    // References may make much out of little; no specification has any.
    if text.contains('&') || text.contains('*') {
        return None;
    }
    let documents = YamlLoader::load_from_str(text).ok()?;
    let spec = documents.first()?;
    let devices = spec.as_hash()?.get(&Yaml::String("devices".to_owned()));
    let devices = devices.and_then(Yaml::as_vec).into_iter().flatten();
    let name = |device: &Yaml| {
        let name = device.as_hash()?.get(&Yaml::String("name".to_owned()))?;
        // A name like 0 may stand there without quotes.
        let text = name.as_str().map(str::to_owned);
        text.or_else(|| name.as_i64().map(|n| n.to_string()))
    };
    let kind = spec.as_hash()?.get(&Yaml::String("kind".to_owned()))?;
    Some(Spec {
        kind: kind.as_str()?.to_owned(),
        devices: devices
            .map(|device| name(device).map(|name| Device { name }))
            .collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    const YAML: &str = "cdiVersion: \"0.6.0\"\nkind: nvidia.com/gpu\ndevices:\n- name: \"GPU-1\"\n  \
                        containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n- name: 0\n\
                        containerEdits:\n  env: [NVIDIA_VISIBLE_DEVICES=void]\n";

    fn info(value: serde_json::Value) -> SystemInfo {
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test]
    async fn the_folders_that_the_engine_reads_say_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("a.yaml", YAML);
        put(
            "b.json",
            r#"{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-2"}]}"#,
        );
        put("c.json", "{");
        put("d.yaml", "kind: [");
        put("e.yaml", "kind: x/gpu\ndevices: [{name: &a A}, {name: *a}]");
        put(
            "f.txt",
            r#"{"kind": "nvidia.com/gpu", "devices": [{"name": "GPU-3"}]}"#,
        );
        put(
            "g.json",
            &format!("{{\"kind\": \"x/y\"{}}}", " ".repeat(1024 * 1024)),
        );
        fs::create_dir(folder.path().join("h.json")).unwrap();
        let dirs = [folder.path().to_str().unwrap(), "/nonexistent/cdi"];
        let found = devices(&info(json!({ "CDISpecDirs": dirs }))).await;
        let expected = [
            "nvidia.com/gpu=0",
            "nvidia.com/gpu=GPU-1",
            "nvidia.com/gpu=GPU-2",
        ];
        assert_eq!(found, expected.map(str::to_owned).into());
        assert_eq!(devices(&info(json!({}))).await, BTreeSet::new());
    }

    #[tokio::test]
    async fn what_the_engine_says_itself_is_taken() {
        let told = json!([
            {"Source": "cdi", "ID": "nvidia.com/gpu=GPU-1"}, {"Source": "x", "ID": "y"},
        ]);
        let info = info(json!({ "CDISpecDirs": ["/etc/cdi"], "DiscoveredDevices": told }));
        let expected = BTreeSet::from(["nvidia.com/gpu=GPU-1".to_owned()]);
        assert_eq!(devices(&info).await, expected);
    }
}

//! A stand-in for the GPU vendor's hook. The engine takes device requests when an executable of that
//! name is on its PATH, and the runtime calls it before a container starts; it records for which GPUs.
//! It proves what would be handed out, never that hardware works.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// The stand-in and what it recorded.
#[derive(Debug)]
pub(crate) struct Hook {
    folder: PathBuf,
    records: PathBuf,
}

impl Hook {
    /// Makes it below `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        let hook = Self {
            folder: dir.join("hook"),
            records: dir.join("hook-records"),
        };
        fs::create_dir(&hook.folder).expect("the hook's folder");
        fs::create_dir(&hook.records).expect("the hook's records");
        let script = hook.folder.join("nvidia-container-runtime-hook");
        // The container's state comes on stdin; its bundle holds the configuration, and is gone
        // when the container is.
        let text = format!(
            "#!/bin/sh\nPATH=/usr/bin:/bin\nstate=$(cat)\n\
             id=$(printf %s \"$state\" | sed -n 's/.*\"id\":\"\\([^\"]*\\)\".*/\\1/p')\n\
             bundle=$(printf %s \"$state\" | sed -n 's/.*\"bundle\":\"\\([^\"]*\\)\".*/\\1/p')\n\
             cp \"$bundle/config.json\" \"{records}/$id.json\"\n\
             pid=$(printf %s \"$state\" | sed -n 's/.*\"pid\":\\([0-9]*\\).*/\\1/p')\n\
             root=$(sed -n 's/.*\"root\":{{\"path\":\"\\([^\"]*\\)\".*/\\1/p' \"$bundle/config.json\")\n\
             for n in $(cat \"{records}/nodes\" 2>/dev/null); do\n\
             nsenter -t \"$pid\" -m mknod \"$root/dev/nvidia$n\" c 195 \"$n\"\n\
             done\n\
             while [ -e \"{records}/hold\" ]; do sleep 0.05; done\n\
             ! [ -e \"{records}/fail\" ]\n",
            records = hook.records.display()
        );
        fs::write(&script, text).expect("the hook");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("its mode");
        hook
    }

    /// What has to be on the engine's PATH.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on a call lasts until [`let_go`](Self::let_go): a container stays in its start.
    pub(crate) fn hold(&self) {
        fs::write(self.records.join("hold"), "").expect("hold");
    }

    /// After [`hold`](Self::hold).
    pub(crate) fn let_go(&self) {
        fs::remove_file(self.records.join("hold")).expect("let go");
    }

    /// From now on it fails, and with it each start.
    pub(crate) fn fail(&self) {
        fs::write(self.records.join("fail"), "").expect("fail");
    }

    /// From now on it makes the device files of these GPUs in each container, as the vendor's does of
    /// the container's own.
    pub(crate) fn makes_nodes(&self, numbers: &[u32]) {
        let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
        fs::write(self.records.join("nodes"), numbers.join("\n")).expect("nodes");
    }

    /// Whether it was called for this container.
    pub(crate) fn was_called(&self, container_id: &str) -> bool {
        self.records.join(format!("{container_id}.json")).exists()
    }

    /// The values of `NVIDIA_VISIBLE_DEVICES` in the environment of the container's first process,
    /// in order; empty when the hook was not called for it.
    pub(crate) fn visible_devices(&self, container_id: &str) -> Vec<String> {
        let Ok(text) = fs::read(self.records.join(format!("{container_id}.json"))) else {
            return Vec::new();
        };
        let config: serde_json::Value = serde_json::from_slice(&text).expect("the configuration");
        let env = config["process"]["env"].as_array().expect("an environment");
        let values = env.iter().filter_map(|entry| entry.as_str());
        let values = values.filter_map(|entry| entry.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
        values.map(str::to_owned).collect()
    }
}

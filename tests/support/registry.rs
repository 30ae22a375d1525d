//! A real registry on loopback, in the network of the engine that uses it.

use std::{
    fs,
    process::{Child, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use tempfile::TempDir;

use super::{engine::Engine, net::Net, wait::wait_until_blocking};

/// Who may read a private registry.
pub(crate) const USERNAME: &str = "renter";

/// In base64 with `/` and `+`, wherever it begins: what naive clients get wrong.
pub(crate) const PASSWORD: &str = "p???>>>~w0rd";

/// bcrypt of [`PASSWORD`].
const PASSWORD_HASH: &str = "$2b$05$abcdefghijklmnopqrstuuZWBwDIM5XUQIRhdsEE6KUpF6lLTp6Ei";

/// `docker-registry`, with what was pushed to it.
#[derive(Debug)]
pub(crate) struct Registry {
    address: String,
    dir: TempDir,
    process: Child,
    private: bool,
}

impl Registry {
    /// One that everybody may read and write.
    pub(crate) fn open(engine: &Engine) -> Self {
        Self::start(&engine.net(), false)
    }

    /// One that wants [`USERNAME`] and [`PASSWORD`].
    pub(crate) fn private(engine: &Engine) -> Self {
        Self::start(&engine.net(), true)
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Puts the engine's image `local` here under `name` (`repository:tag`) and removes the new name
    /// from the engine again. Gives the reference to pull it by.
    pub(crate) fn push(&self, engine: &Engine, local: &str, name: &str) -> String {
        let reference = format!("{}/{name}", self.address);
        engine.docker(&["tag", local, &reference]);
        let config = self.dir.path().display().to_string();
        engine.docker(&["--config", &config, "push", "-q", &reference]);
        engine.docker(&["rmi", &reference]);
        reference
    }

    fn start(net: &Net, private: bool) -> Self {
        let dir = TempDir::new().expect("a folder");
        let port = net.free_port();
        let address = format!("127.0.0.1:{port}");
        fs::write(
            dir.path().join("htpasswd"),
            format!("{USERNAME}:{PASSWORD_HASH}\n"),
        )
        .expect("htpasswd");
        let auth = STANDARD.encode(format!("{USERNAME}:{PASSWORD}"));
        let client = serde_json::json!({ "auths": { &address: { "auth": auth } } });
        let client = if private {
            client
        } else {
            serde_json::json!({})
        };
        fs::write(dir.path().join("config.json"), client.to_string()).expect("config.json");
        let path = dir.path().display();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {path}/data}}}}\n\
             http: {{addr: \"{address}\"}}\n"
        );
        if private {
            config += &format!("auth: {{htpasswd: {{realm: lab, path: {path}/htpasswd}}}}\n");
        }
        fs::write(dir.path().join("config.yml"), config).expect("config.yml");
        let process = net
            .command("docker-registry")
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        wait_until_blocking("the registry answers", Duration::from_secs(20), || {
            net.dial(port).is_ok()
        });
        Self {
            address,
            dir,
            process,
            private,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

//! Container engines: the one that is there, and ones of a test's own that may be broken.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rental_agent::config;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{hook::Hook, image, net::Net, wait::wait_until_blocking};

/// An engine that answers, with the lab's image in it.
#[derive(Debug)]
pub(crate) struct Engine {
    host: String,
    own: Option<OwnEngine>,
}

/// How an engine of one's own is to be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own {
    /// Containers outlive it.
    pub(crate) live_restore: bool,
    /// It takes device requests for GPUs, with a stand-in for the vendor's hook.
    pub(crate) gpus: bool,
    /// It hands out devices by CDI; see [`Engine::cdi_spec`]. Only an engine of 25 and later can, which
    /// [`cdi_engine`] names.
    pub(crate) cdi: bool,
    /// How often it asks a registry for a layer before it gives up; 5 if not said otherwise, which
    /// takes a minute.
    pub(crate) download_attempts: Option<u32>,
    /// Its data lies on a file system of so many MiB.
    pub(crate) disk_mib: Option<u32>,
}

/// Folders with the programs of an engine that knows CDI, which `scripts/test soak` names; `None`
/// where there is none.
pub(crate) fn cdi_engine() -> Option<String> {
    let paths = ["CDI_ENGINE_PATH", "LAB_ENGINE_PATH"].map(|name| std::env::var(name).ok());
    paths.into_iter().flatten().find(|path| !path.is_empty())
}

#[derive(Debug)]
struct OwnEngine {
    options: Own,
    dir: TempDir,
    net: Net,
    hook: Option<Hook>,
    dockerd: Option<Child>,
}

impl Engine {
    /// The engine that `DOCKER_HOST` names, else the one at the default socket. Only for tests that
    /// leave it as it is.
    pub(crate) fn shared() -> Self {
        let host = std::env::var("DOCKER_HOST");
        let host = host.unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        let engine = Self { host, own: None };
        assert!(
            engine.answers(),
            "no container engine answers at {}: run `scripts/test`, which gets one",
            engine.host
        );
        image::ensure(&engine);
        engine
    }

    /// One of the test's own, to be broken as it likes.
    pub(crate) fn own(options: Own) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("rl")
            .tempdir()
            .expect("a folder");
        let net = make_network(dir.path());
        if let Some(mib) = options.disk_mib {
            mount_disk(dir.path(), mib);
        }
        let hook = options.gpus.then(|| Hook::new(dir.path()));
        let own = OwnEngine {
            options,
            dir,
            net,
            hook,
            dockerd: None,
        };
        let mut engine = Self {
            host: format!("unix://{}", own.path("docker.sock").display()),
            own: Some(own),
        };
        engine.start();
        image::ensure(&engine);
        engine
    }

    /// `unix://…`
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Where its socket is.
    pub(crate) fn socket(&self) -> &Path {
        Path::new(self.host.trim_start_matches("unix://"))
    }

    /// The network in which published ports are found, and on whose loopback a registry is.
    pub(crate) fn net(&self) -> Net {
        self.own
            .as_ref()
            .map_or_else(shared_net, |own| own.net.clone())
    }

    /// The part of the agent's configuration that names it.
    pub(crate) fn config(&self) -> config::Docker {
        config::Docker {
            host: self.host.clone(),
            pull_stall: Duration::from_secs(120),
        }
    }

    /// Whether it answers now, within two seconds.
    pub(crate) fn answers(&self) -> bool {
        let Ok(mut stream) = UnixStream::connect(self.socket()) else {
            return false;
        };
        drop(stream.set_read_timeout(Some(Duration::from_secs(2))));
        let asked = stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n");
        let mut answer = [0; 64];
        let read = asked.and_then(|()| stream.read(&mut answer)).unwrap_or(0);
        String::from_utf8_lossy(&answer[..read]).contains(" 200 ")
    }

    /// Runs the command-line client.
    pub(crate) fn try_docker(&self, args: &[&str]) -> Output {
        self.client().args(args).output().expect("run docker")
    }

    /// Runs the command-line client and gives what it printed; panics when it fails.
    pub(crate) fn docker(&self, args: &[&str]) -> String {
        let output = self.try_docker(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {args:?}: {stderr}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The command-line client, to be given arguments.
    pub(crate) fn client(&self) -> Command {
        let mut command = Command::new("docker");
        command.args(["-H", &self.host]).stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.own_mut().spawn();
        wait_until_blocking("the engine answers", Duration::from_secs(60), || {
            self.own_mut().assert_runs();
            self.answers()
        });
    }

    /// Asks it to end and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.own_mut().signal(Signal::TERM);
        self.own_mut().reap();
    }

    /// Kills it.
    pub(crate) fn kill9(&mut self) {
        self.own_mut().signal(Signal::KILL);
        self.own_mut().reap();
    }

    /// The process number of dockerd.
    pub(crate) fn pid(&self) -> u32 {
        let dockerd = self.own_ref().dockerd.as_ref();
        dockerd.expect("a started engine").id()
    }

    /// [`stop`](Self::stop) and [`start`](Self::start).
    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// It takes connections and says nothing any more.
    pub(crate) fn freeze(&self) {
        self.own_ref().signal(Signal::STOP);
    }

    /// After [`freeze`](Self::freeze).
    pub(crate) fn thaw(&self) {
        self.own_ref().signal(Signal::CONT);
    }

    /// The process that keeps `container`; freezing it makes the container undead.
    pub(crate) fn shim(&self, container: &str) -> Pid {
        let id = self.docker(&["inspect", "-f", "{{.Id}}", container]);
        let shims = self.own_ref().shims();
        let shim = shims.iter().find(|(_, command)| command.contains(&id));
        shim.expect("a shim of that container").0
    }

    /// Writes a specification for CDI, as YAML; the name ends in `.yaml`.
    pub(crate) fn cdi_spec(&self, name: &str, text: &str) {
        fs::write(self.own_ref().path("cdi").join(name), text).expect("a specification");
    }

    /// What the stand-in for the GPU vendor's hook was called for.
    pub(crate) fn hook(&self) -> &Hook {
        self.own_ref().hook.as_ref().expect("an engine with gpus")
    }

    fn own_ref(&self) -> &OwnEngine {
        self.own
            .as_ref()
            .expect("faults are for engines of one's own")
    }

    fn own_mut(&mut self) -> &mut OwnEngine {
        self.own
            .as_mut()
            .expect("faults are for engines of one's own")
    }
}

impl OwnEngine {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn spawn(&mut self) {
        // After a kill these name processes that are no more, or strangers by now.
        for stale in ["pid", "exec/containerd/containerd.pid"] {
            drop(fs::remove_file(self.path(stale)));
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("log"));
        let log = log.expect("the engine's log");
        let mut command = self.net.command("dockerd");
        command
            .arg("--data-root")
            .arg(self.path("data"))
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("pid"))
            .arg("-H")
            .arg(format!("unix://{}", self.path("docker.sock").display()))
            .env("PATH", self.search_path())
            // Where containerd leaves its stacks when dockerd loses patience with it.
            .env("TMPDIR", self.dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the engine's log"))
            .stderr(log);
        if self.options.cdi {
            let folder = self.path("cdi");
            fs::create_dir_all(&folder).expect("a folder for specifications");
            let config = serde_json::json!({
                "features": { "cdi": true }, "cdi-spec-dirs": [folder],
            });
            let file = self.path("daemon.json");
            fs::write(&file, config.to_string()).expect("the engine's configuration");
            command.arg("--config-file").arg(file);
        }
        if self.options.live_restore {
            command.arg("--live-restore");
        }
        if let Some(attempts) = self.options.download_attempts {
            command.arg(format!("--max-download-attempts={attempts}"));
        }
        self.dockerd = Some(command.spawn().expect("start dockerd"));
    }

    /// `LAB_ENGINE_PATH` names folders with another engine than the system's.
    fn search_path(&self) -> String {
        let hook = self
            .hook
            .as_ref()
            .map(|hook| hook.folder().display().to_string());
        let other = match self.options.cdi {
            true => cdi_engine(),
            false => std::env::var("LAB_ENGINE_PATH").ok(),
        };
        let system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let folders: Vec<String> = [hook, other, Some(system)].into_iter().flatten().collect();
        folders.join(":")
    }

    fn assert_runs(&mut self) {
        let dockerd = self.dockerd.as_mut().expect("a started engine");
        if let Some(status) = dockerd.try_wait().expect("ask for dockerd") {
            panic!("dockerd ended with {status}:\n{}", self.log_tail());
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(dockerd) = &self.dockerd {
            let _ = kill_process(Pid::from_child(dockerd), signal);
        }
    }

    fn reap(&mut self) {
        if let Some(mut dockerd) = self.dockerd.take() {
            drop(dockerd.wait());
        }
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// This engine's shims with their command lines, known by the path of its own containerd.
    fn shims(&self) -> Vec<(Pid, String)> {
        let address = self
            .path("exec/containerd/containerd.sock")
            .display()
            .to_string();
        let mut shims = processes();
        shims.retain(|(_, command)| command.contains("-shim") && command.contains(&address));
        shims
    }

    /// SIGTERM, so that networks and mounts go; then whatever is still there.
    fn tear_down(&mut self) {
        self.signal(Signal::CONT);
        for (shim, _) in self.shims() {
            let _ = kill_process(shim, Signal::CONT);
            kill_children(shim);
        }
        self.signal(Signal::TERM);
        if let Some(dockerd) = self.dockerd.as_mut() {
            for _ in 0..500 {
                match dockerd.try_wait() {
                    Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                    Ok(Some(_)) | Err(_) => break,
                }
            }
        }
        self.signal(Signal::KILL);
        self.reap();
        for (shim, _) in self.shims() {
            kill_children(shim);
            let _ = kill_process(shim, Signal::KILL);
        }
        unmount_below(self.dir.path());
        if let Net::Named(path) = &self.net {
            let name = path.file_name().unwrap_or_default();
            drop(Command::new("ip").args(["netns", "del"]).arg(name).output());
        }
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the engine's log:\n{}", self.log_tail());
        }
        self.tear_down();
    }
}

/// Where the shared engine's ports are: a script that starts one in a namespace names that.
fn shared_net() -> Net {
    match std::env::var("ENGINE_NETNS") {
        Ok(name) if !name.is_empty() => Net::Named(Path::new("/run/netns").join(name)),
        Ok(_) | Err(_) => Net::Here,
    }
}

/// Named like the folder, so that two never meet.
fn make_network(folder: &Path) -> Net {
    let name = folder
        .file_name()
        .expect("a folder's name")
        .to_string_lossy();
    run(Command::new("ip").args(["netns", "add", &name]));
    run(Command::new("ip").args(["-n", &name, "link", "set", "lo", "up"]));
    Net::Named(Path::new("/run/netns").join(name.as_ref()))
}

fn mount_disk(folder: &Path, mib: u32) {
    let (disk, data) = (folder.join("disk"), folder.join("data"));
    let file = fs::File::create(&disk).expect("a disk");
    file.set_len(u64::from(mib) * 1024 * 1024)
        .expect("its size");
    fs::create_dir(&data).expect("a mount point");
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk));
    run(Command::new("mount")
        .args(["-o", "loop"])
        .arg(&disk)
        .arg(&data));
}

fn run(command: &mut Command) {
    let output = command.output().expect("run a command");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}

/// All processes with their command lines.
fn processes() -> Vec<(Pid, String)> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let process = |entry: fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_string_lossy().parse().ok()?)?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        Some((pid, String::from_utf8_lossy(&command).replace('\0', " ")))
    };
    entries.filter_map(process).collect()
}

/// A shim's children are its containers' first processes; the rest of a container goes with them.
fn kill_children(shim: Pid) {
    let shim = shim.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        if let Some(child) = child.parse().ok().and_then(Pid::from_raw) {
            let _ = kill_process(child, Signal::KILL);
        }
    }
}

fn unmount_below(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<&str> = points
        .filter(|p| Path::new(p).starts_with(folder))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.len()));
    for point in points {
        drop(Command::new("umount").args(["-l", point]).output());
    }
}

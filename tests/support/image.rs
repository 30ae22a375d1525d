//! Images made on the spot: a static busybox and links to it.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use super::engine::Engine;

/// In every engine of the lab. `httpd -f -p 80 -h /www` serves a page that says `it works`.
pub(crate) const BUSYBOX: &str = "lab/busybox:1";

/// Makes [`BUSYBOX`] unless it is there. One test at a time: tests are processes.
pub(super) fn ensure(engine: &Engine) {
    let lock = fs::File::create(std::env::temp_dir().join("rental-agent-lab.lock"));
    let lock = lock.expect("the lab's lock");
    lock.lock().expect("the lab's lock");
    if !engine
        .try_docker(&["image", "inspect", BUSYBOX])
        .status
        .success()
    {
        engine.import(BUSYBOX, &[]);
    }
}

impl Engine {
    /// Makes an image of busybox, with changes like `ENV A=b`, `LABEL c=d`, `ENTRYPOINT ["e"]`. No
    /// two are of the same layer.
    pub(crate) fn import(&self, name: &str, changes: &[&str]) {
        self.import_with(name, changes, 0);
    }

    /// Like [`Engine::import`], with as many random bytes beside: a layer that takes its time on
    /// any machine.
    pub(crate) fn import_large(&self, name: &str, bytes: u64) {
        self.import_with(name, &[], bytes);
    }

    fn import_with(&self, name: &str, changes: &[&str], bytes: u64) {
        let mut command = self.client();
        command.arg("import");
        for change in changes {
            command.args(["--change", change]);
        }
        let mut import = command
            .args(["-", name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("run docker import");
        let mut stdin = import.stdin.take().expect("its input");
        stdin
            .write_all(&root_file_system(bytes))
            .expect("write the image");
        drop(stdin);
        assert!(
            import.wait().expect("docker import").success(),
            "import {name}"
        );
    }
}

/// A tar archive of a root file system that no other is equal to, with `ballast` random bytes.
pub(super) fn root_file_system(ballast: u64) -> Vec<u8> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let root = TempDir::new().expect("a folder");
    let bin = root.path().join("bin");
    fs::create_dir(&bin).expect("bin");
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|path| path.exists());
    let busybox = busybox.expect("busybox-static is installed");
    fs::copy(busybox, bin.join("busybox")).expect("copy busybox");
    let list = Command::new(busybox)
        .arg("--list")
        .output()
        .expect("run busybox");
    let list = String::from_utf8(list.stdout).expect("its list");
    for applet in list.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", bin.join(applet)).expect("a link");
    }
    fs::create_dir_all(root.path().join("www")).expect("www");
    fs::write(root.path().join("www/index.html"), "it works\n").expect("a page");
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let unique = format!("{} {number} {}", std::process::id(), root.path().display());
    fs::write(root.path().join("unique"), unique).expect("a unique file");
    if ballast > 0 {
        let random = fs::File::open("/dev/urandom").expect("/dev/urandom");
        let mut file = fs::File::create(root.path().join("ballast")).expect("a file");
        io::copy(&mut random.take(ballast), &mut file).expect("write the ballast");
    }
    archive(root.path())
}

fn archive(folder: &Path) -> Vec<u8> {
    let tar = Command::new("tar")
        .args(["--owner=0", "--group=0", "-c", "."])
        .current_dir(folder)
        .output()
        .expect("run tar");
    assert!(tar.status.success(), "tar");
    tar.stdout
}

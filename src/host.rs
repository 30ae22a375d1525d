//! The machine: its facts for `hello`, and how it is doing. Reads `/proc`, `/etc` and the file
//! systems; knows nothing of the engine but where it keeps its data.
//!
//! What cannot be read is left empty or at zero and is never an error: an agent on an odd machine
//! still works. `disks` and with it `facts` may block for as long as a file system does.

mod address;
mod disk;
pub mod sample;
mod system;
mod view;

use std::{fs, path::Path};

pub use self::{
    disk::disks,
    view::{own_container, sees_processes},
};
use crate::{
    config::Config,
    protocol::{
        record::{Host, View},
        text::printable,
    },
};

/// Who this machine is. `engine_root` is where the engine keeps its data, once that is known; the
/// engine's own facts are for others to add.
pub fn facts(config: &Config, engine_root: Option<&Path>) -> Host {
    let network = &config.network;
    let mut host = system::facts();
    host.boot_id = first_line(&config.host.boot_id_file);
    host.view = view::detect();
    // From inside a container the own address is one that no renter reaches.
    let own = || (host.view == View::Host).then(|| address::own().to_string());
    host.public_address = network.public_address.clone().or_else(own);
    host.disks = disks([Some(Path::new("/")), engine_root].into_iter().flatten());
    host.port_range = Some(network.port_range);
    host
}

/// The first line of a file, printable; empty when it cannot be read.
fn first_line(path: &Path) -> String {
    let text = fs::read_to_string(path)
        .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "cannot be read"))
        .unwrap_or_default();
    printable(text.lines().next().unwrap_or_default().trim(), 100)
}

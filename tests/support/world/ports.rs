//! A block of the host's ports for each world: agents that do not know of each other share one
//! engine, and tests share it across processes.

use std::{
    fs::{self, File},
    io,
    path::PathBuf,
};

/// Ports that rentals of all worlds are published on, as the agent's default.
const FIRST: u16 = 30_000;
/// Ports of one block.
const SIZE: u16 = 10;
/// Blocks: more than tests run at once.
const BLOCKS: u16 = 100;

/// Ports that are one world's alone until it is dropped.
#[derive(Debug)]
pub(crate) struct PortBlock {
    first: u16,
    /// Locked; the system unlocks it when the process is gone, however it went.
    _lock: File,
}

impl PortBlock {
    /// Takes a free block.
    pub(crate) fn take() -> Self {
        let folder = PathBuf::from("/tmp/rental-agent-test-ports");
        fs::create_dir_all(&folder).unwrap();
        // Each process begins elsewhere, so that a port that was just given back rests for a while.
        let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).unwrap();
        for step in 0..BLOCKS {
            let block = (start * 7 + step) % BLOCKS;
            if let Ok(lock) = lock(&folder.join(block.to_string())) {
                let first = FIRST + block * SIZE;
                return Self { first, _lock: lock };
            }
        }
        panic!("all {BLOCKS} blocks of ports are taken");
    }

    /// The first port.
    pub(crate) fn first(&self) -> u16 {
        self.first
    }

    /// As `network.port_range`.
    pub(crate) fn range(&self) -> String {
        format!("{}-{}", self.first, self.first + SIZE - 1)
    }
}

fn lock(path: &std::path::Path) -> io::Result<File> {
    let file = File::options().create(true).append(true).open(path)?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}

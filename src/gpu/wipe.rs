//! Wipes a GPU's memory between tenants, in a process of its own: a driver in trouble may hang or
//! take the process down with it, and CUDA sees the GPUs that it saw when it began.
//!
//! The child is this program again (`rental-agent gpu-wipe`), with nothing of the agent's
//! environment: it sees one GPU. It has a time limit and says in one line what it did.

pub mod zero;

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    time::timeout,
};

use super::ward::Wiped;
use crate::{ids::GpuUuid, protocol::text::printable};

/// The hidden subcommand that is the child.
pub const SUBCOMMAND: &str = "gpu-wipe";

/// The child's exit code where this host has no means to wipe.
pub const EXIT_IMPOSSIBLE: u8 = 3;

/// Beginning takes CUDA seconds on a host with many GPUs; the wiping itself is quick.
const WITHIN: Duration = Duration::from_secs(60);
/// One that was killed ends at once, unless the driver holds it: then nobody waits for it.
const DEAD_WITHIN: Duration = Duration::from_secs(1);
/// Of what it says; it has little to say.
const MAX_OUTPUT: u64 = 64 * 1024;

/// What a wipe has done, as the child prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub struct Zeroed {
    pub wiped_bytes: u64,
    pub total_bytes: u64,
}

/// How GPUs are wiped on this host.
#[derive(Debug, Clone)]
pub struct Wiper {
    program: PathBuf,
    folder: Option<PathBuf>,
    within: Duration,
}

impl Wiper {
    /// `program` is this one; `cuda_library`: where CUDA's is, if not where the loader looks.
    pub fn new(program: PathBuf, cuda_library: Option<&Path>) -> Self {
        let folder = cuda_library.and_then(Path::parent).map(Path::to_path_buf);
        Self {
            program,
            folder,
            within: WITHIN,
        }
    }

    /// The same, with another time limit.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.within = limit;
        self
    }

    /// Wipes one. What goes wrong is in the answer.
    pub async fn wipe(&self, uuid: &GpuUuid) -> Wiped {
        let mut command = Command::new(&self.program);
        command
            .arg(SUBCOMMAND)
            .env_clear()
            .env("CUDA_VISIBLE_DEVICES", uuid.as_str())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(folder) = &self.folder {
            command.env("LD_LIBRARY_PATH", folder);
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Wiped::Failed(format!("it cannot be begun: {error}")),
        };
        match timeout(self.within, heard(&mut child)).await {
            Ok(Ok((status, said, complaint))) => meaning(status, &said, &complaint),
            Ok(Err(error)) => Wiped::Failed(format!("it cannot be followed: {error}")),
            Err(_) => {
                // It may not be there any more, or not be killable: either way it is out of time.
                let _ = child.start_kill();
                let _ = timeout(DEAD_WITHIN, child.wait()).await;
                Wiped::Failed(format!("it did not end within {:?}", self.within))
            }
        }
    }
}

async fn heard(child: &mut Child) -> std::io::Result<(ExitStatus, String, String)> {
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let (status, out, err) = tokio::join!(child.wait(), text(out), text(err));
    Ok((status?, out?, err?))
}

async fn text(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn meaning(status: ExitStatus, said: &str, complaint: &str) -> Wiped {
    let lines = complaint.trim().replace(['\n', '\t'], " ");
    let complaint = printable(&lines, 300);
    if status.success() {
        return match serde_json::from_str::<Zeroed>(said.trim()) {
            Ok(zeroed) => Wiped::Done {
                wiped_bytes: zeroed.wiped_bytes,
                total_bytes: zeroed.total_bytes,
            },
            Err(error) => Wiped::Failed(format!("what it says cannot be read: {error}")),
        };
    }
    if status.code() == Some(i32::from(EXIT_IMPOSSIBLE)) {
        return Wiped::Impossible(complaint);
    }
    Wiped::Failed(format!("{status}: {complaint}"))
}

//! What can be seen of a container's GPUs: its configuration by the engine, its device files where
//! this process sees the host's processes, and the word of `nvidia-smi` inside, where the image has it.
//!
//! The program inside is the tenant's. It runs with the container's own rights, is waited for a short
//! while, and its words are cut; what it says decides about nobody but that tenant.

use std::{collections::BTreeSet, os::unix::fs::FileTypeExt, path::Path, time::Duration};

use bollard::{
    exec::{CreateExecOptions, StartExecResults},
    models::ContainerInspectResponse,
};
use futures_util::StreamExt;
use tokio::{fs, time::timeout};

use super::{
    classify::Operation,
    connection::{CONTROL, Call, Connection},
    containers::{found, raw_inspect},
};
use crate::{
    protocol::text::printable,
    runtime::{
        RuntimeError,
        gpus::{Evidence, Listed},
        translate,
    },
};

/// For the program inside, all calls together.
const INSIDE: Duration = Duration::from_secs(10);

/// Sixty-four GPUs take 5 kB.
const MAX_OUTPUT: usize = 64 * 1024;

/// Of what it says when it fails.
const MAX_WORDS: usize = 300;

/// Where device files of GPUs are.
const FOLDERS: [&str; 4] = ["/dev", "/dev/dri", "/dev/accel", "/dev/vfio"];

/// In one folder.
const MAX_FILES: usize = 4096;

/// For both looks at files together.
const FILES: Duration = Duration::from_secs(5);

/// One call, and three more with `inside`.
pub(super) async fn evidence(
    connection: &Connection,
    name: &str,
    inside: bool,
) -> Result<Option<Evidence>, RuntimeError> {
    let call = Call {
        operation: Operation::Inspect,
        subject: name,
    };
    let Some(inspect) = found(raw_inspect(connection, call, CONTROL).await)? else {
        return Ok(None);
    };
    let visible = visible(&inspect);
    let observed = translate::observed_from_inspect(inspect);
    let observed = observed.ok_or_else(|| call.nonsense("id, name or time of creation"))?;
    let detail = observed.detail.unwrap_or_default();
    let id = observed.id.to_string();
    let files = async {
        let inside = match is_of_container(detail.pid, &id).await {
            true => device_files(&format!("/proc/{}/root", detail.pid)).await,
            false => None,
        };
        (inside, device_files("").await.unwrap_or_default())
    };
    let (nodes, host_nodes) = timeout(FILES, files).await.unwrap_or_default();
    let listed = match inside && detail.pid > 0 {
        true => ask_inside(connection, &id).await,
        false => Listed::Unasked,
    };
    Ok(Some(Evidence {
        container: observed.id,
        runs: detail.pid > 0,
        configured: detail.device_ids,
        visible,
        nodes,
        host_nodes,
        listed,
    }))
}

fn visible(inspect: &ContainerInspectResponse) -> Option<String> {
    let env = inspect.config.as_ref()?.env.as_ref()?;
    translate::first_visible(env).map(str::to_owned)
}

/// Whether that process number is the container's on this host: where only the processes of another
/// container can be seen it is somebody else's, or nobody's.
async fn is_of_container(pid: u32, id: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).await;
    pid > 0 && groups.is_ok_and(|groups| groups.contains(id))
}

/// Paths of the character devices with a number at the end, as they are called below `root`; `None`
/// where that may not be looked at. A tenant may make links of its folders: what is found is compared
/// by name and never opened.
async fn device_files(root: &str) -> Option<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    for folder in FOLDERS {
        let path = format!("{root}{folder}");
        let mut entries = match fs::read_dir(Path::new(&path)).await {
            Ok(entries) => entries,
            Err(_) if folder == "/dev" => return None,
            Err(_) => continue,
        };
        let mut seen = 0;
        while let Ok(Some(entry)) = entries.next_entry().await {
            seen += 1;
            if seen > MAX_FILES {
                break;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_device = entry.file_type().await.is_ok_and(|t| t.is_char_device());
            if is_device && name.ends_with(|c: char| c.is_ascii_digit()) {
                files.insert(printable(&format!("{folder}/{name}"), MAX_WORDS));
            }
        }
    }
    Some(files)
}

async fn ask_inside(connection: &Connection, id: &str) -> Listed {
    let call = Call {
        operation: Operation::Exec,
        subject: id,
    };
    let asked = connection
        .call(call, INSIDE, |client| run(client, id.to_owned()))
        .await;
    match asked {
        Ok((code, output)) => listed(code, &output),
        Err(error) => {
            tracing::debug!(container = id, %error, "nvidia-smi could not be asked");
            Listed::Unasked
        }
    }
}

/// Runs `nvidia-smi -L`: its exit code, and what it says on both streams.
async fn run(
    client: bollard::Docker,
    id: String,
) -> Result<(Option<i64>, String), bollard::errors::Error> {
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(vec!["nvidia-smi", "-L"]),
        ..CreateExecOptions::default()
    };
    let exec = client.create_exec(&id, options).await?.id;
    let mut said = Vec::new();
    if let StartExecResults::Attached { mut output, .. } = client.start_exec(&exec, None).await? {
        while let Some(chunk) = output.next().await {
            said.extend_from_slice(&chunk?.into_bytes());
            if said.len() > MAX_OUTPUT {
                break;
            }
        }
    }
    let code = client.inspect_exec(&exec).await?.exit_code;
    said.truncate(MAX_OUTPUT);
    Ok((code, String::from_utf8_lossy(&said).into_owned()))
}

/// What the program's end means. 126 and 127 are the runtime's: there is no such program.
fn listed(code: Option<i64>, output: &str) -> Listed {
    match code {
        Some(0) => Listed::Gpus(output.lines().filter_map(uuid).collect()),
        Some(_)
            if output.contains("No devices were found") || output.contains("No devices found") =>
        {
            Listed::Gpus(BTreeSet::new())
        }
        Some(126 | 127) | None => Listed::Unasked,
        Some(_) => Listed::Failed(printable(output.trim(), MAX_WORDS)),
    }
}

/// `GPU 0: NVIDIA H100 PCIe (UUID: GPU-…)`. Lines of partitions are indented.
fn uuid(line: &str) -> Option<String> {
    let rest = line.strip_prefix("GPU ")?;
    let (_, uuid) = rest.rsplit_once("(UUID: ")?;
    Some(printable(uuid.trim_end().trim_end_matches(')'), MAX_WORDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nvidia_smi_says_is_read() {
        let two = "GPU 0: NVIDIA H100 PCIe (UUID: GPU-a)\n  MIG 1g.10gb Device 0: (UUID: MIG-b)\n\
                   GPU 1: A (odd) name (UUID: GPU-c)\r\n";
        let expected = ["GPU-a", "GPU-c"].map(str::to_owned).into();
        assert_eq!(listed(Some(0), two), Listed::Gpus(expected));
        assert_eq!(listed(Some(0), ""), Listed::Gpus(BTreeSet::new()));
        assert_eq!(
            listed(Some(6), "No devices were found\n"),
            Listed::Gpus(BTreeSet::new())
        );
        let lost = "Failed to initialize NVML: Unknown Error\n";
        let said = "Failed to initialize NVML: Unknown Error".to_owned();
        assert_eq!(listed(Some(255), lost), Listed::Failed(said));
        let absent =
            "OCI runtime exec failed: exec: \"nvidia-smi\": executable file not found in $PATH";
        for code in [Some(126), Some(127), None] {
            assert_eq!(listed(code, absent), Listed::Unasked);
        }
    }
}

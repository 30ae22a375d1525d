//! NVIDIA's GPUs by its command line tool, where its library cannot be loaded. It tells less: nothing
//! of partitions, links and rows to be remapped, and only of processes that compute.
//!
//! Each question is a process of its own with a time limit. It is ended when that is over, and waited
//! for by this thread alone, which nobody waits for.

mod parse;

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use self::parse::Table;
use super::{Found, GpuProbe, ProbeError, Reading, sysfs::SysFs};
use crate::protocol::text::printable;

/// What is run when the configuration names no other.
const TOOL: &str = "nvidia-smi";

/// Less than a probe has for an answer, of which it needs two.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// More than it says of 256 GPUs.
const MAX_OUTPUT: u64 = 1 << 20;

/// How the tool is asked.
#[derive(Debug, Clone, Default)]
pub struct Asking {
    /// The program; unset: `nvidia-smi` by PATH.
    pub tool: Option<PathBuf>,
    /// The processes of the host can be seen from here.
    pub sees_processes: bool,
}

/// The tool, which has answered once.
#[derive(Debug)]
pub struct NvidiaSmi {
    tool: PathBuf,
    sees_processes: bool,
    /// What this version of the tool does not know.
    unknown: Vec<String>,
    sysfs: SysFs,
}

impl NvidiaSmi {
    /// Asks it for its GPUs once.
    ///
    /// # Errors
    /// [`ProbeError::Absent`] when there is no such program, [`ProbeError::Failed`] when it does not
    /// answer as it should.
    pub fn open(asking: &Asking) -> Result<Self, ProbeError> {
        let tool = asking.tool.clone().unwrap_or_else(|| TOOL.into());
        let mut opened = Self {
            tool,
            sees_processes: asking.sees_processes,
            unknown: Vec::new(),
            sysfs: SysFs::default(),
        };
        opened.inventory()?;
        Ok(opened)
    }

    /// Asks for columns; one that this version does not know is left out from then on.
    fn query(&mut self, what: &str, columns: &[&str]) -> Result<Table, ProbeError> {
        loop {
            let known = |column: &&&str| !self.unknown.iter().any(|unknown| unknown == **column);
            let asked: Vec<&str> = columns.iter().filter(known).copied().collect();
            let query = format!("--query-{what}={}", asked.join(","));
            match self.ask(&[&query, "--format=csv,nounits"]) {
                Ok(text) => return Ok(Table::read(&text)),
                Err(error) => match parse::unknown_column(&error.to_string()) {
                    Some(column) if asked.contains(&column.as_str()) => self.unknown.push(column),
                    _ => return Err(error),
                },
            }
        }
    }

    fn ask(&self, arguments: &[&str]) -> Result<String, ProbeError> {
        let shown = self.tool.display();
        let child = Command::new(&self.tool)
            .args(arguments)
            .env("LC_ALL", "C")
            .env("LANG", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        match child {
            Ok(child) => output(child).map_err(|why| ProbeError::Failed(format!("{shown}: {why}"))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(ProbeError::Absent(format!("{shown} not found")))
            }
            Err(error) => Err(ProbeError::Failed(format!("{shown}: {error}"))),
        }
    }

    /// Who computes on which GPU; `None` where that cannot be seen.
    fn processes(&mut self) -> Option<BTreeMap<String, Vec<super::GpuProcess>>> {
        if !self.sees_processes {
            return None;
        }
        let table = self.query("compute-apps", parse::PROCESS_COLUMNS).ok()?;
        Some(parse::processes(&table, |pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
            Some(printable(name.trim_end(), 100))
        }))
    }
}

impl GpuProbe for NvidiaSmi {
    fn inventory(&mut self) -> Result<Vec<Found>, ProbeError> {
        let mut gpus = parse::gpus(&self.query("gpu", parse::GPU_COLUMNS)?);
        for found in &mut gpus {
            let gpu = &mut found.gpu;
            gpu.numa_node = self.sysfs.numa_node(&gpu.pci_bus_id);
            gpu.cpu_affinity = self.sysfs.cpus_near(&gpu.pci_bus_id);
        }
        Ok(gpus)
    }

    fn sample(&mut self) -> Result<Vec<Reading>, ProbeError> {
        let table = self.query("gpu", parse::SAMPLE_COLUMNS)?;
        let mut processes = self.processes();
        let mut readings = parse::readings(&table);
        for reading in &mut readings {
            let of_all = processes.as_mut();
            reading.processes =
                of_all.map(|all| all.remove(reading.sample.uuid.as_str()).unwrap_or_default());
        }
        Ok(readings)
    }
}

/// What the process prints, if it ends well and in time.
fn output(mut child: Child) -> Result<String, String> {
    let (said, hears) = mpsc::sync_channel(1);
    let printed = child.stdout.take().ok_or("it has no output")?;
    // Ends with the pipe, which closes when the process is ended.
    thread::Builder::new()
        .name("gpu-nvidia-smi".to_owned())
        .spawn(move || {
            let mut text = Vec::new();
            let read = printed.take(MAX_OUTPUT).read_to_end(&mut text);
            let _ = said.send(read.map(|_| String::from_utf8_lossy(&text).into_owned()));
        })
        .map_err(|error| error.to_string())?;
    let text = hears.recv_timeout(ANSWER_WITHIN);
    if text.is_err() {
        // What cannot be ended is waited for below, as every call to a sick driver is.
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let text = text
        .map_err(|_| format!("no answer within {ANSWER_WITHIN:?}"))?
        .map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(text);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    Err(match words.is_empty() {
        true => status.to_string(),
        false => printable(&words.join(" "), 300),
    })
}

//! The last words of a container.

use std::time::Duration;

use bollard::{container::LogOutput, query_parameters::LogsOptionsBuilder};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    classify::Operation,
    connection::{Call, Connection},
};
use crate::{protocol::text::printable_tail, runtime::RuntimeError};

/// For all of it: a log tail is worth a short wait and no more.
const LIMIT: Duration = Duration::from_secs(5);

/// The engine writes at most 16 KiB per entry, so that so many of them are at most 1 MiB and the end
/// is always reached.
const ENTRIES: &str = "64";

/// Other log drivers may have longer entries.
const READ_AT_MOST: usize = 1024 * 1024;

/// One call.
pub(super) async fn tail(
    connection: &Connection,
    name: &str,
    max_bytes: usize,
) -> Result<String, RuntimeError> {
    let call = Call {
        operation: Operation::Logs,
        subject: name,
    };
    let options = LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .tail(ENTRIES)
        .build();
    let mut output = connection
        .stream(call, |client| client.logs(name, Some(options)))
        .await?;
    let mut window = Window::new(max_bytes);
    let read = async {
        while let Some(item) = output.next().await {
            let chunk = item.map_err(|error| connection.failure(call, error))?;
            if window.push(chunk) > READ_AT_MOST {
                break;
            }
        }
        Ok(())
    };
    match timeout(LIMIT, read).await {
        Ok(Ok(())) => Ok(window.finish()),
        Ok(Err(error)) => Err(error),
        Err(_) if window.read > 0 => Ok(window.finish()),
        Err(_) => Err(call.no_answer(LIMIT)),
    }
}

/// The end of a stream of bytes.
struct Window {
    kept: Vec<u8>,
    max: usize,
    read: usize,
}

impl Window {
    fn new(max: usize) -> Self {
        Self {
            kept: Vec::new(),
            max,
            read: 0,
        }
    }

    /// Takes a chunk of either stream and says how much has been read so far.
    fn push(&mut self, output: LogOutput) -> usize {
        let chunk = output.into_bytes();
        self.read += chunk.len();
        self.kept.extend_from_slice(&chunk);
        // Cut at twice the size, so that a byte is moved once and not at each chunk.
        if self.kept.len() > self.max.saturating_mul(2) {
            self.kept.drain(..self.kept.len() - self.max);
        }
        self.read
    }

    fn finish(self) -> String {
        printable_tail(&String::from_utf8_lossy(&self.kept), self.max)
    }
}

#[cfg(test)]
mod tests;

//! The agent's own log: to standard error, as text or JSON lines.
//!
//! Whoever reads it may stand still (a pipe that is full, a disk that is busy), and nothing of the agent
//! waits for that: lines go into a queue of limited size, which a thread of its own writes down. What
//! does not fit is dropped and counted.
//!
//! What the libraries log below INFO is never let through, whatever the filter says: at DEBUG and
//! TRACE they print request bodies and headers, and with them tokens and tenants' variables.

mod queue;

use std::io::{self, IsTerminal};

use anyhow::Context;
use tracing::{Level, Metadata, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer, filter, fmt::MakeWriter, layer::SubscriberExt, registry::LookupSpan,
    util::SubscriberInitExt,
};

pub use self::queue::Flush;
use self::queue::Queue;
use crate::config::Log;

/// Begins to log. Once per process. What is returned is kept until the end: it waits then, not for long,
/// until all is written.
pub fn init(log: &Log) -> anyhow::Result<Flush> {
    let colours = io::stderr().is_terminal();
    let queue = Queue::start(io::stderr()).context("a thread for the log")?;
    let flush = Flush::of(&queue);
    tracing_subscriber::registry()
        .with(layer(log, move || queue.clone(), colours)?)
        .try_init()
        .context("logging has been set up before")?;
    Ok(flush)
}

fn layer<S, W>(log: &Log, writer: W, colours: bool) -> anyhow::Result<impl Layer<S>>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // A filter of nothing but targets leaves all others at ERROR, which is what it says.
    let chosen = EnvFilter::builder()
        .with_default_directive(LevelFilter::ERROR.into())
        .parse(&log.filter)
        .context("log.filter")?;
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(colours)
        .with_writer(writer);
    let layer = if log.json {
        layer.json().flatten_event(true).boxed()
    } else {
        layer.boxed()
    };
    Ok(layer
        .with_filter(filter::filter_fn(may_be_logged))
        .with_filter(chosen))
}

fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    let ours =
        metadata.target() == "rental_agent" || metadata.target().starts_with("rental_agent::");
    ours || *metadata.level() <= Level::INFO
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, json: bool, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let options = Log {
            filter: filter.into(),
            json,
        };
        let layer = layer(&options, move || writer.clone(), false).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn libraries_are_not_heard_below_info_whatever_the_filter_says() {
        for filter in ["trace", "trace,bollard=trace,tungstenite=trace"] {
            let text = logged(filter, false, || {
                tracing::debug!(target: "bollard::docker", "canary-body");
                tracing::trace!(target: "tungstenite::handshake::client", "canary-header");
                tracing::trace!(target: "rental_agent_fake", "canary-name");
                tracing::info!(target: "bollard::docker", "heard-library");
                tracing::trace!(target: "rental_agent::session", "heard-ours");
            });
            assert!(!text.contains("canary"), "{text}");
            assert!(
                text.contains("heard-library") && text.contains("heard-ours"),
                "{text}"
            );
        }
    }

    #[test]
    fn the_filter_is_obeyed() {
        let text = logged("info,rental_agent::session=debug", false, || {
            tracing::debug!(target: "rental_agent::session", "one");
            tracing::debug!(target: "rental_agent::driver", "two");
            tracing::info!(target: "rental_agent::driver", "three");
        });
        assert!(
            text.contains("one") && !text.contains("two") && text.contains("three"),
            "{text}"
        );
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_in_it() {
        let text = logged("info", true, || {
            tracing::info!(instance_id = "r-1", "ready")
        });
        let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!(
            (&line["instance_id"], &line["message"]),
            (&"r-1".into(), &"ready".into())
        );
    }
}

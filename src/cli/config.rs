//! `rental-agent config`: what the configuration is and where each value was read.

use std::{collections::BTreeMap, process::ExitCode};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::{EXIT_CONFIG, complain, configured, print};
use crate::{
    config::{self, ConfigError, Entry, Overrides, Shown},
    protocol::text::printable,
};

/// Of `config`.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show every value that is in force and where it was read. Secrets are not shown.
    Show {
        /// One JSON object instead of text.
        #[arg(long)]
        json: bool,
    },
}

/// Prints what is in force; ends with 78 when the agent would not start with it.
pub fn run(args: &ConfigArgs, overrides: &Overrides, env: &BTreeMap<String, String>) -> ExitCode {
    let ConfigCommand::Show { json } = args.command;
    let mut shown = config::show(overrides, env);
    if shown.ok
        && let Err(ConfigError(faults)) = configured(overrides, env.clone())
    {
        shown.ok = false;
        shown.faults = faults;
    }
    let printed = match json {
        // Strings, numbers and lists only, which can always be written.
        true => print(&serde_json::to_string_pretty(&shown).unwrap_or_default()),
        false => print(&text(&shown)),
    };
    if shown.ok {
        return printed;
    }
    complain(
        &ConfigError(shown.faults).to_string(),
        ExitCode::from(EXIT_CONFIG),
    )
}

fn text(shown: &Shown) -> String {
    let rows: Vec<[String; 3]> = shown.values.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    // One long value shall not push all sources to the right.
    let (keys, values) = (width(0), width(1).min(44));
    let lines = rows
        .iter()
        .map(|[key, value, source]| format!("{key:<keys$}  {value:<values$}  {source}"));
    lines.collect::<Vec<_>>().join("\n")
}

fn row(entry: &Entry) -> [String; 3] {
    let value = match entry.value == Value::Null {
        true => "(unset)".to_owned(),
        false => printable(&entry.value.to_string(), 1000),
    };
    let source = match &entry.origin {
        Some(origin) => format!("{}: {}", entry.source, printable(origin, 300)),
        None => entry.source.to_string(),
    };
    [printable(&entry.key, 200), value, source]
}

//! `dev ps`: what the reference server knows.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use comfy_table::{Table, presets};

use super::{
    ServerArg,
    deploy::{address, name},
};
use crate::{
    dev::{
        client::Client,
        operator::{AgentRow, Event, InstanceRow, Request},
    },
    protocol::{Phase, record::GpuState, text::printable},
};

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    #[command(flatten)]
    server: ServerArg,
    /// Print one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(args: PsArgs) -> anyhow::Result<ExitCode> {
    let mut client = Client::ask(&args.server.server, &Request::Ps).await?;
    let event = client.next().await?;
    let Some(Event::List { agents, instances }) = event else {
        anyhow::bail!("the server did not send its list");
    };
    let mut out = io::stdout();
    if args.json {
        let list = serde_json::json!({"agents": agents, "instances": instances});
        writeln!(out, "{list}")?;
    } else {
        writeln!(out, "{}", agents_table(&agents))?;
        if !instances.is_empty() {
            writeln!(out, "\n{}", instances_table(&instances))?;
        }
    }
    out.flush().context("writing the list")?;
    Ok(ExitCode::SUCCESS)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(header.iter().copied());
    table
}

fn agents_table(agents: &[AgentRow]) -> Table {
    let mut table = table(&["AGENT", "STATE", "ENGINE", "GPUS FREE", "RENTALS", "NOTE"]);
    for agent in agents {
        let state = match (agent.connected, agent.reachable) {
            (true, true) => "connected",
            (true, false) => "silent",
            (false, true) => "disconnected",
            (false, false) if agent.status.is_none() => "not seen yet",
            (false, false) => "unreachable",
        };
        let free = agent.gpus.iter().filter(|g| g.state == GpuState::Available);
        let status = agent.status.as_ref();
        table.add_row([
            agent.id.to_string(),
            state.to_owned(),
            status.map(|s| name(&s.engine)).unwrap_or_default(),
            format!("{} of {}", free.count(), agent.gpus.len()),
            agent.occupied.instances.to_string(),
            printable(
                &status.map(|s| s.reasons.join(", ")).unwrap_or_default(),
                200,
            ),
        ]);
    }
    table
}

fn instances_table(instances: &[InstanceRow]) -> Table {
    let mut table = table(&[
        "INSTANCE", "AGENT", "PHASE", "IMAGE", "GPUS", "ADDRESS", "NOTE",
    ]);
    for row in instances {
        let record = row.record.as_ref();
        // What has ended is reached nowhere; somebody else may have its ports by now.
        let live = record.filter(|record| record.phase != Phase::Ended);
        let ports = live.map(|r| r.ports.as_slice()).unwrap_or_default();
        let ports = ports
            .iter()
            .map(|p| format!("{} {}", p.name, address(&p.address, p.host)));
        table.add_row([
            row.id.to_string(),
            row.agent.to_string(),
            phase(row),
            printable(
                record.and_then(|r| r.image.as_deref()).unwrap_or_default(),
                80,
            ),
            record.map_or(0, |r| r.gpus.len()).to_string(),
            printable(&ports.collect::<Vec<_>>().join("\n"), 2000),
            note(row),
        ]);
    }
    table
}

fn phase(row: &InstanceRow) -> String {
    match (&row.record, &row.refused) {
        (Some(record), _) => name(&record.phase),
        (None, Some(_)) => "rejected".to_owned(),
        (None, None) => "waiting".to_owned(),
    }
}

/// What is odd about an instance, or how it ended.
fn note(row: &InstanceRow) -> String {
    let mut notes = Vec::new();
    if row.unadopted {
        notes.push("unadopted".to_owned());
    }
    if let (None, Some(error)) = (&row.record, &row.refused) {
        notes.push(name(&error.code));
    }
    if let Some(record) = &row.record {
        if let Some(ended) = &record.ended {
            let code = ended.exit_code.map(|code| format!(", exit code {code}"));
            notes.push(format!(
                "{}{}",
                name(&ended.reason),
                code.unwrap_or_default()
            ));
        }
        let conditions = record.conditions.iter().filter(|c| c.status);
        notes.extend(conditions.map(|c| printable(&c.kind, 40)));
    }
    notes.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::{Error, ErrorCode};

    fn row(unadopted: bool, record: serde_json::Value) -> InstanceRow {
        let row = json!({
            "id": "r1", "agent": "dev", "unadopted": unadopted, "ended_here": false,
            "record": record,
        });
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn a_row_shows_where_a_rental_is_reached() {
        let record = json!({
            "id": "r1", "phase": "ready", "image": "nginx", "timeline": {},
            "ports": [{"name": "web", "container": 80, "host": 30000, "protocol": "tcp", "address": "192.0.2.7"}],
        });
        let text = instances_table(&[row(false, record)]).to_string();
        assert!(text.contains("web 192.0.2.7:30000"), "{text}");
        assert!(text.contains("ready"), "{text}");
    }

    #[test]
    fn what_has_ended_has_no_address() {
        let record = json!({
            "id": "r1", "phase": "ended", "timeline": {}, "ended": {"reason": "terminated"},
            "ports": [{"name": "web", "container": 80, "host": 30000, "protocol": "tcp", "address": "192.0.2.7"}],
        });
        let text = instances_table(&[row(false, record)]).to_string();
        assert!(text.contains("terminated"), "{text}");
        assert!(!text.contains("30000"), "{text}");
    }

    #[test]
    fn what_is_odd_is_noted() {
        let ended = json!({
            "id": "r1", "phase": "ended", "timeline": {},
            "ended": {"reason": "exited", "exit_code": 3},
        });
        assert_eq!(note(&row(false, ended)), "exited, exit code 3");
        let live = json!({"id": "r1", "phase": "ready", "timeline": {}});
        assert_eq!(note(&row(true, live)), "unadopted");
        let mut silent = row(false, serde_json::Value::Null);
        assert_eq!(phase(&silent), "waiting");
        silent.refused = Some(Error::new(ErrorCode::Draining, "no"));
        assert_eq!(
            (phase(&silent), note(&silent)),
            ("rejected".into(), "draining".into())
        );
    }
}

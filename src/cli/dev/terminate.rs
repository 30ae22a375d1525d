//! `dev terminate`: ends a rental and waits until it is gone.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};

use super::{
    ServerArg,
    deploy::{name, why},
};
use crate::{
    dev::{
        client::Client,
        operator::{Event, Request},
    },
    ids::{AgentId, InstanceId},
    protocol::{Instance, Outcome, Reply},
};

#[derive(Debug, Args)]
pub(super) struct TerminateArgs {
    #[command(flatten)]
    server: ServerArg,
    /// Which rental.
    #[arg(value_name = "ID")]
    id: InstanceId,
    /// Its agent, where the server knows several.
    #[arg(long)]
    agent: Option<AgentId>,
    /// Print one JSON object at the end, and nothing else.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(args: TerminateArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Terminate {
        agent: args.agent,
        instance_id: args.id.clone(),
    };
    let mut client = Client::ask(&args.server.server, &request).await?;
    let (mut settled, mut record) = (None, None);
    while let Some(event) = client.next().await? {
        match event {
            Event::Refused { message } => anyhow::bail!("the server refuses: {message}"),
            Event::Link { connected: false } if !args.json => {
                writeln!(
                    io::stdout(),
                    "the agent is not connected; this waits for it"
                )?;
            }
            Event::Record { instance } => record = Some(instance),
            Event::Reply { reply, .. } if reply.outcome.is_final() => settled = Some(reply),
            Event::Reply { .. }
            | Event::Link { .. }
            | Event::Sent { .. }
            | Event::Progress { .. }
            | Event::List { .. } => {}
        }
    }
    let reply: Reply = settled.context("the server ended before the terminate was settled")?;
    let done = reply.outcome == Outcome::Done;
    if args.json {
        let answer = json!({
            "instance_id": args.id, "outcome": reply.outcome, "error": reply.error,
            "result": reply.result, "instance": record,
        });
        writeln!(io::stdout(), "{answer}")?;
    } else if done {
        let how = how(&reply, record.as_deref());
        writeln!(io::stdout(), "{}: {how}", args.id)?;
    } else {
        writeln!(io::stderr(), "{}: {}", args.id, why(&reply))?;
    }
    Ok(match done {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn how(reply: &Reply, record: Option<&Instance>) -> String {
    let result = reply.result.as_ref();
    if result.and_then(|result| result.get("known")) == Some(&Value::Bool(false)) {
        return "the agent did not know this id, and takes no deploy under it any more".to_owned();
    }
    let reason = record.and_then(|r| r.ended.as_ref());
    reason.map_or_else(|| "gone".to_owned(), |ended| name(&ended.reason))
}

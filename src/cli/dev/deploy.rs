//! `dev deploy`: builds the spec, follows the deploy, says how to reach the rental.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::{
    ServerArg,
    progress::{Progress, Screen},
};
use crate::{
    dev::{
        client::Client,
        operator::{Event, Request},
    },
    ids::{AgentId, CommandId, InstanceId},
    protocol::{Instance, Outcome, Reply, text::printable},
};

#[derive(Debug, Args)]
pub(super) struct DeployArgs {
    #[command(flatten)]
    server: ServerArg,
    /// Image to run, by its full reference.
    #[arg(long, short)]
    image: String,
    /// Number of GPUs.
    #[arg(long, value_name = "N")]
    gpus: Option<u32>,
    /// CPU cores, also parts of one.
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// Memory, like 512m or 2g (binary units).
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Port to publish: NAME:PORT, or NAME:PORT/udp. May be given several times.
    #[arg(long = "port", value_name = "NAME:PORT", value_parser = port)]
    ports: Vec<Port>,
    /// Environment variable. May be given several times.
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// When to ask the registry for the image.
    #[arg(long, value_name = "WHEN")]
    pull: Option<Pull>,
    /// Instance id; unset: a random one. An id is used once, ever.
    #[arg(long)]
    id: Option<InstanceId>,
    /// Agent to deploy to, where the server knows several.
    #[arg(long)]
    agent: Option<AgentId>,
    /// Print one JSON object at the end, and nothing else.
    #[arg(long)]
    pub(super) json: bool,
    /// Command to run instead of the image's own.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone)]
struct Port {
    name: String,
    container: u16,
    protocol: &'static str,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Pull {
    Missing,
    Always,
    Never,
}

/// How a deploy went.
#[derive(Debug, Default)]
struct Story {
    agent: Option<AgentId>,
    command_id: Option<CommandId>,
    instance: Option<Box<Instance>>,
    reply: Option<Reply>,
    counted: bool,
}

pub(super) async fn run(args: DeployArgs) -> anyhow::Result<ExitCode> {
    let id = match &args.id {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let request = Request::Deploy {
        agent: args.agent.clone(),
        spec: spec(&args, &id),
    };
    let mut client = Client::ask(&args.server.server, &request).await?;
    let stdout = io::stdout();
    let screen = match (args.json, stdout.is_terminal()) {
        (true, _) => Screen::Silent,
        (false, true) => Screen::Terminal,
        (false, false) => Screen::Lines,
    };
    let mut progress = Progress::new(stdout.lock(), screen);
    progress.line(&format!("{id}: {}", printable(&args.image, 512)))?;
    let began = tokio::time::Instant::now();
    let story = follow(&mut client, &mut progress).await?;
    progress.finish()?;
    if args.json && story.reply.is_some() {
        writeln!(io::stdout(), "{}", as_json(&id, &story))?;
    }
    conclude(&id, &story, began.elapsed(), args.json)
}

async fn follow(client: &mut Client, progress: &mut Progress<impl Write>) -> anyhow::Result<Story> {
    let mut story = Story::default();
    while let Some(event) = client.next().await? {
        match event {
            Event::Refused { message } => anyhow::bail!("the server refuses: {message}"),
            Event::Sent { agent, command_id } => {
                story.agent = Some(agent);
                story.command_id = Some(command_id);
            }
            Event::Link { connected: true } => {}
            Event::Link { connected: false } => {
                progress.line("the agent is not connected; this waits for it")?;
            }
            Event::Progress { progress: news } => progress.pull(&news)?,
            Event::Record { instance } => {
                progress.phase(instance.phase)?;
                story.instance = Some(instance);
            }
            Event::Reply { reply, counted } if reply.outcome.is_final() => {
                story.reply = Some(reply);
                story.counted = counted;
            }
            Event::Reply { .. } | Event::List { .. } => {}
        }
    }
    Ok(story)
}

fn conclude(
    id: &InstanceId,
    story: &Story,
    took: Duration,
    silent: bool,
) -> anyhow::Result<ExitCode> {
    let reply = story.reply.as_ref();
    let reply = reply.context("the server ended before the deploy was settled")?;
    if reply.outcome == Outcome::Done {
        if !silent {
            let mut out = io::stdout();
            writeln!(out, "{id} is ready after {:.1} s", took.as_secs_f64())?;
            for line in story.instance.as_deref().map(reach).unwrap_or_default() {
                writeln!(out, "  {line}")?;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    if silent {
        return Ok(ExitCode::FAILURE); // The JSON has said why.
    }
    let mut err = io::stderr();
    writeln!(err, "{id} failed: {}", why(reply))?;
    let ended = story.instance.as_ref().and_then(|i| i.ended.as_ref());
    if let Some(tail) = ended.and_then(|ended| ended.log_tail.as_deref()) {
        writeln!(err, "the last it wrote:")?;
        for line in printable(tail, 8192).lines() {
            writeln!(err, "  {line}")?;
        }
    }
    Ok(ExitCode::FAILURE)
}

/// The error of a reply in one line: code, stage, words, retry class.
pub(super) fn why(reply: &Reply) -> String {
    let Some(error) = &reply.error else {
        return format!("{} without a reason", name(&reply.outcome));
    };
    let stage = error.stage.map(|stage| format!(" at {}", name(&stage)));
    format!(
        "{}{}: {} (retry: {})",
        name(&error.code),
        stage.unwrap_or_default(),
        printable(&error.message, 1000),
        name(&error.retry)
    )
}

/// A value's name on the wire.
pub(super) fn name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => name,
        Ok(_) | Err(_) => String::new(),
    }
}

/// One line for each port: its name, where it is, and what it leads to.
pub(super) fn reach(instance: &Instance) -> Vec<String> {
    let line = |port: &crate::protocol::record::PublishedPort| {
        format!(
            "{} {} -> {}/{}",
            printable(&port.name, 63),
            address(&port.address, port.host),
            port.container,
            name(&port.protocol)
        )
    };
    instance.ports.iter().map(line).collect()
}

/// `host:port`, with brackets where the host is an IPv6 address.
pub(super) fn address(host: &str, port: u16) -> String {
    let host = printable(host, 255);
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn as_json(id: &InstanceId, story: &Story) -> Value {
    let reply = story.reply.as_ref();
    json!({
        "instance_id": id,
        "agent": story.agent,
        "command_id": story.command_id,
        "outcome": reply.map(|reply| reply.outcome),
        "error": reply.and_then(|reply| reply.error.clone()),
        "counted_by_server": story.counted,
        "instance": story.instance,
    })
}

fn random_id() -> anyhow::Result<InstanceId> {
    let random = uuid::Uuid::new_v4().simple().to_string();
    let id = format!("dev-{}", random.get(..8).unwrap_or(&random));
    id.parse().context("an instance id")
}

/// Only what was asked for: the agent's defaults stay its own.
fn spec(args: &DeployArgs, id: &InstanceId) -> Value {
    let mut spec = Map::new();
    let mut set = |key: &str, value: Value| {
        spec.insert(key.to_owned(), value);
    };
    set("instance_id", json!(id));
    set("image", json!(args.image));
    if let Some(count) = args.gpus.filter(|count| *count > 0) {
        set("gpus", json!({ "count": count }));
    }
    if let Some(cpus) = args.cpus {
        set("cpus", json!(cpus));
    }
    if let Some(memory) = args.memory {
        set("memory_bytes", json!(memory));
    }
    if !args.ports.is_empty() {
        let port =
            |p: &Port| json!({"name": p.name, "container": p.container, "protocol": p.protocol});
        set("ports", args.ports.iter().map(port).collect());
    }
    if !args.env.is_empty() {
        let env = args.env.iter().cloned();
        set(
            "env",
            Value::Object(env.map(|(k, v)| (k, json!(v))).collect()),
        );
    }
    if let Some(pull) = args.pull {
        let when = match pull {
            Pull::Missing => "missing",
            Pull::Always => "always",
            Pull::Never => "never",
        };
        set("pull", json!(when));
    }
    if !args.command.is_empty() {
        set("command", json!(args.command));
    }
    Value::Object(spec)
}

fn size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match lower.get(number.len()..).unwrap_or_default() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        other => return Err(format!("`{other}` is no unit; k, m, g and t are")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a whole number and a unit, like 512m or 2g".to_owned())?;
    number
        .checked_mul(factor)
        .ok_or_else(|| "more than any machine has".to_owned())
}

fn port(text: &str) -> Result<Port, String> {
    let expected = || "expected NAME:PORT or NAME:PORT/udp, like web:80".to_owned();
    let (name, rest) = text.split_once(':').ok_or_else(expected)?;
    let (number, protocol) = match rest.split_once('/') {
        None => (rest, "tcp"),
        Some((number, "tcp")) => (number, "tcp"),
        Some((number, "udp")) => (number, "udp"),
        Some(_) => return Err(expected()),
    };
    Ok(Port {
        name: name.to_owned(),
        container: number.parse().map_err(|_| expected())?,
        protocol,
    })
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "expected KEY=VALUE".to_owned())?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::protocol::{Error, ErrorCode, Stage, record::PublishedPort};

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        deploy: DeployArgs,
    }

    fn spec_of(args: &[&str]) -> Value {
        let line = ["deploy"].iter().chain(args);
        let args = Cli::parse_from(line).deploy;
        spec(&args, &"r1".parse().unwrap())
    }

    #[test]
    fn the_spec_holds_what_was_asked_for_and_nothing_else() {
        assert_eq!(
            spec_of(&["--image", "busybox"]),
            json!({"instance_id": "r1", "image": "busybox"})
        );
        let all = spec_of(&[
            "--image",
            "a:5000/b",
            "--gpus",
            "2",
            "--cpus",
            "1.5",
            "--memory",
            "2g",
            "--port",
            "web:80",
            "--port",
            "dns:53/udp",
            "--env",
            "A=b=c",
            "--pull",
            "always",
            "--",
            "sleep",
            "1",
        ]);
        assert_eq!(
            all,
            json!({
                "instance_id": "r1", "image": "a:5000/b", "gpus": {"count": 2}, "cpus": 1.5,
                "memory_bytes": 2_147_483_648_u64, "env": {"A": "b=c"}, "pull": "always",
                "ports": [
                    {"name": "web", "container": 80, "protocol": "tcp"},
                    {"name": "dns", "container": 53, "protocol": "udp"},
                ],
                "command": ["sleep", "1"],
            })
        );
    }

    #[test]
    fn sizes_have_binary_units() {
        assert_eq!(size("512m"), Ok(512 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert_eq!(size("1024"), Ok(1024));
        for wrong in ["", "g", "2x", "1.5g", "-1", "99999999999999g"] {
            assert!(size(wrong).is_err(), "{wrong:?} was taken");
        }
    }

    #[test]
    fn an_error_is_one_line_with_code_stage_words_and_retry() {
        let error = Error::new(ErrorCode::ImageNotFound, "no such\u{1b}[2Jimage").at(Stage::Pull);
        let reply = Reply {
            command_id: "c".parse().unwrap(),
            outcome: Outcome::Failed,
            error: Some(error),
            result: None,
        };
        let line = why(&reply);
        assert_eq!(
            line,
            "image_not_found at pull: no such\\u{1b}[2Jimage (retry: never)"
        );
    }

    #[test]
    fn each_port_is_shown_as_address_and_port() {
        let port = |name: &str, address: &str| PublishedPort {
            name: name.into(),
            container: 80,
            host: 30000,
            protocol: crate::protocol::record::PortProtocol::Tcp,
            address: address.into(),
        };
        let record = json!({"id": "r1", "phase": "ready", "timeline": {}});
        let mut instance: Instance = serde_json::from_value(record).unwrap();
        instance.ports = vec![port("web", "192.0.2.1"), port("six", "2001:db8::1")];
        assert_eq!(
            reach(&instance),
            [
                "web 192.0.2.1:30000 -> 80/tcp",
                "six [2001:db8::1]:30000 -> 80/tcp"
            ]
        );
    }
}

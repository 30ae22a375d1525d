//! `rental-agent ps`, `terminate`, `drain`, `resume`, `gpu`: what the owner of the machine asks the agent that
//! runs on it, by its control socket.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::UnixStream, time::timeout};

use super::{complain, print, run::runtime};
use crate::{
    config::{self, Overrides},
    ids::{ContainerId, GpuUuid, InstanceId},
    protocol::{Instance, text::printable},
};

/// For an answer that costs the agent nothing.
const SOON: Duration = Duration::from_secs(10);
/// A rental has at most 10 minutes between TERM and KILL.
const TERMINATED: Duration = Duration::from_secs(20 * 60);
/// Thousands of records fit.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// How the agent is found, and how its answer is printed.
#[derive(Debug, Args)]
pub struct Common {
    /// The agent's control socket; unset: that of the configuration.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

/// Of `terminate`.
#[derive(Debug, Args)]
pub struct TerminateArgs {
    /// The rental's id, or its container's.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    common: Common,
}

/// What is asked.
#[derive(Debug)]
pub enum Question {
    /// The rentals.
    Ps(Common),
    /// The end of one.
    Terminate(TerminateArgs),
    /// No more deploys.
    Drain(Common),
    /// Deploys again.
    Resume(Common),
    /// A GPU out of the offer, or back.
    Gpu(GpuQuestion),
}

/// What is asked of a GPU.
#[derive(Debug)]
pub struct GpuQuestion {
    uuid: GpuUuid,
    verb: &'static str,
    reason: Option<String>,
    common: Common,
}

impl Question {
    /// A GPU out of the offer.
    pub fn quarantine(uuid: GpuUuid, reason: Option<String>, common: Common) -> Self {
        Self::Gpu(GpuQuestion {
            uuid,
            verb: "quarantine",
            reason,
            common,
        })
    }

    /// And back.
    pub fn release(uuid: GpuUuid, common: Common) -> Self {
        Self::Gpu(GpuQuestion {
            uuid,
            verb: "release",
            reason: None,
            common,
        })
    }
}

/// Asks, and prints the answer.
pub fn run(question: &Question, overrides: &Overrides, env: BTreeMap<String, String>) -> ExitCode {
    let (Question::Ps(common)
    | Question::Drain(common)
    | Question::Resume(common)
    | Question::Gpu(GpuQuestion { common, .. })
    | Question::Terminate(TerminateArgs { common, .. })) = question;
    let socket = match socket(common, overrides, env) {
        Ok(socket) => socket,
        Err(error) => return complain(&format!("{error:#}"), ExitCode::FAILURE),
    };
    let asked = runtime().and_then(|runtime| runtime.block_on(answer(question, &socket)));
    match asked {
        Ok(answer) if common.json => print(&format!("{answer:#}")),
        Ok(answer) => print(&in_words(question, &answer)),
        Err(error) => complain(&format!("{error:#}"), ExitCode::FAILURE),
    }
}

/// The socket that is named, else the one that the agent's configuration names.
fn socket(
    common: &Common,
    overrides: &Overrides,
    env: BTreeMap<String, String>,
) -> anyhow::Result<PathBuf> {
    if let Some(socket) = &common.socket {
        return Ok(socket.clone());
    }
    let config = config::load(overrides, env);
    let config = config.context("name the agent's socket with --socket, or its configuration")?;
    let socket = config.control.socket;
    socket.context("control.socket is off: this agent has no local control")
}

async fn answer(question: &Question, socket: &Path) -> anyhow::Result<Value> {
    match question {
        Question::Ps(_) => ask(socket, Method::GET, "/instances", None, SOON).await,
        Question::Drain(_) => ask(socket, Method::POST, "/drain", None, SOON).await,
        Question::Resume(_) => ask(socket, Method::POST, "/resume", None, SOON).await,
        Question::Gpu(asked) => {
            let path = format!("/gpus/{}/{}", asked.uuid, asked.verb);
            let body = asked.reason.as_ref().map(|why| json!({ "reason": why }));
            let body = body.unwrap_or_else(|| json!({}));
            ask(socket, Method::POST, &path, Some(&body), SOON).await
        }
        Question::Terminate(TerminateArgs { id, .. }) => {
            let path = format!("/instances/{id}");
            let known = ask(socket, Method::GET, &path, None, SOON);
            // A container's id may be a rental's too: the rental that there is counts.
            let body = match (id.parse::<InstanceId>(), id.parse::<ContainerId>()) {
                (Ok(_), Ok(_)) if known.await.is_err() => json!({ "container_id": id }),
                (Ok(_), _) => json!({ "instance_id": id }),
                (Err(_), Ok(_)) => json!({ "container_id": id }),
                (Err(error), Err(_)) => return Err(error.into()),
            };
            let path = "/terminate_instance";
            ask(socket, Method::POST, path, Some(&body), TERMINATED).await
        }
    }
}

/// One request on a connection of its own.
async fn ask(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
    limit: Duration,
) -> anyhow::Result<Value> {
    let asked = timeout(limit, exchange(socket, method, path, body)).await;
    let (status, bytes) = asked.context("the agent does not answer in time")??;
    let answer: Value = serde_json::from_slice(&bytes).context("the agent's answer is no JSON")?;
    if !status.is_success() {
        let detail = answer.get("detail").and_then(Value::as_str);
        bail!("{}", printable(detail.unwrap_or("it was refused"), 1000));
    }
    Ok(answer)
}

async fn exchange(
    socket: &Path,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<(hyper::StatusCode, Bytes)> {
    let why = || format!("no agent can be reached at {}", socket.display());
    let stream = UnixStream::connect(socket).await.with_context(why)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "agent")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let answered = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let bytes = body.collect().await.map_err(anyhow::Error::from_boxed)?;
        anyhow::Ok((status, bytes.to_bytes()))
    };
    tokio::pin!(answered);
    tokio::select! {
        // The answer first: the connection ends with it.
        biased;
        answered = &mut answered => answered,
        ended = connection => {
            ended?;
            answered.await
        }
    }
}

fn in_words(question: &Question, answer: &Value) -> String {
    match question {
        Question::Ps(_) => table(answer),
        Question::Terminate(_) if answer.get("known") == Some(&Value::Bool(true)) => {
            "terminated".to_owned()
        }
        Question::Terminate(_) => "there was none; it will not be started either".to_owned(),
        Question::Drain(_) => "draining: new deploys are refused, rentals go on".to_owned(),
        Question::Resume(_) => "taking deploys".to_owned(),
        Question::Gpu(asked) if asked.verb == "quarantine" => {
            format!("{} is quarantined; who has it keeps it", asked.uuid)
        }
        Question::Gpu(asked) if answer.get("was_quarantined") == Some(&Value::Bool(true)) => {
            format!("{} is released; it is offered when it is clean", asked.uuid)
        }
        Question::Gpu(asked) => format!("{} was not quarantined", asked.uuid),
    }
}

fn table(answer: &Value) -> String {
    let instances = answer.get("instances").cloned().unwrap_or_default();
    let instances: Vec<Instance> = serde_json::from_value(instances).unwrap_or_default();
    if instances.is_empty() {
        return "no rentals".to_owned();
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["ID", "PHASE", "IMAGE", "GPUS", "CONTAINER", "SINCE"]);
    for one in instances {
        let phase = serde_json::to_value(one.phase).unwrap_or_default();
        let gpus: Vec<&str> = one.gpus.iter().map(|gpu| gpu.as_str()).collect();
        let container = one.container_id.as_ref().map(ContainerId::as_str);
        let since = one.timeline.accepted_at.map(|at| at.to_string());
        table.add_row([
            one.id.to_string(),
            phase.as_str().unwrap_or_default().to_owned(),
            printable(&one.image.unwrap_or_default(), 60),
            gpus.join(","),
            container
                .and_then(|id| id.get(..12))
                .unwrap_or("-")
                .to_owned(),
            since.unwrap_or_default(),
        ]);
    }
    table.to_string()
}

//! `rental-agent dev`: the reference server with an agent joined to it, and the commands that an
//! operator gives to that server. It wires and prints; what a server does is in `crate::dev`.

mod agent;
mod deploy;
mod progress;
mod ps;
mod terminate;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, bail};
use clap::{Arg, Args, Command, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::{EXIT_CONFIG, complain, configured, logging, print, run};
use crate::{
    config::{ConfigError, Log, Overrides},
    dev::{Options, Server, Signer},
    ids::AgentId,
    protocol::text::chain,
};

/// The agent's id when the reference server starts it.
const AGENT_ID: &str = "dev";
/// The reference server asks for no token, and an agent cannot be without one.
const AGENT_TOKEN: &str = "dev";

/// Settings that the reference server's agent gets on top of the environment, by the names of
/// environment variables.
type Settings = Vec<(&'static str, String)>;

/// Start a reference server for development and tests, with an agent joined to it; or tell one that
/// runs what to do.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Where the reference server listens; loopback only.
    #[arg(long, default_value = "127.0.0.1:7070", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Start the server alone, for an agent that is started by hand.
    #[arg(long)]
    no_agent: bool,
    /// Sign all commands with this key (Ed25519, PKCS#8 in PEM), as agents with
    /// policy.require_signed_commands want it.
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
    /// Start the agent as a process of its own, and again whenever it dies. Its configuration comes
    /// from the environment and the file, not from flags given here.
    #[arg(long, conflicts_with = "no_agent")]
    agent_process: bool,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Start a rental and wait until it is ready.
    Deploy(deploy::DeployArgs),
    /// List agents and rentals.
    Ps(ps::PsArgs),
    /// End a rental and wait until it is gone.
    Terminate(terminate::TerminateArgs),
}

impl DevArgs {
    /// Whether this is about a server that runs already: then there is no agent to configure.
    pub fn is_for_a_client(&self) -> bool {
        self.command.is_some()
    }

    /// Whether the answer is to be JSON and nothing else.
    fn wants_json(&self) -> bool {
        match &self.command {
            Some(DevCommand::Deploy(args)) => args.json,
            Some(DevCommand::Ps(args)) => args.json,
            Some(DevCommand::Terminate(args)) => args.json,
            None => false,
        }
    }
}

/// The whole command line, with the flags that configure an agent left out of the help of the client
/// commands. They are still parsed there, so that the error can say what is meant.
pub(super) fn without_the_agents_flags(program: Command) -> Command {
    let flags = program.get_arguments().filter(|flag| flag.is_global_set());
    let hidden: Vec<Arg> = flags
        .map(|flag| flag.clone().global(false).hide(true))
        .collect();
    let hide = |client: Command| client.args(hidden.iter().cloned());
    program.mut_subcommand("dev", |dev| {
        ["deploy", "ps", "terminate"]
            .into_iter()
            .fold(dev, |dev, name| dev.mut_subcommand(name, hide))
    })
}

/// Where the client commands find the server.
#[derive(Debug, Args)]
struct ServerArg {
    /// The reference server.
    #[arg(long, default_value = "ws://127.0.0.1:7070", value_name = "URL")]
    server: String,
}

/// Runs the subcommand.
pub fn run(args: DevArgs, overrides: &Overrides, env: BTreeMap<String, String>) -> ExitCode {
    let agent = |settings| run_agent(overrides, env, settings);
    let json = args.wants_json();
    let ended = run::runtime().and_then(|runtime| {
        let ended = runtime.block_on(execute(args, agent));
        runtime.shutdown_timeout(run::BLOCKING_GRACE);
        ended
    });
    match ended {
        Ok(code) => code,
        Err(error) if reader_is_gone(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<ConfigError>() => {
            complain(&error.to_string(), ExitCode::from(EXIT_CONFIG))
        }
        Err(error) => {
            let words = chain(&*error);
            if json {
                print(&serde_json::json!({ "failure": words }).to_string());
                return ExitCode::FAILURE;
            }
            complain(&words, ExitCode::FAILURE)
        }
    }
}

/// `start_agent` runs an agent in this process, with these settings on top of the environment, until
/// it has drained after a signal.
async fn execute<S, F>(args: DevArgs, start_agent: S) -> anyhow::Result<ExitCode>
where
    S: FnOnce(Settings) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    match args.command {
        Some(DevCommand::Deploy(args)) => deploy::run(args).await,
        Some(DevCommand::Ps(args)) => ps::run(args).await,
        Some(DevCommand::Terminate(args)) => terminate::run(args).await,
        None => serve(args.serve, start_agent).await,
    }
}

async fn run_agent(
    overrides: &Overrides,
    mut env: BTreeMap<String, String>,
    settings: Settings,
) -> anyhow::Result<()> {
    env.extend(
        settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value)),
    );
    let config = configured(overrides, env)?;
    let _flush = logging::init(&config.log)?;
    run::until_told_to_stop(config).await
}

/// Somebody took what they wanted of the output (`| head`); that is no failure.
fn reader_is_gone(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

async fn serve<S, F>(args: ServeArgs, start_agent: S) -> anyhow::Result<ExitCode>
where
    S: FnOnce(Settings) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    if !args.listen.ip().is_loopback() {
        bail!(
            "the reference server listens on loopback only, not on {}",
            args.listen
        );
    }
    let agent_id: AgentId = AGENT_ID.parse().context("the agent's id")?;
    let mut options = Options::new(agent_id);
    options.listen = args.listen;
    options.frames_kept = 0; // Only tests read them.
    if let Some(path) = &args.sign_with {
        let signer = Signer::read(path).with_context(|| path.display().to_string())?;
        options.signer = Some(Arc::new(signer));
    }
    let server = Server::bind(options)
        .await
        .with_context(|| format!("listening on {}", args.listen))?;
    let settings = vec![
        ("AGENT_ID", AGENT_ID.to_owned()),
        ("API_SERVER_URL", server.url()),
        ("AGENT_TOKEN", AGENT_TOKEN.to_owned()),
    ];
    greet(&mut io::stdout(), &args, &server)?;
    if !args.no_agent && !args.agent_process {
        // The agent decides how both of them log.
        start_agent(settings).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let filter = "info".to_owned();
    let _flush = logging::init(&Log {
        filter,
        json: false,
    })?;
    if args.agent_process {
        agent::keep_running(&settings, stop_signal()).await?;
    } else {
        stop_signal().await?;
    }
    Ok(ExitCode::SUCCESS)
}

fn greet(out: &mut impl Write, args: &ServeArgs, server: &Server) -> io::Result<()> {
    let (addr, url) = (server.addr(), server.url());
    let program = "rental-agent";
    writeln!(
        out,
        "Reference server on {addr}. It is for development and tests: its state is in"
    )?;
    writeln!(
        out,
        "memory only, and whoever has an account here may deploy through it."
    )?;
    if args.no_agent {
        writeln!(out, "No agent was started. Start one with")?;
        writeln!(
            out,
            "  AGENT_ID={AGENT_ID} API_SERVER_URL={url} AGENT_TOKEN={AGENT_TOKEN} {program} run"
        )?;
    }
    let at = if args.listen.port() == 7070 {
        String::new()
    } else {
        format!(" --server {url}")
    };
    writeln!(out, "Then, in another terminal:")?;
    writeln!(
        out,
        "  {program} dev deploy{at} --image nginx:alpine --port web:80"
    )?;
    writeln!(out, "  {program} dev ps{at}")?;
    writeln!(out, "  {program} dev terminate{at} ID")?;
    out.flush()
}

/// SIGINT or SIGTERM.
async fn stop_signal() -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        dev: DevArgs,
    }

    async fn never(_: Settings) -> anyhow::Result<()> {
        bail!("not to be started")
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[tokio::test]
    async fn the_server_listens_on_loopback_only() {
        let cli = Cli::parse_from(["dev", "--listen", "0.0.0.0:0"]);
        let error = execute(cli.dev, never).await.unwrap_err();
        assert!(error.to_string().contains("loopback only"), "{error}");
    }

    #[tokio::test]
    async fn a_client_without_a_server_says_how_to_get_one() {
        let cli = Cli::parse_from(["dev", "ps", "--server", "ws://127.0.0.1:1"]);
        let error = execute(cli.dev, never).await.unwrap_err();
        assert!(error.to_string().contains("rental-agent dev"), "{error}");
    }

    #[tokio::test]
    async fn the_agent_gets_the_servers_address() {
        let cli = Cli::parse_from(["dev", "--listen", "127.0.0.1:0"]);
        let started = |settings: Settings| async move {
            let url = settings.iter().find(|(name, _)| *name == "API_SERVER_URL");
            let (_, url) = url.context("no address")?;
            anyhow::ensure!(url.starts_with("ws://127.0.0.1:"), "{url}");
            Ok(())
        };
        execute(cli.dev, started).await.unwrap();
    }
}

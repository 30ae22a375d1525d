//! The command line: what can be said, and what is answered. Each subcommand is a module whose `run`
//! ends in an exit code. Only here may the program print.

pub mod check;
pub mod config;
pub mod control;
pub mod dev;
pub mod gpu;
pub mod healthcheck;
pub mod inventory;
pub mod logging;
pub mod run;
pub mod schema;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    api,
    config::{Config, ConfigError, Flag, Overrides},
};

/// Exit code of a configuration that cannot be used: EX_CONFIG of sysexits(3). A service manager
/// need not try again.
pub const EXIT_CONFIG: u8 = 78;

const AFTER_HELP: &str = "\
Examples:
  AGENT_ID=gpu-host-1 API_SERVER_URL=wss://rentals.example.com \\
    AGENT_TOKEN_FILE=/etc/rental-agent/token rental-agent
  rental-agent check                  is everything in place?
  rental-agent --config ./test.toml --log-level debug

Configuration, each stronger than the one before:
  defaults
  the file             --config (YAML by its ending, else TOML); without it config.toml or
                       config.yaml in /etc/rental-agent when one is there
  .env                 in the working folder, when it is there: the variables below
  the environment      AGENT_ID, API_SERVER_URL, AGENT_TOKEN, AGENT_TOKEN_FILE, DOCKER_HOST, and
                       RENTAL_AGENT__SECTION__KEY for every key (lists and tables as JSON);
                       an empty variable is an unset one; HTTPS_PROXY, HTTP_PROXY and NO_PROXY
  flags
  What is in force, and where it was read: `rental-agent config show`.
  All keys with their defaults: `rental-agent schema config`, docs/config.example.toml.

Exit codes:
  0    ended as it was told to; `check`: everything is in place
  1    failed; `check`: something is not in place; `healthcheck`: the agent is not well;
       `inventory`: a driver does not answer as it should
  2    the command line cannot be understood
  78   the configuration cannot be used; every fault is on standard error";

/// Runs on a machine whose GPUs are rented out: dials the platform's central server, starts
/// rentals in Docker as it is told, reports every step, and survives its own death.
///
/// Without a command it runs the agent.
#[derive(Debug, Parser)]
#[command(name = "rental-agent", version, verbatim_doc_comment, after_long_help = AFTER_HELP)]
#[command(after_help = "More, with examples and exit codes: rental-agent --help")]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the agent (the default).
    Run,
    /// Say whether the configuration is right and engine and server can be reached.
    Check(check::CheckArgs),
    /// List the GPUs of this machine, asking their drivers.
    Inventory(inventory::InventoryArgs),
    /// List the rentals of the agent that runs on this machine.
    Ps(control::Common),
    /// End a rental on this machine, and wait until it is gone.
    Terminate(control::TerminateArgs),
    /// Refuse new deploys on this machine; rentals go on.
    Drain(control::Common),
    /// Take deploys again.
    Resume(control::Common),
    /// Keep a GPU of this machine out of the offer, or give it back.
    Gpu(gpu::GpuArgs),
    /// Wipe the one GPU that this process sees; the agent starts it.
    #[command(hide = true)]
    GpuWipe,
    /// Show what the configuration is.
    Config(config::ConfigArgs),
    /// Say whether the agent that runs here is well (exit code 0 or 1).
    Healthcheck,
    /// Print the JSON Schemas of the protocol and of the configuration.
    Schema(schema::SchemaArgs),
    /// Try it: a reference server with an agent joined to it, and commands to give to it.
    Dev(Box<dev::DevArgs>),
}

/// What every command takes. A flag is stronger than the environment and the file.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Configuration")]
pub struct Options {
    /// Read this file (TOML; YAML when it ends in .yaml or .yml) instead of the one in
    /// /etc/rental-agent.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any key, like resources.max_instances=8; lists and tables as JSON; not for secrets.
    #[arg(long, short, global = true, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// This host's name at the central server.
    #[arg(long, global = true, value_name = "ID", help_heading = "Server")]
    agent_id: Option<String>,
    /// The central server, like wss://rentals.example.com.
    #[arg(long, global = true, value_name = "URL", help_heading = "Server")]
    server_url: Option<String>,
    /// A file that holds the bearer token.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Server")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust beside the system's.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Server")]
    ca_file: Option<PathBuf>,
    /// Dial without TLS also when the server is on another host.
    #[arg(long, global = true, help_heading = "Server")]
    allow_plaintext: bool,
    /// The engine's socket, like unix:///var/run/docker.sock.
    #[arg(long, global = true, value_name = "URL", help_heading = "Host")]
    docker_host: Option<String>,
    /// error, warn, info, debug, trace, or TARGET=LEVEL with commas between.
    #[arg(long, global = true, value_name = "FILTER", help_heading = "Logging")]
    log_level: Option<String>,
    /// text or json.
    #[arg(long, global = true, value_name = "FORMAT", help_heading = "Logging")]
    log_format: Option<String>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("write KEY=VALUE, like log.format=json")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl Cli {
    /// The command line of this process. What cannot be understood ends it with exit code 2.
    pub fn read() -> Self {
        let mut command = dev::without_the_agents_flags(Self::command());
        let matches = command.get_matches_mut();
        let cli = match Self::from_arg_matches(&matches) {
            Ok(cli) => cli,
            Err(error) => error.format(&mut command).exit(),
        };
        if let Some(Command::Dev(args)) = &cli.command
            && args.is_for_a_client()
            && let Some(flag) = cli.options.first_given()
        {
            let words = format!(
                "{flag} is for an agent; this command gives orders to a reference server, which \
                 --server names"
            );
            command.error(ErrorKind::ArgumentConflict, words).exit();
        }
        cli
    }
}

impl Options {
    /// The name of a flag that was given, if any was.
    fn first_given(&self) -> Option<String> {
        let given = self.clone().overrides();
        let file = given.file.map(|_| "--config".to_owned());
        file.or_else(|| given.settings.into_iter().next().map(|flag| flag.name))
    }

    /// The flags as settings of keys.
    pub fn overrides(self) -> Overrides {
        // A path on the command line is meant from where the command is given.
        let path = |path: PathBuf| {
            let absolute = std::path::absolute(&path).unwrap_or(path);
            absolute.to_string_lossy().into_owned()
        };
        let flags = [
            ("--agent-id", "agent.id", self.agent_id),
            ("--server-url", "server.url", self.server_url),
            (
                "--token-file",
                "server.token_file",
                self.token_file.map(path),
            ),
            ("--ca-file", "server.ca_file", self.ca_file.map(path)),
            (
                "--allow-plaintext",
                "server.allow_plaintext",
                self.allow_plaintext.then(|| "true".to_owned()),
            ),
            ("--docker-host", "docker.host", self.docker_host),
            ("--log-level", "log.filter", self.log_level),
            ("--log-format", "log.format", self.log_format),
        ];
        let set = self.set.into_iter().map(|(key, value)| Flag {
            name: "--set".into(),
            key,
            value,
        });
        let named = flags.into_iter().filter_map(|(name, key, value)| {
            Some(Flag {
                name: name.into(),
                key: key.into(),
                value: value?,
            })
        });
        Overrides {
            file: self.config,
            env_file: Some(std::path::absolute(".env").unwrap_or_else(|_| ".env".into())),
            settings: set.chain(named).collect(),
        }
    }
}

/// The configuration, of which also what its files hold can be used.
fn configured(overrides: &Overrides, env: BTreeMap<String, String>) -> Result<Config, ConfigError> {
    let config = crate::config::load(overrides, env)?;
    let faults = api::unusable(&config.http);
    match faults.is_empty() {
        true => Ok(config),
        false => Err(ConfigError(faults)),
    }
}

/// A process that dies leaves no copy of its memory, and with it of tenants' secrets, on the disk;
/// nor do the processes that it starts.
pub fn keep_no_core_files() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering a limit is always allowed.
    let _ = setrlimit(Resource::Core, none);
}

/// Prints to standard output. A reader that has gone away (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => complain(&format!("cannot print: {error}"), ExitCode::FAILURE),
    }
}

/// Says on standard error what is wrong, and gives the exit code back.
fn complain(text: &str, code: ExitCode) -> ExitCode {
    // Where standard error is closed too, the exit code has to do.
    let _ = writeln!(io::stderr().lock(), "rental-agent: {text}");
    code
}

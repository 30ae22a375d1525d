//! `rental-agent check`: is everything in place to run the agent here? Changes nothing on the host.
//! It dials the server as this agent and hangs up before `hello`.

mod probe;

use std::{collections::BTreeMap, fmt, future::Future, process::ExitCode, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::timeout;

use super::{complain, configured, print, run::runtime};
use crate::config::{Config, ConfigError, Fault, Overrides};

/// A little more than the session gives a dial, so that its own words about a timeout are heard.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

/// Of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

/// All findings.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Finding>,
}

/// What was found of one part.
#[derive(Debug, PartialEq, Serialize)]
struct Finding {
    name: &'static str,
    status: Status,
    message: String,
    /// Of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    faults: Vec<Fault>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Failed,
    /// It cannot be looked at before something else is right.
    Skipped,
}

/// Checks, prints what was found, ends with 0 when all is well and with 1 when not.
pub fn run(args: &CheckArgs, overrides: &Overrides, env: BTreeMap<String, String>) -> ExitCode {
    let report = match configured(overrides, env) {
        Err(error) => without_config(error),
        Ok(config) => match runtime() {
            Ok(runtime) => {
                let engine = probe::engine(&config);
                let server = probe::server(&config);
                runtime.block_on(with_config(&config, PROBE_LIMIT, engine, server))
            }
            Err(error) => return complain(&format!("{error:#}"), ExitCode::FAILURE),
        },
    };
    let text = match args.json {
        // Strings and lists only, which can always be written.
        true => serde_json::to_string_pretty(&report).unwrap_or_default(),
        false => report.to_string(),
    };
    match (print(&text), report.ok) {
        (printed, true) => printed,
        (_, false) => ExitCode::FAILURE,
    }
}

fn without_config(ConfigError(faults): ConfigError) -> Report {
    let message = match faults.len() {
        1 => "1 fault".to_owned(),
        n => format!("{n} faults"),
    };
    let skipped = |name| Finding {
        name,
        status: Status::Skipped,
        message: "the configuration has to be right first".into(),
        faults: Vec::new(),
    };
    let configuration = Finding {
        name: "configuration",
        status: Status::Failed,
        message,
        faults,
    };
    Report {
        ok: false,
        checks: vec![configuration, skipped("engine"), skipped("server")],
    }
}

/// Both are asked at once: together they take no longer than the slower one.
async fn with_config(
    config: &Config,
    limit: Duration,
    engine: impl Future<Output = Result<String, String>>,
    server: impl Future<Output = Result<String, String>>,
) -> Report {
    let configuration = Finding {
        name: "configuration",
        status: Status::Ok,
        message: format!("agent {}, server {}", config.agent.id, config.server.url),
        faults: Vec::new(),
    };
    let (engine, server) = tokio::join!(
        asked("engine", limit, engine),
        asked("server", limit, server)
    );
    let checks = vec![configuration, engine, server];
    Report {
        ok: checks.iter().all(|finding| finding.status == Status::Ok),
        checks,
    }
}

async fn asked(
    name: &'static str,
    limit: Duration,
    probe: impl Future<Output = Result<String, String>>,
) -> Finding {
    let (status, message) = match timeout(limit, probe).await {
        Ok(Ok(message)) => (Status::Ok, message),
        Ok(Err(message)) => (Status::Failed, message),
        Err(_) => {
            let message = format!("no answer within {} s", limit.as_secs());
            (Status::Failed, message)
        }
    };
    Finding {
        name,
        status,
        message,
        faults: Vec::new(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.checks {
            let status = match finding.status {
                Status::Ok => "ok",
                Status::Failed => "FAILED",
                Status::Skipped => "skipped",
            };
            writeln!(f, "{status:<8} {:<14} {}", finding.name, finding.message)?;
            for fault in &finding.faults {
                writeln!(f, "\n  {fault}")?;
            }
            if !finding.faults.is_empty() {
                writeln!(f)?;
            }
        }
        let verdict = match self.ok {
            true => "Everything is in place.",
            false => "Not everything is in place.",
        };
        write!(f, "{verdict}")
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;
    use crate::config;

    fn config() -> Config {
        let set = [
            ("AGENT_ID", "a"),
            ("API_SERVER_URL", "ws://localhost:1"),
            ("AGENT_TOKEN", "t"),
        ];
        let empty = Overrides {
            file: Some("/dev/null".into()),
            ..Overrides::default()
        };
        let env = set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        config::load(&empty, env.into()).unwrap()
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_reached_fails_the_whole() {
        let engine = ready(Ok("docker 1".to_owned()));
        let server = ready(Err("refused".to_owned()));
        let report = with_config(&config(), PROBE_LIMIT, engine, server).await;
        let statuses: Vec<_> = report.checks.iter().map(|check| check.status).collect();
        assert_eq!(statuses, [Status::Ok, Status::Ok, Status::Failed]);
        assert!(!report.ok);
        let text = report.to_string();
        assert!(text.contains("FAILED   server         refused"), "{text}");
    }

    #[tokio::test]
    async fn a_probe_that_hangs_is_given_up() {
        let server = ready(Ok(String::new()));
        let report = with_config(&config(), Duration::ZERO, pending(), server).await;
        let statuses: Vec<_> = report.checks.iter().map(|check| check.status).collect();
        assert_eq!(statuses, [Status::Ok, Status::Failed, Status::Ok]);
    }

    #[test]
    fn faults_of_the_configuration_are_in_the_report() {
        let nothing = Overrides {
            file: Some("/dev/null".into()),
            ..Overrides::default()
        };
        let error = config::load(&nothing, BTreeMap::new()).unwrap_err();
        let report = without_config(error);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"][0]["faults"][0]["key"], "agent.id");
        assert_eq!(json["checks"][1]["status"], "skipped");
    }
}

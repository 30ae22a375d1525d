//! `rental-agent healthcheck`: is the agent well that runs here? For the image's HEALTHCHECK and for
//! whoever else wants to know. It reads no configuration, so that it works wherever the agent does.

use std::{collections::BTreeMap, process::ExitCode};

use super::{complain, print};
use crate::{agent::pulse, config::Overrides};

/// Asks the agent that `--agent-id` or AGENT_ID names, else every one in this network namespace.
pub fn run(overrides: &Overrides, env: &BTreeMap<String, String>) -> ExitCode {
    let flags = overrides.settings.iter().rev();
    let flag = flags
        .filter(|flag| flag.key == "agent.id")
        .map(|flag| &flag.value);
    let agent = flag.chain(env.get("AGENT_ID")).find(|id| !id.is_empty());
    match pulse::ask(agent.map(String::as_str)) {
        Ok(agents) => {
            let agents: Vec<_> = agents.into_iter().collect();
            print(&format!("{}: well", agents.join(", ")))
        }
        Err(error) => complain(&error.to_string(), ExitCode::FAILURE),
    }
}

//! Whether the agent is well, asked from outside: it answers on the socket that is its lock, and
//! says how long ago its driver last had a turn. No port, no configuration and no rights are needed,
//! so that the image's health check works whatever else is switched off.
//!
//! Whoever is in the same network namespace may ask; there is nothing to be learnt but this.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    os::unix::net::UnixStream,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::{io::AsyncWriteExt, net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::lock::PREFIX;
use crate::{clock, protocol::text::printable};

/// The driver has a turn every 5 s at the latest.
const STUCK: Duration = Duration::from_secs(15);
/// An answer takes a moment; a machine that is very busy gets some more.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// An accept that fails for want of file handles would fail again at once.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// More than an answer has.
const MAX_ANSWER: u64 = 256;

const WELL: &str = "well";

/// Answers everybody who asks, one after the other, until cancelled. `turned` is the boot-time clock
/// at the driver's last turn.
pub(super) async fn answer(
    socket: UnixListener,
    turned: watch::Receiver<Duration>,
    token: CancellationToken,
) -> anyhow::Result<()> {
    let answers = async {
        loop {
            match socket.accept().await {
                Ok((mut stream, _)) => {
                    let since = clock::now().boot.saturating_sub(*turned.borrow());
                    let answer = verdict(since);
                    // Who does not wait for the answer does not need it.
                    let write = stream.write_all(answer.as_bytes());
                    let _ = tokio::time::timeout(ANSWER_WITHIN, write).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "a question for the agent's health was not heard");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            }
        }
    };
    token.run_until_cancelled(answers).await;
    Ok(())
}

fn verdict(since_last_turn: Duration) -> String {
    if since_last_turn < STUCK {
        return WELL.to_owned();
    }
    let seconds = since_last_turn.as_secs();
    format!("the driver has not had a turn for {seconds} s")
}

/// Why an agent is not well.
#[derive(Debug, thiserror::Error)]
pub enum Unwell {
    /// None runs here.
    #[error("no agent runs in this network namespace")]
    Nobody,
    /// It cannot be told which ones run here.
    #[error("/proc/net/unix: {0}")]
    Unlisted(#[source] io::Error),
    /// It does not answer.
    #[error("agent {agent} does not answer: {error}")]
    Silent {
        /// Its id.
        agent: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// It says so itself.
    #[error("agent {agent}: {answer}")]
    Says {
        /// Its id.
        agent: String,
        /// What it says.
        answer: String,
    },
}

/// Asks the agent of that id, or else every one that runs in this network namespace, and gives the
/// ids of those that are well. Blocks, for some seconds at most.
///
/// # Errors
/// When one is not well, or none is there.
pub fn ask(agent: Option<&str>) -> Result<BTreeSet<String>, Unwell> {
    let agents = match agent {
        Some(agent) => BTreeSet::from([agent.to_owned()]),
        None => listening(&fs::read_to_string("/proc/net/unix").map_err(Unwell::Unlisted)?),
    };
    if agents.is_empty() {
        return Err(Unwell::Nobody);
    }
    for agent in &agents {
        let answer = ask_one(agent).map_err(|error| Unwell::Silent {
            agent: agent.clone(),
            error,
        })?;
        if answer != WELL {
            return Err(Unwell::Says {
                agent: agent.clone(),
                answer: printable(&answer, 200),
            });
        }
    }
    Ok(agents)
}

fn ask_one(agent: &str) -> io::Result<String> {
    let address = SocketAddrUnix::new_abstract_name(format!("{PREFIX}{agent}").as_bytes())?;
    // Where nobody accepts any more a blocking connect would wait for ever.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &address)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The agents whose locks are in this list of the kernel's.
fn listening(table: &str) -> BTreeSet<String> {
    // Num RefCount Protocol Flags Type St Inode Path; this flag is that of a listening socket.
    const LISTENS: &str = "00010000";
    let agents = table.lines().filter_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let name = columns.get(7)?.strip_prefix('@')?.strip_prefix(PREFIX)?;
        (columns.get(3) == Some(&LISTENS)).then(|| name.to_owned())
    });
    agents.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::lock, ids::AgentId};

    /// What comes of asking an agent whose driver had its last turn so long ago.
    async fn asked(name: &str, ago: Duration) -> Result<BTreeSet<String>, Unwell> {
        let agent: AgentId = format!("{name}-{}", std::process::id()).parse().unwrap();
        let token = CancellationToken::new();
        let lock = lock::acquire(&agent, &token).await.unwrap().unwrap();
        let (_turns, turned) = watch::channel(clock::now().boot.saturating_sub(ago));
        let answering = answer(lock.listener().unwrap(), turned, token.clone());
        let asking = tokio::task::spawn_blocking(move || ask(Some(agent.as_str())));
        let asking = async {
            let answer = asking.await.unwrap();
            token.cancel();
            answer
        };
        tokio::join!(answering, asking).1
    }

    #[tokio::test]
    async fn an_agent_whose_driver_turns_is_well() {
        let well = asked("pulse-well", Duration::ZERO).await.unwrap();
        assert_eq!(well.len(), 1);
    }

    #[tokio::test]
    async fn an_agent_whose_driver_does_not_turn_is_not_well() {
        let error = asked("pulse-stuck", STUCK).await.unwrap_err();
        assert!(error.to_string().contains("has not had a turn"), "{error}");
    }

    #[test]
    fn an_agent_that_is_not_there_is_not_well() {
        let error = ask(Some("pulse-nobody")).unwrap_err();
        assert!(matches!(error, Unwell::Silent { .. }), "{error}");
    }

    #[test]
    fn an_agent_that_hangs_is_given_up() {
        let name = format!("pulse-hangs-{}", std::process::id());
        let address = SocketAddrUnix::new_abstract_name(format!("{PREFIX}{name}").as_bytes());
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &address.unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        // The first one waits for its answer, the others find no room to wait in.
        for _ in 0..3 {
            let error = ask(Some(&name)).unwrap_err();
            assert!(matches!(error, Unwell::Silent { .. }), "{error}");
        }
    }

    #[test]
    fn agents_are_found_by_the_sockets_that_listen() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 17123 @rental-agent/gpu-host-1
0000000000000000: 00000003 00000000 00000000 0001 03 17124 @rental-agent/gpu-host-1
0000000000000000: 00000003 00000000 00000000 0001 03 17125 @rental-agent/gone
0000000000000000: 00000002 00000000 00010000 0001 01 17126 /run/docker.sock
0000000000000000: 00000002 00000000 00010000 0001 01 17127
";
        assert_eq!(listening(table), BTreeSet::from(["gpu-host-1".to_owned()]));
    }
}

//! Two agents of one id on one host would both obey the server. The one that holds the lock works;
//! the other one waits and says why.
//!
//! The lock is an abstract unix socket named by the agent's id: the kernel frees it with the
//! process, whatever ends that, so nothing is ever left behind. It reaches as far as the network
//! namespace; across those, the engine's own names make a deploy happen once.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use crate::ids::AgentId;

/// What the sockets' names begin with; the agent's id follows.
pub(super) const PREFIX: &str = "rental-agent/";

/// The waiting agent tries again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Held as long as this lives.
#[derive(Debug)]
pub(super) struct Lock {
    socket: UnixListener,
}

impl Lock {
    /// The same socket, to be asked on. The lock is held as long as either lives.
    pub(super) fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        let socket = self.socket.try_clone()?;
        socket.set_nonblocking(true)?;
        tokio::net::UnixListener::from_std(socket)
    }
}

/// Waits for the lock; `None` when cancelled first.
pub(super) async fn acquire(
    agent: &AgentId,
    token: &CancellationToken,
) -> io::Result<Option<Lock>> {
    let address = SocketAddr::from_abstract_name(format!("{PREFIX}{agent}"))?;
    let mut told = false;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(socket) => return Ok(Some(Lock { socket })),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if !told {
                    tracing::warn!(agent_id = %agent,
                        "another agent of this id runs on this host; waiting until it ends");
                    told = true;
                }
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = token.cancelled() => return Ok(None),
            () = tokio::time::sleep(TRY_AGAIN) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_agent_of_an_id_works_at_a_time() {
        let agent: AgentId = format!("lock-{}", std::process::id()).parse().unwrap();
        let token = CancellationToken::new();
        let first = acquire(&agent, &token).await.unwrap().unwrap();
        let waiting = acquire(&agent, &token);
        tokio::pin!(waiting);
        let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
        assert!(early.is_err(), "two hold the lock");
        drop(first);
        assert!(waiting.await.unwrap().is_some());
    }
}

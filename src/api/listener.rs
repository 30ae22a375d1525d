//! Connections: accepted one by one up to a limit, each served by a task of its own that has a
//! deadline for whatever its client may leave undone.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::{
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use ipnet::IpNet;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    Limits, control,
    patience::Patient,
    peer::{Neighbours, Peer, TurnedAway, is_allowed},
    tls::Certificate,
    ws::Slot,
};
use crate::clock;

/// After a failed accept (no file descriptors left) the next one is tried after so long.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// At the end answers that are under way have so long.
const GOODBYE: Duration = Duration::from_secs(1);

/// Where connections come from.
pub(super) enum Listener {
    Tcp {
        socket: TcpListener,
        allowed: Option<Vec<IpNet>>,
        neighbours: Neighbours,
        certificate: Option<Arc<Certificate>>,
        strangers: TurnedAway,
        rentals: TurnedAway,
    },
    Unix(UnixListener),
}

/// A connection that has not been spoken on.
enum Accepted {
    Tcp(TcpStream, Option<Arc<Certificate>>),
    Unix(tokio::net::UnixStream),
}

impl Listener {
    pub(super) fn tcp(
        socket: TcpListener,
        allowed: Option<Vec<IpNet>>,
        neighbours: Neighbours,
        certificate: Option<Arc<Certificate>>,
    ) -> Self {
        Self::Tcp {
            socket,
            allowed,
            neighbours,
            certificate,
            strangers: TurnedAway::default(),
            rentals: TurnedAway::default(),
        }
    }

    pub(super) fn unix(socket: UnixListener) -> Self {
        Self::Unix(socket)
    }

    /// Serves until cancelled.
    pub(super) async fn run(
        mut self,
        router: Router,
        limits: &Arc<Limits>,
        token: &CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(limits.connections));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let next = async {
                // Only who may ask takes a place. One waits for it here, the others in the kernel's
                // queue, where they cost nothing.
                let accepted = self.accept().await?;
                let place = Arc::clone(&places).acquire_owned().await;
                Ok((place.map_err(io::Error::other)?, accepted))
            };
            let Some(next) = token.run_until_cancelled(next).await else {
                break;
            };
            let (place, (accepted, peer)) = match next {
                Ok(next) => next,
                Err(error) => {
                    let error: io::Error = error;
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let (router, limits) = (router.clone(), Arc::clone(limits));
            let token = token.clone();
            connections.spawn(async move {
                let _place = place;
                accepted.serve(peer, router, &limits, &token).await;
            });
        }
        let end = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(GOODBYE, end).await;
    }

    /// The next connection of somebody who may have one; others are closed without a word.
    async fn accept(&mut self) -> io::Result<(Accepted, Peer)> {
        loop {
            if let Some(accepted) = self.accept_any().await? {
                return Ok(accepted);
            }
        }
    }

    /// The next connection, if it is of somebody who may have one.
    async fn accept_any(&mut self) -> io::Result<Option<(Accepted, Peer)>> {
        match self {
            Self::Tcp {
                socket,
                allowed,
                neighbours,
                certificate,
                strangers,
                rentals,
            } => {
                let (stream, address) = socket.accept().await?;
                let address: IpAddr = address.ip();
                if !is_allowed(allowed.as_deref(), address) {
                    if let Some(times) = strangers.one_more(clock::now().boot) {
                        tracing::info!(%address, times,
                            "turned away: http.allowed_ips does not have the address");
                    }
                    return Ok(None);
                }
                if neighbours.has(address) {
                    if let Some(times) = rentals.one_more(clock::now().boot) {
                        tracing::warn!(%address, times, "a rental has tried to reach the agent");
                    }
                    return Ok(None);
                }
                let accepted = Accepted::Tcp(stream, certificate.clone());
                Ok(Some((accepted, Peer::Network)))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.accept().await?;
                let owner = control::is_owner(&stream);
                Ok(owner.then_some((Accepted::Unix(stream), Peer::Owner)))
            }
        }
    }
}

impl Accepted {
    async fn serve(self, peer: Peer, router: Router, limits: &Limits, token: &CancellationToken) {
        match self {
            Self::Unix(stream) => converse(stream, peer, router, limits, token).await,
            Self::Tcp(stream, None) => {
                let _ = stream.set_nodelay(true);
                converse(stream, peer, router, limits, token).await;
            }
            Self::Tcp(stream, Some(certificate)) => {
                let _ = stream.set_nodelay(true);
                let handshake = certificate.acceptor().accept(stream);
                match timeout(limits.send, handshake).await {
                    Ok(Ok(stream)) => converse(stream, peer, router, limits, token).await,
                    Ok(Err(error)) => tracing::debug!(%error, "a client's TLS handshake"),
                    Err(_) => tracing::debug!("a client's TLS handshake took too long"),
                }
            }
        }
    }
}

/// Requests and their answers, and the WebSocket that one of them may become.
async fn converse<S>(
    stream: S,
    peer: Peer,
    router: Router,
    limits: &Limits,
    token: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let slot = Slot::default();
    let place = slot.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(place.clone());
        TowerToHyperService::new(router.clone()).call(request)
    });
    let io = TokioIo::new(Patient::new(stream, limits.stuck_write));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.send)
        .max_header_size(limits.head_bytes)
        .max_buf_size(limits.head_bytes.max(8192) * 2)
        .serve_connection(io, service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        ended = &mut connection => ended,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a client's connection");
    }
    if let Some(watching) = slot.take() {
        watching.run(limits, token).await;
    }
}

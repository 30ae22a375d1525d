//! From a configuration to an open WebSocket: token, DNS, TCP, TLS, upgrade, within one time limit
//! over all of them, and an error that says which of them it was. Nothing is followed: a redirect is
//! an error.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use rustls::ClientConfig;
use secrecy::{ExposeSecret, SecretString};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, client_async_with_config,
    tungstenite::{
        client::IntoClientRequest,
        handshake::client::{Request, Response},
        http::{HeaderValue, header},
        protocol::WebSocketConfig,
    },
};
use url::{Host, Url};

mod error;
mod proxy;
mod race;

pub use error::{DialError, Stage};
pub use proxy::ProxyError;

use super::{
    bearer::bearer,
    limits::Limits,
    tap::Tap,
    tls::{self, TrustError},
};
use crate::{
    blocking::{Aside, Asked},
    config::{Server, Token, TokenError},
    ids::AgentId,
    protocol::{MAX_MESSAGE_BYTES, SUBPROTOCOL},
};

/// An open link to the central server.
pub type Socket = WebSocketStream<Tap<MaybeTlsStream<TcpStream>>>;

/// More addresses of one name than this are not tried.
const MAX_ADDRESSES: usize = 16;

/// Whose token is shown to whom.
type Asking = (Token, AgentId, Url);

/// Dials, as often as it is told to. Files are read on threads of its own: on a file system that hangs
/// that is one thread for the token and one for the certificates, however many dials are made.
#[derive(Debug, Default)]
pub struct Dialler {
    tokens: Reader<Asking, Result<SecretString, TokenError>>,
    trust: Reader<Option<PathBuf>, Result<Arc<ClientConfig>, TrustError>>,
}

impl Dialler {
    /// Dials the server as `agent`. The token and `ca_file` are read each time.
    ///
    /// # Errors
    /// Names the step that failed; none of them holds the token.
    pub async fn dial(
        &mut self,
        server: &Server,
        agent: &AgentId,
        limits: &Limits,
    ) -> Result<Socket, DialError> {
        let mut stage = Stage::Token;
        match timeout(limits.dial, steps(self, server, agent, limits, &mut stage)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout {
                stage,
                limit: limits.dial,
            }),
        }
    }
}

/// One dial, see [`Dialler::dial`].
///
/// # Errors
/// Names the step that failed; none of them holds the token.
pub async fn dial(server: &Server, agent: &AgentId, limits: &Limits) -> Result<Socket, DialError> {
    Dialler::default().dial(server, agent, limits).await
}

async fn steps(
    dialler: &mut Dialler,
    server: &Server,
    agent: &AgentId,
    limits: &Limits,
    stage: &mut Stage,
) -> Result<Socket, DialError> {
    let url = session_url(&server.url, agent)?;
    let token = match &server.token {
        Token::Static(_) => server.token.read(),
        Token::File(_) | Token::Jwt(_) => {
            let show = |(token, agent, url): Asking| bearer(&token, &agent, &url);
            let asked = (server.token.clone(), agent.clone(), url.clone());
            dialler.tokens.ask("token", show, asked, limits).await?
        }
    };
    let request = request(&url, &token.map_err(DialError::Token)?)?;

    let tcp = match &server.proxy {
        Some(proxy) => {
            *stage = Stage::Proxy;
            proxy::tunnel(proxy, &url, limits).await?
        }
        None => {
            *stage = Stage::Dns;
            let no_host = || DialError::Url(url.clone());
            let host = url.host().ok_or_else(no_host)?.to_owned();
            let port = url.port_or_known_default().ok_or_else(no_host)?;
            let addresses = resolve(&host, port).await?;
            *stage = Stage::Tcp;
            race::connect(addresses, limits.stagger).await?
        }
    };
    // A command is small and wanted now.
    tcp.set_nodelay(true).map_err(DialError::Socket)?;

    *stage = Stage::Tls;
    let stream = match url.scheme() {
        "wss" => encrypt(dialler, tcp, &url, server, limits).await?,
        _ => MaybeTlsStream::Plain(tcp),
    };

    *stage = Stage::Upgrade;
    let upgraded = client_async_with_config(request, Tap::new(stream), Some(socket_config()));
    let (socket, response) = upgraded.await.map_err(error::of_upgrade)?;
    check(&response)?;
    Ok(socket)
}

/// The library's own defaults are 64 MiB a message and no limit for what waits to be written.
fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES))
        .read_buffer_size(16 * 1024)
        // Every message goes to the socket at once. The buffer holds what the socket has not taken
        // yet: one message of ours and the answers to pings.
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_MESSAGE_BYTES + 64 * 1024)
}

/// The server's URL plus `agents/{id}/session`, with the scheme of a WebSocket.
fn session_url(server: &Url, agent: &AgentId) -> Result<Url, DialError> {
    let invalid = || DialError::Url(server.clone());
    let mut url = server.clone();
    let scheme = match server.scheme() {
        "wss" | "https" => "wss",
        "ws" | "http" => "ws",
        _ => return Err(invalid()),
    };
    url.set_scheme(scheme).map_err(|()| invalid())?;
    url.set_fragment(None);
    url.path_segments_mut()
        .map_err(|()| invalid())?
        .pop_if_empty()
        .extend(["agents", agent.as_str(), "session"]);
    Ok(url)
}

fn request(url: &Url, token: &SecretString) -> Result<Request, DialError> {
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|_| DialError::Url(url.clone()))?;
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        .map_err(|_| DialError::Token(TokenError::Unprintable))?;
    bearer.set_sensitive(true);
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, bearer);
    headers.insert(
        header::SEC_WEBSOCKET_PROTOCOL,
        HeaderValue::from_static(SUBPROTOCOL),
    );
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("rental-agent/", env!("CARGO_PKG_VERSION"))),
    );
    Ok(request)
}

async fn resolve(host: &Host, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    let host = match host {
        Host::Ipv4(address) => return Ok(vec![(*address, port).into()]),
        Host::Ipv6(address) => return Ok(vec![(*address, port).into()]),
        Host::Domain(name) => name,
    };
    let found = tokio::net::lookup_host((host.as_str(), port)).await;
    let found = found.map_err(|source| DialError::Dns {
        host: host.clone(),
        source,
    })?;
    let addresses: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(DialError::NoAddress { host: host.clone() });
    }
    Ok(addresses)
}

async fn encrypt(
    dialler: &mut Dialler,
    tcp: TcpStream,
    url: &Url,
    server: &Server,
    limits: &Limits,
) -> Result<MaybeTlsStream<TcpStream>, DialError> {
    let asked = server.ca_file.clone();
    let trust = &mut dialler.trust;
    let read = trust.ask("certificates", tls::client_config, asked, limits);
    let config = read.await?.map_err(DialError::Trust)?;
    let no_host = || DialError::Url(url.clone());
    let name = match url.host().ok_or_else(no_host)? {
        Host::Domain(name) => name.to_owned().try_into().map_err(|_| no_host())?,
        Host::Ipv4(address) => std::net::IpAddr::from(address).into(),
        Host::Ipv6(address) => std::net::IpAddr::from(address).into(),
    };
    let connector = tokio_rustls::TlsConnector::from(config);
    let stream = connector.connect(name, tcp).await;
    stream.map(MaybeTlsStream::Rustls).map_err(DialError::Tls)
}

/// The library has checked the rest. Extensions were not asked for; one that is used all the same
/// would make every frame unreadable.
fn check(response: &Response) -> Result<(), DialError> {
    if response
        .headers()
        .contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
    {
        return Err(DialError::NotWebSocket(
            "it uses an extension that was not asked for".into(),
        ));
    }
    Ok(())
}

/// Reads files on a thread of its own, which is there from the first question on.
#[derive(Debug)]
struct Reader<Q, A>(Option<Aside<Q, A>>);

impl<Q, A> Default for Reader<Q, A> {
    fn default() -> Self {
        Self(None)
    }
}

impl<Q: Send + 'static, A: Send + 'static> Reader<Q, A> {
    /// The whole dial has a limit of its own, which is the shorter one.
    async fn ask(
        &mut self,
        name: &str,
        read: fn(Q) -> A,
        question: Q,
        limits: &Limits,
    ) -> Result<A, DialError> {
        let aside = match &mut self.0 {
            Some(aside) => aside,
            empty => empty.insert(Aside::start(name, read).map_err(DialError::Thread)?),
        };
        match aside.ask(question, limits.dial).await {
            Asked::Answer(answer) => Ok(answer),
            Asked::Silent => Err(DialError::Silent(limits.dial)),
            Asked::Gone => {
                self.0 = None;
                Err(DialError::Aborted)
            }
        }
    }
}

//! A way to the server through an HTTP proxy: CONNECT, and what it answers. The caller's limit is
//! over all of it.

use std::io;

use secrecy::ExposeSecret;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use url::Url;

use super::{DialError, race, resolve};
use crate::{config::Proxy, protocol::text::printable, session::Limits};

/// An answer whose head is longer is none.
const MAX_HEAD: usize = 16 * 1024;

/// Why the proxy is no way to the server. Never holds its credentials.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// It cannot be reached itself.
    #[error("it cannot be reached")]
    Unreachable(#[source] Box<DialError>),
    /// It answered, and not with success.
    #[error("it answered {status}{}", advice(*.status))]
    Refused {
        /// Of HTTP.
        status: u16,
    },
    /// Something else answers there.
    #[error("whoever answered is no HTTP proxy: {0}")]
    NotProxy(String),
    /// The connection ended before its answer did.
    #[error("the connection broke before it had answered")]
    Broke(#[source] io::Error),
}

fn advice(status: u16) -> &'static str {
    match status {
        407 => ": it does not take the credentials, or wants some",
        403 => ": it does not let the agent reach the server",
        502..=504 => ": it cannot reach the server",
        _ => "",
    }
}

/// A connection to the server that goes through the proxy.
pub(super) async fn tunnel(
    proxy: &Proxy,
    url: &Url,
    limits: &Limits,
) -> Result<TcpStream, DialError> {
    let through = async {
        let unreachable = |error| ProxyError::Unreachable(Box::new(error));
        let addresses = resolve(&proxy.host, proxy.port)
            .await
            .map_err(unreachable)?;
        let tcp = race::connect(addresses, limits.stagger).await;
        let mut stream = tcp.map_err(unreachable)?;
        let request = request(proxy, url);
        let sent = stream.write_all(request.as_bytes()).await;
        sent.map_err(ProxyError::Broke)?;
        let head = head(&mut stream).await?;
        match status(&head) {
            Some(200..=299) => Ok(stream),
            Some(status) => Err(ProxyError::Refused { status }),
            None => Err(ProxyError::NotProxy(said(&head))),
        }
    };
    through.await.map_err(|source| DialError::Proxy {
        proxy: format!("{}:{}", proxy.host, proxy.port),
        source,
    })
}

/// Holds the credentials.
fn request(proxy: &Proxy, url: &Url) -> String {
    // Both are there: the URL has been checked.
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let version = env!("CARGO_PKG_VERSION");
    let authorization = proxy.authorization.as_ref().map(|value| {
        let value = value.expose_secret();
        format!("Proxy-Authorization: {value}\r\n")
    });
    format!(
        "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\
         User-Agent: rental-agent/{version}\r\n{}\r\n",
        authorization.unwrap_or_default()
    )
}

/// Reads the head of the answer and not a byte more: what follows is the server's.
async fn head(stream: &mut TcpStream) -> Result<Vec<u8>, ProxyError> {
    let mut head = Vec::new();
    loop {
        head.push(stream.read_u8().await.map_err(ProxyError::Broke)?);
        if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
            return Ok(head);
        }
        // Nobody who speaks HTTP begins otherwise, and who does not may never end a line.
        let begun = head.iter().zip(b"HTTP/1.").all(|(a, b)| a == b);
        if !begun || head.len() >= MAX_HEAD {
            return Err(ProxyError::NotProxy(said(&head)));
        }
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r' || *byte == b'\n').next()?;
    let rest = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    let (_, rest) = rest.split_once(' ')?;
    let code = rest.split(' ').next()?;
    let status = code.parse().ok()?;
    (code.len() == 3 && status >= 100).then_some(status)
}

fn said(head: &[u8]) -> String {
    format!(
        "it began with {}",
        printable(&String::from_utf8_lossy(head), 40)
    )
}

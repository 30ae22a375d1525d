//! The surfaces on this host: HTTP for schedulers, and local control for the machine's owner.
//!
//! ```text
//!  TCP (TLS) --> allowed? --> router --> token --> scope --> route --+
//!  unix socket --> root or the agent's user? --> router -------------+--> command --> driver
//!                                             snapshot, events <-----------------------+
//! ```
//!
//! They decide nothing about rentals: what they are asked becomes a command that goes the way of the
//! server's, and what they answer is that command's reply. What needs a token is one sub-router with
//! one layer; a route that has no scope in its table is refused to everybody.

mod answer;
mod auth;
mod body;
pub mod control;
mod files;
mod instances;
mod limits;
mod listener;
pub mod openapi;
mod patience;
mod peer;
mod problem;
mod routes;
mod short;
mod start;
mod status;
mod surface;
mod terminate;
mod tls;
mod ws;

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;

use self::{auth::Auth, listener::Listener, peer::Neighbours, surface::Surface, tls::Certificate};
pub use self::{limits::Limits, problem::Problem};
use crate::{
    config::{Config, Control, Fault, Http, HttpKey},
    driver::Inputs,
    ids::AgentId,
    protocol::text::printable,
};

/// Changed files are looked for this often.
const REFRESH: Duration = Duration::from_secs(2);
/// A port that somebody else has is tried again after so long.
const BIND_AGAIN: Duration = Duration::from_secs(5);

/// What the routes share.
#[derive(Clone)]
pub(crate) struct App {
    surface: Surface,
    auth: Arc<Auth>,
    limits: Arc<Limits>,
    watchers: Arc<Semaphore>,
}

/// What is wrong with the keys and the certificate that the configuration names, where only who uses
/// them can tell: that their files are there and may be what they should be has been seen before.
/// Blocks for as long as the file system does.
pub fn unusable(http: &Http) -> Vec<Fault> {
    let fault = |key: &str, path: Option<&Path>, error: anyhow::Error, remedy: &str| Fault {
        key: key.to_owned(),
        value: path.map(|path| printable(&path.to_string_lossy(), 120)),
        source: None,
        reason: printable(&format!("{error:#}"), 500),
        remedy: remedy.to_owned(),
    };
    let key = http.auth.as_ref().and_then(|auth| {
        let (name, path, remedy) = match &auth.key {
            HttpKey::Hs256(path) => (
                "http.auth.hs256_secret_file",
                path,
                "put at least 32 random bytes into it",
            ),
            HttpKey::Public(path) => (
                "http.auth.public_key_file",
                path,
                "name a PEM public key of Ed25519, P-256 or RSA of at least 2048 bits",
            ),
            HttpKey::Jwks(path) => (
                "http.auth.jwks_file",
                path,
                "let it hold public keys of Ed25519, P-256 or RSA of at least 2048 bits, each with \
                 its kid",
            ),
        };
        let error = auth::check_key(&auth.key).err()?;
        Some(fault(name, Some(path), error, remedy))
    });
    let certificate = http.tls.clone().and_then(|tls| {
        let error = Certificate::read(tls).err()?;
        let remedy = "name a certificate chain and its private key, both as PEM";
        Some(fault("http.tls", None, error, remedy))
    });
    key.into_iter().chain(certificate).collect()
}

/// The surfaces, before they run.
pub struct Api {
    app: App,
    http: Http,
    control: Control,
    neighbours: Neighbours,
    certificate: Option<Arc<Certificate>>,
    bound: Option<TcpListener>,
}

impl Api {
    /// Reads keys and certificates. `stop` is when the driver takes nothing more. Blocks for as long
    /// as the file system does.
    ///
    /// # Errors
    /// When a key or a certificate cannot be used.
    pub fn new(
        config: &Config,
        inputs: &Inputs,
        stop: CancellationToken,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let agent: AgentId = config.agent.id.clone();
        let auth = Auth::new(config.http.auth.clone(), agent, limits.remembered_tokens)?;
        let certificate = config.http.tls.clone().map(Certificate::read).transpose()?;
        Ok(Self {
            app: App {
                surface: Surface::new(inputs, stop),
                auth: Arc::new(auth),
                watchers: Arc::new(Semaphore::new(limits.watchers)),
                limits: Arc::new(limits),
            },
            http: config.http.clone(),
            control: config.control.clone(),
            neighbours: Neighbours::new(config.network.subnet),
            certificate: certificate.map(Arc::new),
            bound: None,
        })
    }

    /// Takes the port now, so that a test knows which one it is.
    ///
    /// # Errors
    /// When the port cannot be had, or none is configured.
    pub async fn bind(&mut self) -> io::Result<SocketAddr> {
        let Some(listen) = self.http.listen else {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        };
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        self.bound = Some(listener);
        Ok(address)
    }

    /// Serves until cancelled. A port or a path that cannot be had is a warning: rentals do not
    /// depend on it.
    ///
    /// # Errors
    /// None is known; a task of the agent has this form.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        let Self {
            app,
            http,
            control,
            neighbours,
            certificate,
            bound,
        } = self;
        let router = routes::guarded(app.clone());
        let for_tls = certificate.clone();
        let limits = Arc::clone(&app.limits);
        let tcp = async {
            let Some(socket) = listen(http.listen, bound, &token).await else {
                return token.cancelled().await;
            };
            let listener = Listener::tcp(socket, http.allowed_ips, neighbours, for_tls);
            listener.run(router, &limits, &token).await;
        };
        let unix = async {
            let Some(socket) = control_socket(&control) else {
                return token.cancelled().await;
            };
            let router = routes::open(app.clone());
            Listener::unix(socket).run(router, &limits, &token).await;
        };
        let refresh = token.run_until_cancelled(refresh(&app.auth, certificate.as_ref()));
        tokio::join!(tcp, unix, refresh);
        Ok(())
    }
}

/// Waits for the port for as long as somebody else has it.
async fn listen(
    address: Option<SocketAddr>,
    bound: Option<TcpListener>,
    token: &CancellationToken,
) -> Option<TcpListener> {
    let address = address?;
    let mut bound = bound.map(Ok);
    let mut told = false;
    loop {
        let listener = match bound.take() {
            Some(listener) => listener,
            None => TcpListener::bind(address).await,
        };
        match listener {
            Ok(listener) => {
                tracing::info!(%address, "the HTTP surface listens");
                return Some(listener);
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(%address, %error,
                    "http.listen cannot be had; it is tried again until it can");
            }
            Err(_) => {}
        }
        token
            .run_until_cancelled(tokio::time::sleep(BIND_AGAIN))
            .await?;
    }
}

fn control_socket(control: &Control) -> Option<UnixListener> {
    let path = control.socket.as_ref()?;
    match control::bind(path).context("control.socket") {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(path = %path.display(), error = format!("{error:#}"),
                "there is no local control");
            None
        }
    }
}

/// Reads keys and certificates again when their files have changed.
async fn refresh(auth: &Arc<Auth>, certificate: Option<&Arc<Certificate>>) {
    loop {
        tokio::time::sleep(REFRESH).await;
        let (auth, certificate) = (Arc::clone(auth), certificate.cloned());
        let look = move || {
            auth.refresh();
            certificate.inspect(|certificate| certificate.refresh());
        };
        // A file system that hangs costs one thread: the next look begins when this one has ended.
        if tokio::task::spawn_blocking(look).await.is_err() {
            return;
        }
    }
}

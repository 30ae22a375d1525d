//! A real, small HTTP proxy that knows CONNECT: it tunnels every name to one port of loopback, and
//! keeps the heads of what it was asked.
#![allow(
    clippy::unwrap_used,
    unreachable_pub,
    missing_docs,
    reason = "test support: a proxy that cannot do its part fails the test"
)]

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::peer::read_request;

/// What it does with a request.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// To this port, whatever was asked for; with these credentials only, if any.
    Tunnel {
        port: u16,
        authorization: Option<String>,
    },
    /// Says this and hangs up.
    Say(Vec<u8>),
    /// Says nothing, for ever.
    Hang,
}

/// Runs until it is dropped.
pub struct HttpProxy {
    pub port: u16,
    heads: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl HttpProxy {
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&heads);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, behaviour.clone(), Arc::clone(&kept)));
            }
        });
        Self {
            port,
            heads,
            _tasks: tasks,
        }
    }

    /// The requests so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour, heads: Arc<Mutex<Vec<String>>>) {
    let head = read_request(&mut stream).await;
    heads.lock().unwrap().push(head.clone());
    match behaviour {
        Behaviour::Say(words) => {
            let _ = stream.write_all(&words).await;
        }
        Behaviour::Hang => std::future::pending().await,
        Behaviour::Tunnel {
            port,
            authorization,
        } => {
            let wanted = authorization.map(|value| format!("Proxy-Authorization: {value}\r\n"));
            if wanted.is_some_and(|wanted| !head.contains(&wanted)) {
                let refusal = b"HTTP/1.1 407 Who are you\r\nProxy-Authenticate: Basic\r\n\r\n";
                let _ = stream.write_all(refusal).await;
                return;
            }
            let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
                .await
                .unwrap();
            let answer = b"HTTP/1.1 200 Connection established\r\nX-Proxy: test\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut server).await;
        }
    }
}

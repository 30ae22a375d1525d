//! The dial through an HTTP proxy.

use std::time::Duration;

use rental_agent::{
    config::Proxy,
    session::{DialError, Limits, ProxyError, connect::Stage, dial},
};
use tokio::net::TcpListener;
use url::Host;

use super::{
    rig::{Rig, TOKEN, identity, quick, server},
    tls,
};
use crate::{
    http_proxy::{Behaviour, HttpProxy},
    peer::{Connection, Peer, soon},
};

/// `user:canary-9r0x7` as Basic credentials.
const CREDENTIALS: &str = "Basic dXNlcjpjYW5hcnktOXIweDc=";

fn by(port: u16) -> Proxy {
    Proxy {
        host: Host::parse("127.0.0.1").unwrap(),
        port,
        authorization: Some(CREDENTIALS.into()),
        variable: "HTTPS_PROXY",
    }
}

/// The error of a dial through a proxy at this port.
async fn refused_at(port: u16, limits: Limits) -> DialError {
    let peer = Peer::start().await;
    let mut server = server(&peer);
    server.proxy = Some(by(port));
    let error = soon(dial(&server, &identity().agent_id, &limits))
        .await
        .unwrap_err();
    let said = format!("{error} {error:?}");
    for secret in [TOKEN, "canary", CREDENTIALS.split_once(' ').unwrap().1] {
        assert!(!said.contains(secret), "{said}");
    }
    // Never past the proxy.
    assert!(!peer.dialled_within(Duration::from_millis(50)).await);
    error
}

async fn refused(behaviour: Behaviour) -> DialError {
    let proxy = HttpProxy::start(behaviour).await;
    refused_at(proxy.port, Limits::default()).await
}

#[tokio::test]
async fn a_session_goes_through_the_proxy_which_is_asked_by_the_servers_name() {
    let peer = Peer::start().await;
    let tunnel = Behaviour::Tunnel {
        port: peer.port(),
        authorization: Some(CREDENTIALS.to_owned()),
    };
    let proxy = HttpProxy::start(tunnel).await;
    let port = proxy.port;
    let mut rig = Rig::with(peer, quick(), |server| {
        server.url = "ws://server.invalid:7070/api".parse().unwrap();
        server.proxy = Some(by(port));
    });
    let connection = rig.peer.session().await;
    rig.connected().await;
    assert_eq!(connection.asked.path, "/api/agents/host-7/session");
    assert_eq!(connection.asked.header("proxy-authorization"), "");
    let head = proxy.heads().remove(0);
    assert!(
        head.starts_with("CONNECT server.invalid:7070 HTTP/1.1\r\nHost: server.invalid:7070\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nUser-Agent: rental-agent/"), "{head}");
    assert!(!head.contains(TOKEN), "the proxy has seen the token");
}

#[tokio::test]
async fn tls_is_between_agent_and_server_and_the_proxy_sees_none_of_it() {
    let ours = tls::authority();
    let acceptor = tls::acceptor(&ours, &["server.invalid"], |_| {});
    let ca_file = tls::file(&ours.pem());
    let path = ca_file.path().to_owned();
    let peer = Peer::start().await;
    let tunnel = Behaviour::Tunnel {
        port: peer.port(),
        authorization: None,
    };
    let proxy = HttpProxy::start(tunnel).await;
    let port = proxy.port;
    let mut rig = Rig::with(peer, quick(), |server| {
        server.url = "wss://server.invalid".parse().unwrap();
        server.ca_file = Some(path);
        server.proxy = Some(by(port));
    });
    let stream = soon(acceptor.accept(rig.peer.tcp().await)).await.unwrap();
    let mut connection = Connection::upgrade(stream, Some("rental-agent.v1")).await;
    connection.expect("hello").await;
    connection.send(crate::peer::welcome()).await;
    rig.connected().await;
    assert!(proxy.heads()[0].starts_with("CONNECT server.invalid:443 HTTP/1.1\r\n"));
}

#[tokio::test]
async fn each_answer_that_is_no_way_to_the_server_has_its_own_words() {
    for (status, words) in [
        (407, "credentials"),
        (403, "does not let"),
        (502, "cannot reach the server"),
        (504, "cannot reach the server"),
        (500, "500"),
        (301, "301"),
    ] {
        let answer = format!("HTTP/1.1 {status} No\r\nLocation: http://x/\r\n\r\n");
        match refused(Behaviour::Say(answer.into())).await {
            DialError::Proxy { source, .. } => {
                assert!(matches!(source, ProxyError::Refused { status: s } if s == status));
                assert!(source.to_string().contains(words), "{source}");
            }
            other => panic!("{other:?}"),
        }
    }
    let refusing = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = refusing.local_addr().unwrap().port();
    drop(refusing);
    match refused_at(port, Limits::default()).await {
        DialError::Proxy { source, proxy } => {
            assert!(matches!(source, ProxyError::Unreachable(_)), "{source:?}");
            assert_eq!(proxy, format!("127.0.0.1:{port}"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_answer_of_a_proxy_is_told_apart() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(100_000));
    for garbage in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\0\0\0",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 2 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        &long,
    ] {
        let error = refused(Behaviour::Say(garbage.into())).await;
        let source = match error {
            DialError::Proxy { source, .. } => source,
            other => panic!("{other:?}"),
        };
        assert!(matches!(source, ProxyError::NotProxy(_)), "{source:?}");
    }
    for cut_short in ["", "HTTP/1.1 200 OK\r\nX: y"] {
        let error = refused(Behaviour::Say(cut_short.into())).await;
        let broke = matches!(
            &error,
            DialError::Proxy {
                source: ProxyError::Broke(_),
                ..
            }
        );
        assert!(broke, "{error:?}");
    }
}

#[tokio::test]
async fn a_proxy_that_hangs_is_given_up_within_the_limit_of_the_dial() {
    let proxy = HttpProxy::start(Behaviour::Hang).await;
    let limits = Limits {
        dial: Duration::from_millis(300),
        ..Limits::default()
    };
    let error = refused_at(proxy.port, limits).await;
    let in_time = matches!(
        error,
        DialError::Timeout {
            stage: Stage::Proxy,
            ..
        }
    );
    assert!(in_time, "{error:?}");
}

#[tokio::test]
async fn a_proxy_that_is_of_no_use_is_asked_again_and_not_passed_by() {
    let peer = Peer::start().await;
    let broken = HttpProxy::start(Behaviour::Say(b"HTTP/1.1 502 No\r\n\r\n".to_vec())).await;
    let port = broken.port;
    let mut rig = Rig::with(peer, quick(), |server| server.proxy = Some(by(port)));
    let (reason, _) = rig.down().await;
    assert!(
        reason.contains("proxy") && reason.contains("502"),
        "{reason}"
    );
    soon(async {
        while broken.heads().len() < 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!rig.peer.dialled_within(Duration::from_millis(20)).await);
    rig.stopped().await.unwrap();
}

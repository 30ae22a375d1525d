//! The dial: what is asked for, and every way in which it is not given.

use std::{io::Write, time::Duration};

use rental_agent::{
    config::Token,
    session::{DialError, Dialler, Limits, connect::Stage, dial},
};
use tokio::io::AsyncWriteExt;

use super::rig::{Rig, TOKEN, identity, quick, server};
use crate::peer::{Connection, Peer, soon};

/// The error of one dial to a server that answers its request with `answer`.
async fn refused(answer: &str) -> DialError {
    let peer = Peer::start().await;
    let (server, identity, limits) = (server(&peer), identity(), Limits::default());
    let dialling = dial(&server, &identity.agent_id, &limits);
    let (dialled, _answered) = tokio::join!(soon(dialling), peer.answer(answer));
    let error = dialled.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(TOKEN), "{error:?}");
    error
}

/// Seconds that the session wants to wait after `answer`.
async fn back_after(answer: &str) -> f64 {
    let mut rig = Rig::start(Limits::default()).await;
    let _answered = rig.peer.answer(answer).await;
    rig.down().await.1.as_secs_f64()
}

#[tokio::test]
async fn the_dial_says_who_it_is() {
    let rig = Rig::start(quick()).await;
    let connection = rig.peer.accept().await;
    assert_eq!(connection.asked.path, "/agents/host-7/session");
    assert_eq!(
        connection.asked.header("authorization"),
        format!("Bearer {TOKEN}")
    );
    assert_eq!(
        connection.asked.header("sec-websocket-protocol"),
        "rental-agent.v1"
    );
    assert_eq!(
        connection.asked.header("user-agent"),
        concat!("rental-agent/", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(connection.asked.header("sec-websocket-extensions"), "");
}

#[tokio::test]
async fn the_path_of_the_configured_url_is_kept() {
    for path in ["/api/v1", "/api/v1/"] {
        let peer = Peer::start().await;
        let url = peer.url("http", path);
        let rig = Rig::with(peer, quick(), |server| server.url = url);
        let connection = rig.peer.accept().await;
        assert_eq!(connection.asked.path, "/api/v1/agents/host-7/session");
    }
}

#[tokio::test]
async fn f46_a_token_that_is_refused_is_tried_again_after_fifteen_to_thirty_seconds() {
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let wait = back_after(&format!("HTTP/1.1 {status}\r\n\r\n")).await;
        assert!((15.0..=30.0).contains(&wait), "{status}: {wait}");
    }
}

#[tokio::test]
async fn f46_retry_after_is_obeyed_and_clamped() {
    for (value, least, most) in [
        ("7", 7.0, 8.0),
        ("1e12", 600.0, 600.0),
        ("99999999999999999999", 600.0, 600.0),
        ("-3", 1.0, 2.0),
        ("0", 1.0, 2.0),
        ("Sat, 21 Nov 1998 12:00:30 GMT", 1.0, 2.0),
        ("Sat, 21 Nov 9998 12:00:30 GMT", 600.0, 600.0),
        ("when it suits you", 0.0, 0.5),
    ] {
        for status in ["429 Too Many Requests", "503 Service Unavailable"] {
            let answer = format!("HTTP/1.1 {status}\r\nRetry-After: {value}\r\n\r\n");
            let wait = back_after(&answer).await;
            assert!((least..=most).contains(&wait), "{status}, {value}: {wait}");
        }
    }
}

#[tokio::test]
async fn f46_retry_after_as_a_date_counts_from_the_servers_date() {
    let answer = "HTTP/1.1 429 Too Many Requests\r\n\
                  Date: Sat, 21 Nov 2026 12:00:00 GMT\r\n\
                  Retry-After: Sat, 21 Nov 2026 12:00:45 GMT\r\n\r\n";
    let wait = back_after(answer).await;
    assert!((45.0..=46.0).contains(&wait), "{wait}");
}

#[tokio::test]
async fn f46_other_errors_of_the_server_back_off() {
    for status in [
        "404 Not Found",
        "408 Request Timeout",
        "500 Oops",
        "502 Bad Gateway",
    ] {
        let wait = back_after(&format!("HTTP/1.1 {status}\r\n\r\n")).await;
        assert!((0.0..=0.5).contains(&wait), "{status}: {wait}");
    }
}

#[tokio::test]
async fn a_redirect_is_refused_and_not_followed() {
    let elsewhere = Peer::start().await;
    let location = elsewhere.url("ws", "/agents/host-7/session");
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "307 Temporary Redirect",
    ] {
        let answer = format!("HTTP/1.1 {status}\r\nLocation: {location}\r\n\r\n");
        let error = refused(&answer).await;
        assert!(matches!(error, DialError::Redirect { .. }), "{error:?}");
        assert!(error.to_string().contains(location.as_str()), "{error}");
    }
    assert!(!elsewhere.dialled_within(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn f60_a_captive_portal_is_no_server() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>Log in</html>";
    let error = refused(answer).await;
    assert!(matches!(error, DialError::NotWebSocket(_)), "{error:?}");
    assert!(error.to_string().contains("text/html"), "{error}");
}

#[tokio::test]
async fn f60_what_is_not_http_is_no_server() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 101 Sure\r\n\r\n",
        "\0\0\0\r\n\r\n",
    ] {
        let error = refused(answer).await;
        assert!(matches!(error, DialError::NotWebSocket(_)), "{error:?}");
    }
    let endless = format!("HTTP/1.1 101 Sure\r\nX: {}", "x".repeat(100_000));
    let error = refused(&endless).await;
    assert!(matches!(error, DialError::NotWebSocket(_)), "{error:?}");
}

#[tokio::test]
async fn a_server_that_selects_no_or_another_subprotocol_is_refused() {
    for selected in [None, Some("rental-agent.v2"), Some("chat")] {
        let peer = Peer::start().await;
        let (server, identity, limits) = (server(&peer), identity(), Limits::default());
        let upgrading = async { Connection::upgrade(peer.tcp().await, selected).await };
        let dialling = dial(&server, &identity.agent_id, &limits);
        let (dialled, _connection) = tokio::join!(soon(dialling), upgrading);
        let error = dialled.unwrap_err();
        assert!(matches!(error, DialError::Subprotocol), "{error:?}");
    }
}

#[tokio::test]
async fn a_hang_up_during_the_upgrade_is_told_apart() {
    let peer = Peer::start().await;
    let (server, identity, limits) = (server(&peer), identity(), Limits::default());
    let hanging_up = async { drop(peer.tcp().await) };
    let dialling = dial(&server, &identity.agent_id, &limits);
    let (dialled, ()) = tokio::join!(soon(dialling), hanging_up);
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::Upgrade(_)), "{error:?}");
}

#[tokio::test]
async fn f46_a_server_that_does_not_answer_the_upgrade_is_given_up() {
    let peer = Peer::start().await;
    let limits = Limits {
        dial: Duration::from_millis(200),
        ..Limits::default()
    };
    let (server, identity) = (server(&peer), identity());
    let dialling = dial(&server, &identity.agent_id, &limits);
    let (dialled, _silent) = tokio::join!(soon(dialling), peer.tcp());
    let error = dialled.unwrap_err();
    let during_upgrade = matches!(
        error,
        DialError::Timeout {
            stage: Stage::Upgrade,
            ..
        }
    );
    assert!(during_upgrade, "{error:?}");
}

#[tokio::test]
async fn f49_an_answer_that_trickles_in_is_given_up() {
    let peer = Peer::start().await;
    let limits = Limits {
        dial: Duration::from_millis(300),
        ..Limits::default()
    };
    let (server, identity) = (server(&peer), identity());
    let trickle = async {
        let mut stream = peer.tcp().await;
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        stream.write_all(b"HTTP/1.1 101 Soon\r\nX: ").await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            pace.tick().await;
        }
    };
    let dialling = dial(&server, &identity.agent_id, &limits);
    let dialled = tokio::select! {
        dialled = soon(dialling) => dialled,
        () = trickle => panic!("the agent hung up before its limit"),
    };
    assert!(matches!(dialled.unwrap_err(), DialError::Timeout { .. }));
}

#[tokio::test]
async fn nobody_listening_is_an_error_that_names_the_address() {
    let peer = Peer::start().await;
    let (server, identity) = (server(&peer), identity());
    let port = peer.port().to_string();
    drop(peer);
    let dialled = dial(&server, &identity.agent_id, &Limits::default()).await;
    let error = dialled.unwrap_err();
    assert!(matches!(error, DialError::Tcp { .. }), "{error:?}");
    assert!(error.to_string().contains(&port), "{error}");
}

#[tokio::test]
async fn f58_a_name_that_nobody_knows_is_told_apart() {
    let peer = Peer::start().await;
    let (mut server, identity) = (server(&peer), identity());
    server.url = "wss://no-such-host.invalid".parse().unwrap();
    let limits = Limits {
        dial: Duration::from_secs(5),
        ..Limits::default()
    };
    let error = dial(&server, &identity.agent_id, &limits)
        .await
        .unwrap_err();
    // Where the resolver itself cannot be reached it is silent instead.
    let stage = Stage::Dns;
    let of_the_name = match &error {
        DialError::Dns { host, .. } => host == "no-such-host.invalid",
        DialError::Timeout { stage: at, .. } => *at == stage,
        _ => false,
    };
    assert!(of_the_name, "{error:?}");
}

#[tokio::test]
async fn a_token_file_is_read_at_each_dial() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "first").unwrap();
    let path = file.path().to_owned();
    let rig = Rig::with(Peer::start().await, quick(), |server| {
        server.token = Token::File(path.clone());
    });
    let connection = rig.peer.accept().await;
    assert_eq!(connection.asked.header("authorization"), "Bearer first");
    std::fs::write(&path, "second\n").unwrap();
    drop(connection);
    let connection = rig.peer.accept().await;
    assert_eq!(connection.asked.header("authorization"), "Bearer second");
}

#[tokio::test]
async fn a_file_system_that_hangs_costs_one_thread_however_often_it_is_dialled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    // Opening it blocks until somebody opens the other end.
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    assert!(made.unwrap().success());
    let peer = Peer::start().await;
    let mut server = server(&peer);
    server.token = Token::File(path.clone());
    let (identity, limits) = (
        identity(),
        Limits {
            dial: Duration::from_millis(50),
            ..Limits::default()
        },
    );
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let mut dialler = Dialler::default();
    for _ in 0..5 {
        let error = soon(dialler.dial(&server, &identity.agent_id, &limits)).await;
        let error = error.unwrap_err();
        let timed_out = matches!(error, DialError::Timeout { .. } | DialError::Silent(_));
        assert!(timed_out, "{error:?}");
    }
    assert_eq!(threads(), before + 1);
    // The file system is back; what was asked in the meantime is not asked any more.
    let hung = folder.path().join("hung");
    std::fs::rename(&path, &hung).unwrap();
    std::fs::write(&path, "good").unwrap();
    std::fs::write(&hung, "late").unwrap();
    let limits = Limits::default();
    let dialling = dialler.dial(&server, &identity.agent_id, &limits);
    let (dialled, connection) = tokio::join!(soon(dialling), peer.accept());
    dialled.unwrap();
    assert_eq!(connection.asked.header("authorization"), "Bearer good");
}

#[tokio::test]
async fn without_a_readable_token_nobody_is_dialled_until_there_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let mut rig = Rig::with(Peer::start().await, quick(), |server| {
        server.token = Token::File(path.clone());
    });
    let (reason, _) = rig.down().await;
    assert!(reason.contains("token"), "{reason}");
    std::fs::write(&path, "two\nlines").unwrap();
    assert!(!rig.peer.dialled_within(Duration::from_millis(100)).await);
    std::fs::write(&path, "good").unwrap();
    let connection = rig.peer.accept().await;
    assert_eq!(connection.asked.header("authorization"), "Bearer good");
}

#[tokio::test]
async fn a_shutdown_during_the_dial_ends_at_once() {
    let rig = Rig::start(quick()).await;
    let _silent = rig.peer.tcp().await;
    rig.stopped().await.unwrap();
}

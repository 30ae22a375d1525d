//! What of a session reaches the log.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use rental_agent::{config::Token, driver::FromServer, session::LinkState};
use serde_json::json;
use tracing_subscriber::{filter::LevelFilter, fmt::MakeWriter};

use super::rig::{Rig, TOKEN, quick};
use crate::peer::Peer;

/// A secret that the server sends.
const PASSWORD: &str = "canary-9a55-w0rd";

#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A session with everything in it that is secret, a failed dial before and a lost link after it.
async fn secretive_session() {
    let peer = Peer::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{TOKEN}\n")).unwrap();
    let path = file.path().to_owned();
    let mut rig = Rig::with(peer, quick(), |server| server.token = Token::File(path));
    rig.peer.answer("HTTP/1.1 401 Unauthorized\r\n\r\n").await;
    let mut connection = rig.peer.session().await;
    rig.connected().await;
    let spec = json!({
        "instance_id": "r-1",
        "image": "a",
        "env": {"KEY": PASSWORD},
        "registry_auth": {"username": "u", "password": PASSWORD},
    });
    for spec in [
        spec.clone(),
        json!({"instance_id": 7, "env": {"KEY": PASSWORD}}),
    ] {
        let deploy = json!({"type": "command", "id": "c1", "op": "deploy", "spec": spec});
        connection.send(deploy).await;
        let input = rig.input().await;
        assert!(matches!(
            input,
            FromServer::Command { .. } | FromServer::BadCommand { .. }
        ));
    }
    connection.text(&format!("{{\"type\": {PASSWORD}")).await;
    connection.close(1012).await;
    rig.disconnected().await;
    let _connection = rig.peer.session().await;
    rig.connected().await;
    assert!(matches!(*rig.state.borrow(), LinkState::Connected { .. }));
    rig.stopped().await.unwrap();
}

#[tokio::test]
async fn no_secret_is_in_any_log_line_but_those_that_logging_has_to_keep_out() {
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_ansi(false)
        .with_writer(log.clone())
        .init();
    secretive_session().await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.lines().count() > 100, "the log is not whole");
    assert!(text.contains("connected to the central server"));
    let held_back = |line: &str| {
        let targets = ["tungstenite", "tokio_tungstenite"].map(|name| format!(" TRACE {name}::"));
        targets.iter().any(|target| line.contains(target))
    };
    let of_secrets = |line: &&str| [TOKEN, PASSWORD].iter().any(|secret| line.contains(secret));
    let (known, leaks): (Vec<_>, Vec<_>) = text
        .lines()
        .filter(of_secrets)
        .partition(|line| held_back(line));
    assert_eq!(leaks, Vec::<&str>::new());
    // Without these the test would see nothing, and the list would not be needed.
    assert!(known.iter().any(|line| line.contains(TOKEN)));
    assert!(known.iter().any(|line| line.contains(PASSWORD)));
}

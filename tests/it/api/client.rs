//! A client that writes what the test says, byte by byte if need be, and reads an answer to its end.

use std::collections::BTreeMap;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::peer::soon;

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The code of a problem, which has the one shape that problems have.
    #[track_caller]
    pub(super) fn problem(&self) -> String {
        let kind = self.headers.get("content-type").map(String::as_str);
        assert_eq!(kind, Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{self:?}");
        for name in ["title", "detail", "retry"] {
            assert!(problem[name].is_string(), "{name} in {self:?}");
        }
        problem["code"].as_str().unwrap().to_owned()
    }
}

/// A request as text; `Connection: close` ends its answer.
pub(super) fn request(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        let length = body.len();
        text +=
            &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}");
    } else {
        text += "\r\n";
    }
    text
}

/// Writes a request and reads its answer.
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    soon(answer(&mut stream)).await.expect("no answer")
}

/// Reads to the end; `None` when nothing came at all.
pub(super) async fn answer<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Answer> {
    let mut bytes = Vec::new();
    // A connection that is reset has an end, too.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().unwrap();
    let headers = lines.filter_map(|line| line.split_once(": "));
    Some(Answer {
        status,
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    })
}

//! Clients that are slow, many, or talk too much.

use std::time::Duration;

use rental_agent::api::Limits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::{
    client::{answer, ask, request},
    rig::{Rig, spec},
    tokens::token,
};
use crate::peer::soon;

fn bearer() -> String {
    format!("Bearer {}", token("instances:write"))
}

/// Limits under which slow clients are cut at once.
fn hasty() -> Limits {
    Limits {
        send: Duration::from_millis(500),
        stuck_write: Duration::from_millis(500),
        ..Limits::default()
    }
}

#[tokio::test]
async fn slow_clients_on_all_connections_are_cut_and_the_next_one_is_served() {
    let rig = Rig::with(hasty(), &[]).await;
    let mut slow = Vec::new();
    for n in 0..128 {
        let mut stream = rig.dial().await;
        // Some say nothing, some half a head, some half a body.
        let bearer = bearer();
        let text = match n % 3 {
            0 => String::new(),
            1 => "GET /health HTTP/1.1\r\nHost: a\r\nX-".to_owned(),
            _ => format!(
                "POST /start_instance HTTP/1.1\r\nHost: a\r\nAuthorization: {bearer}\r\n\
                 Content-Length: 100\r\n\r\n{{\"inst"
            ),
        };
        stream.write_all(text.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let served = rig.ask("GET", "/health", &[], None).await;
    assert_eq!(served.status, 200);
    for mut stream in slow {
        let mut rest = Vec::new();
        let _ = soon(stream.read_to_end(&mut rest)).await;
    }
    assert_eq!(rig.snapshot().generation.0, 0);
}

#[tokio::test]
async fn all_connections_taken_leave_the_control_socket_open() {
    let rig = Rig::start().await;
    let mut taken = Vec::new();
    for _ in 0..128 {
        taken.push(rig.dial().await);
    }
    // The 129th waits in the kernel's queue.
    let mut last = rig.dial().await;
    let text = request("GET", "/health", &[], None);
    last.write_all(text.as_bytes()).await.unwrap();
    assert_eq!(rig.control("GET", "/instances", None).await.status, 200);
    let early = tokio::time::timeout(Duration::from_millis(200), last.readable()).await;
    assert!(early.is_err(), "a 129th connection is served");
    taken.pop();
    assert_eq!(soon(answer(&mut last)).await.unwrap().status, 200);
}

#[tokio::test]
async fn who_is_not_allowed_takes_no_place_from_who_is() {
    let keys = [("http.allowed_ips", r#"["127.0.0.2"]"#)];
    let rig = Rig::with(Limits::default(), &keys).await;
    // More than there are places, and none of them lets go.
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(rig.dial().await);
    }
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let allowed = soon(socket.connect(rig.address)).await.unwrap();
    let answer = ask(allowed, &request("GET", "/health", &[], None)).await;
    assert_eq!(answer.status, 200);
    for mut stranger in strangers {
        let mut said = Vec::new();
        let _ = soon(stranger.read_to_end(&mut said)).await;
        assert!(said.is_empty(), "{said:?}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let rig = Rig::start().await;
    let head = format!(
        "POST /start_instance HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\
         Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 1073741824\r\n\r\n",
        bearer()
    );
    let told = rig.raw(&head).await;
    assert_eq!((told.status, told.problem().as_str()), (413, "too_large"));
    // One that sends it all the same is cut.
    let mut stream = rig.dial().await;
    stream
        .write_all(head.replace("Expect: 100-continue\r\n", "").as_bytes())
        .await
        .unwrap();
    assert!(
        flood(&mut stream, 1 << 30).await < 16 << 20,
        "a GB was taken"
    );
    // One that does not say how much it is, too.
    let mut stream = rig.dial().await;
    let chunked = format!(
        "POST /start_instance HTTP/1.1\r\nHost: a\r\nAuthorization: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n40000000\r\n",
        bearer()
    );
    stream.write_all(chunked.as_bytes()).await.unwrap();
    assert!(
        flood(&mut stream, 1 << 30).await < 16 << 20,
        "a GB was taken"
    );
    // And without a token it is not even looked at.
    let mut stream = rig.dial().await;
    let nobody = "POST /start_instance HTTP/1.1\r\nHost: a\r\nContent-Length: 1073741824\r\n\r\n";
    stream.write_all(nobody.as_bytes()).await.unwrap();
    assert!(
        flood(&mut stream, 1 << 30).await < 16 << 20,
        "a GB was taken"
    );
    assert_eq!(rig.snapshot().generation.0, 0);
}

/// Writes until the other side has had enough; returns how much it took.
async fn flood(stream: &mut TcpStream, most: usize) -> usize {
    let chunk = vec![b' '; 64 * 1024];
    let mut sent = 0;
    while sent < most {
        match soon(stream.write(&chunk)).await {
            Ok(bytes) => sent += bytes,
            Err(_) => break,
        }
    }
    sent
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let rig = Rig::start().await;
    let fits = rig
        .ask("GET", "/health", &[("X", &"y".repeat(12_000))], None)
        .await;
    assert_eq!(fits.status, 200);
    let long = "y".repeat(17_000);
    let one = request("GET", "/health", &[("X", &long)], None);
    let many: String = (0..2_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let many = format!("GET /health HTTP/1.1\r\n{many}\r\n");
    let path = request("GET", &format!("/{long}"), &[], None);
    for (what, text) in [
        ("one header", one),
        ("many headers", many),
        ("a path", path),
    ] {
        let status = rig.raw(&text).await.status;
        assert!([414, 431].contains(&status), "{what}: {status}");
    }
    // One that never ends.
    let mut stream = rig.dial().await;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nX: ")
        .await
        .unwrap();
    assert!(
        flood(&mut stream, 1 << 30).await < 16 << 20,
        "a head of a GB was taken"
    );
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_harms_nobody() {
    let rig = Rig::start().await;
    for text in [
        "nonsense\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
        "POST /start_instance HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST /start_instance HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut stream = rig.dial().await;
        stream.write_all(text.as_bytes()).await.unwrap();
        if let Some(answer) = soon(answer(&mut stream)).await {
            assert!((400..500).contains(&answer.status), "{text:?}: {answer:?}");
        }
    }
    assert_eq!(rig.ask("GET", "/health", &[], None).await.status, 200);
}

#[tokio::test]
async fn bodies_that_are_no_json_objects_are_refused() {
    let rig = Rig::start().await;
    let deep = "[".repeat(100_000);
    for body in [
        "",
        "{",
        "[]",
        "null",
        "7",
        "\"x\"",
        "{\"a\":NaN}",
        "{\"a\":1}x",
        &deep,
        "{\"instance_id\":\"\u{0}\"}",
    ] {
        let bearer = bearer();
        let text = request(
            "POST",
            "/start_instance",
            &[("Authorization", &bearer)],
            Some(body),
        );
        let answer = rig.raw(&text).await;
        let what = (answer.status, answer.problem());
        assert_eq!(what, (400, "invalid_spec".to_owned()), "{body:.40}");
    }
    let (bearer, body) = (bearer(), spec("a").to_string());
    let text = request(
        "POST",
        "/start_instance",
        &[("Authorization", &bearer)],
        Some(&body),
    );
    let text = text.replace("application/json", "text/plain");
    let answer = rig.raw(&text).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (415, "unsupported")
    );
    assert_eq!(rig.snapshot().generation.0, 0);
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut() {
    let rig = Rig::with(hasty(), &[]).await;
    for n in 0..6 {
        let mut body = spec(&format!("a-{n}"));
        body["labels"] = json!(
            (0..60)
                .map(|k| (format!("k{k}"), "x".repeat(400)))
                .collect::<std::collections::BTreeMap<_, _>>()
        );
        assert_eq!(rig.post("/start_instance", &[], &body).await.status, 200);
    }
    let bearer = format!("Bearer {}", token("instances:read"));
    let one = request("GET", "/instances", &[("Authorization", &bearer)], None);
    let one = one.replace("Connection: close\r\n", "");
    let mut stream = rig.dial().await;
    // Until the answers to what was asked fill every buffer between the two.
    let asking = async { while stream.write_all(one.as_bytes()).await.is_ok() {} };
    soon(asking).await;
}

#[tokio::test]
async fn what_is_nowhere_has_the_shape_of_a_problem_too() {
    let rig = Rig::start().await;
    let nowhere = rig.ask("GET", "/nowhere", &[], None).await;
    assert_eq!(
        (nowhere.status, nowhere.problem().as_str()),
        (404, "not_found")
    );
    let owners = rig.ask("POST", "/drain", &[], None).await;
    assert_eq!(
        (owners.status, owners.problem().as_str()),
        (404, "not_found")
    );
    let method = rig.ask("DELETE", "/instances", &[], None).await;
    assert_eq!(
        (method.status, method.problem().as_str()),
        (405, "unsupported")
    );
    assert!(method.headers["allow"].contains("GET"), "{method:?}");
    let none = rig.get("/instances/none", "instances:read").await;
    assert_eq!((none.status, none.problem().as_str()), (404, "not_found"));
}

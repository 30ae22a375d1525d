//! What tokens are taken. Every bad one gets the same answer and changes nothing.

use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use rcgen::KeyPair;
use rental_agent::{api::Limits, ids::Generation};
use serde_json::{Value, json};

use tokio::io::AsyncWriteExt;

use super::{
    client::{Answer, answer, request},
    rig::{AGENT, ISSUER, Rig, SECRET, spec},
    tokens::{claims, encoded, now_s, signed, signed_by, token, with},
};
use crate::peer::soon;

const WRITE: &str = "instances:write";
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// Tries to start a rental with this header.
async fn try_start(rig: &Rig, authorization: &str) -> Answer {
    let headers = [("Authorization", authorization)];
    rig.ask("POST", "/start_instance", &headers, Some(&spec("stolen")))
        .await
}

/// What every refused token gets, to the byte.
const REFUSED: &str = r#"{"title":"Unauthorized","status":401,"code":"unauthenticated","detail":"a valid token is needed; one that changes something is taken once","retry":"never"}"#;

/// Tokens whose claims are not what they have to be.
fn bad_claims() -> Vec<(String, String)> {
    let now = now_s();
    let mut bad = Vec::new();
    let mut add = |name: &str, value: Value| {
        let token = with(claims(WRITE), &[(name, value.clone())]);
        bad.push((format!("{name} = {value}"), token));
    };
    for name in ["iss", "aud", "sub", "exp", "scope", "jti"] {
        for value in [
            Value::Null,
            json!(7),
            json!(true),
            json!({}),
            json!([]),
            json!(""),
        ] {
            // An empty scope is a good claim that allows nothing: 403, below.
            if !(name == "scope" && value == "") {
                add(name, value);
            }
        }
    }
    for value in [
        json!("https://other.test"),
        json!([ISSUER]),
        json!("HTTPS://SCHEDULER.TEST"),
        json!(format!("{ISSUER}/")),
    ] {
        add("iss", value);
    }
    for value in [
        json!("agent-2"),
        json!(["agent-2"]),
        json!([AGENT, 7]),
        json!(AGENT.to_uppercase()),
        json!("*"),
    ] {
        add("aud", value);
    }
    for value in [
        now - 11,
        now - 3600,
        0,
        -1,
        now + 900 + 60,
        now + 3600,
        i64::MAX,
    ] {
        add("exp", json!(value));
    }
    add("exp", json!((now + 60).to_string()));
    add("exp", json!(1e300));
    for value in [
        json!(now + 60),
        json!(now + 3600),
        json!("tomorrow"),
        json!(1e300),
        json!(-5),
    ] {
        add("nbf", value.clone());
        add("iat", value);
    }
    for value in [json!("x".repeat(256)), json!("a\u{0}b"), json!("a\nb")] {
        add("sub", value.clone());
        add("jti", value);
    }
    bad
}

/// Tokens whose header chooses what is not theirs to choose.
fn bad_headers() -> Vec<(String, String)> {
    let claims = Value::Object(claims(WRITE)).to_string();
    let mut bad = Vec::new();
    for alg in [
        "none", "None", "nOnE", "NONE", "", "hs256", "HS512", "RS256", "ES256", "EdDSA", "PS256",
        "dir",
    ] {
        let header = json!({ "alg": alg, "typ": "JWT" }).to_string();
        bad.push((format!("alg {alg}"), signed(&header, &claims)));
        let unsigned = format!("{}.{}.", encoded(&header), encoded(&claims));
        bad.push((format!("alg {alg}, unsigned"), unsigned));
    }
    for (name, value) in [
        ("jku", json!("http://127.0.0.1/keys")),
        ("x5u", json!("http://127.0.0.1/cert")),
        ("jwk", json!({ "kty": "oct", "k": encoded("attacker") })),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("kid", json!(7)),
        ("kid", json!(["a"])),
        ("alg", json!(["HS256"])),
        ("alg", Value::Null),
    ] {
        let mut header = json!({ "alg": "HS256", "typ": "JWT" });
        header[name] = value;
        bad.push((
            format!("header {header}"),
            signed(&header.to_string(), &claims),
        ));
    }
    for header in [
        "{}",
        "[]",
        "null",
        "not json",
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","\u0061lg":"HS256"}"#,
    ] {
        bad.push((format!("header {header}"), signed(header, &claims)));
    }
    bad
}

/// Tokens that are no tokens, or of somebody else.
fn bad_forms() -> Vec<(String, String)> {
    let good = token(WRITE);
    let parts: Vec<&str> = good.split('.').collect();
    let claims = Value::Object(claims(WRITE)).to_string();
    let twice = claims.replacen('{', r#"{"aud":"agent-2","#, 1);
    let nested = claims.replacen('{', r#"{"x":{"a":1,"a":2},"#, 1);
    let other = |secret: &[u8]| {
        signed_by(
            HEADER,
            &claims,
            &EncodingKey::from_secret(secret),
            Algorithm::HS256,
        )
    };
    let flipped: String = parts[2]
        .char_indices()
        .map(|(i, c)| {
            if i == 5 {
                if c == 'A' { 'B' } else { 'A' }
            } else {
                c
            }
        })
        .collect();
    let form = |name: &str, token: String| (name.to_owned(), token);
    vec![
        form("nothing", String::new()),
        form("one part", "x".into()),
        form("two parts", format!("{}.{}", parts[0], parts[1])),
        form("no signature", format!("{}.{}.", parts[0], parts[1])),
        form("four parts", format!("{good}.x")),
        form(
            "encrypted",
            format!("{}.a.b.c.d", encoded(r#"{"alg":"dir","enc":"A256GCM"}"#)),
        ),
        form(
            "a changed signature",
            format!("{}.{}.{flipped}", parts[0], parts[1]),
        ),
        form("a cut signature", good[..good.len() - 2].to_owned()),
        form("padding", format!("{good}=")),
        form(
            "changed claims",
            format!("{}.{}.{}", parts[0], encoded(&claims), parts[2]),
        ),
        form(
            "too long a token",
            with(
                super::tokens::claims(WRITE),
                &[("x", json!("y".repeat(7_000)))],
            ),
        ),
        form("standard base64", good.replacen('.', "+.", 1)),
        form("claims that are no object", signed(HEADER, "[]")),
        form("claims that are no JSON", signed(HEADER, "{")),
        form("a claim that stands twice", signed(HEADER, &twice)),
        form("a name that stands twice within", signed(HEADER, &nested)),
        form(
            "another's secret",
            other(b"another secret of thirty-two bytes!!"),
        ),
        form("an empty secret", other(b"")),
        form(
            "the secret with its newline",
            other(&[SECRET, b"\n"].concat()),
        ),
        form("quotes", format!("\"{good}\"")),
    ]
}

#[tokio::test]
async fn every_bad_token_is_refused_alike_and_changes_nothing() {
    let rig = Rig::start().await;
    let before = rig.snapshot().generation;
    let bad: Vec<_> = [bad_claims(), bad_headers(), bad_forms()].concat();
    assert!(bad.len() >= 60, "{}", bad.len());
    for (what, token) in &bad {
        let answer = try_start(&rig, &format!("Bearer {token}")).await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
        assert_eq!(answer.body, REFUSED, "{what}");
        assert_eq!(answer.headers["www-authenticate"], "Bearer", "{what}");
    }
    for (what, header) in [
        ("another scheme", format!("Basic {}", token(WRITE))),
        ("no scheme", token(WRITE)),
        (
            "two tokens",
            format!("Bearer {} {}", token(WRITE), token(WRITE)),
        ),
        ("only a scheme", "Bearer".to_owned()),
    ] {
        let answer = try_start(&rig, &header).await;
        assert_eq!(
            (answer.status, answer.body.as_str()),
            (401, REFUSED),
            "{what}"
        );
    }
    let twice = [token(WRITE), token(WRITE)].map(|token| format!("Bearer {token}"));
    let headers = [
        ("Authorization", twice[0].as_str()),
        ("Authorization", twice[1].as_str()),
    ];
    let answer = rig
        .ask("POST", "/start_instance", &headers, Some(&spec("stolen")))
        .await;
    assert_eq!(answer.body, REFUSED, "two headers");
    let answer = rig
        .ask("POST", "/start_instance", &[], Some(&spec("stolen")))
        .await;
    assert_eq!(answer.body, REFUSED, "no header");
    let path = format!("/start_instance?access_token={}", token(WRITE));
    let answer = rig.ask("POST", &path, &[], Some(&spec("stolen"))).await;
    assert_eq!(answer.body, REFUSED, "in the query");
    // One of 100 KB is too much for any head.
    let huge = with(claims(WRITE), &[("x", json!("y".repeat(75_000)))]);
    assert_eq!(try_start(&rig, &format!("Bearer {huge}")).await.status, 431);
    let after = rig.snapshot();
    assert_eq!(after.generation, before);
    assert_eq!(before, Generation(0));
    assert_eq!(rig.engine.made(), 0);
    // The control: a good token is taken by the same request.
    let answer = try_start(&rig, &format!("bearer {}", token(WRITE))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn a_good_token_without_the_scope_is_forbidden_and_changes_nothing() {
    let rig = Rig::start().await;
    for scope in [
        "",
        " ",
        "instances:read",
        "instances:writes",
        "INSTANCES:WRITE",
        "instances:*",
        "instances:read events:read",
    ] {
        let answer = try_start(&rig, &format!("Bearer {}", token(scope))).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (403, "forbidden"),
            "{scope}"
        );
    }
    for (path, scope) in [
        ("/instances", WRITE),
        ("/instances/x", WRITE),
        ("/ws", "instances:read"),
    ] {
        let answer = rig.get(path, scope).await;
        assert_eq!(
            (answer.status, answer.problem().as_str()),
            (403, "forbidden"),
            "{path}"
        );
    }
    assert_eq!(rig.snapshot().generation, Generation(0));
}

#[tokio::test]
async fn a_token_that_changes_something_is_taken_once() {
    let rig = Rig::start().await;
    let bearer = format!("Bearer {}", token("instances:write instances:read"));
    assert_eq!(try_start(&rig, &bearer).await.status, 200);
    for _ in 0..3 {
        let again = try_start(&rig, &bearer).await;
        assert_eq!((again.status, again.body.as_str()), (401, REFUSED));
    }
    let body = json!({ "instance_id": "stolen" });
    let headers = [("Authorization", bearer.as_str())];
    let other = rig
        .ask("POST", "/terminate_instance", &headers, Some(&body))
        .await;
    assert_eq!(other.status, 401, "also for something else");
    // What only reads may be asked again.
    for _ in 0..2 {
        assert_eq!(
            rig.ask("GET", "/instances", &headers, None).await.status,
            200
        );
    }
    let without = with(claims("instances:read"), &[("jti", Value::Null)]);
    let headers = [("Authorization", format!("Bearer {without}"))];
    let headers = headers
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    assert_eq!(
        rig.ask("GET", "/instances", &headers, None).await.status,
        200
    );
}

#[tokio::test]
async fn used_tokens_are_remembered_up_to_a_bound_and_above_it_none_is_taken() {
    let limits = Limits {
        remembered_tokens: 2,
        ..Limits::default()
    };
    let rig = Rig::with(limits, &[]).await;
    for id in ["a", "b"] {
        assert_eq!(
            rig.post("/start_instance", &[], &spec(id)).await.status,
            200
        );
    }
    let answer = rig.post("/start_instance", &[], &spec("c")).await;
    assert_eq!(
        (answer.status, answer.problem().as_str()),
        (503, "not_ready")
    );
    assert_eq!(rig.engine.made(), 2);
}

#[tokio::test]
async fn small_differences_of_clocks_are_forgiven() {
    let rig = Rig::start().await;
    for (name, offset) in [
        ("exp", -5),
        ("exp", 905),
        ("nbf", 5),
        ("iat", 5),
        ("nbf", -3600),
    ] {
        let token = with(claims("instances:read"), &[(name, json!(now_s() + offset))]);
        let bearer = format!("Bearer {token}");
        let answer = rig
            .ask("GET", "/instances", &[("Authorization", &bearer)], None)
            .await;
        assert_eq!(answer.status, 200, "{name} {offset}");
    }
}

#[tokio::test]
async fn without_a_key_nothing_that_needs_a_token_is_open() {
    let none = [
        ("http.auth.issuer", ""),
        ("http.auth.hs256_secret_file", ""),
    ];
    let rig = Rig::with(Limits::default(), &none).await;
    for (method, path) in [
        ("POST", "/start_instance"),
        ("POST", "/terminate_instance"),
        ("GET", "/instances"),
        ("GET", "/instances/x"),
        ("GET", "/ws"),
    ] {
        let bearer = format!(
            "Bearer {}",
            token("instances:read instances:write events:read")
        );
        for headers in [&[][..], &[("Authorization", bearer.as_str())]] {
            let answer = rig.ask(method, path, headers, None).await;
            let what = (answer.status, answer.problem());
            assert_eq!(
                what,
                (503, "auth_not_configured".to_owned()),
                "{method} {path}"
            );
        }
    }
    for path in ["/health", "/ready", "/openapi.json"] {
        assert_eq!(rig.ask("GET", path, &[], None).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn who_is_not_allowed_is_told_nothing() {
    let rig = Rig::with(
        Limits::default(),
        &[("http.allowed_ips", r#"["192.0.2.0/24"]"#)],
    )
    .await;
    for path in ["/health", "/instances", "/nowhere"] {
        let mut stream = rig.dial().await;
        let bearer = format!("Bearer {}", token("instances:read"));
        let text = request("GET", path, &[("Authorization", &bearer)], None);
        // It may be gone before it is written to.
        let _ = stream.write_all(text.as_bytes()).await;
        assert!(soon(answer(&mut stream)).await.is_none(), "{path}");
    }
    let rig = Rig::with(
        Limits::default(),
        &[("http.allowed_ips", r#"["127.0.0.0/8"]"#)],
    )
    .await;
    assert_eq!(rig.get("/instances", "instances:read").await.status, 200);
}

/// A rig that trusts this public key.
async fn trusting(key: &str, file: &str) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    Rig::with(
        Limits::default(),
        &[("http.auth.hs256_secret_file", ""), (key, path)],
    )
    .await
}

async fn lists(rig: &Rig, token: &str) -> u16 {
    let bearer = format!("Bearer {token}");
    rig.ask("GET", "/instances", &[("Authorization", &bearer)], None)
        .await
        .status
}

/// A key pair, its algorithm, and both halves as PEM and for signing.
fn pairs() -> Vec<(&'static str, Algorithm, KeyPair, EncodingKey)> {
    let ed = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let ec = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    let key =
        |pair: &KeyPair, make: fn(&[u8]) -> EncodingKey| make(pair.serialize_der().as_slice());
    let ed_key = key(&ed, EncodingKey::from_ed_der);
    let ec_key = key(&ec, EncodingKey::from_ec_der);
    let rsa_key = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
    vec![
        ("EdDSA", Algorithm::EdDSA, ed, ed_key),
        ("ES256", Algorithm::ES256, ec, ec_key),
        ("RS256", Algorithm::RS256, rsa, rsa_key),
    ]
}

#[tokio::test]
async fn a_public_key_has_one_algorithm_and_is_no_secret() {
    for (name, algorithm, pair, key) in pairs() {
        let pem = pair.public_key_pem();
        let rig = trusting("http.auth.public_key_file", &pem).await;
        let claims = Value::Object(claims("instances:read")).to_string();
        let header = json!({ "alg": name }).to_string();
        let good = signed_by(&header, &claims, &key, algorithm);
        assert_eq!(lists(&rig, &good).await, 200, "{name}");
        // Signed with the public key's own bytes, as if they were a shared secret.
        for secret in [pem.as_bytes(), pem.trim().as_bytes(), pair.public_key_raw()] {
            let secret = EncodingKey::from_secret(secret);
            let forged = signed_by(HEADER, &claims, &secret, Algorithm::HS256);
            assert_eq!(lists(&rig, &forged).await, 401, "{name}");
        }
        for other in ["none", "HS256", "ES384", "PS256", "RS512"] {
            let header = json!({ "alg": other }).to_string();
            let forged = signed_by(&header, &claims, &key, algorithm);
            assert_eq!(lists(&rig, &forged).await, 401, "{name} as {other}");
        }
    }
}

#[tokio::test]
async fn a_token_names_its_key_in_a_set_and_a_new_set_is_taken_without_a_restart() {
    let all = pairs();
    let jwk = |(name, algorithm, pair, _): &(&str, Algorithm, KeyPair, EncodingKey)| {
        let pem = pair.public_key_pem();
        let key = match *name {
            "EdDSA" => jsonwebtoken::DecodingKey::from_ed_pem(pem.as_bytes()),
            "ES256" => jsonwebtoken::DecodingKey::from_ec_pem(pem.as_bytes()),
            _ => jsonwebtoken::DecodingKey::from_rsa_pem(pem.as_bytes()),
        };
        let mut jwk = Jwk::from_decoding_key(&key.unwrap(), Some(*algorithm)).unwrap();
        jwk.common.key_id = Some(format!("key-{name}"));
        serde_json::to_value(jwk).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let write = |keys: &[Value]| {
        let next = folder.path().join("next");
        std::fs::write(&next, json!({ "keys": keys }).to_string()).unwrap();
        std::fs::rename(next, &path).unwrap();
    };
    write(&[jwk(&all[0]), jwk(&all[1])]);
    let file = path.to_str().unwrap();
    let rig = Rig::with(
        Limits::default(),
        &[
            ("http.auth.hs256_secret_file", ""),
            ("http.auth.jwks_file", file),
        ],
    )
    .await;
    let claims = Value::Object(claims("instances:read")).to_string();
    let by = |n: usize, kid: Value| {
        let (name, algorithm, _, key) = &all[n];
        let header = json!({ "alg": name, "kid": kid }).to_string();
        signed_by(&header, &claims, key, *algorithm)
    };
    assert_eq!(lists(&rig, &by(0, json!("key-EdDSA"))).await, 200);
    assert_eq!(lists(&rig, &by(1, json!("key-ES256"))).await, 200);
    for kid in [
        "key-ES256",
        "",
        "../../dev/null",
        "' OR 1=1 --",
        "http://127.0.0.1/k",
    ] {
        assert_eq!(lists(&rig, &by(0, json!(kid))).await, 401, "{kid}");
    }
    let (name, algorithm, _, key) = &all[0];
    let nameless = signed_by(
        &json!({ "alg": name }).to_string(),
        &claims,
        key,
        *algorithm,
    );
    assert_eq!(
        lists(&rig, &nameless).await,
        401,
        "which of two is not said"
    );
    assert_eq!(
        lists(&rig, &by(2, json!("key-RS256"))).await,
        401,
        "not yet"
    );
    // A set that cannot be used leaves the one before in place.
    write(&[json!({ "kty": "oct", "k": "AAAA", "kid": "x" })]);
    write(&[jwk(&all[2])]);
    let new = by(2, json!("key-RS256"));
    soon(async {
        while lists(&rig, &new).await != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        lists(&rig, &by(0, json!("key-EdDSA"))).await,
        401,
        "it is gone"
    );
}

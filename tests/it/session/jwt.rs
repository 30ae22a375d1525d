//! The token that the agent signs itself, as a server sees it: read and verified here without the
//! library that made it.

use std::{collections::BTreeSet, path::PathBuf};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use rcgen::{KeyPair, PKCS_ED25519};
use rental_agent::{
    clock,
    config::{KeyFile, Token},
};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use super::rig::{Rig, quick};
use crate::peer::Peer;

struct Key {
    file: NamedTempFile,
    public: Vec<u8>,
}

fn key() -> Key {
    let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pair.serialize_pem()).unwrap();
    Key {
        file,
        public: pair.public_key_raw().to_vec(),
    }
}

async fn with_key(path: PathBuf) -> Rig {
    let peer = Peer::start().await;
    let url = peer.url("ws", "");
    Rig::with(peer, quick(), |server| {
        server.url = url
            .as_str()
            .replace("127.0.0.1", "localhost")
            .parse()
            .unwrap();
        server.token = Token::Jwt(KeyFile(path));
    })
}

/// The header and the claims of a token that this key has signed.
fn verified(authorization: &str, public: &[u8]) -> Option<(Value, Value)> {
    let token = authorization.strip_prefix("Bearer ").unwrap();
    let parts: Vec<_> = token.split('.').collect();
    let [header, claims, signature] = parts.as_slice() else {
        panic!("not three parts: {token}");
    };
    let raw = |part: &str| BASE64_URL_SAFE_NO_PAD.decode(part).unwrap();
    let message = format!("{header}.{claims}");
    let key = UnparsedPublicKey::new(&ED25519, public);
    key.verify(message.as_bytes(), &raw(signature)).ok()?;
    let read = |part: &str| serde_json::from_slice(&raw(part)).unwrap();
    Some((read(header), read(claims)))
}

#[tokio::test]
async fn each_dial_shows_a_fresh_token_that_only_the_agents_key_can_have_signed() {
    let key = key();
    let other = self::key();
    let mut rig = with_key(key.file.path().to_owned()).await;
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let connection = rig.peer.session().await;
        rig.connected().await;
        let shown = connection.asked.header("authorization").to_owned();
        assert!(verified(&shown, &other.public).is_none());
        let (header, mut claims) = verified(&shown, &key.public).expect("a good signature");
        assert_eq!(header, json!({"typ": "JWT", "alg": "EdDSA"}));
        let (exp, jti) = (claims["exp"].take(), claims["jti"].take());
        let ahead = exp.as_i64().unwrap() - clock::now().wall.as_millis() / 1000;
        assert!((30..=60).contains(&ahead), "{ahead}");
        assert!(ids.insert(jti.as_str().unwrap().to_owned()), "{jti} twice");
        assert_eq!(
            claims,
            json!({"iss": "host-7", "sub": "host-7", "aud": "localhost", "exp": null, "jti": null})
        );
        connection.close(1000).await;
        rig.disconnected().await;
    }
}

#[tokio::test]
async fn a_key_that_is_replaced_signs_the_next_token() {
    let (first, second) = (key(), key());
    let mut rig = with_key(first.file.path().to_owned()).await;
    let connection = rig.peer.session().await;
    rig.connected().await;
    assert!(verified(connection.asked.header("authorization"), &first.public).is_some());
    std::fs::copy(second.file.path(), first.file.path()).unwrap();
    connection.close(1000).await;
    rig.disconnected().await;
    let connection = rig.peer.session().await;
    assert!(verified(connection.asked.header("authorization"), &second.public).is_some());
}

#[tokio::test]
async fn a_key_as_openssl_writes_it_signs_too() {
    // The first form of PKCS#8, which has no public half: RFC 8410, section 10.3.
    let pem = "-----BEGIN PRIVATE KEY-----\n\
               MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
               -----END PRIVATE KEY-----\n";
    let public = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE";
    let public = base64::prelude::BASE64_STANDARD_NO_PAD
        .decode(public)
        .unwrap();
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let rig = with_key(file.path().to_owned()).await;
    let connection = rig.peer.accept().await;
    assert!(verified(connection.asked.header("authorization"), &public).is_some());
}

#[tokio::test]
async fn without_a_key_nobody_is_dialled_and_nothing_of_the_file_is_told() {
    let file = NamedTempFile::new().unwrap();
    for content in [
        "",
        "canary-7f3a",
        "-----BEGIN PRIVATE KEY-----\ncanary-7f3a\n",
    ] {
        std::fs::write(file.path(), content).unwrap();
        let mut rig = with_key(file.path().to_owned()).await;
        let (reason, _) = rig.down().await;
        assert!(reason.contains("no token"), "{reason}");
        assert!(!reason.contains("canary"), "{reason}");
        assert!(
            !rig.peer
                .dialled_within(std::time::Duration::from_millis(50))
                .await
        );
    }
}

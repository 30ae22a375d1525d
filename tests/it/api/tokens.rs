//! Who signs tokens: good ones, and whatever a test makes of them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto::sign};
use rental_agent::clock;
use serde_json::{Map, Value, json};

use super::rig::{AGENT, ISSUER, SECRET};

/// Seconds since 1970, by this host's clock.
pub(super) fn now_s() -> i64 {
    clock::now().wall.as_millis() / 1000
}

/// Claims of a good token for these scopes.
pub(super) fn claims(scope: &str) -> Map<String, Value> {
    let claims = json!({
        "iss": ISSUER, "aud": AGENT, "sub": "scheduler", "exp": now_s() + 60,
        "jti": uuid::Uuid::new_v4().to_string(), "scope": scope,
    });
    serde_json::from_value(claims).unwrap()
}

/// A good token for these scopes.
pub(super) fn token(scope: &str) -> String {
    with(claims(scope), &[])
}

/// A token with these claims changed; `null` removes one.
pub(super) fn with(mut claims: Map<String, Value>, changes: &[(&str, Value)]) -> String {
    for (name, value) in changes {
        claims.insert((*name).to_owned(), value.clone());
    }
    claims.retain(|_, value| !value.is_null());
    let claims = Value::Object(claims).to_string();
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, &claims)
}

/// Header and claims as they are written, signed with the right secret.
pub(super) fn signed(header: &str, claims: &str) -> String {
    let key = EncodingKey::from_secret(SECRET);
    signed_by(header, claims, &key, Algorithm::HS256)
}

/// The same signed by somebody.
pub(super) fn signed_by(
    header: &str,
    claims: &str,
    key: &EncodingKey,
    algorithm: Algorithm,
) -> String {
    let text = format!("{}.{}", encoded(header), encoded(claims));
    let signature = sign(text.as_bytes(), key, algorithm).unwrap();
    format!("{text}.{signature}")
}

pub(super) fn encoded(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

//! What the agent shows the server: the token it was given, or one that it signs itself. The one
//! place where the agent's own key is used.

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use url::Url;

use crate::{
    clock::{self, Timestamp},
    config::{KeyFile, Token, TokenError},
    ids::AgentId,
};

/// A token of ours is valid for a little less than the minute that the protocol allows, so that a
/// server whose clock is somewhat behind takes it.
const VALID_S: i64 = 55;

/// What the protocol wants in it, and nothing else.
#[derive(Debug, Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    jti: String,
}

/// The token for this dial. Blocks for as long as the file system does.
pub(super) fn bearer(
    token: &Token,
    agent: &AgentId,
    server: &Url,
) -> Result<SecretString, TokenError> {
    match token {
        Token::Static(_) | Token::File(_) => token.read(),
        Token::Jwt(file) => {
            let key = file.read()?;
            signed(&key, agent, server, clock::now().wall).ok_or_else(|| no_key(file))
        }
    }
}

fn no_key(KeyFile(path): &KeyFile) -> TokenError {
    TokenError::NoKey { path: path.clone() }
}

/// What the library says of a key may not be told from what is in it, so it is not handed on.
fn signed(
    key: &SecretString,
    agent: &AgentId,
    server: &Url,
    now: Timestamp,
) -> Option<SecretString> {
    let key = jsonwebtoken::EncodingKey::from_ed_pem(key.expose_secret().as_bytes()).ok()?;
    let claims = Claims {
        iss: agent.as_str(),
        sub: agent.as_str(),
        aud: server.host_str()?,
        exp: now.as_millis().div_euclid(1000) + VALID_S,
        jti: uuid::Uuid::new_v4().to_string(),
    };
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    let token = jsonwebtoken::encode(&header, &claims, &key).ok()?;
    Some(token.into())
}

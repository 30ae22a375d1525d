//! One token: its form, its header, its signature, its claims, in this order. Decides without a clock.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Validation, decode};
use serde_json::{Map, Value};

use super::{
    claims::{self, Claims, Wanted},
    keyring::Keyring,
    strict,
};

/// A longer one is no token.
const MAX_BYTES: usize = 8 * 1024;
/// Headers by which a token would choose its own key or its own rules.
const NO_HEADERS: [&str; 4] = ["jku", "x5u", "jwk", "crit"];

/// Why a token is not taken: for the log, never for the client.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum Refused {
    #[error("there is not exactly one bearer token")]
    NoToken,
    #[error("it has not the form of a signed token")]
    Form,
    #[error("its header has {0}")]
    Header(&'static str),
    #[error("its algorithm is not the key's")]
    Algorithm,
    #[error("no key has its kid")]
    Key,
    #[error("its signature, or what it says, is wrong: {0}")]
    Library(String),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is not what it has to be")]
    Claim(&'static str),
    #[error("it expired {0:.0} s ago by this host's clock")]
    Expired(f64),
    #[error("it is valid for {0:.0} s more, which is too long")]
    TooLong(f64),
    #[error("it is valid in {0:.0} s only by this host's clock")]
    NotYet(f64),
    #[error("it was used before")]
    Replayed,
    #[error(
        "it was issued {0:.0} s before this process began, and an earlier one may have taken it: \
         a new one is needed"
    )]
    Earlier(f64),
}

/// Checks a token at `now_s`, in seconds since 1970.
pub(super) fn check(
    token: &str,
    keys: &Keyring,
    wanted: &Wanted,
    now_s: f64,
) -> Result<Claims, Refused> {
    if token.len() > MAX_BYTES {
        return Err(Refused::Form);
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Refused::Form);
    };
    if signature.is_empty() {
        return Err(Refused::Form);
    }
    let header = part(header)?;
    if let Some(name) = NO_HEADERS
        .into_iter()
        .find(|name| header.contains_key(*name))
    {
        return Err(Refused::Header(name));
    }
    let kid = match header.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.as_str()),
        Some(_) => return Err(Refused::Header("a kid that is no text")),
    };
    let key = keys.find(kid).ok_or(Refused::Key)?;
    if header.get("alg").and_then(Value::as_str) != Some(key.algorithm_name) {
        return Err(Refused::Algorithm);
    }
    let claims = part(payload)?;
    // The library looks at the signature and once more at what it knows; the rest is ours, since its
    // clock is its own and its claims are laxer.
    let mut validation = Validation::new(key.algorithm);
    validation.validate_exp = false;
    validation.set_audience(&[&wanted.audience]);
    validation.set_issuer(&[&wanted.issuer]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    let verified = decode::<Map<String, Value>>(token, &key.key, &validation);
    verified.map_err(|error| Refused::Library(error.to_string()))?;
    claims::check(&claims, wanted, now_s)
}

fn part(text: &str) -> Result<Map<String, Value>, Refused> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| Refused::Form)?;
    strict::object(&bytes).ok_or(Refused::Form)
}

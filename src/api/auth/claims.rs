//! What a token says, once its signature is good. Decides without a clock.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Scopes, token::Refused};

/// Clocks may differ by so much.
pub(super) const LEEWAY_S: f64 = 10.0;
/// Longer names are no names.
const MAX_NAME_BYTES: usize = 255;

/// What a token has to say.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) issuer: String,
    /// The agent's id.
    pub(super) audience: String,
    pub(super) max_age: Duration,
}

/// What a good token says.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    pub(super) sub: String,
    pub(super) jti: Option<String>,
    /// Seconds since 1970, as all times here.
    pub(super) exp: f64,
    pub(super) iat: Option<f64>,
    pub(super) scopes: Scopes,
}

/// Checks every claim that counts.
pub(super) fn check(
    claims: &Map<String, Value>,
    wanted: &Wanted,
    now_s: f64,
) -> Result<Claims, Refused> {
    if text(claims, "iss")? != wanted.issuer {
        return Err(Refused::Claim("iss"));
    }
    if !audiences(claims)?.contains(&wanted.audience.as_str()) {
        return Err(Refused::Claim("aud"));
    }
    let sub = name(claims, "sub")?.ok_or(Refused::Missing("sub"))?;
    let exp = seconds(claims, "exp")?.ok_or(Refused::Missing("exp"))?;
    if exp + LEEWAY_S <= now_s {
        return Err(Refused::Expired(now_s - exp));
    }
    if exp > now_s + wanted.max_age.as_secs_f64() + LEEWAY_S {
        return Err(Refused::TooLong(exp - now_s));
    }
    let (nbf, iat) = (seconds(claims, "nbf")?, seconds(claims, "iat")?);
    let early = [nbf, iat].into_iter().flatten();
    if let Some(at) = early.into_iter().find(|at| *at > now_s + LEEWAY_S) {
        return Err(Refused::NotYet(at - now_s));
    }
    let scopes = text(claims, "scope")?;
    Ok(Claims {
        sub,
        jti: name(claims, "jti")?,
        exp,
        iat,
        scopes: scopes.split(' ').map(str::to_owned).collect(),
    })
}

fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, Refused> {
    let value = claims.get(name).ok_or(Refused::Missing(name))?;
    value.as_str().ok_or(Refused::Claim(name))
}

/// A name of somebody or something: short, and nothing that could be taken for two.
fn name(claims: &Map<String, Value>, name: &'static str) -> Result<Option<String>, Refused> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let good = |text: &&str| {
        (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
    };
    let text = value.as_str().filter(good).ok_or(Refused::Claim(name))?;
    Ok(Some(text.to_owned()))
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<&str>, Refused> {
    match claims.get("aud") {
        None => Err(Refused::Missing("aud")),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(Value::Array(several)) => {
            let texts = several.iter().map(Value::as_str);
            texts.collect::<Option<_>>().ok_or(Refused::Claim("aud"))
        }
        Some(_) => Err(Refused::Claim("aud")),
    }
}

/// A time, if it is there. One that is no time is no absent time.
fn seconds(claims: &Map<String, Value>, name: &'static str) -> Result<Option<f64>, Refused> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let time = value.as_f64().filter(|s| (0.0..1e12).contains(s));
    time.map(Some).ok_or(Refused::Claim(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: f64 = 1_000_000.0;

    fn checked(change: impl FnOnce(&mut Map<String, Value>)) -> Result<Claims, Refused> {
        let wanted = Wanted {
            issuer: "i".into(),
            audience: "a".into(),
            max_age: Duration::from_secs(900),
        };
        let mut claims = Map::from_iter([
            ("iss".to_owned(), json!("i")),
            ("aud".to_owned(), json!("a")),
            ("sub".to_owned(), json!("s")),
            ("exp".to_owned(), json!(NOW + 60.0)),
            ("scope".to_owned(), json!("x y")),
        ]);
        change(&mut claims);
        check(&claims, &wanted, NOW)
    }

    #[test]
    fn a_clock_that_is_an_hour_off_is_beyond_the_leeway_and_ten_seconds_are_within() {
        let at = |name: &'static str, offset: f64| {
            checked(move |claims| {
                claims.insert(name.into(), json!(NOW + offset));
            })
            .is_ok()
        };
        for (name, offset, good) in [
            ("exp", -3600.0, false),
            ("exp", -10.0, false),
            ("exp", -9.0, true),
            ("exp", 900.0, true),
            ("exp", 910.0, true),
            ("exp", 911.0, false),
            ("exp", 3600.0, false),
            ("nbf", -3600.0, true),
            ("nbf", 10.0, true),
            ("nbf", 11.0, false),
            ("nbf", 3600.0, false),
            ("iat", 9.0, true),
            ("iat", 3600.0, false),
        ] {
            assert_eq!(at(name, offset), good, "{name} {offset}");
        }
    }

    #[test]
    fn scopes_are_whole_words() {
        let scopes = checked(|_| {}).unwrap().scopes;
        assert!(scopes.contains("x") && scopes.contains("y") && !scopes.contains("x y"));
    }
}

//! Who asks. A token is taken whole or not at all: its key and algorithm are this host's choice, every
//! claim that counts is required, and one that changes something is taken once.

mod claims;
mod keyring;
mod replay;
mod strict;
mod token;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use tokio::{sync::watch, time::Instant};

use self::{
    claims::{Claims, LEEWAY_S, Wanted},
    keyring::Keyring,
    replay::{Replay, Used, issued_before},
    token::Refused,
};
use super::{
    Problem,
    files::Files,
    routes::{Kind, WRITE},
};
use crate::{
    clock::{self, Now},
    config::{HttpAuth, HttpKey},
    ids::AgentId,
    protocol::{Error, ErrorCode, Instance},
};

/// A token as subprotocol of a WebSocket, where browsers can send nothing else.
pub(super) const BEARER_PROTOCOL: &str = "bearer.";

/// Who asks, and for what they may.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Begins the ids of commands.
    pub(super) surface: &'static str,
    pub(super) sub: String,
    pub(super) jti: String,
    /// When what was let in ends: nobody asks longer than by a token that is good.
    pub(super) until: Option<Instant>,
    /// Sees credentials.
    writes: bool,
}

impl Caller {
    /// The machine's owner.
    pub(super) fn owner() -> Self {
        Self {
            surface: "control",
            sub: "owner".to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            until: None,
            writes: true,
        }
    }

    #[cfg(test)]
    pub(super) fn of_token(sub: &str, jti: &str) -> Self {
        Self {
            surface: "http",
            sub: sub.to_owned(),
            jti: jti.to_owned(),
            until: None,
            writes: true,
        }
    }

    /// A record as this caller may see it: credentials are for those who could replace them.
    pub(super) fn may_see(&self, record: Arc<Instance>) -> Arc<Instance> {
        // No record has credentials yet; they are taken out here once one has.
        let _ = self.writes;
        record
    }
}

/// Whether tokens can be checked with this key.
pub(super) fn check_key(key: &HttpKey) -> anyhow::Result<()> {
    Keyring::read(key).map(drop)
}

/// What tokens are checked with.
pub(super) struct Auth {
    /// Unset: nobody is let in.
    checks: Option<Checks>,
    replay: Mutex<Replay>,
    /// When this process began to take tokens, by the boot-time clock.
    began: Duration,
}

struct Checks {
    wanted: Wanted,
    source: HttpKey,
    files: Files,
    keys: watch::Sender<Arc<Keyring>>,
}

impl Auth {
    /// Reads the keys. Blocks for as long as the file system does.
    pub(super) fn new(
        config: Option<HttpAuth>,
        agent: AgentId,
        remembered: usize,
    ) -> anyhow::Result<Self> {
        let checks = config
            .map(|config| Checks::read(config, agent))
            .transpose()?;
        Ok(Self {
            checks,
            replay: Mutex::new(Replay::new(remembered)),
            began: clock::now().boot,
        })
    }

    /// Takes what the key's file holds now, if that has changed and can be used.
    pub(super) fn refresh(&self) {
        let Some(checks) = &self.checks else { return };
        let read = || Keyring::read(&checks.source);
        if let Some(keys) = checks.files.read_changed("keys", read) {
            checks.keys.send_replace(Arc::new(keys));
        }
    }

    /// The start moves with the host's clock when that is set, as the issuer's times do.
    fn issued_before_us(&self, claims: &Claims, now: Now) -> Option<f64> {
        let up_s = now.boot.saturating_sub(self.began).as_secs_f64();
        issued_before(claims.iat?, seconds(now.wall.as_millis()), up_s)
    }

    fn use_up(&self, claims: &Claims, now_s: f64) -> Used {
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        let jti = claims.jti.as_deref().unwrap_or_default();
        replay.use_up(&claims.sub, jti, claims.exp, now_s)
    }
}

impl Checks {
    fn read(config: HttpAuth, agent: AgentId) -> anyhow::Result<Self> {
        let (HttpKey::Hs256(path) | HttpKey::Public(path) | HttpKey::Jwks(path)) = &config.key;
        let files = Files::new(vec![path.clone()]);
        let keys = Keyring::read(&config.key).context("http.auth")?;
        Ok(Self {
            files,
            wanted: Wanted {
                issuer: config.issuer,
                audience: agent.to_string(),
                max_age: config.max_token_age,
            },
            source: config.key,
            keys: watch::Sender::new(Arc::new(keys)),
        })
    }
}

/// Lets a request in whose token is good and has the scope that is needed. `need`: the scope and what
/// the request does; `None` where nobody said, which lets nobody in.
pub(super) fn admit(
    auth: &Auth,
    headers: &HeaderMap,
    websocket: bool,
    need: Option<(&str, Kind)>,
) -> Result<Caller, Problem> {
    let Some(checks) = &auth.checks else {
        return Err(Problem::auth_not_configured());
    };
    let now = clock::now();
    let now_s = seconds(now.wall.as_millis());
    let keys = Arc::clone(&checks.keys.borrow());
    let claims = bearer(headers, websocket)
        .and_then(|token| token::check(&token, &keys, &checks.wanted, now_s));
    let refuse = |why: &Refused| {
        tracing::info!(%why, "a token was refused");
        Problem::unauthenticated()
    };
    let claims = claims.map_err(|why| refuse(&why))?;
    let Some((scope, kind)) = need else {
        return Err(Problem::scope());
    };
    let changes = kind == Kind::Changes;
    if changes && claims.jti.is_none() {
        return Err(refuse(&Refused::Missing("jti")));
    }
    if !claims.scopes.contains(scope) {
        tracing::info!(sub = %claims.sub, scope, "a token has not the scope");
        return Err(Problem::scope());
    }
    if changes {
        if let Some(earlier_s) = auth.issued_before_us(&claims, now) {
            return Err(refuse(&Refused::Earlier(earlier_s)));
        }
        match auth.use_up(&claims, now_s) {
            Used::First => {}
            Used::Again => return Err(refuse(&Refused::Replayed)),
            Used::Full => {
                let message = "too many tokens were used lately to know this one from them";
                return Err(Problem::from(Error::new(ErrorCode::NotReady, message)));
            }
        }
    }
    let left_s = claims.exp + LEEWAY_S - now_s;
    Ok(Caller {
        surface: "http",
        until: Some(Instant::now() + Duration::try_from_secs_f64(left_s).unwrap_or_default()),
        writes: claims.scopes.contains(WRITE),
        sub: claims.sub,
        jti: claims.jti.unwrap_or_default(),
    })
}

/// The one token of a request.
fn bearer(headers: &HeaderMap, websocket: bool) -> Result<String, Refused> {
    let mut found = Vec::new();
    for value in headers.get_all(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| Refused::NoToken)?;
        let (scheme, token) = text.split_once(' ').ok_or(Refused::NoToken)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refused::NoToken);
        }
        found.push(token.trim_start_matches(' ').to_owned());
    }
    if websocket {
        let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let offered = offered.filter_map(|value| value.to_str().ok());
        let names = offered.flat_map(|text| text.split(',')).map(str::trim);
        let tokens = names.filter_map(|name| name.strip_prefix(BEARER_PROTOCOL));
        found.extend(tokens.map(str::to_owned));
    }
    match (found.pop(), found.is_empty()) {
        (Some(token), true) => Ok(token),
        (Some(_), false) | (None, _) => Err(Refused::NoToken),
    }
}

/// Milliseconds as the seconds of a token's claims.
fn seconds(millis: i64) -> f64 {
    let clamped = millis.clamp(0, i64::from(u32::MAX) * 1000);
    Duration::from_millis(u64::try_from(clamped).unwrap_or(0)).as_secs_f64()
}

/// The scopes of a token.
type Scopes = BTreeSet<String>;

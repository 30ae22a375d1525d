//! `[http]` and `[control]` as they are written.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

/// The HTTP surface: a small API for schedulers, on this host.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::config) struct Http {
    /// Where to listen, as IP:PORT, or off.
    #[schemars(example = &"10.0.0.5:8000")]
    pub(in crate::config) listen: String,
    /// Addresses and networks that may connect. Unset: all.
    #[schemars(example = ["10.0.0.0/24"])]
    pub(in crate::config) allowed_ips: Option<Vec<String>>,
    /// How tokens are checked. Without a key everything that needs a token is refused.
    #[schemars(example = BTreeMap::from([("max_token_age_s", 600)]))]
    pub(in crate::config) auth: HttpAuth,
    /// A certificate. Unset: plain text.
    #[schemars(example = BTreeMap::<String, String>::new())]
    pub(in crate::config) tls: HttpTls,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8000".into(),
            allowed_ips: None,
            auth: HttpAuth::default(),
            tls: HttpTls::default(),
        }
    }
}

/// How tokens are checked: one key, one algorithm.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::config) struct HttpAuth {
    /// Who signs the tokens: their `iss`.
    #[schemars(example = &"https://scheduler.example.com")]
    pub(in crate::config) issuer: Option<String>,
    /// A secret of at least 32 raw bytes that is shared with who signs the tokens (HS256),
    /// absolute; one final newline is dropped; not readable by other users.
    #[schemars(example = &"/etc/rental-agent/http-secret", extend("format" = "path"))]
    pub(in crate::config) hs256_secret_file: Option<PathBuf>,
    /// The public key (PEM) of who signs the tokens, absolute: Ed25519 (EdDSA), P-256 (ES256) or
    /// RSA of at least 2048 bits (RS256).
    #[schemars(example = &"/etc/rental-agent/http-key.pem", extend("format" = "path"))]
    pub(in crate::config) public_key_file: Option<PathBuf>,
    /// A JSON Web Key Set of such public keys, absolute; tokens name theirs by `kid`.
    #[schemars(example = &"/etc/rental-agent/jwks.json", extend("format" = "path"))]
    pub(in crate::config) jwks_file: Option<PathBuf>,
    /// A token that is valid for longer is refused.
    #[schemars(range(min = 10, max = 86_400))]
    pub(in crate::config) max_token_age_s: u64,
}

impl Default for HttpAuth {
    fn default() -> Self {
        Self {
            issuer: None,
            hs256_secret_file: None,
            public_key_file: None,
            jwks_file: None,
            max_token_age_s: 900,
        }
    }
}

/// A certificate and its key; both files are read again when they change.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::config) struct HttpTls {
    /// The certificate and those between it and its root (PEM), absolute.
    #[schemars(example = &"/etc/rental-agent/http.pem", extend("format" = "path"))]
    pub(in crate::config) cert_file: Option<PathBuf>,
    /// Its private key (PEM), absolute; not readable by other users.
    #[schemars(example = &"/etc/rental-agent/http-key.pem", extend("format" = "path"))]
    pub(in crate::config) key_file: Option<PathBuf>,
}

/// Local control, for the owner of the machine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(inline)]
pub(in crate::config) struct Control {
    /// The unix socket that `rental-agent ps` and its like use, absolute, or off.
    #[schemars(example = &"/run/agent.sock")]
    pub(in crate::config) socket: PathBuf,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            socket: "/run/rental-agent/control.sock".into(),
        }
    }
}

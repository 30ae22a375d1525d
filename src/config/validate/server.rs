//! `[server]`: whom to dial, and with which token.

use std::{
    fs,
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use url::{Host, Url};

use super::{
    super::{KeyFile, Server, Token, TokenError, fault::Faults, load::mode_of_file, proxy, raw},
    absolute,
};

pub(super) fn check(
    raw: raw::Server,
    variables: &proxy::Variables,
    faults: &mut Faults,
) -> Option<Server> {
    let url = match raw.url {
        Some(text) => server_url(&text, raw.allow_plaintext, faults),
        None => {
            let remedy = "say which server to dial: API_SERVER_URL, --server-url, or `url` under \
                          [server], like wss://rentals.example.com";
            faults.missing("server.url", remedy);
            None
        }
    };
    let token = token(raw.token, raw.token_file, raw.jwt_key_file, faults);
    if let Some(path) = &raw.ca_file {
        ca_file(path, faults);
    }
    let proxy = url
        .as_ref()
        .and_then(|url| proxy::choose(url, variables, faults));
    Some(Server {
        proxy,
        url: url?,
        token: token?,
        ca_file: raw.ca_file,
    })
}

fn server_url(text: &str, allow_plaintext: bool, faults: &mut Faults) -> Option<Url> {
    const KEY: &str = "server.url";
    const LIKE: &str = "write wss://HOST[:PORT][/PATH]";
    if text.contains(['@', '?', '#']) {
        let reason = "holds credentials, a query or a fragment (the value is not shown)";
        faults.hidden(
            KEY,
            reason,
            format!("{LIKE}; the token goes into server.token_file"),
        );
        return None;
    }
    let mut url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => {
            faults.shown(KEY, text, format!("is no URL: {error}"), LIKE);
            return None;
        }
    };
    let scheme = match url.scheme() {
        "https" | "wss" => "wss",
        "http" | "ws" => "ws",
        other => {
            let reason = format!("has the scheme {other}, not one of https, wss, http, ws");
            faults.shown(KEY, text, reason, LIKE);
            return None;
        }
    };
    if scheme == "ws" && !allow_plaintext && !is_loopback(&url) {
        let reason = "would send the token in the clear to another host";
        let remedy = "use https or wss, or accept it with server.allow_plaintext = true";
        faults.shown(KEY, text, reason, remedy);
        return None;
    }
    // From http to ws and from https to wss a scheme can always be changed.
    url.set_scheme(scheme).ok()?;
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Some(url)
}

pub(in crate::config) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => {
            address.is_loopback() || address.to_ipv4_mapped().is_some_and(|v4| v4.is_loopback())
        }
        None => false,
    }
}

fn token(
    token: Option<SecretString>,
    token_file: Option<PathBuf>,
    jwt_key_file: Option<PathBuf>,
    faults: &mut Faults,
) -> Option<Token> {
    let set = [
        token.map(|token| ("server.token", Token::Static(token))),
        token_file.map(|path| ("server.token_file", Token::File(path))),
        jwt_key_file.map(|path| ("server.jwt_key_file", Token::Jwt(KeyFile(path)))),
    ];
    let mut set = set.into_iter().flatten();
    let Some((key, token)) = set.next() else {
        let remedy = "put the token that the central server gave this host into a file that only \
                      this user can read, and set AGENT_TOKEN_FILE, --token-file, or `token_file` \
                      under [server]; or let the agent sign tokens with `jwt_key_file`";
        faults.missing("server.token_file", remedy);
        return None;
    };
    if let Some((other, _)) = set.next() {
        let reason = format!("is set, and {other} too");
        faults.hidden(key, reason, "keep one of them, better a file");
        return None;
    }
    let found = match &token {
        Token::Static(_) => token.read(),
        Token::File(path) => {
            private_file(key, path, faults)?;
            token.read()
        }
        Token::Jwt(file) => {
            private_file(key, &file.0, faults)?;
            file.read()
        }
    };
    let Err(error) = found else {
        return Some(token);
    };
    let remedy = match error {
        TokenError::Unreadable { .. } => "name a file that this user can read",
        TokenError::NoKey { .. } => "make one with: openssl genpkey -algorithm ed25519",
        TokenError::Empty
        | TokenError::TooLong
        | TokenError::Unprintable
        | TokenError::NotStored => "set it to exactly what the central server gave this host",
    };
    faults.hidden(key, format!("gives no token: {error}"), remedy);
    None
}

/// A path that is not absolute is not shown: somebody may have set the token itself.
fn private_file(key: &str, path: &Path, faults: &mut Faults) -> Option<()> {
    if !path.is_absolute() {
        let reason = "is no absolute path (not shown, since it may be the token itself)";
        faults.hidden(key, reason, "write the path of the file that holds it");
        return None;
    }
    let mode = mode_of_file(path).filter(|mode| mode & 0o006 != 0);
    if let Some(mode) = mode {
        let path = path.display().to_string();
        let reason = format!("is open to every user of this host (mode {mode:04o})");
        let remedy = format!("chmod 600 {path} (in Kubernetes: defaultMode: 0400)");
        faults.shown(key, &path, reason, remedy);
        return None;
    }
    Some(())
}

fn ca_file(path: &Path, faults: &mut Faults) {
    const KEY: &str = "server.ca_file";
    let shown = path.display().to_string();
    if !absolute(KEY, path, faults) {
        return;
    }
    match fs::read(path) {
        Err(error) => {
            let remedy = "name a file of PEM certificates that this user can read";
            faults.shown(KEY, &shown, format!("cannot be read: {error}"), remedy);
        }
        Ok(content) => {
            let text = String::from_utf8_lossy(&content);
            if !text.contains("-----BEGIN CERTIFICATE-----") {
                faults.shown(
                    KEY,
                    &shown,
                    "holds no PEM certificate",
                    "name a file that does",
                );
            }
        }
    }
}

//! `[http]` and `[control]`: who may ask the agent on this host, and how they prove it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    super::{Control, Http, HttpAuth, HttpKey, HttpTls, fault::Faults, load::mode_of_file, raw},
    absolute,
};

/// Says that a listener is not wanted.
const OFF: &str = "off";
/// A shorter secret can be guessed (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;

pub(super) fn check(raw: raw::Http, faults: &mut Faults) -> Option<Http> {
    let listen = listen(&raw.listen, faults);
    let allowed = allowed_ips(raw.allowed_ips, faults);
    let auth = auth(raw.auth, faults);
    let tls = tls(raw.tls, faults);
    Some(Http {
        listen: listen?,
        allowed_ips: allowed?,
        auth: auth?,
        tls: tls?,
    })
}

pub(super) fn control(raw: raw::Control, faults: &mut Faults) -> Option<Control> {
    const KEY: &str = "control.socket";
    if raw.socket.as_os_str() == OFF {
        return Some(Control { socket: None });
    }
    // The kernel's limit, with its final NUL.
    if raw.socket.as_os_str().len() > 107 {
        let shown = raw.socket.display().to_string();
        let remedy = "write a path of at most 107 bytes";
        faults.shown(KEY, &shown, "is too long for a socket", remedy);
        return None;
    }
    absolute(KEY, &raw.socket, faults).then_some(Control {
        socket: Some(raw.socket),
    })
}

fn listen(text: &str, faults: &mut Faults) -> Option<Option<SocketAddr>> {
    if text == OFF {
        return Some(None);
    }
    if let Ok(address) = text.parse() {
        return Some(Some(address));
    }
    let remedy = "write IP:PORT, like 127.0.0.1:8000, or off";
    faults.shown("http.listen", text, "is no address to listen on", remedy);
    None
}

fn allowed_ips(texts: Option<Vec<String>>, faults: &mut Faults) -> Option<Option<Vec<IpNet>>> {
    let Some(texts) = texts else {
        return Some(None);
    };
    let mut nets = Vec::new();
    for text in &texts {
        let net = text.parse::<IpNet>().ok();
        match net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from)) {
            Some(net) => nets.push(net),
            None => {
                let remedy = "write addresses or networks, like 10.0.0.7 or 10.0.0.0/24";
                let reason = "is neither an IP address nor a network";
                faults.shown("http.allowed_ips", text, reason, remedy);
            }
        }
    }
    (nets.len() == texts.len()).then_some(Some(nets))
}

fn auth(raw: raw::HttpAuth, faults: &mut Faults) -> Option<Option<HttpAuth>> {
    const KEYS: &str =
        "http.auth.hs256_secret_file, http.auth.public_key_file and http.auth.jwks_file";
    let mut keys = Vec::new();
    keys.extend(raw.hs256_secret_file.map(HttpKey::Hs256));
    keys.extend(raw.public_key_file.map(HttpKey::Public));
    keys.extend(raw.jwks_file.map(HttpKey::Jwks));
    if keys.len() > 1 {
        let reason = "has more than one key; a token is checked with one key and one algorithm";
        faults.hidden("http.auth", reason, format!("keep one of {KEYS}"));
        return None;
    }
    let Some(key) = keys.pop() else {
        if raw.issuer.is_some() {
            faults.missing("http.auth.public_key_file", format!("set one of {KEYS}"));
            return None;
        }
        return Some(None);
    };
    let good = key_file(&key, faults);
    let issuer = raw.issuer.filter(|issuer| !issuer.is_empty());
    if issuer.is_none() {
        let remedy = "name who signs the tokens, exactly as in their `iss`";
        faults.missing("http.auth.issuer", remedy);
    }
    good.then_some(Some(HttpAuth {
        issuer: issuer?,
        key,
        max_token_age: Duration::from_secs(raw.max_token_age_s),
    }))
}

/// Whether the key can be read and may be what it is said to be. Its content is looked at closely
/// where it is used.
fn key_file(key: &HttpKey, faults: &mut Faults) -> bool {
    let (name, path) = match key {
        HttpKey::Hs256(path) => ("http.auth.hs256_secret_file", path),
        HttpKey::Public(path) => ("http.auth.public_key_file", path),
        HttpKey::Jwks(path) => ("http.auth.jwks_file", path),
    };
    let Some(content) = readable(name, path, faults) else {
        return false;
    };
    let shown = path.display().to_string();
    let text = String::from_utf8_lossy(&content);
    let reason = match key {
        HttpKey::Hs256(path) => {
            if !private(name, path, faults) {
                return false;
            }
            let bare = content.strip_suffix(b"\n").unwrap_or(&content);
            (bare.len() < MIN_SECRET_BYTES).then_some("holds less than 32 bytes")
        }
        HttpKey::Public(_) if text.contains("PRIVATE KEY-----") => {
            Some("holds a private key, which belongs to who signs the tokens alone")
        }
        HttpKey::Public(_) if !text.contains("PUBLIC KEY-----") => Some("holds no PEM public key"),
        HttpKey::Public(_) => None,
        HttpKey::Jwks(_) => {
            let set = serde_json::from_slice::<serde_json::Value>(&content).unwrap_or_default();
            let empty = set
                .get("keys")
                .and_then(|keys| keys.as_array())
                .is_none_or(Vec::is_empty);
            empty.then_some("holds no JSON Web Key Set")
        }
    };
    let Some(reason) = reason else { return true };
    let remedy = match key {
        HttpKey::Hs256(_) => "put at least 32 random bytes into it",
        HttpKey::Public(_) => "name the public key (PEM) of who signs the tokens",
        HttpKey::Jwks(_) => "name a file like {\"keys\": [...]} with the public keys",
    };
    faults.shown(name, &shown, reason, remedy);
    false
}

fn tls(raw: raw::HttpTls, faults: &mut Faults) -> Option<Option<HttpTls>> {
    const CERT: &str = "http.tls.cert_file";
    const KEY: &str = "http.tls.key_file";
    let (cert_file, key_file) = match (raw.cert_file, raw.key_file) {
        (None, None) => return Some(None),
        (Some(cert), Some(key)) => (cert, key),
        (Some(_), None) => {
            faults.missing(KEY, "name the certificate's private key (PEM) too");
            return None;
        }
        (None, Some(_)) => {
            faults.missing(CERT, "name the private key's certificates (PEM) too");
            return None;
        }
    };
    let certificate = pem(CERT, &cert_file, "CERTIFICATE-----", faults);
    let key = pem(KEY, &key_file, "PRIVATE KEY-----", faults) && private(KEY, &key_file, faults);
    (certificate && key).then_some(Some(HttpTls {
        cert_file,
        key_file,
    }))
}

fn pem(name: &str, path: &Path, marker: &str, faults: &mut Faults) -> bool {
    let Some(content) = readable(name, path, faults) else {
        return false;
    };
    let has = String::from_utf8_lossy(&content).contains(marker);
    if !has {
        let shown = path.display().to_string();
        let reason = format!("holds no PEM block that ends its name in {marker}");
        faults.shown(name, &shown, reason, "name a file that does");
    }
    has
}

fn readable(name: &str, path: &Path, faults: &mut Faults) -> Option<Vec<u8>> {
    if !absolute(name, path, faults) {
        return None;
    }
    match fs::read(path) {
        Ok(content) => Some(content),
        Err(error) => {
            let shown = path.display().to_string();
            let remedy = "name a file that this user can read";
            faults.shown(name, &shown, format!("cannot be read: {error}"), remedy);
            None
        }
    }
}

/// Whether a secret is kept from the other users of the host.
fn private(name: &str, path: &Path, faults: &mut Faults) -> bool {
    let Some(mode) = mode_of_file(path).filter(|mode| mode & 0o006 != 0) else {
        return true;
    };
    let shown = path.display().to_string();
    let reason = format!("is open to every user of this host (mode {mode:04o})");
    let remedy = format!("chmod 600 {shown} (in Kubernetes: defaultMode: 0400)");
    faults.shown(name, &shown, reason, remedy);
    false
}

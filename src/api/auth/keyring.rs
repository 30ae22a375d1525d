//! The keys that tokens are checked with. Each has one algorithm, which is the key's own: a token
//! cannot choose it.

use anyhow::{Context, bail, ensure};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse},
};

use crate::{api::files, config::HttpKey};

/// An RSA modulus of fewer bytes can be factored (RFC 7518, 3.3).
const MIN_RSA_BYTES: usize = 256;
/// The point of a P-256 key, uncompressed.
const P256_BYTES: usize = 65;
const MIN_SECRET_BYTES: usize = 32;

/// A key and its algorithm.
pub(super) struct Key {
    id: Option<String>,
    pub(super) algorithm: Algorithm,
    /// As a token's header writes it.
    pub(super) algorithm_name: &'static str,
    pub(super) key: DecodingKey,
}

/// An algorithm and its name in a token's header.
type Named = (Algorithm, &'static str);

const HS256: Named = (Algorithm::HS256, "HS256");
const ES256: Named = (Algorithm::ES256, "ES256");
const RS256: Named = (Algorithm::RS256, "RS256");
const EDDSA: Named = (Algorithm::EdDSA, "EdDSA");

/// All keys: one, but of a key set.
pub(super) struct Keyring {
    keys: Vec<Key>,
    /// Tokens name theirs.
    by_id: bool,
}

impl Keyring {
    /// Blocks for as long as the file system does.
    pub(super) fn read(source: &HttpKey) -> anyhow::Result<Self> {
        let (HttpKey::Hs256(path) | HttpKey::Public(path) | HttpKey::Jwks(path)) = source;
        let content = files::read(path).with_context(|| path.display().to_string())?;
        let one = |((algorithm, algorithm_name), key): (Named, DecodingKey)| Self {
            keys: vec![Key {
                id: None,
                algorithm,
                algorithm_name,
                key,
            }],
            by_id: false,
        };
        let keys = match source {
            HttpKey::Hs256(_) => secret(&content).map(one),
            HttpKey::Public(_) => public(&content).map(one),
            HttpKey::Jwks(_) => set(&content),
        };
        keys.with_context(|| path.display().to_string())
    }

    /// The key for a token with this `kid`. Where there is one key a `kid` says nothing.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match (self.by_id, kid) {
            (true, Some(kid)) => self.keys.iter().find(|key| key.id.as_deref() == Some(kid)),
            (true, None) if self.keys.len() > 1 => None,
            (true | false, _) => self.keys.first(),
        }
    }
}

fn secret(content: &[u8]) -> anyhow::Result<(Named, DecodingKey)> {
    let secret = content.strip_suffix(b"\n").unwrap_or(content);
    ensure!(secret.len() >= MIN_SECRET_BYTES, "holds less than 32 bytes");
    Ok((HS256, DecodingKey::from_secret(secret)))
}

fn public(pem: &[u8]) -> anyhow::Result<(Named, DecodingKey)> {
    let found = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        (EDDSA, key)
    } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
        (ES256, key)
    } else if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        (RS256, key)
    } else {
        bail!("holds no public key of Ed25519, P-256 or RSA");
    };
    let length = found.1.try_get_as_bytes().map_or(0, <[u8]>::len);
    if found.0 == ES256 {
        ensure!(
            length == P256_BYTES,
            "holds a key of another curve than P-256"
        );
    }
    if found.0 == RS256 {
        ensure!(
            length >= MIN_RSA_BYTES,
            "holds an RSA key of less than 2048 bits"
        );
    }
    Ok(found)
}

fn set(content: &[u8]) -> anyhow::Result<Keyring> {
    let set: JwkSet = serde_json::from_slice(content).context("holds no JSON Web Key Set")?;
    let mut keys = Vec::<Key>::new();
    for jwk in &set.keys {
        let id = jwk.common.key_id.clone();
        if jwk
            .common
            .public_key_use
            .as_ref()
            .is_some_and(|r#use| *r#use != PublicKeyUse::Signature)
        {
            continue;
        }
        let (algorithm, algorithm_name) = algorithm(jwk)?;
        ensure!(
            id.is_some() || set.keys.len() == 1,
            "holds several keys, of which one has no kid"
        );
        ensure!(
            !keys.iter().any(|key| key.id == id),
            "holds two keys of one kid"
        );
        keys.push(Key {
            id,
            algorithm,
            algorithm_name,
            key: DecodingKey::from_jwk(jwk).context("holds a key that cannot be used")?,
        });
    }
    ensure!(!keys.is_empty(), "holds no key for signatures");
    Ok(Keyring { keys, by_id: true })
}

fn algorithm(jwk: &Jwk) -> anyhow::Result<Named> {
    let kind = &jwk.algorithm;
    let (algorithm, name) = if let AlgorithmParameters::OctetKeyPair(pair) = kind
        && pair.curve == EllipticCurve::Ed25519
    {
        (EDDSA, KeyAlgorithm::EdDSA)
    } else if let AlgorithmParameters::EllipticCurve(key) = kind
        && key.curve == EllipticCurve::P256
    {
        (ES256, KeyAlgorithm::ES256)
    } else if let AlgorithmParameters::RSA(key) = kind {
        // Four characters of base64url are three bytes.
        ensure!(
            key.n.len() / 4 * 3 >= MIN_RSA_BYTES - 1,
            "holds an RSA key of less than 2048 bits"
        );
        (RS256, KeyAlgorithm::RS256)
    } else {
        bail!("holds a key that is not public, or of another kind than Ed25519, P-256 and RSA");
    };
    ensure!(
        jwk.common.key_algorithm.is_none_or(|wanted| wanted == name),
        "holds a key for another algorithm than EdDSA, ES256 or RS256"
    );
    Ok(algorithm)
}

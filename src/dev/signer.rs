//! Signs the reference server's commands, for agents with `policy.require_signed_commands`. In real
//! life this key is where the server cannot reach it.

use std::{fmt, fs, io, path::Path};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, prelude::BASE64_STANDARD};

/// An Ed25519 key.
pub struct Signer(Ed25519KeyPair);

impl Signer {
    /// Reads one from a file: PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` writes it.
    ///
    /// # Errors
    /// When there is no such key.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let body: String = text
            .lines()
            .filter(|line| !line.starts_with("-----"))
            .collect();
        let no_key = || io::Error::other("no Ed25519 private key as PKCS#8 in PEM");
        let der = BASE64_STANDARD.decode(body).map_err(|_| no_key())?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map_err(|_| no_key())?;
        Ok(Self(pair))
    }

    /// What agents are told to trust.
    pub fn public_key(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The signature, in base64.
    pub fn sign(&self, message: &[u8]) -> String {
        BASE64_STANDARD.encode(self.0.sign(message))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

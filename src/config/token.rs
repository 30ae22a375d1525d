//! The bearer token: where it is read, and what may be sent as one.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};

use super::{KeyFile, Token};

/// A header of more than this is refused by many servers and proxies.
const MAX_BYTES: u64 = 8 * 1024;

/// The object identifier of Ed25519 as DER.
const ED25519: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];

/// Why there is no token. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file is not there, or may not be read.
    #[error("the token file {} cannot be read: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What a key that signs has to be.
    #[error("the file {} holds no Ed25519 private key as PKCS#8 in PEM", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// It is made when it is needed.
    #[error("the token is signed at each dial, and not stored")]
    NotStored,
    /// Nothing in it.
    #[error("the token is empty")]
    Empty,
    /// More than any header takes.
    #[error("the token has more than {MAX_BYTES} bytes")]
    TooLong,
    /// Something that cannot be sent in a header: a line break, a space, a control character.
    #[error("the token holds a character that is no visible ASCII character")]
    Unprintable,
}

impl Token {
    /// The token as it is now. A file is read each time, so that it can be rotated; one final
    /// newline is dropped. Blocks for as long as the file system does.
    pub fn read(&self) -> Result<SecretString, TokenError> {
        match self {
            Self::Static(token) => {
                check(token.expose_secret())?;
                Ok(token.clone())
            }
            Self::File(path) => {
                let mut text = read(path).map_err(|source| TokenError::Unreadable {
                    path: path.clone(),
                    source,
                })?;
                if text.ends_with('\n') {
                    text.pop();
                    if text.ends_with('\r') {
                        text.pop();
                    }
                }
                check(&text)?;
                Ok(text.into())
            }
            Self::Jwt(_) => Err(TokenError::NotStored),
        }
    }
}

impl KeyFile {
    /// The PEM as it is now. Blocks for as long as the file system does.
    pub fn read(&self) -> Result<SecretString, TokenError> {
        let Self(path) = self;
        let text = read(path).map_err(|source| TokenError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let text = SecretString::from(text);
        let der = PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes());
        let is_key = match &der {
            Ok(PrivateKeyDer::Pkcs8(der)) => {
                let der = der.secret_pkcs8_der();
                der.windows(ED25519.len()).take(16).any(|at| at == ED25519)
            }
            Ok(_) | Err(_) => false,
        };
        match is_key {
            true => Ok(text),
            false => Err(TokenError::NoKey { path: path.clone() }),
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // A little more than is allowed, so that too much is seen as such.
    File::open(path)?
        .take(MAX_BYTES + 3)
        .read_to_string(&mut text)?;
    Ok(text)
}

fn check(token: &str) -> Result<(), TokenError> {
    if token.is_empty() {
        return Err(TokenError::Empty);
    }
    if u64::try_from(token.len()).is_ok_and(|bytes| bytes > MAX_BYTES) {
        return Err(TokenError::TooLong);
    }
    if token.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(())
    } else {
        Err(TokenError::Unprintable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_file_with(content: &str) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let token = Token::File(file.path().to_owned()).read();
        token
            .map(|token| token.expose_secret().to_owned())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_final_newline_of_a_token_file_is_dropped_and_no_more() {
        for content in ["s3cret", "s3cret\n", "s3cret\r\n"] {
            assert_eq!(read_file_with(content).as_deref(), Ok("s3cret"));
        }
        assert!(read_file_with("s3cret\n\n").is_err());
    }

    #[test]
    fn a_rotated_token_file_is_read_anew() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let token = Token::File(file.path().to_owned());
        for content in ["first", "second"] {
            std::fs::write(file.path(), content).unwrap();
            assert_eq!(token.read().unwrap().expose_secret(), content);
        }
    }

    #[test]
    fn what_cannot_be_sent_as_a_token_is_refused_without_showing_it() {
        let long = "x".repeat(9000);
        for content in ["", "\n", "s3c ret", "s3cret\u{7}", "s3crét", long.as_str()] {
            let error = read_file_with(content).unwrap_err();
            assert!(!error.contains("s3c"), "{error}");
            let error = Token::Static(content.into()).read().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3c"), "{error}");
        }
    }
}

//! Whom the agent trusts: the system's roots and `server.ca_file`, nobody else, TLS 1.2 or newer.
//! There is no switch that turns verification off.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// `server.ca_file`.
    #[error("server.ca_file {} cannot be used", path.display())]
    CaFile {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// `server.ca_file` is read and has no certificate that can be a root.
    #[error("server.ca_file {} holds no certificate", path.display())]
    NoCertificate {
        /// Which file.
        path: PathBuf,
    },
    /// The system has no root certificates and no `server.ca_file` is configured.
    #[error("this system has no root certificates; install ca-certificates or set server.ca_file")]
    NoRoots,
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up")]
    Library(#[source] rustls::Error),
}

/// Reads the roots. Blocks for as long as the file system does. Done anew at each dial, so that a
/// replaced certificate is noticed without a restart.
pub(super) fn client_config(ca_file: Option<PathBuf>) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    // What of the system's store cannot be read is missing from it; if that matters, the handshake
    // says which issuer is unknown.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect);
        let certificates: Vec<CertificateDer<'static>> = match read {
            Ok(certificates) => certificates,
            Err(source) => return Err(TrustError::CaFile { path, source }),
        };
        let (added, _) = roots.add_parsable_certificates(certificates);
        if added == 0 {
            return Err(TrustError::NoCertificate { path });
        }
    }
    if roots.is_empty() {
        return Err(TrustError::NoRoots);
    }
    // The provider is named here, so that it does not depend on what else the process links.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Library)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

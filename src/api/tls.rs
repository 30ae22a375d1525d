//! The certificate of the HTTP surface. Read again when its files change; a pair that cannot be used
//! leaves the one before in place.

use std::sync::Arc;

use anyhow::Context;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::files::{self, Files};
use crate::config::HttpTls;

/// Certificate and key as they were read last.
#[derive(Debug)]
pub(super) struct Certificate {
    paths: HttpTls,
    files: Files,
    current: watch::Sender<Arc<ServerConfig>>,
}

impl Certificate {
    /// Blocks for as long as the file system does.
    pub(super) fn read(paths: HttpTls) -> anyhow::Result<Self> {
        let files = Files::new(vec![paths.cert_file.clone(), paths.key_file.clone()]);
        let current = watch::Sender::new(read(&paths)?);
        Ok(Self {
            paths,
            files,
            current,
        })
    }

    /// For the next connection.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.current.borrow()))
    }

    /// Takes what the files hold now, if that has changed and can be used.
    pub(super) fn refresh(&self) {
        let found = self.files.read_changed("certificate", || read(&self.paths));
        if let Some(config) = found {
            self.current.send_replace(config);
        }
    }
}

fn read(paths: &HttpTls) -> anyhow::Result<Arc<ServerConfig>> {
    let (cert, key) = (&paths.cert_file, &paths.key_file);
    let text =
        files::read(cert).with_context(|| format!("http.tls.cert_file {}", cert.display()))?;
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .context("http.tls.cert_file")?;
    let text = files::read(key).with_context(|| format!("http.tls.key_file {}", key.display()))?;
    let key = PrivateKeyDer::from_pem_slice(&text).context("http.tls.key_file")?;
    // The provider is named here, so that it does not depend on what else the process links.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("http.tls: certificate and key do not go together")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

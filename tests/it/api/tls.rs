//! The HTTP surface with a certificate.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rental_agent::api::Limits;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio_rustls::TlsConnector;

use super::{
    client::{ask, request},
    rig::Rig,
};
use crate::peer::soon;

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a new certificate and its key.
fn certify(folder: &Path, authority: &CertifiedIssuer<'static, KeyPair>) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    fs::write(folder.join("cert"), certificate.pem()).unwrap();
    fs::write(folder.join("key"), key.serialize_pem()).unwrap();
    fs::set_permissions(folder.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Asks for `/health` as one who trusts this authority.
async fn healthy(rig: &Rig, trusted: &CertifiedIssuer<'static, KeyPair>) -> Option<u16> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(trusted.der().to_vec()))
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = soon(connector.connect(name, rig.dial().await)).await.ok()?;
    Some(
        ask(stream, &request("GET", "/health", &[], None))
            .await
            .status,
    )
}

#[tokio::test]
async fn a_new_certificate_is_taken_without_a_restart_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (authority(), authority());
    certify(folder.path(), &first);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (path("cert"), path("key"));
    let keys = [
        ("http.tls.cert_file", cert.as_str()),
        ("http.tls.key_file", key.as_str()),
    ];
    let rig = Rig::with(Limits::default(), &keys).await;
    assert_eq!(healthy(&rig, &first).await, Some(200));
    assert_eq!(healthy(&rig, &second).await, None);
    fs::write(&cert, "-----BEGIN CERTIFICATE-----\nnonsense").unwrap();
    assert_eq!(healthy(&rig, &first).await, Some(200));
    certify(folder.path(), &second);
    soon(async { while healthy(&rig, &second).await.is_none() {} }).await;
    // Plain text is not answered.
    let mut stream = rig.dial().await;
    use tokio::io::AsyncWriteExt;
    let text = request("GET", "/health", &[], None);
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let _ = soon(tokio::io::AsyncReadExt::read_to_end(
        &mut stream,
        &mut bytes,
    ))
    .await;
    assert!(!bytes.starts_with(b"HTTP"), "{bytes:?}");
}

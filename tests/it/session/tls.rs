//! Whom the agent believes.

use std::{io::Write, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rental_agent::session::{DialError, Limits, TrustError, dial};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::NamedTempFile;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::rig::{Rig, identity, quick, server};
use crate::peer::{Connection, Peer, soon, welcome};

pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(super) fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, "test authority");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

pub(super) fn file(pem: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(pem.as_bytes()).unwrap();
    file
}

/// A server's side of TLS, with a certificate for `names` that `change` has changed.
pub(super) fn acceptor(
    authority: &Authority,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> TlsAcceptor {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// What a dial to `https://{host}` makes of a server with `acceptor`, trusting `trusted`.
async fn dialled(host: &str, acceptor: TlsAcceptor, trusted: &Authority) -> Result<(), DialError> {
    let ca_file = file(&trusted.pem());
    let peer = Peer::start().await;
    let mut server = server(&peer);
    server.url = format!("https://{host}:{}", peer.port()).parse().unwrap();
    server.ca_file = Some(ca_file.path().to_owned());
    let (identity, limits) = (identity(), Limits::default());
    let answering = async {
        let stream: TlsStream<TcpStream> = acceptor.accept(peer.tcp().await).await.ok()?;
        Some(Connection::upgrade(stream, Some("rental-agent.v1")).await)
    };
    let dialling = dial(&server, &identity.agent_id, &limits);
    let (dialled, connection) = tokio::join!(soon(dialling), soon(answering));
    let socket = dialled?;
    let asked = connection.unwrap().asked;
    assert_eq!(asked.path, "/agents/host-7/session");
    drop(socket);
    Ok(())
}

/// That TLS was refused for the reason that these words name.
fn refused(dialled: Result<(), DialError>, words: &str) {
    match dialled {
        Err(DialError::Tls(source)) => {
            let source = source.to_string();
            assert!(source.contains(words), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_server_of_the_configured_authority_is_believed_by_name_and_by_address() {
    let ours = authority();
    for host in ["localhost", "127.0.0.1"] {
        let acceptor = acceptor(&ours, &[host], |_| {});
        dialled(host, acceptor, &ours).await.unwrap();
    }
}

#[tokio::test]
async fn f59_a_server_of_another_authority_is_refused() {
    let (ours, theirs) = (authority(), authority());
    let acceptor = acceptor(&theirs, &["localhost"], |_| {});
    refused(
        dialled("localhost", acceptor, &ours).await,
        "invalid peer certificate",
    );
}

#[tokio::test]
async fn f59_a_certificate_of_another_host_is_refused() {
    let ours = authority();
    let acceptor = acceptor(&ours, &["elsewhere.example"], |_| {});
    refused(
        dialled("localhost", acceptor, &ours).await,
        "not valid for name",
    );
}

#[tokio::test]
async fn f59_an_expired_certificate_is_refused() {
    let ours = authority();
    let acceptor = acceptor(&ours, &["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    refused(dialled("localhost", acceptor, &ours).await, "expired");
}

#[tokio::test]
async fn f59_a_server_that_speaks_tls_1_1_at_most_is_refused() {
    // A ServerHello of version 3.2, which is TLS 1.1, with TLS_RSA_WITH_AES_128_CBC_SHA.
    let mut hello = vec![0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 0x2f, 0]);
    refused(answered_with(&hello).await, "incompatible");
}

#[tokio::test]
async fn f59_a_server_without_tls_is_refused_and_never_asked_in_plain_text() {
    let dialled = answered_with(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    assert!(matches!(dialled.unwrap_err(), DialError::Tls(_)));
}

/// Dials a server that answers the first bytes, which have to be a TLS handshake's, with these. It
/// must not be dialled again.
async fn answered_with(answer: &[u8]) -> Result<(), DialError> {
    let ours = authority();
    let ca_file = file(&ours.pem());
    let peer = Peer::start().await;
    let mut server = server(&peer);
    server.url = peer.url("wss", "");
    server.ca_file = Some(ca_file.path().to_owned());
    let (identity, limits) = (identity(), Limits::default());
    let answering = async {
        let mut stream = peer.tcp().await;
        let mut first = [0; 5];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first)
            .await
            .unwrap();
        assert_eq!(first[0], 22, "not a TLS handshake: {first:?}");
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
            .await
            .unwrap();
        stream
    };
    let dialling = dial(&server, &identity.agent_id, &limits);
    let (dialled, _stream) = tokio::join!(soon(dialling), soon(answering));
    assert!(!peer.dialled_within(Duration::from_millis(50)).await);
    dialled.map(drop)
}

#[tokio::test]
async fn an_authority_that_cannot_be_read_is_an_error_of_its_own() {
    let peer = Peer::start().await;
    let mut server = server(&peer);
    server.url = peer.url("wss", "");
    for (path, words) in [
        (
            std::path::PathBuf::from("/nonexistent/ca.pem"),
            "/nonexistent/ca.pem",
        ),
        (
            file("no certificate in here").keep().unwrap().1,
            "holds no certificate",
        ),
    ] {
        server.ca_file = Some(path);
        let dialling = dial(&server, &identity().agent_id, &Limits::default()).await;
        match dialling.unwrap_err() {
            DialError::Trust(
                error @ (TrustError::CaFile { .. } | TrustError::NoCertificate { .. }),
            ) => {
                assert!(error.to_string().contains(words), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_whole_session_goes_through_tls() {
    let ours = authority();
    let acceptor = acceptor(&ours, &["127.0.0.1"], |_| {});
    let ca_file = file(&ours.pem());
    let peer = Peer::start().await;
    let url = peer.url("wss", "");
    let path = ca_file.path().to_owned();
    let mut rig = Rig::with(peer, quick(), |server| {
        server.url = url;
        server.ca_file = Some(path);
    });
    let stream = soon(acceptor.accept(rig.peer.tcp().await)).await.unwrap();
    let mut connection = Connection::upgrade(stream, Some("rental-agent.v1")).await;
    connection.expect("hello").await;
    connection.send(welcome()).await;
    let (_, events) = rig.connected().await;
    let records = (1..=2000).map(super::rig::record).collect();
    let event = rental_agent::instance::publish::Event::Records(records);
    events.send(event).await.unwrap();
    for generation in 1..=2000 {
        assert_eq!(connection.find("instance").await["generation"], generation);
    }
    let (code, stopped) = tokio::join!(connection.closed(), rig.stopped());
    stopped.unwrap();
    assert_eq!(code, Some(1001));
}

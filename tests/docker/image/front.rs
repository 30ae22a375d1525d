//! The reference server, as a container finds it: over TLS, at the address of the engine's host.

use std::{net::IpAddr, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::lab::Net;

/// Takes TLS connections in one network and passes what they say on in another. Ends when dropped.
#[derive(Debug)]
pub(super) struct Front {
    url: String,
    authority: String,
    _tasks: JoinSet<()>,
}

impl Front {
    /// Listens at `address` of `net`, for the server at `behind` of the test's own network.
    pub(super) fn start(net: &Net, address: IpAddr, behind: String) -> Self {
        let listener = net.listen_at(address);
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let (acceptor, authority) = acceptor(&address.to_string());
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, acceptor, behind));
        Self {
            url,
            authority,
            _tasks: tasks,
        }
    }

    /// What the agent is given.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whom to trust, as PEM.
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, behind: String) {
    let mut connections = JoinSet::new();
    loop {
        let (outer, _) = listener.accept().await.unwrap();
        let (acceptor, behind) = (acceptor.clone(), behind.clone());
        connections.spawn(async move {
            // Either side may go away at any time: so does the agent.
            let mut outer = acceptor.accept(outer).await.ok()?;
            let mut inner = TcpStream::connect(behind).await.ok()?;
            copy_bidirectional(&mut outer, &mut inner).await.ok()
        });
    }
}

/// A server's side of TLS for `name`, and the authority that vouches for it.
fn acceptor(name: &str) -> (TlsAcceptor, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), authority.pem())
}

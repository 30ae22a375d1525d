//! A registry that answers wrongly on purpose: one repository for each way to go wrong.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{background::Background, engine::Engine, image::root_file_system};

/// How a repository goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repository {
    /// Not at all.
    Good,
    /// Good, but its layer stops in the middle until [`StubRegistry::release`].
    Gated,
    /// No such manifest.
    Missing,
    /// 401.
    Unauthorized,
    /// 429.
    RateLimited,
    /// 500.
    Failing,
    /// The layer's bytes are not those that the manifest names.
    WrongDigest,
    /// The layer is no archive, though its digest is right.
    BadArchive,
    /// The layer stops in the middle, for ever.
    Stalled,
    /// The connection ends in the middle of the layer.
    Truncated,
    /// A list of manifests without one for this machine.
    NoPlatform,
    /// An image for another architecture, without a list.
    Foreign,
}

/// The registry.
#[derive(Debug)]
pub(crate) struct StubRegistry {
    address: String,
    contents: Arc<Contents>,
    _background: Background,
}

#[derive(Debug)]
struct Contents {
    layer: Vec<u8>,
    garbage: Vec<u8>,
    open: AtomicBool,
    requests: Mutex<Vec<String>>,
}

impl StubRegistry {
    /// On the loopback that `engine` sees.
    pub(crate) fn start(engine: &Engine) -> Self {
        let listener = engine.net().listen();
        let address = listener.local_addr().expect("its address").to_string();
        listener.set_nonblocking(true).expect("a listener");
        let layer = root_file_system(0);
        let contents = Arc::new(Contents {
            garbage: Sha256::digest(&layer).repeat(5000),
            layer,
            open: AtomicBool::new(false),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&contents);
        let background = Background::run(move || async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            contents,
            _background: background,
        }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// By which `repository` is pulled.
    pub(crate) fn reference(&self, repository: Repository) -> String {
        format!("{}/{}:1", self.address, repository.name())
    }

    /// Lets the gated layer go on.
    pub(crate) fn release(&self) {
        self.contents.open.store(true, Ordering::SeqCst);
    }

    /// Methods and paths of what was asked, in order.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.contents.requests.lock().expect("the requests").clone()
    }
}

impl Repository {
    const ALL: [Self; 12] = [
        Self::Good,
        Self::Gated,
        Self::Missing,
        Self::Unauthorized,
        Self::RateLimited,
        Self::Failing,
        Self::WrongDigest,
        Self::BadArchive,
        Self::Stalled,
        Self::Truncated,
        Self::NoPlatform,
        Self::Foreign,
    ];

    fn name(self) -> String {
        format!("lab/{self:?}").to_lowercase()
    }

    fn of(path: &str) -> Option<Self> {
        let repository = path.strip_prefix("/v2/")?;
        Self::ALL
            .into_iter()
            .find(|r| repository.starts_with(&format!("{}/", r.name())))
    }
}

/// First byte of a TLS handshake: engines try that first, and wait for an answer.
const TLS: u8 = 0x16;

/// One request per connection.
async fn serve(mut stream: TcpStream, contents: Arc<Contents>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(TLS) if head.is_empty() => return,
            Ok(byte) if head.len() < 16_384 => head.push(byte),
            Ok(_) | Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let asked = format!("{method} {path}");
    contents.requests.lock().expect("the requests").push(asked);
    // Whoever asks may hang up at any time.
    drop(answer(&mut stream, method == "HEAD", path, &contents).await);
}

async fn answer(
    stream: &mut TcpStream,
    head_only: bool,
    path: &str,
    contents: &Contents,
) -> io::Result<()> {
    let Some(repository) = Repository::of(path) else {
        return respond(stream, head_only, 200, "application/json", b"{}").await;
    };
    let error = match repository {
        Repository::Missing => Some((404, "MANIFEST_UNKNOWN", "manifest unknown")),
        Repository::Unauthorized => Some((401, "UNAUTHORIZED", "authentication required")),
        Repository::RateLimited => Some((429, "TOOMANYREQUESTS", "too much")),
        Repository::Failing => Some((500, "UNKNOWN", "broken")),
        _ => None,
    };
    if let Some((status, code, message)) = error {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
        let body = body.to_string();
        return respond(
            stream,
            head_only,
            status,
            "application/json",
            body.as_bytes(),
        )
        .await;
    }
    let image = Image::of(repository, contents);
    if path.contains("/manifests/") {
        let (kind, body) = (image.manifest_type, image.manifest.as_bytes());
        respond(stream, head_only, 200, kind, body).await
    } else if path.ends_with(&digest(image.config.as_bytes())) {
        respond(
            stream,
            head_only,
            200,
            "application/json",
            image.config.as_bytes(),
        )
        .await
    } else {
        send_layer(stream, repository, &image, contents).await
    }
}

async fn send_layer(
    stream: &mut TcpStream,
    repository: Repository,
    image: &Image<'_>,
    contents: &Contents,
) -> io::Result<()> {
    let body = match repository {
        Repository::WrongDigest => vec![b'x'; image.layer.len()],
        _ => image.layer.to_vec(),
    };
    let (first, second) = body.split_at(body.len() / 2);
    let head = head(
        200,
        "application/octet-stream",
        body.len(),
        &digest(image.layer),
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(first).await?;
    match repository {
        Repository::Truncated => return stream.shutdown().await,
        Repository::Stalled => return gone(stream).await,
        Repository::Gated => {
            while !contents.open.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        _ => {}
    }
    stream.write_all(second).await?;
    stream.shutdown().await
}

/// Until the other side hangs up.
async fn gone(stream: &mut TcpStream) -> io::Result<()> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map(|_| ())
}

async fn respond(
    stream: &mut TcpStream,
    head_only: bool,
    status: u16,
    kind: &str,
    body: &[u8],
) -> io::Result<()> {
    let head = head(status, kind, body.len(), &digest(body));
    stream.write_all(head.as_bytes()).await?;
    if !head_only {
        stream.write_all(body).await?;
    }
    stream.shutdown().await
}

fn head(status: u16, kind: &str, length: usize, digest: &str) -> String {
    format!(
        "HTTP/1.1 {status} Stub\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Docker-Content-Digest: {digest}\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\
         Connection: close\r\n\r\n"
    )
}

/// What a repository holds: one layer and what describes it.
struct Image<'a> {
    layer: &'a [u8],
    config: String,
    manifest: String,
    manifest_type: &'static str,
}

impl<'a> Image<'a> {
    fn of(repository: Repository, contents: &'a Contents) -> Self {
        let layer: &[u8] = match repository {
            Repository::BadArchive => &contents.garbage,
            _ => &contents.layer,
        };
        let architecture = match repository {
            Repository::Foreign => "s390x",
            _ => match std::env::consts::ARCH {
                "aarch64" => "arm64",
                _ => "amd64",
            },
        };
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "config": { "Env": ["PATH=/bin"], "Cmd": ["httpd", "-f", "-p", "80", "-h", "/www"] },
            "rootfs": { "type": "layers", "diff_ids": [digest(layer)] },
            "history": [{ "created_by": format!("{repository:?}") }],
        });
        let config = config.to_string();
        let blob = |kind: &str, bytes: &[u8]| {
            let kind = format!("application/vnd.docker.{kind}");
            serde_json::json!({ "mediaType": kind, "size": bytes.len(), "digest": digest(bytes) })
        };
        let v2 = "application/vnd.docker.distribution.manifest.v2+json";
        let list = "application/vnd.docker.distribution.manifest.list.v2+json";
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": v2,
            "config": blob("container.image.v1+json", config.as_bytes()),
            "layers": [blob("image.rootfs.diff.tar.gzip", layer)],
        });
        let manifests = serde_json::json!({
            "schemaVersion": 2, "mediaType": list,
            "manifests": [{
                "mediaType": v2, "size": 1, "digest": digest(b"none"),
                "platform": { "architecture": "s390x", "os": "linux" },
            }],
        });
        let (manifest, manifest_type) = match repository {
            Repository::NoPlatform => (manifests, list),
            _ => (manifest, v2),
        };
        Self {
            layer,
            config,
            manifest: manifest.to_string(),
            manifest_type,
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

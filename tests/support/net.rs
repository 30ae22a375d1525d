//! Network namespaces: each engine of a test's own has one, and whatever it has to reach on loopback
//! lives in it.

use std::{
    fs::File,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network.
#[derive(Debug, Clone)]
pub(crate) enum Net {
    /// The one of the test itself.
    Here,
    /// A named one.
    Named(PathBuf),
}

impl Net {
    /// A listener on a free port of this network's loopback.
    pub(crate) fn listen(&self) -> TcpListener {
        self.inside(|| TcpListener::bind("127.0.0.1:0").expect("bind on loopback"))
    }

    /// A listener on a free port of this address of this network.
    pub(crate) fn listen_at(&self, address: IpAddr) -> TcpListener {
        self.inside(|| TcpListener::bind((address, 0)).expect("bind in the network"))
    }

    /// A port of this network's loopback that is free now.
    pub(crate) fn free_port(&self) -> u16 {
        self.listen().local_addr().expect("its address").port()
    }

    /// A connection to `port` on this network's loopback.
    pub(crate) fn dial(&self, port: u16) -> std::io::Result<TcpStream> {
        self.connect(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn connect(&self, address: SocketAddr) -> std::io::Result<TcpStream> {
        self.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(5)))
    }

    /// Whether this network's loopback speaks IPv6.
    pub(crate) fn has_ipv6(&self) -> bool {
        self.inside(|| TcpListener::bind("[::1]:0").is_ok())
    }

    /// The body that an HTTP server on `port` gives for `/`; `None` when there is none.
    pub(crate) fn http_get(&self, port: u16) -> Option<String> {
        self.http_get_from(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// The same, from any address of this network.
    pub(crate) fn http_get_from(&self, address: SocketAddr) -> Option<String> {
        use std::io::{Read, Write};
        let mut stream = self.connect(address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    /// A command that runs in this network.
    pub(crate) fn command(&self, program: &str) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::Named(path) => {
                // Not `ip netns exec`: that mounts /sys anew, and an engine then finds no cgroups.
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net={}", path.display()))
                    .arg(program);
                command
            }
        }
    }

    /// Runs `work` inside. A socket belongs for ever to the network it was made in, so a thread that
    /// moves there and ends is enough.
    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Self::Named(path) = self else {
            return work();
        };
        let namespace = File::open(path).expect("the network namespace");
        std::thread::scope(|scope| {
            let moved = scope.spawn(|| {
                let kind = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(rustix::fd::AsFd::as_fd(&namespace), kind)
                    .expect("move into the network namespace");
                work()
            });
            moved.join().expect("work in the network namespace")
        })
    }
}

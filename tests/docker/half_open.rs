//! F44: the network between agent and server swallows everything, without a word to either side. In a
//! network namespace of its own with a packet filter, so it needs root and no engine.

#[allow(dead_code, unreachable_pub, reason = "this test uses a part of it")]
#[path = "../it/session/rig.rs"]
mod rig;

use std::{process::Command, thread, time::Duration};

use rental_agent::{instance::publish::Event, session::Limits};
use rustix::{
    fd::AsFd,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::time::{Instant, interval};

use crate::peer::Peer;
use rig::{Rig, record};

/// FAULTS P7: ten seconds between pings, three of them missed, and what a busy machine adds.
const AT_MOST: Duration = Duration::from_secs(45);

#[test]
fn f44_a_link_that_swallows_everything_is_left_within_45_s_also_while_the_agent_writes() {
    let network = Network::new();
    let namespace = std::fs::File::open(format!("/run/netns/{}", network.0)).unwrap();
    // A socket belongs to the network that its thread was in, and so does what the thread starts.
    let inside = thread::spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(swallowed());
    });
    inside.join().expect("the test in its own network");
}

/// A network namespace with nothing but loopback.
struct Network(String);

impl Network {
    fn new() -> Self {
        let name = format!("rental-agent-f44-{}", std::process::id());
        run("ip", &["netns", "add", &name]);
        let network = Self(name);
        run("ip", &["-n", &network.0, "link", "set", "lo", "up"]);
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.0]);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    let done = status.unwrap_or_else(|error| panic!("{program}: {error} (it needs root)"));
    assert!(done.success(), "{program} {arguments:?}");
}

async fn swallowed() {
    // With the protocol's own limits.
    let mut rig = Rig::start(Limits::default()).await;
    let connection = rig.peer.session().await;
    let (session, events) = rig.connected().await;
    let began = Instant::now();
    filter("-A", &rig.peer);
    let writing = async {
        let mut pace = interval(Duration::from_millis(200));
        while events.send(Event::Record(record(1))).await.is_ok() {
            pace.tick().await;
        }
    };
    let noticed = tokio::time::timeout(AT_MOST, async {
        tokio::join!(writing, rig.inputs.recv()).1
    });
    let input = noticed.await.expect("it is not noticed").unwrap();
    let took = began.elapsed();
    assert!(
        matches!(input, rental_agent::driver::FromServer::Disconnected { session: of } if of == session),
        "{input:?}"
    );
    assert!(took > Duration::from_secs(14), "too hasty: {took:?}");
    // Once the network is back, so is the agent.
    filter("-D", &rig.peer);
    drop(connection);
    rig.peer.session().await;
    rig.connected().await;
}

/// Lets nothing through to or from the peer, in either direction.
fn filter(how: &str, peer: &Peer) {
    let port = peer.port().to_string();
    for side in ["--dport", "--sport"] {
        let rule = [
            how, "INPUT", "-i", "lo", "-p", "tcp", side, &port, "-j", "DROP",
        ];
        run("iptables", &rule);
    }
}

//! TCP to a name that has several addresses: the next one is tried when one fails, and also when it
//! only keeps silent, so that a black hole in front does not use up the time of the others.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{net::TcpStream, select, time::sleep};

use super::DialError;

/// The first that answers. Has no limit of its own: the caller's is over the whole dial.
pub(super) async fn connect(
    addresses: Vec<SocketAddr>,
    stagger: Duration,
) -> Result<TcpStream, DialError> {
    let mut waiting = alternating(addresses);
    let mut tries = FuturesUnordered::new();
    let mut failed = None;
    loop {
        if let Some(address) = waiting.pop_front() {
            tries.push(async move { (address, TcpStream::connect(address).await) });
        }
        match next(&mut tries, stagger, !waiting.is_empty()).await {
            Step::Connected(stream) => return Ok(stream),
            Step::Failed(address, source) => failed = Some(DialError::Tcp { address, source }),
            Step::Silence => {}
            Step::NoneLeft => return Err(failed.unwrap_or(DialError::Aborted)),
        }
    }
}

enum Step {
    Connected(TcpStream),
    Failed(SocketAddr, io::Error),
    Silence,
    NoneLeft,
}

async fn next<F>(tries: &mut FuturesUnordered<F>, stagger: Duration, more: bool) -> Step
where
    F: Future<Output = (SocketAddr, io::Result<TcpStream>)>,
{
    select! {
        // An answer that is there goes before a further try.
        biased;
        answer = tries.next() => match answer {
            Some((_, Ok(stream))) => Step::Connected(stream),
            Some((address, Err(source))) => Step::Failed(address, source),
            None => Step::NoneLeft,
        },
        () = sleep(stagger), if more => Step::Silence,
    }
}

/// In the resolver's order, but the families take turns: often one of them is broken as a whole.
fn alternating(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (one, other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv4() == first_is_v4);
    let mut other = other.into_iter();
    let mut order = VecDeque::new();
    for address in one {
        order.push_back(address);
        order.extend(other.next());
    }
    order.extend(other);
    order
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        net::{TcpListener, TcpSocket},
        time::{Instant, timeout},
    };

    use super::*;

    const STAGGER: Duration = Duration::from_millis(50);

    /// A listener whose queue is full: it answers no further connection, and refuses none.
    async fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) =
            timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
        }
        (address, listener, queued)
    }

    async fn refusing() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn f58_a_black_hole_in_front_costs_only_the_stagger() {
        let (hole, _listener, _queued) = black_hole().await;
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open_address = open.local_addr().unwrap();
        let began = Instant::now();
        let stream = connect(vec![hole, refusing().await, open_address], STAGGER);
        let stream = stream.await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open_address);
        assert!(began.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn when_all_refuse_the_error_names_an_address() {
        let (one, other) = (refusing().await, refusing().await);
        let error = connect(vec![one, other], STAGGER).await.unwrap_err();
        assert!(matches!(error, DialError::Tcp { address, .. } if address == other));
    }

    #[test]
    fn families_take_turns() {
        let addresses = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]
            .map(|address| address.parse().unwrap());
        let order: Vec<String> = alternating(addresses.to_vec())
            .iter()
            .map(|address| address.ip().to_string())
            .collect();
        assert_eq!(order, ["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]);
    }
}

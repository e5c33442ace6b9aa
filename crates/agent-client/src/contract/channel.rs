//! What every channel driver promises.

use crate::{
    channel::{Channel, Connection},
    error::Error,
};
use runtime_core::{
    error::{Classify, Kind},
    kit::Work,
};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

/// Enough for a busy machine; a suite that needs it is failing.
const LIMIT: Duration = Duration::from_secs(20);
/// What a dial that must fail is given.
const SHORT: Duration = Duration::from_millis(300);
/// More than any buffer on the way holds, so that both directions have to flow at once.
const BULK: usize = 1024 * 1024;

/// The other side of a channel, in the hands of the suite.
pub trait Peer {
    /// The driver under test, pointed at this peer.
    fn channel(&self) -> Box<dyn Channel>;

    /// The same driver, pointed at a place where nobody listens.
    fn closed(&self) -> Box<dyn Channel>;

    /// The same driver, pointed at a peer that takes connections and says nothing.
    fn silent(&self) -> Box<dyn Channel>;

    /// The guest's end of the next control connection, ready for the agent protocol. `None` when
    /// the host's end went away before that.
    fn accept(&self) -> Work<Option<Connection>>;
}

/// All of it, in order; for a program that is run inside a guest.
pub async fn suite(peer: &impl Peer) {
    bytes_travel_both_ways_at_once(peer).await;
    a_dial_after_a_lost_connection_starts_clean(peer).await;
    the_end_of_the_peer_is_seen(peer).await;
    a_place_where_nobody_listens_is_unavailable(peer).await;
    a_silent_peer_is_given_up_at_the_deadline(peer).await;
}

async fn connect(peer: &impl Peer) -> (Connection, Connection) {
    let channel = peer.channel();
    let both = async {
        let (host, guest) = tokio::join!(channel.dial(LIMIT), peer.accept());
        (
            host.expect("the peer listens"),
            guest.expect("the host's end stands"),
        )
    };
    timeout(LIMIT, both).await.expect("both ends meet in time")
}

pub async fn bytes_travel_both_ways_at_once(peer: &impl Peer) {
    let (host, guest) = connect(peer).await;
    let pattern: Vec<u8> = (0..BULK).map(|n| (n % 251) as u8).collect();

    let (at_host, at_guest) = timeout(LIMIT, async {
        tokio::join!(swap(host, &pattern), swap(guest, &pattern))
    })
    .await
    .expect("neither direction waits for the other");

    assert!(at_host == pattern, "host received other bytes");
    assert!(at_guest == pattern, "guest received other bytes");
}

/// Sends `bytes` while it receives as many.
async fn swap(io: Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut received = vec![0; bytes.len()];
    let send = async {
        writer.write_all(bytes).await.expect("the link stands");
        writer.flush().await.expect("the link stands");
    };
    let receive = reader.read_exact(&mut received);
    let ((), count) = tokio::join!(send, receive);
    count.expect("the peer sends as much");
    received
}

pub async fn a_dial_after_a_lost_connection_starts_clean(peer: &impl Peer) {
    let (mut host, mut guest) = connect(peer).await;
    host.write_all(b"asked, and never answered")
        .await
        .expect("the link stands");
    host.flush().await.expect("the link stands");
    // Nobody reads this one.
    let _ = guest.write_all(b"answered, and never read").await;
    let _ = guest.flush().await;
    drop(host);
    drop(guest);

    let (mut host, mut guest) = connect(peer).await;
    host.write_all(b"ping").await.expect("the link stands");
    host.flush().await.expect("the link stands");
    let asked = read_four(&mut guest).await;
    guest.write_all(b"pong").await.expect("the link stands");
    guest.flush().await.expect("the link stands");
    let answered = read_four(&mut host).await;

    assert_eq!((&asked, &answered), (b"ping", b"pong"));
}

async fn read_four(io: &mut Connection) -> [u8; 4] {
    let mut bytes = [0; 4];
    let read = timeout(LIMIT, io.read_exact(&mut bytes)).await;
    read.expect("bytes arrive in time")
        .expect("the link stands");
    bytes
}

pub async fn the_end_of_the_peer_is_seen(peer: &impl Peer) {
    let (mut host, guest) = connect(peer).await;

    drop(guest);
    let mut rest = Vec::new();
    let end = timeout(LIMIT, host.read_to_end(&mut rest)).await;

    // A reset is an end too.
    assert!(end.is_ok(), "the host never saw the end");
    assert!(rest.is_empty());
}

pub async fn a_place_where_nobody_listens_is_unavailable(peer: &impl Peer) {
    let error = refused(peer.closed().dial(LIMIT).await);

    assert_eq!(error.kind(), Kind::Unavailable, "{error}");
}

pub async fn a_silent_peer_is_given_up_at_the_deadline(peer: &impl Peer) {
    let begun = Instant::now();

    let error = refused(peer.silent().dial(SHORT).await);

    assert!(begun.elapsed() >= SHORT);
    assert!(begun.elapsed() < LIMIT);
    assert_eq!(error.kind(), Kind::Timeout, "{error}");
}

fn refused(dialed: Result<Connection, Error>) -> Error {
    match dialed {
        Ok(_) => panic!("the dial succeeded"),
        Err(error) => error,
    }
}

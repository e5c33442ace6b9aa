//! The channel contract, on every driver that this machine can try.

use agent_client::{
    channel::{Channel, SerialPort, Wire},
    contract::{
        channel::{self as contract, Peer},
        peers::{HybridPeer, SerialPeer, VsockPeer},
    },
};
use runtime_core::error::{Classify, Kind};
use std::time::Duration;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::LocalSet,
};

const LIMIT: Duration = Duration::from_secs(20);

macro_rules! channel_contract {
    ($driver:ident, $peer:expr) => {
        mod $driver {
            use super::*;

            channel_contract!(@ $peer, bytes_travel_both_ways_at_once);
            channel_contract!(@ $peer, a_dial_after_a_lost_connection_starts_clean);
            channel_contract!(@ $peer, the_end_of_the_peer_is_seen);
            channel_contract!(@ $peer, a_place_where_nobody_listens_is_unavailable);
            channel_contract!(@ $peer, a_silent_peer_is_given_up_at_the_deadline);
        }
    };
    (@ $peer:expr, $promise:ident) => {
        #[tokio::test(flavor = "current_thread")]
        async fn $promise() {
            let folder = TempDir::new().unwrap();
            let peer = ($peer)(&folder);
            LocalSet::new().run_until(contract::$promise(&peer)).await;
        }
    };
}

channel_contract!(serial, |folder: &TempDir| SerialPeer::new(folder.path()));
channel_contract!(hybrid_plain, |folder: &TempDir| HybridPeer::new(
    folder.path(),
    Wire::Plain
));
channel_contract!(hybrid_framed, |folder: &TempDir| HybridPeer::new(
    folder.path(),
    Wire::Framed
));

/// Within a guest the example `vsock_contract` runs the same.
#[tokio::test(flavor = "current_thread")]
async fn vsock_keeps_the_contract_where_this_kernel_has_loopback() {
    for wire in [Wire::Plain, Wire::Framed] {
        match VsockPeer::new(wire) {
            Ok(peer) => LocalSet::new().run_until(contract::suite(&peer)).await,
            Err(error) => eprintln!("not tried: vsock loopback: {error}"),
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_host_end_that_died_in_the_middle_of_a_frame_is_forgotten() {
    let folder = TempDir::new().unwrap();
    let peer = SerialPeer::new(folder.path());
    let mut dead = UnixStream::connect(peer.socket()).await.unwrap();
    let mut session = stream::ControlHost::new(stream::Nonce([7; 16]), stream::Padding::None);
    let greeting = async {
        dead.write_all(session.outgoing()).await.unwrap();
        session.sent(session.outgoing().len());
        let mut welcome = [0; 4096];
        while !session.is_established() {
            let count = dead.read(&mut welcome).await.unwrap();
            session.feed(&welcome[..count]);
        }
        session.send(&[1; 30_000]).unwrap();
        // Cut off before the trailer that would end the frame.
        dead.write_all(&session.outgoing()[..20_000]).await.unwrap();
        drop(dead);
    };
    let reading = async {
        let mut guest = peer.accept().await.unwrap();
        let mut heard = Vec::new();
        let _ = guest.read_to_end(&mut heard).await;
        heard
    };
    let ((), heard) = tokio::join!(greeting, reading);
    assert!(heard.is_empty(), "half a frame reached the agent");

    contract::bytes_travel_both_ways_at_once(&peer).await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_guest_said_to_a_dead_host_end_is_discarded() {
    let folder = TempDir::new().unwrap();
    let peer = SerialPeer::new(folder.path());
    let channel = peer.channel();
    let answering = async {
        let mut raw = peer.raw().await;
        // More than the socket holds: the guest is stuck in it while the host says HELLO.
        raw.write_all(&vec![0xa5; 600_000]).await.unwrap();
        peer.session().established(Box::new(raw)).await.unwrap()
    };

    let (dialed, mut guest) = tokio::join!(channel.dial(LIMIT), answering);

    let mut host = dialed.unwrap();
    let say = async {
        guest.write_all(b"pong").await.unwrap();
        guest.flush().await.unwrap();
    };
    let mut heard = [0; 4];
    let ((), read) = tokio::join!(say, host.read_exact(&mut heard));
    read.unwrap();
    assert_eq!(&heard, b"pong");
}

#[tokio::test(flavor = "current_thread")]
async fn a_backend_that_does_not_say_ok_is_named() {
    for answer in [&b"NO such port\n"[..], &[b'x'; 100], b"OK"] {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("v.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let channel = agent_client::channel::HybridVsock {
            socket,
            port: 1024,
            wire: Wire::Plain,
        };
        let answering = async {
            let (mut io, _) = listener.accept().await.unwrap();
            let mut line = [0; 13];
            io.read_exact(&mut line).await.unwrap();
            io.write_all(answer).await.unwrap();
        };

        let (dialed, ()) = tokio::join!(channel.dial(LIMIT), answering);

        let Err(error) = dialed else {
            panic!("taken for OK: {answer:?}")
        };
        assert_eq!(error.kind(), Kind::Internal, "{error}");
        assert!(error.to_string().contains("CONNECT"), "{error}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_socket_path_that_is_too_long_is_an_error_and_no_panic() {
    let socket = format!("/{}", "x".repeat(200)).into();

    let Err(error) = SerialPort { socket }.dial(LIMIT).await else {
        panic!("no such socket can be")
    };

    assert_eq!(error.kind(), Kind::Unavailable);
}

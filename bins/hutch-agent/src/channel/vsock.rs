//! The control port of a guest whose host reaches it over AF_VSOCK.
//!
//! A stock runtime speaks the agent protocol at once; ours begins with a HELLO. The first byte
//! tells: a message of the agent protocol begins with its length, of which the first byte is
//! zero, and a HELLO does not. Programs in containers can reach the port too, through the
//! guest itself: only the host is served.

use super::{Connections, pump::Pump};
use crate::{
    cmdline::VsockPeer,
    error::{Doing, Error},
};
use std::io::{self, Cursor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, join},
    select,
    task::{JoinHandle, JoinSet},
};
use tokio_vsock::{
    VMADDR_CID_ANY, VMADDR_CID_HOST, VMADDR_CID_LOCAL, VsockAddr, VsockListener, VsockStream,
};
use ttrpc::r#async::transport::Socket;

/// Listens on `port`; connections arrive at `made` until the server has gone.
pub fn open(
    port: u32,
    peer: VsockPeer,
    made: Connections,
) -> Result<JoinHandle<io::Result<()>>, Error> {
    let listener = listen(port)?;
    Ok(tokio::spawn(async move {
        let mut served = JoinSet::new();
        loop {
            select! {
                biased;
                () = made.closed() => break,
                Some(_) = served.join_next() => {}
                peer = accept(&listener, peer) => {
                    served.spawn(serve(peer?, made.clone()));
                }
            }
        }
        served.join_all().await;
        Ok(())
    }))
}

/// # Errors
/// No vsock device, or the port is taken.
pub fn listen(port: u32) -> Result<VsockListener, Error> {
    VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port))
        .doing(|| format!("listen on vsock port {port}"))
}

/// The next connection from the peer that is served; others are closed.
///
/// # Errors
/// The listener is of no more use.
pub async fn accept(listener: &VsockListener, peer: VsockPeer) -> io::Result<VsockStream> {
    let wanted = match peer {
        VsockPeer::Host => VMADDR_CID_HOST,
        VsockPeer::Local => VMADDR_CID_LOCAL,
    };
    loop {
        let (stream, from) = listener.accept().await?;
        if from.cid() == wanted {
            return Ok(stream);
        }
    }
}

async fn serve(mut peer: VsockStream, made: Connections) {
    let mut first = [0];
    // A peer that goes before it says anything wanted nothing.
    if peer.read_exact(&mut first).await.is_err() {
        return;
    }
    if first == [0] {
        let (from_peer, to_peer) = peer.into_split();
        let whole = join(Cursor::new(first).chain(from_peer), to_peer);
        // A server that is gone is the end of the agent, which is on its way.
        let _ = made.send(Ok(Socket::new(whole))).await;
        return;
    }
    let mut pump = Pump::new(made);
    pump.received(&first).await;
    if let Err(error) = framed(peer, &mut pump).await
        && error.kind() != io::ErrorKind::UnexpectedEof
    {
        crate::note!("control connection: {error}");
    }
}

async fn framed(mut peer: VsockStream, pump: &mut Pump) -> io::Result<()> {
    let mut buffer = vec![0; super::pump::BUFFER];
    while !pump.over() {
        let hungry = pump.hungry();
        let outgoing = pump.outgoing().to_vec();
        let (mut from_peer, mut to_peer) = peer.split();
        select! {
            biased;
            count = from_peer.read(&mut buffer), if hungry => match count? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => pump.received(&buffer[..count]).await,
            },
            count = to_peer.write(&outgoing), if !outgoing.is_empty() => pump.sent(count?),
            () = pump.turn() => {}
        }
    }
    Ok(())
}

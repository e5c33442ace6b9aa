//! Peers for the channel contract: QEMU's serial port, a hybrid-vsock backend, AF_VSOCK loopback.

use super::channel::Peer;
use crate::channel::{Channel, Connection, Duplex, HybridVsock, SerialPort, Vsock, Wire};
use runtime_core::kit::Work;
use std::{
    io,
    path::{Path, PathBuf},
    pin::Pin,
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use stream::{ControlEvent, ControlGuest};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf},
    net::{UnixListener, UnixStream},
};
use tokio_vsock::{VMADDR_CID_LOCAL, VsockAddr, VsockListener};

/// The guest's end of the control stream: one for all connections, as behind a serial port.
#[derive(Clone, Default)]
pub struct GuestSession(Arc<Mutex<Port>>);

#[derive(Default)]
struct Port {
    guest: ControlGuest,
    /// Which session stands. What an older one still has to say must not be said in it.
    epoch: u64,
}

impl GuestSession {
    fn with<T>(&self, act: impl FnOnce(&mut ControlGuest) -> T) -> T {
        act(&mut self.port().guest)
    }

    fn port(&self) -> MutexGuard<'_, Port> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until the host has said HELLO, and answers it. `None`: the host went away before.
    pub async fn established(&self, mut io: Connection) -> Option<GuestEnd> {
        let mut bytes = [0; 4096];
        let mut inbox = Vec::new();
        loop {
            let count = io.read(&mut bytes).await.ok().filter(|count| *count > 0)?;
            let mut begun = false;
            for event in self.with(|guest| guest.feed(&bytes[..count])) {
                match event {
                    ControlEvent::Established | ControlEvent::Reset => begun = true,
                    ControlEvent::Received(bytes) => inbox.extend(bytes),
                    ControlEvent::ProtocolError(_) => {}
                }
            }
            // WELCOME; or what belongs to a session that is over, and the host drops it.
            let outgoing = self.with(|guest| {
                let outgoing = guest.outgoing().to_vec();
                guest.sent(outgoing.len());
                outgoing
            });
            io.write_all(&outgoing).await.ok()?;
            if begun {
                let session = self.clone();
                let epoch = {
                    let mut port = self.port();
                    port.epoch += 1;
                    port.epoch
                };
                return Some(GuestEnd {
                    io,
                    session,
                    epoch,
                    inbox,
                });
            }
        }
    }
}

/// A control connection as the agent sees it.
pub struct GuestEnd {
    io: Connection,
    session: GuestSession,
    epoch: u64,
    inbox: Vec<u8>,
}

impl GuestEnd {
    fn current(&self) -> io::Result<()> {
        match self.session.port().epoch == self.epoch {
            true => Ok(()),
            false => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.current()?;
        loop {
            let bytes = self.session.with(|guest| guest.outgoing().to_vec());
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &bytes))?;
            self.session.with(|guest| guest.sent(count));
        }
    }
}

impl AsyncRead for GuestEnd {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.inbox.is_empty() {
            let mut bytes = [0; 4096];
            let mut piece = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut piece))?;
            self.current()?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            for event in self.session.with(|guest| guest.feed(piece.filled())) {
                match event {
                    ControlEvent::Received(bytes) => self.inbox.extend(bytes),
                    ControlEvent::Established | ControlEvent::Reset => {
                        return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                    }
                    ControlEvent::ProtocolError(fault) => {
                        let error = io::Error::new(io::ErrorKind::InvalidData, fault);
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
        let count = self.inbox.len().min(buffer.remaining());
        buffer.put_slice(&self.inbox[..count]);
        self.inbox.drain(..count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GuestEnd {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let count = bytes.len().min(stream::PAYLOAD_MAX);
        self.session
            .with(|guest| guest.send(&bytes[..count]))
            .map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?;
        if let Poll::Ready(Err(e)) = self.poll_drain(cx) {
            return Poll::Ready(Err(e));
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A listener whose backlog takes connections, and that never accepts one.
fn deaf(folder: &Path) -> (PathBuf, UnixListener) {
    let path = folder.join("deaf.sock");
    let listener = UnixListener::bind(&path).expect("the folder is writable");
    (path, listener)
}

/// A unix socket as QEMU offers it for a virtio-serial port, with an agent behind it.
pub struct SerialPeer {
    socket: PathBuf,
    deaf: PathBuf,
    absent: PathBuf,
    listener: Rc<UnixListener>,
    session: GuestSession,
    _deaf: UnixListener,
}

impl SerialPeer {
    pub fn new(folder: &Path) -> Self {
        let socket = folder.join("control.sock");
        let (deaf, _deaf) = deaf(folder);
        Self {
            listener: Rc::new(UnixListener::bind(&socket).expect("the folder is writable")),
            socket,
            deaf,
            absent: folder.join("absent.sock"),
            session: GuestSession::default(),
            _deaf,
        }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// One raw connection, as QEMU sees it.
    pub fn raw(&self) -> Work<UnixStream> {
        let listener = self.listener.clone();
        Box::pin(async move { listener.accept().await.expect("the listener stands").0 })
    }

    pub fn session(&self) -> &GuestSession {
        &self.session
    }
}

impl Peer for SerialPeer {
    fn channel(&self) -> Box<dyn Channel> {
        let socket = self.socket.clone();
        Box::new(SerialPort { socket })
    }

    fn closed(&self) -> Box<dyn Channel> {
        let socket = self.absent.clone();
        Box::new(SerialPort { socket })
    }

    fn silent(&self) -> Box<dyn Channel> {
        let socket = self.deaf.clone();
        Box::new(SerialPort { socket })
    }

    fn accept(&self) -> Work<Option<Connection>> {
        let (raw, session) = (self.raw(), self.session.clone());
        Box::pin(async move { boxed(session.established(Box::new(raw.await)).await) })
    }
}

fn boxed(end: Option<GuestEnd>) -> Option<Connection> {
    end.map(|end| Box::new(end) as Connection)
}

/// The wire of a connection that is new at both ends.
async fn answer(wire: Wire, io: impl Duplex + 'static) -> Option<Connection> {
    match wire {
        Wire::Plain => Some(Box::new(io)),
        Wire::Framed => boxed(GuestSession::default().established(Box::new(io)).await),
    }
}

/// A backend that takes `CONNECT port` and knows one port.
pub struct HybridPeer {
    socket: PathBuf,
    deaf: PathBuf,
    wire: Wire,
    listener: Rc<UnixListener>,
    _deaf: UnixListener,
}

/// The one port on which the peer's guest listens.
const PORT: u32 = 1024;
const CLOSED_PORT: u32 = 1025;

impl HybridPeer {
    pub fn new(folder: &Path, wire: Wire) -> Self {
        let socket = folder.join("vsock.sock");
        let (deaf, _deaf) = deaf(folder);
        Self {
            listener: Rc::new(UnixListener::bind(&socket).expect("the folder is writable")),
            socket,
            deaf,
            wire,
            _deaf,
        }
    }

    fn to(&self, socket: &Path, port: u32) -> Box<dyn Channel> {
        Box::new(HybridVsock {
            socket: socket.to_owned(),
            port,
            wire: self.wire,
        })
    }
}

impl Peer for HybridPeer {
    fn channel(&self) -> Box<dyn Channel> {
        self.to(&self.socket, PORT)
    }

    /// A closed port: the backend ends the connection without a word.
    fn closed(&self) -> Box<dyn Channel> {
        let listener = self.listener.clone();
        runtime_core::kit::detach(async move {
            let (mut io, _) = listener.accept().await.expect("the listener stands");
            let mut line = String::new();
            let read = BufReader::new(&mut io).read_line(&mut line).await;
            assert!(read.is_ok() && line == format!("CONNECT {CLOSED_PORT}\n"));
        });
        self.to(&self.socket, CLOSED_PORT)
    }

    fn silent(&self) -> Box<dyn Channel> {
        self.to(&self.deaf, PORT)
    }

    fn accept(&self) -> Work<Option<Connection>> {
        let (listener, wire) = (self.listener.clone(), self.wire);
        Box::pin(async move {
            let (mut io, _) = listener.accept().await.ok()?;
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                line.push(io.read_u8().await.ok()?);
            }
            assert_eq!(line, format!("CONNECT {PORT}\n").into_bytes());
            io.write_all(b"OK 1073741824\n").await.ok()?;
            answer(wire, io).await
        })
    }
}

/// AF_VSOCK within one kernel; needs vsock loopback (CONFIG_VSOCKETS_LOOPBACK).
pub struct VsockPeer {
    wire: Wire,
    listener: Rc<VsockListener>,
    _deaf: VsockListener,
}

const VSOCK_PORT: u32 = 7001;
const VSOCK_CLOSED: u32 = 7002;
const VSOCK_DEAF: u32 = 7003;

impl VsockPeer {
    /// # Errors
    /// This kernel has no AF_VSOCK, or no loopback.
    pub fn new(wire: Wire) -> io::Result<Self> {
        let listen = |port| VsockListener::bind(VsockAddr::new(VMADDR_CID_LOCAL, port));
        Ok(Self {
            wire,
            listener: Rc::new(listen(VSOCK_PORT)?),
            _deaf: listen(VSOCK_DEAF)?,
        })
    }

    fn to(&self, port: u32, wire: Wire) -> Box<dyn Channel> {
        let cid = VMADDR_CID_LOCAL;
        Box::new(Vsock { cid, port, wire })
    }
}

impl Peer for VsockPeer {
    fn channel(&self) -> Box<dyn Channel> {
        self.to(VSOCK_PORT, self.wire)
    }

    fn closed(&self) -> Box<dyn Channel> {
        self.to(VSOCK_CLOSED, self.wire)
    }

    /// The kernel answers a connect by itself, so only the framed wire can be met with silence.
    fn silent(&self) -> Box<dyn Channel> {
        self.to(VSOCK_DEAF, Wire::Framed)
    }

    fn accept(&self) -> Work<Option<Connection>> {
        let (listener, wire) = (self.listener.clone(), self.wire);
        Box::pin(async move { answer(wire, listener.accept().await.ok()?.0).await })
    }
}

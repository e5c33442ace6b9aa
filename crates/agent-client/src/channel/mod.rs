//! The channel to a guest: one control connection over whatever carries bytes into the VM.
//!
//! Three drivers, one contract: `serial` (a virtio-serial port, which is a unix socket of QEMU's),
//! `hybrid` (a unix socket that takes `CONNECT port`), `vsock` (AF_VSOCK). A driver only dials;
//! whether and when to dial again is decided by the machine of this room. Where a process's own
//! stream is, the hypervisor says: nothing of stdio passes through here, unless the agent is a stock
//! one and carries it by calls.

mod framed;
pub mod hybrid;
pub mod serial;
pub mod vsock;

pub use framed::Framed;
pub use hybrid::HybridVsock;
pub use serial::SerialPort;
pub use vsock::Vsock;

use crate::error::Error;
use runtime_core::{hypervisor::HostEndpoint, kit::Work};
use std::{future::Future, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

/// The port on which a stock Kata agent listens; it takes plain ttrpc.
pub const KATA_PORT: u32 = 1024;

/// Bytes both ways, in any thread's hands: what ttrpc asks of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// A control connection on which the agent protocol can begin.
pub type Connection = Box<dyn Duplex>;

/// How to reach the agent of one guest.
pub trait Channel {
    /// One attempt; it ends by the deadline in any case.
    fn dial(&self, deadline: Duration) -> Work<Result<Connection, Error>>;

    /// For people: what is dialed.
    fn address(&self) -> String;
}

/// What travels on a connection once it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The agent protocol itself: each connection is new at both ends.
    Plain,
    /// The agent protocol in frames, behind HELLO and WELCOME.
    Framed,
}

impl Wire {
    /// A stock Kata agent knows no frames; ours serves the same on that port.
    fn of_port(port: u32) -> Self {
        match port {
            KATA_PORT => Self::Plain,
            _ => Self::Framed,
        }
    }

    async fn wrap(
        self,
        io: Connection,
        address: &str,
        deadline: Deadline,
    ) -> Result<Connection, Error> {
        match self {
            Self::Plain => Ok(io),
            Self::Framed => {
                let padding = stream::Padding::None;
                let framed = framed::greet(io, padding, address, deadline).await?;
                Ok(Box::new(framed))
            }
        }
    }
}

/// The driver for an endpoint that the hypervisor named.
pub fn open(endpoint: &HostEndpoint) -> Box<dyn Channel> {
    match endpoint {
        // A carried stream is no control link, and nobody dials one here.
        HostEndpoint::Socket(socket) | HostEndpoint::Carried(socket) => Box::new(SerialPort {
            socket: socket.clone(),
        }),
        HostEndpoint::Hybrid { socket, port } => Box::new(HybridVsock {
            socket: socket.clone(),
            port: *port,
            wire: Wire::of_port(*port),
        }),
        HostEndpoint::Vsock { cid, port } => Box::new(Vsock {
            cid: *cid,
            port: *port,
            wire: Wire::of_port(*port),
        }),
    }
}

/// When a dial ends, and how long that was when it began.
#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    whole: Duration,
}

impl Deadline {
    fn after(whole: Duration) -> Self {
        Self {
            at: Instant::now() + whole,
            whole,
        }
    }

    /// `step` of reaching `address`, or the error that names both.
    async fn bound<T>(
        self,
        address: &str,
        step: &'static str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        timeout_at(self.at, work)
            .await
            .unwrap_or_else(|_| Err(self.silent(address, step)))
    }

    fn silent(self, address: &str, step: &'static str) -> Error {
        Error::Silent {
            address: address.to_owned(),
            step,
            after: self.whole,
        }
    }
}

//! Joins the frames of a control stream to connections of the agent protocol.
//!
//! Each HELLO begins a new connection and ends the one before; what the server still answers
//! to that one is lost with it, and the host asks again.

use super::Connections;
use stream::{ControlEvent, ControlGuest};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    select,
};
use ttrpc::r#async::transport::Socket;

/// One read from either side.
pub const BUFFER: usize = 32_768;
/// What a connection holds in each direction before its writer waits.
const CONNECTION: usize = 65_536;

pub struct Pump {
    control: ControlGuest,
    connections: Connections,
    session: Option<Session>,
    buffer: Vec<u8>,
}

/// The near end of the connection that the server has.
struct Session {
    from_server: ReadHalf<DuplexStream>,
    to_server: WriteHalf<DuplexStream>,
    /// Received and not yet taken by the server.
    inbox: Vec<u8>,
    taken: usize,
}

impl Pump {
    pub fn new(connections: Connections) -> Self {
        Self {
            control: ControlGuest::new(),
            connections,
            session: None,
            buffer: vec![0; BUFFER],
        }
    }

    /// Whether the server is gone, and what it said has been sent.
    pub fn over(&self) -> bool {
        self.connections.is_closed() && self.session.is_none() && self.outgoing().is_empty()
    }

    /// Whether more may be received: the server has taken what came before.
    pub fn hungry(&self) -> bool {
        self.session
            .as_ref()
            .is_none_or(|session| session.inbox.is_empty())
    }

    /// Takes bytes from the host.
    pub async fn received(&mut self, bytes: &[u8]) {
        for event in self.control.feed(bytes) {
            match event {
                ControlEvent::Established | ControlEvent::Reset => self.begin().await,
                ControlEvent::Received(bytes) => {
                    if let Some(session) = &mut self.session {
                        session.inbox.extend_from_slice(&bytes);
                    }
                }
                ControlEvent::ProtocolError(fault) => {
                    crate::error!("control stream: {fault}");
                    self.session = None;
                }
            }
        }
    }

    pub fn outgoing(&self) -> &[u8] {
        self.control.outgoing()
    }

    pub fn sent(&mut self, count: usize) {
        self.control.sent(count);
    }

    /// Moves bytes to or from the server once; waits for that.
    pub async fn turn(&mut self) {
        let idle = self.control.outgoing().is_empty();
        let Some(session) = &mut self.session else {
            return match idle {
                true => self.connections.closed().await,
                false => std::future::pending().await,
            };
        };
        let waiting = &session.inbox[session.taken..];
        let moved = select! {
            biased;
            taken = session.to_server.write(waiting), if !waiting.is_empty() => {
                taken.map(|count| session.take(count))
            }
            given = session.from_server.read(&mut self.buffer), if idle => match given {
                Ok(0) => Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    // After a protocol error nobody hears the answer.
                    let _ = self.control.send(&self.buffer[..count]);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            else => return std::future::pending().await,
        };
        if moved.is_err() {
            // The server ended the connection: what it could not parse, or its own end.
            self.session = None;
        }
    }

    async fn begin(&mut self) {
        let (near, far) = duplex(CONNECTION);
        let (from_server, to_server) = split(near);
        self.session = Some(Session {
            from_server,
            to_server,
            inbox: Vec::new(),
            taken: 0,
        });
        // A server that is gone is the end of the agent, which is on its way.
        let _ = self.connections.send(Ok(Socket::new(far))).await;
    }
}

impl Session {
    fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.inbox.len() {
            self.inbox.clear();
            self.taken = 0;
        }
    }
}

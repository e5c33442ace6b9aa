//! What the stream of one process travels on.

use crate::{
    channel::vsock,
    cmdline::VsockPeer,
    error::Error,
    ports::{self, Attempt, Port, Reactor},
};
use std::{fs::File, io, os::fd::OwnedFd, sync::Arc};
use tokio::select;
use tokio_vsock::{VsockListener, VsockStream};

/// Where the host wants the stream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// Name of a virtio-serial port.
    Serial(String),
    /// A port of AF_VSOCK on which to listen.
    Vsock(u32),
}

pub enum Wire {
    Serial(Flow),
    Vsock {
        listener: VsockListener,
        peer: VsockPeer,
        reactor: Arc<Reactor>,
        /// The newest connection.
        flow: Option<Flow>,
    },
}

/// A port or connection, and what trying on it may do.
pub struct Flow {
    port: Port,
    readable: bool,
    writable: bool,
}

/// What waiting for the wire has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    Ready,
    /// A new host end on a connection of its own.
    Replaced,
}

impl Flow {
    pub(super) fn new(port: Port) -> Self {
        Self {
            port,
            readable: true,
            writable: true,
        }
    }

    async fn wait(&mut self, sending: bool) {
        select! {
            biased;
            () = self.port.readable(), if !self.readable => self.readable = true,
            () = self.port.writable(), if sending && !self.writable => self.writable = true,
        }
    }
}

impl Wire {
    /// # Errors
    /// The endpoint is not there, or taken.
    pub async fn open(
        endpoint: &Endpoint,
        peer: VsockPeer,
        reactor: &Arc<Reactor>,
    ) -> Result<Self, Error> {
        match endpoint {
            Endpoint::Serial(name) => {
                let port = ports::open(name, reactor).await?;
                Ok(Self::Serial(Flow::new(port)))
            }
            Endpoint::Vsock(port) => Ok(Self::Vsock {
                listener: vsock::listen(*port)?,
                peer,
                reactor: reactor.clone(),
                flow: None,
            }),
        }
    }

    fn flow(&mut self) -> Option<&mut Flow> {
        match self {
            Self::Serial(flow) => Some(flow),
            Self::Vsock { flow, .. } => flow.as_mut(),
        }
    }

    /// Has the next attempts made, whatever the last ones found.
    pub fn try_again(&mut self) {
        if let Some(flow) = self.flow() {
            (flow.readable, flow.writable) = (true, true);
        }
    }

    /// Reads what the host has sent; zero for nothing.
    ///
    /// # Errors
    /// The port was unplugged.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(flow) = self.flow().filter(|flow| flow.readable) else {
            return Ok(0);
        };
        let attempted = flow.port.try_read(buffer);
        flow.readable = matches!(attempted, Ok(Attempt::Moved(_)));
        self.count(attempted)
    }

    /// Writes what the host takes; zero for nothing.
    ///
    /// # Errors
    /// The port was unplugged.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(flow) = self.flow().filter(|flow| flow.writable) else {
            return Ok(0);
        };
        let attempted = flow.port.try_write(bytes);
        flow.writable = matches!(attempted, Ok(Attempt::Moved(_)));
        self.count(attempted)
    }

    /// A port's host comes back to the same port; a connection that broke is of no more use,
    /// and another will come.
    fn count(&mut self, attempted: io::Result<Attempt>) -> io::Result<usize> {
        match (attempted, self) {
            (Ok(Attempt::Moved(count)), _) => Ok(count),
            (Ok(Attempt::Away) | Err(_), Self::Vsock { flow, .. }) => {
                *flow = None;
                Ok(0)
            }
            (Ok(Attempt::Blocked | Attempt::Away), _) => Ok(0),
            (Err(error), Self::Serial(_)) => Err(error),
        }
    }

    /// Waits until reading may give something, or writing take something if there is something
    /// to send.
    pub async fn wait(&mut self, sending: bool) -> io::Result<Woken> {
        match self {
            Self::Serial(flow) => {
                flow.wait(sending).await;
                Ok(Woken::Ready)
            }
            Self::Vsock {
                listener,
                peer,
                reactor,
                flow,
            } => {
                select! {
                    biased;
                    stream = vsock::accept(listener, *peer) => {
                        *flow = Some(connected(stream?, reactor)?);
                        Ok(Woken::Replaced)
                    }
                    () = async {
                        match flow {
                            Some(flow) => flow.wait(sending).await,
                            None => std::future::pending().await,
                        }
                    } => Ok(Woken::Ready),
                }
            }
        }
    }
}

fn connected(stream: VsockStream, reactor: &Arc<Reactor>) -> io::Result<Flow> {
    let file = File::from(OwnedFd::from(stream));
    Ok(Flow::new(Port::new(file, reactor)?))
}

//! A virtio-serial port: a unix socket on the host that QEMU owns.
//!
//! QEMU takes one connection at a time; a second one waits in the backlog. While no guest has the
//! port open, what we send waits in the socket, so a HELLO that is sent before the agent is up is
//! answered when it is. When the agent closes its end we see nothing: the calls' deadlines tell.

use super::{Channel, Connection, Deadline, framed};
use crate::error::Error;
use runtime_core::kit::Work;
use std::{path::PathBuf, time::Duration};
use stream::Padding;
use tokio::net::UnixStream;

/// The control port of one VM.
#[derive(Debug, Clone)]
pub struct SerialPort {
    pub socket: PathBuf,
}

impl Channel for SerialPort {
    fn dial(&self, deadline: Duration) -> Work<Result<Connection, Error>> {
        let this = self.clone();
        Box::pin(async move {
            let deadline = Deadline::after(deadline);
            let address = this.address();
            let io = deadline
                .bound(&address, "connect", async {
                    UnixStream::connect(&this.socket)
                        .await
                        .map_err(|source| Error::Connect {
                            address: address.clone(),
                            source,
                        })
                })
                .await?;
            // Always: whether a host end before us, perhaps of a daemon that was killed, died in
            // the middle of a frame is nowhere on record, and 32 KiB cost half a millisecond.
            let framed = framed::greet(Box::new(io), Padding::Full, &address, deadline).await?;
            Ok(Box::new(framed) as Connection)
        })
    }

    fn address(&self) -> String {
        self.socket.display().to_string()
    }
}

//! Hybrid vsock: a unix socket on the host that takes `CONNECT port\n` and answers `OK …\n`.
//!
//! vhost-device-vsock under QEMU speaks it, and so do Cloud Hypervisor and Firecracker. A port on
//! which nobody listens in the guest ends the connection; a backend that was asked before its
//! guest's driver was up may never answer at all (seen in 1 of 8 boots), so each dial has a
//! deadline, and the link waits for a sign of the guest before the first one.

use super::{Channel, Connection, Deadline, Wire};
use crate::error::Error;
use runtime_core::kit::Work;
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// `OK 4294967295\n`, with room for a backend that says a little more.
const ANSWER_BYTES_MAX: usize = 64;

/// A backend's socket, and the port on which the agent listens.
#[derive(Debug, Clone)]
pub struct HybridVsock {
    pub socket: PathBuf,
    pub port: u32,
    pub wire: Wire,
}

impl Channel for HybridVsock {
    fn dial(&self, deadline: Duration) -> Work<Result<Connection, Error>> {
        let this = self.clone();
        Box::pin(async move {
            let deadline = Deadline::after(deadline);
            let io = connect(&this.socket, this.port, deadline).await?;
            this.wire
                .wrap(Box::new(io), &this.address(), deadline)
                .await
        })
    }

    fn address(&self) -> String {
        format!("{} port {}", self.socket.display(), self.port)
    }
}

/// One connection to `port` in the guest; what follows on it belongs to the caller.
async fn connect(socket: &Path, port: u32, deadline: Deadline) -> Result<UnixStream, Error> {
    let address = socket.display().to_string();
    let mut io = deadline
        .bound(&address, "connect", async {
            UnixStream::connect(socket)
                .await
                .map_err(|source| Error::Connect {
                    address: address.clone(),
                    source,
                })
        })
        .await?;
    deadline
        .bound(&address, "CONNECT", async {
            let answer = ask(&mut io, port).await.map_err(|source| Error::Talk {
                address: address.clone(),
                source,
            })?;
            judge(&answer, &address, port)
        })
        .await?;
    Ok(io)
}

async fn ask(io: &mut UnixStream, port: u32) -> io::Result<Vec<u8>> {
    let line = format!("CONNECT {port}\n");
    match io.write_all(line.as_bytes()).await {
        Ok(()) => read_line(io).await,
        Err(e) if gone(e.kind()) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

fn judge(answer: &[u8], address: &str, port: u32) -> Result<(), Error> {
    let address = || address.to_owned();
    if answer.is_empty() {
        return Err(Error::Refused {
            address: address(),
            port,
        });
    }
    if !answer.ends_with(b"\n") {
        return Err(Error::Handshake {
            address: address(),
            fault: "the answer to CONNECT is not a line",
        });
    }
    if !answer.starts_with(b"OK ") && answer != b"OK\n" {
        return Err(Error::Handshake {
            address: address(),
            fault: "the answer to CONNECT is not OK",
        });
    }
    Ok(())
}

/// Byte by byte: what follows the line is already the guest's. Ends without a newline at the end
/// of the stream or at the bound.
async fn read_line(io: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(ANSWER_BYTES_MAX);
    while line.len() < ANSWER_BYTES_MAX && line.last() != Some(&b'\n') {
        match io.read_u8().await {
            Ok(byte) => line.push(byte),
            // A backend that resets says the same as one that ends the stream: nobody listens.
            Err(e) if gone(e.kind()) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(line)
}

fn gone(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

//! AF_VSOCK: the host's kernel carries the connection (vhost-vsock), or loopback within a guest.
//!
//! The kernel answers at once where nobody listens; a guest without a driver answers after the
//! kernel's own 2 s, so each dial has a deadline of its own.

use super::{Channel, Connection, Deadline, Wire};
use crate::error::Error;
use runtime_core::kit::Work;
use std::time::Duration;
use tokio_vsock::{VsockAddr, VsockStream};

/// A guest by its context id, and the port on which its agent listens.
#[derive(Debug, Clone)]
pub struct Vsock {
    pub cid: u32,
    pub port: u32,
    pub wire: Wire,
}

impl Channel for Vsock {
    fn dial(&self, deadline: Duration) -> Work<Result<Connection, Error>> {
        let this = self.clone();
        Box::pin(async move {
            let deadline = Deadline::after(deadline);
            let address = this.address();
            let io = deadline
                .bound(&address, "connect", async {
                    let address = VsockAddr::new(this.cid, this.port);
                    VsockStream::connect(address)
                        .await
                        .map_err(|source| Error::Connect {
                            address: this.address(),
                            source,
                        })
                })
                .await?;
            this.wire.wrap(Box::new(io), &address, deadline).await
        })
    }

    fn address(&self) -> String {
        format!("vsock {}:{}", self.cid, self.port)
    }
}

//! How the host reaches the agent: each way gives connections of the agent protocol, one after
//! another or several at once, and knows nothing of what is said on them.

mod pump;
mod serial;
pub mod vsock;

use crate::{
    cmdline::{ChannelKind, Options},
    error::Error,
    ports::Reactor,
};
use std::{io, sync::Arc};
use tokio::{sync::mpsc, task::JoinHandle};
use ttrpc::r#async::transport::{Listener, Socket};

/// Connections that were made and not yet taken; one host makes them one by one.
const CONNECTIONS: usize = 4;

/// Port of the agent on AF_VSOCK, as stock runtimes know it.
const VSOCK_CONTROL: u32 = 1024;

type Connections = mpsc::Sender<io::Result<Socket>>;

/// An open way: its connections, and the task that ends once the server is gone and what it
/// said has been sent, or fails when the way itself is lost.
pub struct Way {
    pub listener: Listener,
    pub carrier: JoinHandle<io::Result<()>>,
}

/// Opens the way that the command line names.
///
/// # Errors
/// The way is not there: no such port, no vsock device.
pub async fn open(options: Options, reactor: &Arc<Reactor>) -> Result<Way, Error> {
    let (made, taken) = mpsc::channel(CONNECTIONS);
    let carrier = match options.channel {
        ChannelKind::Serial => serial::open(reactor, made).await?,
        ChannelKind::Vsock => vsock::open(VSOCK_CONTROL, options.vsock_peer, made)?,
    };
    let listener = Listener::new(futures::stream::unfold(taken, |mut taken| async {
        Some((taken.recv().await?, taken))
    }));
    Ok(Way { listener, carrier })
}

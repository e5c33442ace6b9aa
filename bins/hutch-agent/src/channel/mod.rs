//! How the host reaches the agent: each way gives connections of the agent protocol, one after
//! another or several at once, and knows nothing of what is said on them.

mod pump;
mod serial;
mod vsock;

use crate::{cmdline::{ChannelKind, Options}, error::Error, ports::Reactor};
use std::{io, sync::Arc};
use tokio::sync::mpsc;
use ttrpc::r#async::transport::{Listener, Socket};

/// Connections that were made and not yet taken; one host makes them one by one.
const CONNECTIONS: usize = 4;

/// Port of the agent on AF_VSOCK, as stock runtimes know it.
const VSOCK_CONTROL: u32 = 1024;

type Connections = mpsc::Sender<io::Result<Socket>>;

/// Opens the way that the command line names.
///
/// # Errors
/// The way is not there: no such port, no vsock device.
pub async fn open(options: Options, reactor: &Arc<Reactor>) -> Result<Listener, Error> {
    let (made, taken) = mpsc::channel(CONNECTIONS);
    match options.channel {
        ChannelKind::Serial => serial::open(reactor, made).await?,
        ChannelKind::Vsock => vsock::open(VSOCK_CONTROL, options.vsock_peer, made)?,
    }
    Ok(Listener::new(futures::stream::unfold(
        taken,
        |mut taken| async { Some((taken.recv().await?, taken)) },
    )))
}

//! Puts the parts together on one thread and serves until the sandbox is to end.

use crate::{
    channel,
    cmdline::Options,
    error::{Doing, Error},
    ports::Reactor,
    service,
};
use std::io;
use tokio::runtime::Builder;
use ttrpc::r#async::Server;

/// Serves the host; returns when it asked for the end.
///
/// # Errors
/// The guest cannot serve, or no longer.
pub fn run(options: Options) -> Result<(), Error> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .doing(|| "start the runtime".to_owned())?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), Error> {
    let reactor = Reactor::start().doing(|| "wait for ports".to_owned())?;
    let listener = channel::open(options, &reactor).await?;
    let mut server = Server::new().add_listener(listener);
    for service in service::all() {
        server = server.register_service(service);
    }
    server
        .start()
        .await
        .map_err(io::Error::other)
        .doing(|| "serve the host".to_owned())?;
    std::future::pending().await
}

//! Puts the parts together on one thread and serves until the sandbox is to end.

use crate::{
    agent::Agent,
    channel,
    cmdline::Options,
    error::{Doing, Error},
    ports::Reactor,
    service,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{runtime::Builder, task::JoinHandle, time::timeout};
use ttrpc::r#async::Server;

/// A host that listens takes an answer at once.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

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
    let way = channel::open(options, &reactor).await?;
    let agent = Arc::new(Agent::default());
    let mut server = Server::new().add_listener(way.listener);
    for service in service::all(&agent) {
        server = server.register_service(service);
    }
    server
        .start()
        .await
        .map_err(io::Error::other)
        .doing(|| "serve the host".to_owned())?;
    agent.ended().await;
    leave(server, way.carrier).await;
    Ok(())
}

/// Lets the answer to the call that asked for the end reach the host; not for ever, since a
/// host that is away cannot be told.
async fn leave(mut server: Server, carrier: JoinHandle<()>) {
    let told = timeout(LEAVE_LIMIT, async {
        let stopped = server.shutdown().await;
        drop(server);
        stopped.is_ok() && carrier.await.is_ok()
    });
    if !matches!(told.await, Ok(true)) {
        crate::note!("the host did not take the last answer");
    }
}

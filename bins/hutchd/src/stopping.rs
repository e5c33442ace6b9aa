//! The part of [`Api`] that ends a container in its own time, and hears of ends.

use crate::{
    api::{Api, Target, asked, key_of},
    containers::{SIGTERM, follows},
    convert::exit_info,
};
use protocols::asynchronous::hutch::{ProcessRef, StopRequest, StopResponse};
use runtime_core::{
    container::{ContainerState, ProcessCommand},
    error::{Fault, Kind},
    host::Located,
    ids::ProcessId,
    process::Kill,
    sandbox::{ViewContainer, WaitIn},
};
use std::{pin::pin, time::Duration};
use tokio::time::timeout;

/// Less than a relay waits for the answer, which is a second.
const EXIT_FOLLOWS: Duration = Duration::from_millis(800);

impl Api {
    /// Whoever asks again under its key waits anew, and neither signal is sent twice.
    pub(crate) async fn stop_container(
        &self,
        request: &StopRequest,
    ) -> Result<StopResponse, Fault> {
        let first = Kill {
            key: key_of(&request.key)?,
            signal: match request.signal {
                0 => SIGTERM,
                signal => signal,
            },
            all: false,
        };
        let last = follows(&first)?;
        let patience = Duration::from_millis(request.patience_ms);
        let init = ProcessRef {
            namespace: request.namespace.clone(),
            container_id: request.container_id.clone(),
            ..Default::default()
        };
        let located = self.target(&init).await?.located;

        // Asked for first: whoever runs it may delete it as soon as it has ended.
        let mut exit = pin!(located.sandbox.send(WaitIn {
            container: located.place.number,
            process: ProcessId::Init,
        }));
        self.signal_unless_over(&located, first).await?;
        let exit = match timeout(patience, exit.as_mut()).await {
            Ok(exit) => exit,
            Err(_) => {
                self.signal_unless_over(&located, last).await?;
                exit.await
            }
        };
        let exit = asked(exit)??;
        Ok(StopResponse {
            exit: Some(exit_info(&exit)).into(),
            ..Default::default()
        })
    }

    /// What the relay has seen by the stream is told by the guest, too. Whoever deletes the container once its relay
    /// has ended finds it stopped, with the guest's word of how.
    pub(crate) async fn relay_done(&self, process: &ProcessRef) -> Result<(), Fault> {
        let Target { located, process } = self.target(process).await?;
        let wait = WaitIn {
            container: located.place.number,
            process: process.clone(),
        };
        let sandbox = located.sandbox.clone();
        let done = ProcessCommand::RelayDone(process.clone());
        self.command(located, done).await?;
        if process == ProcessId::Init {
            // A guest that does not say it holds no relay.
            let _ = timeout(EXIT_FOLLOWS, sandbox.send(wait)).await;
        }
        Ok(())
    }

    /// One that has ended, perhaps at the last moment, needs no signal.
    async fn signal_unless_over(&self, located: &Located, kill: Kill) -> Result<(), Fault> {
        let kill = ProcessCommand::Kill(ProcessId::Init, kill);
        match self.command(located.clone(), kill).await {
            Err(why) if why.kind() == Kind::Denied => {
                let view = ViewContainer(located.place.number);
                let view = asked(located.sandbox.send(view).await)??;
                match view.state {
                    ContainerState::Stopped(_) => Ok(()),
                    _ => Err(why),
                }
            }
            sent => sent,
        }
    }
}

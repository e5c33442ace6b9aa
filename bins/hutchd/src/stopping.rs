//! The part of [`Api`] that ends a container in its own time, and hears of ends.

use crate::{
    api::{Api, Target, asked, key_of},
    convert::exit_info,
};
use protocols::asynchronous::hutch::{ProcessRef, StopRequest, StopResponse};
use runtime_core::{
    agent::ExitStatus,
    container::{ContainerState, ProcessCommand},
    error::{Fault, Kind},
    ids::ProcessId,
    process::Kill,
    sandbox::{ViewContainer, WaitIn},
};
use std::time::Duration;
use tokio::time::timeout;

const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;
/// As long as a relay waits for the answer.
const EXIT_FOLLOWS: Duration = Duration::from_secs(1);
/// What makes a key for the second signal of the one for the first.
const AND_KILL: &str = ".kill";

impl Api {
    /// Whoever asks again under its key waits anew, and neither signal is sent twice.
    pub(crate) async fn stop_container(
        &self,
        request: &StopRequest,
    ) -> Result<StopResponse, Fault> {
        let second = match request.key.as_str() {
            "" => None,
            key => key_of(&format!("{key}{AND_KILL}"))?,
        };
        let first = Kill {
            key: key_of(&request.key)?,
            signal: match request.signal {
                0 => SIGTERM,
                signal => signal,
            },
            all: false,
        };
        let last = Kill {
            key: second,
            signal: SIGKILL,
            all: false,
        };
        let patience = Duration::from_millis(request.patience_ms);

        self.signal_unless_over(request, first).await?;
        let exit = match timeout(patience, self.exit_of(request)).await {
            Ok(exit) => exit?,
            Err(_) => {
                self.signal_unless_over(request, last).await?;
                self.exit_of(request).await?
            }
        };
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

    async fn init_of(&self, request: &StopRequest) -> Result<Target, Fault> {
        let init = ProcessRef {
            namespace: request.namespace.clone(),
            container_id: request.container_id.clone(),
            ..Default::default()
        };
        self.target(&init).await
    }

    /// One that has ended, perhaps at the last moment, needs no signal.
    async fn signal_unless_over(&self, request: &StopRequest, kill: Kill) -> Result<(), Fault> {
        let Target { located, process } = self.init_of(request).await?;
        let view = ViewContainer(located.place.number);
        let sandbox = located.sandbox.clone();
        let kill = ProcessCommand::Kill(process, kill);
        match self.command(located, kill).await {
            Err(why) if why.kind() == Kind::Denied => {
                let view = asked(sandbox.send(view).await)??;
                match view.state {
                    ContainerState::Stopped(_) => Ok(()),
                    _ => Err(why),
                }
            }
            sent => sent,
        }
    }

    async fn exit_of(&self, request: &StopRequest) -> Result<ExitStatus, Fault> {
        let target = self.init_of(request).await?;
        let wait = WaitIn {
            container: target.located.place.number,
            process: ProcessId::Init,
        };
        asked(target.located.sandbox.send(wait).await)?
    }
}

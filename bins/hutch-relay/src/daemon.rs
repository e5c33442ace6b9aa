//! What a relay says to hutchd: whom it stands for, and that it has seen the exit. Each call is a
//! connection of its own, so that nothing is held while nothing is said.

use crate::error::RelayError;
use crate::link::connect;
use crate::place::Place;
use protobuf::MessageField;
use protocols::asynchronous::hutch::{AttachRequest, ExitedRequest, ProcessRef, WaitRequest};
use protocols::asynchronous::hutch_ttrpc::RuntimeClient;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::runtime;
use ttrpc::asynchronous::Client;
use ttrpc::context::Context;

/// Between two looks whether a daemon listens again.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The reason of an exit for want of memory, as hutch.v1 has it.
const OOM: &str = "oom";

/// A process, as the daemon knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub namespace: String,
    pub container_id: String,
    /// Empty: the init.
    pub exec_id: String,
}

/// The daemon that a relay belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daemon {
    pub socket: PathBuf,
    pub process: Process,
}

/// One process of this host for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostProcess {
    pub pid: u32,
    /// Field 22 of /proc/PID/stat.
    pub start_time: u64,
}

impl HostProcess {
    /// This very process. `None`: /proc does not show it.
    ///
    /// # Errors
    /// What reading /proc says.
    pub fn myself() -> io::Result<Option<Self>> {
        Self::of(std::process::id())
    }

    /// Whoever has that pid now; of a child that was not waited for, nobody else. `None`: /proc does not show it.
    ///
    /// # Errors
    /// What reading /proc says.
    pub fn of(pid: u32) -> io::Result<Option<Self>> {
        let start_time = proc::start_time(pid)?;
        Ok(start_time.map(|start_time| Self { pid, start_time }))
    }
}

/// How a process ended, as far as a relay needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    pub code: u8,
    /// The guest had no memory left for it.
    pub was_oom: bool,
}

impl Daemon {
    /// Says that this very process stands for the process in the guest, and hears where it belongs.
    ///
    /// # Errors
    /// When the daemon does not take it in time.
    pub fn attach(&self, limit: Duration) -> Result<Place, RelayError> {
        // Without /proc nobody could watch us either.
        let myself = HostProcess::myself().ok().flatten();
        let request = AttachRequest {
            process: self.process(),
            relay_pid: std::process::id(),
            relay_start_time: myself.map_or(0, |myself| myself.start_time),
            ..AttachRequest::default()
        };
        self.call("attach", limit, async |client, context| {
            let answer = client.attach(context, &request).await?;
            Ok(Place::of(answer))
        })
    }

    /// Says that the exit was seen.
    ///
    /// # Errors
    /// When the daemon does not take it in time.
    pub fn exited(&self, code: u8, limit: Duration) -> Result<(), RelayError> {
        let request = ExitedRequest {
            process: self.process(),
            code: u32::from(code),
            ..ExitedRequest::default()
        };
        self.call("exited", limit, async |client, context| {
            client.exited(context, &request).await.map(|_| ())
        })
    }

    /// Asks how the process ended.
    ///
    /// # Errors
    /// When the daemon does not know it in time.
    pub fn exit_of(&self, limit: Duration) -> Result<Exit, RelayError> {
        let request = WaitRequest {
            process: self.process(),
            ..WaitRequest::default()
        };
        self.call("wait", limit, async |client, context| {
            let answer = client.wait(context, &request).await?;
            Ok(Exit {
                code: u8::try_from(answer.exit.code).unwrap_or(crate::VM_LOST),
                was_oom: answer.exit.reason == OOM,
            })
        })
    }

    fn process(&self) -> MessageField<ProcessRef> {
        MessageField::some(ProcessRef {
            namespace: self.process.namespace.clone(),
            container_id: self.process.container_id.clone(),
            exec_id: self.process.exec_id.clone(),
            ..ProcessRef::default()
        })
    }

    /// One call, until the limit: a daemon that is just being restarted is waited for.
    fn call<T>(
        &self,
        step: &'static str,
        limit: Duration,
        request: impl AsyncFn(&RuntimeClient, Context) -> ttrpc::Result<T>,
    ) -> Result<T, RelayError> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let outcome = self.once(step, left, &request);
            match outcome {
                // It was there and went, or is not there: both pass.
                Err(why) if left > RETRY_DELAY && !is_answer(&why) => {
                    // tidy: a daemon that comes back tells nobody; its socket is looked for, within a limit
                    std::thread::sleep(RETRY_DELAY);
                }
                outcome => return outcome,
            }
        }
    }

    fn once<T>(
        &self,
        step: &'static str,
        left: Duration,
        request: impl AsyncFn(&RuntimeClient, Context) -> ttrpc::Result<T>,
    ) -> Result<T, RelayError> {
        let socket = connect(&self.socket).map_err(|source| RelayError::NoDaemon {
            path: self.socket.clone(),
            source,
        })?;
        let failed = |source| RelayError::Daemon {
            path: self.socket.clone(),
            step,
            source,
        };
        let unusable = |source: io::Error| failed(ttrpc::Error::Socket(source.to_string()));
        // Of this thread alone: there is no other that could take a signal which is meant for it.
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(unusable)?;
        let nanos = i64::try_from(left.as_nanos()).unwrap_or(i64::MAX).max(1);
        runtime.block_on(async {
            let socket = UnixStream::from_std(socket.into()).map_err(unusable)?;
            let client = RuntimeClient::new(Client::new(socket.into()));
            let answer = request(&client, ttrpc::context::with_timeout(nanos));
            answer.await.map_err(failed)
        })
    }
}

/// A refusal of the daemon's, and no sign of one that is away.
fn is_answer(why: &RelayError) -> bool {
    matches!(
        why,
        RelayError::Daemon {
            source: ttrpc::Error::RpcStatus(_),
            ..
        }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_is_not_there_is_named() {
        let daemon = Daemon {
            socket: PathBuf::from("/nonexistent/hutchd.sock"),
            process: Process {
                namespace: "default".to_owned(),
                container_id: "web".to_owned(),
                exec_id: String::new(),
            },
        };

        let outcome = daemon.exited(0, Duration::from_millis(10));

        let text = outcome.unwrap_err().to_string();
        assert_eq!(text, "no hutchd listens at /nonexistent/hutchd.sock");
    }
}

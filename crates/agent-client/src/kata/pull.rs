//! The calls about one process on one link: its stdio, its exit, its signals. A guest's answers are
//! checked against what was asked for.

use super::ledger::ProcessKey;
use crate::{
    error::{Error, Malformed},
    rpc::Link,
};
use protocols::asynchronous::{agent as wire, agent_ttrpc::AgentServiceClient};
use runtime_core::ids::ProcessId;
use std::time::Duration;
use stream::{Channel, Winsize};
use ttrpc::context::Context;

/// A wait, a read and a write have no deadline of their own: they end with their link.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What is asked for at once, and written at once: what a pipe of the guest gives in one read.
pub(super) const CHUNK_MAX: usize = 32 * 1024;

/// Signals and sizes are small, and nothing in the guest waits for anything here. Emulation is
/// slow.
const SHORT: Duration = Duration::from_secs(30);

/// One link's way to the processes of a guest.
#[derive(Clone)]
pub struct Pull {
    pub(super) link: Link,
    pub(super) agent: AgentServiceClient,
}

/// Deadlines are kept on this side; see `rpc::link`.
pub(super) fn context() -> Context {
    Context::default()
}

/// A stock agent's name for a process. Its own empty exec id means the init to some calls and
/// every process to others, so it is never used for the init.
pub(super) fn exec_id(key: &ProcessKey) -> String {
    match &key.1 {
        ProcessId::Init => key.0.to_string(),
        ProcessId::Exec(id) => id.to_string(),
    }
}

impl Pull {
    pub(super) fn over(link: &Link) -> Self {
        Self {
            link: link.clone(),
            agent: AgentServiceClient::new(link.client()),
        }
    }

    /// What comes next of this output, at most `max` bytes. The agent answers with an error when
    /// nothing will come; an empty answer is nothing yet.
    pub(super) async fn read(
        self,
        key: ProcessKey,
        output: Channel,
        max: usize,
    ) -> Result<Vec<u8>, Error> {
        let mut request = wire::ReadStreamRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(&key);
        request.len = u32::try_from(max).unwrap_or(u32::MAX);
        let (call, answer) = match output {
            Channel::Stderr => {
                let work = self.agent.read_stderr(context(), &request);
                let call = "read stderr";
                let answer = self.link.call(call, WAIT_MAX, &request, work);
                (call, answer.await?)
            }
            Channel::Stdout | Channel::Stdin | Channel::Control => {
                let work = self.agent.read_stdout(context(), &request);
                let call = "read stdout";
                let answer = self.link.call(call, WAIT_MAX, &request, work);
                (call, answer.await?)
            }
        };
        within(call, answer.data.len(), max)?;
        Ok(answer.data)
    }

    /// How many of these bytes the process took: one at least.
    pub(super) async fn write(self, key: ProcessKey, bytes: Vec<u8>) -> Result<usize, Error> {
        let call = "write stdin";
        let sent = bytes.len();
        let mut request = wire::WriteStreamRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(&key);
        request.data = bytes;
        let work = self.agent.write_stdin(context(), &request);
        let answer = self.link.call(call, WAIT_MAX, &request, work).await?;
        let taken = usize::try_from(answer.len).unwrap_or(usize::MAX);
        within(call, taken, sent)?;
        match taken {
            0 => Err(Error::Malformed {
                call,
                source: Malformed::Missing { field: "length" },
            }),
            taken => Ok(taken),
        }
    }

    pub(super) async fn close_stdin(self, key: ProcessKey) -> Result<(), Error> {
        let mut request = wire::CloseStdinRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(&key);
        let work = self.agent.close_stdin(context(), &request);
        let call = self.link.call("close stdin", SHORT, &request, work);
        call.await.map(drop)
    }

    pub(super) async fn resize(self, key: ProcessKey, size: Winsize) -> Result<(), Error> {
        let mut request = wire::TtyWinResizeRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(&key);
        request.row = size.rows.into();
        request.column = size.columns.into();
        let work = self.agent.tty_win_resize(context(), &request);
        let call = self.link.call("resize terminal", SHORT, &request, work);
        call.await.map(drop)
    }

    pub(super) async fn signal(self, key: ProcessKey, signal: u32) -> Result<(), Error> {
        let mut request = wire::SignalProcessRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(&key);
        request.signal = signal;
        let work = self.agent.signal_process(context(), &request);
        let call = self.link.call("signal", SHORT, &request, work);
        call.await.map(drop)
    }

    /// The agent's word for how it ended. It tells it once, and closes what was not read.
    pub(super) async fn wait(self, key: ProcessKey) -> Result<i32, Error> {
        let mut request = wire::WaitProcessRequest::new();
        request.container_id = key.0.to_string();
        request.exec_id = exec_id(&key);
        let work = self.agent.wait_process(context(), &request);
        let answer = self.link.call("wait", WAIT_MAX, &request, work).await?;
        Ok(answer.status)
    }

    /// The container in which something was killed next for want of memory, as the agent names it.
    pub(super) async fn next_oom(&self) -> Result<String, Error> {
        let request = wire::GetOOMEventRequest::new();
        let work = self.agent.get_oom_event(context(), &request);
        let call = "get oom event";
        let answer = self.link.call(call, WAIT_MAX, &request, work).await?;
        Ok(answer.container_id)
    }
}

fn within(call: &'static str, len: usize, max: usize) -> Result<(), Error> {
    match len <= max {
        true => Ok(()),
        false => Err(Error::Malformed {
            call,
            source: Malformed::Range {
                field: "length",
                value: i64::try_from(len).unwrap_or(i64::MAX),
                min: 0,
                max: i64::try_from(max).unwrap_or(i64::MAX),
            },
        }),
    }
}

//! What the process room understands.

use super::events::Notice;
use crate::{
    agent::{ExitStatus, Program, Warnings},
    error::Fault,
    hypervisor::StreamLease,
    ids::{ContainerNumber, HostProcess, ProcessId, RequestKey},
    kit::Gone,
};
use actix::prelude::*;

/// Command, told by the container: come to be. What becomes of it is told as a notice.
#[derive(Message, Debug, Clone, Default, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct Make {
    /// Of an exec.
    pub program: Option<Program>,
    pub key: Option<RequestKey>,
    /// Who stands for it from the start.
    pub relay: Option<HostProcess>,
}

/// A process that was made: the same for whoever asks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub lease: StreamLease,
    pub warnings: Warnings,
}

/// Command: let a created init run its program. Asked again under the same key, it is answered again.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct Begin {
    pub key: Option<RequestKey>,
}

/// Command: send a signal; under one key once, however often it is asked for.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct Kill {
    pub key: Option<RequestKey>,
    pub signal: u32,
    pub all: bool,
}

/// Query that waits: the exit, once it is on record.
#[derive(Message, Debug)]
#[rtype(result = "Result<ExitStatus, Fault>")]
pub struct Wait;

/// Command: this host process stands for the process from now on.
#[derive(Message, Debug, Clone, Copy, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct AttachRelay {
    pub relay: HostProcess,
}

impl From<HostProcess> for AttachRelay {
    fn from(relay: HostProcess) -> Self {
        Self { relay }
    }
}

/// Event, told by the relay: it has all output and the exit.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct RelayDone;

/// Event, from the guest.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Exited {
    pub seq: u64,
    pub status: ExitStatus,
}

/// Event: the room of its guest's agent was rebuilt, and may know nothing of it.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct AgentRebuilt;

/// Event: there is no guest any more.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct GuestGone {
    pub status: ExitStatus,
}

/// Command, told by the container: forget everything; told back as a notice.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Close {
    pub status: ExitStatus,
}

/// Command, told by the container: it is over; forget it; told back as a notice.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct Forget;

/// Query: the confirmed state.
#[derive(Message, Debug)]
#[rtype(result = "ProcessView")]
pub struct GetProcess;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessView {
    pub process: ProcessId,
    pub exit: Option<ExitStatus>,
    pub relay: Option<HostProcess>,
    pub lease: Option<StreamLease>,
}

/// Event, told to the container.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub enum ProcessNotice {
    News {
        process: ProcessId,
        notice: Notice,
    },
    Gone {
        container: ContainerNumber,
        process: ProcessId,
        how: Gone,
    },
}

//! What the container room understands.

use super::{
    events::Notice,
    freezer::Freeze,
    machine::{Force, Guest},
    ooms::Ooms,
    record::{ContainerState, SharedSpec},
};
use crate::{
    agent::{ExitStatus, Program, Warnings},
    error::Fault,
    ids::{ContainerNumber, EpochMs, ExecId, HostProcess, ProcessId, RequestKey},
    kit::Gone,
    process::{AttachRelay, Kill, Made, ProcessView},
};
use actix::prelude::*;
use std::time::Duration;

/// Command, told by the sandbox: come to be. What becomes of it is told as a notice.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Create;

/// Event: the guest is ready, and has the container's block devices.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct GuestReady {
    /// Runs in the sandbox's network namespace: hooks look there before a relay stands for the init.
    pub vmm: HostProcess,
}

/// Command: a further process. Answered with its stream when its program runs, and again when it is
/// asked for again under the same key.
#[derive(Message, Debug)]
#[rtype(result = "Result<Made, Fault>")]
pub struct Exec {
    pub key: Option<RequestKey>,
    pub exec: ExecId,
    pub program: Program,
    /// Who stands for it from the start.
    pub relay: Option<HostProcess>,
}

/// Command: its init runs its program. Answered when that and poststart are on record, with the hooks that
/// failed; asked again under the same key, it is answered again.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct Start {
    pub key: Option<RequestKey>,
}

/// A command for one of the container's processes, passed on to it.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub enum ProcessCommand {
    Kill(ProcessId, Kill),
    AttachRelay(ProcessId, AttachRelay),
    RelayDone(ProcessId),
}

/// Query that waits: the exit of a process, once it is on record.
#[derive(Message, Debug)]
#[rtype(result = "Result<ExitStatus, Fault>")]
pub struct WaitProcess(pub ProcessId);

/// Query: the confirmed state of a process.
#[derive(Message, Debug)]
#[rtype(result = "Result<ProcessView, Fault>")]
pub struct GetProcessView(pub ProcessId);

/// Event, from the guest.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct GuestExited {
    pub seq: u64,
    pub process: ProcessId,
    pub status: ExitStatus,
}

/// Event, from the guest: something in it was killed for want of memory.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct GuestOomKilled {
    pub seq: u64,
    pub at: EpochMs,
}

/// Command: freeze all its processes, or thaw them. Asked again under the same key, it is answered
/// again.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct FreezeContainer {
    pub key: Option<RequestKey>,
    pub wish: Freeze,
}

/// Command: change its limits; what is left out stays. Repeating it changes nothing.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct UpdateLimits {
    /// The OCI object linux.resources.
    pub resources: Vec<u8>,
}

/// Query that waits: kills for want of memory with a number above `after`.
#[derive(Message, Debug)]
#[rtype(result = "Result<Ooms, Fault>")]
pub struct NextOoms {
    pub after: u64,
    pub wait: Duration,
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

/// Command: forget everything. Answered when no record of it is left, with the poststop hooks that failed.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct Retire {
    pub force: Force,
    pub guest: Guest,
    /// Host clock: when what still lives is killed.
    pub at: EpochMs,
}

/// Event: its sandbox goes on without it. What it has in the guest may go, if it has stopped.
#[derive(Message, Debug, Clone, Copy, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct LeaveGuest;

/// Query: the confirmed state.
#[derive(Message, Debug)]
#[rtype(result = "ContainerView")]
pub struct GetContainer;

/// Query: who stands for its processes on the host.
#[derive(Message, Debug)]
#[rtype(result = "Vec<HostProcess>")]
pub struct GetRelays;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    pub spec: SharedSpec,
    pub state: ContainerState,
    /// Who stands for the init on the host.
    pub relay: Option<HostProcess>,
}

/// Event, told to the sandbox.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum ContainerNotice {
    News {
        container: ContainerNumber,
        notice: Notice,
    },
    Gone {
        container: ContainerNumber,
        how: Gone,
    },
}

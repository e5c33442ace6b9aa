//! What the sandbox room understands.

use super::{
    events::{Notice, Verb},
    journal::Entry,
    rules::Standing,
};
use crate::{
    agent::{ContainerStats, ExitStatus, GuestPid, Warnings},
    container::{
        ContainerSpec, ContainerView, Exec, Force, FreezeContainer, NextOoms, Ooms, ProcessCommand,
        Start, UpdateLimits,
    },
    error::Fault,
    hypervisor::VmStatus,
    ids::{ContainerNumber, EpochMs, ProcessId, RequestKey, SandboxUid},
    kit::Gone,
    premises::Spent,
    process::{Made, ProcessView},
    sandbox::record::SharedSpec,
};
use actix::prelude::*;
use std::{collections::BTreeMap, time::Duration};

/// Command: create a container; the first one creates the sandbox. Answered as its init was made.
#[derive(Message, Debug)]
#[rtype(result = "Result<Made, Fault>")]
pub struct CreateContainer(pub ContainerSpec);

/// Command: come to be without a container. Answered when the VM is there.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct CreateEmpty;

/// Command for the sandbox as a whole. Answered when it is done; asked again under the same key, it is
/// answered again. With what went wrong beside it.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct Obey {
    pub key: Option<RequestKey>,
    pub verb: Verb,
}

/// Query that waits: what happened after this number.
#[derive(Message, Debug)]
#[rtype(result = "Seen")]
pub struct NextEvents {
    pub after: u64,
    /// For the first.
    pub wait: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub events: Vec<Entry>,
    /// The sandbox is gone.
    pub over: bool,
}

/// Command: delete a container, and with the last one the sandbox. Answered when nothing is left, with the
/// poststop hooks that failed.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct DeleteContainer {
    pub container: ContainerNumber,
    pub force: Force,
    pub at: EpochMs,
}

/// Command: start a container. Answered with the poststart hooks that failed.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct StartIn {
    pub container: ContainerNumber,
    pub start: Start,
}

/// Command for a process of a container, passed on to it.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct ProcessIn {
    pub container: ContainerNumber,
    pub command: ProcessCommand,
}

/// Command: a further process in a container.
#[derive(Message, Debug)]
#[rtype(result = "Result<Made, Fault>")]
pub struct ExecIn {
    pub container: ContainerNumber,
    pub exec: Exec,
}

/// Query that waits: the exit of a process, once it is on record.
#[derive(Message, Debug)]
#[rtype(result = "Result<ExitStatus, Fault>")]
pub struct WaitIn {
    pub container: ContainerNumber,
    pub process: ProcessId,
}

/// Query: the confirmed state of a container.
#[derive(Message, Debug)]
#[rtype(result = "Result<ContainerView, Fault>")]
pub struct ViewContainer(pub ContainerNumber);

/// Query: the confirmed state of a process.
#[derive(Message, Debug)]
#[rtype(result = "Result<ProcessView, Fault>")]
pub struct ViewProcess {
    pub container: ContainerNumber,
    pub process: ProcessId,
}

/// Query: the pids of a container, as the guest numbers them.
#[derive(Message, Debug)]
#[rtype(result = "Result<Vec<GuestPid>, Fault>")]
pub struct GetPidsOf(pub ContainerNumber);

/// Command for a container, passed on to it.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct FreezeIn {
    pub container: ContainerNumber,
    pub freeze: FreezeContainer,
}

/// Command for a container, passed on to it.
#[derive(Message, Debug)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct UpdateIn {
    pub container: ContainerNumber,
    pub update: UpdateLimits,
}

/// Query for a container, passed on to it.
#[derive(Message, Debug)]
#[rtype(result = "Result<Ooms, Fault>")]
pub struct NextOomsIn {
    pub container: ContainerNumber,
    pub next: NextOoms,
}

/// Query: what a container's cgroup in the guest counts.
#[derive(Message, Debug)]
#[rtype(result = "Result<ContainerStats, Fault>")]
pub struct GetStatsOf(pub ContainerNumber);

/// Query: what the sandbox costs the host now.
#[derive(Message, Debug)]
#[rtype(result = "Result<SandboxSpent, Fault>")]
pub struct GetSpent;

/// By part: the VMM, its helpers, and the relays of its processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSpent {
    pub vcpus: u32,
    pub memory_mib: u64,
    pub parts: Vec<(&'static str, Spent)>,
}

/// Query: the confirmed state of the sandbox.
#[derive(Message, Debug)]
#[rtype(result = "SandboxView")]
pub struct GetSandbox;

/// A number for a container that is about to be created: nobody else gets it, now or later. What a
/// guest remembers of a path is not true of the next container's.
#[derive(Message, Debug)]
#[rtype(result = "ContainerNumber")]
pub struct TakeNumber;

/// How long a step of the start took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseTook {
    pub name: &'static str,
    pub took: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxView {
    pub spec: SharedSpec,
    pub standing: Standing,
    pub annotations: BTreeMap<String, String>,
    /// Why it stopped; empty while all is well.
    pub reason: String,
    pub vm: Option<VmStatus>,
    pub containers: Vec<ContainerNumber>,
    pub phases: Vec<PhaseTook>,
}

/// Event, told to the host.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum SandboxNotice {
    News { uid: SandboxUid, notice: Notice },
    Gone { uid: SandboxUid, how: Gone },
}

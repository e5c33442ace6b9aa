//! What a sandbox hears, does and says.

use super::{
    machine::CONTAINERS_MAX,
    orders::ASKED_MAX,
    rules::{Op, Refused},
};
use crate::{
    agent::{ExitReason, Warnings},
    container::{self, ContainerSpec, Force, Guest},
    devices::Share,
    error::{Fault, Kind},
    hypervisor::{BlockSpec, VmExit, VmSpec, VmStatus},
    ids::{ContainerId, ContainerNumber, EpochMs, OpId, ProcessId, RequestKey},
    kit::Waiter,
    network::NetworkStatus,
    process::{Kill, Made},
};
use std::{collections::BTreeMap, time::Duration};

/// As much as Kubernetes allows one object in all.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub enum Event {
    Create {
        waiter: Waiter,
        spec: Box<ContainerSpec>,
    },
    /// Come to be, without a container.
    CreateEmpty {
        waiter: Waiter,
    },
    Order {
        waiter: Waiter,
        order: Order,
    },
    /// Answered when everything before it is on record.
    Settle {
        waiter: Waiter,
    },
    /// A process that is to be killed although the VM is paused.
    End {
        waiter: Waiter,
        killing: Killing,
    },
    RoomsOpened {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Prepared {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Connected {
        op: OpId,
        outcome: Result<NetworkStatus, Fault>,
    },
    ShareOpened {
        op: OpId,
        outcome: Result<Share, Fault>,
    },
    Launched {
        op: OpId,
        outcome: Result<VmStatus, Fault>,
    },
    Linked {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Greeted {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Plugged {
        container: ContainerNumber,
        outcome: Result<(), Fault>,
    },
    News {
        container: ContainerNumber,
        notice: container::Notice,
    },
    /// The created containers were started, or one of them was not.
    Begun {
        op: OpId,
        /// With the hooks that failed after it.
        outcome: Result<Warnings, Fault>,
    },
    /// The inits ended, or had their time.
    Quieted {
        op: OpId,
    },
    PauseDone {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    ResumeDone {
        op: OpId,
        outcome: Result<(), ResumeFailed>,
    },
    Killed {
        waiter: Waiter,
        killing: Killing,
        outcome: Result<(), Fault>,
    },
    Delete(Deletion),
    Retired {
        deletion: Deletion,
        guest: Guest,
        outcome: Result<Warnings, Fault>,
    },
    VmExited(VmExit),
    LinkLost {
        why: Fault,
    },
    ShareLost {
        why: Fault,
    },
    /// The time in which the VMM's own end would have been told is over.
    ShareLossDue {
        op: OpId,
        why: Fault,
    },
    /// With what could not be written to disks before.
    TornDown {
        op: OpId,
        unwritten: Warnings,
        outcome: Result<(), Fault>,
    },
    /// After a rebuild: take up what the record says.
    Resume {
        same_boot: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    OpenRooms {
        op: OpId,
    },
    Prepare {
        op: OpId,
    },
    Connect {
        op: OpId,
    },
    OpenShare {
        op: OpId,
    },
    StartContainer {
        spec: Box<ContainerSpec>,
    },
    Launch {
        op: OpId,
        vm: Box<VmSpec>,
    },
    Link {
        op: OpId,
        vm: VmStatus,
    },
    Greet {
        op: OpId,
    },
    Plug {
        container: ContainerNumber,
        blocks: Vec<BlockSpec>,
    },
    TellReady {
        container: ContainerNumber,
    },
    TellGuestGone {
        why: Why,
    },
    Retire {
        deletion: Deletion,
        guest: Guest,
    },
    /// Undo a container whose creation failed; nobody is answered.
    Discard {
        container: ContainerNumber,
        guest: Guest,
    },
    /// It is stopped, was read, and lies in a VM that goes on.
    Leave {
        container: ContainerNumber,
    },
    Forget {
        container: ContainerNumber,
    },
    /// Hear whether the share went with its VMM before its loss counts.
    AwaitVmExit {
        op: OpId,
        share: Fault,
    },
    TearDown {
        op: OpId,
        after: Duration,
        /// First, while its guest still lives.
        unwritten: Option<Unwritten>,
    },
    /// Open the rooms again and reach the living guest.
    Adopt {
        vm: VmStatus,
    },
    /// Start every created container.
    Begin {
        op: OpId,
    },
    /// SIGTERM for every init, and some time to end.
    Quiet {
        op: OpId,
    },
    /// Leave the agent alone, then stop the VM's processors.
    Pause {
        op: OpId,
    },
    /// The other way round; then the guest learns what time it is.
    Resume {
        op: OpId,
        vm: VmStatus,
    },
    /// Answered when it has ended, or in bounded time.
    Kill {
        waiter: Waiter,
        killing: Killing,
    },
}

/// Containers with disks of the host to write to, of which the guest may have more in its memory than is on them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwritten {
    pub vm: VmStatus,
    pub containers: Vec<ContainerNumber>,
}

/// What a sandbox as a whole is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub key: Option<RequestKey>,
    pub verb: Verb,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop(Force),
    Pause,
    Resume,
    /// With all that is in it.
    Delete(Force),
    Annotate(BTreeMap<String, String>),
}

impl Verb {
    pub fn op(&self) -> Op {
        match self {
            Self::Start => Op::Start,
            Self::Stop(Force::No) => Op::Stop,
            Self::Stop(Force::Yes) => Op::ForceStop,
            Self::Pause => Op::Pause,
            Self::Resume => Op::Resume,
            Self::Delete(Force::No) => Op::Delete,
            Self::Delete(Force::Yes) => Op::ForceDelete,
            Self::Annotate(_) => Op::Annotate,
        }
    }
}

/// SIGKILL for a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Killing {
    pub container: ContainerNumber,
    pub process: ProcessId,
    pub kill: Kill,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResumeFailed {
    /// The VM is still paused.
    Vm(Fault),
    /// It goes on, and its agent is not there.
    Agent(Fault),
}

/// What a sandbox tells the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    ContainerGone {
        container: ContainerNumber,
    },
    /// There is more in its journal. Not for the host.
    Happened,
    /// No record of it is left.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Created(Result<Made, Fault>),
    Deleted(Result<Warnings, Fault>),
    Ordered(Result<Warnings, Fault>),
}

impl Answer {
    /// There is nothing to be said of it.
    pub(super) fn done() -> Self {
        Self::Ordered(Ok(Warnings::new()))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    State(Refused),
    TooManyContainers,
    NoSuchContainer,
    Gone,
    StillCreating,
    /// It would not hear of the pause.
    BeingCreated(ContainerId),
    TooManyAsk,
    AnnotationsTooLarge,
}

/// Which command was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Create(Denied),
    Delete(Denied),
    Order(Denied),
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::State(refused) => refused.into(),
            Denied::BeingCreated(id) => Self::new(
                Kind::Denied,
                format!("cannot pause a sandbox while its container \"{id}\" is being created"),
            ),
            Denied::TooManyAsk => Self::new(
                Kind::Exhausted,
                format!("{ASKED_MAX} callers wait for the sandbox already"),
            ),
            Denied::AnnotationsTooLarge => Self::new(
                Kind::Invalid,
                format!("a sandbox has at most {ANNOTATIONS_BYTES_MAX} bytes of annotations"),
            ),
            Denied::TooManyContainers => Self::new(
                Kind::Exhausted,
                format!("the sandbox holds {CONTAINERS_MAX} containers already"),
            ),
            Denied::NoSuchContainer => Self::new(Kind::NotFound, "container does not exist"),
            Denied::Gone => Self::new(Kind::NotFound, "sandbox does not exist"),
            Denied::StillCreating => Self::new(
                Kind::Denied,
                "cannot delete container that is not stopped: creating",
            ),
        }
    }
}

pub(super) fn exit_text(exit: &VmExit) -> String {
    match exit {
        VmExit::Stopped => "its vm was stopped".to_owned(),
        VmExit::PoweredOff => "its guest powered itself off".to_owned(),
        VmExit::GuestPanic { console } => format!("its guest kernel panicked; console: {console}"),
        VmExit::Crashed { status, stderr } if stderr.is_empty() => {
            format!("its vmm died ({status})")
        }
        VmExit::Crashed { status, stderr } => format!("its vmm died ({status}): {stderr}"),
        VmExit::ChannelLost { said } if said.is_empty() => "its vsock backend died".to_owned(),
        VmExit::ChannelLost { said } => format!("its vsock backend died: {said}"),
        VmExit::HostRestarted => "the host was restarted".to_owned(),
    }
}

/// Why a sandbox stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Its creation failed: nothing of it is kept.
    NotCreated(Fault),
    /// Its fresh VM did not come up.
    NotStarted(Fault),
    /// An earlier daemon was giving it a fresh VM; when what that left is gone, it gets one.
    Again,
    /// Its containers are done.
    Idle,
    Asked,
    /// It goes, and all that is in it.
    Deleted,
    Lost(String),
    /// Its VM is there, and nobody in it answers.
    AgentLost(String),
}

/// The exit code of a process whose VM was lost.
const LOST: u32 = 255;
/// 128 + SIGKILL: the exit code of what we ended.
const KILLED: u32 = 137;

impl Why {
    /// What the processes that still lived are said to have exited with.
    pub fn code(&self) -> u32 {
        match self {
            Self::NotCreated(_)
            | Self::NotStarted(_)
            | Self::Again
            | Self::Lost(_)
            | Self::AgentLost(_) => LOST,
            Self::Idle | Self::Asked | Self::Deleted => KILLED,
        }
    }

    /// Why those processes have exited; what we ended was killed with its VM.
    pub fn reason(&self) -> ExitReason {
        match self {
            Self::NotCreated(_) | Self::NotStarted(_) | Self::Again | Self::Lost(_) => {
                ExitReason::VmLost
            }
            Self::AgentLost(_) => ExitReason::AgentLost,
            Self::Idle | Self::Asked | Self::Deleted => ExitReason::Signaled,
        }
    }

    pub fn text(&self) -> String {
        match self {
            Self::NotCreated(fault) | Self::NotStarted(fault) => fault.to_string(),
            Self::Again => "the daemon was restarted while it was being started".to_owned(),
            Self::Asked => "it was stopped".to_owned(),
            Self::Idle => "its containers have exited".to_owned(),
            Self::Deleted => "it was deleted".to_owned(),
            Self::Lost(text) | Self::AgentLost(text) => text.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    Wholly,
    /// Something was left on the host: it is tried again at the next deletion.
    Partly(Fault),
}

/// A deletion in progress, or waiting for the sandbox to have stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deletion {
    pub waiter: Waiter,
    pub container: ContainerNumber,
    pub force: Force,
    pub at: EpochMs,
    /// Once the container is gone: which of its poststop hooks failed, and what may not be on its disks.
    pub warnings: Warnings,
}

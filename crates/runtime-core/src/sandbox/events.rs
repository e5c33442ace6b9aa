//! What a sandbox hears, does and says.

use super::machine::CONTAINERS_MAX;
use crate::{
    container::{self, ContainerSpec, Force, Guest},
    devices::Share,
    error::{Fault, Kind},
    hypervisor::{BlockSpec, StreamLease, VmExit, VmSpec, VmStatus},
    ids::{ContainerNumber, EpochMs, OpId},
    kit::Waiter,
    network::NetworkStatus,
};
use std::time::Duration;

#[derive(Debug)]
pub enum Event {
    Create {
        waiter: Waiter,
        spec: Box<ContainerSpec>,
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
    Delete(Deletion),
    Retired {
        deletion: Deletion,
        outcome: Result<(), Fault>,
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
        why: Fault,
    },
    TornDown {
        op: OpId,
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
        code: u32,
        why: String,
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
    Forget {
        container: ContainerNumber,
    },
    ConfirmExit {
        seq: u64,
    },
    /// Hear whether the share went with its VMM before its loss counts.
    AwaitVmExit {
        share: Fault,
    },
    TearDown {
        op: OpId,
        after: Duration,
    },
    /// Open the rooms again and reach the living guest.
    Adopt {
        vm: VmStatus,
    },
}

/// What a sandbox tells the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    ContainerGone {
        container: ContainerNumber,
    },
    /// No record of it is left.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Created(Result<StreamLease, Fault>),
    Deleted(Result<(), Fault>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    NotReady { state: &'static str },
    TooManyContainers,
    NoSuchContainer,
    StillCreating,
}

/// Which command was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Create(Denied),
    Delete(Denied),
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NotReady { state } => {
                Self::new(Kind::Denied, format!("the sandbox is {state}, not ready"))
            }
            Denied::TooManyContainers => Self::new(
                Kind::Exhausted,
                format!("the sandbox holds {CONTAINERS_MAX} containers already"),
            ),
            Denied::NoSuchContainer => Self::new(Kind::NotFound, "container does not exist"),
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
    /// Its containers are done.
    Idle,
    Deleted,
    Lost(String),
}

impl Why {
    pub fn text(&self) -> String {
        match self {
            Self::NotCreated(fault) => fault.to_string(),
            Self::Idle => "its containers have exited".to_owned(),
            Self::Deleted => "it was deleted".to_owned(),
            Self::Lost(text) => text.clone(),
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
}

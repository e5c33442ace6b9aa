//! The words of the hypervisor machine: what it hears, and what it asks for.

use crate::port::{Exit, LaunchPlan};
use runtime_core::{
    error::{Classify, Fault, Kind},
    hypervisor::{BlockSpec, StreamLease, VmExit, VmStatus},
    ids::{HostProcess, OpId},
    kit::Waiter,
};
use std::time::Duration;

/// What the sandbox may ask for; every one of them has an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Launch(Box<LaunchPlan>),
    LeaseStream,
    ReturnStream {
        number: u32,
    },
    AttachBlock(BlockSpec),
    DetachBlock {
        serial: String,
    },
    /// Stop the guest's processors, or let them go on.
    Turn(Turn),
    Stop,
}

#[derive(Debug, Clone)]
pub enum Event {
    Asked {
        waiter: Waiter,
        command: Command,
    },
    /// The first event of a machine that was rebuilt from a record.
    Adopt,
    RetryDue {
        op: OpId,
    },
    Found {
        op: OpId,
        outcome: Result<Option<HostProcess>, Fault>,
    },
    Spawned {
        op: OpId,
        outcome: Result<HostProcess, Fault>,
    },
    Answered {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Killed {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    /// The process is gone.
    Ended {
        op: OpId,
        exit: Exit,
    },
    StreamAdded {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    BlockAttached {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    BlockDetached {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Turned {
        op: OpId,
        outcome: Result<(), Fault>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Pause,
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    Find {
        op: OpId,
        plan: Box<LaunchPlan>,
        recorded: Option<HostProcess>,
    },
    Spawn {
        op: OpId,
        plan: Box<LaunchPlan>,
    },
    /// Wait for the VMM's first answer.
    Connect {
        op: OpId,
    },
    /// Wait for its end.
    Watch {
        op: OpId,
    },
    Kill {
        op: OpId,
    },
    /// Nothing will be asked about this VM any more.
    Forget,
    AddStream {
        op: OpId,
        number: u32,
    },
    AttachBlock {
        op: OpId,
        slot: u32,
        block: BlockSpec,
    },
    DetachBlock {
        op: OpId,
        serial: String,
    },
    Turn {
        op: OpId,
        turn: Turn,
    },
    Wait {
        op: OpId,
        delay: Duration,
    },
}

/// What the sandbox hears unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Exited(VmExit),
    Adopted(VmStatus),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Launched(VmStatus),
    Leased(StreamLease),
    Done,
    Failed(Fault),
}

/// What the state refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("no vm runs")]
    NotRunning,
    #[error("the vm is being stopped")]
    Stopping,
    #[error("a vm with another specification runs already")]
    OtherVm,
    #[error("all {max} stream ports of the vm are in use")]
    StreamsExhausted { max: u32 },
    #[error("all {max} device slots of the vm are in use")]
    SlotsExhausted { max: u32 },
    #[error("block serial {serial:?} is taken by another device")]
    SerialTaken { serial: String },
    #[error("block device {serial:?} is being plugged or unplugged")]
    BlockBusy { serial: String },
    #[error("block device {serial:?} was there at boot and stays")]
    BlockFixed { serial: String },
    #[error("the vm is being paused or resumed")]
    Turning,
    #[error("{max} commands wait for the vm already")]
    TooManyWait { max: usize },
}

impl Classify for Denied {
    fn kind(&self) -> Kind {
        match self {
            Self::NotRunning
            | Self::Stopping
            | Self::BlockBusy { .. }
            | Self::BlockFixed { .. }
            | Self::Turning => Kind::Denied,
            Self::OtherVm | Self::SerialTaken { .. } => Kind::AlreadyExists,
            Self::StreamsExhausted { .. }
            | Self::SlotsExhausted { .. }
            | Self::TooManyWait { .. } => Kind::Exhausted,
        }
    }
}

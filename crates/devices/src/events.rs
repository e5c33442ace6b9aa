//! What the devices room hears, does and answers.

use crate::{plan::Survey, steps::Bind};
use runtime_core::{
    devices::{Attached, ContainerDevices, Share, ShareSpec},
    error::{Fault, Kind},
    ids::{ContainerNumber, HostProcess, OpId},
    kit::Waiter,
};
use std::time::Duration;

#[derive(Debug)]
pub enum Event {
    OpenShare {
        waiter: Waiter,
        spec: ShareSpec,
    },
    ShareOpened {
        op: OpId,
        outcome: Result<HostProcess, Fault>,
    },
    Attach {
        waiter: Waiter,
        devices: Box<ContainerDevices>,
    },
    Surveyed {
        container: ContainerNumber,
        op: OpId,
        outcome: Result<Survey, Fault>,
    },
    Bound {
        container: ContainerNumber,
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Detach {
        waiter: Waiter,
        container: ContainerNumber,
    },
    Unbound {
        container: ContainerNumber,
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Release {
        waiter: Waiter,
    },
    Closed {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    /// Copies are not kept up to date any more.
    Unfollowed {
        container: ContainerNumber,
        copies: Bind,
        outcome: Result<(), Fault>,
    },
    VirtiofsdEnded {
        virtiofsd: HostProcess,
        said: String,
    },
    /// After a rebuild: take up what the record says.
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    OpenShare {
        op: OpId,
        spec: ShareSpec,
    },
    Watch {
        spec: ShareSpec,
        virtiofsd: HostProcess,
    },
    Survey {
        op: OpId,
        devices: Box<ContainerDevices>,
    },
    /// Keep copies up to date, after a pause.
    Follow {
        container: ContainerNumber,
        copies: Bind,
        pause: Duration,
    },
    Bind {
        container: ContainerNumber,
        op: OpId,
        binds: Vec<Bind>,
    },
    Unbind {
        container: ContainerNumber,
        op: OpId,
        binds: Vec<Bind>,
    },
    Close {
        op: OpId,
        spec: Option<ShareSpec>,
        virtiofsd: Option<HostProcess>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Share(Result<Share, Fault>),
    Attached(Result<Attached, Fault>),
    Done(Result<(), Fault>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    Share,
    AttachedAlready(ContainerNumber),
    Releasing,
    Busy(ContainerNumber),
}

/// Which kind of command was denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    Share(Denied),
    Attach(Denied),
    Other(Denied),
}

impl From<Denied> for Fault {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Share => Self::new(
                Kind::Denied,
                "the sandbox has another share, or is losing it",
            ),
            Denied::AttachedAlready(number) => Self::new(
                Kind::AlreadyExists,
                format!("container {number} has its devices already"),
            ),
            Denied::Releasing => Self::new(Kind::Denied, "the sandbox is being released"),
            Denied::Busy(number) => Self::new(
                Kind::Unavailable,
                format!("the devices of container {number} are being changed"),
            ),
        }
    }
}

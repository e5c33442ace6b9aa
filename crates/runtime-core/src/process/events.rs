//! What a process hears, does and says.

use super::{
    machine::WAITERS_MAX,
    messages::{AttachRelay, Kill, Made, Make},
};
use crate::{
    agent::{ExitStatus, GuestProcessState, Once, Program, SignalTarget, Warnings},
    error::{Fault, Kind},
    hypervisor::{GuestEndpoint, StreamLease},
    ids::{HostProcess, OpId, RequestKey},
    kit::Waiter,
};

#[derive(Debug)]
pub enum Event {
    Make(Make),
    Leased {
        op: OpId,
        outcome: Result<StreamLease, Fault>,
    },
    Made {
        op: OpId,
        outcome: Result<Warnings, Fault>,
    },
    /// No guest was asked for it.
    Unsent {
        op: OpId,
        why: Fault,
    },
    /// Whoever waited for it to be made was told.
    Note,
    Begin {
        waiter: Waiter,
        key: Option<RequestKey>,
    },
    Begun {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    /// What the guest knows of it; `None`: nothing.
    Looked {
        op: OpId,
        outcome: Result<Option<GuestProcessState>, Fault>,
    },
    Kill {
        waiter: Waiter,
        kill: Kill,
    },
    Wait {
        waiter: Waiter,
    },
    AttachRelay {
        waiter: Waiter,
        relay: AttachRelay,
    },
    RelayEnded {
        relay: HostProcess,
    },
    RelayDone,
    /// The relay was told, or is gone.
    Dismissed,
    Signaled {
        waiter: Waiter,
        /// The container does not outlive it.
        is_the_end: bool,
        outcome: Result<(), Fault>,
    },
    /// The guest says so; `seq` is its number.
    Exited {
        seq: u64,
        status: ExitStatus,
    },
    /// There is no guest any more.
    GuestGone {
        status: ExitStatus,
    },
    /// The room of its guest's agent was.
    AgentRebuilt,
    /// It is being deleted; if it lives, it ends with this status.
    Close {
        status: ExitStatus,
    },
    /// It is over, and its container has no more use for it.
    Forget,
    /// After a rebuild: take up what the record says.
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    Lease {
        op: OpId,
    },
    Create {
        op: OpId,
        stream: GuestEndpoint,
    },
    Exec {
        op: OpId,
        stream: GuestEndpoint,
        program: Program,
    },
    /// Come back, and put on record what has been told.
    Note,
    Start {
        op: OpId,
    },
    /// A guest that keeps nothing of it is told of it: after a rebuild, or when its answer was lost.
    Adopt {
        state: GuestProcessState,
        stream: GuestEndpoint,
    },
    /// Ask the guest how far it came.
    Look {
        op: OpId,
    },
    /// The same, after a while.
    LookAgain {
        op: OpId,
    },
    /// `waiter`: whose command this is; none when the relay is gone.
    Signal {
        waiter: Option<Waiter>,
        target: SignalTarget,
        signal: u32,
        once: Option<Once>,
    },
    WatchRelay {
        relay: HostProcess,
    },
    /// Kill a process whose relay is gone, and say again after a while that it is.
    KillOrphan {
        relay: HostProcess,
        target: SignalTarget,
    },
    GiveBack {
        number: u32,
    },
    /// Its container goes: the relay hears what the record says of its end.
    Dismiss {
        relay: HostProcess,
        status: ExitStatus,
    },
}

/// What a process tells its container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    Made(Made),
    /// It never came to be; nothing of it is left on record.
    Failed {
        why: Fault,
    },
    Began,
    /// Its container was sent what it does not outlive.
    Doomed,
    /// Who stands for it on the host from now on.
    Relay {
        relay: Option<HostProcess>,
    },
    /// On record; `seq` is set when the guest reported it.
    Exited {
        status: ExitStatus,
        seq: Option<u64>,
    },
    /// The guest told an exit that cannot be: it need not tell it again.
    Disbelieved {
        seq: u64,
    },
    /// Its output is drained and its relay is done.
    Drained,
    /// Its record is gone; nothing more is heard of it.
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done(Result<(), Fault>),
    Exit(Result<ExitStatus, Fault>),
}

/// Which kind of answer the refusal becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    Command(Reason),
    Wait(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Running,
    Stopped,
    NotCreated { state: &'static str },
    NotRunning { state: &'static str },
    TooManyWaiters,
    RelayAttached(HostProcess),
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        match reason {
            // runc's words, and those of the next ones; callers look for them.
            Reason::Running => Self::new(Kind::Denied, "cannot start an already running container"),
            Reason::Stopped => Self::new(Kind::Denied, "cannot start a container that has stopped"),
            Reason::NotRunning { .. } => Self::new(Kind::Denied, "container not running"),
            Reason::NotCreated { state } => Self::new(
                Kind::Denied,
                format!("cannot start a process in the {state} state"),
            ),
            Reason::TooManyWaiters => Self::new(
                Kind::Exhausted,
                format!("{WAITERS_MAX} callers wait for this process already"),
            ),
            Reason::RelayAttached(relay) => Self::new(
                Kind::AlreadyExists,
                format!("a relay ({relay}) stands for this process already"),
            ),
        }
    }
}

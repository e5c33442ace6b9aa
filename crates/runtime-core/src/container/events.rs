//! What a container hears, does and says.

use super::{
    execs::EXECS_MAX,
    freezer::Freeze,
    hooks::Stage,
    machine::{Force, Guest, RESENDS_MAX},
    messages::Exec,
    ooms::{OOM_WAITERS_MAX, Ooms},
};
use crate::{
    agent::{ExitStatus, Warnings},
    devices::Attached,
    error::{Fault, Kind},
    hypervisor::BlockSpec,
    ids::{EpochMs, ExecId, OpId, ProcessId, RequestKey},
    kit::Waiter,
    process::{self, Made},
};
use std::time::Duration;

#[derive(Debug)]
pub enum Event {
    Create,
    Attached {
        op: OpId,
        outcome: Result<Attached, Fault>,
    },
    /// The guest is ready and has the container's block devices.
    GuestReady,
    /// With what failed and changes nothing.
    Hooked {
        op: OpId,
        outcome: Result<Warnings, Fault>,
    },
    /// Answered when its start is on record and poststart is done, with what failed of that.
    SettleStart {
        waiter: Waiter,
    },
    Exec {
        waiter: Waiter,
        exec: Exec,
    },
    News {
        process: ProcessId,
        notice: process::Notice,
    },
    GuestExited {
        seq: u64,
        process: ProcessId,
        status: ExitStatus,
    },
    /// Something in it was killed for want of memory; `seq` is the guest's number.
    GuestOomKilled {
        seq: u64,
        at: EpochMs,
    },
    GuestGone {
        status: ExitStatus,
    },
    Freeze {
        waiter: Waiter,
        key: Option<RequestKey>,
        wish: Freeze,
    },
    Frozen {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    Thawed {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    /// Change its limits.
    Update {
        waiter: Waiter,
        resources: Vec<u8>,
    },
    Updated {
        waiter: Waiter,
        outcome: Result<Warnings, Fault>,
    },
    /// Kills for want of memory with a higher number, now or later.
    NextOoms {
        waiter: Waiter,
        after: u64,
    },
    /// Kills for want of memory may be put on record again.
    OomRested,
    OomWaitOver {
        waiter: Waiter,
    },
    Retire {
        waiter: Waiter,
        force: Force,
        guest: Guest,
        at: EpochMs,
    },
    /// Answered when everything before it is on record.
    Settle {
        waiter: Waiter,
    },
    Removed {
        op: OpId,
        outcome: Result<(), Fault>,
    },
    LeftKilled {
        outcome: Result<(), Fault>,
    },
    /// It has stopped and was read, and its sandbox goes on without it.
    Leave,
    /// Whether nothing of it is left in guest and VM.
    Departed {
        op: OpId,
        outcome: Result<bool, Fault>,
    },
    /// After a rebuild: take up what the record says.
    Resume,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum World {
    Attach {
        op: OpId,
    },
    /// Start a process actor and tell it to come to be.
    MakeProcess {
        process: ProcessId,
        make: process::Make,
    },
    TellExit {
        process: ProcessId,
        seq: u64,
        status: ExitStatus,
    },
    TellGuestGone {
        status: ExitStatus,
    },
    CloseProcesses {
        status: ExitStatus,
    },
    /// One that is over.
    CloseProcess {
        process: ProcessId,
    },
    /// Come back after a while.
    RestOoms,
    /// After a while, kill what lives in the guest of a container that has stopped.
    KillLeft {
        after: Duration,
    },
    RunHooks {
        op: OpId,
        stage: Stage,
    },
    /// Whatever hooks run: their outcome is of no interest any more.
    StopHooks,
    Freeze {
        op: OpId,
    },
    Thaw {
        op: OpId,
        after: Duration,
    },
    Update {
        waiter: Waiter,
        resources: Vec<u8>,
    },
    /// The actor of this process may go.
    Forget {
        process: ProcessId,
    },
    /// Remove it from the guest, and take its devices out.
    Remove {
        op: OpId,
    },
    /// The same, if nothing lives in it.
    Leave {
        op: OpId,
    },
}

/// What a container tells its sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Its devices are in the share; these are to be plugged in.
    Attached {
        blocks: Vec<BlockSpec>,
    },
    Created(Made),
    Failed {
        why: Fault,
    },
    Started,
    Stopped {
        status: ExitStatus,
    },
    /// The exit that the guest numbered so is on record, or is not ours to record.
    ExitRecorded {
        seq: u64,
    },
    /// It is stopped, and nobody needs its streams any more.
    Drained,
    Retired,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Settled,
    Started(Warnings),
    Done(Result<(), Fault>),
    Ooms(Result<Ooms, Fault>),
    Exec(Result<Made, Fault>),
    Updated(Result<Warnings, Fault>),
    Retired(Result<Warnings, Fault>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    Exec(Reason),
    Update(Reason),
    Retire(Reason),
    Command(Reason),
    Ooms(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    CannotExec { state: &'static str },
    ExecExists(ExecId),
    TooManyExecs,
    TooManyResends,
    CannotDelete { id: String, state: &'static str },
    CannotFreeze { wish: Freeze, state: &'static str },
    Paused,
    CannotUpdate { state: &'static str },
    TooManyOomWaiters,
    TooManyDeletions,
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        match reason {
            // runc's words.
            Reason::CannotExec { state } => Self::new(
                Kind::Denied,
                format!("cannot exec in a container in the {state} state"),
            ),
            Reason::CannotFreeze {
                wish: Freeze::Pause,
                state: "paused",
            } => Self::new(Kind::Denied, "container is already paused"),
            // runc's words.
            Reason::CannotFreeze {
                wish: Freeze::Pause,
                ..
            } => Self::new(Kind::Denied, "container not running or created"),
            // runc's words.
            Reason::CannotFreeze {
                wish: Freeze::Resume,
                ..
            } => Self::new(Kind::Denied, "container not paused"),
            // runc's words.
            Reason::Paused => {
                Self::new(Kind::Denied, "cannot start a container in the paused state")
            }
            // runc's words.
            Reason::CannotUpdate { state: "stopped" } => {
                Self::new(Kind::Denied, "container not running")
            }
            Reason::CannotUpdate { state } => Self::new(
                Kind::Denied,
                format!("cannot update a container in the {state} state"),
            ),
            Reason::TooManyDeletions => Self::new(
                Kind::Exhausted,
                format!("its deletion was asked for {RESENDS_MAX} times already"),
            ),
            Reason::TooManyOomWaiters => Self::new(
                Kind::Exhausted,
                format!("{OOM_WAITERS_MAX} callers wait for its kills for want of memory already"),
            ),
            Reason::ExecExists(id) => Self::new(
                Kind::AlreadyExists,
                format!("exec with id \"{id}\" already exists"),
            ),
            Reason::TooManyExecs => Self::new(
                Kind::Exhausted,
                format!("a container has at most {EXECS_MAX} execs that run or that nobody read"),
            ),
            Reason::TooManyResends => Self::new(
                Kind::Exhausted,
                format!("the same exec was asked for {RESENDS_MAX} times already"),
            ),
            // runc's words.
            Reason::CannotDelete { id, state } => Self::new(
                Kind::Denied,
                format!("cannot delete container {id} that is not stopped: {state}"),
            ),
        }
    }
}

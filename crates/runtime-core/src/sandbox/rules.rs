//! What a sandbox may be told where it stands: one table, which `docs/sandbox-states.md` shows.
//!
//! Whoever is told something it may not do is answered by [`Refused`], whose text names the state
//! and what to do about it.

use crate::error::{Fault, Kind};
use serde::{Deserialize, Serialize};

/// Where a sandbox stands, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    Creating,
    /// A stopped one gets a fresh VM, or a ready one has its containers started.
    Starting,
    /// Its VM is there; nothing in it was started.
    Ready,
    Running,
    Pausing,
    Paused,
    Resuming,
    Stopping,
    Stopped,
    /// Something of it could not be released, or its room panicked too often.
    Failed,
}

impl Standing {
    pub const ALL: [Self; 10] = [
        Self::Creating,
        Self::Starting,
        Self::Ready,
        Self::Running,
        Self::Pausing,
        Self::Paused,
        Self::Resuming,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

/// What a sandbox may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    CreateContainer,
    Start,
    Stop,
    ForceStop,
    Pause,
    Resume,
    Delete,
    ForceDelete,
    Annotate,
    /// What a container's guest has to do: start, exec, signals, deletion, its processes.
    UseGuest,
    /// SIGKILL, and deletion by force, of a container.
    EndInGuest,
}

impl Op {
    pub const ALL: [Self; 11] = [
        Self::CreateContainer,
        Self::Start,
        Self::Stop,
        Self::ForceStop,
        Self::Pause,
        Self::Resume,
        Self::Delete,
        Self::ForceDelete,
        Self::Annotate,
        Self::UseGuest,
        Self::EndInGuest,
    ];

    /// As the documentation's table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CreateContainer => "create container",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::ForceStop => "stop --force",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Delete => "delete",
            Self::ForceDelete => "delete --force",
            Self::Annotate => "annotate",
            Self::UseGuest => "use guest",
            Self::EndInGuest => "end in guest",
        }
    }

    fn tried(self) -> &'static str {
        match self {
            Self::CreateContainer => "create a container in",
            Self::Start => "start",
            Self::Stop | Self::ForceStop => "stop",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Delete | Self::ForceDelete => "delete",
            Self::Annotate => "annotate",
            Self::UseGuest | Self::EndInGuest => "reach into",
        }
    }
}

/// What becomes of what a sandbox is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    Done,
    /// It is so; nothing happens.
    AlreadySo,
    /// It is under way; whoever asks hears what becomes of it.
    Joins,
    Refused,
}

impl Rule {
    /// As the documentation's table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::AlreadySo => "so",
            Self::Joins => "joins",
            Self::Refused => "no",
        }
    }
}

/// The table: a row for each operation, a column for each state of [`Standing::ALL`].
#[rustfmt::skip]
pub fn rule(op: Op, at: Standing) -> Rule {
    use Rule::{AlreadySo as So, Done as Ok, Joins, Refused as No};
    let row = match op {
        //                     creat. start. ready  runn.  pausi. paused resum. stoppi. stopd  failed
        Op::CreateContainer => [No,   No,    Ok,    Ok,    No,    No,    No,    No,    No,    No],
        Op::Start           => [No,   Joins, Ok,    No,    No,    No,    No,    No,    Ok,    No],
        Op::Stop            => [No,   No,    Ok,    Ok,    No,    No,    No,    Joins, So,    Ok],
        Op::ForceStop       => [No,   Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    So,    Ok],
        Op::Pause           => [No,   No,    Ok,    Ok,    Joins, No,    No,    No,    No,    No],
        Op::Resume          => [No,   No,    No,    No,    No,    Ok,    Joins, No,    No,    No],
        Op::Delete          => [No,   No,    Ok,    No,    No,    No,    No,    No,    Ok,    No],
        Op::ForceDelete     => [Ok,   Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok],
        Op::Annotate        => [Ok,   Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    No],
        Op::UseGuest        => [Ok,   Ok,    Ok,    Ok,    No,    No,    No,    Ok,    Ok,    Ok],
        Op::EndInGuest      => [Ok,   Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok,    Ok],
    };
    row[at as usize]
}

/// What a sandbox was told and may not do where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    pub op: Op,
    pub at: Standing,
}

/// What to do instead.
fn hint(Refused { op, at }: Refused) -> &'static str {
    match (at, op) {
        (Standing::Paused, Op::Stop) => ": resume it first, or use --force",
        (Standing::Paused, Op::Delete) => ": use --force",
        (Standing::Paused, Op::CreateContainer | Op::UseGuest) => ": resume it first",
        (Standing::Stopped, Op::CreateContainer | Op::Pause) => ": start it first",
        (Standing::Running, Op::Delete) => ": stop it first, or use --force",
        (Standing::Failed, Op::CreateContainer | Op::Start) => ": stop it first, or delete it",
        (Standing::Creating, Op::Stop | Op::ForceStop) => ": delete it with --force",
        (
            Standing::Creating
            | Standing::Starting
            | Standing::Pausing
            | Standing::Resuming
            | Standing::Stopping
            | Standing::Failed,
            Op::Delete,
        ) => ": use --force",
        (Standing::Starting | Standing::Pausing | Standing::Resuming, Op::Stop) => ": use --force",
        _ => "",
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let (tried, at) = (refused.op.tried(), refused.at.name());
        let hint = hint(refused);
        Self::new(
            Kind::Denied,
            format!("cannot {tried} a sandbox that is {at}{hint}"),
        )
    }
}

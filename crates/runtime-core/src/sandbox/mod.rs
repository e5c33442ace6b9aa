//! The sandbox room: one VM, its rooms, and the parent of its containers.

mod actor;
mod desk;
mod ending;
mod events;
mod exits;
mod hearing;
mod ladder;
mod lent;
mod machine;
mod members;
mod messages;
mod record;

pub use actor::{SandboxActor, Surroundings};
pub use events::{Answer, Deletion, Denied, Event, Notice, Refusal, Released, Why, World};
pub use machine::{Sandbox, State};
pub use messages::{
    CreateContainer, DeleteContainer, ExecIn, FreezeIn, GetPidsOf, GetSandbox, GetStatsOf,
    NextOomsIn, PhaseTook, ProcessIn, SandboxNotice, SandboxView, TakeNumber, UpdateIn,
    ViewContainer, ViewProcess, WaitIn,
};
pub use record::{Phase, SandboxRecord, SandboxSpec};

//! The sandbox room: one VM, its rooms, and the parent of its containers.

mod actor;
mod desk;
mod events;
mod exits;
mod ladder;
mod lent;
mod machine;
mod members;
mod messages;
mod record;

pub use actor::{SandboxActor, Surroundings};
pub use events::{Answer, Denied, Event, Notice, Refusal, World};
pub use machine::{Deletion, Released, Sandbox, State, Why};
pub use messages::{
    CreateContainer, DeleteContainer, ExecIn, GetPidsOf, GetSandbox, PhaseTook, ProcessIn,
    SandboxNotice, SandboxView, ViewContainer, ViewProcess, WaitIn,
};
pub use record::{Phase, SandboxRecord, SandboxSpec};

//! The sandbox room: one VM, its rooms, and the parent of its containers.

mod actor;
mod board;
mod desk;
mod effects;
mod ending;
mod events;
mod exits;
mod hearing;
mod journal;
mod ladder;
mod leases;
mod lent;
mod machine;
mod members;
mod messages;
mod orders;
mod record;
mod rules;
mod seen;
mod write_back;
mod writers;

pub use actor::{SandboxActor, Surroundings};
pub use events::{
    ANNOTATIONS_BYTES_MAX, Answer, Deletion, Denied, Event, Killing, Notice, Order, Refusal,
    Released, ResumeFailed, Unwritten, Verb, Why, World,
};
pub use journal::{Entry as JournalEntry, Happening, Journal};
pub use machine::{Member, Sandbox, State};
pub use messages::{
    CreateContainer, CreateEmpty, DeleteContainer, ExecIn, FreezeIn, GetPidsOf, GetSandbox,
    GetSpent, GetStatsOf, NextEvents, NextOomsIn, Obey, PhaseTook, ProcessIn, SandboxNotice,
    SandboxSpent, SandboxView, Seen, StartIn, TakeNumber, UpdateIn, ViewContainer, ViewProcess,
    WaitIn,
};
pub use orders::Cause;
pub use record::{Ended, Lifetime, Phase, SandboxRecord, SandboxSpec, Stage};
pub use rules::{Op, Refused, Rule, Standing, rule};

//! The host room: the registry of containers, admission, and the parent of every sandbox.

mod actor;
mod deletions;
mod desk;
mod events;
mod known;
mod machine;
mod messages;
mod naming;
mod sandboxes;
mod unread;

pub use actor::{Architect, HostActor, Surroundings};
pub use deletions::DeletionRecord;
pub use events::{
    Answer, Created, Denied, Doomed, Event, Fate, Found, Into, Known, KnownHome, Name, Place,
    Refusal, Repeated, World,
};
pub use known::Unread;
pub use machine::Host;
pub use messages::{
    CreateContainer, CreateSandbox, Delete, DeleteSandbox, Drain, Find, FindSandbox, GetUnread,
    List, ListSandboxes, Listed, Located, LocatedSandbox, RootKind, SandboxWish, ViewSandbox, Wish,
};
pub use sandboxes::SandboxName;

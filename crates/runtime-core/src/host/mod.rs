//! The host room: the registry of containers, admission, and the parent of every sandbox.

mod actor;
mod deletions;
mod desk;
mod events;
mod known;
mod machine;
mod messages;

pub use actor::{HostActor, Surroundings};
pub use deletions::DeletionRecord;
pub use events::{
    Answer, Created, Denied, Event, Fate, Found, Into, Known, Name, Place, Refusal, Repeated, World,
};
pub use machine::Host;
pub use messages::{
    CreateContainer, Delete, Drain, Find, List, ListSandboxes, Listed, Located, Wish,
};

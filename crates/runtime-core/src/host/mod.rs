//! The host room: the registry of containers, admission, and the parent of every sandbox.

mod actor;
mod machine;
mod messages;

pub use actor::{HostActor, Surroundings};
pub use machine::{Created, Denied, Event, Found, Host, Into, Name, Place, World};
pub use messages::{
    CreateContainer, Drain, Find, GetUndone, List, ListSandboxes, Listed, Located, Wish,
};

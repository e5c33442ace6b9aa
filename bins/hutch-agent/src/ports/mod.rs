//! Virtio-serial ports: found by name, also those that are added later, and read and written
//! without blocking. Knows nothing of what travels on them.

mod find;
mod port;
mod reactor;
pub mod uevents;
mod watch;

pub use find::{open, valid_name};
pub use port::{Attempt, Port, attempt};
pub use reactor::Reactor;
pub use watch::watch;

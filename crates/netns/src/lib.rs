//! The network room: the network namespace in which the VMM of one sandbox lives.
//!
//! It makes a namespace with loopback up and takes it away again, or looks at one that the caller
//! lends. It decides nothing about sandboxes, starts no process, and never deletes what it did
//! not make.

pub mod actor;
pub mod driver;
pub mod error;
pub mod events;
pub mod fake;
mod loopback;
pub mod machine;
mod nsfs;
pub mod plan;
pub mod port;
pub mod record;

pub use actor::open;

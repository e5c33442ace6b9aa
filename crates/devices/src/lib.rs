//! The devices room: root file systems, shares and block devices of one sandbox.
//!
//! Directories reach the guest through one share that virtiofsd exports; images and block devices
//! go to the VM itself. The room never speaks to the VMM: what is to be plugged in is told to
//! whoever asked.

mod actor;
pub mod driver;
mod error;
mod events;
pub mod fake;
mod follow;
mod follower;
mod machine;
mod mounts;
pub mod plan;
pub mod port;
mod record;
pub mod steps;
mod survey;
mod tree;
mod watch;

pub use actor::open;
pub use error::Error;
pub use events::{Event, World};
pub use machine::Devices;
pub use port::Shares;
pub use record::DevicesRecord;

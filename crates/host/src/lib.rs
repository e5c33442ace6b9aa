//! What the host lends a sandbox: a folder, cgroups, and news of its processes; and the sweeper
//! that finds what nobody owns.
//!
//! Drivers behind the [`runtime_core::premises::Premises`] port. They decide nothing: what is
//! known is said by the caller, from its records.

pub mod cgroup;
pub mod fake;
pub mod folder;
pub mod hooks;
pub mod mounts;
pub mod proc;

mod error;
mod premises;
mod spent;
mod sweeper;
mod turns;

pub use error::{Doing, Error};
pub use premises::{Cleared, HostPremises};
pub use proc::PidFd;
pub use sweeper::Swept;

//! Runs VMs: the hypervisor room, the port it speaks to, and the QEMU driver behind it.
//!
//! `machine` decides, with `streams` and `blocks` as values beside it; `actor` performs; `port` is
//! what both the `qemu` driver and the `fake` implement.

pub mod accelerator;
pub mod actor;
mod adoption;
pub mod blocks;
pub mod console;
mod ending;
pub mod error;
pub mod events;
pub mod fake;
pub mod layout;
mod lending;
pub mod machine;
pub mod port;
pub mod process;
pub mod qemu;
pub mod record;
pub mod streams;

//! Runs VMs: the hypervisor actor, the port it speaks to, and the QEMU driver behind it.

pub mod console;
pub mod error;
pub mod fake;
pub mod port;
pub mod process;
pub mod qemu;

//! The contracts of this room's ports, as suites that run on a fake and on the real thing.
//!
//! Only with the feature `contract`. They are part of the library because the vsock driver can
//! only be tried inside a guest, by a program that is put there (`examples/vsock_contract.rs`).

pub mod agent;
pub mod channel;
mod execs;
pub mod peers;
mod pipes;
mod removal;
pub mod server;
pub mod stdio;
pub mod stock;
mod warnings;

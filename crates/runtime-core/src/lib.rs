//! What every room agrees on, and the rooms that need no driver.
//!
//! Ids, errors, the actor kit, the messages between rooms, the records, and the machines and
//! actors of host, sandbox, container and process. This crate depends on no other of ours and
//! touches nothing: no file, no socket, no process, no clock but tokio's.

pub mod agent;
pub mod clock;
pub mod container;
pub mod devices;
pub mod error;
pub mod host;
pub mod hypervisor;
pub mod ids;
pub mod kit;
pub mod listed;
pub mod network;
pub mod premises;
pub mod process;
pub mod records;
pub mod rooms;
pub mod sandbox;

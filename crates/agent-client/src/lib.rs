//! The agent room: the link to the agent of one guest, and the calls on it.
//!
//! It dials, keeps the link open, performs calls with deadlines, and brings every exit of a
//! process to the sandbox until the sandbox has it on record. It decides nothing about sandboxes
//! or containers. What comes out of a guest is checked here (`convert`) before anyone sees it.

pub mod actor;
pub mod call;
pub mod channel;
#[cfg(feature = "contract")]
pub mod contract;
pub mod convert;
pub mod error;
pub mod events;
pub mod fake;
pub mod kata;
pub mod machine;
pub mod patience;
pub mod port;
pub mod ready;
pub mod rpc;
pub mod signs;

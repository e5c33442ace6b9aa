//! A stock Kata agent behind the same port.
//!
//! It keeps no exits: `WaitProcess` consumes them, so each process is waited for exactly once, and
//! the `ledger` of this daemon keeps the answer, numbered as our own agent would number it. The
//! ledger lives as long as the port, across links; it does not outlive the daemon.

mod calls;
mod config;
mod ledger;
mod spec;
mod stats;

pub use calls::{KataCalls, Share};
pub use ledger::Ledger;

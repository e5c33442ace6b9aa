//! A stock Kata agent behind the same port.
//!
//! It keeps no exits: `WaitProcess` consumes them, so each process is waited for exactly once, and
//! the `ledger` of this daemon keeps the answer, numbered as our own agent would number it. The
//! ledger lives as long as the port, across links; it does not outlive the daemon, and a later one
//! is told what lives.
//!
//! It has no streams either: an `attendant` beside each process carries its stdio by the agent's
//! calls, and listens where its relay looks for the stream. See `docs/kata-guest.md`.

mod attendant;
mod calls;
mod config;
mod exits;
mod household;
mod ledger;
mod pull;
mod spec;
mod station;
mod stats;
mod taps;

pub use calls::{KataCalls, Share};
pub use exits::judge;
pub use household::Household;
pub use ledger::{Ledger, Signals};
pub use stats::stats;

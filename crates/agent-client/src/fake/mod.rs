//! A guest for simulation: containers, processes and exits in memory, and an agent port to it.
//!
//! It runs in tokio's time and has no task, thread or random number of its own: what happens next
//! depends only on what was asked and when. It keeps the same contract as the real port
//! (`contract::agent`). Faults are injected by name, see [`FakeGuest`].
//!
//! Its programs: `true`, `echo`, `false`, `sleep SECONDS`, `sh -c 'exit N'`; any other runs until a signal
//! ends it.

mod guest;
mod port;
mod program;
mod world;

pub use guest::{FakeGuest, Trouble};
pub use port::FakeAgent;
#[cfg(feature = "contract")]
pub(crate) use world::World;
pub use world::{RanExec, Refusal};

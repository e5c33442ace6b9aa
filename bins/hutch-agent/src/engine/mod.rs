//! The container engine: makes containers and processes inside the guest.
//!
//! ```text
//!   agent (threads) ── request, fds ──► spawner (one thread) ── clone, CLONE_PARENT ──► process
//!      ▲   └──────────── plan ────────────────────────────────────────────────────────────►│
//!      └────────────────── pid from the spawner; ready, or the error, from the process ◄───┘
//! ```
//!
//! Config is parsed, checked and lowered to a plan in the agent; the spawner only forks; the
//! process does what the plan says and becomes the user's program. It may not decide when a
//! container lives or dies, speak with the host, or reap: that is the agent's.

mod api;
mod begun;
mod bpf;
mod cgroup;
mod child;
mod container;
mod disks;
#[expect(clippy::module_inception, reason = "the main type of the room")]
mod engine;
mod error;
mod home;
mod idmap;
mod lacking;
mod lock;
mod lower;
mod numbers;
mod plan;
pub mod rehearsal;
mod resources;
mod spare;
mod spawn;
mod spawner;
mod spec;
mod sys;
mod sysfs;
mod wire;

pub use api::{
    CreatePlan, Created, Disk, DiskPurpose, ExecPlan, HostDevice, NamespaceFrom, NamespaceKind,
    ProcessIo, Roots, Target,
};
pub use begun::{Execing, Starting};
pub use cgroup::Stats;
pub use engine::Engine;
pub use error::{Cause, Error, HookFault, Kind, ProgramFault, Result};
pub(crate) use sys::{SchedAttr, set_scheduler};

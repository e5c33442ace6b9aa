//! The process room: one init or exec of a container, from its stream to its exit.

mod actor;
mod again;
mod ending;
mod events;
mod machine;
mod messages;
mod record;

pub use actor::{ProcessActor, Surroundings};
pub use events::{Answer, Denied, Event, Notice, Reason, World};
pub use machine::{Process, State};
pub use messages::{
    AgentRebuilt, AttachRelay, Begin, Close, Exited, Forget, GetProcess, GuestGone, Kill, Made,
    Make, ProcessNotice, ProcessView, RelayDone, Wait,
};
pub use record::{ProcessRecord, ProcessState};

use crate::{
    agent::{Adopt, Exec, GuestProcessState, Signal, Warnings},
    error::Fault,
    hypervisor::{GuestEndpoint, StreamLease},
    ids::{ContainerNumber, ProcessId},
    kit::Work,
};
use std::time::Duration;

/// What became of a request to a guest for an exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// The guest was not asked, and has nothing of it.
    Unsent(Fault),
    /// Where that is a fault, the guest may have carried it out all the same.
    Sent(Result<Warnings, Fault>),
}

/// What a process needs of its sandbox. A port: the sandbox lends it, simulation too.
pub trait Plant {
    /// A stream that is this process's alone until it gives it back. Whoever leases puts it on record.
    fn lease(
        &self,
        container: ContainerNumber,
        process: ProcessId,
    ) -> Work<Result<StreamLease, Fault>>;
    /// Of a process that does not have it any more, or whose VM is gone: nothing happens.
    fn give_back(&self, container: ContainerNumber, process: &ProcessId, number: u32) -> Work<()>;
    /// Creates the container in the guest, with its init waiting.
    fn create(
        &self,
        container: ContainerNumber,
        stream: GuestEndpoint,
    ) -> Work<Result<Warnings, Fault>>;
    /// Hooks in the guest may take so long, beside the start itself.
    fn start(&self, container: ContainerNumber, hooks_limit: Duration) -> Work<Result<(), Fault>>;
    /// Of an earlier daemon's process, in a guest that has no streams.
    fn adopt(&self, adopt: Adopt);
    /// What the guest knows of a process; `None`: nothing.
    fn look(
        &self,
        container: ContainerNumber,
        process: ProcessId,
    ) -> Work<Result<Option<GuestProcessState>, Fault>>;
    fn exec(&self, exec: Exec) -> Work<Asked>;
    fn signal(&self, signal: Signal) -> Work<Result<(), Fault>>;
}

//! The container room: one OCI bundle in a sandbox, and the parent of its processes.

mod actor;
mod desk;
mod ending;
mod events;
mod execs;
mod freezer;
mod hook;
mod hooks;
mod leave;
mod machine;
mod messages;
mod ooms;
mod record;
mod removal;

pub use actor::{ContainerActor, Surroundings};
pub use events::{Answer, Denied, Event, Notice, Reason, World};
pub use freezer::{Freeze, FreezeRequest, FreezerRecord};
pub use hooks::{HookProgress, HostHooks, Stage};
pub use machine::{Container, Force, Guest, State};
pub use messages::{
    AgentRebuilt, ContainerNotice, ContainerView, Create, Exec, FreezeContainer, GetContainer,
    GetProcessView, GetRelays, GuestExited, GuestGone, GuestOomKilled, GuestReady, LeaveGuest,
    NextOoms, ProcessCommand, Retire, Start, UpdateLimits, WaitProcess,
};
pub use ooms::{Oom, Ooms};
pub use record::{ContainerRecord, ContainerSpec, ContainerState};

use crate::{
    agent::Warnings, devices::Attached, error::Fault, ids::ContainerNumber, kit::Work, process,
};

/// What a container needs of its sandbox, beyond what its processes need.
pub trait Plant: process::Plant {
    fn attach(&self, devices: crate::devices::ContainerDevices) -> Work<Result<Attached, Fault>>;
    /// Removes it from the guest.
    fn remove(&self, container: ContainerNumber) -> Work<Result<(), Fault>>;
    /// Removes it from the guest if nothing lives in it; whether it is removed, or was already.
    fn remove_empty(&self, container: ContainerNumber) -> Work<Result<bool, Fault>>;
    /// Unplugs its block devices, and takes its directories out. Every step runs, the errors are joined.
    fn detach(
        &self,
        container: ContainerNumber,
        attached: Option<Attached>,
    ) -> Work<Result<(), Fault>>;
    /// Freezes every process of it. One that is frozen is already so.
    fn freeze(&self, container: ContainerNumber) -> Work<Result<(), Fault>>;
    fn thaw(&self, container: ContainerNumber) -> Work<Result<(), Fault>>;
    /// Changes its limits: all of them, or none.
    fn update(
        &self,
        container: ContainerNumber,
        resources: Vec<u8>,
    ) -> Work<Result<Warnings, Fault>>;
    /// Tells the plant what a container is, before its init is created.
    fn describe(&self, spec: &ContainerSpec, attached: &Attached);
}

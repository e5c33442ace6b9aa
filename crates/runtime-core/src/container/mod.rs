//! The container room: one OCI bundle in a sandbox, and the parent of its processes.

mod actor;
mod events;
mod machine;
mod messages;
mod record;

pub use actor::{ContainerActor, Surroundings};
pub use events::{Answer, Denied, Event, Notice, Reason, World};
pub use machine::{Container, Force, Guest, State};
pub use messages::{
    ContainerNotice, ContainerView, Create, Exec, GetContainer, GetProcessView, GuestExited,
    GuestGone, GuestReady, ProcessCommand, Retire, WaitProcess,
};
pub use record::{ContainerRecord, ContainerSpec, ContainerState};

use crate::{devices::Attached, error::Fault, ids::ContainerNumber, kit::Work, process};

/// What a container needs of its sandbox, beyond what its processes need.
pub trait Plant: process::Plant {
    fn attach(&self, devices: crate::devices::ContainerDevices) -> Work<Result<Attached, Fault>>;
    /// Removes it from the guest, unplugs its block devices, and takes its directories out.
    fn remove(
        &self,
        container: ContainerNumber,
        attached: Option<Attached>,
    ) -> Work<Result<(), Fault>>;
    /// Tells the plant what a container is, before its init is created.
    fn describe(&self, spec: &ContainerSpec, attached: &Attached);
}

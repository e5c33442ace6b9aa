//! The port to the host's mounts and to virtiofsd. Every call may be repeated.

use crate::{error::Error, plan::Survey, steps::Bind};
use runtime_core::{
    devices::{ContainerDevices, ShareSpec},
    ids::HostProcess,
    kit::Work,
};

pub trait Shares {
    /// Makes the shared folder a mount point and starts virtiofsd on it. Answers when it listens;
    /// nothing of it is left after an error.
    fn open(&self, spec: ShareSpec) -> Work<Result<HostProcess, Error>>;

    /// What the host has where a container's paths point.
    fn survey(&self, devices: ContainerDevices) -> Work<Result<Survey, Error>>;

    /// Binds in their order; nothing is left bound after an error.
    fn bind(&self, binds: Vec<Bind>) -> Work<Result<(), Error>>;

    /// Keeps copies up to date: makes a new one whenever the tree changed. Answers when the bind is
    /// taken away, or when it cannot go on; the newest copy stays what it is then.
    fn follow(&self, copies: Bind) -> Work<Result<(), Error>>;

    /// Takes binds away in reverse; what is not there is already so.
    fn unbind(&self, binds: Vec<Bind>) -> Work<Result<(), Error>>;

    /// Ends virtiofsd and takes everything below the shared folder away.
    fn close(&self, spec: ShareSpec, virtiofsd: Option<HostProcess>) -> Work<Result<(), Error>>;

    /// Answers when virtiofsd has ended, with its last words.
    fn ended(&self, spec: ShareSpec, virtiofsd: HostProcess) -> Work<String>;
}

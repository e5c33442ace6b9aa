//! What the devices room understands. The room itself is the crate `devices`.

use crate::{
    agent::{GuestDevice, GuestDisk, GuestHookProgram, GuestMount, GuestRootfs},
    error::Fault,
    hypervisor::BlockSpec,
    ids::{ContainerNumber, SandboxUid},
    kit::Gone,
    premises::Cgroup,
};
use actix::{WeakRecipient, prelude::*};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The share of a sandbox, before its VM is launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareSpec {
    pub uid: SandboxUid,
    /// The sandbox's folder; `share/` and `virtiofs.sock` are made in it.
    pub folder: PathBuf,
    pub virtiofsd: PathBuf,
    /// Where virtiofsd lives; it exists already.
    pub cgroup: Cgroup,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The socket for the VMM.
    pub socket: PathBuf,
}

/// What a container brings from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerDevices {
    pub container: ContainerNumber,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// config.json's root.path as it stands there.
    pub root: PathBuf,
    pub root_read_only: bool,
    /// What config.json has the guest find of the host: bind mounts, disks, and programs of hooks.
    pub binds: Vec<BindSpec>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindSpec {
    /// Index into config.json's mounts, or where its purpose says.
    pub index: u32,
    /// Absolute, or relative to the bundle; of a device its folder in sysfs.
    pub source: PathBuf,
    /// `rbind` rather than `bind`.
    pub recursive: bool,
    pub read_only: bool,
    #[serde(default)]
    pub purpose: Purpose,
}

/// What a bind from the host is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// One of config.json's mounts.
    #[default]
    Mount,
    /// The program of one of config.json's hooks.createContainer, which the guest runs; the index is
    /// among those.
    HookProgram,
    /// The disk or image of one of config.json's mounts of a file system.
    FileSystem,
    /// One of config.json's linux.devices; the index is among those.
    Device,
}

/// How the guest finds what a container brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub rootfs: GuestRootfs,
    pub mounts: Vec<GuestMount>,
    #[serde(default)]
    pub hook_programs: Vec<GuestHookProgram>,
    #[serde(default)]
    pub disks: Vec<GuestDisk>,
    /// Those among the root and the disks that are devices of the host.
    #[serde(default)]
    pub devices: Vec<GuestDevice>,
    /// To be plugged into the VM by whoever asked (the sandbox asks the hypervisor).
    pub blocks: Vec<BlockSpec>,
}

/// Command: make the shared folder and start virtiofsd on it.
#[derive(Message, Debug)]
#[rtype(result = "Result<Share, Fault>")]
pub struct OpenShare(pub ShareSpec);

/// Command: bring a container's directories into the share. Nothing is half attached on failure.
#[derive(Message, Debug)]
#[rtype(result = "Result<Attached, Fault>")]
pub struct Attach(pub ContainerDevices);

/// Command: take them out again. What is not attached is already so.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct Detach {
    pub container: ContainerNumber,
}

/// Command: release everything; the VM is gone. Every step runs, the errors are joined.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct Release;

/// Event, told to the sandbox.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "()")]
pub enum Notice {
    /// virtiofsd died under a VM that needs it.
    ShareLost { why: Fault },
}

/// Event, told to the sandbox when the actor itself ended.
#[derive(Message, Debug, Clone, Copy, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct RoomGone(pub Gone);

/// The room's address, without its type.
#[derive(Clone)]
pub struct Address {
    pub open_share: Recipient<OpenShare>,
    pub attach: Recipient<Attach>,
    pub detach: Recipient<Detach>,
    pub release: Recipient<Release>,
}

impl<A> From<Addr<A>> for Address
where
    A: Actor<Context = Context<A>>
        + Handler<OpenShare>
        + Handler<Attach>
        + Handler<Detach>
        + Handler<Release>,
{
    fn from(room: Addr<A>) -> Self {
        Self {
            open_share: room.clone().recipient(),
            attach: room.clone().recipient(),
            detach: room.clone().recipient(),
            release: room.recipient(),
        }
    }
}

/// Whom the room tells.
#[derive(Clone)]
pub struct Parent {
    pub notices: WeakRecipient<Notice>,
    pub gone: WeakRecipient<RoomGone>,
}

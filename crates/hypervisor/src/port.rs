//! The port to the program that runs a VM: what the actor asks of it, in typed calls.
//!
//! Two things implement it: [`crate::qemu::Qemu`] and, for tests and simulation,
//! [`crate::fake::FakeVmm`]. Both pass `tests/contract.rs`. Calls name a VM by its sandbox; each
//! ends within a deadline of its own, and each may be repeated: what is already so is no error.

use crate::error::Error;
use runtime_core::{
    hypervisor::{BlockSpec, MachineType, VmSpec},
    ids::{HostProcess, SandboxUid},
    kit::Work,
};
use serde::{Deserialize, Serialize};

/// What a VM is launched with, and later adopted by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchPlan {
    pub spec: VmSpec,
    pub ports: PortPlan,
    /// How many devices can be plugged into the running VM, with those of the spec that are in one.
    pub slots: u32,
}

impl LaunchPlan {
    /// The slot that this one of the blocks is in from the beginning, so that it can be unplugged.
    pub fn slot_of(&self, block: usize) -> Option<u32> {
        let slots = match self.spec.machine {
            MachineType::Q35 => self.slots,
            MachineType::Microvm => 0,
        };
        let place = block.checked_sub(self.spec.own_blocks)?;
        let slot = u32::try_from(place).ok()?.checked_add(1)?;
        (slot <= slots).then_some(slot)
    }

    pub fn in_slots(&self) -> impl Iterator<Item = (u32, &BlockSpec)> {
        let blocks = self.spec.blocks.iter().enumerate();
        blocks.filter_map(|(at, block)| Some((self.slot_of(at)?, block)))
    }

    /// Blocks that are in no slot: they are there as long as the VM is.
    pub fn fixed(&self) -> impl Iterator<Item = &BlockSpec> {
        let blocks = self.spec.blocks.iter().enumerate();
        blocks.filter_map(|(at, block)| self.slot_of(at).is_none().then_some(block))
    }
}

/// How many stream ports there are. Used where the channel is serial ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPlan {
    /// Made before the guest boots. One that comes later costs 3 to 4 ms.
    pub cold: u32,
    /// The most that the VM will ever have.
    pub max: u32,
}

/// How a VMM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub how: ExitHow,
    /// What the guest's kernel said of its end, or the last lines of its console.
    pub console: String,
    /// The last lines that the VMM, or what carried its channel, wrote to its standard error.
    pub stderr: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitHow {
    /// The guest powered itself off.
    PoweredOff,
    /// The guest reset itself, as its kernel does after a panic; VMs never reboot.
    Reset,
    /// The guest said that its kernel panicked.
    Panicked,
    /// The VMM ended of itself.
    Code(i32),
    /// A signal ended the VMM.
    Signal(i32),
    /// What carried its channel beside the VMM ended, and the VMM was killed.
    ChannelLost,
    /// The VMM was not our child and told nobody why.
    Unknown,
}

impl std::fmt::Display for ExitHow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::PoweredOff => f.write_str("powered off"),
            Self::Reset => f.write_str("guest reset"),
            Self::Panicked => f.write_str("guest panic"),
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::ChannelLost => f.write_str("vsock backend ended"),
            Self::Unknown => f.write_str("exit status unknown"),
        }
    }
}

/// A program that runs VMs.
pub trait Vmm {
    /// Makes the sockets and starts the VMM inside its cgroup, after what carries its channel where
    /// that is a program of its own. Answers when the process exists; nothing of either is left
    /// after an error.
    fn spawn(&self, plan: LaunchPlan) -> Work<Result<HostProcess, Error>>;

    /// Answers when the VMM does. Also takes up the conversation with one that was found.
    fn connect(&self, uid: SandboxUid) -> Work<Result<(), Error>>;

    /// The live VMM of this plan: `recorded` if it lives, else one that was started but never
    /// recorded, found as a member of the plan's cgroup. `None`: there is none, nor will be; what
    /// was started beside one is ended then.
    fn find(
        &self,
        plan: LaunchPlan,
        recorded: Option<HostProcess>,
    ) -> Work<Result<Option<HostProcess>, Error>>;

    /// Answers when the VMM of a spawned or found VM has ended, and what carried its channel with it,
    /// however late it is asked. One ends with the other.
    fn ended(&self, uid: SandboxUid) -> Work<Exit>;

    /// Kills the VMM, needing nothing of it. Answers when its process is gone.
    fn kill(&self, uid: SandboxUid) -> Work<Result<(), Error>>;

    /// Drops what is known of a VM that has ended.
    fn forget(&self, uid: SandboxUid);

    /// Adds stream port `number` to a running VM.
    fn add_stream(&self, uid: SandboxUid, number: u32) -> Work<Result<(), Error>>;

    /// Plugs a block device into `slot`, which nothing else occupies.
    fn attach_block(&self, uid: SandboxUid, slot: u32, block: BlockSpec)
    -> Work<Result<(), Error>>;

    /// Answers when guest and VMM have let go of it.
    fn detach_block(&self, uid: SandboxUid, serial: String) -> Work<Result<(), Error>>;

    /// Stops the guest's processors.
    fn pause(&self, uid: SandboxUid) -> Work<Result<(), Error>>;

    fn resume(&self, uid: SandboxUid) -> Work<Result<(), Error>>;
}

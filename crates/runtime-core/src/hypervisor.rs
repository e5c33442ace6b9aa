//! What the hypervisor room understands. The room itself is the crate `hypervisor`.

use crate::{
    error::Fault,
    ids::{HostProcess, SandboxUid},
    kit::Gone,
    premises::Cgroup,
};
use actix::{WeakRecipient, prelude::*};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What runs the guest's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    /// Every deadline that waits for the guest is multiplied by this.
    pub fn patience(self) -> u32 {
        match self {
            Self::Kvm => 1,
            // Emulation is some ten times slower, and the host may be busy.
            Self::Tcg => 6,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineType {
    Q35,
    Microvm,
}

/// How host and guest talk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChannelKind {
    /// virtio-serial ports, each a unix socket on the host.
    Serial,
    /// AF_VSOCK through vhost-vsock, with this context id.
    Vsock { cid: u32 },
    /// vhost-user-vsock: a unix socket that takes `CONNECT port`. The program behind it knows this
    /// context id alone, and lives in that cgroup, which exists already.
    HybridVsock { cid: u32, backend: Cgroup },
}

/// How the stdio of processes leaves the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StdioKind {
    /// Each process has a port of the channel to itself.
    #[default]
    Ports,
    /// By calls of the agent, which has no streams: this daemon carries them.
    Calls,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockSpec {
    /// Serial number by which the guest finds it; at most 20 bytes.
    pub serial: String,
    pub path: PathBuf,
    pub read_only: bool,
}

/// A VM to launch: every wish resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    pub uid: SandboxUid,
    /// The sandbox's folder: sockets and console log live in it.
    pub folder: PathBuf,
    pub kernel: PathBuf,
    /// `None`: the kernel mounts its root from a block device.
    pub initrd: Option<PathBuf>,
    /// Appended to the kernel command line.
    pub kernel_params: Vec<String>,
    pub vcpus: u32,
    pub memory_mib: u64,
    pub machine: MachineType,
    pub accelerator: Accelerator,
    pub channel: ChannelKind,
    #[serde(default)]
    pub stdio: StdioKind,
    /// Where the VMM lives; it exists already.
    pub cgroup: Cgroup,
    /// The network namespace that the VMM enters; `None`: the daemon's own.
    pub netns: Option<PathBuf>,
    /// The socket of virtiofsd, when the guest has a share.
    pub share_socket: Option<PathBuf>,
    pub blocks: Vec<BlockSpec>,
    /// The first so many of them are the guest's own, and stay as long as it does.
    #[serde(default)]
    pub own_blocks: usize,
}

/// A stream port that one process has to itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamLease {
    pub number: u32,
    /// What the guest calls it.
    pub guest: GuestEndpoint,
    /// Where the host connects.
    pub host: HostEndpoint,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestEndpoint {
    SerialPort(String),
    VsockPort(u32),
    /// None: this daemon listens at the socket, and makes calls to the agent.
    Calls(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostEndpoint {
    /// A unix socket that is the stream.
    Socket(PathBuf),
    /// A unix socket that takes `CONNECT port`.
    Hybrid {
        socket: PathBuf,
        port: u32,
    },
    Vsock {
        cid: u32,
        port: u32,
    },
    /// A socket of the daemon's, which may be away for a while.
    Carried(PathBuf),
}

/// What a VM's channel offers, known once it is launched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmStatus {
    pub vmm: HostProcess,
    pub control: HostEndpoint,
}

/// Why a VM is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmExit {
    /// We asked for it.
    Stopped,
    /// The guest powered itself off.
    PoweredOff,
    /// The guest's kernel panicked or reset; the console's last lines.
    GuestPanic { console: String },
    /// The VMM died; its exit status, and its last words.
    Crashed { status: String, stderr: String },
    /// The program that carried its channel died, and the VM was ended; that program's last words.
    ChannelLost { said: String },
    /// The host was restarted since.
    HostRestarted,
}

/// Command: launch the VM. Answered when its VMM runs and its sockets exist.
#[derive(Message, Debug)]
#[rtype(result = "Result<VmStatus, Fault>")]
pub struct Launch(pub VmSpec);

/// Command: a stream port for one process. Answered from a pool, or when one was added.
#[derive(Message, Debug)]
#[rtype(result = "Result<StreamLease, Fault>")]
pub struct LeaseStream;

/// Command: the port is free again. A port that is not leased is already so.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct ReturnStream {
    pub number: u32,
}

/// Command: plug a block device into the running VM.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct AttachBlock(pub BlockSpec);

/// Command: unplug it.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct DetachBlock {
    pub serial: String,
}

/// Command: stop the guest's processors. One that is paused is already so.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct Pause;

/// Command: let them go on.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct Resume;

/// Command: end the VM at once. Answered when its process is gone; needs no guest. Legal in every state.
#[derive(Message, Debug)]
#[rtype(result = "Result<(), Fault>")]
pub struct Stop;

/// Query: the confirmed state; `None` when no VM runs.
#[derive(Message, Debug)]
#[rtype(result = "Option<VmStatus>")]
pub struct GetStatus;

/// Event, told to the sandbox.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "()")]
pub enum Notice {
    /// Told once per launch, after the record says so; not told for a launch that failed.
    VmExited(VmExit),
    /// After a rebuild: the VM lives and was adopted.
    Adopted(VmStatus),
}

/// Event, told to the sandbox when the actor itself ended.
#[derive(Message, Debug, Clone, Copy, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct RoomGone(pub Gone);

/// The room's address, without its type.
#[derive(Clone)]
pub struct Address {
    pub launch: Recipient<Launch>,
    pub lease: Recipient<LeaseStream>,
    pub give_back: Recipient<ReturnStream>,
    pub attach_block: Recipient<AttachBlock>,
    pub detach_block: Recipient<DetachBlock>,
    pub pause: Recipient<Pause>,
    pub resume: Recipient<Resume>,
    pub stop: Recipient<Stop>,
    pub status: Recipient<GetStatus>,
}

impl<A> From<Addr<A>> for Address
where
    A: Actor<Context = Context<A>>
        + Handler<Launch>
        + Handler<LeaseStream>
        + Handler<ReturnStream>
        + Handler<AttachBlock>
        + Handler<DetachBlock>
        + Handler<Pause>
        + Handler<Resume>
        + Handler<Stop>
        + Handler<GetStatus>,
{
    fn from(room: Addr<A>) -> Self {
        Self {
            launch: room.clone().recipient(),
            lease: room.clone().recipient(),
            give_back: room.clone().recipient(),
            attach_block: room.clone().recipient(),
            detach_block: room.clone().recipient(),
            pause: room.clone().recipient(),
            resume: room.clone().recipient(),
            stop: room.clone().recipient(),
            status: room.recipient(),
        }
    }
}

/// Whom the room tells. Weak: the sandbox holds the room, not the other way round.
#[derive(Clone)]
pub struct Parent {
    pub notices: WeakRecipient<Notice>,
    pub gone: WeakRecipient<RoomGone>,
}

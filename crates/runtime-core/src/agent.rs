//! What the agent room understands. The room itself is the crate `agent-client`.

use crate::{
    error::Fault,
    hypervisor::{Accelerator, GuestEndpoint, HostEndpoint, StdioKind},
    ids::{ContainerNumber, EpochMs, ProcessId, RequestKey},
    kit::Gone,
};
use actix::{WeakRecipient, prelude::*};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Where the agent is, and how patient to be with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkSpec {
    pub control: HostEndpoint,
    pub accelerator: Accelerator,
    /// The number of the last news that is on record; 0 for a new guest.
    pub news_recorded: u64,
    /// [`StdioKind::Calls`]: the agent is a stock one, whatever else it offers.
    #[serde(default)]
    pub stdio: StdioKind,
}

/// What the agent says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentDetails {
    pub version: String,
    /// It speaks hutch.agent.v1; else it is a stock Kata agent.
    pub speaks_hutch: bool,
    /// It knows [`Program::cgroup`], which others would ignore: a guest outlives the daemon that booted it, and so its
    /// version.
    pub places_execs: bool,
    pub supports_seccomp: bool,
}

/// The root file system of a container, as the guest finds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestRootfs {
    /// Path below the share.
    Share(String),
    Block {
        serial: String,
        fs_type: FsType,
        read_only: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsType {
    Ext4,
    Erofs,
}

/// A mount of config.json whose source is on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMount {
    /// Index into config.json's mounts.
    pub index: u32,
    /// Path below the share.
    pub share_path: String,
    /// Path below the share of copies that stand for it, each whole; a guest that does not know
    /// how to follow them takes the other one.
    #[serde(default)]
    pub copies_path: Option<String>,
}

/// A disk that is plugged into the VM for something that config.json names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDisk {
    pub serial: String,
    pub read_only: bool,
    pub purpose: DiskPurpose,
}

/// A block device of the host, and the disk of the VM that stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDevice {
    pub serial: String,
    pub number: DeviceNumber,
}

/// Of a device of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeviceNumber {
    pub major: u32,
    pub minor: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskPurpose {
    /// It is the source of this one of config.json's mounts.
    Mount(u32),
    /// It is this one of config.json's linux.devices.
    Device(u32),
}

/// The program of a hook of config.json's createContainer hooks, which is a file of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestHookProgram {
    /// Index into hooks.createContainer.
    pub index: u32,
    /// Path below the share.
    pub share_path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitReason {
    Exited,
    Signaled,
    Oom,
    VmLost,
    AgentLost,
}

impl ExitReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Signaled => "signaled",
            Self::Oom => "oom",
            Self::VmLost => "vm-lost",
            Self::AgentLost => "agent-lost",
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code, or 128 + signal.
    pub code: u32,
    pub reason: ExitReason,
    /// One line for a person; empty when there is nothing to add.
    pub detail: String,
    pub at: EpochMs,
}

/// An exit that the guest keeps until it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestExit {
    /// Counts from 1 within one guest, without gaps.
    pub seq: u64,
    pub container: ContainerNumber,
    pub process: ProcessId,
    pub status: ExitStatus,
}

/// Something was killed in a container for want of memory; kept and numbered as exits are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestOom {
    pub seq: u64,
    pub container: ContainerNumber,
    /// Guest clock.
    pub at: EpochMs,
}

/// What the guest keeps until it is confirmed. All of it shares one numbering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestNews {
    Exited(GuestExit),
    OomKilled(GuestOom),
}

impl GuestNews {
    pub fn seq(&self) -> u64 {
        match self {
            Self::Exited(exit) => exit.seq,
            Self::OomKilled(oom) => oom.seq,
        }
    }
}

/// What a container's cgroup in the guest counts; the names are those of cgroup v2.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStats {
    pub cpu: CpuStats,
    pub memory: MemoryStats,
    pub pids: PidsStats,
    pub io: Vec<IoStats>,
    pub hugetlb: Vec<HugetlbStats>,
    /// Guest clock.
    pub at: EpochMs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStats {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
}

/// Bytes, but for the events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    pub current: u64,
    pub peak: u64,
    /// `u64::MAX`: no limit.
    pub max: u64,
    pub swap_current: u64,
    /// `u64::MAX`: no limit.
    pub swap_max: u64,
    /// Lines of memory.stat.
    pub stat: BTreeMap<String, u64>,
    pub events_max: u64,
    pub events_oom_kill: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PidsStats {
    pub current: u64,
    /// 0: no limit.
    pub max: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoStats {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugetlbStats {
    /// As the kernel names it: `2MB`.
    pub page_size: String,
    pub current: u64,
    pub events_max: u64,
}

/// A process that the guest knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestProcess {
    pub container: ContainerNumber,
    pub process: ProcessId,
    pub state: GuestProcessState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestProcessState {
    /// Its creation was asked for and is not over.
    Making,
    Created,
    Running,
    Exited,
}

/// One line of `hutch ps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestPid {
    pub pid: u32,
    pub command: String,
}

/// Command: reach the agent and keep the link open. Answered at the first answer of the agent,
/// or when the boot's patience is spent. The guest calls containers by their number in decimal.
#[derive(Message, Debug)]
#[rtype(result = "Result<AgentDetails, Fault>")]
pub struct Open(pub LinkSpec);

/// Command: leave the agent alone until the next [`Open`]; a guest that stands still is not lost.
/// Calls that are under way fail. A link that is closed is already so.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Close;

/// Command: tell a guest that stood still what time it is.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct SetClock {
    pub now: EpochMs,
}

/// Event, told down after a rebuild: an earlier daemon made this process, and nobody told its exit.
/// A guest that keeps exits and carries streams needs to hear nothing.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct Adopt {
    pub container: ContainerNumber,
    pub process: ProcessId,
    pub state: GuestProcessState,
    pub stream: GuestEndpoint,
}

/// Command: prepare the guest: mount the share, set name, clock and entropy.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct CreateSandbox {
    pub sandbox: String,
    pub hostname: String,
    /// The guest has a share to mount.
    pub share: bool,
    /// Host clock; `None`: leave the guest's clock alone.
    pub now: Option<EpochMs>,
    pub entropy: Vec<u8>,
}

/// What was not as it was asked for and changes nothing: what a guest cannot honour, or a hook that failed. A line each,
/// for whoever asked. Few and short: they are bounded where they come in.
pub type Warnings = Vec<String>;

/// `SIGKILL` of signal(7), in every guest.
pub const SIGKILL: u32 = 9;

/// Command: create a container; its init waits for [`StartContainer`].
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct CreateContainer {
    pub container: ContainerNumber,
    /// The bundle's config.json, byte for byte.
    pub config_json: Vec<u8>,
    pub rootfs: GuestRootfs,
    pub mounts: Vec<GuestMount>,
    pub hook_programs: Vec<GuestHookProgram>,
    pub disks: Vec<GuestDisk>,
    /// Those among the root and the disks that are devices of the host.
    pub devices: Vec<GuestDevice>,
    /// Where the bundle is on the host: hooks are told.
    pub bundle: PathBuf,
    pub stream: Option<GuestEndpoint>,
    /// How long its hooks in the guest may take, beside the call itself.
    pub hooks_limit: Duration,
}

#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct StartContainer {
    pub container: ContainerNumber,
    /// How long its hooks in the guest may take, beside the call itself.
    pub hooks_limit: Duration,
}

/// Command: a further process. Answered when its program runs.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct Exec {
    pub container: ContainerNumber,
    pub process: ProcessId,
    pub program: Program,
    pub stream: Option<GuestEndpoint>,
}

/// What a further process is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// An OCI process object, byte for byte.
    pub process_json: Vec<u8>,
    /// Names with slashes between them, below the container's own cgroup; "." is that itself. Empty: that, or where the
    /// init is once that takes no processes any more.
    pub cgroup: String,
}

impl Program {
    /// Whether it asks for no other place than an exec has where nothing is said of its cgroup.
    pub fn is_where_execs_are(&self) -> bool {
        matches!(self.cgroup.as_str(), "" | ".")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignalTarget {
    Process(ProcessId),
    /// Every process of the container.
    All,
}

#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct Signal {
    pub container: ContainerNumber,
    pub target: SignalTarget,
    pub signal: u32,
    pub once: Option<Once>,
}

impl Signal {
    /// Its container does not outlive it.
    pub fn is_the_end(&self) -> bool {
        let of_all = match &self.target {
            SignalTarget::All => true,
            SignalTarget::Process(process) => *process == ProcessId::Init,
        };
        of_all && self.signal == SIGKILL
    }
}

/// A signal that is delivered once, however often it is sent: the guest keeps the keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    pub key: RequestKey,
    pub attempt: Attempt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    First,
    /// It was sent before, and whether it arrived is not known.
    Repeated,
}

/// Command: remove a container; what is left of it is killed. One that is unknown is already so.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct RemoveContainer {
    pub container: ContainerNumber,
}

/// Command: remove a container if nothing lives in it and nothing is being made in it. Whether it is removed, or was
/// already; of a stock guest none is.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<bool, Fault>")]
pub struct RemoveEmpty {
    pub container: ContainerNumber,
}

/// Command: freeze every process of a container. One that is frozen is already so.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct PauseContainer {
    pub container: ContainerNumber,
}

/// Command: thaw it. One that is not frozen is already so.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<(), Fault>")]
pub struct ResumeContainer {
    pub container: ContainerNumber,
}

/// Command: change limits; all of them, or on failure none.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<Warnings, Fault>")]
pub struct UpdateContainer {
    pub container: ContainerNumber,
    /// The OCI object linux.resources.
    pub resources_json: Vec<u8>,
}

/// Query: what a container's cgroup counts.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<ContainerStats, Fault>")]
pub struct GetStats {
    pub container: ContainerNumber,
}

/// Query: everything that the guest knows.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<Vec<GuestProcess>, Fault>")]
pub struct ListProcesses;

/// Query: the pids of a container.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "Result<Vec<GuestPid>, Fault>")]
pub struct GetPids {
    pub container: ContainerNumber,
}

/// Event, told down: this news and all before it are on record; the guest may forget them.
#[derive(Message, Debug, Clone, Copy, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct NewsRecorded {
    pub seq: u64,
}

/// Event, told to the sandbox.
#[derive(Message, Debug, Clone, PartialEq, Eq)]
#[rtype(result = "()")]
pub enum Notice {
    /// Told again after a redial until [`NewsRecorded`] covers it.
    News(GuestNews),
    /// The link was lost and could not be opened again in time; the guest is given up.
    Lost { why: Fault },
}

/// Event, told to the sandbox when the actor itself ended.
#[derive(Message, Debug, Clone, Copy, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct RoomGone(pub Gone);

/// The room's address, without its type.
#[derive(Clone)]
pub struct Address {
    pub open: Recipient<Open>,
    pub close: Recipient<Close>,
    pub set_clock: Recipient<SetClock>,
    pub adopt: Recipient<Adopt>,
    pub create_sandbox: Recipient<CreateSandbox>,
    pub create_container: Recipient<CreateContainer>,
    pub start_container: Recipient<StartContainer>,
    pub exec: Recipient<Exec>,
    pub signal: Recipient<Signal>,
    pub remove_container: Recipient<RemoveContainer>,
    pub remove_empty: Recipient<RemoveEmpty>,
    pub pause_container: Recipient<PauseContainer>,
    pub resume_container: Recipient<ResumeContainer>,
    pub update_container: Recipient<UpdateContainer>,
    pub stats: Recipient<GetStats>,
    pub list: Recipient<ListProcesses>,
    pub pids: Recipient<GetPids>,
    pub news_recorded: Recipient<NewsRecorded>,
}

impl<A> From<Addr<A>> for Address
where
    A: Actor<Context = Context<A>>
        + Handler<Open>
        + Handler<Close>
        + Handler<SetClock>
        + Handler<Adopt>
        + Handler<CreateSandbox>
        + Handler<CreateContainer>
        + Handler<StartContainer>
        + Handler<Exec>
        + Handler<Signal>
        + Handler<RemoveContainer>
        + Handler<RemoveEmpty>
        + Handler<PauseContainer>
        + Handler<ResumeContainer>
        + Handler<UpdateContainer>
        + Handler<GetStats>
        + Handler<ListProcesses>
        + Handler<GetPids>
        + Handler<NewsRecorded>,
{
    fn from(room: Addr<A>) -> Self {
        Self {
            open: room.clone().recipient(),
            close: room.clone().recipient(),
            set_clock: room.clone().recipient(),
            adopt: room.clone().recipient(),
            create_sandbox: room.clone().recipient(),
            create_container: room.clone().recipient(),
            start_container: room.clone().recipient(),
            exec: room.clone().recipient(),
            signal: room.clone().recipient(),
            remove_container: room.clone().recipient(),
            remove_empty: room.clone().recipient(),
            pause_container: room.clone().recipient(),
            resume_container: room.clone().recipient(),
            update_container: room.clone().recipient(),
            stats: room.clone().recipient(),
            list: room.clone().recipient(),
            pids: room.clone().recipient(),
            news_recorded: room.recipient(),
        }
    }
}

/// Whom the room tells.
#[derive(Clone)]
pub struct Parent {
    pub notices: WeakRecipient<Notice>,
    pub gone: WeakRecipient<RoomGone>,
}

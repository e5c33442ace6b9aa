//! What the host itself lends a sandbox: a folder, cgroups, and news of host processes.
//!
//! A port: the driver is the crate `host`. Each call may be repeated; a thing that is already so
//! is no error.

use crate::{
    error::Fault,
    ids::{HostProcess, SandboxUid},
    kit::Work,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::PathBuf};

/// A cgroup by its path below the root of every hierarchy: `/hutch/<uid>/vmm`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cgroup(pub String);

/// What a sandbox occupies on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PremisesSpec {
    pub uid: SandboxUid,
    /// `<root>/s/<uid>`
    pub folder: PathBuf,
    /// The VMM's cgroup.
    pub vmm: Cgroup,
    /// Where virtiofsd and other helpers of the VM live.
    pub helpers: Cgroup,
    /// Callers' own, one for each container that came with one: whoever stands for it lives there.
    #[serde(default)]
    pub lodged: BTreeSet<Cgroup>,
}

/// A program of config.json's hooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// For people: `hooks.prestart[0]`.
    pub name: String,
    pub path: PathBuf,
    /// With the program's own name first; empty: the path.
    pub args: Vec<String>,
    /// `NAME=value`; nothing else is in its environment.
    pub env: Vec<String>,
    /// Seconds; `None`: the driver's own limit.
    pub timeout_s: Option<u32>,
}

/// One run of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookRun {
    pub hook: Hook,
    pub cwd: PathBuf,
    /// The container's state as JSON, for its stdin.
    pub state: Vec<u8>,
}

/// What a part of a sandbox costs the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    pub cpu_usec: u64,
    pub memory_bytes: u64,
    pub processes: u32,
}

/// The port to the host. What is begun for a sandbox is done in that order, also where nobody waits
/// for the first any more.
pub trait Premises {
    /// Makes the folder (0700) and the cgroups.
    fn prepare(&self, spec: PremisesSpec) -> Work<Result<(), Fault>>;

    /// Makes a caller's cgroup for a container of a sandbox that is prepared; it is cleared with it.
    fn lodge(&self, uid: SandboxUid, cgroup: Cgroup) -> Work<Result<(), Fault>>;

    /// Takes such a cgroup away once nobody is in it; one that others have cgroups in stays.
    fn vacate(&self, uid: SandboxUid, cgroup: Cgroup) -> Work<Result<(), Fault>>;

    /// Kills every member of the VM's cgroups, takes away every mount below the folder, removes
    /// folder and cgroups, and vacates those that were lodged. Every step runs; the errors are
    /// joined. Needs nothing but the spec.
    fn clear(&self, spec: PremisesSpec) -> Work<Result<(), Fault>>;

    /// Clears what a sandbox occupies whose spec nobody can read: by its claim, or as its uid has it.
    /// What one of the `others` has is left alone, and said.
    fn evict(&self, uid: SandboxUid, others: BTreeSet<SandboxUid>) -> Work<Result<(), Fault>>;

    /// What the members of a cgroup use, and used while they were in it; nothing of one that is not
    /// there.
    fn spent(&self, cgroup: Cgroup) -> Work<Result<Spent, Fault>>;

    /// The same of single processes; one that is gone counts nothing.
    fn spent_by(&self, processes: Vec<HostProcess>) -> Work<Result<Spent, Fault>>;

    /// Answers when the process has ended; at once when it is gone already.
    fn ended(&self, process: HostProcess) -> Work<()>;

    /// Runs a hook to its end. Where nobody waits for it any more it is killed, and it does not outlive
    /// us.
    fn run_hook(&self, run: HookRun) -> Work<Result<(), Fault>>;

    /// Tells exactly this relay that its container is gone: if its guest does not, it ends with this code
    /// in a few seconds. One that is gone is already so.
    fn dismiss(&self, relay: HostProcess, exit_code: u8) -> Work<Result<(), Fault>>;

    /// Sends SIGKILL to exactly this process; one that is gone is already so.
    fn kill(&self, process: HostProcess) -> Work<Result<(), Fault>>;
}

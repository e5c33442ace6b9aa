//! What a process is told to do to itself, computed beforehand. Values only.
//!
//! A plan is made in the agent, where there is time and memory, and carried to the process,
//! which has neither. Everything in it is checked; what is left to fail is the kernel's.

pub use super::error::HookFault;
use super::{error::ProgramFault, home::KnownHome, sys::SchedAttr};
use serde::{Deserialize, Serialize};
use std::{ffi::CString, time::Duration};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Plan {
    Init(Box<InitPlan>),
    Exec(Box<ExecSteps>),
    /// Is there until the agent closes its socket.
    Hold,
}

/// Becomes the init of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InitPlan {
    /// Namespaces to join, each of the process whose pidfd comes with the plan, in this order.
    pub join: Vec<i32>,
    pub own_cgroup_namespace: bool,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    /// Paths below /proc/sys.
    pub sysctls: Vec<(String, String)>,
    pub root: RootPlan,
    pub mounts: Vec<MountStep>,
    /// None: /dev comes from a bind mount, and is left as it is.
    pub devices: Option<Vec<DeviceNode>>,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub hooks: HookPlan,
    pub process: ProcessPlan,
}

/// Hooks that the init runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookPlan {
    /// In the container's namespaces, while the root is still the guest's.
    pub create: Vec<HookStep>,
    /// In the container, right before the program.
    pub start: Vec<HookStep>,
    /// The container's state as JSON, without pid and status.
    pub state: String,
}

impl HookPlan {
    /// How long they may take at most, in all.
    pub fn limit(&self) -> Duration {
        let hooks = self.create.iter().chain(&self.start);
        Duration::from_secs(hooks.map(|hook| u64::from(hook.limit_s)).sum())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookStep {
    /// For messages.
    pub name: String,
    pub program: CString,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub limit_s: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RootPlan {
    pub path: String,
    pub readonly: bool,
    /// MS_* propagation for the finished root.
    pub propagation: Option<u32>,
    /// It has a user namespace: its ids are 0 before anything else, and nodes are bind-mounted.
    pub user_namespace: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountStep {
    /// Index into config.json's mounts, for messages.
    pub index: usize,
    pub destination: String,
    pub what: MountWhat,
    /// MS_* propagation, in order.
    pub propagation: Vec<u32>,
    pub recursive: AttrChange,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MountWhat {
    FileSystem {
        kind: String,
        source: String,
        /// MS_* flags.
        flags: u32,
        data: Option<CString>,
        /// The destination must be a folder of the image, not a link.
        no_links: bool,
        /// It begins with what it covers.
        copy_up: bool,
    },
    Bind {
        source: String,
        /// As config.json has it, for messages.
        given: String,
        recursive: bool,
        attr: AttrChange,
        /// With the plan comes the tree itself, whose ids are mapped already.
        mapped: Option<MappedIds>,
    },
    /// With the plan comes the tree itself, of a file system that is mounted already.
    Tree,
    /// The guest's sysfs that is mounted there, as it is there: whoever has ids of its own can neither mount one nor make
    /// this one writable.
    Sysfs {
        shown: String,
    },
    Remount {
        flags: u32,
        data: Option<CString>,
    },
}

/// How the ids of a mount are mapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedIds {
    /// As the kernel has them in uid_map and gid_map.
    pub uids: String,
    pub gids: String,
    /// What is mounted below too.
    pub recursive: bool,
}

/// MOUNT_ATTR_* to set and to clear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttrChange {
    pub set: u64,
    pub clear: u64,
}

impl AttrChange {
    pub fn is_none(self) -> bool {
        self == Self::default()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceNode {
    pub path: String,
    pub kind: DeviceKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Where the guest has it, if not at the same path.
    pub guest_path: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    Char,
    Block,
    Fifo,
}

/// Becomes a further process of a container. The pidfd of the container's init comes with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExecSteps {
    /// CLONE_NEW* of the init's namespaces to enter.
    pub namespaces: i32,
    pub user_namespace: bool,
    pub process: ProcessPlan,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessPlan {
    pub io: Stdio,
    pub args: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: Option<u32>,
    /// RLIMIT_*, soft, hard.
    pub rlimits: Vec<(u32, u64, u64)>,
    pub capabilities: CapabilitySet,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    pub io_priority: Option<u32>,
    pub scheduler: Option<SchedAttr>,
    pub cpu_affinity: Option<Vec<u32>>,
    pub personality: Option<u32>,
    pub keyring: CString,
    pub seccomp: Option<SeccompFilter>,
    /// What an earlier process of the container found out.
    pub known_home: Option<KnownHome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdio {
    /// Three descriptors come with the plan, before all others.
    Pipes,
    Terminal {
        rows: u16,
        columns: u16,
    },
}

/// Bit N is capability N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilitySet {
    pub bounding: u64,
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompFilter {
    /// SECCOMP_FILTER_FLAG_*.
    pub flags: u32,
    /// Classic BPF, 8 bytes an instruction.
    pub program: Vec<u8>,
}

/// What a process says about itself while it is set up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// From the spawner: the process exists. Its pidfd comes with it.
    Forked {
        pid: u32,
    },
    /// From the spawner: there is no process.
    NotForked {
        step: String,
        errno: i32,
    },
    /// The agent's end of the terminal comes with it.
    Console,
    /// Where the home of its user is, which had to be looked up.
    Home(KnownHome),
    /// All is done but the program.
    Ready,
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Failure {
    Step { step: String, errno: i32 },
    Invalid { what: String, why: String },
    Program(ProgramFault),
    Hook { hook: String, fault: HookFault },
}

//! What the engine is asked for and what it answers. Values only: nothing here acts.

use std::{collections::BTreeMap, os::fd::OwnedFd, path::PathBuf};

/// Where in the guest the engine works.
#[derive(Debug, Clone)]
pub struct Roots {
    /// A folder of the cgroup2 file system, made if it is missing; each container gets one below.
    pub cgroup: PathBuf,
    /// Where a sysfs is mounted that cannot be written: containers with ids of their own are shown it.
    pub sysfs: PathBuf,
}

#[derive(Debug)]
pub struct CreatePlan {
    pub id: String,
    /// The bundle's config.json, byte for byte. `root.path` is not used: `rootfs` is.
    pub config_json: Vec<u8>,
    /// The root file system, where the guest has it. Nothing is mounted or written outside the
    /// container's own mount namespace.
    pub rootfs: PathBuf,
    /// Guest paths for the sources of config.json's mounts, by index. A bind mount that is not
    /// named here is taken from the guest path that config.json names.
    pub bind_sources: BTreeMap<usize, PathBuf>,
    /// Namespaces that do not come from config.json. A path in config.json's namespaces is a
    /// path of the host and refused, unless its kind is named here. The network is always the
    /// guest's, since the guest is the sandbox.
    pub namespaces: BTreeMap<NamespaceKind, NamespaceFrom>,
    /// Guest paths for the programs of hooks.createContainer, by index. One that is not named here
    /// is taken from the guest path that config.json names.
    pub hook_programs: BTreeMap<usize, PathBuf>,
    /// Disks of the guest that stand for those of the host that config.json names.
    pub disks: Vec<Disk>,
    /// By whose numbers limits name block devices. `None`: by the guest's own.
    pub host_devices: Option<Vec<HostDevice>>,
    /// Where the bundle is on the host, for the state that hooks get.
    pub bundle: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Of the guest.
    pub node: PathBuf,
    pub purpose: DiskPurpose,
    pub writable: bool,
}

/// A block device of the host's that the container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Of the guest.
    pub node: PathBuf,
    /// Major and minor, on the host.
    pub number: (i64, i64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskPurpose {
    /// The source of this one of config.json's mounts.
    Mount(usize),
    /// This one of config.json's linux.devices.
    Device(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NamespaceKind {
    Pid,
    Uts,
    Ipc,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamespaceFrom {
    /// The agent's own.
    Guest,
    /// That of the init of another container.
    Container(String),
}

#[derive(Debug)]
pub struct ExecPlan {
    /// Unique among the processes of its container, and not empty.
    pub exec_id: String,
    /// An OCI process object, byte for byte.
    pub process_json: Vec<u8>,
    /// Below the container's own cgroup, and there; "." is that itself. Empty: that, or where its init is once that takes
    /// no processes any more.
    pub cgroup: PathBuf,
}

/// Where a process reads and writes. It must agree with the process's `terminal`.
#[derive(Debug)]
pub enum ProcessIo {
    /// None is /dev/null.
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    },
    /// A terminal of the container's own devpts; its other end comes back in `Created`.
    Terminal,
}

/// A process that is a child of the agent. The agent reaps it: it may exit, and be seen by
/// `waitid`, before the call that made it has returned.
#[derive(Debug)]
pub struct Created {
    pub pid: u32,
    pub pidfd: OwnedFd,
    /// The agent's end of the terminal, if it has one. Resize it with TIOCSWINSZ.
    pub console: Option<OwnedFd>,
    /// What was asked for and cannot be honoured here, each named.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Init,
    Exec(String),
    /// Every process of the container's cgroup, whoever started it.
    All,
}

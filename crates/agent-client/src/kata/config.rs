//! What of an OCI config.json the first interface can carry; anything else is refused by name.
//!
//! These are not the OCI types: they have exactly the fields that the protocol has, and reject
//! unknown ones, so that no setting is lost on the way to a guest that could not honour it.

use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Config {
    pub oci_version: String,
    pub process: Process,
    pub root: Root,
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// Run on the host, or at steps that the guest's agent does not know as ours does.
    #[serde(default)]
    pub hooks: Hooks,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub linux: Linux,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Process {
    #[serde(default)]
    pub terminal: bool,
    #[serde(default)]
    pub console_size: ConsoleSize,
    #[serde(default)]
    pub user: User,
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    pub cwd: String,
    #[serde(default)]
    pub capabilities: Capabilities,
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    #[serde(default)]
    pub no_new_privileges: bool,
    #[serde(default)]
    pub apparmor_profile: String,
    #[serde(default)]
    pub oom_score_adj: i64,
    #[serde(default)]
    pub selinux_label: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConsoleSize {
    pub height: u32,
    pub width: u32,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub additional_gids: Vec<u32>,
    #[serde(default)]
    pub username: String,
    /// The protocol has no such field; programs of this guest have the usual one.
    #[serde(default, rename = "umask")]
    pub _umask: UsualUmask,
}

/// A number that must be 0022: what Linux starts its init with (`init_fs`), and what Podman always asks for.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "u32")]
pub(super) struct UsualUmask;

impl TryFrom<u32> for UsualUmask {
    type Error = &'static str;
    fn try_from(umask: u32) -> Result<Self, Self::Error> {
        match umask {
            0o022 => Ok(Self),
            _ => Err("umask other than 0022"),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Capabilities {
    #[serde(default)]
    pub bounding: Vec<String>,
    #[serde(default)]
    pub effective: Vec<String>,
    #[serde(default)]
    pub inheritable: Vec<String>,
    #[serde(default)]
    pub permitted: Vec<String>,
    #[serde(default)]
    pub ambient: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rlimit {
    #[serde(rename = "type")]
    pub kind: String,
    pub hard: u64,
    pub soft: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Root {
    /// On the host; the guest has it elsewhere.
    #[serde(rename = "path")]
    pub _path: String,
    #[serde(default)]
    pub readonly: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mount {
    pub destination: String,
    #[serde(default)]
    pub source: String,
    #[serde(default, rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hooks {
    // The host runs these itself.
    #[serde(default, rename = "prestart")]
    pub _prestart: serde::de::IgnoredAny,
    #[serde(default, rename = "createRuntime")]
    pub _create_runtime: serde::de::IgnoredAny,
    #[serde(default, rename = "poststart")]
    pub _poststart: serde::de::IgnoredAny,
    #[serde(default, rename = "poststop")]
    pub _poststop: serde::de::IgnoredAny,
    // Of these only whether there are any matters.
    #[serde(default)]
    pub create_container: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    pub start_container: Vec<serde::de::IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Linux {
    #[serde(default)]
    pub uid_mappings: Vec<IdMapping>,
    #[serde(default)]
    pub gid_mappings: Vec<IdMapping>,
    #[serde(default)]
    pub sysctl: BTreeMap<String, String>,
    #[serde(default)]
    pub resources: Resources,
    /// On the host; the guest has a hierarchy of its own.
    #[serde(default, rename = "cgroupsPath")]
    pub _cgroups_path: String,
    #[serde(default)]
    pub namespaces: Vec<Namespace>,
    #[serde(default)]
    pub devices: Vec<Device>,
    #[serde(default)]
    pub seccomp: Option<Seccomp>,
    #[serde(default)]
    pub rootfs_propagation: String,
    #[serde(default)]
    pub masked_paths: Vec<String>,
    #[serde(default)]
    pub readonly_paths: Vec<String>,
    #[serde(default)]
    pub mount_label: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IdMapping {
    #[serde(rename = "hostID")]
    pub host_id: u32,
    #[serde(rename = "containerID")]
    pub container_id: u32,
    pub size: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Namespace {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub path: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub major: i64,
    #[serde(default)]
    pub minor: i64,
    #[serde(default = "everyone")]
    pub file_mode: u32,
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
}

/// What runc gives a device without a mode.
fn everyone() -> u32 {
    0o666
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Resources {
    #[serde(default)]
    pub devices: Vec<DeviceRule>,
    #[serde(default)]
    pub memory: Option<Memory>,
    #[serde(default)]
    pub cpu: Option<Cpu>,
    #[serde(default)]
    pub pids: Option<Pids>,
    #[serde(default)]
    pub hugepage_limits: Vec<HugepageLimit>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceRule {
    pub allow: bool,
    #[serde(default, rename = "type")]
    pub kind: String,
    /// -1: all.
    #[serde(default = "all_numbers")]
    pub major: i64,
    #[serde(default = "all_numbers")]
    pub minor: i64,
    #[serde(default)]
    pub access: String,
}

fn all_numbers() -> i64 {
    -1
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Memory {
    #[serde(default)]
    pub limit: i64,
    #[serde(default)]
    pub reservation: i64,
    #[serde(default)]
    pub swap: i64,
    #[serde(default)]
    pub kernel: i64,
    #[serde(default, rename = "kernelTCP")]
    pub kernel_tcp: i64,
    #[serde(default)]
    pub swappiness: u64,
    #[serde(default, rename = "disableOOMKiller")]
    pub disable_oom_killer: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Cpu {
    #[serde(default)]
    pub shares: u64,
    #[serde(default)]
    pub quota: i64,
    #[serde(default)]
    pub period: u64,
    #[serde(default)]
    pub realtime_runtime: i64,
    #[serde(default)]
    pub realtime_period: u64,
    #[serde(default)]
    pub cpus: String,
    #[serde(default)]
    pub mems: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pids {
    pub limit: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct HugepageLimit {
    pub page_size: String,
    pub limit: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Seccomp {
    pub default_action: String,
    /// The protocol has no such field.
    pub default_errno_ret: Option<u32>,
    #[serde(default)]
    pub architectures: Vec<String>,
    #[serde(default)]
    pub flags: Vec<String>,
    #[serde(default)]
    pub syscalls: Vec<Syscall>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Syscall {
    pub names: Vec<String>,
    pub action: String,
    #[serde(default)]
    pub errno_ret: Option<u32>,
    #[serde(default)]
    pub args: Vec<SyscallArg>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SyscallArg {
    pub index: u64,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}

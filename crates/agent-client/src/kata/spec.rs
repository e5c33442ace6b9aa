//! A container of ours as a stock Kata agent wants it: its config.json as a protocol message, with
//! the agent's habits met.
//!
//! - `process.Capabilities` must be there, or the agent refuses the container.
//! - pid, network and time namespaces must not be: the agent adds its own pid namespace, and a
//!   second one makes every later exec fail while the creation succeeds.
//! - `root.path` is a path in the guest.

use super::config::{self, Config};
use crate::error::Error;
use protocols::asynchronous::oci as wire;
use runtime_core::{
    agent::{CreateContainer, GuestMount, GuestRootfs, Warnings},
    ids::ContainerNumber,
};
use stream::Outputs;

/// Where a stock agent's guest has the share.
pub(super) const SHARE: &str = "/run/kata-containers/shared/containers";

/// What a call that a profile does not name is answered with by this agent.
const EPERM: u32 = 1;

/// Namespaces that are the sandbox's, or the agent's own business.
const NAMESPACES_LEFT_OUT: [&str; 3] = ["pid", "network", "time"];

/// # Errors
/// The config is no JSON of this form, holds a setting that the protocol lacks, or asks for a root
/// that the guest could not find.
pub(super) fn spec(
    ask: &CreateContainer,
    call: &'static str,
) -> Result<(wire::Spec, Warnings), Error> {
    let mut config: Config = parse(&ask.config_json, call, "config.json")?;
    refuse_hooks(&config.hooks, call)?;
    redirect(&mut config.mounts, &ask.mounts, call)?;
    let GuestRootfs::Share(path) = &ask.rootfs else {
        let what = "a root file system on a block device";
        return Err(Error::Inexpressible { call, what });
    };
    if !ask.disks.is_empty() {
        let what = "a volume on a block device";
        return Err(Error::Inexpressible { call, what });
    }
    let warnings = warnings(&config);
    let mut spec = wire::Spec::new();
    spec.Version = config.oci_version;
    spec.Process = Some(process(config.process)).into();
    let mut root = wire::Root::new();
    root.Path = in_share(path);
    root.Readonly = config.root.readonly;
    spec.Root = Some(root).into();
    spec.Hostname = config.hostname;
    spec.Mounts = config.mounts.into_iter().map(mount).collect();
    spec.Annotations = config.annotations.into_iter().collect();
    spec.Linux = Some(linux(config.linux, ask.container, call)?).into();
    Ok((spec, warnings))
}

/// What is another thing in this guest. A call that is denied is denied all the same; a library that would do without it
/// on ENOSYS does not.
fn warnings(config: &Config) -> Warnings {
    let profile = config.linux.seccomp.as_ref();
    let profile = profile.filter(|profile| profile.default_action == "SCMP_ACT_ERRNO");
    let errno = profile.and_then(|profile| profile.default_errno_ret);
    let other = errno.filter(|errno| *errno != EPERM);
    let warning = other.map(|errno| {
        format!("linux.seccomp: defaultErrnoRet {errno}: the agent's protocol has no such field: it is {EPERM}")
    });
    warning.into_iter().collect()
}

/// # Errors
/// As for [`spec`].
pub(super) fn exec_process(json: &[u8], call: &'static str) -> Result<wire::Process, Error> {
    parse(json, call, "the process").map(process)
}

/// # Errors
/// As for [`spec`].
pub(super) fn limits(json: &[u8], call: &'static str) -> Result<wire::LinuxResources, Error> {
    parse(json, call, "linux.resources").map(resources)
}

/// Whether the init of this config.json has a terminal.
///
/// # Errors
/// As for [`spec`].
pub(super) fn outputs_of_config(json: &[u8], call: &'static str) -> Result<Outputs, Error> {
    let config: Config = parse(json, call, "config.json")?;
    Ok(outputs(&config.process))
}

/// Whether this process has a terminal.
///
/// # Errors
/// As for [`spec`].
pub(super) fn outputs_of_process(json: &[u8], call: &'static str) -> Result<Outputs, Error> {
    parse(json, call, "the process").map(|process| outputs(&process))
}

fn outputs(process: &config::Process) -> Outputs {
    match process.terminal {
        true => Outputs::Terminal,
        false => Outputs::StdoutAndStderr,
    }
}

fn parse<'a, T: serde::Deserialize<'a>>(
    json: &'a [u8],
    call: &'static str,
    what: &'static str,
) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|source| Error::Config { call, what, source })
}

fn in_share(path: &str) -> String {
    format!("{SHARE}/{}", path.trim_start_matches('/'))
}

fn redirect(
    mounts: &mut [config::Mount],
    from_host: &[GuestMount],
    call: &'static str,
) -> Result<(), Error> {
    for shared in from_host {
        let index = usize::try_from(shared.index).unwrap_or(usize::MAX);
        let mount = mounts.get_mut(index).ok_or(Error::Inexpressible {
            call,
            what: "a mount beyond those of config.json",
        })?;
        mount.source = in_share(&shared.share_path);
    }
    Ok(())
}

fn process(process: config::Process) -> wire::Process {
    let mut message = wire::Process::new();
    message.Terminal = process.terminal;
    let mut console = wire::Box::new();
    console.Height = process.console_size.height;
    console.Width = process.console_size.width;
    message.ConsoleSize = Some(console).into();
    let mut user = wire::User::new();
    user.UID = process.user.uid;
    user.GID = process.user.gid;
    user.AdditionalGids = process.user.additional_gids;
    user.Username = process.user.username;
    message.User = Some(user).into();
    message.Args = process.args;
    message.Env = process.env;
    message.Cwd = process.cwd;
    message.Capabilities = Some(capabilities(process.capabilities)).into();
    message.Rlimits = process.rlimits.into_iter().map(rlimit).collect();
    message.NoNewPrivileges = process.no_new_privileges;
    message.ApparmorProfile = process.apparmor_profile;
    message.OOMScoreAdj = process.oom_score_adj;
    message.SelinuxLabel = process.selinux_label;
    message
}

fn capabilities(sets: config::Capabilities) -> wire::LinuxCapabilities {
    let mut message = wire::LinuxCapabilities::new();
    message.Bounding = sets.bounding;
    message.Effective = sets.effective;
    message.Inheritable = sets.inheritable;
    message.Permitted = sets.permitted;
    message.Ambient = sets.ambient;
    message
}

fn rlimit(limit: config::Rlimit) -> wire::POSIXRlimit {
    let mut message = wire::POSIXRlimit::new();
    message.Type = limit.kind;
    message.Hard = limit.hard;
    message.Soft = limit.soft;
    message
}

fn mount(mount: config::Mount) -> wire::Mount {
    let mut message = wire::Mount::new();
    message.destination = mount.destination;
    message.source = mount.source;
    message.type_ = mount.kind;
    message.options = mount.options;
    message
}

/// Their programs are the host's, or in a root that the agent alone enters: no call brings them there.
fn refuse_hooks(hooks: &config::Hooks, call: &'static str) -> Result<(), Error> {
    match hooks.create_container.is_empty() && hooks.start_container.is_empty() {
        true => Ok(()),
        false => Err(Error::Inexpressible {
            call,
            what: "a hook in the guest (createContainer, startContainer)",
        }),
    }
}

fn linux(
    linux: config::Linux,
    container: ContainerNumber,
    call: &'static str,
) -> Result<wire::Linux, Error> {
    let mut message = wire::Linux::new();
    message.UIDMappings = linux.uid_mappings.into_iter().map(id_mapping).collect();
    message.GIDMappings = linux.gid_mappings.into_iter().map(id_mapping).collect();
    message.Sysctl = linux.sysctl.into_iter().collect();
    message.Resources = Some(resources(linux.resources)).into();
    message.CgroupsPath = format!("/{container}");
    message.Namespaces = namespaces(linux.namespaces, call)?;
    message.Devices = linux.devices.into_iter().map(device).collect();
    message.Seccomp = linux.seccomp.map(seccomp).into();
    message.RootfsPropagation = linux.rootfs_propagation;
    message.MaskedPaths = linux.masked_paths;
    message.ReadonlyPaths = linux.readonly_paths;
    message.MountLabel = linux.mount_label;
    Ok(message)
}

fn namespaces(
    namespaces: Vec<config::Namespace>,
    call: &'static str,
) -> Result<Vec<wire::LinuxNamespace>, Error> {
    let mut messages = Vec::new();
    for namespace in namespaces {
        // A path of one of these is the host's: it says which sandbox, and that is decided.
        if NAMESPACES_LEFT_OUT.contains(&namespace.kind.as_str()) {
            continue;
        }
        if !namespace.path.is_empty() {
            let what = "a namespace of the host";
            return Err(Error::Inexpressible { call, what });
        }
        let mut message = wire::LinuxNamespace::new();
        message.Type = namespace.kind;
        messages.push(message);
    }
    Ok(messages)
}

fn id_mapping(mapping: config::IdMapping) -> wire::LinuxIDMapping {
    let mut message = wire::LinuxIDMapping::new();
    message.HostID = mapping.host_id;
    message.ContainerID = mapping.container_id;
    message.Size = mapping.size;
    message
}

fn device(device: config::Device) -> wire::LinuxDevice {
    let mut message = wire::LinuxDevice::new();
    message.Path = device.path;
    message.Type = device.kind;
    message.Major = device.major;
    message.Minor = device.minor;
    message.FileMode = device.file_mode;
    message.UID = device.uid;
    message.GID = device.gid;
    message
}

fn resources(resources: config::Resources) -> wire::LinuxResources {
    let mut message = wire::LinuxResources::new();
    message.Devices = resources.devices.into_iter().map(device_rule).collect();
    message.Memory = resources.memory.map(memory).into();
    message.CPU = resources.cpu.map(cpu).into();
    message.Pids = resources.pids.map(pids).into();
    let limits = resources.hugepage_limits.into_iter();
    message.HugepageLimits = limits.map(hugepage_limit).collect();
    message
}

fn device_rule(rule: config::DeviceRule) -> wire::LinuxDeviceCgroup {
    let mut message = wire::LinuxDeviceCgroup::new();
    message.Allow = rule.allow;
    message.Type = rule.kind;
    message.Major = rule.major;
    message.Minor = rule.minor;
    message.Access = rule.access;
    message
}

fn memory(memory: config::Memory) -> wire::LinuxMemory {
    let mut message = wire::LinuxMemory::new();
    message.Limit = memory.limit;
    message.Reservation = memory.reservation;
    message.Swap = memory.swap;
    message.Kernel = memory.kernel;
    message.KernelTCP = memory.kernel_tcp;
    message.Swappiness = memory.swappiness;
    message.DisableOOMKiller = memory.disable_oom_killer;
    message
}

fn cpu(cpu: config::Cpu) -> wire::LinuxCPU {
    let mut message = wire::LinuxCPU::new();
    message.Shares = cpu.shares;
    message.Quota = cpu.quota;
    message.Period = cpu.period;
    message.RealtimeRuntime = cpu.realtime_runtime;
    message.RealtimePeriod = cpu.realtime_period;
    message.Cpus = cpu.cpus;
    message.Mems = cpu.mems;
    message
}

fn pids(pids: config::Pids) -> wire::LinuxPids {
    let mut message = wire::LinuxPids::new();
    message.Limit = pids.limit;
    message
}

fn hugepage_limit(limit: config::HugepageLimit) -> wire::LinuxHugepageLimit {
    let mut message = wire::LinuxHugepageLimit::new();
    message.Pagesize = limit.page_size;
    message.Limit = limit.limit;
    message
}

fn seccomp(profile: config::Seccomp) -> wire::LinuxSeccomp {
    let mut message = wire::LinuxSeccomp::new();
    message.DefaultAction = profile.default_action;
    message.Architectures = profile.architectures;
    message.Flags = profile.flags;
    message.Syscalls = profile.syscalls.into_iter().map(syscall).collect();
    message
}

fn syscall(rule: config::Syscall) -> wire::LinuxSyscall {
    let mut message = wire::LinuxSyscall::new();
    message.Names = rule.names;
    message.Action = rule.action;
    if let Some(errno) = rule.errno_ret {
        message.set_errnoret(errno);
    }
    message.Args = rule.args.into_iter().map(syscall_arg).collect();
    message
}

fn syscall_arg(arg: config::SyscallArg) -> wire::LinuxSeccompArg {
    let mut message = wire::LinuxSeccompArg::new();
    message.Index = arg.index;
    message.Value = arg.value;
    message.ValueTwo = arg.value_two;
    message.Op = arg.op;
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::error::{Classify, Kind};
    use serde_json::{Value, json};
    use std::time::Duration;

    fn bundle() -> Value {
        json!({
            "ociVersion": "1.1.0",
            "process": { "args": ["sh"], "cwd": "/", "user": { "uid": 1, "gid": 2 } },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind"] }
            ],
            "hooks": { "poststop": [{ "path": "/bin/true" }] },
            "linux": {
                "cgroupsPath": "machine.slice:x:y",
                "namespaces": [
                    { "type": "pid" }, { "type": "network", "path": "/run/netns/a" },
                    { "type": "mount" }, { "type": "time" }, { "type": "uts" }
                ],
                "resources": { "memory": { "limit": 1024, "disableOOMKiller": true }, "devices": [{ "allow": false, "access": "rwm" }] },
                "seccomp": { "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 }] }
            }
        })
    }

    fn ask(config: &Value) -> CreateContainer {
        CreateContainer {
            container: ContainerNumber(4),
            config_json: config.to_string().into_bytes(),
            rootfs: GuestRootfs::Share("4/rootfs".to_owned()),
            mounts: vec![GuestMount {
                index: 1,
                share_path: "4/m1".to_owned(),
                copies_path: Some("4/w1".to_owned()),
            }],
            hook_programs: Vec::new(),
            disks: Vec::new(),
            devices: Vec::new(),
            bundle: "/bundle".into(),
            stream: None,
            hooks_limit: Duration::ZERO,
        }
    }

    #[test]
    fn a_bundle_becomes_what_the_agents_habits_ask_for() {
        let (spec, warnings) = spec(&ask(&bundle()), "create container").unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");

        assert!(spec.Process.Capabilities.is_some());
        let kinds: Vec<&str> = spec
            .Linux
            .Namespaces
            .iter()
            .map(|n| n.Type.as_str())
            .collect();
        assert_eq!(kinds, ["mount", "uts"]);
        assert_eq!(spec.Root.Path, format!("{SHARE}/4/rootfs"));
        assert!(spec.Root.Readonly);
        assert_eq!(spec.Mounts[0].source, "proc");
        assert_eq!(spec.Mounts[1].source, format!("{SHARE}/4/m1"));
        assert_eq!(spec.Linux.CgroupsPath, "/4");
        assert!(spec.Hooks.is_none());
        assert_eq!(spec.Linux.Resources.Memory.Limit, 1024);
        assert_eq!(spec.Linux.Resources.Devices[0].Major, -1);
        assert_eq!(spec.Linux.Seccomp.Syscalls[0].errnoret(), 38);
    }

    #[test]
    fn a_setting_that_the_protocol_lacks_is_refused_by_name() {
        let spoils = [
            ("/process/user/umask", json!(0o077), "umask"),
            ("/process/ioPriority", json!({}), "ioPriority"),
            ("/linux/timeOffsets", json!({}), "timeOffsets"),
            ("/linux/personality", json!({}), "personality"),
            ("/linux/resources/unified", json!({}), "unified"),
            ("/mounts/0/uidMappings", json!([]), "uidMappings"),
            ("/domainname", json!("x"), "domainname"),
        ];
        for (path, value, name) in spoils {
            let mut config = bundle();
            let (parent, key) = path.rsplit_once('/').unwrap();
            config.pointer_mut(parent).unwrap()[key] = value;

            let error = spec(&ask(&config), "create container").unwrap_err();

            assert_eq!(error.kind(), Kind::Unsupported, "{path}");
            let line = runtime_core::error::fault(&error).to_string();
            assert!(line.contains(name), "{path}: {line}");
        }
    }

    #[test]
    fn what_podman_always_asks_for_is_taken() {
        let mut config = bundle();
        config["process"]["user"]["umask"] = json!(0o022);
        config["linux"]["seccomp"]["defaultErrnoRet"] = json!(38);

        let (_, warnings) = spec(&ask(&config), "create container").unwrap();

        assert_eq!(
            warnings,
            ["linux.seccomp: defaultErrnoRet 38: the agent's protocol has no such field: it is 1"]
        );
    }

    #[test]
    fn what_the_guest_could_not_find_is_refused() {
        let mut block = ask(&bundle());
        block.rootfs = GuestRootfs::Block {
            serial: "a".to_owned(),
            fs_type: runtime_core::agent::FsType::Erofs,
            read_only: true,
        };
        let mut beyond = ask(&bundle());
        beyond.mounts[0].index = 2;
        let mut hooked = bundle();
        hooked["hooks"]["startContainer"] = json!([{ "path": "/bin/true" }]);
        let mut config = bundle();
        config["linux"]["namespaces"][2]["path"] = json!("/proc/1/ns/mnt");

        for ask in [block, beyond, ask(&hooked), ask(&config)] {
            let error = spec(&ask, "create container").unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        }
    }
}

//! The first interface's spec as the config.json that the engine reads. Pure.
//!
//! A message has no "not set" for a number or a text: zero and empty stand for it, and are left
//! out where config.json would read a wish into them.

use protocols::asynchronous::oci::{
    self, Hook, Hooks, Linux, LinuxBlockIO, LinuxCapabilities, LinuxIDMapping, LinuxResources,
    LinuxSeccomp, LinuxThrottleDevice, Mount, Process, Spec, linux_syscall,
};
use serde_json::{Map, Value};

/// As much of config.json as there was.
pub fn config(spec: &Spec) -> Value {
    Object::new()
        .keep("ociVersion", version(&spec.Version))
        .some("process", spec.Process.as_ref().map(process))
        .some("root", spec.Root.as_ref().map(root))
        .some("mounts", list(&spec.Mounts, mount))
        .some("hooks", spec.Hooks.as_ref().map(hooks))
        .some("annotations", texts(&spec.Annotations))
        .some("linux", spec.Linux.as_ref().map(linux))
        .done()
}

fn version(version: &str) -> &str {
    match version {
        "" => "1.0.2",
        version => version,
    }
}

pub fn process(process: &Process) -> Value {
    let user = process.User.get_or_default();
    let size = process.ConsoleSize.as_ref().map(|size| {
        Object::new()
            .keep("height", size.Height)
            .keep("width", size.Width)
            .done()
    });
    let user = Object::new()
        .keep("uid", user.UID)
        .keep("gid", user.GID)
        .some("additionalGids", user.AdditionalGids.clone())
        .some("username", user.Username.as_str())
        .done();
    let rlimits = list(&process.Rlimits, |limit| {
        Object::new()
            .keep("type", limit.Type.as_str())
            .keep("hard", limit.Hard)
            .keep("soft", limit.Soft)
            .done()
    });
    Object::new()
        .keep("terminal", process.Terminal)
        .some("consoleSize", size)
        .keep("user", user)
        .keep("args", process.Args.clone())
        .some("env", process.Env.clone())
        .keep("cwd", process.Cwd.as_str())
        .some(
            "capabilities",
            process.Capabilities.as_ref().map(capabilities),
        )
        .some("rlimits", rlimits)
        .keep("noNewPrivileges", process.NoNewPrivileges)
        .some("apparmorProfile", process.ApparmorProfile.as_str())
        .some("oomScoreAdj", process.OOMScoreAdj)
        .some("selinuxLabel", process.SelinuxLabel.as_str())
        .done()
}

/// Present and empty takes every capability away, so none of the lists is left out.
fn capabilities(sets: &LinuxCapabilities) -> Value {
    Object::new()
        .keep("bounding", sets.Bounding.clone())
        .keep("effective", sets.Effective.clone())
        .keep("inheritable", sets.Inheritable.clone())
        .keep("permitted", sets.Permitted.clone())
        .keep("ambient", sets.Ambient.clone())
        .done()
}

fn root(root: &oci::Root) -> Value {
    Object::new()
        .keep("path", root.Path.as_str())
        .keep("readonly", root.Readonly)
        .done()
}

fn mount(mount: &Mount) -> Value {
    Object::new()
        .keep("destination", mount.destination.as_str())
        .some("source", mount.source.as_str())
        .some("type", mount.type_.as_str())
        .some("options", mount.options.clone())
        .done()
}

fn hooks(hooks: &Hooks) -> Value {
    Object::new()
        .some("prestart", list(&hooks.Prestart, hook))
        .some("poststart", list(&hooks.Poststart, hook))
        .some("poststop", list(&hooks.Poststop, hook))
        .some("createRuntime", list(&hooks.CreateRuntime, hook))
        .some("createContainer", list(&hooks.CreateContainer, hook))
        .some("startContainer", list(&hooks.StartContainer, hook))
        .done()
}

fn hook(hook: &Hook) -> Value {
    Object::new()
        .keep("path", hook.Path.as_str())
        .some("args", hook.Args.clone())
        .some("env", hook.Env.clone())
        .some("timeout", hook.Timeout)
        .done()
}

fn linux(linux: &Linux) -> Value {
    let devices = list(&linux.Devices, |device| {
        Object::new()
            .keep("path", device.Path.as_str())
            .keep("type", device.Type.as_str())
            .keep("major", device.Major)
            .keep("minor", device.Minor)
            .some("fileMode", device.FileMode)
            .keep("uid", device.UID)
            .keep("gid", device.GID)
            .done()
    });
    let rdt = linux.IntelRdt.as_ref().map(|rdt| {
        Object::new()
            .some("l3CacheSchema", rdt.L3CacheSchema.as_str())
            .done()
    });
    Object::new()
        .some("uidMappings", list(&linux.UIDMappings, mapping))
        .some("gidMappings", list(&linux.GIDMappings, mapping))
        .some("sysctl", texts(&linux.Sysctl))
        .some("resources", linux.Resources.as_ref().map(resources))
        .keep("namespaces", namespaces(linux))
        .some("devices", devices)
        .some("seccomp", linux.Seccomp.as_ref().map(seccomp))
        .some("rootfsPropagation", linux.RootfsPropagation.as_str())
        .some("maskedPaths", linux.MaskedPaths.clone())
        .some("readonlyPaths", linux.ReadonlyPaths.clone())
        .some("mountLabel", linux.MountLabel.as_str())
        .some("intelRdt", rdt)
        .done()
}

/// A stock host leaves the pid namespace to the agent, and the sandbox's own network, names and
/// queues to the guest, which is the sandbox. Paths are the host's and mean nothing here.
fn namespaces(linux: &Linux) -> Value {
    let own = ["cgroup", "user"];
    let wanted = linux
        .Namespaces
        .iter()
        .map(|namespace| namespace.Type.as_str());
    let mut kinds = vec!["mount", "pid"];
    kinds.extend(wanted.filter(|kind| own.contains(kind)));
    list(&kinds, |kind| Object::new().keep("type", *kind).done())
}

fn mapping(mapping: &LinuxIDMapping) -> Value {
    Object::new()
        .keep("containerID", mapping.ContainerID)
        .keep("hostID", mapping.HostID)
        .keep("size", mapping.Size)
        .done()
}

pub fn resources(resources: &LinuxResources) -> Value {
    let devices = list(&resources.Devices, |device| {
        Object::new()
            .keep("allow", device.Allow)
            .some("type", device.Type.as_str())
            .some("major", number(device.Major))
            .some("minor", number(device.Minor))
            .some("access", device.Access.as_str())
            .done()
    });
    let memory = resources.Memory.as_ref().map(|memory| {
        Object::new()
            .some("limit", memory.Limit)
            .some("reservation", memory.Reservation)
            .some("swap", memory.Swap)
            .some("kernel", memory.Kernel)
            .some("kernelTCP", memory.KernelTCP)
            .some("swappiness", memory.Swappiness)
            .some("disableOOMKiller", memory.DisableOOMKiller)
            .done()
    });
    let cpu = resources.CPU.as_ref().map(|cpu| {
        Object::new()
            .some("shares", cpu.Shares)
            .some("quota", cpu.Quota)
            .some("period", cpu.Period)
            .some("realtimeRuntime", cpu.RealtimeRuntime)
            .some("realtimePeriod", cpu.RealtimePeriod)
            .some("cpus", cpu.Cpus.as_str())
            .some("mems", cpu.Mems.as_str())
            .done()
    });
    let pids = resources.Pids.as_ref().filter(|pids| pids.Limit != 0);
    let pids = pids.map(|pids| Object::new().keep("limit", pids.Limit).done());
    let pages = list(&resources.HugepageLimits, |pages| {
        Object::new()
            .keep("pageSize", pages.Pagesize.as_str())
            .keep("limit", pages.Limit)
            .done()
    });
    let network = resources.Network.as_ref().map(|network| {
        let priorities = list(&network.Priorities, |priority| {
            Object::new()
                .keep("name", priority.Name.as_str())
                .keep("priority", priority.Priority)
                .done()
        });
        Object::new()
            .some("classID", network.ClassID)
            .some("priorities", priorities)
            .done()
    });
    Object::new()
        .some("devices", devices)
        .some("memory", memory)
        .some("cpu", cpu)
        .some("pids", pids)
        .some("blockIO", resources.BlockIO.as_ref().map(block_io))
        .some("hugepageLimits", pages)
        .some("network", network)
        .done()
}

/// Any number is a wildcard's -1, and also the zero of a message that had none.
fn number(number: i64) -> Option<i64> {
    (number > 0).then_some(number)
}

fn block_io(block: &LinuxBlockIO) -> Value {
    let weights = list(&block.WeightDevice, |device| {
        Object::new()
            .keep("major", device.Major)
            .keep("minor", device.Minor)
            .some("weight", device.Weight)
            .some("leafWeight", device.LeafWeight)
            .done()
    });
    let throttle = |devices: &[LinuxThrottleDevice]| {
        list(devices, |device| {
            Object::new()
                .keep("major", device.Major)
                .keep("minor", device.Minor)
                .keep("rate", device.Rate)
                .done()
        })
    };
    Object::new()
        .some("weight", block.Weight)
        .some("leafWeight", block.LeafWeight)
        .some("weightDevice", weights)
        .some(
            "throttleReadBpsDevice",
            throttle(&block.ThrottleReadBpsDevice),
        )
        .some(
            "throttleWriteBpsDevice",
            throttle(&block.ThrottleWriteBpsDevice),
        )
        .some(
            "throttleReadIOPSDevice",
            throttle(&block.ThrottleReadIOPSDevice),
        )
        .some(
            "throttleWriteIOPSDevice",
            throttle(&block.ThrottleWriteIOPSDevice),
        )
        .done()
}

fn seccomp(seccomp: &LinuxSeccomp) -> Value {
    let syscalls = list(&seccomp.Syscalls, |syscall| {
        let errno = match syscall.ErrnoRet {
            Some(linux_syscall::ErrnoRet::Errnoret(errno)) => Some(errno),
            None | Some(_) => None,
        };
        let args = list(&syscall.Args, |arg| {
            Object::new()
                .keep("index", arg.Index)
                .keep("value", arg.Value)
                .keep("valueTwo", arg.ValueTwo)
                .keep("op", arg.Op.as_str())
                .done()
        });
        Object::new()
            .keep("names", syscall.Names.clone())
            .keep("action", syscall.Action.as_str())
            .given("errnoRet", errno)
            .some("args", args)
            .done()
    });
    Object::new()
        .keep("defaultAction", seccomp.DefaultAction.as_str())
        .some("architectures", seccomp.Architectures.clone())
        .some("flags", seccomp.Flags.clone())
        .some("syscalls", syscalls)
        .done()
}

struct Object(Map<String, Value>);

impl Object {
    fn new() -> Self {
        Self(Map::new())
    }

    fn keep(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    /// Left out when it is not there; zero is there.
    fn given(self, name: &str, value: Option<u32>) -> Self {
        match value {
            Some(value) => self.keep(name, value),
            None => self,
        }
    }

    /// Left out when it is nothing, empty, zero or false.
    fn some(self, name: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        let empty = match &value {
            Value::Null | Value::Bool(false) => true,
            Value::Bool(true) => false,
            Value::Number(number) => number.as_i64() == Some(0),
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
        };
        if empty { self } else { self.keep(name, value) }
    }

    fn done(self) -> Value {
        Value::Object(self.0)
    }
}

fn list<T>(items: &[T], convert: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(convert).collect())
}

fn texts(map: &std::collections::HashMap<String, String>) -> Value {
    let entries = map.iter();
    Value::Object(
        entries
            .map(|(key, value)| (key.clone(), Value::from(value.as_str())))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocols::asynchronous::oci::{
        LinuxDeviceCgroup, LinuxMemory, LinuxNamespace, LinuxSyscall, User,
    };
    use serde_json::json;

    #[test]
    fn a_process_keeps_its_zeroes_where_they_mean_something() {
        let message = Process {
            Args: vec!["true".to_owned()],
            Cwd: "/".to_owned(),
            User: Some(User::default()).into(),
            Capabilities: Some(LinuxCapabilities::default()).into(),
            ..Process::default()
        };

        assert_eq!(
            process(&message),
            json!({
                "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/",
                "noNewPrivileges": false,
                "capabilities": {"bounding": [], "effective": [], "inheritable": [],
                    "permitted": [], "ambient": []},
            })
        );
    }

    #[test]
    fn a_limit_that_was_not_set_is_left_out() {
        let message = LinuxResources {
            Memory: Some(LinuxMemory {
                Limit: 1 << 20,
                ..LinuxMemory::default()
            })
            .into(),
            Pids: Some(oci::LinuxPids::default()).into(),
            Devices: vec![LinuxDeviceCgroup {
                Major: -1,
                Access: "rwm".to_owned(),
                ..LinuxDeviceCgroup::default()
            }],
            ..LinuxResources::default()
        };

        assert_eq!(
            resources(&message),
            json!({"memory": {"limit": 1 << 20}, "devices": [{"allow": false, "access": "rwm"}]})
        );
    }

    #[test]
    fn the_sandbox_shares_what_is_the_guests_and_a_container_has_its_own_pids() {
        let wanted = ["ipc", "uts", "network", "mount", "cgroup"];
        let message = Linux {
            Namespaces: wanted
                .map(|kind| LinuxNamespace {
                    Type: kind.to_owned(),
                    Path: "/proc/1/ns/x".to_owned(),
                    ..LinuxNamespace::default()
                })
                .to_vec(),
            ..Linux::default()
        };

        assert_eq!(
            linux(&message)["namespaces"],
            json!([{"type": "mount"}, {"type": "pid"}, {"type": "cgroup"}])
        );
    }

    #[test]
    fn an_errno_of_zero_is_not_an_errno_that_is_missing() {
        let with = |errno| LinuxSeccomp {
            DefaultAction: "SCMP_ACT_ALLOW".to_owned(),
            Syscalls: vec![LinuxSyscall {
                ErrnoRet: errno,
                ..LinuxSyscall::default()
            }],
            ..LinuxSeccomp::default()
        };

        let zero = seccomp(&with(Some(linux_syscall::ErrnoRet::Errnoret(0))));
        let none = seccomp(&with(None));

        assert_eq!(zero["syscalls"][0]["errnoRet"], json!(0));
        assert_eq!(none["syscalls"][0].get("errnoRet"), None);
    }

    #[test]
    fn a_whole_spec_is_a_config_that_parses_as_one() {
        let message = Spec {
            Process: Some(Process {
                Args: vec!["sh".to_owned()],
                Cwd: "/".to_owned(),
                ..Process::default()
            })
            .into(),
            Root: Some(oci::Root {
                Path: "/run/x".to_owned(),
                Readonly: true,
                ..oci::Root::default()
            })
            .into(),
            Mounts: vec![Mount {
                destination: "/proc".to_owned(),
                source: "proc".to_owned(),
                type_: "proc".to_owned(),
                ..Mount::default()
            }],
            Linux: Some(Linux::default()).into(),
            ..Spec::default()
        };

        let text = config(&message).to_string();

        let parsed: oci_spec::runtime::Spec = serde_json::from_str(&text).unwrap();
        assert_eq!(parsed.version(), "1.0.2");
        assert_eq!(parsed.mounts().as_ref().unwrap().len(), 1);
        assert_eq!(parsed.root().as_ref().unwrap().readonly(), Some(true));
    }
}

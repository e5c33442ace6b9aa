//! spec: a config.json to start from, as runc writes it.

use crate::args;
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

pub fn spec(spec: &args::Spec) -> Result<u8> {
    if spec.rootless {
        bail!("--rootless is not supported: a sandbox is made by root");
    }
    let folder = spec.bundle.clone().unwrap_or_else(|| PathBuf::from("."));
    let path = folder.join("config.json");
    let mut text = format!("{:#}", starter());
    text.push('\n');
    write_new(&path, &text)?;
    Ok(0)
}

/// As `runc spec` has it on a host with cgroups of version 2, which is what every guest is; but for ambient
/// capabilities, which no kernel grants that are not inheritable: whoever ran it would be warned of them.
pub fn starter() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    json!({
        "ociVersion": oci_spec::runtime::VERSION,
        "process": {
            "terminal": true,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities,
                "effective": capabilities,
                "permitted": capabilities,
            },
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "hutch",
        "mounts": mounts(),
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"},
                {"type": "network"},
                {"type": "ipc"},
                {"type": "uts"},
                {"type": "mount"},
                {"type": "cgroup"},
            ],
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mounts() -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        let mut mount = json!({"destination": destination, "type": kind, "source": source});
        if !options.is_empty() {
            mount["options"] = json!(options);
        }
        mount
    };
    let closed = ["nosuid", "noexec", "nodev"];
    json!([
        mount("/proc", "proc", "proc", &[]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"]
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5"
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &closed),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", "ro"]
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"]
        ),
    ])
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    // runc's words.
    let exists = || format!("File {} exists. Remove it first", path.display());
    let mut file = match File::options().write(true).create_new(true).open(path) {
        Err(why) if why.kind() == std::io::ErrorKind::AlreadyExists => bail!("{}", exists()),
        opened => opened.with_context(|| format!("write {}", path.display()))?,
    };
    file.write_all(text.as_bytes())
        .with_context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_that_is_there_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let flags = args::Spec {
            bundle: Some(folder.path().to_owned()),
            rootless: false,
        };

        assert_eq!(spec(&flags).unwrap(), 0);
        assert!(spec(&flags).unwrap_err().to_string().contains("exists"));
    }
}

//! OCI bundles for trying things out: busybox as a root file system, and a config.json like the one of `runc spec`.

use crate::{command, wait::wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub const BUSYBOX: &str = "/usr/bin/busybox";
const FOLDERS: &[&str] = &[
    "bin", "dev", "etc", "home", "proc", "root", "run", "sbin", "sys", "usr/bin", "usr/sbin", "var",
];
/// What runc gives a container unless told otherwise.
const CAPABILITIES: &[&str] = &["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
const NOFILE: u32 = 1024;
/// A guest reads a program that changed within it anew at each exec; a second more than guest/patches has.
const SETTLED_AFTER: Duration = Duration::from_secs(11);

/// What a bundle's process is.
pub struct Process<'a> {
    pub args: &'a [String],
    pub terminal: bool,
}

/// A bundle in `folder` whose root is its own busybox.
pub fn busybox(folder: &Path, process: &Process<'_>) -> Result<()> {
    let rootfs = folder.join("rootfs");
    busybox_rootfs(&rootfs)?;
    with_rootfs(folder, Path::new("rootfs"), process)
}

/// A bundle in `folder` around a root file system that is elsewhere.
pub fn with_rootfs(folder: &Path, rootfs: &Path, process: &Process<'_>) -> Result<()> {
    let path = folder.join("config.json");
    let text = serde_json::to_string_pretty(&config(rootfs, process))
        .expect("a value of strings and numbers is JSON");
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("write {}", path.display()))
}

/// Changes what a bundle's config.json says.
pub fn change(folder: &Path, change: impl FnOnce(&mut Value)) -> Result<()> {
    let path = folder.join("config.json");
    let about = || format!("change {}", path.display());
    let text = fs::read(&path).with_context(about)?;
    let mut config = serde_json::from_slice(&text).with_context(about)?;
    change(&mut config);
    fs::write(&path, config.to_string()).with_context(about)
}

/// Waits until a program is as one of an image that was unpacked a while ago.
pub fn settle(program: &Path) -> Result<()> {
    let settled = wait_until(|| is_settled(program), SETTLED_AFTER * 2);
    ensure!(settled, "{} does not settle", program.display());
    Ok(())
}

fn is_settled(program: &Path) -> bool {
    let changed = fs::metadata(program).map(|found| u64::try_from(found.ctime()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let (Ok(Ok(changed)), Ok(now)) = (changed, now) else {
        return false;
    };
    now.as_secs() > changed + SETTLED_AFTER.as_secs()
}

/// The root file system alone.
pub fn busybox_rootfs(rootfs: &Path) -> Result<()> {
    let doing = || format!("make a busybox root file system in {}", rootfs.display());
    for folder in FOLDERS {
        fs::create_dir_all(rootfs.join(folder)).with_context(doing)?;
    }
    let tmp = rootfs.join("tmp");
    fs::create_dir_all(&tmp).with_context(doing)?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).with_context(doing)?;
    fs::copy(BUSYBOX, rootfs.join("bin/busybox")).with_context(doing)?;
    fs::write(
        rootfs.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )
    .with_context(doing)?;
    fs::write(rootfs.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").with_context(doing)?;
    for applet in command::read(Command::new(BUSYBOX).arg("--list-full"))?.lines() {
        let link = rootfs.join(applet);
        // busybox itself is among its applets in some builds.
        if link.parent().is_some_and(Path::is_dir) && !link.exists() {
            symlink("/bin/busybox", &link).with_context(doing)?;
        }
    }
    Ok(())
}

fn config(rootfs: &Path, process: &Process<'_>) -> Value {
    let mut env = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"];
    if process.terminal {
        env.push("TERM=xterm");
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": process.terminal,
            "user": { "uid": 0, "gid": 0 },
            "args": process.args,
            "env": env,
            "cwd": "/",
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "permitted": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": NOFILE, "soft": NOFILE }],
            "noNewPrivileges": true,
        },
        "root": { "path": rootfs, "readonly": false },
        "hostname": "hutch",
        "mounts": mounts(),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" },
                { "type": "network" },
                { "type": "ipc" },
                { "type": "uts" },
                { "type": "mount" },
                { "type": "cgroup" },
            ],
            "maskedPaths": [
                "/proc/acpi",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

fn mounts() -> Value {
    json!([
        { "destination": "/proc", "type": "proc", "source": "proc" },
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {
            "destination": "/dev/mqueue",
            "type": "mqueue",
            "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn shell(terminal: bool) -> Value {
        let args = ["/bin/sh".to_owned()];
        config(
            Path::new("rootfs"),
            &Process {
                args: &args,
                terminal,
            },
        )
    }

    #[test]
    fn the_config_names_command_root_and_terminal() {
        let config = shell(true);

        assert_eq!(config["process"]["args"], json!(["/bin/sh"]));
        assert_eq!(config["process"]["terminal"], json!(true));
        assert_eq!(config["root"]["path"], json!("rootfs"));
        assert!(config["process"]["env"].to_string().contains("TERM="));
        assert!(!shell(false)["process"]["env"].to_string().contains("TERM="));
    }

    #[test]
    fn a_root_elsewhere_is_named_by_its_path_and_left_alone() {
        let scratch = Scratch::new().unwrap();
        let args = ["true".to_owned()];
        let process = Process {
            args: &args,
            terminal: false,
        };

        with_rootfs(
            &scratch.path().join("b"),
            Path::new("/some/rootfs"),
            &process,
        )
        .unwrap();

        let text = fs::read_to_string(scratch.path().join("b/config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(config["root"]["path"], json!("/some/rootfs"));
    }

    /// busybox-static is installed by set-up, so its absence is a machine that was never set up.
    #[test]
    fn a_busybox_bundle_has_a_shell_where_the_config_looks_for_it() {
        let scratch = Scratch::new().unwrap();
        if !Path::new(BUSYBOX).exists() {
            return;
        }
        let args = ["/bin/sh".to_owned()];
        let process = Process {
            args: &args,
            terminal: false,
        };

        busybox(scratch.path(), &process).unwrap();

        let rootfs = scratch.path().join("rootfs");
        assert_eq!(
            fs::read_link(rootfs.join("bin/sh")).unwrap(),
            Path::new("/bin/busybox")
        );
        let tmp = fs::metadata(rootfs.join("tmp")).unwrap();
        assert_eq!(tmp.permissions().mode() & 0o7777, 0o1777);
    }
}

//! The guest's own file systems, on a root that containers can pivot away from.
//!
//! The kernel starts us on the initramfs, which pivot_root refuses to leave. So everything is
//! mounted below a fresh tmpfs, which is then moved over it: the initramfs stays beneath, out
//! of reach, and holds nothing but our own program.

use crate::error::{Doing, Error};
use nix::mount::{MsFlags, mount};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chroot},
    path::Path,
};

/// Where the new root grows before it moves; a name that the initramfs does not have.
const NEW_ROOT: &str = "/.root";
const CGROUPS: &str = "/sys/fs/cgroup";

struct Mount {
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    options: &'static str,
}

const NO_PROGRAMS: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);
const NO_DEVICES: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// In the order in which they are mounted; each target is a folder of the one before or made.
const MOUNTS: [Mount; 9] = [
    Mount {
        kind: "proc",
        target: "proc",
        flags: NO_PROGRAMS,
        options: "",
    },
    Mount {
        kind: "sysfs",
        target: "sys",
        flags: NO_PROGRAMS,
        options: "",
    },
    Mount {
        kind: "devtmpfs",
        target: "dev",
        flags: MsFlags::MS_NOSUID,
        options: "mode=0755",
    },
    Mount {
        kind: "devpts",
        target: "dev/pts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: "gid=5,mode=0620,ptmxmode=0666",
    },
    Mount {
        kind: "tmpfs",
        target: "dev/shm",
        flags: NO_DEVICES,
        options: "mode=1777",
    },
    Mount {
        kind: "tmpfs",
        target: "run",
        flags: NO_DEVICES,
        options: "mode=0755",
    },
    Mount {
        kind: "sysfs",
        target: "run/sysfs",
        flags: NO_PROGRAMS.union(MsFlags::MS_RDONLY),
        options: "",
    },
    Mount {
        kind: "tmpfs",
        target: "tmp",
        flags: NO_DEVICES,
        options: "mode=1777",
    },
    Mount {
        kind: "cgroup2",
        target: "sys/fs/cgroup",
        flags: NO_PROGRAMS,
        options: "nsdelegate",
    },
];

pub fn set_up() -> Result<(), Error> {
    fs::create_dir_all(NEW_ROOT).doing(|| "make the new root".to_owned())?;
    mount_one("tmpfs", Path::new(NEW_ROOT), MsFlags::empty(), "mode=0755")?;
    for wanted in &MOUNTS {
        let target = Path::new(NEW_ROOT).join(wanted.target);
        fs::create_dir_all(&target).doing(|| format!("make {}", target.display()))?;
        mount_one(wanted.kind, &target, wanted.flags, wanted.options)?;
    }
    enter(Path::new(NEW_ROOT))?;
    for folder in ["/etc", "/var", "/root"] {
        fs::create_dir(folder).doing(|| format!("make {folder}"))?;
    }
    fs::set_permissions("/root", fs::Permissions::from_mode(0o700))
        .doing(|| "close /root".to_owned())?;
    delegate_controllers()
}

fn mount_one(kind: &str, target: &Path, flags: MsFlags, options: &str) -> Result<(), Error> {
    mount(Some(kind), target, Some(kind), flags, Some(options))
        .doing(|| format!("mount {kind} on {}", target.display()))
}

fn enter(root: &Path) -> Result<(), Error> {
    std::env::set_current_dir(root).doing(|| "enter the new root".to_owned())?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .doing(|| "move the new root".to_owned())?;
    chroot(".").doing(|| "change to the new root".to_owned())?;
    std::env::set_current_dir("/").doing(|| "enter the new root".to_owned())
}

/// Lets the groups of containers use every controller that the kernel has.
fn delegate_controllers() -> Result<(), Error> {
    let available = fs::read_to_string(format!("{CGROUPS}/cgroup.controllers"))
        .doing(|| "read cgroup controllers".to_owned())?;
    fs::write(
        format!("{CGROUPS}/cgroup.subtree_control"),
        all_of(&available),
    )
    .doing(|| format!("delegate cgroup controllers {}", available.trim_end()))
}

fn all_of(available: &str) -> String {
    let mut wanted = String::with_capacity(available.len() * 2);
    for name in available.split_ascii_whitespace() {
        wanted.push('+');
        wanted.push_str(name);
        wanted.push(' ');
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_controller_is_delegated() {
        assert_eq!(all_of("cpuset cpu memory\n"), "+cpuset +cpu +memory ");
    }
}

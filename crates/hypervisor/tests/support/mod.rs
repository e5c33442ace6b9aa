//! What the tests of this crate share: an initrd with busybox, and a cgroup of their own.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// A guest that does what it reads on its control port.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
port() {
    for n in /sys/class/virtio-ports/*; do
        read -r name < $n/name
        [ "$name" = "$1" ] && echo /dev/${n##*/}
    done
}
exec 3<>$(port hutch.control)
echo hello >&3
while read -r word argument <&3; do
    case "$word" in
    poweroff) poweroff -f ;;
    reset) reboot -f ;;
    panic) exit 1 ;;
    flood) yes flooding | head -c $argument > /dev/ttyS0; echo flooded >&3 ;;
    port) p=; while [ -z "$p" ]; do p=$(port $argument); done; echo have $argument >&3 ;;
    block) while ! cat /sys/block/*/serial 2>/dev/null | grep -qx $argument; do :; done; echo have $argument >&3 ;;
    noblock) while cat /sys/block/*/serial 2>/dev/null | grep -qx $argument; do :; done; echo no $argument >&3 ;;
    esac
done
sleep 100000
"#;

/// Writes an initramfs (cpio, newc) that boots [`INIT`].
pub fn write_initrd(path: &Path) {
    let busybox = fs::read("/usr/bin/busybox").expect("busybox-static is installed");
    let mut archive = Vec::new();
    for folder in ["bin", "dev", "proc", "sys"] {
        entry(&mut archive, folder, 0o040_755, b"");
    }
    entry(&mut archive, "bin/busybox", 0o100_755, &busybox);
    entry(&mut archive, "init", 0o100_755, INIT.as_bytes());
    entry(&mut archive, "TRAILER!!!", 0, b"");
    fs::write(path, archive).expect("write initrd");
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let inode = archive.len();
    let (size, name_size) = (content.len(), name.len() + 1);
    // inode mode uid gid links mtime size device(2) special(2) name size, checksum
    write!(
        archive,
        "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}{0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}{name}\0",
        0, 1
    )
    .expect("a Vec takes what it is given");
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A cgroup in one hierarchy, removed with its members when dropped.
pub struct TestCgroup {
    pub path: String,
    folder: PathBuf,
}

impl TestCgroup {
    pub fn make(name: &str) -> Self {
        let path = format!("/hutch-test-{}-{name}", std::process::id());
        let folder = [
            "/sys/fs/cgroup/pids",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup",
        ]
        .map(Path::new)
        .into_iter()
        .find(|root| root.join("cgroup.procs").exists())
        .expect("a cgroup hierarchy is mounted")
        .join(path.trim_start_matches('/'));
        fs::create_dir(&folder).expect("make cgroup");
        Self { path, folder }
    }

    pub fn members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|pid| pid.parse().ok()).collect()
    }
}

impl Drop for TestCgroup {
    fn drop(&mut self) {
        while !self.members().is_empty() {
            for pid in self.members() {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                let _ = nix::sys::wait::waitpid(pid, None);
            }
            std::thread::yield_now();
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

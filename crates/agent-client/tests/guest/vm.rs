//! One QEMU with our agent as the first process of its guest.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, interval};

/// Emulated, on a machine that others load too.
pub const LIMIT: Duration = Duration::from_secs(60);

pub struct Vm {
    pub folder: TempDir,
    qemu: Child,
    virtiofsd: Child,
}

/// Whether tests in a guest were asked for.
pub fn asked() -> bool {
    let asked = env::var_os("HUTCH_GUEST_TESTS").is_some();
    if !asked {
        eprintln!("not run: HUTCH_GUEST_TESTS is not set");
    }
    asked
}

fn given(name: &str) -> PathBuf {
    env::var_os(name)
        .unwrap_or_else(|| panic!("{name} is not set"))
        .into()
}

impl Vm {
    /// Begins to boot; the share holds a root with busybox, `rootfs`.
    pub async fn boot() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let share = folder.path().join("share");
        rootfs(&share.join("rootfs"));
        let virtiofsd = export(&share, &folder.path().join("v")).await;
        let dir = folder.path().display();
        let options = format!(
            "-M q35,accel=tcg,sata=off,smbus=off,i8042=off,usb=off,vmport=off,hpet=off,\
             memory-backend=ram -object memory-backend-memfd,id=ram,size=256M,share=on \
             -m 256 -cpu max -bios qboot.rom -nodefaults -no-user-config -display none \
             -no-reboot -serial file:{dir}/console.log \
             -device virtio-serial-pci,id=vs0,max_ports=4 \
             -chardev socket,id=ctl,path={dir}/control.sock,server=on,wait=off \
             -device virtserialport,bus=vs0.0,nr=1,chardev=ctl,name=hutch.control \
             -chardev socket,id=vfs,path={dir}/v \
             -device vhost-user-fs-pci,chardev=vfs,tag=hutch"
        );
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(options.split_ascii_whitespace())
            .args(["-kernel".as_ref(), given("HUTCH_GUEST_KERNEL").as_os_str()])
            .args(["-initrd".as_ref(), given("HUTCH_GUEST_INITRD").as_os_str()])
            .args([
                "-append",
                "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check nokaslr \
                 mitigations=off reboot=t",
            ])
            .stdin(Stdio::null())
            .spawn()
            .expect("qemu is installed");
        let socket = folder.path().join("control.sock");
        wait_until("qemu listens", || {
            assert!(qemu.try_wait().unwrap().is_none(), "qemu ended at once");
            socket.exists()
        })
        .await;
        Self {
            folder,
            qemu,
            virtiofsd,
        }
    }

    pub fn control(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    pub fn console(&self) -> PathBuf {
        self.folder.path().join("console.log")
    }

    pub fn kill(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = fs::read(self.console()).unwrap_or_default();
            eprintln!("console:\n{}", String::from_utf8_lossy(&console));
        }
        for child in [&mut self.qemu, &mut self.virtiofsd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn rootfs(root: &Path) {
    for folder in ["bin", "proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/usr/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    for name in ["sh", "sleep", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}

/// The `-o` options are those that every virtiofsd takes.
async fn export(folder: &Path, socket: &Path) -> Child {
    let program = env::var_os("HUTCH_GUEST_VIRTIOFSD");
    let program = program.unwrap_or_else(|| "/usr/lib/qemu/virtiofsd".into());
    let child = Command::new(program)
        .arg(format!("--socket-path={}", socket.display()))
        .args(["-o", &format!("source={}", folder.display())])
        .args(["-o", "sandbox=chroot"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("virtiofsd is installed");
    wait_until("virtiofsd listens", || socket.exists()).await;
    child
}

/// Between two looks at a level.
const LOOK: Duration = Duration::from_millis(2);

/// Looks at a level, not for an edge.
async fn wait_until(what: &str, mut look: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    let mut ticks = interval(LOOK);
    while !look() {
        assert!(Instant::now() < deadline, "{what}: not in {LIMIT:?}");
        ticks.tick().await;
    }
}

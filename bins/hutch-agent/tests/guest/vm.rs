//! One QEMU with our agent as PID 1, its folder, its console and its monitor.
//!
//! The guest tests of `agent-client` take this file too: they drive the same guest by another road.

use serde_json::{Value, json};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::symlink, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Emulated, on a machine that others load too.
pub const LIMIT: Duration = Duration::from_secs(60);
const BUSYBOX: &str = "/usr/bin/busybox";
const APPLETS: [&str; 16] = [
    "sh",
    "cat",
    "echo",
    "true",
    "sleep",
    "head",
    "sha256sum",
    "stty",
    "wc",
    "id",
    "hostname",
    "kill",
    "mount",
    "ps",
    "dd",
    "yes",
];

/// How the guest is made.
#[derive(Default)]
pub struct Wanted {
    pub words: &'static str,
    /// Exported as the shared folder.
    pub share: Option<TempDir>,
    pub devices: Vec<String>,
}

pub struct Vm {
    pub folder: TempDir,
    _share: Option<TempDir>,
    pub booted: Instant,
    qemu: Child,
    daemon: Option<Child>,
    monitor: Mutex<BufReader<UnixStream>>,
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
    pub fn boot(wanted: Wanted) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("qemu-system-x86_64");
        let daemon = wanted
            .share
            .as_ref()
            .map(|share| export(share.path(), &folder.path().join("v"), &mut command));
        let (dir, words) = (folder.path().display(), wanted.words);
        let options = format!(
            "-M q35,accel=tcg,sata=off,smbus=off,i8042=off,usb=off,vmport=off,hpet=off,\
             memory-backend=ram -object memory-backend-memfd,id=ram,size=256M,share=on \
             -m 256 -cpu max -bios qboot.rom -nodefaults -no-user-config -display none \
             -no-reboot -serial file:{dir}/console \
             -qmp unix:{dir}/q,server=on,wait=off \
             -device virtio-serial-pci,id=vs0,max_ports=32 \
             -chardev socket,id=ctl,path={dir}/c,server=on,wait=off \
             -device virtserialport,bus=vs0.0,nr=1,chardev=ctl,name=hutch.control"
        );
        command.args(options.split_ascii_whitespace());
        command.args(wanted.devices.iter().flat_map(|words| words.split(' ')));
        command
            .args(["-kernel".as_ref(), given("HUTCH_GUEST_KERNEL").as_os_str()])
            .args(["-initrd".as_ref(), given("HUTCH_GUEST_INITRD").as_os_str()])
            .arg("-append")
            .arg(format!(
                "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check nokaslr \
                 mitigations=off reboot=t {words}"
            ))
            .stdin(Stdio::null());
        let booted = Instant::now();
        let mut qemu = command.spawn().unwrap();
        let monitor = until(LIMIT, || {
            assert!(qemu.try_wait().unwrap().is_none(), "qemu ended at once");
            UnixStream::connect(folder.path().join("q")).ok()
        });
        let vm = Self {
            folder,
            _share: wanted.share,
            booted,
            qemu,
            daemon,
            monitor: Mutex::new(BufReader::new(monitor.unwrap())),
        };
        vm.qmp("qmp_capabilities", json!({}));
        vm
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn console(&self) -> String {
        let bytes = fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// One command; events in between are passed over.
    pub fn qmp(&self, command: &str, arguments: Value) -> Value {
        let mut monitor = self.monitor.lock().unwrap();
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(monitor.get_mut(), "{request}").unwrap();
        loop {
            let mut line = String::new();
            assert!(monitor.read_line(&mut line).unwrap() > 0, "qemu is gone");
            let answer: Value = serde_json::from_str(&line).unwrap();
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
            assert!(answer.get("error").is_none(), "{command}: {answer}");
        }
    }

    /// Adds a port; its socket on the host is returned.
    pub fn plug_port(&self, name: &str) -> PathBuf {
        let path = self.socket(name);
        self.qmp(
            "chardev-add",
            json!({"id": format!("c-{name}"), "backend": {"type": "socket", "data": {
                "addr": {"type": "unix", "data": {"path": path}},
                "server": true, "wait": false,
            }}}),
        );
        self.qmp(
            "device_add",
            json!({"driver": "virtserialport", "id": format!("d-{name}"), "bus": "vs0.0",
                "chardev": format!("c-{name}"), "name": name}),
        );
        path
    }

    /// Ends it as a crash does, if it has not ended yet.
    pub fn kill(&mut self) {
        self.qemu.kill().unwrap();
        self.qemu.wait().unwrap();
    }

    /// Waits for the guest to switch itself off.
    pub fn ended(&mut self) -> bool {
        until(LIMIT, || self.qemu.try_wait().unwrap()).is_some()
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("console:\n{}", self.console());
        }
        self.kill();
        if let Some(daemon) = &mut self.daemon {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
    }
}

/// A root file system of busybox.
pub fn lay_rootfs(root: &Path) {
    for folder in ["bin", "proc", "dev", "sys", "tmp", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).expect("busybox-static is installed");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").unwrap();
}

/// Starts the daemon that exports a folder, and adds its device. The `-o` options are those that
/// every virtiofsd takes.
fn export(folder: &Path, socket: &Path, command: &mut Command) -> Child {
    let program = env::var_os("HUTCH_GUEST_VIRTIOFSD");
    let program = program.unwrap_or_else(|| "/usr/lib/qemu/virtiofsd".into());
    let daemon = Command::new(program)
        .arg(format!("--socket-path={}", socket.display()))
        .args(["-o", &format!("source={}", folder.display())])
        .args(["-o", "sandbox=chroot"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("virtiofsd is installed");
    until(LIMIT, || socket.exists().then_some(())).expect("the daemon listens");
    command.args([
        "-chardev",
        &format!("socket,id=vfs,path={}", socket.display()),
        "-device",
        "vhost-user-fs-pci,chardev=vfs,tag=hutch",
    ]);
    daemon
}

/// Looks until there is something; a level, not an edge.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        // tidy: a level is looked at again; sockets and exits of other programs tell nobody
        std::thread::sleep(Duration::from_millis(2));
    }
}

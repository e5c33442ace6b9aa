//! One QEMU, with its folder, its console and its monitor.

use serde_json::{Value, json};
use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Emulated, on a machine that others load too.
pub const LIMIT: Duration = Duration::from_secs(60);

/// How the guest is made.
#[derive(Default)]
pub struct Wanted {
    pub words: &'static str,
    /// Exported as the shared folder.
    pub share: Option<PathBuf>,
    pub devices: Vec<String>,
}

pub struct Vm {
    pub folder: TempDir,
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
            .as_deref()
            .map(|share| export(share, &folder.path().join("v"), &mut command));
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
        for child in [Some(&mut self.qemu), self.daemon.as_mut()]
            .into_iter()
            .flatten()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts the daemon that exports a folder, and adds its device.
fn export(folder: &Path, socket: &Path, command: &mut Command) -> Child {
    let daemon = Command::new("/usr/lib/qemu/virtiofsd")
        .arg(format!("--socket-path={}", socket.display()))
        .args(["-o", &format!("source={}", folder.display())])
        .args(["-o", "sandbox=chroot"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
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

//! Where a case lies: namespaces, a root file system, an engine, and what a container answers.

use crate::{CASE, STAGE};
use hutch_agent::engine::{CreatePlan, Created, Engine, Error, ExecPlan, ProcessIo, Result, Roots};
use nix::sched::{CloneFlags, unshare};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::AsFd,
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    process::{Pid, Signal, WaitOptions, set_parent_process_death_signal},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    fs,
    io::{PipeReader, PipeWriter, Read, pipe},
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

pub const BUSYBOX: &str = "/usr/bin/busybox";
/// Everything of a case is below this folder, on a tmpfs that goes with its namespace.
const GROUND: &str = "/mnt";
const CGROUPS: &str = "/mnt/cgroup";
const SYSFS: &str = "/mnt/sysfs";
pub const ROOTFS: &str = "/mnt/rootfs";

/// No case takes a tenth of it, even in a guest under emulation on a busy machine.
const LIMIT_S: u32 = 120;

const APPLETS: [&str; 36] = [
    "sh", "cat", "ls", "true", "false", "id", "sleep", "stat", "mount", "hostname", "env", "pwd",
    "head", "tty", "stty", "grep", "mkdir", "touch", "dd", "echo", "kill", "ps", "rm", "wc",
    "readlink", "mknod", "umount", "chroot", "date", "cut", "tr", "od", "seq", "ipcs", "test",
    "printf",
];

/// First stage: makes the namespaces, and watches that nothing of the case is left in the end.
pub fn enter_namespaces(name: &str) -> ExitCode {
    nix::unistd::alarm::set(LIMIT_S);
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWIPC)
        .expect("only root runs this");
    mount_change(
        c"/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .unwrap();
    mount(c"tmpfs", GROUND, c"tmpfs", MountFlags::empty(), None).unwrap();
    fs::create_dir(CGROUPS).unwrap();
    let options = options_of_cgroups();
    mount_cgroups(&options);
    fs::create_dir(SYSFS).unwrap();
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(c"sysfs", SYSFS, c"sysfs", flags, None).unwrap();
    let cgroup = PathBuf::from(format!("{CGROUPS}/engine-test-{}", std::process::id()));
    let status = Command::new("/proc/self/exe")
        .env(CASE, name)
        .env(STAGE, "inner")
        .env("HUTCH_ENGINE_CGROUP", &cgroup)
        .status()
        .unwrap();
    // The first process of the namespace is gone, and with it every other.
    let left = remove_cgroups(&cgroup);
    unmount(CGROUPS, UnmountFlags::DETACH).unwrap();
    mount_cgroups(&options);
    if status.success() && left > 0 {
        eprintln!("{name}: {left} cgroups were left behind");
        return ExitCode::FAILURE;
    }
    match (status.code(), status.signal()) {
        (Some(0), _) => ExitCode::SUCCESS,
        (_, Some(signal)) => {
            eprintln!("{name}: killed by signal {signal}");
            ExitCode::FAILURE
        }
        _ => ExitCode::FAILURE,
    }
}

/// Whoever mounts the second version outside of a cgroup namespace sets these for the whole machine, and so may a case.
fn mount_cgroups(options: &CStr) {
    mount(
        c"cgroup2",
        CGROUPS,
        c"cgroup2",
        MountFlags::empty(),
        options,
    )
    .unwrap();
}

/// As they are; where it is not mounted yet, none.
fn options_of_cgroups() -> CString {
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let found = mounted.lines().find_map(|line| {
        let (_, of_file_system) = line.split_once(" - cgroup2 ")?;
        of_file_system.split(' ').next_back()
    });
    let own = |option: &&str| !matches!(*option, "rw" | "ro");
    let options: Vec<_> = found.unwrap_or_default().split(',').filter(own).collect();
    CString::new(options.join(",")).unwrap()
}

/// Removes the root cgroup of a case, and says how many were below it.
fn remove_cgroups(path: &Path) -> usize {
    let Ok(entries) = fs::read_dir(path) else {
        return 0;
    };
    let below: usize = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| 1 + remove_cgroups(&entry.path()))
        .sum();
    fs::remove_dir(path).unwrap();
    below
}

pub struct Bed {
    pub engine: Engine,
    pub cgroup: PathBuf,
}

/// How a process ended and what it said.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code, or 128 + signal.
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// A process that was made, and the ends of its streams.
#[derive(Debug)]
pub struct Running {
    pub created: Created,
    pub stdin: PipeWriter,
    out: Said,
    err: Said,
}

/// What a stream has said so far, read by a thread of its own.
#[derive(Debug)]
struct Said {
    text: Arc<(Mutex<String>, Condvar)>,
    reader: thread::JoinHandle<()>,
}

impl Bed {
    /// The engine is launched before anything else: it wants a process with one thread.
    pub fn make() -> Self {
        // A case that hangs is ended from outside, and all of it goes.
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        mount(c"proc", c"/proc", c"proc", MountFlags::empty(), None).unwrap();
        let cgroup = PathBuf::from(std::env::var("HUTCH_ENGINE_CGROUP").unwrap());
        let engine = Engine::launch(Roots {
            cgroup: cgroup.clone(),
            sysfs: PathBuf::from(SYSFS),
        })
        .unwrap();
        thread::spawn(reap);
        make_rootfs(Path::new(ROOTFS));
        Self { engine, cgroup }
    }

    pub fn rootfs(&self) -> &'static Path {
        Path::new(ROOTFS)
    }

    /// A folder beside the root file system.
    pub fn outside(&self) -> PathBuf {
        let folder = Path::new(GROUND).join("outside");
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    pub fn plan(&self, id: &str, config: &Value) -> CreatePlan {
        CreatePlan {
            id: id.to_owned(),
            config_json: config.to_string().into_bytes(),
            rootfs: PathBuf::from(ROOTFS),
            bind_sources: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            hook_programs: BTreeMap::new(),
            disks: Vec::new(),
            host_devices: None,
            bundle: "/bundles/bed".to_owned(),
        }
    }

    pub fn create(&self, id: &str, config: &Value) -> Result<Running> {
        self.create_as_planned(self.plan(id, config))
    }

    pub fn create_as_planned(&self, plan: CreatePlan) -> Result<Running> {
        let (io, ends) = pipes();
        Ok(ends.of(self.engine.create(plan, io)?))
    }

    pub fn exec(&self, id: &str, exec_id: &str, process: &Value) -> Result<Running> {
        self.exec_in("", id, exec_id, process)
    }

    /// In a cgroup below the container's own.
    pub fn exec_in(
        &self,
        cgroup: &str,
        id: &str,
        exec_id: &str,
        process: &Value,
    ) -> Result<Running> {
        let (io, ends) = pipes();
        let plan = ExecPlan {
            cgroup: cgroup.into(),
            ..exec_plan(exec_id, process)
        };
        Ok(ends.of(self.exec_with(id, plan, io)?))
    }

    /// Comes back when its program runs.
    pub fn exec_with(&self, id: &str, plan: ExecPlan, io: ProcessIo) -> Result<Created> {
        let execing = self.engine.begin_exec(id, plan, io)?;
        wait_for_end(&execing, execing.limit());
        execing.conclude()
    }

    /// Who forks for the engine: a child of this process by that name.
    pub fn spawner(&self) -> Pid {
        let named = |pid: &i32| {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm.trim_end() == "hutch-spawner")
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Pid::from_raw(pids.find(named).unwrap()).unwrap()
    }

    /// Comes back when its program runs.
    pub fn start(&self, id: &str) -> Result<()> {
        let starting = self.engine.begin_start(id)?;
        wait_for_end(&starting, starting.limit());
        starting.conclude()
    }

    /// Creates, starts, waits and removes.
    pub fn run(&self, config: &Value) -> Outcome {
        let running = self.create("c", config).unwrap();
        self.start("c").unwrap();
        let outcome = running.finish();
        self.engine.remove("c").unwrap();
        outcome
    }

    /// Runs a line of shell in a container like any other.
    pub fn shell(&self, line: &str) -> Outcome {
        self.run(&config(&["/bin/sh", "-c", line]))
    }

    /// What `create` says of a config that it refuses.
    pub fn refusal(&self, config: &Value) -> String {
        let Err(error) = self.create("c", config) else {
            panic!("the container was made");
        };
        assert!(
            matches!(self.engine.pids("c"), Err(Error::NoContainer { .. })),
            "something of the refused container is left"
        );
        chain(&error)
    }

    /// That of the only container.
    pub fn cgroup(&self) -> PathBuf {
        self.cgroup_folders().next().unwrap()
    }

    fn cgroup_folders(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.cgroup).unwrap().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.is_dir())
    }

    /// Cgroups of containers that exist.
    pub fn cgroups(&self) -> usize {
        self.cgroup_folders().count()
    }
}

impl Running {
    /// Closes stdin, reads the rest, waits for the exit.
    pub fn finish(self) -> Outcome {
        drop(self.stdin);
        let code = wait(&self.created);
        Outcome {
            code,
            out: self.out.all(),
            err: self.err.all(),
        }
    }

    /// Waits until that was said on stdout.
    pub fn expect(&self, wanted: &str) {
        let (text, more) = &*self.out.text;
        let mut text = text.lock().unwrap();
        while !text.contains(wanted) {
            text = more.wait(text).unwrap();
        }
    }
}

/// The far ends of a process's streams.
pub struct Ends {
    stdin: PipeWriter,
    stdout: PipeReader,
    stderr: PipeReader,
}

impl Ends {
    pub fn of(self, created: Created) -> Running {
        Running {
            created,
            stdin: self.stdin,
            out: read_all(self.stdout),
            err: read_all(self.stderr),
        }
    }
}

pub fn pipes() -> (ProcessIo, Ends) {
    let (stdin, our_stdin) = pipe().unwrap();
    let (our_stdout, stdout) = pipe().unwrap();
    let (our_stderr, stderr) = pipe().unwrap();
    let io = ProcessIo::Pipes {
        stdin: Some(stdin.into()),
        stdout: Some(stdout.into()),
        stderr: Some(stderr.into()),
    };
    let ends = Ends {
        stdin: our_stdin,
        stdout: our_stdout,
        stderr: our_stderr,
    };
    (io, ends)
}

pub fn no_streams() -> ProcessIo {
    ProcessIo::Pipes {
        stdin: None,
        stdout: None,
        stderr: None,
    }
}

fn read_all(mut from: PipeReader) -> Said {
    let text = Arc::new((Mutex::new(String::new()), Condvar::new()));
    let said = Arc::clone(&text);
    let reader = thread::spawn(move || {
        let mut piece = [0; 4096];
        loop {
            let length = from.read(&mut piece).unwrap();
            if length == 0 {
                return;
            }
            let piece = std::str::from_utf8(&piece[..length]).expect("cases speak ascii");
            said.0.lock().unwrap().push_str(piece);
            said.1.notify_all();
        }
    });
    Said { text, reader }
}

impl Said {
    /// To the end.
    fn all(self) -> String {
        self.reader.join().unwrap();
        std::mem::take(&mut *self.text.0.lock().unwrap())
    }
}

/// Until nobody is left at the other end of a connection, or so long.
pub fn wait_for_end(socket: impl AsFd, limit: Duration) {
    let limit = Timespec::try_from(limit).unwrap();
    let mut ends = [PollFd::new(&socket, PollFlags::RDHUP)];
    while poll(&mut ends, Some(&limit)) == Err(Errno::INTR) {}
}

/// Exit codes by pid, as the agent's reaper would keep them: nobody else reaps. A process that is
/// dead and not reaped would keep the init of its pid namespace from ending.
static EXITS: Mutex<BTreeMap<u32, i32>> = Mutex::new(BTreeMap::new());
static EXITED: Condvar = Condvar::new();

fn reap() {
    loop {
        let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::empty()) else {
            // The case is over: even the spawner has gone.
            return;
        };
        let code = status
            .exit_status()
            .or_else(|| status.terminating_signal().map(|signal| 128 + signal))
            .unwrap();
        let mut exits = EXITS.lock().unwrap();
        exits.insert(pid.as_raw_pid().cast_unsigned(), code);
        EXITED.notify_all();
    }
}

/// Exit code, or 128 + signal.
pub fn wait(created: &Created) -> i32 {
    let mut exits = EXITS.lock().unwrap();
    loop {
        if let Some(code) = exits.remove(&created.pid) {
            return code;
        }
        exits = EXITED.wait(exits).unwrap();
    }
}

pub fn exec_plan(exec_id: &str, process: &Value) -> ExecPlan {
    ExecPlan {
        exec_id: exec_id.to_owned(),
        process_json: process.to_string().into_bytes(),
        cgroup: PathBuf::new(),
    }
}

/// The whole chain on one line.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

pub fn process(args: &[&str]) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_KILL",
        "CAP_SETGID",
        "CAP_SETUID"
    ]);
    json!({
        "terminal": false,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/usr/bin:/bin", "HOME=/root"],
        "cwd": "/",
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
        "noNewPrivileges": true,
    })
}

/// What a container engine asks for.
pub fn config(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": {"path": "rootfs"},
        "hostname": "bed",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "mount"}, {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/acpi",
                            "/sys/firmware", "/proc/hutch-has-none"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                              "/proc/sysrq-trigger", "/proc/hutch-has-none"],
        },
    })
}

/// With one value changed, by JSON pointer; missing objects on the way are made.
pub fn with(mut config: Value, pointer: &str, value: Value) -> Value {
    let mut at = &mut config;
    for key in pointer.trim_start_matches('/').split('/') {
        if let (Value::Array(list), "-") = (&mut *at, key) {
            list.push(Value::Null);
        }
        at = match at {
            Value::Array(list) => {
                let last = list.len() - 1;
                &mut list[if key == "-" {
                    last
                } else {
                    key.parse().unwrap()
                }]
            }
            other => &mut other[key],
        };
    }
    *at = value;
    config
}

fn make_rootfs(root: &Path) {
    for folder in [
        "bin",
        "dev",
        "etc",
        "proc",
        "root",
        "sys",
        "tmp",
        "usr/bin",
        "home/user",
    ] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home/user:/bin/sh\n";
    fs::write(root.join("etc/passwd"), passwd).unwrap();
    fs::write(
        root.join("etc/group"),
        "root:x:0:\ntty:x:5:\nuser:x:1000:\n",
    )
    .unwrap();
}

/// A disk of its own, mounted; only a guest has devices for one to be made of a file.
pub fn disk(folder: &Path) -> PathBuf {
    let (image, disk) = (folder.join("image"), folder.join("disk"));
    fs::File::create(&image).unwrap().set_len(24 << 20).unwrap();
    fs::create_dir(&disk).unwrap();
    for words in [
        vec!["mke2fs", "-F"],
        vec!["mount", "-t", "ext4", "-o", "loop"],
    ] {
        let mut command = Command::new(BUSYBOX);
        command.args(&words).arg(&image);
        if words[0] == "mount" {
            command.arg(&disk);
        }
        let done = command.stdout(Stdio::null()).status().unwrap();
        assert!(done.success(), "{words:?}");
    }
    disk
}

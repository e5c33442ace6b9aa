//! Starting a VMM, and what carries its channel, so that they outlive the daemon and are never lost:
//! each inside its cgroup before it is itself, in its own session, with nothing inherited but what
//! it was given.

use crate::{
    error::Error,
    qemu::{
        block::Backing,
        cgroup,
        command_line::{Firmware, Found, SerialFds, command_line},
    },
};
use crate::{error::InvalidSpec, layout::Layout, port::LaunchPlan};
use proc::berth::{self, Berth};
use runtime_core::hypervisor::{BlockSpec, ChannelKind, StdioKind};
use std::{
    fs::{self, File, OpenOptions},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::FileTypeExt, fs::OpenOptionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Only the daemon's user reads what a VMM writes.
const LOG_MODE: u32 = 0o600;

/// Starts a VMM; its pid. Blocks for as long as a fork and an exec take.
///
/// # Errors
/// Nothing was started, and the sockets made for it are gone again.
pub fn vmm(plan: &LaunchPlan, binary: &Path, firmware: &Firmware) -> Result<u32, Error> {
    let spec = &plan.spec;
    let layout = Layout::of(spec);
    let cgroup = cgroup::open(&spec.cgroup)?;
    let netns = spec.netns.as_deref().map(open_netns).transpose()?;
    let backings = spec.blocks.iter().map(backing).collect::<Result<_, _>>()?;
    // Made by us with our mode, so that a console can be read before its first byte.
    log(&layout.console())?;
    let mut command = command(binary, layout.folder(), &layout.stderr())?;
    let sockets = Sockets::make(plan)?;
    let found = sockets.found(backings);
    command.args(command_line(plan, firmware, &found).map_err(Error::Spec)?);
    let berth = Berth {
        cgroup,
        netns,
        inherited: sockets.listening,
    };
    let started = start(command, berth);
    if started.is_err() {
        forget(&sockets.paths);
    }
    started
}

/// Starts what carries a hybrid vsock for the guest with this context id; its pid.
///
/// # Errors
/// Nothing was started.
pub fn backend(plan: &LaunchPlan, binary: &Path, cid: u32) -> Result<u32, Error> {
    let layout = Layout::of(&plan.spec);
    let cgroup = match &plan.spec.channel {
        ChannelKind::HybridVsock { backend, .. } => cgroup::open(backend)?,
        ChannelKind::Serial | ChannelKind::Vsock { .. } => Vec::new(),
    };
    let mut command = command(binary, layout.folder(), &layout.vsock_log())?;
    let (vmm, hosts) = (layout.vsock_backend(), layout.vsock());
    command
        .args(["--guest-cid", &cid.to_string()])
        .arg("--socket")
        .arg(&vmm)
        .arg("--uds-path")
        .arg(&hosts);
    // Left over from an earlier VM of this sandbox: one that exists is one that is listened on.
    forget(&[vmm, hosts]);
    let berth = Berth {
        cgroup,
        ..Berth::default()
    };
    start(command, berth)
}

/// A program of a sandbox: what it says goes to `log`, and it knows nothing of our environment.
fn command(binary: &Path, folder: &Path, log_path: &Path) -> Result<Command, Error> {
    let stderr = log(log_path)?;
    let mut command = Command::new(binary);
    command
        .env_clear()
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(clone(&stderr, log_path)?)
        .stderr(stderr);
    Ok(command)
}

fn start(mut command: Command, berth: Berth) -> Result<u32, Error> {
    berth::arrange(&mut command, berth);
    let spawned = command.spawn().map_err(|source| Error::Spawn {
        binary: command.get_program().into(),
        source,
    });
    spawned.map(|child| child.id())
}

/// The sockets that a VMM listens on, made before it: so they can be connected to at once.
struct Sockets {
    paths: Vec<PathBuf>,
    /// In the order of the paths: qmp, then control, then streams.
    listening: Vec<OwnedFd>,
}

impl Sockets {
    fn make(plan: &LaunchPlan) -> Result<Self, Error> {
        let layout = Layout::of(&plan.spec);
        let mut paths = vec![layout.qmp()];
        if plan.spec.channel == ChannelKind::Serial {
            paths.push(layout.control());
            match plan.spec.stdio {
                StdioKind::Ports => {
                    paths.extend((1..=plan.ports.cold).map(|number| layout.stream(number)));
                }
                // The daemon makes them as it needs them.
                StdioKind::Calls => {}
            }
        }
        // Left over from an earlier VM of this sandbox, which is gone.
        forget(&paths);
        let listening = paths.iter().map(|path| listen(path)).collect();
        match listening {
            Ok(listening) => Ok(Self { paths, listening }),
            Err(error) => {
                forget(&paths);
                Err(error)
            }
        }
    }

    fn found(&self, backings: Vec<Backing>) -> Found {
        let fds: Vec<i32> = self.listening.iter().map(AsRawFd::as_raw_fd).collect();
        let serial = fds.get(1).map(|control| SerialFds {
            control: *control,
            streams: fds[2..].to_vec(),
        });
        Found {
            qmp: fds[0],
            serial,
            backings,
        }
    }
}

fn listen(path: &Path) -> Result<OwnedFd, Error> {
    match UnixListener::bind(path) {
        Ok(listener) => Ok(listener.into()),
        Err(source) => Err(Error::Socket {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Best effort: what remains is in the sandbox's folder, which is removed as a whole.
pub fn forget(paths: &[PathBuf]) {
    for path in paths {
        let _ = fs::remove_file(path);
    }
}

fn log(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(LOG_MODE);
    let file = options
        .open(path)
        .and_then(|file| file.set_len(0).map(|()| file));
    file.map_err(|source| Error::Open {
        what: "log",
        path: path.to_owned(),
        source,
    })
}

fn clone(file: &File, path: &Path) -> Result<File, Error> {
    file.try_clone().map_err(|source| Error::Open {
        what: "log",
        path: path.to_owned(),
        source,
    })
}

fn open_netns(path: &Path) -> Result<File, Error> {
    File::open(path).map_err(|source| Error::Open {
        what: "network namespace",
        path: path.to_owned(),
        source,
    })
}

/// What stands behind a block device's path.
///
/// # Errors
/// It does not exist.
pub fn backing(block: &BlockSpec) -> Result<Backing, Error> {
    let path = &block.path;
    if path.to_str().is_none() {
        let path = path.clone();
        return Err(Error::Spec(InvalidSpec::NotUtf8 { path }));
    }
    match fs::metadata(path) {
        Ok(found) if found.file_type().is_block_device() => Ok(Backing::HostDevice),
        Ok(_) => Ok(Backing::File),
        Err(source) => Err(Error::Open {
            what: "block image",
            path: path.clone(),
            source,
        }),
    }
}

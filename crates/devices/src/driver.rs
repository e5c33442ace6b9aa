//! The host's mounts and virtiofsd.
//!
//! virtiofsd holds what the guest looked at: until the guest forgot it (it unmounted the place
//! and dropped its caches, or looked at the place again more than a second after it went) a
//! plain umount answers EBUSY. So binds are taken away plainly where that works, else lazily, and
//! their file system is free when the guest has forgotten it or virtiofsd is gone.

use crate::{
    error::Error, follower::Followers, mounts, plan::Survey, port::Shares, steps::Bind, survey,
};
use proc::berth::{self, Berth};
use runtime_core::{
    devices::{ContainerDevices, ShareSpec},
    ids::HostProcess,
    kit::Work,
    premises::Cgroup,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::{io::unix::AsyncFd, time::Instant};

/// virtiofsd serves within milliseconds; a host that is starting a hundred VMs is slower.
const SERVE_MAX: Duration = Duration::from_secs(20);
/// A socket that comes to be tells nobody.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// virtiofsd ends by itself when its VMM is gone.
const END_MAX: Duration = Duration::from_secs(5);
/// Of what virtiofsd said, the last so many bytes are kept for errors.
const SAID_BYTES_MAX: usize = 2048;
/// Each thread costs memory, and a guest of one or two processors keeps one busy.
const THREADS: &str = "--thread-pool-size=0";

/// Finds the `cgroup.procs` files of a cgroup.
pub type ProcsFiles = Arc<dyn Fn(&Cgroup) -> Vec<PathBuf> + Send + Sync>;

/// The real thing.
#[derive(Clone)]
pub struct HostShares {
    procs_files: ProcsFiles,
    followers: Followers,
}

impl HostShares {
    pub fn new(procs_files: ProcsFiles) -> Self {
        Self {
            procs_files,
            followers: Followers::default(),
        }
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("virtiofs.sock")
}

fn log(folder: &Path) -> PathBuf {
    folder.join("virtiofsd.log")
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Work<Result<T, Error>> {
    let task = tokio::task::spawn_blocking(work);
    Box::pin(async move {
        task.await
            .expect("the work does not panic, and is never cancelled")
    })
}

fn said(folder: &Path) -> String {
    let text = fs::read(log(folder)).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(SAID_BYTES_MAX)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("; ")
}

fn spawn(spec: &ShareSpec, procs_files: Vec<PathBuf>) -> Result<HostProcess, Error> {
    let failed = |source| Error::Spawn {
        path: spec.virtiofsd.clone(),
        source,
    };
    let open = |path: &PathBuf| {
        OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(Error::path("open", path))
    };
    let cgroup = procs_files.iter().map(open).collect::<Result<_, _>>()?;
    let berth = Berth {
        cgroup,
        ..Berth::default()
    };
    let log_path = log(&spec.folder);
    let stderr = File::create(&log_path).map_err(Error::path("make", &log_path))?;
    let mut command = Command::new(&spec.virtiofsd);
    command
        .arg("--socket-path")
        .arg(socket(&spec.folder))
        .arg("--shared-dir")
        .arg(mounts::share(&spec.folder))
        .args([
            "--cache=auto",
            "--sandbox=namespace",
            "--announce-submounts",
            "--xattr",
            "--log-level=error",
            THREADS,
        ])
        .current_dir("/")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    berth::arrange(&mut command, berth);
    let child = command.spawn().map_err(failed)?;
    let pid = child.id();
    let start_time = proc::start_time(pid)
        .ok()
        .flatten()
        .ok_or_else(|| failed(io::Error::other("it ended at once")))?;
    reap(child);
    Ok(HostProcess { pid, start_time })
}

/// A child must be waited for; a thread of its own is asleep until then.
fn reap(mut child: std::process::Child) {
    std::thread::spawn(move || {
        // Its end is watched by pidfd; this only takes the zombie away.
        let _ = child.wait();
    });
}

fn pidfd(process: HostProcess) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(process.pid).ok()?)?;
    let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    let found = proc::start_time(process.pid).ok().flatten();
    (found == Some(process.start_time)).then_some(fd)
}

async fn ended(process: HostProcess) {
    let Some(fd) = pidfd(process) else { return };
    let Ok(fd) = async_fd(fd) else { return };
    // A pidfd is readable when its process has ended. pidfd_open(2).
    let _ = fd.readable().await;
}

#[allow(deprecated)] // Its replacement is unsafe, for a descriptor that we own.
fn async_fd(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)
}

fn kill(process: HostProcess) {
    if let Some(fd) = pidfd(process) {
        // Gone meanwhile is as good.
        let _ = pidfd_send_signal(fd, Signal::KILL);
    }
}

/// It listens before it has moved into a mount namespace of its own. It makes its root there of a clone of the share
/// that no mount propagates to before it is in place: what was bound meanwhile would be missing for good.
async fn serves(spec: &ShareSpec, process: HostProcess) -> Result<(), Error> {
    let (socket, begun) = (socket(&spec.folder), Instant::now());
    let share = mounts::share(&spec.folder);
    while begun.elapsed() < SERVE_MAX {
        if socket.exists() && has_root(process, &share) {
            return Ok(());
        }
        if pidfd(process).is_none() {
            return Err(Error::EndedEarly {
                said: said(&spec.folder),
            });
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Error::Silent {
        limit_s: SERVE_MAX.as_secs(),
        said: said(&spec.folder),
    })
}

/// pivot_root(2) takes along whoever had the old root in that namespace, so the process that waits for the one who
/// serves is there too.
fn has_root(process: HostProcess, folder: &Path) -> bool {
    let identity = |path: &Path| {
        let found = fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    let root = identity(Path::new(&format!("/proc/{}/root", process.pid)));
    root.is_some() && root == identity(folder)
}

fn unbind_all(binds: &[Bind]) -> Result<(), Error> {
    let mut first = Ok(());
    for bind in binds.iter().rev() {
        let undone = mounts::unbind(&bind.folder, &bind.place);
        first = first.and(undone);
    }
    first
}

/// Takes the share away with every mount below it, and what virtiofsd left.
fn close_share(folder: &Path) -> Result<(), Error> {
    mounts::unmake_share(folder)?;
    for leftover in [
        socket(folder),
        socket(folder).with_extension("sock.pid"),
        log(folder),
    ] {
        match fs::remove_file(&leftover) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            removed => removed.map_err(Error::path("remove", leftover))?,
        }
    }
    Ok(())
}

impl Shares for HostShares {
    fn open(&self, spec: ShareSpec) -> Work<Result<HostProcess, Error>> {
        let procs_files = (self.procs_files)(&spec.cgroup);
        Box::pin(async move {
            let asked = spec.clone();
            let spawned = blocking(move || {
                mounts::make_share(&asked.folder)?;
                spawn(&asked, procs_files)
            });
            let outcome = match spawned.await {
                Ok(process) => match serves(&spec, process).await {
                    Ok(()) => Ok(process),
                    Err(why) => {
                        kill(process);
                        ended(process).await;
                        Err(why)
                    }
                },
                Err(why) => Err(why),
            };
            if outcome.is_err() {
                let folder = spec.folder.clone();
                // The first error is the one to tell; what is left, the premises take away.
                let _ = blocking(move || close_share(&folder)).await;
            }
            outcome
        })
    }

    fn survey(&self, devices: ContainerDevices) -> Work<Result<Survey, Error>> {
        blocking(move || survey::survey(&devices))
    }

    fn bind(&self, binds: Vec<Bind>) -> Work<Result<(), Error>> {
        blocking(move || {
            let bound = binds.iter().try_for_each(mounts::bind);
            if bound.is_err() {
                // The first error is the one to tell.
                let _ = unbind_all(&binds);
            }
            bound
        })
    }

    fn follow(&self, copies: Bind) -> Work<Result<(), Error>> {
        self.followers.follow(&copies)
    }

    fn unbind(&self, binds: Vec<Bind>) -> Work<Result<(), Error>> {
        let followers = self.followers.clone();
        blocking(move || {
            binds.iter().for_each(|bind| followers.let_go(bind));
            unbind_all(&binds)
        })
    }

    fn close(&self, spec: ShareSpec, virtiofsd: Option<HostProcess>) -> Work<Result<(), Error>> {
        let followers = self.followers.clone();
        Box::pin(async move {
            if let Some(process) = virtiofsd
                && tokio::time::timeout(END_MAX, ended(process)).await.is_err()
            {
                kill(process);
                ended(process).await;
            }
            blocking(move || {
                followers.let_go_below(&spec.folder);
                close_share(&spec.folder)
            })
            .await
        })
    }

    fn ended(&self, spec: ShareSpec, virtiofsd: HostProcess) -> Work<String> {
        Box::pin(async move {
            ended(virtiofsd).await;
            said(&spec.folder)
        })
    }
}

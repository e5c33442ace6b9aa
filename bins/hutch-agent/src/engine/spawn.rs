//! The agent's side of making a process: order, plan, and what becomes of it.

use super::{
    error::{Doing, Error, Result},
    plan::{Plan, Report},
    sys,
    wire::{self, ForkOrder},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{Errno, ioctl_fionbio},
    net::sockopt::{Timeout, set_socket_timeout, socket_timeout},
};
use std::time::Duration;

/// A set-up is a few hundred system calls; what takes longer waits for a file system of the host
/// that does not answer, and a guest under emulation is fifty times slower than any other.
const SETUP_LIMIT: Duration = Duration::from_secs(60);

/// Where and how a process is born.
#[derive(Debug)]
pub struct Birth<'f> {
    /// CLONE_NEW* of the namespaces that are made for it.
    pub namespaces: u64,
    /// Lines for timens_offsets, if it gets a time namespace of its own.
    pub time_offsets: Option<&'f str>,
    /// A process whose pid namespace it is born into.
    pub pid_namespace_of: Option<BorrowedFd<'f>>,
    /// None: the agent's own.
    pub cgroup: Option<BorrowedFd<'f>>,
    /// Texts for uid_map and gid_map.
    pub id_maps: Option<&'f (String, String)>,
    /// How long its hooks may take, on top of its set-up and its start.
    pub hooks_limit: Duration,
}

impl Birth<'_> {
    fn limit(&self) -> Duration {
        SETUP_LIMIT + self.hooks_limit
    }
}

#[derive(Debug)]
pub struct Spawned {
    pub pid: u32,
    pub pidfd: OwnedFd,
    pub console: Option<OwnedFd>,
    /// The socket to a process that waits to be told to go on; None: it runs its program.
    pub gate: Option<OwnedFd>,
}

/// What is known of a process that is not set up yet.
#[derive(Debug, Default)]
struct Unborn {
    process: Option<(u32, OwnedFd)>,
    console: Option<OwnedFd>,
}

/// Comes back when the process waits at its gate or runs its program.
///
/// # Errors
/// The step that failed; the process is dead or about to be.
pub fn spawn(
    spawner: BorrowedFd<'_>,
    birth: &Birth<'_>,
    plan: &Plan,
    plan_fds: &[BorrowedFd<'_>],
) -> Result<Spawned> {
    let step = || "ask the spawner".to_owned();
    let (socket, theirs) = wire::pair().doing(step)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(birth.limit())).doing(step)?;
    let order = ForkOrder {
        namespaces: birth.namespaces,
        time_offsets: birth.time_offsets.map(str::to_owned),
        enter_pid_namespace: birth.pid_namespace_of.is_some(),
        enter_cgroup: birth.cgroup.is_some(),
    };
    let fds: Vec<BorrowedFd<'_>> = [theirs.as_fd()]
        .into_iter()
        .chain(birth.pid_namespace_of)
        .chain(birth.cgroup)
        .collect();
    wire::send_order(spawner, &order, &fds).doing(step)?;
    drop(theirs);
    // The process is nobody before its ids are mapped, and waits for its plan until then.
    if birth.id_maps.is_none() {
        send_plan(&socket, plan, plan_fds)?;
    }
    let mut unborn = Unborn::default();
    match follow(&socket, birth, plan, plan_fds, &mut unborn) {
        Ok(at_gate) => {
            let (pid, pidfd) = unborn.process.ok_or(Error::Died { oom: false })?;
            Ok(Spawned {
                pid,
                pidfd,
                console: unborn.console,
                gate: at_gate.then_some(socket),
            })
        }
        Err(error) => {
            if let Some((_, pidfd)) = unborn.process {
                // Most often it is dead already.
                let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            }
            Err(error)
        }
    }
}

/// True when the process waits at its gate, false when it runs its program.
fn follow(
    socket: &OwnedFd,
    birth: &Birth<'_>,
    plan: &Plan,
    plan_fds: &[BorrowedFd<'_>],
    unborn: &mut Unborn,
) -> Result<bool> {
    if matches!(plan, Plan::Exec(_)) && !comes_to_an_end(socket, birth.limit())? {
        // What was told is in the socket: the process is known by it, and is to be killed.
        let _ = ioctl_fionbio(socket, true);
        while let Ok(Some((report, fd))) = wire::receive_report(socket.as_fd()) {
            if let (Report::Forked { pid }, Some(pidfd)) = (report, fd) {
                unborn.process = Some((pid, pidfd));
            }
        }
        return Err(too_long(birth.limit()));
    }
    // The spawner and the process write to the same socket, and the process may be the faster.
    let mut at_gate = false;
    while !(at_gate && unborn.process.is_some()) {
        match next_report(socket)? {
            Some((Report::Forked { pid }, Some(pidfd))) => {
                unborn.process = Some((pid, pidfd));
                if let Some(maps) = birth.id_maps {
                    map_ids(pid, maps)?;
                    send_plan(socket, plan, plan_fds)?;
                }
            }
            Some((Report::NotForked { step, errno }, _)) => {
                return Err(Errno::from_raw_os_error(errno)).doing(|| step);
            }
            Some((Report::Console, Some(console))) => unborn.console = Some(console),
            Some((Report::Forked { .. } | Report::Console, None)) => {
                return Err(Errno::BADMSG).doing(|| "hear from the spawner".to_owned());
            }
            Some((Report::Ready, _)) => at_gate = true,
            Some((Report::Failed(failure), _)) => return Err(failure.into()),
            // Its socket closed without a word of failure: an exec runs its program.
            None if matches!(plan, Plan::Exec(_)) => return Ok(false),
            None => return Err(Error::Died { oom: false }),
        }
    }
    Ok(true)
}

/// Lets an init go on from its gate, and comes back when it runs its program.
///
/// # Errors
/// Why it does not.
pub fn open_gate(socket: &OwnedFd) -> Result<()> {
    match wire::send_go(socket.as_fd()) {
        // It is gone; what it had to say can still be heard.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
        Err(errno) => return Err(errno).doing(|| "tell the init to go on".to_owned()),
    }
    match next_report(socket)? {
        None => Ok(()),
        Some((Report::Failed(failure), _)) => Err(failure.into()),
        Some(_) => Err(Errno::BADMSG).doing(|| "hear from the init".to_owned()),
    }
}

/// Of an exec nothing needs to be heard before its program runs, or never will. Whoever wakes up for less takes the
/// processor from it, and each switch to and fro empties the caches of an emulated one.
fn comes_to_an_end(socket: &OwnedFd, limit: Duration) -> Result<bool> {
    let mut ends = [PollFd::new(socket, PollFlags::RDHUP)];
    let until = Timespec::try_from(limit).ok();
    loop {
        match poll(&mut ends, until.as_ref()) {
            Ok(ended) => return Ok(ended > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "wait for the process".to_owned()),
        }
    }
}

fn too_long(limit: Duration) -> Error {
    Error::Timeout {
        step: "set up the process".to_owned(),
        seconds: limit.as_secs(),
    }
}

fn next_report(socket: &OwnedFd) -> Result<Option<(Report, Option<OwnedFd>)>> {
    loop {
        match wire::receive_report(socket.as_fd()) {
            // Told once, when the other end closed without reading all; what it sent comes after.
            Err(Errno::CONNRESET) => {}
            Err(Errno::AGAIN) => {
                let limit = socket_timeout(socket, Timeout::Recv).ok().flatten();
                return Err(too_long(limit.unwrap_or(SETUP_LIMIT)));
            }
            heard => return heard.doing(|| "hear from the process".to_owned()),
        }
    }
}

fn send_plan(socket: &OwnedFd, plan: &Plan, fds: &[BorrowedFd<'_>]) -> Result<()> {
    match wire::send_plan(socket.as_fd(), plan, fds) {
        // Nobody is there to read it; why, the next report says.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(()),
        Err(errno) => Err(errno).doing(|| "send the plan".to_owned()),
    }
}

fn map_ids(pid: u32, (uids, gids): &(String, String)) -> Result<()> {
    for (file, map) in [("uid_map", uids), ("gid_map", gids)] {
        std::fs::write(format!("/proc/{pid}/{file}"), map)
            .doing(|| format!("user namespace: set {file} to {map:?}"))?;
    }
    Ok(())
}

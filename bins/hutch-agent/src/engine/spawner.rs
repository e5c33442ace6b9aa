//! The spawner: one process with one thread that forks on order, and does nothing else.
//!
//! The agent has threads and must not fork. The spawner was forked before they existed; it is
//! small, so its forks are cheap, and what it forks are children of the agent (CLONE_PARENT).
//! It never reads a plan: that goes from the agent straight to the new process.

use super::{
    cgroup, child,
    error::{Doing, Result},
    plan::{Failure, Report},
    sys::{self, Forked},
    wire::{self, ForkOrder, OrderedPlace},
};
use rustix::{
    fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
    process::{Signal, set_parent_process_death_signal},
    thread::{
        LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space,
        move_into_thread_name_spaces, set_name,
    },
};
use std::ffi::CStr;

/// The first descriptor after stdio: where the spawner keeps its end of the socket.
const SOCKET_FD: i32 = 3;

/// Forks the spawner and gives the agent's end of its socket: when that closes, the spawner ends.
///
/// # Errors
/// When there can be no socket or no process.
pub fn fork() -> Result<OwnedFd> {
    let (ours, theirs) = wire::pair().doing(|| "make the spawner's socket".to_owned())?;
    match sys::fork_child().doing(|| "fork the spawner".to_owned())? {
        Some(_) => Ok(ours),
        None => {
            // Without this the spawner would outlive an agent that was killed in a test.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let _ = set_name(c"hutch-spawner");
            serve(&keep_only(&theirs));
            sys::exit_now(0)
        }
    }
}

/// Closes all but stdio and the socket, which moves to a fixed place.
#[allow(unsafe_code)]
fn keep_only(socket: &OwnedFd) -> OwnedFd {
    if socket.as_raw_fd() != SOCKET_FD {
        // SAFETY: this process never returns to the code that owns what is closed here.
        unsafe { libc::dup3(socket.as_raw_fd(), SOCKET_FD, libc::O_CLOEXEC) };
    }
    // SAFETY: as above; the process ends without dropping what it inherited.
    let _ = unsafe { sys::close_from(SOCKET_FD as u32 + 1) };
    // SAFETY: the descriptor was put there above and has no other owner that is ever dropped.
    unsafe { OwnedFd::from_raw_fd(SOCKET_FD) }
}

/// Serves until the agent is gone or cannot be understood.
fn serve(socket: &OwnedFd) {
    sys::reset_signals();
    let Ok(home) = Home::open() else {
        return;
    };
    while let Ok(Some((order, fds))) = wire::receive_order(socket.as_fd()) {
        if fork_as_ordered(&order, fds, &home, socket.as_fd()).is_err() {
            return;
        }
    }
}

/// The namespaces that the spawner's children are born into unless an order says otherwise.
struct Home {
    pid: OwnedFd,
    /// None: this kernel has none.
    time: Option<OwnedFd>,
}

impl Home {
    fn open() -> Result<Self, Errno> {
        let open = |path: &CStr| {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty())
        };
        Ok(Self {
            pid: open(c"/proc/self/ns/pid")?,
            time: open(c"/proc/self/ns/time").ok(),
        })
    }

    /// Whoever is forked next is born at home again.
    fn come_back(&self, order: &ForkOrder) -> Result<(), Errno> {
        if order.enter_pid_namespace {
            move_into_link_name_space(self.pid.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
        }
        match (&order.time_offsets, &self.time) {
            (Some(_), Some(time)) => {
                move_into_link_name_space(time.as_fd(), Some(LinkNameSpaceType::Time))
            }
            (Some(_), None) | (None, _) => Ok(()),
        }
    }
}

/// An error here is one after which the spawner cannot go on.
fn fork_as_ordered(
    order: &ForkOrder,
    fds: Vec<OwnedFd>,
    home: &Home,
    socket: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let mut fds = fds.into_iter();
    let request = fds.next().ok_or(Errno::BADMSG)?;
    let neighbour = order.enter_pid_namespace.then(|| fds.next()).flatten();
    let (cgroup, beside) = match order.place {
        OrderedPlace::Spawners => (None, None),
        OrderedPlace::Cgroup { beside } => (fds.next(), beside),
    };

    let forked = leave_home(order, neighbour.as_ref()).and_then(|()| {
        let cgroup = cgroup.as_ref().map(AsFd::as_fd);
        fork_into(order.namespaces, cgroup).map_err(|errno| ("fork", errno))
    });
    if let Ok((Forked::Child, born)) = &forked {
        if let (Born::Outside, Some(cgroup)) = (born, &cgroup) {
            enter_cgroup(cgroup.as_fd(), beside, &request);
        }
        // A folder of the guest left open would be a way out of the container.
        drop((cgroup, neighbour));
        child::run(request, socket);
    }
    home.come_back(order)?;
    match forked {
        Ok((Forked::Parent { pid, pidfd }, _)) => {
            // An agent that gave up has closed its end; the process finds that out itself.
            let _ = wire::send_report(
                request.as_fd(),
                &Report::Forked { pid },
                Some(pidfd.as_fd()),
            );
        }
        Ok((Forked::Child, _)) => {}
        Err((step, errno)) => refuse(&request, step, errno),
    }
    Ok(())
}

/// Where a process was born that is for a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Born {
    Inside,
    Outside,
}

/// A cgroup that has as many processes as it may have bears no more. Whoever enters it from outside is let in all the
/// same, as it is with runc, whose processes all come from outside. One that hands its controllers down has its processes
/// below it.
fn fork_into(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<(Forked, Born), Errno> {
    match (sys::fork_sibling(namespaces, cgroup), cgroup) {
        (Err(Errno::AGAIN | Errno::BUSY | Errno::OPNOTSUPP), Some(_)) => {
            Ok((sys::fork_sibling(namespaces, None)?, Born::Outside))
        }
        (forked, _) => Ok((forked?, Born::Inside)),
    }
}

/// Called by the child. Comes back inside, or not at all: nothing of a container runs outside of its cgroup.
fn enter_cgroup(cgroup: BorrowedFd<'_>, beside: Option<u32>, request: &OwnedFd) {
    let entered = join(cgroup).or_else(|errno| match (errno, beside) {
        // As with runc: the init is where its processes are to be.
        (Errno::BUSY | Errno::OPNOTSUPP, Some(pid)) => {
            // What keeps it from there says less.
            let place = cgroup::of_process(pid, cgroup).map_err(|_| errno)?;
            join(place.as_fd())
        }
        (errno, _) => Err(errno),
    });
    if let Err(errno) = entered {
        let failure = Failure::Step {
            step: "enter the container's cgroup".to_owned(),
            errno: errno.raw_os_error(),
        };
        let _ = wire::send_report(request.as_fd(), &Report::Failed(failure), None);
        sys::exit_now(1)
    }
}

fn join(cgroup: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let procs = openat(cgroup, c"cgroup.procs", flags, Mode::empty())?;
    rustix::io::write(&procs, b"0").map(drop)
}

/// Takes the namespaces that only who is forked from now on is born into.
fn leave_home(order: &ForkOrder, neighbour: Option<&OwnedFd>) -> Result<(), (&'static str, Errno)> {
    if let Some(init) = neighbour {
        move_into_thread_name_spaces(init.as_fd(), ThreadNameSpaceType::PROCESS_ID)
            .map_err(|errno| ("enter the container's pid namespace", errno))?;
    }
    if let Some(offsets) = &order.time_offsets {
        // Here and not in the process itself: up to Linux 6.2 whoever makes a time namespace does
        // not enter it by executing a program, only by being forked.
        sys::unshare(libc::CLONE_NEWTIME).map_err(|errno| ("make a time namespace", errno))?;
        std::fs::write("/proc/self/timens_offsets", offsets).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            ("set the offsets of the time namespace", errno)
        })?;
    }
    Ok(())
}

fn refuse(request: &OwnedFd, step: &str, errno: Errno) {
    let report = Report::NotForked {
        step: step.to_owned(),
        errno: errno.raw_os_error(),
    };
    let _ = wire::send_report(request.as_fd(), &report, None);
}

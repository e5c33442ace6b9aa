//! System calls that have no safe wrapper elsewhere, one small function each.
//!
//! Nothing here decides; a function does one call and says what the kernel said.

use rustix::{
    fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    io::Errno,
};
use std::{
    ffi::{CStr, CString},
    mem::{size_of, zeroed},
    ptr,
};

/// From linux/sched.h; not in every libc.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Forked {
    Child,
    Parent { pid: u32, pidfd: OwnedFd },
}

/// Forks a sibling: a process with the caller's parent, in the given cgroup if there is one.
///
/// The caller must have one thread: the child is a copy of it, locks and all.
///
/// # Errors
/// What clone3 says.
#[allow(unsafe_code)]
pub fn fork_sibling(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked, Errno> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: all zero is a valid clone_args: plain integers, where 0 means "not asked for".
    let mut args: libc::clone_args = unsafe { zeroed() };
    args.flags = namespaces | (libc::CLONE_PARENT | libc::CLONE_PIDFD) as u64;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM the child has its own copy of this memory and goes on from here
    // with its own stack; `args` and `pidfd` outlive the call. One thread, so no lock is held.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    };
    match pid {
        -1 => Err(last()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent {
            pid: u32::try_from(pid).expect("a pid is positive"),
            // SAFETY: clone3 succeeded with CLONE_PIDFD, so this is a new descriptor of ours.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Forks a child. The caller must have one thread: the child is a copy of it, locks and all.
///
/// # Errors
/// What fork says.
#[allow(unsafe_code)]
pub fn fork_child() -> Result<Option<u32>, Errno> {
    // SAFETY: one thread, so the child's copy of memory holds no lock that nobody will open.
    match unsafe { libc::fork() } {
        -1 => Err(last()),
        0 => Ok(None),
        pid => Ok(Some(u32::try_from(pid).expect("a pid is positive"))),
    }
}

/// Becomes another program; comes back only if that fails.
#[allow(unsafe_code)]
pub fn execve(path: &CStr, args: &[CString], env: &[CString]) -> Errno {
    let args = pointers(args);
    let env = pointers(env);
    // SAFETY: `path` and the elements of both arrays are NUL-terminated and outlive the call, and
    // both arrays end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    last()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let mut pointers: Vec<_> = strings.iter().map(|one| one.as_ptr()).collect();
    pointers.push(ptr::null());
    pointers
}

/// Whether the caller, as who it is in effect, may execute the file behind a handle.
///
/// # Errors
/// What faccessat2 says (Linux 5.8).
#[allow(unsafe_code)]
pub fn may_execute(file: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the path is an empty C string, and the descriptor is open for the whole call.
    check(unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::X_OK,
            libc::AT_EACCESS | libc::AT_EMPTY_PATH,
        )
    })
}

/// # Errors
/// What unshare says. The caller must have one thread.
#[allow(unsafe_code)]
pub fn unshare(namespaces: i32) -> Result<(), Errno> {
    // SAFETY: no flag for file descriptors is ever passed, and the caller has one thread.
    check(unsafe { libc::syscall(libc::SYS_unshare, namespaces) })
}

/// Attributes of a mount, as mount_setattr(2) has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MountAttr {
    pub set: u64,
    pub clear: u64,
    pub propagation: u64,
    pub userns_fd: u64,
}

/// # Errors
/// What mount_setattr says.
#[allow(unsafe_code)]
pub fn mount_setattr(
    at: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    attr: MountAttr,
) -> Result<(), Errno> {
    // SAFETY: `path` is NUL-terminated, and `attr` is the kernel's struct mount_attr of the size
    // that is passed; both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
}

/// Installs a seccomp filter: 8 bytes for each instruction, as the kernel has them.
///
/// # Errors
/// What seccomp says; EINVAL also for a program that is cut off or too long.
#[allow(unsafe_code)]
pub fn install_seccomp(program: &[u8], flags: u32) -> Result<(), Errno> {
    let instruction = size_of::<libc::sock_filter>();
    if !program.len().is_multiple_of(instruction) {
        return Err(Errno::INVAL);
    }
    // A copy, since bytes from a message need not be aligned.
    let filter: Vec<libc::sock_filter> = program
        .chunks_exact(instruction)
        .map(|raw| libc::sock_filter {
            code: u16::from_ne_bytes([raw[0], raw[1]]),
            jt: raw[2],
            jf: raw[3],
            k: u32::from_ne_bytes([raw[4], raw[5], raw[6], raw[7]]),
        })
        .collect();
    let header = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: `header` names `filter` with its true length; the kernel only reads both.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const header,
        )
    })
}

/// Joins the session keyring of this name, made if there is none.
///
/// # Errors
/// What keyctl says.
#[allow(unsafe_code)]
pub fn join_session_keyring(name: &CStr) -> Result<(), Errno> {
    // SAFETY: `name` is NUL-terminated and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            libc::KEYCTL_JOIN_SESSION_KEYRING,
            name.as_ptr(),
        )
    })
}

/// # Errors
/// What ioprio_set says.
#[allow(unsafe_code)]
pub fn set_io_priority(priority: u32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: i32 = 1;
    // SAFETY: integers only; 0 is the caller itself.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) })
}

/// # Errors
/// What personality says.
#[allow(unsafe_code)]
pub fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) })
}

/// A scheduling policy, as sched_setattr(2) has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[repr(C)]
pub struct SchedAttr {
    pub size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
}

/// # Errors
/// What sched_setattr says.
#[allow(unsafe_code)]
pub fn set_scheduler(mut attr: SchedAttr) -> Result<(), Errno> {
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: `attr` is the kernel's struct sched_attr of the size it names; 0 is the caller.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) })
}

/// Sends any signal, real-time ones included.
///
/// # Errors
/// What pidfd_send_signal says.
#[allow(unsafe_code)]
pub fn pidfd_signal(pidfd: BorrowedFd<'_>, signum: i32) -> Result<(), Errno> {
    // SAFETY: integers and a null siginfo, which means that of kill.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signum,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
}

/// Sends any signal, real-time ones included.
///
/// # Errors
/// What kill says.
#[allow(unsafe_code)]
pub fn kill(pid: i32, signum: i32) -> Result<(), Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_kill, pid, signum) })
}

/// Closes every descriptor from `first` on.
///
/// # Errors
/// What close_range says.
///
/// # Safety
/// Nothing may use such a descriptor afterwards, nor drop an owner of one.
#[allow(unsafe_code)]
pub unsafe fn close_from(first: u32) -> Result<(), Errno> {
    // SAFETY: integers only; that nothing owns them is the caller's promise.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}

/// Gives every signal its default action and blocks none.
#[allow(unsafe_code)]
pub fn reset_signals() {
    for signum in 1..=libc::SIGRTMAX() {
        // SAFETY: SIG_DFL runs no code of ours. Signals that cannot be set are refused harmlessly.
        unsafe { libc::signal(signum, libc::SIG_DFL) };
    }
    // SAFETY: an empty set is a valid set, and null means that the old one is not asked for.
    unsafe {
        let mut none: libc::sigset_t = zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// What ends a program that says nothing about signals, and is a wish or a fault of its own;
/// not those that a program gives a meaning to, which mean nothing to one that has not begun.
const DEADLY: [i32; 12] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSTKFLT,
    libc::SIGSYS,
    libc::SIGTERM,
];

/// Ends with 128 + the number of a deadly signal, until another program is run: without a way to
/// take it the first process of a pid namespace would not even be told.
#[allow(unsafe_code)]
pub fn end_on_deadly_signals() {
    extern "C" fn end(signum: libc::c_int) {
        exit_now(128 + signum)
    }
    for signum in DEADLY {
        // SAFETY: all that `end` does is _exit, which a handler may call at any moment.
        unsafe { libc::signal(signum, end as *const () as libc::sighandler_t) };
    }
}

/// Takes a capability out of the bounding set.
///
/// # Errors
/// What prctl says; EINVAL for a capability that this kernel does not know.
#[allow(unsafe_code)]
pub fn drop_bounding(capability: u32) -> Result<(), Errno> {
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) })
}

/// # Errors
/// What prctl says.
#[allow(unsafe_code)]
pub fn raise_ambient(capability: u32) -> Result<(), Errno> {
    // SAFETY: integers only.
    check(unsafe {
        libc::syscall(
            libc::SYS_prctl,
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_RAISE,
            capability,
            0,
            0,
        )
    })
}

/// # Errors
/// What prlimit says.
#[allow(unsafe_code)]
pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<(), Errno> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: `limit` outlives the call, and null means that the old limit is not asked for; 0 is
    // the caller.
    check(unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            &raw const limit,
            ptr::null_mut::<libc::rlimit64>(),
        )
    })
}

/// Ends the process at once: nothing is flushed or dropped.
#[allow(unsafe_code)]
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not come back.
    unsafe { libc::_exit(code) }
}

fn check(answer: libc::c_long) -> Result<(), Errno> {
    if answer == -1 { Err(last()) } else { Ok(()) }
}

fn last() -> Errno {
    // Every caller comes here right after a libc call that failed, which has set the number.
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

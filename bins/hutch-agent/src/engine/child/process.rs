//! The last steps of every process, init or exec: from here on only its own properties change.

use super::{
    Fds, ahead,
    failure::{Doing, Outcome, expected},
    home,
    hooks::Stage,
    identity, program,
};
use crate::engine::{
    plan::{Failure, HookPlan, ProcessPlan, Report, SeccompFilter, Stdio},
    sys, wire,
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, FileType, Mode, OFlags, Uid, fchown, fstat, makedev, openat},
    io::Errno,
    process::{chdir, ioctl_tiocsctty, setsid, umask},
    stdio::{dup2_stderr, dup2_stdin, dup2_stdout},
    thread::{CpuSet, sched_setaffinity, set_no_new_privs},
};

const UMASK_DEFAULT: u32 = 0o022;

/// Whether the process waits for a word between its set-up and its program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate<'h> {
    Open,
    /// Then its hooks run.
    Held(&'h HookPlan),
}

#[derive(Debug)]
pub struct Streams {
    pub pipes: Option<[OwnedFd; 3]>,
    pub terminal: Option<OwnedFd>,
}

/// # Errors
/// When the plan's descriptors did not come with it.
pub fn take_pipes(process: &ProcessPlan, fds: &mut Fds) -> Outcome<Option<[OwnedFd; 3]>> {
    match process.io {
        Stdio::Terminal { .. } => Ok(None),
        Stdio::Pipes => {
            let mut next = || expected(fds.next(), "a stdio stream");
            Ok(Some([next()?, next()?, next()?]))
        }
    }
}

/// Through the guest's /proc, so before the root changes.
///
/// # Errors
/// When the kernel refuses the score.
pub fn adjust_oom_score(process: &ProcessPlan) -> Outcome<()> {
    let Some(score) = process.oom_score_adj else {
        return Ok(());
    };
    write_file("/proc/self/oom_score_adj", &score.to_string())
        .doing(|| format!("set oom score adjustment to {score}"))
}

/// # Errors
/// What open or write say.
pub fn write_file(path: &str, text: &str) -> Result<(), Errno> {
    let file = openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, text.as_bytes()).map(drop)
}

/// # Errors
/// Never, for a process that was just forked.
pub fn start_session() -> Outcome<()> {
    setsid().map(drop).doing(|| "start a session".to_owned())
}

/// Comes back without an error only if the agent gave up while the process was held.
///
/// # Errors
/// The step that failed.
pub fn become_program(
    mut process: ProcessPlan,
    streams: Streams,
    request: BorrowedFd<'_>,
    gate: Gate<'_>,
) -> Outcome<()> {
    identity::limit(&process)?;
    schedule(&process)?;
    join_keyring(&process)?;
    connect(&process, streams)?;
    let home = home::set(&mut process);
    if process.no_new_privileges {
        set_no_new_privs(true).doing(|| "set no_new_privs".to_owned())?;
    }
    let wanted = process.capabilities;
    identity::bound(wanted)?;
    // As root first: the user may not be allowed to walk there, and may still start there.
    let entered = enter_cwd(&process);
    identity::change_ids(&process)?;
    // A filter is let in by CAP_SYS_ADMIN or by no_new_privs, and comes as late as it can.
    let needs_arming = process.seccomp.is_some() && !process.no_new_privileges;
    if needs_arming {
        identity::set_for_filter(wanted)?;
    } else {
        identity::set_with_ambient(wanted)?;
    }
    match entered {
        Err(Failure::Step { errno, .. }) if errno == libc::EACCES => enter_cwd(&process)?,
        entered => entered?,
    }
    umask(Mode::from_raw_mode(process.umask.unwrap_or(UMASK_DEFAULT)));
    let path = program::find(&process.args[0], &process.env)?;

    let hooks = match gate {
        Gate::Held(hooks) if !hooks.start.is_empty() => {
            let stage = Stage::set(&hooks.state, "created", None)?;
            Some((stage, &hooks.start))
        }
        Gate::Held(_) | Gate::Open => None,
    };
    if let Gate::Held(_) = gate {
        sys::end_on_deadly_signals();
        wire::send_report(request, &Report::Ready, None).doing(|| "report".to_owned())?;
    }
    // Now that it wakes nobody. Whoever is told need not be: the next one looks for itself.
    if let Some(found) = home {
        let _ = wire::send_report(request, &Report::Home(found), None);
    }
    if let Gate::Held(_) = gate {
        ahead::read(&path);
        if !wire::receive_go(request).doing(|| "wait for start".to_owned())? {
            return Ok(());
        }
    }
    if needs_arming {
        identity::arm(wanted)?;
    }
    if let Some(filter) = &process.seccomp {
        install(filter)?;
    }
    if needs_arming {
        identity::set_finally(wanted)?;
    }
    // Their programs are the image's, so they get no more than the image's program does.
    if let Some((stage, hooks)) = hooks {
        stage.run(hooks)?;
    }
    let errno = sys::execve(&path, &process.args, &process.env);
    Err(program::refused(&path, errno))
}

fn schedule(process: &ProcessPlan) -> Outcome<()> {
    if let Some(priority) = process.io_priority {
        sys::set_io_priority(priority).doing(|| "set io priority".to_owned())?;
    }
    if let Some(attr) = process.scheduler {
        sys::set_scheduler(attr).doing(|| "set scheduler".to_owned())?;
    }
    if let Some(persona) = process.personality {
        sys::set_personality(persona).doing(|| "set personality".to_owned())?;
    }
    if let Some(cpus) = &process.cpu_affinity {
        let mut set = CpuSet::new();
        for cpu in cpus {
            set.set(*cpu as usize);
        }
        sched_setaffinity(None, &set).doing(|| format!("set cpu affinity to {cpus:?}"))?;
    }
    Ok(())
}

/// Keys of one container are none of another's business.
fn join_keyring(process: &ProcessPlan) -> Outcome<()> {
    match sys::join_session_keyring(&process.keyring) {
        // A kernel without keys has none to protect.
        Ok(()) | Err(Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno).doing(|| "join the container's keyring".to_owned()),
    }
}

fn connect(process: &ProcessPlan, streams: Streams) -> Outcome<()> {
    let duplicate = || "connect stdio".to_owned();
    match streams {
        Streams {
            terminal: Some(terminal),
            ..
        } => {
            ioctl_tiocsctty(&terminal).doing(|| "terminal: take control of it".to_owned())?;
            own(terminal.as_fd(), process)?;
            dup2_stdin(&terminal).doing(duplicate)?;
            dup2_stdout(&terminal).doing(duplicate)?;
            dup2_stderr(&terminal).doing(duplicate)
        }
        Streams {
            pipes: Some([stdin, stdout, stderr]),
            ..
        } => {
            for stream in [&stdin, &stdout, &stderr] {
                own(stream.as_fd(), process)?;
            }
            dup2_stdin(&stdin).doing(duplicate)?;
            dup2_stdout(&stdout).doing(duplicate)?;
            dup2_stderr(&stderr).doing(duplicate)
        }
        Streams {
            pipes: None,
            terminal: None,
        } => Ok(()),
    }
}

/// Else the user could not open /dev/stdout anew.
fn own(stream: BorrowedFd<'_>, process: &ProcessPlan) -> Outcome<()> {
    if process.uid == 0 {
        return Ok(());
    }
    let found = fstat(stream).doing(|| "look at stdio".to_owned())?;
    let null =
        FileType::from_raw_mode(found.st_mode).is_char_device() && found.st_rdev == makedev(1, 3);
    if null || found.st_uid == process.uid {
        return Ok(());
    }
    match fchown(stream, Some(Uid::from_raw(process.uid)), None) {
        // An id that is not mapped, a file system that has no owners: the stream works all the
        // same, it only cannot be opened anew.
        Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => Ok(()),
        Err(errno) => Err(errno).doing(|| "give stdio to the user".to_owned()),
    }
}

fn enter_cwd(process: &ProcessPlan) -> Outcome<()> {
    chdir(process.cwd.as_str())
        .doing(|| format!("chdir to cwd ({:?}) set in config.json failed", process.cwd))
}

fn install(filter: &SeccompFilter) -> Outcome<()> {
    sys::install_seccomp(&filter.program, filter.flags)
        .doing(|| "install the seccomp filter".to_owned())
}

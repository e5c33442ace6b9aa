//! What a forked process does to itself before it becomes the user's program.
//!
//! One thread, so allocation is fine; every step that fails is told to the agent in full, and
//! then the process ends. Nothing here decides: the plan says what to do.

mod ahead;
mod conceal;
mod console;
mod copy;
mod dev;
mod failure;
mod home;
mod hooks;
mod identity;
mod init;
mod mounts;
mod process;
mod program;
mod resolve;
mod root;

use super::{
    plan::{ExecSteps, Failure, Plan, Report},
    sys, wire,
};
use failure::{Doing, Outcome};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Exit code of a process that never became the user's program; the agent has the reason.
const NOT_SET_UP: i32 = 1;

/// The descriptors that came with a plan, in the order in which the plan uses them.
type Fds = std::vec::IntoIter<OwnedFd>;

/// Takes the plan from the socket, carries it out, and does not come back.
pub fn run(request: OwnedFd, spawners_socket: BorrowedFd<'_>) -> ! {
    // A copy kept open here would hide the spawner's death from the agent.
    close(spawners_socket);
    // A panic must not unwind into the spawner's loop, of which this process is a copy.
    let outcome = catch_unwind(AssertUnwindSafe(|| obey(&request)));
    let failure = match outcome {
        Ok(Ok(())) => sys::exit_now(NOT_SET_UP),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::Invalid {
            what: "set up the process".to_owned(),
            why: "panic".to_owned(),
        },
    };
    let _ = wire::send_report(request.as_fd(), &Report::Failed(failure), None);
    sys::exit_now(NOT_SET_UP)
}

/// Comes back without an error only if the agent gave up.
fn obey(request: &OwnedFd) -> Outcome<()> {
    let received = wire::receive_plan(request.as_fd()).doing(|| "receive the plan".to_owned())?;
    let Some((plan, fds)) = received else {
        return Ok(());
    };
    let mut fds = fds.into_iter();
    match plan {
        Plan::Init(plan) => init::become_init(*plan, &mut fds, request.as_fd()),
        Plan::Hold => {
            wire::send_report(request.as_fd(), &Report::Ready, None)
                .doing(|| "report".to_owned())?;
            wire::receive_go(request.as_fd())
                .map(drop)
                .doing(|| "wait for the end".to_owned())
        }
        Plan::Exec(steps) => become_exec(*steps, &mut fds, request.as_fd()),
    }
}

fn become_exec(steps: ExecSteps, fds: &mut Fds, request: BorrowedFd<'_>) -> Outcome<()> {
    let ExecSteps {
        namespaces,
        user_namespace,
        process,
    } = steps;
    let pipes = process::take_pipes(&process, fds)?;
    let init = failure::expected(fds.next(), "the container's init")?;
    process::adjust_oom_score(&process)?;
    if namespaces != 0 {
        move_into_thread_name_spaces(
            init.as_fd(),
            ThreadNameSpaceType::from_bits_retain(namespaces as u32),
        )
        .doing(|| "enter the container's namespaces".to_owned())?;
    }
    drop(init);
    if user_namespace {
        identity::become_root()?;
    }
    process::start_session()?;
    let terminal = console::open_for(&process, request)?;
    let stdio = process::Streams { pipes, terminal };
    process::become_program(process, stdio, request, process::Gate::Open)
}

#[allow(unsafe_code)]
fn close(fd: BorrowedFd<'_>) {
    use rustix::fd::AsRawFd;
    // SAFETY: this process never goes back to the code that owns it.
    unsafe { libc::close(fd.as_raw_fd()) };
}

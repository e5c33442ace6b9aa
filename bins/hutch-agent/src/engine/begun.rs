//! What was begun and is not known to be done: execs, and inits that go on from their gates.
//!
//! Whoever begins one waits until the other end of its socket is closed, no longer than its limit, and concludes it. So
//! nobody needs a thread for waiting.

use super::{
    api::{Created, ExecPlan, ProcessIo},
    container::Container,
    error::{Doing, Error, Result},
    lower,
    plan::{ExecSteps, Plan, ProcessPlan},
    spawn::{self, Birth, Place, Spawned, Unheard},
    spec,
};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{CWD, Mode, OFlags, openat},
};
use std::{sync::Arc, time::Duration};

/// An exec. Its socket is what it is waited by.
#[derive(Debug)]
pub struct Execing {
    container: Arc<Container>,
    exec_id: String,
    unheard: Unheard,
    warnings: Vec<String>,
}

/// An init that was let go on. Its socket is what it is waited by.
#[derive(Debug)]
pub struct Starting {
    container: Arc<Container>,
    gate: Unheard,
}

impl Execing {
    /// Of a process whose name is reserved in its container.
    pub(super) fn order(
        spawner: BorrowedFd<'_>,
        container: Arc<Container>,
        asked: ExecPlan,
        io: ProcessIo,
    ) -> Result<Self> {
        match order(spawner, &container, &asked, io) {
            Ok((unheard, warnings)) => Ok(Self {
                container,
                exec_id: asked.exec_id,
                unheard,
                warnings,
            }),
            Err(error) => undone(&container, &asked.exec_id, error),
        }
    }

    /// How long until its program runs, at most.
    pub fn limit(&self) -> Duration {
        self.unheard.limit()
    }

    /// Its program runs, or it does not come so far.
    ///
    /// # Errors
    /// Whatever the process could not be given; nothing of it is left then.
    pub fn conclude(self) -> Result<Created> {
        let made = self.unheard.conclude_exec().and_then(|spawned| {
            let ours = spawned.pidfd.try_clone();
            let ours = ours.doing(|| "keep the process's pidfd".to_owned())?;
            Ok((spawned, ours))
        });
        match made {
            Ok((mut spawned, ours)) => {
                self.container.keep_exec(&self.exec_id, ours);
                self.container.learn_home(spawned.home.take());
                Ok(created(spawned, self.warnings))
            }
            Err(error) => undone(&self.container, &self.exec_id, error),
        }
    }
}

impl AsFd for Execing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.unheard.as_fd()
    }
}

impl Starting {
    pub(super) fn open(container: Arc<Container>) -> Result<Self> {
        let gate = container.take_gate()?;
        gate.open_gate()?;
        Ok(Self { container, gate })
    }

    /// How long until its program runs, at most.
    pub fn limit(&self) -> Duration {
        self.gate.limit()
    }

    /// Its program runs, or it does not come so far.
    ///
    /// # Errors
    /// Why its program cannot be run.
    pub fn conclude(self) -> Result<()> {
        self.container.learn_home(self.gate.conclude_start()?);
        Ok(())
    }
}

impl AsFd for Starting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.gate.as_fd()
    }
}

/// What keeps an exec from being made in a container that has stopped is that.
fn undone<T>(container: &Container, exec_id: &str, error: Error) -> Result<T> {
    container.forget_exec(exec_id)?;
    if container.init_lives() {
        Err(error)
    } else {
        container.refuse("stopped")
    }
}

fn order(
    spawner: BorrowedFd<'_>,
    container: &Container,
    asked: &ExecPlan,
    io: ProcessIo,
) -> Result<(Unheard, Vec<String>)> {
    let mut warnings = Vec::new();
    let process = spec::parse_process(&asked.process_json, &mut warnings)?;
    let terminal = matches!(io, ProcessIo::Terminal);
    let process =
        lower::lower_process(&process, terminal, &container.exec_defaults, &mut warnings)?;
    let process = ProcessPlan {
        known_home: container.home(),
        ..process
    };
    let plan = Plan::Exec(Box::new(ExecSteps {
        namespaces: container.namespaces,
        user_namespace: container.namespaces & libc::CLONE_NEWUSER != 0,
        process,
    }));
    let pipes = open_pipes(io)?;
    let init = container.init.as_fd();
    let plan_fds: Vec<BorrowedFd<'_>> = pipes.iter().map(AsFd::as_fd).chain([init]).collect();
    let below;
    let place = match asked.cgroup.as_os_str().is_empty() {
        true => Place::InOrBeside(container.cgroup.fd(), container.init_pid),
        false => {
            below = container.cgroup.below(&asked.cgroup)?;
            Place::In(below.as_fd())
        }
    };
    let birth = Birth {
        namespaces: 0,
        pid_namespace_of: container.enters_pid_namespace.then_some(init),
        place,
        id_maps: None,
        time_offsets: None,
        hooks_limit: Duration::ZERO,
    };
    Ok((spawn::order(spawner, &birth, &plan, &plan_fds)?, warnings))
}

pub(super) fn created(spawned: Spawned, warnings: Vec<String>) -> Created {
    Created {
        pid: spawned.pid,
        pidfd: spawned.pidfd,
        console: spawned.console,
        warnings,
    }
}

/// Three streams, or none for a terminal.
pub(super) fn open_pipes(io: ProcessIo) -> Result<Vec<OwnedFd>> {
    let ProcessIo::Pipes {
        stdin,
        stdout,
        stderr,
    } = io
    else {
        return Ok(Vec::new());
    };
    [stdin, stdout, stderr]
        .into_iter()
        .map(|stream| match stream {
            Some(stream) => Ok(stream),
            None => {
                let flags = OFlags::RDWR | OFlags::CLOEXEC;
                openat(CWD, c"/dev/null", flags, Mode::empty())
                    .doing(|| "open /dev/null".to_owned())
            }
        })
        .collect()
}

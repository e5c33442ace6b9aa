//! The part of [`Container`] that has processes: its execs are made, answered again, and forgotten when they are over.

use super::{
    events::{Answer, Notice, Reason, World},
    freezer::Freezer,
    machine::{Container, RESENDS_MAX, State},
    messages::Exec,
    record::ContainerState,
};
use crate::{
    error::{Fault, Kind},
    ids::{HostProcess, ProcessId, RequestKey},
    kit::{Batch, Machine, Waiter},
    process::{self, Made},
};

/// Each exec holds a stream port of the VM while it runs, and a VM has at most 128; those that exited and that
/// nobody read are kept.
/// One transaction of the store ends all their records, and has room for them.
pub(super) const EXECS_MAX: usize = 4000;

/// Execs that are over, and whose relay has their output and exit: for as many more a waiter that comes late hears of
/// the exit, and a caller that asks again is not taken for a new one.
pub(super) const EXECS_KEPT: usize = 16;

/// A process of the container, as far as the container must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    begun_by: Option<RequestKey>,
    /// Who stands for it on the host.
    pub(super) relay: Option<HostProcess>,
    progress: Progress,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Progress {
    /// Callers of an exec wait for it to be made.
    Making(Vec<Waiter>),
    /// With its stream, as long as somebody may still read it.
    Made(Option<Made>),
}

impl Container {
    pub(super) fn exec(
        &mut self,
        waiter: Waiter,
        exec: Exec,
        batch: &mut Batch<Self>,
    ) -> Result<(), Reason> {
        let Exec {
            key,
            exec,
            program,
            relay,
        } = exec;
        let process = ProcessId::Exec(exec.clone());
        if let Some(member) = self.members.get_mut(&process) {
            if key.is_none() || member.begun_by != key {
                return Err(Reason::ExecExists(exec));
            }
            return member.asked_again(waiter, batch);
        }
        if !matches!(self.state, State::Created | State::Running) {
            let state = self.state_name();
            return Err(Reason::CannotExec { state });
        }
        if self.freezer != Freezer::Thawed {
            return Err(Reason::CannotExec { state: "paused" });
        }
        if self.members.len() > EXECS_MAX {
            return Err(Reason::TooManyExecs);
        }
        let member = Member::making(key.clone(), relay, vec![waiter]);
        self.members.insert(process.clone(), Box::new(member));
        let make = process::Make {
            program: Some(program),
            key,
            relay,
        };
        batch.world.push(World::MakeProcess { process, make });
        Ok(())
    }

    pub(super) fn made(&mut self, process: ProcessId, made: Made, batch: &mut Batch<Self>) {
        let mut waiters = Vec::new();
        if let Some(member) = self.members.get_mut(&process) {
            let known = Progress::Made(Some(made.clone()));
            if let Progress::Making(waiting) = std::mem::replace(&mut member.progress, known) {
                waiters = waiting;
            }
        }
        match (process, &self.state) {
            (ProcessId::Init, State::Making) => {
                self.state = State::Created;
                self.told = ContainerState::Created;
                batch.records.push(self.record());
                batch.announce.push(Notice::Created(made));
            }
            (ProcessId::Init, _) => {}
            (ProcessId::Exec(_), _) => {
                for waiter in waiters {
                    let made = made.clone();
                    batch.replies.push((waiter, Answer::Exec(Ok(made))));
                }
            }
        }
    }

    /// A container lives for months, and is looked at every ten seconds by an exec.
    pub(super) fn exec_over(&mut self, process: ProcessId, batch: &mut Batch<Self>) {
        if let Some(member) = self.members.get_mut(&process) {
            member.progress = Progress::Made(None);
            if !self.over.contains(&process) {
                self.over.push_back(process);
            }
        }
        if self.over.len() > EXECS_KEPT
            && let Some(process) = self.over.pop_front()
        {
            batch.world.push(World::CloseProcess { process });
        }
    }

    /// Whoever still waits for it to be made hears why it never will be.
    pub(super) fn forget(&mut self, process: ProcessId, why: &Fault, batch: &mut Batch<Self>) {
        if let Some(Member {
            progress: Progress::Making(waiters),
            ..
        }) = self.members.remove(&process).map(|member| *member)
        {
            let answers = waiters.into_iter();
            let answers = answers.map(|waiter| (waiter, Answer::Exec(Err(why.clone()))));
            batch.replies.extend(answers);
        }
        self.over.retain(|over| *over != process);
        batch.world.push(World::Forget { process });
    }
}

impl Member {
    pub(super) fn making(
        begun_by: Option<RequestKey>,
        relay: Option<HostProcess>,
        waiters: Vec<Waiter>,
    ) -> Self {
        Self {
            begun_by,
            relay,
            progress: Progress::Making(waiters),
        }
    }

    pub(super) fn rebuilt(record: &process::ProcessRecord) -> Self {
        let progress = match &record.state {
            process::ProcessState::Making => Progress::Making(Vec::new()),
            process::ProcessState::Created
            | process::ProcessState::Running
            | process::ProcessState::Exited(_) => Progress::Made(record.made()),
        };
        Self {
            begun_by: record.begun_by.clone(),
            relay: record.relay,
            progress,
        }
    }

    /// The answer that the same request got, or will get.
    fn asked_again(&mut self, waiter: Waiter, batch: &mut Batch<Container>) -> Result<(), Reason> {
        match &mut self.progress {
            Progress::Making(waiters) if waiters.len() == RESENDS_MAX => {
                return Err(Reason::TooManyResends);
            }
            Progress::Making(waiters) => waiters.push(waiter),
            Progress::Made(made) => {
                let read = "it has exited, and its output was read";
                let made = made.clone();
                let made = made.ok_or_else(|| Fault::new(Kind::NotFound, read));
                batch.replies.push((waiter, Answer::Exec(made)));
            }
        }
        Ok(())
    }
}

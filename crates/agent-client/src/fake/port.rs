//! The agent port to a fake guest.

use super::{
    guest::{FakeGuest, Trouble},
    world::{Refusal, World},
};
use crate::{
    call::Call,
    port::{AgentPort, Answer},
};
use runtime_core::{
    agent::{
        Adopt, AgentDetails, ContainerStats, CreateContainer, CreateSandbox, Exec, GetPids,
        GetStats, GuestNews, GuestPid, GuestProcess, LinkSpec, ListProcesses, PauseContainer,
        RemoveContainer, RemoveEmpty, ResumeContainer, SetClock, Signal, StartContainer,
        UpdateContainer, Warnings,
    },
    error::{Fault, Kind},
    kit::Work,
};
use std::{cell::Cell, future::Future, future::pending, rc::Rc, time::Duration};
use tokio::time::{Instant, sleep};

/// One daemon's way to a guest.
#[derive(Clone)]
pub struct FakeAgent {
    guest: FakeGuest,
    /// The link that this port made; 0: none.
    link: Rc<Cell<u64>>,
    /// Counts dials and hang-ups, as the real port does.
    generation: Rc<Cell<u64>>,
}

/// One call on one link.
struct Attempt {
    guest: FakeGuest,
    link: u64,
    name: &'static str,
    deadline: Duration,
}

impl Attempt {
    /// Ends with the work, the link or the deadline, whatever is first.
    async fn within<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        let name = self.name;
        if self.link == 0 {
            return Err(down(name));
        }
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = self.guest.down(self.link) => Err(down(name)),
            () = sleep(self.deadline) => Err(Fault::new(
                Kind::Timeout,
                format!("{name}: no answer from the agent in {} s", self.deadline.as_secs_f64()),
            )),
        }
    }

    fn refused(&self, refusal: &Refusal) -> Fault {
        let what = format!("{}: the agent answered: {}", self.name, refusal.what);
        Fault::new(refusal.kind, what)
    }

    async fn perform<T>(
        &self,
        trouble: Option<Trouble>,
        act: impl FnOnce(&mut World, Instant) -> Result<T, Refusal>,
    ) -> Result<T, Fault> {
        let there = self.guest.latency() / 2;
        sleep(there).await;
        match trouble {
            None | Some(Trouble::CutAfter) => {}
            Some(Trouble::Slow(longer)) => sleep(longer).await,
            Some(Trouble::Lost) => pending().await,
            Some(Trouble::CutBefore) => {
                self.guest.unlink(self.link);
                pending().await
            }
            Some(Trouble::Refused(kind)) => {
                let what = "trouble".to_owned();
                return Err(self.refused(&Refusal { kind, what }));
            }
        }
        self.guest.up().await;
        let outcome = self.guest.act(act);
        if trouble == Some(Trouble::CutAfter) {
            self.guest.unlink(self.link);
            return pending().await;
        }
        sleep(there).await;
        outcome.map_err(|refusal| self.refused(&refusal))
    }
}

fn down(name: &str) -> Fault {
    Fault::new(
        Kind::Unavailable,
        format!("{name}: the link to the agent is down"),
    )
}

impl FakeAgent {
    pub fn new(guest: FakeGuest) -> Self {
        Self {
            guest,
            link: Rc::new(Cell::new(0)),
            generation: Rc::new(Cell::new(0)),
        }
    }

    fn attempt(&self, name: &'static str, deadline: Duration) -> Attempt {
        Attempt {
            guest: self.guest.clone(),
            link: self.link.get(),
            name,
            deadline,
        }
    }

    fn call<T: 'static>(
        &self,
        call: Call,
        deadline: Duration,
        act: impl FnOnce(&mut World, Instant) -> Result<T, Refusal> + 'static,
    ) -> Answer<T> {
        let attempt = self.attempt(call.name(), deadline);
        Box::pin(async move {
            let trouble = attempt.guest.take_trouble(call);
            attempt.within(attempt.perform(trouble, act)).await
        })
    }
}

impl AgentPort for FakeAgent {
    fn dial(&self, _: LinkSpec, deadline: Duration) -> Answer<AgentDetails> {
        self.hang_up();
        let (this, generation) = (self.clone(), self.generation.get());
        Box::pin(async move {
            let reach = async {
                sleep(this.guest.latency()).await;
                this.guest.up().await;
                this.guest
                    .link()
                    .ok_or_else(|| Fault::new(Kind::Unavailable, "connect to guest: refused"))
            };
            let silent = || {
                let seconds = deadline.as_secs_f64();
                let what = format!("no answer from guest to hello in {seconds} s");
                Fault::new(Kind::Timeout, what)
            };
            let reached = tokio::time::timeout(deadline, reach).await;
            let link = reached.unwrap_or_else(|_| Err(silent()))?;
            if this.generation.get() != generation {
                this.guest.unlink(link);
                return Err(down("dial"));
            }
            this.link.set(link);
            Ok(AgentDetails {
                version: "fake".to_owned(),
                speaks_hutch: true,
                places_execs: true,
                supports_seccomp: true,
            })
        })
    }

    fn hung_up(&self) -> Work<()> {
        let (guest, link) = (self.guest.clone(), self.link.get());
        Box::pin(async move {
            if link != 0 {
                guest.down(link).await;
            }
        })
    }

    fn hang_up(&self) {
        self.generation.set(self.generation.get() + 1);
        self.guest.unlink(self.link.replace(0));
    }

    fn create_sandbox(&self, ask: CreateSandbox, deadline: Duration) -> Answer<()> {
        self.call(Call::CreateSandbox, deadline, |world, now| {
            world.prepare(ask, now);
            Ok(())
        })
    }

    /// The guest knows it.
    fn adopt(&self, _: Adopt) {}

    fn set_clock(&self, ask: SetClock, deadline: Duration) -> Answer<()> {
        self.call(Call::SetClock, deadline, move |world, now| {
            world.set_clock(ask.now, now);
            Ok(())
        })
    }

    fn create_container(&self, ask: CreateContainer, deadline: Duration) -> Answer<Warnings> {
        self.call(Call::CreateContainer, deadline, move |world, _| {
            world.create(&ask)
        })
    }

    fn start_container(&self, ask: StartContainer, deadline: Duration) -> Answer<()> {
        self.call(Call::StartContainer, deadline, move |world, now| {
            world.start(ask.container, now)
        })
    }

    fn exec(&self, ask: Exec, deadline: Duration) -> Answer<Warnings> {
        self.call(Call::Exec, deadline, move |world, now| {
            world.exec(&ask, now)
        })
    }

    fn signal(&self, ask: Signal, deadline: Duration) -> Answer<()> {
        self.call(Call::Signal, deadline, move |world, now| {
            world.signal(&ask, now)
        })
    }

    fn remove_container(&self, ask: RemoveContainer, deadline: Duration) -> Answer<()> {
        self.call(Call::RemoveContainer, deadline, move |world, now| {
            world.remove(ask.container, now);
            Ok(())
        })
    }

    fn remove_empty(&self, ask: RemoveEmpty, deadline: Duration) -> Answer<bool> {
        self.call(Call::RemoveEmpty, deadline, move |world, now| {
            Ok(world.remove_empty(ask.container, now))
        })
    }

    fn pause_container(&self, ask: PauseContainer, deadline: Duration) -> Answer<()> {
        self.call(Call::PauseContainer, deadline, move |world, now| {
            world.freeze(ask.container, now)
        })
    }

    fn resume_container(&self, ask: ResumeContainer, deadline: Duration) -> Answer<()> {
        self.call(Call::ResumeContainer, deadline, move |world, now| {
            world.thaw(ask.container, now)
        })
    }

    fn update_container(&self, ask: UpdateContainer, deadline: Duration) -> Answer<Warnings> {
        self.call(Call::UpdateContainer, deadline, move |world, _| {
            world.update(&ask)
        })
    }

    fn stats(&self, ask: GetStats, deadline: Duration) -> Answer<ContainerStats> {
        self.call(Call::Stats, deadline, move |world, now| {
            world.stats(ask.container, now)
        })
    }

    fn list(&self, _: ListProcesses, deadline: Duration) -> Answer<Vec<GuestProcess>> {
        self.call(Call::List, deadline, |world, _| Ok(world.list()))
    }

    fn pids(&self, ask: GetPids, deadline: Duration) -> Answer<Vec<GuestPid>> {
        self.call(Call::Pids, deadline, move |world, _| {
            world.pids(ask.container)
        })
    }

    fn next_news(&self, after: u64, wait: Duration, deadline: Duration) -> Answer<Vec<GuestNews>> {
        let attempt = self.attempt("next exits", deadline);
        Box::pin(async move {
            let work = async {
                sleep(attempt.guest.latency()).await;
                attempt.guest.up().await;
                let news = attempt.guest.news(after, wait).await;
                attempt.guest.up().await;
                Ok(news)
            };
            attempt.within(work).await
        })
    }

    fn ack_news(&self, up_to: u64, deadline: Duration) -> Answer<()> {
        let attempt = self.attempt("ack exits", deadline);
        Box::pin(async move {
            let work = attempt.perform(None, |world, _| {
                world.acknowledge(up_to);
                Ok(())
            });
            attempt.within(work).await
        })
    }
}

//! The agent port over a channel: dials, learns who answered, and performs each call the way that
//! this agent offers it.

use super::{Link, hutch::HutchCalls};
use crate::{
    channel, convert,
    error::Error,
    kata::{Household, KataCalls, Share},
    port::{AgentPort, Answer},
};
use runtime_core::{
    agent::{
        Adopt, AgentDetails, ContainerStats, CreateContainer, CreateSandbox, Exec, GetPids,
        GetStats, GuestNews, GuestPid, GuestProcess, LinkSpec, ListProcesses, PauseContainer,
        RemoveContainer, RemoveEmpty, ResumeContainer, SetClock, Signal, StartContainer,
        UpdateContainer, Warnings,
    },
    error::fault,
    hypervisor::StdioKind,
    kit::Work,
};
use std::{
    cell::{Cell, RefCell},
    future::Future,
    rc::Rc,
    time::Duration,
};
use tokio::time::Instant;

/// The agent of one guest. Cheap to clone; clones share the link.
#[derive(Clone, Default)]
pub struct TtrpcAgent {
    session: Rc<RefCell<Option<Session>>>,
    /// Counts dials and hang-ups: a dial that was overtaken by either yields no link.
    generation: Rc<Cell<u64>>,
    household: Household,
}

/// A link that stands, and what is spoken on it.
#[derive(Clone)]
struct Session {
    link: Link,
    /// The first interface, which every agent has.
    first: KataCalls,
    extra: Extra,
}

#[derive(Clone)]
enum Extra {
    Hutch(HutchCalls),
    Stock,
}

impl TtrpcAgent {
    pub fn new() -> Self {
        Self::default()
    }

    /// Performs `work` on the session that stands now.
    fn on<T, F>(&self, call: &'static str, work: impl FnOnce(Session) -> F + 'static) -> Answer<T>
    where
        T: 'static,
        F: Future<Output = Result<T, Error>> + 'static,
    {
        let session = self.session.borrow().clone();
        Box::pin(async move {
            let Some(session) = session else {
                return Err(fault(&Error::LinkLost { call }));
            };
            work(session).await.map_err(|error| fault(&error))
        })
    }
}

impl Session {
    async fn reach(
        spec: LinkSpec,
        household: Household,
        deadline: Duration,
    ) -> Result<Reached, Error> {
        let until = Instant::now() + deadline;
        let left = move || until.saturating_duration_since(Instant::now());
        let io = channel::open(&spec.control).dial(deadline).await?;
        let link = Link::over(io);
        household.ledger().continue_after(spec.news_recorded);
        let first = KataCalls::over(&link, &household);
        let details = convert::details(first.details(left()).await?).map_err(|source| {
            let call = "get guest details";
            Error::Malformed { call, source }
        })?;
        let extra = match (details.speaks_hutch, spec.stdio) {
            (true, StdioKind::Ports) => {
                let calls = HutchCalls::over(&link, &details);
                // The proof that this link brings exits. They are asked for again in earnest.
                let after = spec.news_recorded;
                calls.next_news(after, Duration::ZERO, left()).await?;
                Extra::Hutch(calls)
            }
            (true, StdioKind::Calls) | (false, _) => Extra::Stock,
        };
        Ok(Reached {
            session: Self { link, first, extra },
            details,
        })
    }

    /// Our own agent brings them; a stock one is asked for each.
    fn serve_household(&self) {
        match &self.extra {
            Extra::Hutch(_) => {}
            Extra::Stock => self.first.serve_household(),
        }
    }

    async fn create_sandbox(self, ask: CreateSandbox, deadline: Duration) -> Result<(), Error> {
        let share = match &self.extra {
            Extra::Hutch(_) => Share::Hutch,
            Extra::Stock => Share::Stock,
        };
        self.first.create_sandbox(&ask, share, deadline).await?;
        match (&self.extra, ask.now) {
            (Extra::Hutch(calls), Some(now)) => calls.set_clock(now, ask.entropy, deadline).await,
            (Extra::Stock, Some(now)) => {
                self.first.set_clock(now, deadline).await?;
                self.reseed(ask.entropy, deadline).await
            }
            (Extra::Hutch(_) | Extra::Stock, None) => self.reseed(ask.entropy, deadline).await,
        }
    }

    async fn reseed(&self, entropy: Vec<u8>, deadline: Duration) -> Result<(), Error> {
        match entropy.is_empty() {
            true => Ok(()),
            false => self.first.reseed(entropy, deadline).await,
        }
    }
}

struct Reached {
    session: Session,
    details: AgentDetails,
}

/// The same call by either interface.
macro_rules! by_either {
    ($this:expr, $call:literal, $ask:expr, $deadline:expr, $method:ident) => {
        $this.on($call, move |session| async move {
            match &session.extra {
                Extra::Hutch(calls) => calls.$method($ask, $deadline).await,
                Extra::Stock => session.first.$method($ask, $deadline).await,
            }
        })
    };
}

impl AgentPort for TtrpcAgent {
    fn dial(&self, spec: LinkSpec, deadline: Duration) -> Answer<AgentDetails> {
        // First, so that QEMU, which takes one connection at a time, takes the next one.
        self.hang_up();
        let (slot, household) = (self.session.clone(), self.household.clone());
        let (current, generation) = (self.generation.clone(), self.generation.get());
        Box::pin(async move {
            let reach = Session::reach(spec, household, deadline).await;
            let reached = reach.map_err(|error| fault(&error))?;
            if current.get() != generation {
                return Err(fault(&Error::LinkLost { call: "dial" }));
            }
            reached.session.serve_household();
            slot.borrow_mut().replace(reached.session);
            Ok(reached.details)
        })
    }

    fn hung_up(&self) -> Work<()> {
        let session = self.session.borrow().clone();
        Box::pin(async move {
            if let Some(session) = session {
                let link = session.link.watch();
                // Nothing of the session may be held: this wait would keep its connection open.
                drop(session);
                link.await;
            }
        })
    }

    fn hang_up(&self) {
        self.generation.set(self.generation.get() + 1);
        self.household.parted();
        if let Some(session) = self.session.borrow_mut().take() {
            session.link.cut();
        }
    }

    /// Our own agent knows it.
    fn adopt(&self, ask: Adopt) {
        self.household.adopt(ask);
    }

    fn create_sandbox(&self, ask: CreateSandbox, deadline: Duration) -> Answer<()> {
        self.on("create sandbox", move |session| {
            session.create_sandbox(ask, deadline)
        })
    }

    fn set_clock(&self, ask: SetClock, deadline: Duration) -> Answer<()> {
        self.on("set clock", move |session| async move {
            match &session.extra {
                Extra::Hutch(calls) => calls.set_clock(ask.now, Vec::new(), deadline).await,
                Extra::Stock => session.first.set_clock(ask.now, deadline).await,
            }
        })
    }

    fn create_container(&self, ask: CreateContainer, deadline: Duration) -> Answer<Warnings> {
        by_either!(self, "create container", ask, deadline, create)
    }

    fn start_container(&self, ask: StartContainer, deadline: Duration) -> Answer<()> {
        by_either!(self, "start container", ask, deadline, start)
    }

    fn exec(&self, ask: Exec, deadline: Duration) -> Answer<Warnings> {
        by_either!(self, "exec", ask, deadline, exec)
    }

    fn signal(&self, ask: Signal, deadline: Duration) -> Answer<()> {
        by_either!(self, "signal", ask, deadline, signal)
    }

    fn remove_container(&self, ask: RemoveContainer, deadline: Duration) -> Answer<()> {
        by_either!(self, "remove container", ask, deadline, remove)
    }

    fn remove_empty(&self, ask: RemoveEmpty, deadline: Duration) -> Answer<bool> {
        self.on("remove empty container", move |session| async move {
            match &session.extra {
                Extra::Hutch(calls) => calls.remove_empty(ask, deadline).await,
                Extra::Stock => Ok(false),
            }
        })
    }

    fn pause_container(&self, ask: PauseContainer, deadline: Duration) -> Answer<()> {
        by_either!(self, "pause container", ask, deadline, pause)
    }

    fn resume_container(&self, ask: ResumeContainer, deadline: Duration) -> Answer<()> {
        by_either!(self, "resume container", ask, deadline, resume)
    }

    fn update_container(&self, ask: UpdateContainer, deadline: Duration) -> Answer<Warnings> {
        by_either!(self, "update container", ask, deadline, update)
    }

    fn stats(&self, ask: GetStats, deadline: Duration) -> Answer<ContainerStats> {
        by_either!(self, "read statistics", ask, deadline, stats)
    }

    fn list(&self, _: ListProcesses, deadline: Duration) -> Answer<Vec<GuestProcess>> {
        self.on("list processes", move |session| async move {
            match &session.extra {
                Extra::Hutch(calls) => calls.list(deadline).await,
                Extra::Stock => session.first.list().await,
            }
        })
    }

    fn pids(&self, ask: GetPids, deadline: Duration) -> Answer<Vec<GuestPid>> {
        let call = "list pids";
        self.on(call, move |session| async move {
            match &session.extra {
                Extra::Hutch(calls) => calls.pids(ask, deadline).await,
                Extra::Stock => Err(Error::Unsupported { call }),
            }
        })
    }

    fn next_news(&self, after: u64, wait: Duration, deadline: Duration) -> Answer<Vec<GuestNews>> {
        self.on("next exits", move |session| async move {
            match &session.extra {
                Extra::Hutch(calls) => calls.next_news(after, wait, deadline).await,
                Extra::Stock => session.first.next_news(after, wait, deadline).await,
            }
        })
    }

    fn ack_news(&self, up_to: u64, deadline: Duration) -> Answer<()> {
        self.on("ack exits", move |session| async move {
            match &session.extra {
                Extra::Hutch(calls) => calls.ack_news(up_to, deadline).await,
                Extra::Stock => {
                    session.first.ack_news(up_to);
                    Ok(())
                }
            }
        })
    }
}

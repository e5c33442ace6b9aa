//! The fake guest as a story handles it: what is in it, how it lives, and what goes wrong.

use super::world::{RanExec, Refusal, World};
use crate::{call::Call, port::Signs};
use runtime_core::{
    agent::{CreateSandbox, ExitReason, ExitStatus, GuestNews},
    error::Kind,
    ids::{ContainerNumber, ProcessId},
    kit::Work,
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

/// A call to an idle guest, there and back.
const LATENCY: Duration = Duration::from_millis(1);

/// What happens to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It is refused with this kind, and not carried out.
    Refused(Kind),
    /// It takes so much longer.
    Slow(Duration),
    /// It is not carried out and never answered.
    Lost,
    /// The link breaks before it is carried out.
    CutBefore,
    /// The link breaks after it was carried out, before its answer.
    CutAfter,
}

/// One guest. Clones are the same guest; it outlives every port, actor and daemon.
#[derive(Clone)]
pub struct FakeGuest {
    shared: Arc<Shared>,
}

struct Shared {
    inside: Mutex<Inside>,
    changed: Notify,
}

struct Inside {
    world: World,
    power: Power,
    /// The number of the link that stands; 0: none.
    link: u64,
    links_issued: u64,
    refusals: u32,
    latency: Duration,
    trouble: BTreeMap<Call, VecDeque<Trouble>>,
}

#[derive(Debug, Clone, Copy)]
enum Power {
    /// It says a byte a millisecond on its console until its agent is up.
    Booting {
        since: Instant,
        until: Instant,
    },
    /// Nothing answers, nothing is said.
    Hung {
        console_bytes: u64,
    },
    Up,
    Off,
}

/// What a boot leaves on the console.
const BOOTED_BYTES: u64 = 10_000;

impl FakeGuest {
    /// A guest whose agent is up. Must be made within a runtime: its time begins now.
    pub fn new() -> Self {
        let inside = Inside {
            world: World::new(Instant::now()),
            power: Power::Up,
            link: 0,
            links_issued: 0,
            refusals: 0,
            latency: LATENCY,
            trouble: BTreeMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                inside: Mutex::new(inside),
                changed: Notify::new(),
            }),
        }
    }

    /// A guest whose agent is up after this.
    pub fn booting(boot: Duration) -> Self {
        let guest = Self::new();
        let since = Instant::now();
        guest.change(|inside| {
            let until = since + boot;
            inside.power = Power::Booting { since, until };
        });
        guest
    }

    /// A guest whose VM does not run yet: nobody can be dialed.
    pub fn off() -> Self {
        let guest = Self::new();
        guest.power_off();
        guest
    }

    /// Its VM starts, with nothing in it; its agent is up after this.
    pub fn boot(&self, takes: Duration) {
        let since = Instant::now();
        self.change(|inside| {
            let until = since + takes;
            inside.world = World::new(since);
            inside.power = Power::Booting { since, until };
        });
    }

    /// From now on nothing answers; what was asked is not carried out. The link seems to stand.
    pub fn hang(&self) {
        let console_bytes = self.console();
        self.change(|inside| inside.power = Power::Hung { console_bytes });
    }

    /// A guest that hung goes on.
    pub fn wake(&self) {
        self.change(|inside| inside.power = Power::Up);
    }

    /// The VM ends: the link breaks, and nobody can be dialed.
    pub fn power_off(&self) {
        self.change(|inside| {
            inside.power = Power::Off;
            inside.link = 0;
        });
    }

    /// The link breaks; the guest lives on.
    pub fn cut(&self) {
        self.change(|inside| inside.link = 0);
    }

    /// So many dials from now on are refused.
    pub fn refuse_dials(&self, count: u32) {
        self.change(|inside| inside.refusals = count);
    }

    /// Every call takes so long, there and back.
    pub fn slow_down(&self, latency: Duration) {
        self.change(|inside| inside.latency = latency);
    }

    /// The next such call that has no trouble yet has this.
    pub fn trouble(&self, call: Call, trouble: Trouble) {
        self.change(|inside| inside.trouble.entry(call).or_default().push_back(trouble));
    }

    /// A process ends as the story has it.
    pub fn end(
        &self,
        container: ContainerNumber,
        process: ProcessId,
        code: u32,
        reason: ExitReason,
    ) {
        let now = Instant::now();
        self.change(|inside| {
            inside.world.settle(now);
            inside.world.end(container, process, code, reason, now);
        });
    }

    /// Something in it is killed for want of memory; `false`: there is no such container.
    pub fn oom(&self, container: ContainerNumber) -> bool {
        let now = Instant::now();
        self.change(|inside| inside.world.oom(container, now).is_ok())
    }

    pub fn is_frozen(&self, container: ContainerNumber) -> bool {
        self.look(|inside| inside.world.is_frozen(container))
    }

    /// What the guest was prepared with.
    pub fn prepared_with(&self) -> Option<CreateSandbox> {
        self.look(|inside| inside.world.sandbox.clone())
    }

    /// Exits that nobody acknowledged yet.
    pub fn unacknowledged(&self) -> Vec<GuestNews> {
        let now = Instant::now();
        self.change(|inside| {
            inside.world.settle(now);
            inside.world.news_above(0)
        })
    }

    /// Whether there is such a container.
    pub fn knows(&self, container: ContainerNumber) -> bool {
        self.look(|inside| inside.world.knows(container))
    }

    /// Every exec that was ever begun.
    pub fn execs(&self) -> Vec<RanExec> {
        let now = Instant::now();
        self.change(|inside| {
            inside.world.settle(now);
            inside.world.execs()
        })
    }

    /// How a process ended, if it did.
    pub fn outcome(&self, container: ContainerNumber, process: &ProcessId) -> Option<ExitStatus> {
        self.look(|inside| inside.world.end_of(container, process))
    }

    /// How a process ended, as the reader of its stream learns; `None`: its VM ended first.
    pub async fn ended(
        &self,
        container: ContainerNumber,
        process: &ProcessId,
    ) -> Option<ExitStatus> {
        loop {
            let changed = self.shared.changed.notified();
            let now = Instant::now();
            let (end, next, power) = {
                let inside = &self.shared.inside;
                let mut inside = inside.lock().unwrap_or_else(PoisonError::into_inner);
                if !matches!(inside.power, Power::Off) {
                    inside.world.settle(now);
                }
                let end = inside.world.end_of(container, process);
                (end, inside.world.next_end(), inside.power)
            };
            match (end, power, next) {
                (Some(end), ..) => return Some(end),
                (None, Power::Off, _) => return None,
                (None, _, None) => changed.await,
                (None, _, Some(at)) => {
                    tokio::select! { biased; () = changed => {}, () = sleep_until(at) => {} }
                }
            }
        }
    }

    /// Whether a process was started.
    #[cfg(feature = "contract")]
    pub(crate) fn has_begun(&self, container: ContainerNumber, process: &ProcessId) -> bool {
        self.look(|inside| inside.world.has_begun(container, process))
    }

    /// Answers when anything happens in it, by itself too.
    #[cfg(feature = "contract")]
    pub(crate) async fn stirred(&self) {
        let changed = self.shared.changed.notified();
        match self.look(|inside| inside.world.next_end()) {
            None => changed.await,
            Some(at) => {
                tokio::select! { biased; () = changed => {}, () = sleep_until(at) => {} }
                let now = Instant::now();
                self.change(|inside| inside.world.settle(now));
            }
        }
    }

    /// How many links there have been.
    pub fn links(&self) -> u64 {
        self.look(|inside| inside.links_issued)
    }

    fn console(&self) -> u64 {
        let now = Instant::now();
        self.look(|inside| match inside.power {
            Power::Booting { since, .. } => {
                let said = now.saturating_duration_since(since).as_millis();
                u64::try_from(said).unwrap_or(u64::MAX)
            }
            Power::Hung { console_bytes } => console_bytes,
            Power::Up | Power::Off => BOOTED_BYTES,
        })
    }
}

impl Default for FakeGuest {
    fn default() -> Self {
        Self::new()
    }
}

impl Signs for FakeGuest {
    fn console_bytes(&self) -> Work<u64> {
        Box::pin(std::future::ready(self.console()))
    }
}

// For the port.
impl FakeGuest {
    fn look<T>(&self, look: impl FnOnce(&Inside) -> T) -> T {
        let inside = &self.shared.inside;
        look(&inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inside) -> T) -> T {
        let inside = &self.shared.inside;
        let value = change(&mut inside.lock().unwrap_or_else(PoisonError::into_inner));
        self.shared.changed.notify_waiters();
        value
    }

    /// Nothing is answered, nor carried out.
    #[cfg(feature = "contract")]
    pub(crate) fn is_hung(&self) -> bool {
        self.look(|inside| matches!(inside.power, Power::Hung { .. }))
    }

    /// A call on the world as it is now.
    pub(crate) fn act<T>(
        &self,
        act: impl FnOnce(&mut World, Instant) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let now = Instant::now();
        self.change(|inside| {
            inside.world.settle(now);
            act(&mut inside.world, now)
        })
    }

    /// Answers when the agent answers at all.
    pub(crate) async fn up(&self) {
        loop {
            let changed = self.shared.changed.notified();
            match self.look(|inside| inside.power) {
                Power::Up | Power::Off => return,
                Power::Hung { .. } => changed.await,
                Power::Booting { until, .. } if until <= Instant::now() => {
                    self.change(|inside| inside.power = Power::Up);
                }
                Power::Booting { until, .. } => {
                    tokio::select! { biased; () = changed => {}, () = sleep_until(until) => {} }
                }
            }
        }
    }

    /// A new link, in place of the one that there was. `None`: refused.
    pub(crate) fn link(&self) -> Option<u64> {
        self.change(|inside| {
            if matches!(inside.power, Power::Off) {
                return None;
            }
            if inside.refusals > 0 {
                inside.refusals -= 1;
                return None;
            }
            inside.links_issued += 1;
            inside.link = inside.links_issued;
            Some(inside.link)
        })
    }

    /// Ends this link, if it stands.
    pub(crate) fn unlink(&self, link: u64) {
        self.change(|inside| {
            if inside.link == link {
                inside.link = 0;
            }
        });
    }

    /// Answers when this link is down.
    pub(crate) async fn down(&self, link: u64) {
        loop {
            let changed = self.shared.changed.notified();
            if self.look(|inside| inside.link) != link {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn latency(&self) -> Duration {
        self.look(|inside| inside.latency)
    }

    pub(crate) fn take_trouble(&self, call: Call) -> Option<Trouble> {
        self.change(|inside| inside.trouble.get_mut(&call)?.pop_front())
    }

    /// Waits up to `wait` for news above `after`.
    pub(crate) async fn news(&self, after: u64, wait: Duration) -> Vec<GuestNews> {
        let found = timeout(wait, async {
            loop {
                let changed = self.shared.changed.notified();
                let now = Instant::now();
                let (news, next) = {
                    let inside = &self.shared.inside;
                    let mut inside = inside.lock().unwrap_or_else(PoisonError::into_inner);
                    inside.world.settle(now);
                    (inside.world.news_above(after), inside.world.next_end())
                };
                match (news.is_empty(), next) {
                    (false, _) => return news,
                    (true, None) => changed.await,
                    (true, Some(at)) => {
                        tokio::select! { biased; () = changed => {}, () = sleep_until(at) => {} }
                    }
                }
            }
        });
        found.await.unwrap_or_default()
    }
}

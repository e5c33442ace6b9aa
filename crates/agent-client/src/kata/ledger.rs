//! What this daemon knows of the processes in a stock guest, and the news of them until they are
//! acknowledged.
//!
//! A stock agent numbers nothing, so the ledger does. A ledger of a later daemon begins above every
//! number of an earlier one: the sandbox tells news that are told again by their numbers.

use crate::convert::NEWS_MAX;
use runtime_core::{
    agent::{
        ExitStatus, GuestExit, GuestNews, GuestOom, GuestProcess, GuestProcessState, SignalTarget,
    },
    ids::{ContainerNumber, EpochMs, ProcessId},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};
use tokio::{sync::Notify, time::Instant};

/// One process of the guest.
pub type ProcessKey = (ContainerNumber, ProcessId);

/// Kills for want of memory that are not acknowledged: a guest that invents them is not asked for
/// more.
const OOMS_MAX: usize = 256;

/// Numbers that one daemon may use in a millisecond of its life; none tells so much.
const NUMBERS_PER_MS: u64 = 1024;

const SIGKILL: u32 = 9;

/// Shared by the calls of all links to one guest.
#[derive(Clone, Default)]
pub struct Ledger {
    book: Rc<RefCell<Book>>,
    changed: Rc<Notify>,
}

#[derive(Default)]
struct Book {
    /// Number of the last news that were entered.
    last: u64,
    news: VecDeque<GuestNews>,
    known: BTreeMap<ProcessKey, Known>,
    /// Created, and its exit not entered yet.
    awaited: BTreeSet<ProcessKey>,
    /// Containers in which something was killed for want of memory.
    short_of_memory: BTreeSet<ContainerNumber>,
    frozen: BTreeSet<ContainerNumber>,
}

#[derive(Debug)]
struct Known {
    state: GuestProcessState,
    whence: Whence,
    /// What was sent to it: the agent's own word for a deadly signal is its bare number.
    signals: BTreeSet<u32>,
    killed: Option<Instant>,
}

/// Who made a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    Made,
    /// An earlier daemon: how far it came is not known for certain.
    Adopted,
}

/// What is known of a process when it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signals {
    pub sent: BTreeSet<u32>,
    /// Something in its container was killed for want of memory.
    pub short_of_memory: bool,
}

impl Ledger {
    /// Numbers what happens from now on, above what was numbered before.
    pub fn beginning(now: EpochMs) -> Self {
        let ledger = Self::default();
        ledger.book.borrow_mut().last = now.0.saturating_mul(NUMBERS_PER_MS);
        ledger
    }

    /// Exits up to this number are on record; numbers go on from there.
    pub fn continue_after(&self, recorded: u64) {
        let mut book = self.book.borrow_mut();
        book.last = book.last.max(recorded);
    }

    /// `false`: it is known already.
    pub fn created(&self, key: &ProcessKey, state: GuestProcessState, whence: Whence) -> bool {
        let mut book = self.book.borrow_mut();
        if !book.awaited.insert(key.clone()) {
            return false;
        }
        let known = Known {
            state,
            whence,
            signals: BTreeSet::new(),
            killed: None,
        };
        book.known.insert(key.clone(), known);
        true
    }

    pub fn started(&self, key: &ProcessKey) {
        if let Some(known) = self.book.borrow_mut().known.get_mut(key)
            && known.state == GuestProcessState::Created
        {
            known.state = GuestProcessState::Running;
        }
    }

    /// `None`: it is not known.
    pub fn whence(&self, key: &ProcessKey) -> Option<Whence> {
        self.book.borrow().known.get(key).map(|known| known.whence)
    }

    /// A signal was sent, and perhaps taken.
    pub fn signaled(&self, container: ContainerNumber, target: &SignalTarget, signal: u32) {
        let now = Instant::now();
        let hit = |key: &ProcessKey| match target {
            SignalTarget::All => key.0 == container,
            SignalTarget::Process(process) => key.0 == container && key.1 == *process,
        };
        let to_init = matches!(target, SignalTarget::Process(ProcessId::Init));
        for (key, known) in &mut self.book.borrow_mut().known {
            // An init that ends of it takes the others along.
            if to_init && key.0 == container && key.1 != ProcessId::Init {
                known.signals.insert(SIGKILL);
            }
            if hit(key) {
                known.signals.insert(signal);
                if signal == SIGKILL {
                    known.killed.get_or_insert(now);
                }
            }
        }
        self.changed.notify_waiters();
    }

    /// When it was first told to end at once.
    pub fn killed(&self, key: &ProcessKey) -> Option<Instant> {
        self.book.borrow().known.get(key)?.killed
    }

    pub fn signals(&self, key: &ProcessKey) -> Signals {
        let book = self.book.borrow();
        let known = book.known.get(key);
        Signals {
            sent: known.map_or_else(BTreeSet::new, |known| known.signals.clone()),
            short_of_memory: book.short_of_memory.contains(&key.0),
        }
    }

    /// Whether this daemon froze it, and did not thaw it since.
    pub fn is_frozen(&self, container: ContainerNumber) -> bool {
        self.book.borrow().frozen.contains(&container)
    }

    pub fn froze(&self, container: ContainerNumber) {
        self.book.borrow_mut().frozen.insert(container);
    }

    pub fn thawed(&self, container: ContainerNumber) {
        self.book.borrow_mut().frozen.remove(&container);
    }

    /// Whether its container was removed.
    pub fn is_gone(&self, key: &ProcessKey) -> bool {
        !self.book.borrow().known.contains_key(key)
    }

    /// Answers when anything was entered, from when it is called.
    pub fn change(&self) -> impl Future<Output = ()> + use<> {
        let changed = self.changed.clone();
        async move { changed.notified().await }
    }

    /// Enters a kill for want of memory. `false`: of a container that is not known.
    pub fn oom(&self, container: ContainerNumber, at: EpochMs) -> bool {
        let mut book = self.book.borrow_mut();
        if !book.known.keys().any(|(known, _)| *known == container) {
            return false;
        }
        book.short_of_memory.insert(container);
        book.last += 1;
        let seq = book.last;
        let oom = GuestOom { seq, container, at };
        book.news.push_back(GuestNews::OomKilled(oom));
        self.changed.notify_waiters();
        true
    }

    /// Answers when another kill for want of memory may be entered.
    pub async fn room_for_ooms(&self) {
        loop {
            let changed = self.changed.notified();
            let is_oom = |news: &&GuestNews| matches!(news, GuestNews::OomKilled(_));
            if self.book.borrow().news.iter().filter(is_oom).count() < OOMS_MAX {
                return;
            }
            changed.await;
        }
    }

    /// Enters an exit, once; what is not awaited is already entered.
    pub fn exited(&self, key: &ProcessKey, status: ExitStatus) {
        let mut book = self.book.borrow_mut();
        if !book.awaited.remove(key) {
            return;
        }
        if let Some(known) = book.known.get_mut(key) {
            known.state = GuestProcessState::Exited;
        }
        book.last += 1;
        let (container, process) = key.clone();
        let exit = GuestExit {
            seq: book.last,
            container,
            process,
            status,
        };
        book.news.push_back(GuestNews::Exited(exit));
        self.changed.notify_waiters();
    }

    /// What an earlier daemon asked for without hearing whether it came to be.
    pub fn unsettled(&self) -> Vec<ProcessKey> {
        let book = self.book.borrow();
        let known = book.known.iter();
        let unsettled = known.filter(|(_, known)| known.state == GuestProcessState::Making);
        unsettled.map(|(key, _)| key.clone()).collect()
    }

    pub fn settled(&self, key: &ProcessKey) {
        if let Some(known) = self.book.borrow_mut().known.get_mut(key)
            && known.state == GuestProcessState::Making
        {
            known.state = GuestProcessState::Running;
        }
    }

    /// It never came to be: no exit of it is told.
    pub fn forget(&self, key: &ProcessKey) {
        let mut book = self.book.borrow_mut();
        book.known.remove(key);
        book.awaited.remove(key);
        self.changed.notify_waiters();
    }

    pub fn removed(&self, container: ContainerNumber) {
        let mut book = self.book.borrow_mut();
        book.known.retain(|(of, _), _| *of != container);
        book.short_of_memory.remove(&container);
        book.frozen.remove(&container);
        self.changed.notify_waiters();
    }

    pub fn processes(&self) -> Vec<GuestProcess> {
        let entry = |(key, known): (&ProcessKey, &Known)| GuestProcess {
            container: key.0,
            process: key.1.clone(),
            state: known.state,
        };
        self.book.borrow().known.iter().map(entry).collect()
    }

    fn above(&self, after: u64) -> Vec<GuestNews> {
        let book = self.book.borrow();
        let above = book.news.iter().filter(|news| news.seq() > after);
        above.take(NEWS_MAX).cloned().collect()
    }

    /// Answers when there are news above `after`.
    pub async fn next_news(&self, after: u64) -> Vec<GuestNews> {
        loop {
            // Asked for before the look, so that an exit in between is not missed.
            let changed = self.changed.notified();
            let exits = self.above(after);
            if !exits.is_empty() {
                return exits;
            }
            changed.await;
        }
    }

    pub fn acknowledged(&self, up_to: u64) {
        let mut book = self.book.borrow_mut();
        book.news.retain(|news| news.seq() > up_to);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime_core::{agent::ExitReason, ids::EpochMs};

    fn key(n: u32) -> ProcessKey {
        (ContainerNumber(n), ProcessId::Init)
    }

    fn status(code: u32) -> ExitStatus {
        ExitStatus {
            code,
            reason: ExitReason::Exited,
            detail: String::new(),
            at: EpochMs(0),
        }
    }

    #[tokio::test]
    async fn an_exit_is_entered_once_and_kept_until_it_is_acknowledged() {
        let ledger = Ledger::default();
        ledger.continue_after(7);
        ledger.created(&key(1), GuestProcessState::Created, Whence::Made);

        ledger.exited(&key(1), status(3));
        ledger.exited(&key(1), status(4));

        let exits = ledger.next_news(7).await;
        assert_eq!(exits.len(), 1);
        let GuestNews::Exited(exit) = &exits[0] else {
            panic!("{exits:?}")
        };
        assert_eq!((exit.seq, exit.status.code), (8, 3));
        assert_eq!(ledger.next_news(7).await, exits);
        ledger.acknowledged(8);
        assert!(ledger.above(7).is_empty());
    }

    #[tokio::test]
    async fn one_who_waits_hears_of_an_exit_that_comes_later() {
        let ledger = Ledger::default();
        ledger.created(&key(1), GuestProcessState::Running, Whence::Made);

        let (exits, ()) = tokio::join!(ledger.next_news(0), async {
            tokio::task::yield_now().await;
            ledger.exited(&key(1), status(0));
        });

        assert_eq!(exits[0].seq(), 1);
    }

    #[test]
    fn a_removed_container_is_not_listed_and_its_exit_still_comes() {
        let ledger = Ledger::default();
        ledger.created(&key(1), GuestProcessState::Running, Whence::Made);

        ledger.removed(ContainerNumber(1));

        assert!(ledger.processes().is_empty());
        assert!(ledger.is_gone(&key(1)));
        ledger.exited(&key(1), status(137));
        assert_eq!(ledger.above(0).len(), 1);
    }

    #[test]
    fn a_kill_for_want_of_memory_is_numbered_among_the_exits() {
        let ledger = Ledger::beginning(EpochMs(5));
        ledger.created(&key(1), GuestProcessState::Running, Whence::Made);

        assert!(ledger.oom(ContainerNumber(1), EpochMs(6)));
        assert!(!ledger.oom(ContainerNumber(2), EpochMs(6)));
        assert!(ledger.signals(&key(1)).short_of_memory);
        ledger.exited(&key(1), status(137));

        let seqs: Vec<u64> = ledger.above(0).iter().map(GuestNews::seq).collect();
        assert_eq!(seqs, [5 * NUMBERS_PER_MS + 1, 5 * NUMBERS_PER_MS + 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_guest_that_invents_kills_is_not_heard_until_they_are_acknowledged() {
        let ledger = Ledger::default();
        ledger.created(&key(1), GuestProcessState::Running, Whence::Made);
        for _ in 0..OOMS_MAX {
            ledger.oom(ContainerNumber(1), EpochMs(0));
        }

        let full = tokio::time::timeout(std::time::Duration::from_secs(60), ledger.room_for_ooms());
        assert!(full.await.is_err());
        ledger.acknowledged(1);

        ledger.room_for_ooms().await;
    }

    #[test]
    fn who_was_killed_and_with_what_is_remembered_until_the_container_goes() {
        let ledger = Ledger::default();
        let exec = (
            ContainerNumber(1),
            ProcessId::Exec(runtime_core::ids::ExecId::new("e").unwrap()),
        );
        ledger.created(&key(1), GuestProcessState::Running, Whence::Made);
        ledger.created(&exec, GuestProcessState::Running, Whence::Adopted);

        let init = SignalTarget::Process(ProcessId::Init);
        ledger.signaled(ContainerNumber(1), &init, 15);
        assert_eq!(ledger.signals(&exec).sent, BTreeSet::from([9]));
        assert_eq!(ledger.killed(&exec), None);
        ledger.signaled(ContainerNumber(1), &SignalTarget::All, SIGKILL);

        assert_eq!(ledger.signals(&key(1)).sent, BTreeSet::from([9, 15]));
        assert_eq!(ledger.signals(&exec).sent, BTreeSet::from([9]));
        assert!(ledger.killed(&exec).is_some());
        ledger.removed(ContainerNumber(1));
        assert_eq!(ledger.signals(&key(1)), Signals::default());
    }
}

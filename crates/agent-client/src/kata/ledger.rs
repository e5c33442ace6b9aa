//! What this daemon knows of the processes in a stock guest, and their exits until they are
//! acknowledged.

use crate::convert::NEWS_MAX;
use runtime_core::{
    agent::{ExitStatus, GuestExit, GuestNews, GuestProcess, GuestProcessState},
    ids::{ContainerNumber, ProcessId},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
};
use tokio::sync::Notify;

/// One process of the guest.
pub type ProcessKey = (ContainerNumber, ProcessId);

/// Shared by the calls of all links to one guest.
#[derive(Clone, Default)]
pub struct Ledger {
    book: Rc<RefCell<Book>>,
    changed: Rc<Notify>,
}

#[derive(Default)]
struct Book {
    /// Number of the last exit that was entered.
    last: u64,
    exits: VecDeque<GuestExit>,
    known: BTreeMap<ProcessKey, GuestProcessState>,
    /// Created, and its exit not entered yet.
    awaited: BTreeSet<ProcessKey>,
}

impl Ledger {
    /// Exits up to this number are on record; numbers go on from there.
    pub fn continue_after(&self, recorded: u64) {
        let mut book = self.book.borrow_mut();
        book.last = book.last.max(recorded);
    }

    /// `false`: it is known already.
    pub fn created(&self, key: &ProcessKey, state: GuestProcessState) -> bool {
        let mut book = self.book.borrow_mut();
        book.known.insert(key.clone(), state);
        book.awaited.insert(key.clone())
    }

    pub fn started(&self, key: &ProcessKey) {
        if let Some(state) = self.book.borrow_mut().known.get_mut(key)
            && *state == GuestProcessState::Created
        {
            *state = GuestProcessState::Running;
        }
    }

    /// Enters an exit, once; what is not awaited is already entered.
    pub fn exited(&self, key: &ProcessKey, status: ExitStatus) {
        let mut book = self.book.borrow_mut();
        if !book.awaited.remove(key) {
            return;
        }
        if let Some(state) = book.known.get_mut(key) {
            *state = GuestProcessState::Exited;
        }
        book.last += 1;
        let (container, process) = key.clone();
        let exit = GuestExit {
            seq: book.last,
            container,
            process,
            status,
        };
        book.exits.push_back(exit);
        self.changed.notify_waiters();
    }

    pub fn removed(&self, container: ContainerNumber) {
        let mut book = self.book.borrow_mut();
        book.known.retain(|(of, _), _| *of != container);
    }

    /// Whose exits a new link has to wait for.
    pub fn awaited(&self) -> Vec<ProcessKey> {
        self.book.borrow().awaited.iter().cloned().collect()
    }

    pub fn processes(&self) -> Vec<GuestProcess> {
        let entry = |(key, state): (&ProcessKey, &GuestProcessState)| GuestProcess {
            container: key.0,
            process: key.1.clone(),
            state: *state,
        };
        self.book.borrow().known.iter().map(entry).collect()
    }

    fn above(&self, after: u64) -> Vec<GuestNews> {
        let book = self.book.borrow();
        let above = book.exits.iter().filter(|exit| exit.seq > after);
        above
            .take(NEWS_MAX)
            .cloned()
            .map(GuestNews::Exited)
            .collect()
    }

    /// Answers when there is an exit above `after`.
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
        self.book.borrow_mut().exits.retain(|exit| exit.seq > up_to);
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
        ledger.created(&key(1), GuestProcessState::Created);

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
        ledger.created(&key(1), GuestProcessState::Running);

        let (exits, ()) = tokio::join!(ledger.next_news(0), async {
            tokio::task::yield_now().await;
            ledger.exited(&key(1), status(0));
        });

        assert_eq!(exits[0].seq(), 1);
    }

    #[test]
    fn a_removed_container_is_not_listed_and_its_exit_still_comes() {
        let ledger = Ledger::default();
        ledger.created(&key(1), GuestProcessState::Running);

        ledger.removed(ContainerNumber(1));

        assert!(ledger.processes().is_empty());
        assert_eq!(ledger.awaited(), [key(1)]);
        ledger.exited(&key(1), status(137));
        assert_eq!(ledger.above(0).len(), 1);
    }
}

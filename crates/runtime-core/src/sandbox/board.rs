//! Where a sandbox shows its journal to those who watch it.

use super::{journal::Journal, messages::Seen};
use std::{cell::RefCell, rc::Rc, time::Duration};
use tokio::{sync::Notify, time::timeout};

/// Whoever waits is woken in the order in which they came, which a watch channel does not do.
#[derive(Debug, Default)]
pub struct Board {
    shown: RefCell<Shown>,
    changed: Rc<Notify>,
}

#[derive(Debug, Default)]
struct Shown {
    journal: Journal,
    over: bool,
}

impl Drop for Board {
    fn drop(&mut self) {
        self.changed.notify_waiters();
    }
}

impl Board {
    pub fn show(&self, journal: &Journal) {
        self.shown.borrow_mut().journal = journal.clone();
        self.changed.notify_waiters();
    }

    /// No more will come.
    pub fn close(&self) {
        self.shown.borrow_mut().over = true;
        self.changed.notify_waiters();
    }

    fn look(&self, after: u64) -> Seen {
        let shown = self.shown.borrow();
        Seen {
            events: shown.journal.after(after),
            over: shown.over,
        }
    }

    /// What happened after that number; nothing when it was awaited in vain.
    pub fn next(
        self: &Rc<Self>,
        after: u64,
        wait: Duration,
    ) -> impl Future<Output = Seen> + 'static {
        let (board, changed) = (Rc::downgrade(self), self.changed.clone());
        let next = async move {
            loop {
                let change = changed.notified();
                // It goes with the sandbox's room, which may be rebuilt: whoever watches asks again.
                let board = board.upgrade()?;
                let seen = board.look(after);
                if seen.over || !seen.events.is_empty() {
                    return Some(seen);
                }
                drop(board);
                change.await;
            }
        };
        let nothing = Seen {
            events: Vec::new(),
            over: false,
        };
        async move { timeout(wait, next).await.ok().flatten().unwrap_or(nothing) }
    }
}

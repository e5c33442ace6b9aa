//! News that the kernel killed a process for want of memory, for hosts that wait for it.

use crate::{id::Id, ports::watch};
use std::{
    collections::VecDeque,
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};
use tokio::{io::Interest, sync::Notify};

/// News that no host asked for; older ones are dropped, since each only says "look".
const KEPT_MAX: usize = 64;

/// Containers in which it happened, oldest first.
#[derive(Debug, Default)]
pub struct News {
    kept: Mutex<VecDeque<Id>>,
    more: Notify,
}

impl News {
    pub fn push(&self, container: Id) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(container);
        self.more.notify_one();
    }

    /// Waits for the next.
    pub async fn next(&self) -> Id {
        loop {
            let first = {
                let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.pop_front()
            };
            match first {
                Some(container) => return container,
                None => self.more.notified().await,
            }
        }
    }
}

/// Calls `changed` each time the file says that it changed; ends when the file is of no more use.
pub async fn on_change(file: OwnedFd, mut changed: impl FnMut()) {
    let Ok(watched) = watch(file, Interest::PRIORITY) else {
        return;
    };
    while let Ok(mut guard) = watched.ready(Interest::PRIORITY).await {
        let error = guard.ready().is_error() || guard.ready().is_read_closed();
        guard.clear_ready();
        changed();
        // The group is gone, and would say so for ever.
        if error && !guard.ready().is_priority() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: String) -> Id {
        Id::parse("container", name).unwrap()
    }

    #[tokio::test]
    async fn news_wait_for_who_asks_and_the_oldest_give_way() {
        let news = News::default();
        for n in 0..=KEPT_MAX {
            news.push(id(format!("c{n}")));
        }

        for n in 1..=KEPT_MAX {
            assert_eq!(news.next().await, id(format!("c{n}")));
        }
    }
}

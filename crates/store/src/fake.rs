//! A disk in memory for tests and simulation: no thread, no clock but tokio's, no chance.
//!
//! It serves requests in line like the real one, groups what waits into one flush that takes a
//! given time, and forgets, when it crashes, what it has not acknowledged, or keeps a first part
//! of it: both happen to a real store. Runs inside a `LocalSet`.

use crate::{
    Disk, Durability, Error, Figures,
    disk::{check, size_bytes},
};
use runtime_core::{
    kit::{Work, detach},
    records::{Change, Rows},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::oneshot, time::sleep};

/// About what a flush takes on a real disk.
const FLUSH: Duration = Duration::from_micros(500);

/// A handle on a shelf; clones are the same handle. It is dead after a crash.
#[derive(Debug, Clone, Default)]
pub struct FakeDisk {
    shelf: Rc<RefCell<Shelf>>,
    /// Crashes that were before this handle was opened.
    life: u64,
}

/// What survives the handle.
#[derive(Debug)]
struct Shelf {
    durable: BTreeMap<String, Vec<u8>>,
    /// Asked for and not durable, oldest first; those being flushed stay until they are.
    line: VecDeque<Request>,
    crashes: u64,
    health: Health,
    server: Server,
    flush: Duration,
    figures: Figures,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Sound,
    Broken,
}

/// Whether a task serves the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Idle,
    Serving,
}

#[derive(Debug)]
enum Request {
    Write {
        changes: Arc<[Change]>,
        durability: Durability,
        answer: oneshot::Sender<Result<(), Error>>,
    },
    Scan {
        prefix: String,
        answer: oneshot::Sender<Result<Rows, Error>>,
    },
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            durable: BTreeMap::new(),
            line: VecDeque::new(),
            crashes: 0,
            health: Health::Sound,
            server: Server::Idle,
            flush: FLUSH,
            figures: Figures::default(),
        }
    }
}

impl FakeDisk {
    /// From now on a flush takes this long.
    pub fn set_flush_time(&self, flush: Duration) {
        self.shelf.borrow_mut().flush = flush;
    }

    /// From now on nothing is written any more, and every request fails.
    pub fn break_down(&self) {
        self.shelf.borrow_mut().health = Health::Broken;
    }

    /// How many writes are asked for and not acknowledged.
    pub fn writes_unacknowledged(&self) -> usize {
        let is_write = |request: &&Request| matches!(request, Request::Write { .. });
        self.shelf.borrow().line.iter().filter(is_write).count()
    }

    /// What a reader would find after a crash now; for checkers.
    pub fn durable(&self) -> BTreeMap<String, Vec<u8>> {
        self.shelf.borrow().durable.clone()
    }

    /// The keys of it that begin with `prefix`.
    pub fn keys_durable(&self, prefix: &str) -> Vec<String> {
        let shelf = self.shelf.borrow();
        shelf.rows(prefix).map(|(key, _)| key.clone()).collect()
    }

    /// The process dies. Of the writes that were not acknowledged the first `kept` survive, as
    /// they may on a real disk; 0 is a lost flush. Every handle is dead; [`Self::reopen`] makes
    /// a new one.
    pub fn crash(&self, kept: usize) {
        let mut shelf = self.shelf.borrow_mut();
        let line = std::mem::take(&mut shelf.line);
        let writes = line.into_iter().filter_map(|request| match request {
            Request::Write { changes, .. } => Some(changes),
            Request::Scan { .. } => None,
        });
        for changes in writes.take(kept) {
            shelf.apply(&changes);
        }
        shelf.crashes += 1;
        shelf.server = Server::Idle;
        shelf.figures = Figures::default();
    }

    /// What the next process opens: sound, with all that was durable.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let mut shelf = self.shelf.borrow_mut();
        shelf.health = Health::Sound;
        let life = shelf.crashes;
        drop(shelf);
        Self {
            shelf: self.shelf.clone(),
            life,
        }
    }

    fn ask(&self, request: Request) {
        let mut shelf = self.shelf.borrow_mut();
        if shelf.crashes != self.life {
            return request.refuse(Error::Closed);
        }
        if shelf.health == Health::Broken {
            return request.refuse(Error::FakeBroken);
        }
        shelf.line.push_back(request);
        if shelf.server == Server::Idle {
            shelf.server = Server::Serving;
            detach(serve(self.shelf.clone(), self.life));
        }
    }
}

impl Disk for FakeDisk {
    fn write(&self, changes: Arc<[Change]>, durability: Durability) -> Work<Result<(), Error>> {
        if let Err(error) = check(&changes) {
            return Box::pin(async { Err(error) });
        }
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Write {
            changes,
            durability,
            answer,
        });
        Box::pin(async move { answered.await.unwrap_or(Err(Error::Closed)) })
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, Error>> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::Scan { prefix, answer });
        Box::pin(async move { answered.await.unwrap_or(Err(Error::Closed)) })
    }

    fn figures(&self) -> Figures {
        self.shelf.borrow().figures
    }
}

/// Serves the line until it is empty or the process crashed.
async fn serve(shelf: Rc<RefCell<Shelf>>, life: u64) {
    loop {
        let (writes, flush) = {
            let mut shelf = shelf.borrow_mut();
            if shelf.crashes != life {
                return;
            }
            shelf.answer_scans();
            if shelf.line.is_empty() {
                shelf.server = Server::Idle;
                return;
            }
            (shelf.writes_before_scan(), shelf.flush)
        };
        sleep(flush).await;
        let mut shelf = shelf.borrow_mut();
        if shelf.crashes != life {
            return;
        }
        shelf.acknowledge(writes);
    }
}

impl Shelf {
    fn writes_before_scan(&self) -> usize {
        let is_write = |request: &&Request| matches!(request, Request::Write { .. });
        self.line.iter().take_while(is_write).count()
    }

    fn answer_scans(&mut self) {
        while let Some(Request::Scan { .. }) = self.line.front() {
            let Some(Request::Scan { prefix, answer }) = self.line.pop_front() else {
                unreachable!("the front is a scan");
            };
            self.figures.scans += 1;
            // Whoever gave up waiting is not missed.
            let rows = self.rows(&prefix);
            let rows = rows.map(|(key, value)| (key.clone(), value.clone()));
            let _ = answer.send(Ok(rows.collect()));
        }
    }

    /// One flush is over: the first `writes` in line are durable, unless the disk broke meanwhile.
    fn acknowledge(&mut self, writes: usize) {
        if self.health == Health::Broken {
            for request in self.line.drain(..) {
                request.refuse(Error::FakeBroken);
            }
            return;
        }
        let mut synced = Durability::Kill;
        for request in self.line.drain(..writes).collect::<Vec<_>>() {
            let Request::Write {
                changes,
                durability,
                answer,
            } = request
            else {
                unreachable!("a flush ends before a scan");
            };
            self.apply(&changes);
            synced = synced.max(durability);
            self.figures.writes += 1;
            self.figures.changes += changes.len() as u64;
            self.figures.bytes += size_bytes(&changes) as u64;
            let _ = answer.send(Ok(()));
        }
        self.figures.flushes += 1;
        self.figures.syncs += u64::from(synced == Durability::PowerLoss);
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put { key, value } => {
                    self.durable.insert(key.clone(), value.clone());
                }
                Change::Delete { key } => {
                    self.durable.remove(key);
                }
            }
        }
    }

    fn rows(&self, prefix: &str) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        let from = self.durable.range(prefix.to_owned()..);
        from.take_while(move |(key, _)| key.starts_with(prefix))
    }
}

impl Request {
    fn refuse(self, error: Error) {
        match self {
            Self::Write { answer, .. } => drop(answer.send(Err(error))),
            Self::Scan { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    fn put(key: &str) -> Arc<[Change]> {
        Arc::from([Change::Put {
            key: key.into(),
            value: Vec::new(),
        }])
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_crash_keeps_what_was_acknowledged_and_the_first_of_what_was_not() {
        LocalSet::new()
            .run_until(async {
                let disk = FakeDisk::default();
                disk.write(put("a"), Durability::Kill).await.unwrap();
                let lost = [
                    disk.write(put("b"), Durability::Kill),
                    disk.write(put("c"), Durability::Kill),
                ];
                assert_eq!(disk.writes_unacknowledged(), 2);

                disk.crash(1);

                for write in lost {
                    assert!(matches!(write.await, Err(Error::Closed)));
                }
                assert!(matches!(
                    disk.write(put("d"), Durability::Kill).await,
                    Err(Error::Closed)
                ));
                let rows = disk.reopen().scan(String::new()).await.unwrap();
                let keys: Vec<_> = rows.iter().map(|(key, _)| key.as_str()).collect();
                assert_eq!(keys, ["a", "b"]);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_crash_in_the_middle_of_a_flush_loses_the_flush() {
        LocalSet::new()
            .run_until(async {
                let disk = FakeDisk::default();
                disk.set_flush_time(Duration::from_secs(10));
                let write = disk.write(put("a"), Durability::Kill);
                sleep(Duration::from_secs(9)).await;

                disk.crash(0);

                let next = disk.reopen();
                next.write(put("b"), Durability::Kill).await.unwrap();
                assert!(matches!(write.await, Err(Error::Closed)));
                assert_eq!(next.durable().keys().collect::<Vec<_>>(), ["b"]);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_disk_that_breaks_during_a_flush_acknowledges_nothing_of_it() {
        LocalSet::new()
            .run_until(async {
                let disk = FakeDisk::default();
                let write = disk.write(put("a"), Durability::Kill);

                disk.break_down();

                assert!(matches!(write.await, Err(Error::FakeBroken)));
                assert!(disk.durable().is_empty());
                assert!(disk.scan(String::new()).await.is_err());
            })
            .await;
    }
}

//! The Store actor, and the [`Records`] port that rooms write through.
//!
//! The actor holds no state but the handle, so it is rebuilt from the handle the moment someone
//! needs it. It never reports a failed write: a daemon that cannot write its store ends, and its
//! successor adopts what lives.

use crate::{Disk, Durability, Error, Figures};
use actix::prelude::*;
use runtime_core::{
    error::{Fault, fault},
    kit::Work,
    records::{Change, Records, Rows},
};
use std::{cell::RefCell, collections::VecDeque, fmt, future::pending, rc::Rc, sync::Arc};
use tokio::time::{Duration, Instant};

/// An actor without state that panics more often than this is broken by its disk; a new process
/// is the better cure.
const REBUILDS_MAX: usize = 3;
const REBUILDS_WINDOW: Duration = Duration::from_secs(60);

/// Ends the process, in production. What it is told is why.
pub type End = Rc<dyn Fn(&Error)>;

/// Command: keep these changes. Answered when they are durable, and never if they cannot be.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub struct Write {
    pub changes: Arc<[Change]>,
}

/// Query: every record whose key begins with `prefix`, after all writes asked for before.
#[derive(Message, Debug)]
#[rtype(result = "Result<Rows, Fault>")]
pub struct Scan {
    pub prefix: String,
}

/// Query: exact figures since the store was opened.
#[derive(Message, Debug)]
#[rtype(result = "Figures")]
pub struct GetFigures;

pub struct Store {
    house: Rc<House>,
}

/// What outlives the actor.
struct House {
    disk: Rc<dyn Disk>,
    synced_prefixes: &'static [&'static str],
    end: End,
}

/// The port that rooms write through; it keeps an actor at the handle.
#[derive(Clone)]
pub struct StoreRecords {
    house: Rc<House>,
    current: Rc<RefCell<Current>>,
}

#[derive(Default)]
struct Current {
    actor: Option<Addr<Store>>,
    /// When the last rebuilds were, oldest first.
    rebuilds: VecDeque<Instant>,
}

impl Store {
    fn durability(&self, changes: &[Change]) -> Durability {
        let precious = |change: &Change| {
            let (Change::Put { key, .. } | Change::Delete { key }) = change;
            let prefixes = self.house.synced_prefixes;
            prefixes.iter().any(|prefix| key.starts_with(prefix))
        };
        match changes.iter().any(precious) {
            true => Durability::PowerLoss,
            false => Durability::Kill,
        }
    }
}

impl Actor for Store {
    type Context = Context<Self>;
}

impl Handler<Write> for Store {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Write { changes }: Write, _: &mut Self::Context) -> Self::Result {
        let durability = self.durability(&changes);
        let write = self.house.disk.write(changes, durability);
        let end = self.house.end.clone();
        Box::pin(async move {
            if let Err(error) = write.await {
                end(&error);
                pending().await
            }
        })
    }
}

impl Handler<Scan> for Store {
    type Result = ResponseFuture<Result<Rows, Fault>>;

    fn handle(&mut self, Scan { prefix }: Scan, _: &mut Self::Context) -> Self::Result {
        let scan = self.house.disk.scan(prefix);
        Box::pin(async move { scan.await.map_err(|error| fault(&error)) })
    }
}

impl Handler<GetFigures> for Store {
    type Result = MessageResult<GetFigures>;

    fn handle(&mut self, _: GetFigures, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.house.disk.figures())
    }
}

impl StoreRecords {
    /// Changes of keys that begin with one of `synced_prefixes` survive a loss of power, too.
    pub fn new(disk: Rc<dyn Disk>, synced_prefixes: &'static [&'static str], end: End) -> Self {
        Self {
            house: Rc::new(House {
                disk,
                synced_prefixes,
                end,
            }),
            current: Rc::default(),
        }
    }

    pub fn figures(&self) -> Figures {
        self.house.disk.figures()
    }

    /// The living actor, rebuilt from the handle if the last one panicked.
    pub fn actor(&self) -> Addr<Store> {
        let mut current = self.current.borrow_mut();
        if let Some(actor) = current.actor.as_ref().filter(|actor| actor.connected()) {
            return actor.clone();
        }
        if current.actor.is_some() {
            self.count_rebuild(&mut current);
        }
        let house = self.house.clone();
        let actor = Store { house }.start();
        current.actor = Some(actor.clone());
        actor
    }

    fn count_rebuild(&self, current: &mut Current) {
        let now = Instant::now();
        current.rebuilds.push_back(now);
        while current
            .rebuilds
            .front()
            .is_some_and(|first| now - *first > REBUILDS_WINDOW)
        {
            current.rebuilds.pop_front();
        }
        tracing::error!(rebuilds = current.rebuilds.len(), "store actor is rebuilt");
        if current.rebuilds.len() > REBUILDS_MAX {
            (self.house.end)(&Error::ActorGone {
                rebuilds: current.rebuilds.len(),
            });
        }
    }
}

impl Records for StoreRecords {
    fn write(&self, changes: Vec<Change>) -> Work<()> {
        let changes: Arc<[Change]> = changes.into();
        let records = self.clone();
        let ask = move || {
            let changes = changes.clone();
            records.actor().send(Write { changes })
        };
        // Asked now, so that writes are in line in the order of the calls.
        let mut request = ask();
        Box::pin(async move {
            // An actor that died before it took the message loses it: the next one is asked.
            while request.await.is_err() {
                request = ask();
            }
        })
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
        let records = self.clone();
        let ask = move || {
            let prefix = prefix.clone();
            records.actor().send(Scan { prefix })
        };
        let mut request = ask();
        Box::pin(async move {
            loop {
                match request.await {
                    Ok(rows) => return rows,
                    Err(_) => request = ask(),
                }
            }
        })
    }
}

impl fmt::Debug for StoreRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreRecords")
            .field("figures", &self.figures())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeDisk;
    use std::cell::Cell;
    use tokio::task::{LocalSet, spawn_local};

    /// A poisoned message: what a bug in the actor would do.
    #[derive(Message)]
    #[rtype(result = "()")]
    struct Panic;

    impl Handler<Panic> for Store {
        type Result = ();
        fn handle(&mut self, _: Panic, _: &mut Self::Context) {
            panic!("bug");
        }
    }

    fn put(key: &str) -> Vec<Change> {
        vec![Change::Put {
            key: key.into(),
            value: b"value".to_vec(),
        }]
    }

    fn records(disk: &FakeDisk) -> (StoreRecords, Rc<Cell<u32>>) {
        let ends = Rc::new(Cell::new(0));
        let counted = ends.clone();
        let end: End = Rc::new(move |_| counted.set(counted.get() + 1));
        let records = StoreRecords::new(Rc::new(disk.clone()), &["outbox/"], end);
        (records, ends)
    }

    /// Panics the living actor; actix lets the panic run through the task that polls it.
    async fn panic(records: &StoreRecords) {
        let actor = records.actor();
        actor.do_send(Panic);
        while actor.connected() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn what_was_written_is_found_by_its_prefix() {
        LocalSet::new()
            .run_until(async {
                let (records, _) = records(&FakeDisk::default());

                records.write(put("sandbox/1")).await;
                records.write(put("container/1")).await;

                let rows = records.scan("sandbox/".into()).await.unwrap();
                assert_eq!(rows, [("sandbox/1".into(), b"value".to_vec())]);
                assert_eq!(records.figures().writes, 2);
                assert_eq!(records.actor().send(GetFigures).await.unwrap().writes, 2);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn writes_of_marked_keys_and_no_others_are_synced() {
        LocalSet::new()
            .run_until(async {
                let (records, _) = records(&FakeDisk::default());

                records.write(put("sandbox/1")).await;
                assert_eq!(records.figures().syncs, 0);

                records.write(put("outbox/1")).await;
                assert_eq!(records.figures().syncs, 1);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_store_that_cannot_write_ends_the_process_and_answers_nobody() {
        LocalSet::new()
            .run_until(async {
                let disk = FakeDisk::default();
                let (records, ends) = records(&disk);
                disk.break_down();

                let write = spawn_local(records.write(put("sandbox/1")));
                tokio::time::sleep(Duration::from_secs(3600)).await;

                assert_eq!(ends.get(), 1);
                assert!(!write.is_finished());
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_write_survives_the_panic_of_the_actor_that_was_asked() {
        LocalSet::new()
            .run_until(async {
                let (records, ends) = records(&FakeDisk::default());

                records.actor().do_send(Panic);
                records.write(put("sandbox/1")).await;

                assert_eq!(records.scan(String::new()).await.unwrap().len(), 1);
                assert_eq!(ends.get(), 0);
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn an_actor_that_panics_again_and_again_ends_the_process() {
        LocalSet::new()
            .run_until(async {
                let (records, ends) = records(&FakeDisk::default());

                for _ in 0..REBUILDS_MAX {
                    panic(&records).await;
                }
                records.actor();
                assert_eq!(ends.get(), 0);

                panic(&records).await;
                records.actor();
                assert_eq!(ends.get(), 1);
            })
            .await;
    }
}

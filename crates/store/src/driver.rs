//! The driver: one thread that owns sled and serves requests in line.
//!
//! It takes what waits, applies it as one atomic batch, flushes once, and answers each writer.
//! A scan ends a group, so that it sees exactly what was requested before it. After the first
//! failure nothing more is written: what the disk holds then is not known.

use crate::{
    Disk, Durability, Error, Figures, Step,
    disk::{RESERVED, check, size_bytes},
    head::{GROUP_KEY, HeadFile},
    holder::Lock,
    open::panic_message,
};
use runtime_core::{
    kit::Work,
    records::{Change, Rows},
};
use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Every actor has at most one write in line, so this is ten thousand actors before one waits
/// outside of it.
const LINE_MAX: usize = 10_000;
/// A group this long is no longer held up by its flush, and its first writer is waiting.
const GROUP_WRITES_MAX: usize = 1024;
/// sled keeps a batch in memory; this bounds it to little more than the largest single write.
const GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The real [`Disk`]. Dropping it answers what is in line, syncs, and gives the lock back.
#[derive(Debug)]
pub struct SledStore {
    line: Option<mpsc::UnboundedSender<Request>>,
    places: Arc<Semaphore>,
    figures: Arc<Mutex<Figures>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Request {
    kind: RequestKind,
    /// Given back when the request is served.
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum RequestKind {
    Write(Write),
    Scan(Scan),
}

#[derive(Debug)]
struct Write {
    changes: Arc<[Change]>,
    durability: Durability,
    answer: oneshot::Sender<Result<(), Error>>,
}

#[derive(Debug)]
struct Scan {
    prefix: String,
    answer: oneshot::Sender<Result<Rows, Error>>,
}

/// What one flush makes durable, and the scan that waits for it.
#[derive(Default)]
struct Group {
    writes: Vec<Write>,
    bytes: usize,
    scan: Option<Scan>,
}

/// sled and what belongs to it; lives on one thread at a time.
pub(crate) struct Engine {
    path: PathBuf,
    db: sled::Db,
    file: File,
    blobs_synced: BTreeSet<OsString>,
    groups: u64,
    head: HeadFile,
    figures: Arc<Mutex<Figures>>,
    /// Given back after sled is closed: fields are dropped in order.
    _lock: Lock,
}

impl SledStore {
    pub(crate) fn start(engine: Engine) -> Result<Self, Error> {
        let (line, requests) = mpsc::unbounded_channel();
        let figures = engine.figures.clone();
        let path = engine.path.clone();
        let thread = thread::Builder::new()
            .name("store".into())
            .spawn(move || serve(engine, requests))
            .map_err(|source| Error::Open {
                path,
                step: Step::StartThread,
                source: Arc::new(source),
            })?;
        Ok(Self {
            line: Some(line),
            places: Arc::new(Semaphore::new(LINE_MAX)),
            figures,
            thread: Some(thread),
        })
    }

    /// Reads the figures from any thread, for as long as anybody asks.
    pub fn gauge(&self) -> impl Fn() -> Figures + Send + Sync + 'static {
        let figures = self.figures.clone();
        move || *figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request in line now if there is a place, else when one is free. Who waits for a
    /// place does not keep the store from closing.
    fn ask<T: 'static>(
        &self,
        kind: RequestKind,
        answer: oneshot::Receiver<Result<T, Error>>,
    ) -> Work<Result<T, Error>> {
        let line = self.line.as_ref();
        let line = line.expect("the line is closed by drop only");
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            // A thread that is gone drops the request, and with it the answer's sender.
            let _ = line.send(Request::new(kind, place));
            return Box::pin(async { answer.await.unwrap_or(Err(Error::Closed)) });
        }
        let (line, places) = (line.downgrade(), self.places.clone());
        Box::pin(async move {
            let place = places.acquire_owned().await.map_err(|_| Error::Closed)?;
            let line = line.upgrade().ok_or(Error::Closed)?;
            let _ = line.send(Request::new(kind, place));
            drop(line);
            answer.await.unwrap_or(Err(Error::Closed))
        })
    }
}

impl Request {
    fn new(kind: RequestKind, place: OwnedSemaphorePermit) -> Self {
        Self {
            kind,
            _place: place,
        }
    }
}

impl Disk for SledStore {
    fn write(&self, changes: Arc<[Change]>, durability: Durability) -> Work<Result<(), Error>> {
        if let Err(error) = check(&changes) {
            return Box::pin(async { Err(error) });
        }
        let (answer, answered) = oneshot::channel();
        let write = Write {
            changes,
            durability,
            answer,
        };
        self.ask(RequestKind::Write(write), answered)
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, Error>> {
        let (answer, answered) = oneshot::channel();
        self.ask(RequestKind::Scan(Scan { prefix, answer }), answered)
    }

    fn figures(&self) -> Figures {
        self.gauge()()
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.places.close();
        drop(self.line.take());
        if let Some(thread) = self.thread.take() {
            // The thread catches its own panics; there is nothing more to learn from it.
            let _ = thread.join();
        }
    }
}

fn serve(mut engine: Engine, mut requests: mpsc::UnboundedReceiver<Request>) {
    let mut broken = None;
    while let Some(first) = requests.blocking_recv() {
        let group = gather(first, &mut requests);
        if let Some(error) = &broken {
            group.refuse(error);
            continue;
        }
        if let Err(error) = engine.serve(group) {
            tracing::error!(%error, "store cannot write");
            broken = Some(error);
        }
    }
    // sled syncs when it is dropped, and may panic over a disk that failed before.
    if catch_unwind(AssertUnwindSafe(|| drop(engine))).is_err() {
        tracing::error!("store engine panicked while it closed");
    }
}

/// Everything that waits, up to a scan or a bound.
fn gather(first: Request, requests: &mut mpsc::UnboundedReceiver<Request>) -> Group {
    let mut group = Group::default();
    let mut next = Some(first);
    while let Some(request) = next.take() {
        match request.kind {
            RequestKind::Scan(scan) => group.scan = Some(scan),
            RequestKind::Write(write) => {
                group.bytes += size_bytes(&write.changes);
                group.writes.push(write);
            }
        }
        if group.has_room() {
            next = requests.try_recv().ok();
        }
    }
    group
}

impl Group {
    fn has_room(&self) -> bool {
        self.scan.is_none() && self.writes.len() < GROUP_WRITES_MAX && self.bytes < GROUP_BYTES_MAX
    }

    fn durability(&self) -> Durability {
        self.writes
            .iter()
            .map(|write| write.durability)
            .max()
            .unwrap_or_default()
    }

    /// Whoever gave up waiting is not missed.
    fn refuse(self, error: &Error) {
        for write in self.writes {
            let _ = write.answer.send(Err(error.clone()));
        }
        if let Some(scan) = self.scan {
            let _ = scan.answer.send(Err(error.clone()));
        }
    }
}

impl Engine {
    pub(crate) fn new(
        path: &Path,
        db: sled::Db,
        groups: u64,
        head: HeadFile,
        lock: Lock,
    ) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: File::open(path.join("db"))?,
            db,
            blobs_synced: BTreeSet::new(),
            groups,
            head,
            figures: Arc::default(),
            _lock: lock,
        })
    }

    /// Makes the group durable and answers it. The error has been told to its writers.
    fn serve(&mut self, mut group: Group) -> Result<(), Error> {
        let began = Instant::now();
        if let Err(error) = self.make_durable(&group) {
            group.refuse(&error);
            return Err(error);
        }
        self.count(&group, began.elapsed());
        for write in group.writes {
            let _ = write.answer.send(Ok(()));
        }
        if let Some(scan) = group.scan.take() {
            let found = self.caught(|engine| engine.scan(&scan.prefix));
            let verdict = found.as_ref().map(|_| ()).map_err(Clone::clone);
            let _ = scan.answer.send(found);
            return verdict;
        }
        Ok(())
    }

    fn make_durable(&mut self, group: &Group) -> Result<(), Error> {
        if group.writes.is_empty() {
            return Ok(());
        }
        let changes = group.writes.iter().flat_map(|write| write.changes.iter());
        self.caught(|engine| engine.commit(changes, group.durability()))
    }

    /// Upgrades are rare and precious: they survive a loss of power.
    pub(crate) fn commit_synced(&mut self, changes: &[Change]) -> Result<(), Error> {
        self.caught(|engine| engine.commit(changes.iter(), Durability::PowerLoss))
    }

    fn commit<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
        durability: Durability,
    ) -> Result<(), Error> {
        let mut batch = sled::Batch::default();
        for change in changes {
            match change {
                Change::Put { key, value } => batch.insert(key.as_bytes(), value.as_slice()),
                Change::Delete { key } => batch.remove(key.as_bytes()),
            }
        }
        self.groups += 1;
        batch.insert(GROUP_KEY, &self.groups.to_be_bytes());
        self.db
            .apply_batch(batch)
            .map_err(|source| self.engine_failed(Step::Apply, source))?;
        self.db
            .flush()
            .map_err(|source| self.engine_failed(Step::Flush, source))?;
        if durability == Durability::PowerLoss {
            self.sync()
                .map_err(|source| self.disk_failed(Step::Sync, source))?;
        }
        self.head
            .note(self.groups)
            .map_err(|source| self.disk_failed(Step::NoteHead, source))
    }

    /// sled's flush leaves the bytes with the kernel; this waits for the disk. Large values are
    /// files of their own.
    fn sync(&mut self) -> io::Result<()> {
        let folder = self.path.join("blobs");
        let mut present = BTreeSet::new();
        let mut news = false;
        for blob in fs::read_dir(&folder)? {
            let name = blob?.file_name();
            if !self.blobs_synced.contains(&name) {
                match File::open(folder.join(&name)) {
                    Ok(blob) => blob.sync_all()?,
                    // sled collected it since the folder was read.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
                news = true;
            }
            present.insert(name);
        }
        self.blobs_synced = present;
        if news {
            File::open(&folder)?.sync_all()?;
        }
        self.file.sync_data()
    }

    pub(crate) fn scan(&self, prefix: &str) -> Result<Rows, Error> {
        let mut rows = Rows::new();
        for pair in self.db.scan_prefix(prefix) {
            let (key, value) = pair.map_err(|source| self.engine_failed(Step::Scan, source))?;
            let key = String::from_utf8(key.to_vec()).map_err(|_| Error::KeyUnreadable {
                path: self.path.clone(),
            })?;
            if !key.starts_with(RESERVED) {
                rows.push((key, value.to_vec()));
            }
        }
        Ok(rows)
    }

    fn caught<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        catch_unwind(AssertUnwindSafe(|| work(self))).unwrap_or_else(|panic| {
            Err(Error::Panicked {
                path: self.path.clone(),
                message: panic_message(panic.as_ref()),
            })
        })
    }

    fn count(&self, group: &Group, busy: Duration) {
        let mut figures = self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        let changes: usize = group.writes.iter().map(|write| write.changes.len()).sum();
        figures.writes += group.writes.len() as u64;
        figures.changes += changes as u64;
        figures.bytes += group.bytes as u64;
        figures.flushes += u64::from(!group.writes.is_empty());
        figures.syncs += u64::from(group.durability() == Durability::PowerLoss);
        figures.scans += u64::from(group.scan.is_some());
        figures.busy += busy;
    }

    fn engine_failed(&self, step: Step, source: sled::Error) -> Error {
        Error::Engine {
            path: self.path.clone(),
            step,
            source: Arc::new(source),
        }
    }

    fn disk_failed(&self, step: Step, source: io::Error) -> Error {
        Error::Disk {
            path: self.path.clone(),
            step,
            source: Arc::new(source),
        }
    }
}

//! The port without a kernel, in the caller's time.
//!
//! Clones share one world. It keeps what the contract suite asks for, takes time, and fails when
//! it is told to.

use crate::{
    error::{Doing, Error},
    port::Namespaces,
};
use runtime_core::kit::Work;
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Mutex;

/// About what it takes on a host; only its not being nothing matters.
const TAKES: Duration = Duration::from_millis(2);

/// What lies at a path of the fake world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// What a `make` that was cut short leaves.
    EmptyFile,
    Network,
    /// Not ours, and no namespace.
    Other,
}

/// How the next operation ends, instead of well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The kernel refuses before anything is there.
    Refused,
    /// It fails after half of its steps.
    HalfWay,
}

/// What rooms asked for, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Make(PathBuf),
    Remove(PathBuf),
    Check(PathBuf),
}

#[derive(Debug, Clone, Default)]
pub struct FakeNamespaces {
    things: Rc<RefCell<BTreeMap<PathBuf, (Thing, u64)>>>,
    made: Rc<Cell<u64>>,
    folders_missing: Rc<RefCell<Vec<PathBuf>>>,
    troubles: Rc<RefCell<VecDeque<Trouble>>>,
    calls: Rc<RefCell<Vec<Call>>>,
    takes: Rc<Cell<Option<Duration>>>,
    turn: Arc<Mutex<()>>,
}

impl FakeNamespaces {
    /// Puts something there, as somebody else would.
    pub fn put(&self, path: impl Into<PathBuf>, thing: Thing) {
        let identity = self.made.get() + 1;
        self.made.set(identity);
        let mut things = self.things.borrow_mut();
        things.insert(path.into(), (thing, identity));
    }

    /// A host that starts anew, or somebody who removes what is ours.
    pub fn clear(&self, path: impl AsRef<Path>) {
        self.things.borrow_mut().remove(path.as_ref());
    }

    /// Nothing can be made in this folder.
    pub fn without_folder(&self, folder: impl Into<PathBuf>) {
        self.folders_missing.borrow_mut().push(folder.into());
    }

    pub fn fail_next(&self, trouble: Trouble) {
        self.troubles.borrow_mut().push_back(trouble);
    }

    /// How long an operation takes from now on.
    pub fn slow(&self, takes: Duration) {
        self.takes.set(Some(takes));
    }

    pub fn at(&self, path: impl AsRef<Path>) -> Option<Thing> {
        let things = self.things.borrow();
        things.get(path.as_ref()).map(|(thing, _)| *thing)
    }

    /// Two namespaces are never the same one, as little as their inodes are.
    pub fn identity(&self, path: impl AsRef<Path>) -> Option<u64> {
        let things = self.things.borrow();
        things.get(path.as_ref()).map(|(_, identity)| *identity)
    }

    /// Everything that lies anywhere: what is left behind, at the end.
    pub fn things(&self) -> BTreeMap<PathBuf, Thing> {
        let things = self.things.borrow();
        let things = things.iter();
        things
            .map(|(path, (thing, _))| (path.clone(), *thing))
            .collect()
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.borrow().clone()
    }

    fn run(
        &self,
        path: PathBuf,
        work: fn(&Self, PathBuf, Option<Trouble>) -> Result<(), Error>,
    ) -> Work<Result<(), Error>> {
        let world = self.clone();
        let turn = self.turn.clone().lock_owned();
        Box::pin(async move {
            let _turn = turn.await;
            tokio::time::sleep(world.takes.get().unwrap_or(TAKES)).await;
            let trouble = world.troubles.borrow_mut().pop_front();
            work(&world, path, trouble)
        })
    }

    fn made(&self, path: PathBuf, trouble: Option<Trouble>) -> Result<(), Error> {
        match self.at(&path) {
            Some(Thing::Network) => return Ok(()),
            Some(Thing::Other) => return Err(Error::Occupied { path }),
            Some(Thing::EmptyFile) | None => {}
        }
        let folder = path.parent().map(Path::to_owned);
        if folder.is_some_and(|folder| self.folders_missing.borrow().contains(&folder)) {
            return Err(missing(Doing::MakeFile, path));
        }
        let source = io::Error::from_raw_os_error(libc::ENOSPC);
        match trouble {
            None => {
                self.put(path, Thing::Network);
                Ok(())
            }
            Some(Trouble::Refused) => Err(Error::Unshare { path, source }),
            Some(Trouble::HalfWay) => {
                self.put(path.clone(), Thing::EmptyFile);
                Err(Error::Unshare { path, source })
            }
        }
    }

    fn removed(&self, path: PathBuf, trouble: Option<Trouble>) -> Result<(), Error> {
        let found = match self.at(&path) {
            None => return Ok(()),
            Some(Thing::Other) => return Err(Error::Occupied { path }),
            Some(found) => found,
        };
        let (doing, left) = match trouble {
            None => {
                self.clear(path);
                return Ok(());
            }
            Some(Trouble::Refused) => (Doing::Unmount, found),
            Some(Trouble::HalfWay) => (Doing::RemoveFile, Thing::EmptyFile),
        };
        self.put(path.clone(), left);
        let source = io::Error::from_raw_os_error(libc::EIO);
        Err(Error::Path {
            doing,
            path,
            source,
        })
    }

    fn checked(&self, path: PathBuf, _: Option<Trouble>) -> Result<(), Error> {
        match self.at(&path) {
            None => Err(missing(Doing::Open, path)),
            Some(Thing::Network) => Ok(()),
            Some(Thing::EmptyFile | Thing::Other) => Err(Error::NotANetwork { path }),
        }
    }
}

impl Namespaces for FakeNamespaces {
    fn make(&self, path: PathBuf) -> Work<Result<(), Error>> {
        self.calls.borrow_mut().push(Call::Make(path.clone()));
        self.run(path, Self::made)
    }

    fn remove(&self, path: PathBuf) -> Work<Result<(), Error>> {
        self.calls.borrow_mut().push(Call::Remove(path.clone()));
        self.run(path, Self::removed)
    }

    fn check(&self, path: PathBuf) -> Work<Result<(), Error>> {
        self.calls.borrow_mut().push(Call::Check(path.clone()));
        self.run(path, Self::checked)
    }
}

fn missing(doing: Doing, path: PathBuf) -> Error {
    let source = io::Error::from_raw_os_error(libc::ENOENT);
    Error::Path {
        doing,
        path,
        source,
    }
}

//! Shares without mounts and without virtiofsd, in tokio's time: the port [`Shares`] for tests and
//! simulation.
//!
//! Mounts and processes are kept by a [`Ground`], so that a world which joins several fakes has one
//! truth about them. It passes `tests/contract.rs`.

use crate::{
    error::Error,
    mounts::share,
    plan::{Habit, Nature, Source, Survey},
    port::Shares,
    steps::{Bind, Shape},
};
use runtime_core::{
    devices::{ContainerDevices, ShareSpec},
    ids::HostProcess,
    kit::Work,
    premises::Cgroup,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// About what they take on a quiet host.
const LISTENS: Duration = Duration::from_millis(6);
const MOUNT: Duration = Duration::from_millis(1);

/// As the real driver's.
const END_MAX: Duration = Duration::from_secs(5);

/// The host below the fake: where its processes and its mounts are.
pub trait Ground {
    /// # Errors
    /// There is no such cgroup.
    fn spawn(&self, cgroup: &Cgroup) -> io::Result<HostProcess>;

    /// The process ends, by itself or not. One that is gone is already so.
    fn exit(&self, process: HostProcess);

    /// Answers when the process has ended; at once when it is gone already.
    fn ended(&self, process: HostProcess) -> Work<()>;

    fn mount(&self, point: PathBuf);

    /// With everything that is mounted below it.
    fn unmount(&self, point: &Path);

    fn is_mounted(&self, point: &Path) -> bool;
}

/// A ground of the fake's own: any cgroup exists.
#[derive(Debug, Clone, Default)]
pub struct OwnGround(Rc<RefCell<Own>>);

#[derive(Debug, Default)]
struct Own {
    processes: BTreeMap<HostProcess, (Cgroup, watch::Sender<()>)>,
    processes_made: u32,
    mounts: BTreeSet<PathBuf>,
}

impl OwnGround {
    /// Where a living process is.
    pub fn cgroup(&self, process: HostProcess) -> Option<Cgroup> {
        let own = self.0.borrow();
        own.processes
            .get(&process)
            .map(|(cgroup, _)| cgroup.clone())
    }

    pub fn mounts(&self) -> BTreeSet<PathBuf> {
        self.0.borrow().mounts.clone()
    }
}

impl Ground for OwnGround {
    fn spawn(&self, cgroup: &Cgroup) -> io::Result<HostProcess> {
        let mut own = self.0.borrow_mut();
        own.processes_made += 1;
        let process = HostProcess {
            pid: own.processes_made,
            start_time: u64::from(own.processes_made),
        };
        let life = watch::Sender::new(());
        own.processes.insert(process, (cgroup.clone(), life));
        Ok(process)
    }

    fn exit(&self, process: HostProcess) {
        self.0.borrow_mut().processes.remove(&process);
    }

    fn ended(&self, process: HostProcess) -> Work<()> {
        let own = self.0.borrow();
        let life = own.processes.get(&process);
        let life = life.map(|(_, life)| life.subscribe());
        Box::pin(async move {
            if let Some(mut life) = life {
                // Nothing is ever sent: it fails when the process is gone.
                let _ = life.changed().await;
            }
        })
    }

    fn mount(&self, point: PathBuf) {
        self.0.borrow_mut().mounts.insert(point);
    }

    fn unmount(&self, point: &Path) {
        let mut own = self.0.borrow_mut();
        own.mounts.retain(|mounted| !mounted.starts_with(point));
    }

    fn is_mounted(&self, point: &Path) -> bool {
        self.0.borrow().mounts.contains(point)
    }
}

/// Every share of a host; clones are the same one, and outlive the daemon that uses it.
#[derive(Clone)]
pub struct FakeShares {
    ground: Rc<dyn Ground>,
    /// What lies on the host, with every link followed.
    things: Rc<RefCell<BTreeMap<PathBuf, Nature>>>,
    /// Of them, the volumes that are published whole.
    published: Rc<RefCell<BTreeSet<PathBuf>>>,
    /// Where copies are, and who follows them: dropped, they are let go.
    copies: Rc<RefCell<BTreeMap<PathBuf, watch::Sender<()>>>>,
    /// Which virtiofsd serves the share of a folder.
    serving: Rc<RefCell<BTreeMap<PathBuf, HostProcess>>>,
}

impl FakeShares {
    pub fn new(ground: Rc<dyn Ground>) -> Self {
        Self {
            ground,
            things: Rc::default(),
            published: Rc::default(),
            copies: Rc::default(),
            serving: Rc::default(),
        }
    }

    /// Something lies there from now on: a bundle, a program.
    pub fn put(&self, path: impl Into<PathBuf>, nature: Nature) {
        self.things.borrow_mut().insert(path.into(), nature);
    }

    /// A directory that somebody publishes whole.
    pub fn put_published(&self, path: impl Into<PathBuf>) {
        let path = path.into();
        self.published.borrow_mut().insert(path.clone());
        self.put(path, Nature::Directory);
    }

    /// A folder is gone, and whoever followed what is in it was told nothing.
    pub fn forget_below(&self, folder: &Path) {
        let mut copies = self.copies.borrow_mut();
        copies.retain(|place, _| !place.starts_with(folder));
    }

    /// By how many the copies there are followed.
    pub fn followers(&self, place: &Path) -> usize {
        let copies = self.copies.borrow();
        copies.get(place).map_or(0, watch::Sender::receiver_count)
    }

    /// Where copies are.
    pub fn copies(&self) -> Vec<PathBuf> {
        self.copies.borrow().keys().cloned().collect()
    }

    /// The VMM of the sandbox in this folder is gone: its virtiofsd ends by itself.
    pub fn hang_up(&self, folder: &Path) {
        if let Some(process) = self.serving.borrow_mut().remove(folder) {
            self.ground.exit(process);
        }
    }

    fn nature(&self, path: &Path) -> Nature {
        let things = self.things.borrow();
        things.get(path).copied().unwrap_or(Nature::Missing)
    }

    fn source(&self, path: PathBuf) -> Source {
        let nature = self.nature(&path);
        Source {
            path,
            nature,
            number: None,
            habit: Habit::Unknown,
        }
    }

    fn bound(&self, path: PathBuf, read_only: bool) -> Source {
        let published = self.published.borrow().contains(&path);
        let source = self.source(path);
        match published && read_only {
            true => Source {
                habit: Habit::Published,
                ..source
            },
            false => source,
        }
    }

    fn bind_one(&self, bind: &Bind) -> Result<(), Error> {
        let share = share(&bind.folder);
        let target = share.join(&bind.place);
        if !self.ground.is_mounted(&share) {
            return Err(missing("make folder", target));
        }
        if self.ground.is_mounted(&target) {
            return Ok(());
        }
        match (self.nature(&bind.source), bind.shape) {
            (Nature::Missing, _) => Err(missing("open", &bind.source)),
            (Nature::Directory, Shape::Directory) | (Nature::File(_), Shape::File) => {
                self.ground.mount(target);
                Ok(())
            }
            (Nature::Directory, Shape::Copies) => {
                let mut copies = self.copies.borrow_mut();
                copies
                    .entry(target)
                    .or_insert_with(|| watch::Sender::new(()));
                Ok(())
            }
            _ => Err(Error::Changed {
                path: bind.source.clone(),
            }),
        }
    }

    fn unbind_all(&self, binds: &[Bind]) {
        for bind in binds {
            let target = share(&bind.folder).join(&bind.place);
            self.copies.borrow_mut().remove(&target);
            self.ground.unmount(&target);
        }
    }

    fn spawn(&self, spec: &ShareSpec) -> Result<HostProcess, Error> {
        let spawned = match self.nature(&spec.virtiofsd) {
            Nature::File(_) => self.ground.spawn(&spec.cgroup),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let process = spawned.map_err(|source| Error::Spawn {
            path: spec.virtiofsd.clone(),
            source,
        })?;
        let mut serving = self.serving.borrow_mut();
        serving.insert(spec.folder.clone(), process);
        Ok(process)
    }
}

fn missing(step: &'static str, path: impl Into<PathBuf>) -> Error {
    Error::path(step, path)(io::ErrorKind::NotFound.into())
}

impl Shares for FakeShares {
    fn open(&self, spec: ShareSpec) -> Work<Result<HostProcess, Error>> {
        let shares = self.clone();
        Box::pin(async move {
            let share = share(&spec.folder);
            shares.ground.mount(share.clone());
            sleep(MOUNT).await;
            let spawned = shares.spawn(&spec);
            if spawned.is_err() {
                shares.ground.unmount(&share);
            }
            sleep(LISTENS).await;
            spawned
        })
    }

    fn survey(&self, devices: ContainerDevices) -> Work<Result<Survey, Error>> {
        let shares = self.clone();
        Box::pin(async move {
            sleep(MOUNT).await;
            let bundle = devices.bundle;
            if shares.nature(&bundle) == Nature::Missing {
                return Err(missing("resolve bundle", bundle));
            }
            let binds = devices.binds.iter();
            Ok(Survey {
                root: shares.source(bundle.join(&devices.root)),
                binds: binds
                    .map(|bind| shares.bound(bundle.join(&bind.source), bind.read_only))
                    .collect(),
                bundle,
            })
        })
    }

    fn bind(&self, binds: Vec<Bind>) -> Work<Result<(), Error>> {
        let shares = self.clone();
        Box::pin(async move {
            for bind in &binds {
                sleep(MOUNT).await;
                if let Err(why) = shares.bind_one(bind) {
                    shares.unbind_all(&binds);
                    return Err(why);
                }
            }
            Ok(())
        })
    }

    fn follow(&self, copies: Bind) -> Work<Result<(), Error>> {
        let target = share(&copies.folder).join(&copies.place);
        let mut held = self.copies.borrow_mut();
        // Whoever followed before is let go.
        let life = held.get_mut(&target).map(|held| {
            *held = watch::Sender::new(());
            held.subscribe()
        });
        let source = self.nature(&copies.source);
        Box::pin(async move {
            sleep(MOUNT).await;
            let Some(mut life) = life.filter(|_| source == Nature::Directory) else {
                return Err(missing("open", target));
            };
            // Nothing is ever sent: it fails when they are let go.
            let _ = life.changed().await;
            Ok(())
        })
    }

    fn unbind(&self, binds: Vec<Bind>) -> Work<Result<(), Error>> {
        let shares = self.clone();
        Box::pin(async move {
            sleep(MOUNT).await;
            shares.unbind_all(&binds);
            Ok(())
        })
    }

    fn close(&self, spec: ShareSpec, virtiofsd: Option<HostProcess>) -> Work<Result<(), Error>> {
        let shares = self.clone();
        Box::pin(async move {
            if let Some(process) = virtiofsd
                && timeout(END_MAX, shares.ground.ended(process))
                    .await
                    .is_err()
            {
                shares.ground.exit(process);
            }
            sleep(MOUNT).await;
            let share = share(&spec.folder);
            let mut copies = shares.copies.borrow_mut();
            copies.retain(|place, _| !place.starts_with(&share));
            shares.ground.unmount(&share);
            Ok(())
        })
    }

    fn ended(&self, _: ShareSpec, virtiofsd: HostProcess) -> Work<String> {
        let ended = self.ground.ended(virtiofsd);
        Box::pin(async move {
            ended.await;
            "fake virtiofsd: it ended".to_owned()
        })
    }
}

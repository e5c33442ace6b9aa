//! Containers as a whole.

use super::{
    Agent, Goods, Place, blocking, denied, engine_failed,
    wish::{HostDevice, HostMount, Made, NewContainer, SignalTo, terminal_of_config},
};
use crate::{
    engine::{self, CreatePlan, Created, ProcessIo},
    error::Error,
    guest::{follow::Followed, storage::Wanted},
    id::{Id, Name},
    rootfs::{self, Rootfs, Source},
    table::{Denied, State as ProcessState},
};
use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::RwLock, time::timeout};

/// The engine has seen the processes die; reaping them is a matter of turns.
const REAP_LIMIT: Duration = Duration::from_secs(10);

/// Where a container is to stand.
struct Plot {
    source: Source,
    disk: Option<PathBuf>,
    storages: Vec<Wanted>,
    binds: Vec<HostMount>,
    hook_programs: Vec<(usize, PathBuf)>,
    disks: Vec<engine::Disk>,
    host_devices: Option<Vec<engine::HostDevice>>,
    bundle: String,
}

/// Each was waited for already, as a root or as a disk.
async fn in_guest(devices: Vec<HostDevice>) -> Result<Vec<engine::HostDevice>, Error> {
    let mut found = Vec::new();
    for HostDevice { serial, number } in devices {
        let node = rootfs::disk(&serial).await?;
        found.push(engine::HostDevice { node, number });
    }
    Ok(found)
}

impl Plot {
    /// All that the host shares for one container is in a folder of its own.
    fn folder_in_share(&self) -> Option<PathBuf> {
        let root = match &self.source {
            Source::Share(path) => Some(path),
            Source::Block(_) | Source::Guest(_) => None,
        };
        let path = root.or(self.binds.first().map(|bind| &bind.path))?;
        path.iter().next().map(PathBuf::from)
    }
}

impl Agent {
    /// Makes a container whose init waits for its start.
    ///
    /// # Errors
    /// Whatever it could not be given; nothing of it is left then.
    pub async fn create(self: Arc<Self>, wish: NewContainer) -> Result<Made, Error> {
        let name = Name::init(wish.id.clone());
        let place = Place::new();
        let busy = place.busy.clone().write_owned().await;
        {
            let mut state = self.state();
            let reserved = state.table.reserve(&name, wish.host);
            reserved.map_err(|refused| denied(&name, refused))?;
            state.places.insert(wish.id.clone(), place);
        }
        let made = self.make(&name, wish).await;
        if made.is_err() {
            let mut state = self.state();
            state.table.undone(&name);
            state.places.remove(&name.container);
        }
        drop(busy);
        self.changed();
        made
    }

    async fn make(self: &Arc<Self>, name: &Name, wish: NewContainer) -> Result<Made, Error> {
        let terminal = terminal_of_config(&wish.config_json)?;
        let (far, near) = self.prepare(wish.io, terminal).await?;
        let disk = match &wish.rootfs {
            Source::Block(block) => Some(rootfs::disk(&block.serial).await?),
            Source::Share(_) | Source::Guest(_) => None,
        };
        let mut disks = Vec::new();
        for disk in wish.disks {
            disks.push(engine::Disk {
                node: rootfs::disk(&disk.serial).await?,
                purpose: disk.purpose,
                writable: disk.access == rootfs::Access::ReadWrite,
            });
        }
        let host_devices = match wish.host_devices {
            Some(devices) => Some(in_guest(devices).await?),
            None => None,
        };
        let (agent, id) = (self.clone(), wish.id.clone());
        let plot = Plot {
            source: wish.rootfs,
            disk,
            storages: wish.storages,
            binds: wish.binds,
            hook_programs: wish.hook_programs,
            disks,
            host_devices,
            bundle: wish.bundle,
        };
        let build = move || agent.build(&wish.id, wish.config_json, plot, far);
        let (goods, created) = blocking(build).await?;
        let (pid, warnings) = (created.pid, created.warnings.clone());
        for warning in &warnings {
            crate::note!("container {id}: {warning}");
        }
        if let Some(place) = self.state().places.get_mut(&id) {
            self.follower.add(&goods.followed);
            place.goods = Some(goods);
        }
        if let Err(error) = self.settle(name, near, created) {
            self.discard(&id).await;
            return Err(error);
        }
        self.tidy_up_behind(&id);
        Ok(Made { pid, warnings })
    }

    fn build(
        &self,
        id: &Id,
        config_json: Vec<u8>,
        plot: Plot,
        io: ProcessIo,
    ) -> Result<(Goods, Created), Error> {
        self.loopback.ensure_up()?;
        let shares = !plot.binds.is_empty() || !plot.hook_programs.is_empty();
        if matches!(plot.source, Source::Share(_)) || shares {
            rootfs::mount_share()?;
        }
        let storages = self.mount(&plot.storages)?;
        let shared = plot.folder_in_share();
        let rootfs = self.root(plot.source, plot.disk.as_deref())?;
        let (bind_sources, followed) = bind_sources(id, plot.binds)?;
        let plan = CreatePlan {
            id: id.as_str().to_owned(),
            config_json,
            rootfs: rootfs.path.clone(),
            bind_sources,
            namespaces: BTreeMap::new(),
            hook_programs: in_share(plot.hook_programs)?,
            disks: plot.disks,
            host_devices: plot.host_devices,
            bundle: plot.bundle,
        };
        let goods = Goods {
            _rootfs: rootfs,
            _storages: storages,
            followed,
            in_share: shared,
        };
        let created = self.engine.create(plan, io);
        let created = created.map_err(engine_failed(|| format!("create container {id}")))?;
        Ok((goods, created))
    }

    fn root(&self, source: Source, disk: Option<&Path>) -> Result<Rootfs, Error> {
        match (source, disk) {
            (Source::Share(path), _) => Ok(Rootfs::at(rootfs::in_share(&path)?)),
            (Source::Guest(path), _) => Ok(Rootfs::at(path)),
            (Source::Block(block), Some(device)) => {
                let n = self.folders.fetch_add(1, Ordering::Relaxed);
                Rootfs::mount_disk(n, device, block.kind, block.access)
            }
            (Source::Block(block), None) => Err(Error::Invalid {
                what: format!("disk {:?}", block.serial),
                why: "was not looked for",
            }),
        }
    }

    /// Takes back a container that was made and cannot be kept.
    async fn discard(self: &Arc<Self>, id: &Id) {
        let (agent, gone) = (self.clone(), id.clone());
        let removed = blocking(move || agent.engine.remove(gone.as_str())).await;
        if let Err(error) = removed {
            crate::error!("take back container {id}: {error}");
        }
    }

    /// Lets the init run its program. One that runs already is left alone.
    ///
    /// # Errors
    /// There is none, it has ended, or its program cannot be run.
    pub async fn start(self: Arc<Self>, id: Id) -> Result<(), Error> {
        let name = Name::init(id);
        let busy = self.busy(&name.container)?;
        let _busy = busy.write().await;
        let state = self.state().table.state(&name);
        match state.map_err(|refused| denied(&name, refused))? {
            ProcessState::Created { .. } => {}
            ProcessState::Running { .. } => return Ok(()),
            ProcessState::Making => return Err(denied(&name, Denied::Making)),
            ProcessState::Exited { .. } => return Err(denied(&name, Denied::NotRunning)),
        }
        let failed = || format!("start {name}");
        let starting = self.engine.begin_start(name.container.as_str());
        let starting = starting.map_err(engine_failed(failed))?;
        let closed = self.closed(starting.as_fd(), starting.limit()).await;
        let started = starting.conclude().map_err(engine_failed(failed));
        closed.and(started)?;
        self.state().table.started(&name.container);
        self.changed();
        self.make_ready_behind();
        Ok(())
    }

    /// Removes a container: what is left of it is killed, its exits stay until acknowledged.
    ///
    /// # Errors
    /// There is none, or it does not die.
    pub async fn remove(self: Arc<Self>, id: Id) -> Result<(), Error> {
        let name = Name::init(id.clone());
        let refuse = |refused| denied(&name, refused);
        let busy: Arc<RwLock<()>> = self.busy(&id)?;
        let _busy = busy.write().await;
        {
            let state = self.state();
            if !state.is_still(&id, &busy) {
                return Err(refuse(Denied::NotFound));
            }
            state.table.removable(&id).map_err(refuse)?;
        }
        self.mark_killed(&SignalTo::All(id.clone()));
        let removed = match self.engine.remove_bare(id.as_str()).transpose() {
            Some(removed) => removed,
            None => {
                let (agent, gone) = (self.clone(), id.clone());
                blocking(move || agent.engine.remove(gone.as_str())).await
            }
        };
        let kills = removed.map_err(engine_failed(|| format!("remove {name}")))?;
        self.all_ended(&id).await?;
        self.removed(&id, kills);
        Ok(())
    }

    /// As [`Self::remove`], of a container in which nothing lives and nothing is being made: else nothing happens.
    /// Whether it was removed.
    ///
    /// # Errors
    /// There is none, or the kernel refuses.
    pub fn remove_empty(&self, id: &Id) -> Result<bool, Error> {
        let busy = self.busy(id)?;
        let Ok(_busy) = busy.try_write() else {
            return Ok(false);
        };
        {
            let state = self.state();
            if !state.is_still(id, &busy) || !state.table.all_exited(id) {
                return Ok(false);
            }
        }
        let removed = self.engine.remove_bare(id.as_str());
        let removed = removed.map_err(engine_failed(|| format!("remove container {id}")))?;
        if let Some(kills) = removed {
            self.removed(id, kills);
        }
        Ok(removed.is_some())
    }

    /// Nothing is left of it that could be killed, and no file that tells of kills.
    fn removed(&self, id: &Id, kills: u64) {
        let place = {
            let mut state = self.state();
            self.tell_kills(&mut state, id, kills);
            state.table.removed(id);
            state.places.remove(id)
        };
        let goods = place.as_ref().and_then(|place| place.goods.as_ref());
        let in_share = goods.and_then(|goods| goods.in_share.clone());
        drop(place);
        if let Some(folder) = in_share {
            tokio::spawn(rootfs::look_until_gone(folder));
        }
        self.changed();
    }

    /// Waits until every process of the container was reaped, so that no exit is lost.
    async fn all_ended(&self, id: &Id) -> Result<(), Error> {
        let mut changes = self.changes.subscribe();
        let all = changes.wait_for(|_| self.state().table.all_exited(id));
        match timeout(REAP_LIMIT, all).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Timeout {
                what: format!("the end of every process of container {id}"),
                seconds: REAP_LIMIT.as_secs(),
            }),
        }
    }
}

fn in_share(paths: Vec<(usize, PathBuf)>) -> Result<BTreeMap<usize, PathBuf>, Error> {
    let place = |(index, path): (usize, PathBuf)| Ok((index, rootfs::in_share(&path)?));
    paths.into_iter().map(place).collect()
}

type BindSources = BTreeMap<usize, PathBuf>;

/// Where the mounts from the host are in the guest, and what has to be followed for it.
fn bind_sources(
    container: &Id,
    binds: Vec<HostMount>,
) -> Result<(BindSources, Vec<Arc<Followed>>), Error> {
    let (mut sources, mut followed) = (BTreeMap::new(), Vec::new());
    for bind in binds {
        let source = match copy_of(container, &bind) {
            Some(copy) => {
                let shown = copy.shown();
                followed.push(Arc::new(copy));
                shown
            }
            None => rootfs::in_share(&bind.path)?,
        };
        sources.insert(bind.index, source);
    }
    Ok((sources, followed))
}

/// The copy that stands for a mount. Where it cannot be had, what the host shares is better than
/// nothing.
fn copy_of(container: &Id, bind: &HostMount) -> Option<Followed> {
    let opened = Followed::open(bind.copies.as_ref()?);
    match opened {
        Ok(copy) => Some(copy),
        Err(error) => {
            let index = bind.index;
            crate::note!(
                "container {container}: mount {index} is not followed: {}",
                error.chain()
            );
            None
        }
    }
}

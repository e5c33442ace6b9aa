//! The engine's calls. All of them block but those that begin something, and any number may run at the same time.

use super::{
    api::{CreatePlan, Created, ExecPlan, ProcessIo, Roots, Target},
    begun::{Execing, Starting, created, open_pipes},
    bpf,
    cgroup::{self, Before, Cgroup, Rule},
    container::{self, Container},
    disks,
    error::{Doing, Error, Result},
    idmap, lacking,
    lock::lock,
    lower::{self, Lowered},
    numbers::Numbers,
    plan::Plan,
    spare::{Kind, Spare, Spares},
    spawn::{self, Birth, Place, Spawned, Unheard, Waiting},
    spawner, spec, sys, sysfs,
};
use oci_spec::runtime::LinuxResources;
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::Errno,
};
use std::{
    collections::{BTreeMap, btree_map},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Killed processes go within milliseconds; one that waits for a file system of the host goes
/// when that answers or is taken away.
const DEATH_LIMIT: Duration = Duration::from_secs(30);
/// From linux/signal.h: the last real-time signal.
const SIGNAL_MAX: u32 = 64;
/// Containers of one guest have one or two sets of rules; the oldest goes first.
const DEVICE_PROGRAMS_MAX: usize = 8;

type DeviceProgram = (Vec<Rule>, Arc<OwnedFd>);

#[derive(Debug)]
pub struct Engine {
    pub(super) roots: Roots,
    spawner: OwnedFd,
    containers: Mutex<BTreeMap<String, Slot>>,
    cgroups_made: AtomicU64,
    spares: Spares,
    device_programs: Mutex<Vec<DeviceProgram>>,
}

#[derive(Debug)]
enum Slot {
    Making,
    Made(Arc<Container>),
    Removing,
}

impl Engine {
    /// Makes the cgroup root and forks the spawner.
    ///
    /// Call it once, while the process has one thread, after its root is final and /proc, /dev
    /// and cgroup2 are mounted.
    ///
    /// # Errors
    /// When the cgroup root cannot be made or the fork fails.
    pub fn launch(roots: Roots) -> Result<Self> {
        cgroup::make_root(&roots.cgroup)?;
        Ok(Self {
            roots,
            spawner: spawner::fork()?,
            containers: Mutex::default(),
            cgroups_made: AtomicU64::new(0),
            spares: Spares::default(),
            device_programs: Mutex::default(),
        })
    }

    /// Makes a container; its init is set up to the last step before its program, and waits.
    ///
    /// # Errors
    /// Whatever the container could not be given; nothing of it is left then.
    pub fn create(&self, asked: CreatePlan, io: ProcessIo) -> Result<Created> {
        self.reserve(&asked.id)?;
        let made = self.make(&asked, io);
        let mut containers = self.containers();
        match made {
            Ok((container, created)) => {
                containers.insert(asked.id, Slot::Made(Arc::new(container)));
                Ok(created)
            }
            Err(error) => {
                containers.remove(&asked.id);
                Err(error)
            }
        }
    }

    /// Makes what the next container can be made of, unless it is there. For whoever has time, as between two creations.
    ///
    /// # Errors
    /// When it cannot be made, or what nobody wanted does not go; the next creation tries again.
    pub fn make_ready(&self) -> Result<()> {
        let mut outcome = Ok(());
        if !self.spares.is_there() {
            let cgroup = self.make_cgroup()?;
            let init = self.spares.wanted().map(|kind| {
                let birth = Birth::plain(kind.namespaces(), cgroup.fd());
                let waiting = spawn::order_waiting(self.spawner.as_fd(), &birth)?;
                Ok((kind, waiting))
            });
            // Without one the container has its init made when it is asked for.
            let init = init.transpose().unwrap_or_else(|error| {
                outcome = Err(error);
                None
            });
            self.spares.put(Spare { cgroup, init });
        }
        for cgroup in self.spares.take_unwanted() {
            // Whoever is to be born into it may not be yet.
            match cgroup.kill().and_then(|()| cgroup.remove_bare()) {
                Ok(Some(_)) => {}
                Ok(None) => self.spares.unwant(cgroup),
                Err(error) => {
                    self.spares.unwant(cgroup);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    fn make_cgroup(&self) -> Result<Cgroup> {
        // A counter, since an id may be longer than the name of a folder.
        let number = self.cgroups_made.fetch_add(1, Ordering::Relaxed);
        Cgroup::make(self.roots.cgroup.join(format!("c{number}")))
    }

    /// Lets the init go on to its program, and waits for nothing.
    ///
    /// # Errors
    /// When it is not waiting for this.
    pub fn begin_start(&self, id: &str) -> Result<Starting> {
        Starting::open(self.find(id)?)
    }

    /// Has a further process made, and waits for nothing.
    ///
    /// # Errors
    /// Whatever can be known to be refused before there is a process.
    pub fn begin_exec(&self, id: &str, asked: ExecPlan, io: ProcessIo) -> Result<Execing> {
        let container = self.find(id)?;
        container.reserve_exec(&asked.exec_id)?;
        Execing::order(self.spawner.as_fd(), container, asked, io)
    }

    /// Forgets an exec whose exit is known, so that its name is free again.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn forget(&self, id: &str, exec_id: &str) -> Result<()> {
        self.find(id)?.forget_exec(exec_id)
    }

    /// # Errors
    /// When there is no such process, or the kernel refuses.
    pub fn signal(&self, id: &str, target: &Target, signum: u32) -> Result<()> {
        let container = self.find(id)?;
        let number = match i32::try_from(signum) {
            Ok(number) if signum <= SIGNAL_MAX => number,
            _ => {
                return Err(Error::Invalid {
                    what: format!("signal {signum}"),
                    why: "there is no such signal".to_owned(),
                });
            }
        };
        let step = || format!("send signal {signum} to {target:?} of container {id:?}");
        match target {
            Target::Init => match sys::pidfd_signal(container.init.as_fd(), number) {
                Err(Errno::SRCH) => container.refuse("stopped"),
                sent => sent.doing(step),
            },
            Target::Exec(exec_id) => {
                let pidfd = container.exec(exec_id)?;
                match sys::pidfd_signal(pidfd.as_fd(), number) {
                    Err(Errno::SRCH) => container.refuse_exec(exec_id),
                    sent => sent.doing(step),
                }
            }
            Target::All if number == libc::SIGKILL => container.cgroup.kill(),
            Target::All => {
                for pid in container.cgroup.pids()? {
                    let pid = i32::try_from(pid).map_err(|_| Errno::SRCH).doing(step)?;
                    match sys::kill(pid, number) {
                        Ok(()) | Err(Errno::SRCH) => {}
                        Err(errno) => return Err(errno).doing(step),
                    }
                }
                Ok(())
            }
        }
    }

    /// Whether a process has not ended; of all together, whether any is left.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn lives(&self, id: &str, target: &Target) -> Result<bool> {
        let container = self.find(id)?;
        match target {
            Target::Init => Ok(container.init_lives()),
            Target::Exec(exec_id) => Ok(container::lives(&*container.exec(exec_id)?)),
            Target::All => Ok(!container.cgroup.pids()?.is_empty()),
        }
    }

    /// Pids of every process of the container, as the guest numbers them.
    ///
    /// # Errors
    /// When there is no such container.
    pub fn pids(&self, id: &str) -> Result<Vec<u32>> {
        self.find(id)?.cgroup.pids()
    }

    /// Kills what is left of the container, waits until it is gone, removes its cgroup. Gives how
    /// often the kernel killed a process of it for want of memory, in all.
    ///
    /// # Errors
    /// When there is no such container, or its processes do not die in time; it can be called
    /// again then.
    pub fn remove(&self, id: &str) -> Result<u64> {
        let container = self.find(id)?;
        self.containers().insert(id.to_owned(), Slot::Removing);
        let discarded = discard(&container.cgroup);
        let mut containers = self.containers();
        match discarded {
            Ok(kills) => {
                containers.remove(id);
                Ok(kills)
            }
            Err(error) => {
                containers.insert(id.to_owned(), Slot::Made(container));
                Err(error)
            }
        }
    }

    /// As [`Self::remove`], if there is nothing to kill and nothing to wait for; else nothing happens.
    ///
    /// # Errors
    /// When there is no such container, or the kernel refuses.
    pub fn remove_bare(&self, id: &str) -> Result<Option<u64>> {
        let removed = self.find(id)?.cgroup.remove_bare()?;
        if removed.is_some() {
            self.containers().remove(id);
        }
        Ok(removed)
    }

    fn reserve(&self, id: &str) -> Result<()> {
        match self.containers().entry(id.to_owned()) {
            btree_map::Entry::Occupied(_) => Err(Error::ContainerExists { id: id.to_owned() }),
            btree_map::Entry::Vacant(place) => {
                place.insert(Slot::Making);
                Ok(())
            }
        }
    }

    pub(super) fn find(&self, id: &str) -> Result<Arc<Container>> {
        let state = match self.containers().get(id) {
            None => return Err(Error::NoContainer { id: id.to_owned() }),
            Some(Slot::Made(container)) => return Ok(Arc::clone(container)),
            Some(Slot::Making) => "being created",
            Some(Slot::Removing) => "being removed",
        };
        let id = id.to_owned();
        Err(Error::State { id, state })
    }

    fn make(&self, asked: &CreatePlan, io: ProcessIo) -> Result<(Container, Created)> {
        let mut warnings = Vec::new();
        let mut config = spec::parse_config(&asked.config_json, &mut warnings)?;
        disks::stand_in(&mut config, &asked.disks)?;
        let numbers = Numbers::of(asked.host_devices.as_deref())?;
        numbers.stand_in_all(&mut config, &mut warnings);
        let terminal = matches!(io, ProcessIo::Terminal);
        let mut lowered = lower::lower_container(&config, asked, terminal, &mut warnings)?;
        sysfs::stand_in(&mut lowered.plan, &self.roots.sysfs)?;
        let nodes = lowered.plan.devices.as_deref().unwrap_or_default();
        lacking::warn(nodes, Path::new(lacking::SHOWN), &mut warnings);
        let before = Before::of_new(&lowered.resources, &self.roots.cgroup)?;
        let limits = cgroup::lower_limits(&lowered.resources, &before, &mut warnings)?;
        let devices = self.device_program(&lowered.resources)?;
        let kind = Kind::of(&lowered);
        let (cgroup, waiting) = match self.spares.take(kind) {
            Some(spare) => spare,
            None => (self.make_cgroup()?, None),
        };
        let spawned = cgroup
            .apply(&limits)
            .and_then(|()| devices.map_or(Ok(()), |program| cgroup.allow_devices(&program)))
            .and_then(|()| disks::trees(&mut lowered.plan.mounts, &asked.disks))
            .and_then(|trees| self.spawn_init(&lowered, trees, (&cgroup, waiting), io));
        match spawned {
            Ok((mut spawned, gate)) => {
                let home = spawned.home.take();
                self.spares.made(kind);
                let created = created(spawned, warnings);
                let init = created.pidfd.try_clone().map_err(|source| Error::Io {
                    step: "keep the init's pidfd".to_owned(),
                    source: source.into(),
                })?;
                let container = Container::new(
                    asked.id.clone(),
                    cgroup,
                    (created.pid, init),
                    gate,
                    (&lowered, numbers),
                );
                container.learn_home(home);
                Ok((container, created))
            }
            Err(error) => {
                let error = told_of_memory(error, &cgroup);
                // The first failure is the one to tell; what is left is killed and goes by itself.
                let _ = discard(&cgroup);
                Err(error)
            }
        }
    }

    fn spawn_init(
        &self,
        lowered: &Lowered,
        mut trees: Vec<(usize, OwnedFd)>,
        (cgroup, waiting): (&Cgroup, Option<Waiting>),
        io: ProcessIo,
    ) -> Result<(Spawned, Unheard)> {
        let namespaces = &lowered.namespaces;
        let pid_of = namespaces
            .pid_of
            .as_deref()
            .map(|id| self.find(id))
            .transpose()?;
        let neighbours: Vec<Arc<Container>> = namespaces
            .join
            .iter()
            .map(|(id, _)| self.find(id))
            .collect::<Result<_>>()?;
        trees.extend(idmap::trees(self.spawner.as_fd(), &lowered.plan.mounts)?);
        trees.sort_by_key(|(index, _)| *index);
        let pipes = open_pipes(io)?;
        let plan_fds: Vec<BorrowedFd<'_>> = pipes
            .iter()
            .map(AsFd::as_fd)
            .chain(neighbours.iter().map(|one| one.init.as_fd()))
            .chain(trees.iter().map(|(_, tree)| tree.as_fd()))
            .collect();
        let birth = Birth {
            namespaces: namespaces.clone,
            time_offsets: lowered.time_offsets.as_deref(),
            pid_namespace_of: pid_of.as_ref().map(|one| one.init.as_fd()),
            place: Place::In(cgroup.fd()),
            id_maps: lowered.id_maps.as_ref(),
            hooks_limit: lowered.plan.hooks.limit(),
        };
        let plan = Plan::Init(Box::new(lowered.plan.clone()));
        match waiting {
            Some(waiting) => waiting.spawn(&birth, &plan, &plan_fds),
            None => spawn::spawn(self.spawner.as_fd(), &birth, &plan, &plan_fds),
        }
    }

    /// None: the rules allow everything.
    fn device_program(&self, resources: &LinuxResources) -> Result<Option<Arc<OwnedFd>>> {
        let asked = resources.devices().as_deref().unwrap_or_default();
        let rules = cgroup::lower_rules(asked.iter().chain(&lower::default_rules()))?;
        let Some(code) = cgroup::compile_devices(&rules) else {
            return Ok(None);
        };
        let mut programs = lock(&self.device_programs);
        if let Some((_, known)) = programs.iter().find(|(other, _)| *other == rules) {
            return Ok(Some(Arc::clone(known)));
        }
        let program =
            bpf::load_device_program(&code).doing(|| "load the device rules".to_owned())?;
        let program = Arc::new(program);
        if programs.len() == DEVICE_PROGRAMS_MAX {
            programs.remove(0);
        }
        programs.push((rules, Arc::clone(&program)));
        Ok(Some(program))
    }

    fn containers(&self) -> MutexGuard<'_, BTreeMap<String, Slot>> {
        lock(&self.containers)
    }
}

/// Gives how often the kernel killed for want of memory: once it is empty, that is the last word.
fn discard(cgroup: &Cgroup) -> Result<u64> {
    cgroup.kill()?;
    cgroup.wait_empty(DEATH_LIMIT)?;
    // Without the controller nothing is killed.
    let kills = cgroup.oom_kills().unwrap_or(0);
    cgroup.remove()?;
    Ok(kills)
}

fn told_of_memory(error: Error, cgroup: &Cgroup) -> Error {
    match error {
        Error::Died { .. } => Error::Died {
            oom: cgroup.oom_kills().is_ok_and(|kills| kills > 0),
        },
        error => error,
    }
}

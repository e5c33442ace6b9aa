//! A host in memory for tests and simulation: processes, cgroups, mounts and folders as sets; no
//! clock but tokio's, no chance.
//!
//! Work is done in steps that take time, so that a crash between two of them leaves the host as a
//! real crash would. Other fakes put their processes and mounts here, and checkers ask what leaks.

use crate::{
    Cleared, Error, Swept,
    cgroup::CgroupPath,
    premises::{cgroups, default_spec},
    turns::Turns,
};
use runtime_core::{
    error::{Fault, Kind, fault},
    ids::{HostProcess, SandboxUid},
    kit::Work,
    premises::{Cgroup, HookRun, Premises, PremisesSpec, Spent},
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};
use tokio::{sync::oneshot, time::sleep};

/// About what making a folder or a cgroup takes.
const STEP: Duration = Duration::from_micros(200);

/// The host; clones are the same one, and outlive the daemon that uses it.
#[derive(Clone)]
pub struct FakePremises {
    world: Rc<RefCell<World>>,
    hear: Rc<RefCell<Hear>>,
    turns: Turns,
}

type Hear = Box<dyn FnMut(&News)>;

/// What others who keep something on this host hear of it, at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    Ended(HostProcess),
    Unmounted(PathBuf),
    /// With everything in it.
    FolderRemoved(PathBuf),
}

#[derive(Debug)]
struct World {
    root: PathBuf,
    /// `None`: a process of somebody else's, in no cgroup of ours.
    processes: BTreeMap<HostProcess, Option<CgroupPath>>,
    processes_made: u32,
    /// Not told yet.
    news: Vec<News>,
    cgroups: BTreeSet<CgroupPath>,
    mounts: BTreeSet<PathBuf>,
    /// With what each says of itself, once it does.
    folders: BTreeMap<PathBuf, Option<PremisesSpec>>,
    watchers: Vec<(HostProcess, oneshot::Sender<()>)>,
    step: Duration,
    faults: Vec<Fault>,
    /// What was to run, and what it was told.
    hooks: Vec<(String, Vec<u8>)>,
}

/// Something on the host that belongs to no known sandbox.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leak {
    Process(HostProcess),
    Cgroup(String),
    Mount(PathBuf),
    Folder(PathBuf),
}

impl FakePremises {
    pub fn new(root: PathBuf) -> Self {
        let world = World {
            root,
            processes: BTreeMap::new(),
            processes_made: 0,
            news: Vec::new(),
            cgroups: BTreeSet::new(),
            mounts: BTreeSet::new(),
            folders: BTreeMap::new(),
            watchers: Vec::new(),
            step: STEP,
            faults: Vec::new(),
            hooks: Vec::new(),
        };
        Self {
            world: Rc::new(RefCell::new(world)),
            hear: Rc::new(RefCell::new(Box::new(|_| {}))),
            turns: Turns::default(),
        }
    }

    /// From now on `hear` is told what ends and what goes, before anyone else acts on it.
    pub fn watch(&self, hear: impl FnMut(&News) + 'static) {
        *self.hear.borrow_mut() = Box::new(hear);
    }

    /// Changes the world, then tells what came of it. Whoever hears may change it again, which
    /// is told in turn by this call.
    fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let value = change(&mut self.world.borrow_mut());
        // Busy: whoever tells now goes on with what was added.
        if let Ok(mut hear) = self.hear.try_borrow_mut() {
            loop {
                let news = std::mem::take(&mut self.world.borrow_mut().news);
                if news.is_empty() {
                    break;
                }
                news.iter().for_each(&mut *hear);
            }
        }
        value
    }

    /// From now on each step takes this long.
    pub fn set_step_time(&self, step: Duration) {
        self.world.borrow_mut().step = step;
    }

    /// The next `prepare`, `clear` or `kill` fails with this, once; several fail in turn.
    pub fn fail_next(&self, fault: Fault) {
        self.world.borrow_mut().faults.push(fault);
    }

    /// A process is born in a cgroup, as a VMM or a helper is.
    ///
    /// # Errors
    /// There is no such cgroup.
    pub fn spawn(&self, cgroup: &Cgroup) -> Result<HostProcess, Fault> {
        let path = CgroupPath::try_from(cgroup).map_err(|error| fault(&error))?;
        let mut world = self.world.borrow_mut();
        if !world.cgroups.contains(&path) {
            let missing = format!("join cgroup {path}: it does not exist");
            return Err(Fault::new(Kind::NotFound, missing));
        }
        Ok(world.begin(Some(path)))
    }

    /// A process that is not ours is born: a relay, for one.
    pub fn spawn_apart(&self) -> HostProcess {
        self.world.borrow_mut().begin(None)
    }

    /// The process ends by itself. One that is gone is already so.
    pub fn exit(&self, process: HostProcess) {
        self.change(|world| world.end(process));
    }

    pub fn is_alive(&self, process: HostProcess) -> bool {
        self.world.borrow().processes.contains_key(&process)
    }

    /// The living members of a cgroup and those below it.
    pub fn members(&self, cgroup: &Cgroup) -> Vec<HostProcess> {
        let Ok(path) = CgroupPath::try_from(cgroup) else {
            return Vec::new();
        };
        self.world.borrow().members(&path)
    }

    /// Something is mounted there.
    pub fn mount(&self, point: PathBuf) {
        self.world.borrow_mut().mounts.insert(point);
    }

    /// With everything that is mounted below it.
    pub fn unmount(&self, point: &Path) {
        self.change(|world| world.unmount_below(point));
    }

    pub fn is_mounted(&self, point: &Path) -> bool {
        self.world.borrow().mounts.contains(point)
    }

    /// Every mount there is, in order.
    pub fn mounts(&self) -> Vec<PathBuf> {
        self.world.borrow().mounts.iter().cloned().collect()
    }

    /// The host is restarted: nothing outlives it but what is on its disk, and none of this is.
    pub fn reboot(&self) {
        self.change(|world| {
            let processes: Vec<_> = world.processes.keys().copied().collect();
            for process in processes {
                world.end(process);
            }
            world.cgroups.clear();
            world.unmount_below(Path::new("/"));
            let folders = std::mem::take(&mut world.folders).into_keys();
            world.news.extend(folders.map(News::FolderRemoved));
        });
    }

    /// Everything on the host that does not belong to a `known` sandbox, in order.
    pub fn leaks(&self, known: &BTreeSet<SandboxUid>) -> Vec<Leak> {
        let world = self.world.borrow();
        let known: Vec<_> = known.iter().map(|&uid| world.spec(uid)).collect();
        let all_held = known.iter().filter_map(|spec| cgroups(spec).ok());
        let lodged = known.iter().flat_map(|spec| &spec.lodged);
        let lodged = lodged.filter_map(|cgroup| CgroupPath::try_from(cgroup).ok());
        let all_held: Vec<_> = all_held.flatten().chain(lodged).collect();
        let held = |path: &CgroupPath| {
            // The parents of a cgroup that is held are held as well.
            let is_held = |held: &CgroupPath| held.contains(path) || path.contains(held);
            all_held.iter().any(is_held)
        };
        let in_folder = |path: &&PathBuf| known.iter().any(|spec| path.starts_with(&spec.folder));
        let processes = world.processes.iter();
        let processes = processes.filter(|(_, cgroup)| cgroup.as_ref().is_some_and(|c| !held(c)));
        let cgroups = world.cgroups.iter().filter(|path| !held(path));
        let mounts = world.mounts.iter().filter(|path| !in_folder(path));
        let folders = world.folders.keys().filter(|path| !in_folder(path));
        let processes = processes.map(|(process, _)| Leak::Process(*process));
        let cgroups = cgroups.map(|path| Leak::Cgroup(path.to_string()));
        let mounts = mounts.map(|path| Leak::Mount(path.clone()));
        let folders = folders.map(|path| Leak::Folder(path.clone()));
        processes
            .chain(cgroups)
            .chain(mounts)
            .chain(folders)
            .collect()
    }

    /// As [`crate::HostPremises::sweep`].
    pub fn sweep(&self, known: BTreeSet<SandboxUid>) -> Work<Result<Vec<Swept>, Fault>> {
        let host = self.clone();
        Box::pin(async move {
            host.step().await;
            let unknown: Vec<_> = {
                let world = host.world.borrow();
                let folders = world.folders.keys();
                let uids = folders.filter_map(|path| path.file_name()?.to_str()?.parse().ok());
                uids.filter(|uid| !known.contains(uid)).collect()
            };
            let mut report = Vec::new();
            for uid in unknown {
                let spec = host.world.borrow().spec(uid);
                report.push(Swept {
                    name: uid.to_string(),
                    cleared: host.clear_all(&spec).await,
                    fault: None,
                });
            }
            Ok(report)
        })
    }

    /// As [`crate::HostPremises::claims`].
    pub fn claims(&self) -> Work<Result<Vec<PremisesSpec>, Fault>> {
        let host = self.clone();
        Box::pin(async move {
            host.step().await;
            let world = host.world.borrow();
            let folders = world.folders.keys();
            let uids = folders.filter_map(|path| path.file_name()?.to_str()?.parse().ok());
            Ok(uids.map(|uid| world.spec(uid)).collect())
        })
    }

    async fn step(&self) {
        let step = self.world.borrow().step;
        sleep(step).await;
    }

    fn failing(&self) -> Option<Fault> {
        let faults = &mut self.world.borrow_mut().faults;
        (!faults.is_empty()).then(|| faults.remove(0))
    }

    fn check(&self, spec: &PremisesSpec) -> Result<Vec<CgroupPath>, Fault> {
        if spec.folder != default_spec(&self.world.borrow().root, spec.uid).folder {
            return Err(fault(&Error::ForeignFolder {
                uid: spec.uid,
                path: spec.folder.clone(),
            }));
        }
        cgroups(spec).map_err(|error| fault(&error))
    }

    async fn clear_all(&self, spec: &PremisesSpec) -> Cleared {
        let cgroups = cgroups(spec).unwrap_or_default();
        let mut cleared = Cleared::default();
        for cgroup in &cgroups {
            self.step().await;
            self.change(|world| {
                for process in world.members(cgroup) {
                    cleared.killed.insert(process.pid);
                    world.end(process);
                }
            });
        }
        self.step().await;
        cleared.unmounted = self.change(|world| world.unmount_below(&spec.folder));
        self.step().await;
        for cgroup in &cgroups {
            self.world.borrow_mut().remove_cgroup(cgroup);
        }
        let lodged = self.world.borrow().spec(spec.uid).lodged;
        for cgroup in &lodged {
            if let Ok(path) = CgroupPath::try_from(cgroup) {
                // Busy: whoever is in it is none of ours.
                let _ = self.world.borrow_mut().vacate(spec.uid, cgroup, &path);
            }
        }
        self.step().await;
        self.change(|world| {
            if world.folders.remove(&spec.folder).is_some() {
                world.news.push(News::FolderRemoved(spec.folder.clone()));
            }
        });
        cleared
    }
}

impl fmt::Debug for FakePremises {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.world.borrow().fmt(f)
    }
}

impl FakePremises {
    /// A hook is about to be run, whatever becomes of it.
    pub fn note_hook(&self, run: &HookRun) {
        let told = (run.hook.name.clone(), run.state.clone());
        self.world.borrow_mut().hooks.push(told);
    }

    /// Hooks that were to run so far, and what each was told, in order.
    pub fn hooks_run(&self) -> Vec<(String, Vec<u8>)> {
        self.world.borrow().hooks.clone()
    }
}

impl Premises for FakePremises {
    fn prepare(&self, spec: PremisesSpec) -> Work<Result<(), Fault>> {
        let host = self.clone();
        let mut turn = self.turns.take(spec.uid);
        Box::pin(async move {
            turn.come().await;
            let cgroups = host.check(&spec)?;
            host.step().await;
            host.world.borrow_mut().claim(spec);
            for cgroup in cgroups {
                host.step().await;
                if let Some(fault) = host.failing() {
                    return Err(fault);
                }
                let made = cgroup.ladder();
                host.world.borrow_mut().cgroups.extend(made);
            }
            Ok(())
        })
    }

    fn lodge(&self, uid: SandboxUid, cgroup: Cgroup) -> Work<Result<(), Fault>> {
        let host = self.clone();
        let mut turn = self.turns.take(uid);
        Box::pin(async move {
            turn.come().await;
            let path = CgroupPath::try_from(&cgroup).map_err(|error| fault(&error))?;
            host.step().await;
            if let Some(fault) = host.failing() {
                return Err(fault);
            }
            let mut world = host.world.borrow_mut();
            let mut claim = world.spec(uid);
            if !world.folders.contains_key(&claim.folder) {
                let missing = format!("lodge in cgroup {path}: sandbox {uid} has no premises");
                return Err(Fault::new(Kind::NotFound, missing));
            }
            claim.lodged.insert(cgroup);
            world.claim(claim);
            world.cgroups.extend(path.ladder());
            Ok(())
        })
    }

    fn vacate(&self, uid: SandboxUid, cgroup: Cgroup) -> Work<Result<(), Fault>> {
        let host = self.clone();
        let mut turn = self.turns.take(uid);
        Box::pin(async move {
            turn.come().await;
            let path = CgroupPath::try_from(&cgroup).map_err(|error| fault(&error))?;
            host.step().await;
            host.world.borrow_mut().vacate(uid, &cgroup, &path)
        })
    }

    fn clear(&self, spec: PremisesSpec) -> Work<Result<(), Fault>> {
        let host = self.clone();
        let mut turn = self.turns.take(spec.uid);
        Box::pin(async move {
            turn.come().await;
            host.check(&spec)?;
            if let Some(fault) = host.failing() {
                return Err(fault);
            }
            host.clear_all(&spec).await;
            Ok(())
        })
    }

    fn evict(&self, uid: SandboxUid, _: BTreeSet<SandboxUid>) -> Work<Result<(), Fault>> {
        let host = self.clone();
        let mut turn = self.turns.take(uid);
        Box::pin(async move {
            turn.come().await;
            if let Some(fault) = host.failing() {
                return Err(fault);
            }
            let spec = host.world.borrow().spec(uid);
            host.clear_all(&spec).await;
            Ok(())
        })
    }

    /// A hook is a process of its own for a while; one whose path ends with `fails` fails, and one that
    /// ends with `hangs` runs for its whole timeout.
    fn run_hook(&self, run: HookRun) -> Work<Result<(), Fault>> {
        let host = self.clone();
        Box::pin(async move {
            let hook = run.hook;
            host.step().await;
            if let Some(fault) = host.failing() {
                return Err(fault);
            }
            let path = hook.path.display().to_string();
            let failed =
                |why: &str| Err(Fault::new(Kind::Internal, format!("hook {path:?}: {why}")));
            if path.ends_with("fails") {
                return failed("exit code 1");
            }
            if path.ends_with("hangs") {
                sleep(Duration::from_secs(hook.timeout_s.unwrap_or(600).into())).await;
                return failed("not over in time");
            }
            Ok(())
        })
    }

    fn ended(&self, process: HostProcess) -> Work<()> {
        let (tell, told) = oneshot::channel();
        let mut world = self.world.borrow_mut();
        if world.processes.contains_key(&process) {
            world.watchers.push((process, tell));
        }
        Box::pin(async move {
            // Told, or dropped because the process was not there.
            let _ = told.await;
        })
    }

    fn spent(&self, cgroup: Cgroup) -> Work<Result<Spent, Fault>> {
        let processes = u32::try_from(self.members(&cgroup).len()).unwrap_or(u32::MAX);
        Box::pin(async move { Ok(costs(processes)) })
    }

    fn spent_by(&self, processes: Vec<HostProcess>) -> Work<Result<Spent, Fault>> {
        let living = processes.iter().filter(|process| self.is_alive(**process));
        let processes = u32::try_from(living.count()).unwrap_or(u32::MAX);
        Box::pin(async move { Ok(costs(processes)) })
    }

    /// A relay that obeys at once.
    fn dismiss(&self, relay: HostProcess, _: u8) -> Work<Result<(), Fault>> {
        self.change(|world| world.end(relay));
        Box::pin(async { Ok(()) })
    }

    fn kill(&self, process: HostProcess) -> Work<Result<(), Fault>> {
        let failing = self.failing();
        if failing.is_none() {
            self.change(|world| world.end(process));
        }
        Box::pin(async { failing.map_or(Ok(()), Err) })
    }
}

/// Each process costs something.
fn costs(processes: u32) -> Spent {
    Spent {
        cpu_usec: 1_000 * u64::from(processes),
        memory_bytes: 4096 * u64::from(processes),
        processes,
    }
}

impl World {
    fn spec(&self, uid: SandboxUid) -> PremisesSpec {
        let spec = default_spec(&self.root, uid);
        let claim = self.folders.get(&spec.folder).cloned().flatten();
        claim.unwrap_or(spec)
    }

    fn claim(&mut self, spec: PremisesSpec) {
        self.folders.insert(spec.folder.clone(), Some(spec));
    }

    fn vacate(&mut self, uid: SandboxUid, cgroup: &Cgroup, path: &CgroupPath) -> Result<(), Fault> {
        let below = |other: &CgroupPath| other != path && path.contains(other);
        if self.cgroups.iter().any(below) {
            return Ok(());
        }
        if !self.members(path).is_empty() {
            let busy = format!("cgroup {path}: still busy");
            return Err(Fault::new(Kind::Timeout, busy));
        }
        self.cgroups.remove(path);
        let mut claim = self.spec(uid);
        if claim.lodged.remove(cgroup) {
            self.claim(claim);
        }
        Ok(())
    }

    fn begin(&mut self, cgroup: Option<CgroupPath>) -> HostProcess {
        self.processes_made += 1;
        let process = HostProcess {
            pid: self.processes_made,
            start_time: u64::from(self.processes_made),
        };
        self.processes.insert(process, cgroup);
        process
    }

    fn end(&mut self, process: HostProcess) {
        if self.processes.remove(&process).is_some() {
            self.news.push(News::Ended(process));
        }
        for (_, tell) in self
            .watchers
            .extract_if(.., |(watched, _)| *watched == process)
        {
            // Whoever gave up watching is not missed.
            let _ = tell.send(());
        }
    }

    fn members(&self, cgroup: &CgroupPath) -> Vec<HostProcess> {
        let members = self.processes.iter();
        let inside = |lives_in: &Option<CgroupPath>| {
            lives_in
                .as_ref()
                .is_some_and(|place| cgroup.contains(place))
        };
        let members = members.filter(|(_, lives_in)| inside(lives_in));
        members.map(|(process, _)| *process).collect()
    }

    fn unmount_below(&mut self, folder: &Path) -> Vec<PathBuf> {
        let below = self
            .mounts
            .extract_if(.., |point| point.starts_with(folder));
        let gone: Vec<_> = below.collect();
        self.news.extend(gone.iter().cloned().map(News::Unmounted));
        gone
    }

    /// With those below it, and the parents under `/hutch` that it leaves empty.
    fn remove_cgroup(&mut self, cgroup: &CgroupPath) {
        self.cgroups.retain(|known| !cgroup.contains(known));
        let mut parent = cgroup.parent().filter(|_| cgroup.is_ours());
        while let Some(empty) = parent {
            let in_use = |known: &CgroupPath| *known != empty && empty.contains(known);
            if self.cgroups.iter().any(in_use) || !self.members(&empty).is_empty() {
                return;
            }
            self.cgroups.remove(&empty);
            parent = empty.parent();
        }
    }
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(process) => write!(f, "process {process}"),
            Self::Cgroup(path) => write!(f, "cgroup {path}"),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Folder(path) => write!(f, "folder {}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(uids: &[SandboxUid]) -> BTreeSet<SandboxUid> {
        uids.iter().copied().collect()
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn everything_of_an_unknown_sandbox_leaks_and_nothing_of_a_known_one() {
        let host = FakePremises::new("/run/hutch".into());
        let uid = SandboxUid::from_random(1);
        let spec = default_spec(Path::new("/run/hutch"), uid);
        host.prepare(spec.clone()).await.unwrap();
        let vmm = host.spawn(&spec.vmm).unwrap();
        host.mount(spec.folder.join("share/1"));

        assert_eq!(host.leaks(&known(&[uid])), []);
        let leaks = host.leaks(&known(&[]));
        assert!(leaks.contains(&Leak::Process(vmm)));
        assert!(leaks.contains(&Leak::Cgroup("/hutch".into())));
        assert!(leaks.contains(&Leak::Mount(spec.folder.join("share/1"))));
        assert!(leaks.contains(&Leak::Folder(spec.folder.clone())));

        host.clear(spec).await.unwrap();
        assert_eq!(host.leaks(&known(&[])), []);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn whoever_watches_hears_of_every_end_once_and_may_act_on_it() {
        let host = FakePremises::new("/run/hutch".into());
        let spec = default_spec(Path::new("/run/hutch"), SandboxUid::from_random(1));
        host.prepare(spec.clone()).await.unwrap();
        let (vmm, helper) = (
            host.spawn(&spec.vmm).unwrap(),
            host.spawn(&spec.helpers).unwrap(),
        );
        let relay = host.spawn_apart();
        host.mount(spec.folder.join("share"));
        let heard = Rc::new(RefCell::new(Vec::new()));
        host.watch({
            let (host, heard) = (host.clone(), heard.clone());
            move |news| {
                heard.borrow_mut().push(news.clone());
                if *news == News::Ended(vmm) {
                    host.exit(helper);
                }
            }
        });

        host.exit(vmm);
        host.exit(vmm);
        host.clear(spec.clone()).await.unwrap();

        let unmounted = News::Unmounted(spec.folder.join("share"));
        assert_eq!(
            *heard.borrow(),
            [
                News::Ended(vmm),
                News::Ended(helper),
                unmounted,
                News::FolderRemoved(spec.folder)
            ]
        );
        assert!(host.is_alive(relay));
        assert_eq!(host.leaks(&known(&[])), []);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_daemon_that_crashes_while_it_prepares_leaves_a_part() {
        let host = FakePremises::new("/run/hutch".into());
        let spec = default_spec(Path::new("/run/hutch"), SandboxUid::from_random(1));
        host.set_step_time(Duration::from_secs(1));

        let half = Duration::from_millis(1500);
        let crashed = tokio::time::timeout(half, host.prepare(spec.clone())).await;

        assert!(crashed.is_err());
        assert_eq!(host.leaks(&known(&[])), [Leak::Folder(spec.folder)]);
        let swept = host.sweep(known(&[])).await.unwrap();
        assert_eq!(swept.len(), 1);
        assert_eq!(host.leaks(&known(&[])), []);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_fault_is_told_once() {
        let host = FakePremises::new("/run/hutch".into());
        let spec = default_spec(Path::new("/run/hutch"), SandboxUid::from_random(1));
        host.fail_next(Fault::new(Kind::Internal, "disk full"));

        assert!(host.prepare(spec.clone()).await.is_err());
        assert!(host.prepare(spec.clone()).await.is_ok());

        host.reboot();
        assert_eq!(host.leaks(&known(&[])), []);
    }
}

//! The driver of the [`Premises`] port: what a sandbox occupies on this host, made and cleared.
//!
//! A sandbox's folder is the claim: it is made first and removed last, and says in a file which
//! cgroups belong to it. So what a crash leaves behind is found without any record.

use crate::{
    Doing, Error, PidFd,
    cgroup::{CgroupPath, Hierarchies, KILL_LIMIT, REMOVE_LIMIT},
    folder,
    hooks::{self, Hook},
    mounts, proc, spent,
    turns::Turns,
};
use runtime_core::{
    error::{Fault, fault},
    ids::{HostProcess, SandboxUid},
    kit::Work,
    premises::{Cgroup, HookRun, Premises, PremisesSpec, Spent},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{task::spawn_blocking, time::sleep};

/// Below the root: one folder for each sandbox.
const SANDBOXES: &str = "s";
/// Inside a sandbox's folder: its [`PremisesSpec`] as JSON. Not exported to the guest.
const CLAIM: &str = "premises.json";
/// Only where the host has no file descriptor left for a pidfd.
const POLL: Duration = Duration::from_secs(1);

/// The premises below one root folder. Clones are the same.
#[derive(Debug, Clone)]
pub struct HostPremises {
    pub(crate) house: Arc<House>,
    turns: Turns,
}

#[derive(Debug)]
pub(crate) struct House {
    pub root: PathBuf,
    pub hierarchies: Hierarchies,
}

/// What clearing met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleared {
    pub killed: BTreeSet<u32>,
    pub unmounted: Vec<PathBuf>,
}

impl HostPremises {
    /// # Errors
    /// The host has no cgroup hierarchy that can be written.
    pub fn new(root: PathBuf) -> Result<Self, Error> {
        let hierarchies = Hierarchies::discover()?;
        Ok(Self {
            house: Arc::new(House { root, hierarchies }),
            turns: Turns::default(),
        })
    }

    pub fn hierarchies(&self) -> &Hierarchies {
        &self.house.hierarchies
    }

    /// The sandboxes that claim premises here, whatever the records say: where those were lost,
    /// what lives is found by this. One whose claim does not read has what a sandbox has by default. These are
    /// all that a sweep would look at.
    ///
    /// # Errors
    /// A folder or a hierarchy of cgroups does not read.
    pub fn claims(&self) -> Work<Result<Vec<PremisesSpec>, Fault>> {
        self.blocking(House::claims)
    }

    pub(crate) fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&House) -> Result<T, Error> + Send + 'static,
    ) -> Work<Result<T, Fault>> {
        let house = self.house.clone();
        // Begun now, so that the work is done even if nobody waits for it.
        let work = spawn_blocking(move || work(&house));
        Box::pin(async move {
            let outcome = work.await.unwrap_or(Err(Error::WorkPanicked));
            outcome.map_err(|error| fault(&error))
        })
    }
}

impl Premises for HostPremises {
    fn prepare(&self, spec: PremisesSpec) -> Work<Result<(), Fault>> {
        let mut turn = self.turns.take(spec.uid);
        self.blocking(move |house| {
            turn.wait();
            house.prepare(&spec)
        })
    }

    fn lodge(&self, uid: SandboxUid, cgroup: Cgroup) -> Work<Result<(), Fault>> {
        let mut turn = self.turns.take(uid);
        self.blocking(move |house| {
            turn.wait();
            house.lodge(uid, cgroup)
        })
    }

    fn vacate(&self, uid: SandboxUid, cgroup: Cgroup) -> Work<Result<(), Fault>> {
        let mut turn = self.turns.take(uid);
        self.blocking(move |house| {
            turn.wait();
            house.vacate(uid, &cgroup)
        })
    }

    fn clear(&self, spec: PremisesSpec) -> Work<Result<(), Fault>> {
        let mut turn = self.turns.take(spec.uid);
        self.blocking(move |house| {
            turn.wait();
            house.check(&spec)?;
            let (_cleared, errors) = house.clear(&spec);
            Error::join(errors)
        })
    }

    fn evict(&self, uid: SandboxUid, others: BTreeSet<SandboxUid>) -> Work<Result<(), Fault>> {
        let mut turn = self.turns.take(uid);
        let evicted = self.blocking(move |house| {
            turn.wait();
            Ok(house.evict(uid, &others))
        });
        Box::pin(async move { evicted.await? })
    }

    fn run_hook(&self, run: HookRun) -> Work<Result<(), Fault>> {
        Box::pin(async move {
            let hook = Hook::from(run.hook);
            hooks::run_for(&hook, &run.cwd, &run.state).await
        })
    }

    fn spent(&self, cgroup: Cgroup) -> Work<Result<Spent, Fault>> {
        self.blocking(move |house| house.spent(&CgroupPath::try_from(&cgroup)?))
    }

    fn spent_by(&self, processes: Vec<HostProcess>) -> Work<Result<Spent, Fault>> {
        self.blocking(move |_| Ok(spent::spent_by(&processes)))
    }

    fn ended(&self, process: HostProcess) -> Work<()> {
        let pidfd = PidFd::open(process);
        Box::pin(async move {
            let unwatched = match pidfd {
                Ok(None) => return,
                Ok(Some(pidfd)) => match pidfd.ended().await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            tracing::error!(error = %fault(&unwatched), "polling instead");
            while proc::is_alive(process).unwrap_or(true) {
                sleep(POLL).await;
            }
        })
    }

    fn dismiss(&self, relay: HostProcess, exit_code: u8) -> Work<Result<(), Fault>> {
        let dismissed = proc::dismiss(relay, exit_code).map_err(|error| fault(&error));
        Box::pin(async { dismissed })
    }

    fn kill(&self, process: HostProcess) -> Work<Result<(), Fault>> {
        // Two system calls that never block: not worth a thread.
        let killed = proc::kill(process).map_err(|error| fault(&error));
        Box::pin(async { killed })
    }
}

impl House {
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join(SANDBOXES)
    }

    fn claims(&self) -> Result<Vec<PremisesSpec>, Error> {
        let mut claims = BTreeMap::new();
        for folder in folder::list(&self.sandboxes())? {
            let name = folder.file_name().and_then(|name| name.to_str());
            if let Some(uid) = name.and_then(|name| name.parse().ok()) {
                let claim = self.claim(&folder);
                claims.insert(uid, claim.unwrap_or_else(|| default_spec(&self.root, uid)));
            }
        }
        for name in self.hierarchies.marked(&self.root)?.into_keys() {
            if let Ok(uid) = name.parse() {
                claims
                    .entry(uid)
                    .or_insert_with(|| default_spec(&self.root, uid));
            }
        }
        Ok(claims.into_values().collect())
    }

    /// The claim in a folder; `None` if there is none, or one that cannot be its own.
    pub fn claim(&self, folder: &Path) -> Option<PremisesSpec> {
        let text = fs::read(folder.join(CLAIM)).ok()?;
        let claim: PremisesSpec = serde_json::from_slice(&text).ok()?;
        self.check(&claim).ok()?;
        (claim.folder == folder).then_some(claim)
    }

    /// Nothing outside of the root is ever made or removed as a sandbox's folder.
    fn check(&self, spec: &PremisesSpec) -> Result<(), Error> {
        if spec.folder != default_spec(&self.root, spec.uid).folder {
            return Err(Error::ForeignFolder {
                uid: spec.uid,
                path: spec.folder.clone(),
            });
        }
        cgroups(spec).map(drop)
    }

    fn prepare(&self, spec: &PremisesSpec) -> Result<(), Error> {
        self.check(spec)?;
        folder::make(&spec.folder)?;
        write_claim(spec)?;
        for cgroup in cgroups(spec)? {
            self.hierarchies.create(&cgroup)?;
            // `/hutch/<uid>`: found by its mark even if somebody removes the folder.
            if let Some(parent) = cgroup.parent().filter(|parent| parent.is_ours()) {
                self.hierarchies.mark(&parent, &self.root)?;
            }
        }
        Ok(())
    }

    /// Claimed before it is there: what a crash leaves of it is found.
    fn lodge(&self, uid: SandboxUid, cgroup: Cgroup) -> Result<(), Error> {
        let path = CgroupPath::try_from(&cgroup)?;
        let spec = default_spec(&self.root, uid);
        let mut claim = self.claim(&spec.folder).unwrap_or(spec);
        if claim.lodged.insert(cgroup) {
            write_claim(&claim)?;
        }
        self.hierarchies.lodge(&path)
    }

    fn vacate(&self, uid: SandboxUid, cgroup: &Cgroup) -> Result<(), Error> {
        let path = CgroupPath::try_from(cgroup)?;
        let is_gone = self.hierarchies.vacate(&path, REMOVE_LIMIT)?;
        let claim = self.claim(&default_spec(&self.root, uid).folder);
        let Some(mut claim) = claim.filter(|_| is_gone) else {
            return Ok(());
        };
        match claim.lodged.remove(cgroup) {
            true => write_claim(&claim),
            false => Ok(()),
        }
    }

    /// Every step runs, whatever became of those before it.
    pub fn clear(&self, spec: &PremisesSpec) -> (Cleared, Vec<Error>) {
        let mut cleared = Cleared::default();
        let mut errors = Vec::new();
        let cgroups = cgroups(spec).unwrap_or_else(|error| {
            errors.push(error);
            Vec::new()
        });
        for cgroup in &cgroups {
            match self.hierarchies.kill(cgroup, KILL_LIMIT) {
                Ok(killed) => cleared.killed.extend(killed),
                Err(error) => errors.push(error),
            }
        }
        match mounts::detach_below(&spec.folder) {
            Ok(unmounted) => cleared.unmounted = unmounted,
            Err(error) => errors.push(error),
        }
        for cgroup in &cgroups {
            errors.extend(self.hierarchies.remove(cgroup, REMOVE_LIMIT).err());
        }
        // The claim knows those that came after the spec.
        let claimed = self.claim(&spec.folder).map(|claim| claim.lodged);
        for cgroup in &claimed.unwrap_or_default() {
            let vacated = CgroupPath::try_from(cgroup)
                .and_then(|path| self.hierarchies.vacate(&path, REMOVE_LIMIT));
            errors.extend(vacated.err());
        }
        errors.extend(folder::remove_tree(&spec.folder).err());
        (cleared, errors)
    }
}

/// What a sandbox has unless its claim says otherwise.
pub(crate) fn default_spec(root: &Path, uid: SandboxUid) -> PremisesSpec {
    PremisesSpec {
        uid,
        folder: root.join(SANDBOXES).join(uid.to_string()),
        vmm: Cgroup(format!("/hutch/{uid}/vmm")),
        helpers: Cgroup(format!("/hutch/{uid}/helpers")),
        lodged: BTreeSet::new(),
    }
}

pub(crate) fn cgroups(spec: &PremisesSpec) -> Result<Vec<CgroupPath>, Error> {
    let paths = [&spec.vmm, &spec.helpers];
    paths.into_iter().map(CgroupPath::try_from).collect()
}

/// Whole or not at all: another life may read it.
fn write_claim(spec: &PremisesSpec) -> Result<(), Error> {
    let path = spec.folder.join(CLAIM);
    let young = spec.folder.join(".premises.json");
    let text = serde_json::to_vec(spec).expect("a spec is text and paths of text");
    fs::write(&young, text).map_err(Error::path(Doing::Write, &young))?;
    fs::rename(&young, &path).map_err(Error::path(Doing::Write, path))
}

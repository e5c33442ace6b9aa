//! What every premises promise, those of this host (as root) and the fake ones alike.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

use host::{HostPremises, Swept, cgroup::CgroupPath, fake::FakePremises, proc};
use runtime_core::{
    error::Fault,
    ids::{HostProcess, SandboxUid},
    kit::Work,
    premises::{Cgroup, Premises, PremisesSpec},
};
use rustix::{
    fs::{AtFlags, CWD, unlinkat},
    mount::mount_bind,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs,
    future::Future,
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_local},
    time::timeout,
};

/// A host whose premises are tried, with what else happens on it.
trait House {
    fn premises(&self) -> &dyn Premises;
    fn sweep(&self, known: BTreeSet<SandboxUid>) -> Work<Result<Vec<Swept>, Fault>>;
    fn claims(&self) -> Work<Result<Vec<PremisesSpec>, Fault>>;
    fn root(&self) -> PathBuf;
    fn uid(&self, number: u64) -> SandboxUid;
    fn spawn(&self, cgroup: &Cgroup) -> HostProcess;
    fn exit(&self, process: HostProcess);
    fn is_alive(&self, process: HostProcess) -> bool;
    /// Mounts something in the sandbox's folder.
    fn mount(&self, spec: &PremisesSpec, name: &str);
    /// What exists of a sandbox: its cgroups, its folder, and what is mounted in it.
    fn traces(&self, spec: &PremisesSpec) -> Vec<String>;
    fn has(&self, cgroup: &Cgroup) -> bool;
}

struct RealHouse {
    place: TempDir,
    premises: HostPremises,
    children: RefCell<BTreeMap<u32, Child>>,
    specs: RefCell<Vec<PremisesSpec>>,
}

impl RealHouse {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("user")).unwrap();
        fs::write(place.path().join("user/precious"), "data").unwrap();
        Self {
            premises: HostPremises::new(place.path().join("root")).unwrap(),
            place,
            children: RefCell::default(),
            specs: RefCell::default(),
        }
    }
}

impl House for RealHouse {
    fn premises(&self) -> &dyn Premises {
        &self.premises
    }

    fn sweep(&self, known: BTreeSet<SandboxUid>) -> Work<Result<Vec<Swept>, Fault>> {
        self.premises.sweep(known)
    }

    fn claims(&self) -> Work<Result<Vec<PremisesSpec>, Fault>> {
        self.premises.claims()
    }

    fn root(&self) -> PathBuf {
        self.place.path().join("root")
    }

    /// Tests run side by side on one host.
    fn uid(&self, number: u64) -> SandboxUid {
        let mut random = [0; 8];
        let mut file = fs::File::open("/dev/urandom").unwrap();
        file.read_exact(&mut random).unwrap();
        let uid = SandboxUid::from_random((u64::from_le_bytes(random) << 8) | number);
        self.specs.borrow_mut().push(spec(self, uid));
        uid
    }

    fn spawn(&self, cgroup: &Cgroup) -> HostProcess {
        let mut script = String::new();
        let path = CgroupPath::try_from(cgroup).unwrap();
        for file in self.premises.hierarchies().procs_files(&path) {
            script += &format!("echo $$ > '{}' || exit 1; ", file.display());
        }
        script += "echo joined; exec sleep 1000";
        let mut child = Command::new("/bin/sh")
            .args(["-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 7];
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut line).expect("it joins");
        let process = proc::identify(child.id()).unwrap().unwrap();
        self.children.borrow_mut().insert(process.pid, child);
        process
    }

    fn exit(&self, process: HostProcess) {
        let mut children = self.children.borrow_mut();
        let child = children.get_mut(&process.pid).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn is_alive(&self, process: HostProcess) -> bool {
        proc::is_alive(process).unwrap()
    }

    fn mount(&self, spec: &PremisesSpec, name: &str) {
        let point = spec.folder.join(name);
        fs::create_dir_all(&point).unwrap();
        mount_bind(self.place.path().join("user"), point).unwrap();
    }

    fn traces(&self, spec: &PremisesSpec) -> Vec<String> {
        let precious = fs::read(self.place.path().join("user/precious"));
        assert_eq!(precious.unwrap(), b"data", "what was mounted was harmed");
        let mut traces = Vec::new();
        for cgroup in [&spec.vmm, &spec.helpers] {
            let path = CgroupPath::try_from(cgroup).unwrap();
            if self.premises.hierarchies().exists(&path) {
                traces.push(format!("cgroup {path}"));
            }
        }
        let mounts = host::mounts::below(&spec.folder).unwrap();
        traces.extend(
            mounts
                .iter()
                .map(|point| format!("mount {}", point.display())),
        );
        if spec.folder.symlink_metadata().is_ok() {
            traces.push(format!("folder {}", spec.folder.display()));
        }
        traces
    }

    fn has(&self, cgroup: &Cgroup) -> bool {
        let path = CgroupPath::try_from(cgroup).unwrap();
        self.premises.hierarchies().exists(&path)
    }
}

/// Whatever a test did, nothing of it stays on the host.
impl Drop for RealHouse {
    fn drop(&mut self) {
        for child in self.children.get_mut().values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = host::mounts::detach_below(self.place.path());
        let hierarchies = self.premises.hierarchies();
        for spec in self.specs.get_mut() {
            for cgroup in [&spec.vmm, &spec.helpers] {
                if let Ok(path) = CgroupPath::try_from(cgroup) {
                    let _ = hierarchies.kill(&path, Duration::from_secs(5));
                    let _ = hierarchies.remove(&path, Duration::from_secs(5));
                }
            }
        }
    }
}

struct FakeHouse(FakePremises);

impl FakeHouse {
    fn new() -> Self {
        Self(FakePremises::new("/run/hutch".into()))
    }
}

impl House for FakeHouse {
    fn premises(&self) -> &dyn Premises {
        &self.0
    }

    fn sweep(&self, known: BTreeSet<SandboxUid>) -> Work<Result<Vec<Swept>, Fault>> {
        self.0.sweep(known)
    }

    fn claims(&self) -> Work<Result<Vec<PremisesSpec>, Fault>> {
        self.0.claims()
    }

    fn root(&self) -> PathBuf {
        "/run/hutch".into()
    }

    fn uid(&self, number: u64) -> SandboxUid {
        SandboxUid::from_random(number)
    }

    fn spawn(&self, cgroup: &Cgroup) -> HostProcess {
        self.0.spawn(cgroup).unwrap()
    }

    fn exit(&self, process: HostProcess) {
        self.0.exit(process);
    }

    fn is_alive(&self, process: HostProcess) -> bool {
        self.0.is_alive(process)
    }

    fn mount(&self, spec: &PremisesSpec, name: &str) {
        self.0.mount(spec.folder.join(name));
    }

    fn traces(&self, spec: &PremisesSpec) -> Vec<String> {
        let ours = |path: &Path| path.starts_with(&spec.folder);
        let leaks = self.0.leaks(&BTreeSet::new()).into_iter();
        let traces = leaks.filter(|leak| match leak {
            host::fake::Leak::Process(_) => false,
            host::fake::Leak::Cgroup(path) => *path == spec.vmm.0 || *path == spec.helpers.0,
            host::fake::Leak::Mount(path) | host::fake::Leak::Folder(path) => ours(path),
        });
        traces.map(|leak| leak.to_string()).collect()
    }

    fn has(&self, cgroup: &Cgroup) -> bool {
        let leaks = self.0.leaks(&BTreeSet::new());
        leaks.contains(&host::fake::Leak::Cgroup(cgroup.0.clone()))
    }
}

fn run<F: Future<Output = ()>>(paused: bool, test: impl FnOnce() -> F) {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(paused)
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async { test().await });
}

macro_rules! contract {
    ($($name:ident)*) => {
        mod real {
            $(#[test]
            fn $name() {
                super::run(false, || async { super::$name(&super::RealHouse::new()).await });
            })*
        }
        mod fake {
            $(#[test]
            fn $name() {
                super::run(true, || async { super::$name(&super::FakeHouse::new()).await });
            })*
        }
    };
}

contract! {
    premises_are_prepared_and_preparing_again_is_already_so
    clearing_takes_processes_mounts_cgroups_and_the_folder
    clearing_what_was_never_there_or_is_gone_is_already_so
    what_begins_first_is_over_first_even_if_nobody_waits
    clearing_one_sandbox_leaves_another_alone
    cgroups_that_a_caller_named_are_made_and_cleared
    a_callers_cgroup_is_vacated_when_nobody_is_in_it
    clearing_takes_what_was_lodged_after_the_spec
    a_callers_cgroup_that_others_use_stays_theirs
    a_folder_elsewhere_and_a_cgroup_path_that_leads_out_are_refused
    the_end_of_a_process_is_told_and_not_before
    a_process_that_is_gone_has_ended
    every_watcher_hears_of_an_end
    a_kill_meets_exactly_its_process
    what_a_cgroup_spends_is_that_of_all_in_it_and_of_nobody_else
    a_dismissal_of_what_is_gone_or_is_another_is_already_so
    a_sweep_takes_what_no_record_knows_and_leaves_the_known
    a_sweep_of_nothing_reports_nothing
    an_eviction_takes_all_of_one_sandbox_and_what_is_left_of_it
    claims_are_found_without_any_record
}

fn spec(house: &dyn House, uid: SandboxUid) -> PremisesSpec {
    PremisesSpec {
        uid,
        folder: house.root().join("s").join(uid.to_string()),
        vmm: Cgroup(format!("/hutch/{uid}/vmm")),
        helpers: Cgroup(format!("/hutch/{uid}/helpers")),
        lodged: BTreeSet::new(),
    }
}

fn new_spec(house: &dyn House, number: u64) -> PremisesSpec {
    spec(house, house.uid(number))
}

/// A sandbox as it is when it runs.
struct Occupied {
    spec: PremisesSpec,
    processes: Vec<HostProcess>,
}

async fn occupied(house: &dyn House, spec: PremisesSpec) -> Occupied {
    house.premises().prepare(spec.clone()).await.unwrap();
    let processes = vec![
        house.spawn(&spec.vmm),
        house.spawn(&spec.helpers),
        house.spawn(&spec.helpers),
    ];
    house.mount(&spec, "share/1");
    house.mount(&spec, "share/2");
    Occupied { spec, processes }
}

impl Occupied {
    fn assert_gone(&self, house: &dyn House) {
        assert_eq!(house.traces(&self.spec), Vec::<String>::new());
        for &process in &self.processes {
            assert!(!house.is_alive(process), "{process}");
        }
    }

    fn assert_whole(&self, house: &dyn House) {
        assert_eq!(house.traces(&self.spec).len(), 5);
        for &process in &self.processes {
            assert!(house.is_alive(process), "{process}");
        }
    }
}

async fn premises_are_prepared_and_preparing_again_is_already_so(house: &dyn House) {
    let spec = new_spec(house, 1);
    assert!(house.traces(&spec).is_empty());

    house.premises().prepare(spec.clone()).await.unwrap();
    assert_eq!(house.traces(&spec).len(), 3);
    let vmm = house.spawn(&spec.vmm);
    house.premises().prepare(spec.clone()).await.unwrap();

    assert_eq!(house.traces(&spec).len(), 3);
    assert!(house.is_alive(vmm));
    house.premises().clear(spec).await.unwrap();
}

async fn clearing_takes_processes_mounts_cgroups_and_the_folder(house: &dyn House) {
    let sandbox = occupied(house, new_spec(house, 1)).await;
    sandbox.assert_whole(house);

    house.premises().clear(sandbox.spec.clone()).await.unwrap();

    sandbox.assert_gone(house);
}

async fn clearing_what_was_never_there_or_is_gone_is_already_so(house: &dyn House) {
    let spec = new_spec(house, 1);

    house.premises().clear(spec.clone()).await.unwrap();
    house.premises().prepare(spec.clone()).await.unwrap();
    house.premises().clear(spec.clone()).await.unwrap();
    house.premises().clear(spec.clone()).await.unwrap();

    assert!(house.traces(&spec).is_empty());
}

async fn what_begins_first_is_over_first_even_if_nobody_waits(house: &dyn House) {
    let spec = new_spec(house, 1);
    for _ in 0..5 {
        drop(spawn_local(house.premises().prepare(spec.clone())));
        let cleared = spawn_local(house.premises().clear(spec.clone()));

        cleared.await.unwrap().unwrap();

        assert!(house.traces(&spec).is_empty());
    }
}

async fn clearing_one_sandbox_leaves_another_alone(house: &dyn House) {
    let one = occupied(house, new_spec(house, 1)).await;
    let other = occupied(house, new_spec(house, 2)).await;

    house.premises().clear(one.spec.clone()).await.unwrap();

    one.assert_gone(house);
    other.assert_whole(house);
    house.premises().clear(other.spec.clone()).await.unwrap();
    other.assert_gone(house);
}

async fn cgroups_that_a_caller_named_are_made_and_cleared(house: &dyn House) {
    let plain = new_spec(house, 1);
    let uid = plain.uid;
    let named = PremisesSpec {
        vmm: Cgroup(format!("/hutch-test-{uid}.slice/pod:1/vmm-{uid}")),
        helpers: Cgroup(format!("/hutch-test-{uid}.slice/pod:1/helpers-{uid}")),
        ..plain
    };

    let sandbox = occupied(house, named).await;
    sandbox.assert_whole(house);
    house.premises().clear(sandbox.spec.clone()).await.unwrap();

    sandbox.assert_gone(house);
    remove_named_parents(uid);
}

async fn what_a_cgroup_spends_is_that_of_all_in_it_and_of_nobody_else(house: &dyn House) {
    let sandbox = occupied(house, new_spec(house, 1)).await;
    let spec = sandbox.spec.clone();
    let other = occupied(house, new_spec(house, 2)).await;

    let vmm = house.premises().spent(spec.vmm.clone()).await.unwrap();
    let helpers = house.premises().spent(spec.helpers.clone()).await.unwrap();
    assert_eq!((vmm.processes, helpers.processes), (1, 2));
    assert!(vmm.memory_bytes > 0 && helpers.memory_bytes > 0);
    let [_, first, second] = sandbox.processes[..] else {
        panic!("{:?}", sandbox.processes)
    };
    let both = house.premises().spent_by(vec![first, second]);
    assert_eq!(both.await.unwrap().processes, 2);
    house.exit(first);
    let helpers = house.premises().spent(spec.helpers.clone()).await.unwrap();
    let both = house.premises().spent_by(vec![first, second]);

    assert_eq!((helpers.processes, both.await.unwrap().processes), (1, 1));
    for one in [sandbox, other] {
        house.premises().clear(one.spec).await.unwrap();
    }
    let gone = house.premises().spent(spec.vmm).await.unwrap();
    assert_eq!(gone.processes, 0);
}

fn callers(uid: SandboxUid) -> Cgroup {
    Cgroup(format!("/hutch-test-{uid}.slice/pod:1"))
}

async fn a_callers_cgroup_is_vacated_when_nobody_is_in_it(house: &dyn House) {
    let spec = new_spec(house, 1);
    let cgroup = callers(spec.uid);
    let premises = house.premises();
    premises.prepare(spec.clone()).await.unwrap();
    premises.lodge(spec.uid, cgroup.clone()).await.unwrap();
    premises.lodge(spec.uid, cgroup.clone()).await.unwrap();
    let relay = house.spawn(&cgroup);
    assert!(house.has(&cgroup) && house.is_alive(relay));
    house.exit(relay);

    premises.vacate(spec.uid, cgroup.clone()).await.unwrap();

    assert!(!house.has(&cgroup));
    premises.vacate(spec.uid, cgroup).await.unwrap();
    premises.clear(spec.clone()).await.unwrap();
    remove_named_parents(spec.uid);
}

async fn clearing_takes_what_was_lodged_after_the_spec(house: &dyn House) {
    let spec = new_spec(house, 1);
    let cgroup = callers(spec.uid);
    let premises = house.premises();
    premises.prepare(spec.clone()).await.unwrap();
    premises.lodge(spec.uid, cgroup.clone()).await.unwrap();
    let claims = house.claims().await.unwrap();
    assert_eq!(claims[0].lodged, BTreeSet::from([cgroup.clone()]));

    premises.clear(spec.clone()).await.unwrap();

    assert!(!house.has(&cgroup));
    assert!(house.traces(&spec).is_empty());
    remove_named_parents(spec.uid);
}

async fn a_callers_cgroup_that_others_use_stays_theirs(house: &dyn House) {
    let [one, other] = [1, 2].map(|number| new_spec(house, number));
    let cgroup = callers(one.uid);
    let inner = Cgroup(format!("{}/inner", cgroup.0));
    let premises = house.premises();
    for (spec, cgroup) in [(&one, &cgroup), (&other, &inner)] {
        premises.prepare(spec.clone()).await.unwrap();
        premises.lodge(spec.uid, cgroup.clone()).await.unwrap();
    }

    premises.vacate(one.uid, cgroup.clone()).await.unwrap();

    assert!(house.has(&cgroup) && house.has(&inner));
    premises.clear(other).await.unwrap();
    assert!(house.has(&cgroup) && !house.has(&inner));
    premises.clear(one.clone()).await.unwrap();
    assert!(!house.has(&cgroup), "nobody uses it any more");
    remove_named_parents(one.uid);
}

/// What the caller named above its sandbox's cgroups is the caller's, and stays.
fn remove_named_parents(uid: SandboxUid) {
    let Ok(hierarchies) = host::cgroup::Hierarchies::discover() else {
        return;
    };
    for path in ["pod:1/", ""] {
        let path = format!("/hutch-test-{uid}.slice/{path}");
        let path = CgroupPath::new(path.trim_end_matches('/')).unwrap();
        for file in hierarchies.procs_files(&path) {
            let _ = unlinkat(CWD, file.parent().unwrap(), AtFlags::REMOVEDIR);
        }
        assert!(!hierarchies.exists(&path), "{path} is left");
    }
}

async fn a_folder_elsewhere_and_a_cgroup_path_that_leads_out_are_refused(house: &dyn House) {
    let good = new_spec(house, 1);
    let elsewhere = PremisesSpec {
        folder: house.root().join("user"),
        ..good.clone()
    };
    let of_another = PremisesSpec {
        folder: new_spec(house, 2).folder,
        ..good.clone()
    };
    let climbing = PremisesSpec {
        vmm: Cgroup("/hutch/../system.slice".into()),
        ..good.clone()
    };
    let everything = PremisesSpec {
        helpers: Cgroup("/".into()),
        ..good.clone()
    };

    for bad in [elsewhere, of_another, climbing, everything] {
        assert!(
            house.premises().prepare(bad.clone()).await.is_err(),
            "{bad:?}"
        );
        assert!(
            house.premises().clear(bad.clone()).await.is_err(),
            "{bad:?}"
        );
    }

    assert!(house.traces(&good).is_empty());
}

async fn the_end_of_a_process_is_told_and_not_before(house: &dyn House) {
    let spec = new_spec(house, 1);
    house.premises().prepare(spec.clone()).await.unwrap();
    let vmm = house.spawn(&spec.vmm);
    let mut ended = house.premises().ended(vmm);
    let early = timeout(Duration::from_millis(50), &mut ended).await;
    assert!(early.is_err());

    house.exit(vmm);

    ended.await;
    assert!(!house.is_alive(vmm));
    house.premises().clear(spec).await.unwrap();
}

async fn a_process_that_is_gone_has_ended(house: &dyn House) {
    let spec = new_spec(house, 1);
    house.premises().prepare(spec.clone()).await.unwrap();
    let vmm = house.spawn(&spec.vmm);
    // The pid is in use, but by another process than the one that is asked for.
    let earlier = HostProcess {
        start_time: vmm.start_time.wrapping_sub(1),
        ..vmm
    };

    house.premises().ended(earlier).await;

    assert!(house.is_alive(vmm));
    house.exit(vmm);
    house.premises().ended(vmm).await;
    house.premises().clear(spec).await.unwrap();
}

async fn every_watcher_hears_of_an_end(house: &dyn House) {
    let spec = new_spec(house, 1);
    house.premises().prepare(spec.clone()).await.unwrap();
    let vmm = house.spawn(&spec.vmm);
    let first = spawn_local(house.premises().ended(vmm));
    let second = spawn_local(house.premises().ended(vmm));
    drop(house.premises().ended(vmm));

    house.premises().kill(vmm).await.unwrap();

    first.await.unwrap();
    second.await.unwrap();
    house.premises().clear(spec).await.unwrap();
}

async fn a_kill_meets_exactly_its_process(house: &dyn House) {
    let spec = new_spec(house, 1);
    house.premises().prepare(spec.clone()).await.unwrap();
    let (vmm, helper) = (house.spawn(&spec.vmm), house.spawn(&spec.helpers));
    let imposter = HostProcess {
        start_time: vmm.start_time + 1,
        ..vmm
    };

    house.premises().kill(imposter).await.unwrap();
    assert!(house.is_alive(vmm));
    house.premises().kill(vmm).await.unwrap();
    house.premises().ended(vmm).await;
    house.premises().kill(vmm).await.unwrap();

    assert!(!house.is_alive(vmm));
    assert!(house.is_alive(helper));
    house.premises().clear(spec).await.unwrap();
}

async fn a_dismissal_of_what_is_gone_or_is_another_is_already_so(house: &dyn House) {
    let spec = new_spec(house, 1);
    house.premises().prepare(spec.clone()).await.unwrap();
    let vmm = house.spawn(&spec.vmm);
    let imposter = HostProcess {
        start_time: vmm.start_time + 1,
        ..vmm
    };

    house.premises().dismiss(imposter, 137).await.unwrap();
    assert!(house.is_alive(vmm));
    house.premises().kill(vmm).await.unwrap();
    house.premises().ended(vmm).await;
    house.premises().dismiss(vmm, 137).await.unwrap();

    house.premises().clear(spec).await.unwrap();
}

async fn a_sweep_takes_what_no_record_knows_and_leaves_the_known(house: &dyn House) {
    let known = occupied(house, new_spec(house, 1)).await;
    let unknown = occupied(house, new_spec(house, 2)).await;
    let empty = new_spec(house, 3);
    house.premises().prepare(empty.clone()).await.unwrap();
    let records = BTreeSet::from([known.spec.uid]);

    let report = house.sweep(records.clone()).await.unwrap();

    known.assert_whole(house);
    unknown.assert_gone(house);
    assert!(house.traces(&empty).is_empty());
    let names: BTreeSet<_> = report.iter().map(|swept| swept.name.clone()).collect();
    let expected = [unknown.spec.uid, empty.uid].map(|uid| uid.to_string());
    assert_eq!(names, BTreeSet::from(expected));
    let of_unknown = report
        .iter()
        .find(|s| s.name == unknown.spec.uid.to_string());
    let cleared = &of_unknown.unwrap().cleared;
    let killed: BTreeSet<_> = unknown.processes.iter().map(|p| p.pid).collect();
    assert_eq!(cleared.killed, killed);
    assert_eq!(cleared.unmounted.len(), 2);
    assert!(report.iter().all(|swept| swept.fault.is_none()));

    assert_eq!(house.sweep(records).await.unwrap(), []);
    house.premises().clear(known.spec.clone()).await.unwrap();
    known.assert_gone(house);
}

async fn a_sweep_of_nothing_reports_nothing(house: &dyn House) {
    assert_eq!(house.sweep(BTreeSet::new()).await.unwrap(), []);
}

async fn an_eviction_takes_all_of_one_sandbox_and_what_is_left_of_it(house: &dyn House) {
    let stays = occupied(house, new_spec(house, 1)).await;
    let goes = occupied(house, new_spec(house, 2)).await;
    let others = BTreeSet::from([stays.spec.uid]);
    let evict = || house.premises().evict(goes.spec.uid, others.clone());

    evict().await.unwrap();
    evict().await.unwrap();

    goes.assert_gone(house);
    stays.assert_whole(house);
    house.premises().clear(stays.spec.clone()).await.unwrap();
}

async fn claims_are_found_without_any_record(house: &dyn House) {
    let (one, other) = (new_spec(house, 1), new_spec(house, 2));
    house.premises().prepare(one.clone()).await.unwrap();
    house.premises().prepare(other.clone()).await.unwrap();

    let mut claims = house.claims().await.unwrap();

    claims.sort_by_key(|claim| claim.uid);
    let mut expected = vec![one, other];
    expected.sort_by_key(|claim| claim.uid);
    assert_eq!(claims, expected);
    for spec in expected {
        house.premises().clear(spec).await.unwrap();
    }
    assert_eq!(house.claims().await.unwrap(), []);
}

#[test]
fn a_sandbox_whose_claim_does_not_read_is_claimed_by_its_folder_or_its_cgroup() {
    run(false, || async {
        let house = RealHouse::new();
        let spec = new_spec(&house, 1);
        house.premises().prepare(spec.clone()).await.unwrap();
        fs::write(spec.folder.join("premises.json"), "{").unwrap();

        let by_folder = house.claims().await.unwrap();
        fs::remove_dir_all(&spec.folder).unwrap();
        let by_cgroup = house.claims().await.unwrap();

        let uids = |claims: &[PremisesSpec]| claims.iter().map(|claim| claim.uid).collect();
        let (by_folder, by_cgroup): (Vec<_>, Vec<_>) = (uids(&by_folder), uids(&by_cgroup));
        assert_eq!(by_folder, [spec.uid]);
        assert_eq!(by_cgroup, [spec.uid]);
        house.premises().clear(spec.clone()).await.unwrap();
        assert_eq!(house.claims().await.unwrap(), []);
    });
}

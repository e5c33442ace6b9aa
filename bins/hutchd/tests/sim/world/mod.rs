//! A host in memory with everything that Hutch needs of one, and the production daemon on it.
//!
//! The fakes are joined: a VMM and a virtiofsd are processes of the premises in their recorded
//! cgroups, as is what carries a channel, clearing a cgroup kills them, a guest lives exactly as long as its VMM, a mount or a
//! namespace goes with its folder, and a reboot leaves nothing but the disk. Runs on one thread
//! under tokio's paused clock; all chance comes from a seed.

#![allow(dead_code)] // Whoever includes it uses its own part.

mod binds;
pub mod client;
mod daemon;
pub mod dice;
mod disks;
pub mod fate;
mod joints;
pub mod ledger;
pub mod log;
mod ports;
mod sandboxes;

pub use fate::Weather;

use agent_client::fake::FakeGuest;
use daemon::Served;
use devices::{fake::FakeShares, plan::Nature};
use dice::Dice;
use fate::{Fates, Life};
use host::fake::FakePremises;
use hutchd::channel::Channel;
use hypervisor::{
    fake::{FakeHost, FakeVmm},
    port::ExitHow,
};
use joints::Guests;
use ledger::Ledger;
use log::Log;
use netns::fake::FakeNamespaces;
use runtime_core::{
    agent::FsType,
    container::{ContainerRecord, ContainerState, FreezerRecord},
    host::{DeletionRecord, Drain, Place},
    hypervisor::VmStatus,
    ids::{EpochMs, HostProcess, ProcessId, SandboxUid},
    premises::Cgroup,
    process::{ProcessRecord, ProcessState},
    records::decode,
    sandbox::{Phase, SandboxRecord},
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};
use store::fake::FakeDisk;
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

pub const ROOT: &str = "/run/hutch";
/// The bundle that is there.
pub const BUNDLE: &str = "/bundle";
/// What the host's clock says when a world begins.
const EPOCH: EpochMs = EpochMs(1_700_000_000_000);
/// From a daemon's death until somebody starts the next one.
const RESTART: Duration = Duration::from_millis(30);
/// As the real daemon's.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// A broken world breaks in every step from then on; the first ones tell why.
const VIOLATIONS_MAX: usize = 20;

/// Virtual time passes.
pub async fn pass(time: Duration) {
    // tidy: the clock is paused; this is virtual time
    tokio::time::sleep(time).await;
}

pub struct World {
    pub log: Log,
    pub fates: Rc<Fates>,
    pub dice: Dice,
    pub premises: FakePremises,
    pub vms: FakeHost,
    pub shares: FakeShares,
    pub namespaces: FakeNamespaces,
    /// Of every guest here.
    channel: Channel,
    guests: Guests,
    disk: RefCell<FakeDisk>,
    boots: Cell<u32>,
    lives: Cell<u32>,
    life: RefCell<Option<Rc<Life>>>,
    served: RefCell<Served>,
    serves: Notify,
    begun: Instant,
    violations: RefCell<Vec<String>>,
}

impl World {
    /// An empty host; nobody started a daemon yet. Within a runtime.
    pub fn new(seed: u64, weather: Weather) -> Rc<Self> {
        let (dice, log) = (Dice::new(seed), Log::new());
        let channel = *dice.pick(&[Channel::Serial, Channel::Serial, Channel::HybridVsock]);
        log.say(format_args!("channel: {}", channel.name()));
        let premises = FakePremises::new(ROOT.into());
        let guests = Guests::default();
        let shares = FakeShares::new(Rc::new(joints::ShareGround(premises.clone())));
        shares.put(BUNDLE, Nature::Directory);
        shares.put(format!("{BUNDLE}/rootfs"), Nature::Directory);
        let image = Nature::File(Some(FsType::Ext4));
        shares.put(format!("{BUNDLE}/image"), image);
        shares.put(format!("{BUNDLE}/data"), Nature::Directory);
        shares.put(format!("{BUNDLE}/hosts"), Nature::File(None));
        shares.put(format!("{BUNDLE}/disk"), Nature::BlockDevice(None));
        shares.put_published(format!("{BUNDLE}/config"));
        shares.put(daemon::VIRTIOFSD, Nature::File(None));
        let namespaces = FakeNamespaces::default();
        let vms = FakeHost::on(Rc::new(joints::VmmGround {
            premises: premises.clone(),
            guests: guests.clone(),
            shares: shares.clone(),
        }));
        joints::join(&premises, &vms, &shares, &namespaces);
        Rc::new(Self {
            fates: Rc::new(Fates::new(log.clone(), dice.fork(), weather)),
            log,
            dice,
            premises,
            vms,
            shares,
            namespaces,
            channel,
            guests,
            disk: RefCell::default(),
            boots: Cell::new(1),
            lives: Cell::new(0),
            life: RefCell::default(),
            served: RefCell::new(Served::Nothing),
            serves: Notify::new(),
            begun: Instant::now(),
            violations: RefCell::default(),
        })
    }

    pub fn guest(&self, uid: SandboxUid) -> FakeGuest {
        self.guests.of(uid)
    }

    pub fn now(&self) -> EpochMs {
        let since = self.begun.elapsed().as_millis();
        EpochMs(EPOCH.0 + u64::try_from(since).expect("a story ends"))
    }

    fn boot_id(&self) -> String {
        format!("boot-{}", self.boots.get())
    }

    fn vmm(&self) -> FakeVmm {
        self.vms.driver()
    }

    /// What a daemon that starts now would find on record.
    pub fn on_disk(&self) -> BTreeMap<String, Vec<u8>> {
        self.disk.borrow().durable()
    }

    /// Keys of what is on record, of one kind.
    pub fn sandboxes_on_disk(&self) -> BTreeSet<SandboxUid> {
        let disk = self.disk.borrow();
        let keys = disk.keys_durable("sandbox/");
        let uids = keys.iter().filter_map(|key| key.strip_prefix("sandbox/"));
        uids.filter_map(|uid| uid.parse().ok()).collect()
    }

    pub fn has_on_disk(&self, key: &str) -> bool {
        let disk = self.disk.borrow();
        disk.keys_durable(key).iter().any(|found| found == key)
    }

    /// Its sandbox was stopped and started again: the guest that there is now never knew it.
    pub fn is_of_an_earlier_vm(&self, place: Place) -> bool {
        let on_disk = self.on_disk();
        let sandbox = on_disk.get(&SandboxRecord::key(place.uid));
        let sandbox = sandbox.and_then(|row| decode::<SandboxRecord>(row).ok());
        sandbox.is_some_and(|sandbox| place.number.0 < sandbox.first_of_vm)
    }

    /// Somebody kills the VMM of a sandbox.
    pub fn kill_vm(&self, uid: SandboxUid, how: ExitHow) {
        self.log.say(format_args!("vmm of {uid} ends: {how}"));
        self.vms.end(uid, how);
    }

    /// Somebody kills what serves a sandbox its files.
    pub fn kill_virtiofsd(&self, uid: SandboxUid) {
        let helpers = Cgroup(format!("/hutch/{uid}/helpers"));
        let backend = self.vms.backend(uid);
        for process in self.premises.members(&helpers) {
            if Some(process) != backend {
                self.premises.exit(process);
            }
        }
    }

    /// Somebody kills what carries the channel of a sandbox; of some nothing does.
    pub fn kill_backend(&self, uid: SandboxUid) {
        if let Some(backend) = self.vms.backend(uid) {
            self.premises.exit(backend);
        }
    }

    /// Somebody kills the daemon.
    pub fn kill_daemon(&self) {
        let life = self.life.borrow().clone();
        if let Some(life) = life {
            life.kill("killed");
        }
    }

    /// Somebody ends the daemon as it should be ended.
    pub async fn drain_daemon(&self) {
        let life = self.life.borrow().clone();
        let Some(life) = life.filter(|life| life.is_alive()) else {
            return;
        };
        let host = match &*self.served.borrow() {
            Served::By(host) => host.clone(),
            Served::Nothing => return,
        };
        self.served.replace(Served::Nothing);
        let drained = timeout(DRAIN_MAX, host.send(Drain)).await;
        life.kill(format_args!("drained: {}", drained.is_ok()));
    }

    /// The power goes, and comes back.
    pub fn reboot(&self) {
        self.log.say("the host restarts");
        self.kill_daemon();
        self.boots.set(self.boots.get() + 1);
        self.premises.reboot();
        self.vms.restart();
    }

    pub fn violated(&self, what: impl fmt::Display) {
        let mut violations = self.violations.borrow_mut();
        if violations.len() < VIOLATIONS_MAX {
            self.log.say(format_args!("VIOLATED {what}"));
            violations.push(what.to_string());
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }

    /// What is on the host is on record: whenever the daemon were to die, the next one would
    /// find it.
    pub fn check_records_name_what_exists(&self, after: &str) {
        let known = self.sandboxes_on_disk();
        for leak in self.premises.leaks(&known) {
            self.violated(format_args!("after {after}: {leak} is on no record"));
        }
        for (uid, process) in self.vms.live() {
            if !self.has_on_disk(&format!("hypervisor/{uid}")) {
                self.violated(format_args!(
                    "after {after}: vmm {process} of {uid} is on no record"
                ));
            }
        }
        binds::check_on_record(self, after);
        disks::check_on_record(self, after);
        for path in self.namespaces.things().into_keys() {
            let uid = uid_in(&path);
            if !uid.is_some_and(|uid| self.has_on_disk(&format!("network/{uid}"))) {
                let path = path.display();
                self.violated(format_args!(
                    "after {after}: namespace {path} is on no record"
                ));
            }
        }
    }

    /// At rest, what is on record as living lives, and what is not does not.
    pub fn check_agreement(&self, ledger: &Ledger) {
        let (on_disk, live) = (self.on_disk(), self.vms.live());
        for (key, row) in &on_disk {
            if key.starts_with(SandboxRecord::PREFIX) {
                match decode::<SandboxRecord>(row) {
                    Ok(record) => self.check_sandbox(&record, &live),
                    Err(why) => self.violated(format_args!("{key} does not read: {why}")),
                }
            }
            if key.starts_with("container/") {
                match decode::<ContainerRecord>(row) {
                    Ok(record) => self.check_container(&record, &on_disk, ledger),
                    Err(why) => self.violated(format_args!("{key} does not read: {why}")),
                }
            }
        }
        let keys = on_disk
            .keys()
            .filter(|key| !key.starts_with(DeletionRecord::PREFIX));
        let owners = keys.filter_map(|key| key.split('/').nth(1)?.parse().ok());
        for uid in owners.collect::<BTreeSet<SandboxUid>>() {
            if !self.has_on_disk(&SandboxRecord::key(uid)) {
                self.violated(format_args!(
                    "there are records of {uid}, and none of itself"
                ));
            }
        }
    }

    fn check_sandbox(&self, record: &SandboxRecord, live: &[(SandboxUid, HostProcess)]) {
        let uid = record.spec.uid;
        let vmms: Vec<_> = live
            .iter()
            .filter(|(of, _)| *of == uid)
            .map(|(_, vmm)| *vmm)
            .collect();
        let has_mounts = self
            .premises
            .is_mounted(&record.spec.premises.folder.join("share"));
        let carried = self.vms.backend(uid).is_some();
        let is_carried = self.channel == Channel::HybridVsock;
        let stands = self.vms.is_paused(uid);
        let is_up = |vm: &VmStatus| vmms == [vm.vmm] && has_mounts && carried == is_carried;
        let lives = match (&record.phase, &record.vm) {
            (Phase::Ready | Phase::Running, Some(vm)) => is_up(vm) && !stands,
            (Phase::Paused(_), Some(vm)) => is_up(vm) && stands,
            (Phase::Stopped(_) | Phase::Failed(_), _) => vmms.is_empty() && !has_mounts && !carried,
            (
                Phase::Creating
                | Phase::Starting
                | Phase::Beginning
                | Phase::Quieting
                | Phase::Pausing(_)
                | Phase::Resuming(_)
                | Phase::Stopping(_)
                | Phase::Deleting
                | Phase::Ready
                | Phase::Running
                | Phase::Paused(_),
                _,
            ) => false,
        };
        binds::check_at_rest(self, record);
        disks::check_at_rest(self, record);
        self.check_execs(uid);
        if !lives {
            let phase = &record.phase;
            self.violated(format_args!(
                "at rest {uid} is {phase:?} on record, with vmms {vmms:?}, mounted: {has_mounts}, carried: {carried}, paused: {stands}"
            ));
        }
    }

    /// Each was asked for once, whatever was lost on the way, and what runs is on record.
    fn check_execs(&self, uid: SandboxUid) {
        for exec in self.guest(uid).execs() {
            let key = ProcessRecord::key(uid, exec.container, &exec.process);
            if exec.times > 1 || exec.runs && !self.has_on_disk(&key) {
                self.violated(format_args!("at rest {uid}: {exec:?}, asked for once"));
            }
        }
    }

    fn check_container(
        &self,
        record: &ContainerRecord,
        on_disk: &BTreeMap<String, Vec<u8>>,
        ledger: &Ledger,
    ) {
        let (uid, number) = (record.uid, record.spec.number);
        let sandbox = on_disk.get(&SandboxRecord::key(uid));
        let sandbox = sandbox.and_then(|row| decode::<SandboxRecord>(row).ok());
        // Of an earlier VM, the guest of this one knows nothing.
        let ready = sandbox.is_some_and(|sandbox| {
            let up = matches!(
                sandbox.phase,
                Phase::Ready | Phase::Running | Phase::Paused(_)
            );
            up && number.0 >= sandbox.first_of_vm
        });
        let known = ready && self.guest(uid).knows(number);
        let init = self.guest(uid).outcome(number, &ProcessId::Init);
        let runs = known && init.is_none();
        let agrees = match record.state {
            ContainerState::Creating => false,
            ContainerState::Created | ContainerState::Running => {
                known && self.freezer_agrees(record)
            }
            // For views alone.
            ContainerState::Paused => false,
            // The guest has forgotten it if it was read and left, or if a deletion failed half way that nobody asked
            // for again.
            ContainerState::Stopped(_) => {
                let tried = ledger.was_deletion_tried(Place { uid, number });
                let forgotten = !ready || tried || was_read(record, on_disk);
                (known || forgotten) && !runs
            }
        };
        if !agrees {
            let state = &record.state;
            self.violated(format_args!(
                "at rest {uid}/{number} is {state:?} on record; sandbox ready: {ready}, guest knows it: {known}, and its init runs: {runs}"
            ));
        }
    }

    /// At rest nobody is freezing or thawing, and the guest's container stands as the record says.
    fn freezer_agrees(&self, record: &ContainerRecord) -> bool {
        let frozen = self.guest(record.uid).is_frozen(record.spec.number);
        match record.freezer {
            FreezerRecord::Thawed => !frozen,
            FreezerRecord::Frozen => frozen,
            FreezerRecord::Freezing | FreezerRecord::Thawing | FreezerRecord::Undoing => false,
        }
    }

    /// Nothing is left of anything.
    pub fn check_empty(&self) {
        let on_disk = self.on_disk();
        // Deletions are remembered for a while, for callers who ask again.
        let left = on_disk
            .keys()
            .filter(|key| !key.starts_with(DeletionRecord::PREFIX));
        for key in left {
            self.violated(format_args!("at the end: record {key} is left"));
        }
        for leak in self.premises.leaks(&BTreeSet::new()) {
            self.violated(format_args!("at the end: {leak} is left"));
        }
        for place in self.shares.copies() {
            let place = place.display();
            self.violated(format_args!("at the end: copies in {place} are left"));
        }
        for (uid, process) in self.vms.live() {
            self.violated(format_args!("at the end: vmm {process} of {uid} lives"));
        }
        for path in self.namespaces.things().into_keys() {
            self.violated(format_args!(
                "at the end: namespace {} is left",
                path.display()
            ));
        }
    }

    /// Breaks the ring of who hears of whom.
    pub fn end(&self) {
        self.premises.watch(|_| {});
    }
}

/// Every process of it has exited, and nobody reads of any of them.
fn was_read(container: &ContainerRecord, on_disk: &BTreeMap<String, Vec<u8>>) -> bool {
    let prefix = ProcessRecord::prefix(container.uid, container.spec.number);
    let mut processes = on_disk.iter().filter(|(key, _)| key.starts_with(&prefix));
    processes.all(|(_, row)| {
        let exited = |process: ProcessRecord| {
            matches!(process.state, ProcessState::Exited(_)) && process.relay.is_none()
        };
        decode(row).is_ok_and(exited)
    })
}

/// The sandbox to whose folder a path belongs.
fn uid_in(path: &std::path::Path) -> Option<SandboxUid> {
    let below = path.strip_prefix(PathBuf::from(ROOT).join("s")).ok()?;
    below.iter().next()?.to_str()?.parse().ok()
}

/// A relay is a process like any other.
pub struct Relay {
    pub process: HostProcess,
    premises: FakePremises,
}

impl Relay {
    pub fn spawn(world: &World) -> Self {
        Self {
            process: world.premises.spawn_apart(),
            premises: world.premises.clone(),
        }
    }

    pub fn exit(&self) {
        self.premises.exit(self.process);
    }

    pub fn is_alive(&self) -> bool {
        self.premises.is_alive(self.process)
    }
}

//! Random lives of a sandbox: whatever is asked of it and befalls it, it is seen, answers and asks of the
//! world what the [`model`] says, each refusal in its own words; and in the end it can be deleted.

#![allow(clippy::unwrap_used)] // Tests may.

mod model;

use model::{Ask, Came, Doing, Life, Model};
use proptest::{prelude::*, sample::Index};
use runtime_core::{
    agent::{ExitReason, ExitStatus, Warnings},
    container::{self, ContainerRecord, ContainerSpec, ContainerState, Force, Guest},
    devices::{ContainerDevices, Share, ShareSpec},
    error::{Fault, Kind},
    hypervisor::{
        Accelerator, BlockSpec, ChannelKind, GuestEndpoint, HostEndpoint, MachineType, StdioKind,
        StreamLease, VmExit, VmSpec, VmStatus,
    },
    ids::{
        ContainerId, ContainerNumber, EpochMs, HostProcess, Namespace, ProcessId, RequestKey,
        SandboxUid,
    },
    kit::{Batch, Machine, Waiter},
    network::{NetworkSpec, NetworkStatus},
    premises::{Cgroup, PremisesSpec},
    process::{Kill, Made},
    records::{Change, decode},
    sandbox::{
        Answer, Deletion, Event, Killing, Lifetime, Member, Order, Refusal, ResumeFailed, Sandbox,
        SandboxRecord, SandboxSpec, Verb, World,
    },
};
use std::collections::{BTreeMap, BTreeSet};

fn uid() -> SandboxUid {
    SandboxUid::from_random(7)
}

/// What somebody does, or what happens.
#[derive(Debug, Clone)]
enum Step {
    Ask(Ask, Option<u8>),
    Create,
    Delete(Index, Force),
    Kill(Index),
    /// One of the effects that are under way comes home.
    Home(Index, Came),
    /// A container tells of itself.
    Starts(Index),
    Drains(Index),
    VmDies,
    LinkBreaks,
    ShareBreaks,
    /// The daemon is killed, and the next one starts; perhaps on a host that was restarted too.
    Restart {
        same_boot: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use Ask::{Annotate, Delete, ForceDelete, ForceStop, Pause, Resume, Start, Stop};
    let asks = prop_oneof![
        4 => Just(Start), 3 => Just(Stop), 2 => Just(ForceStop), 4 => Just(Pause),
        4 => Just(Resume), 1 => Just(Delete), 1 => Just(ForceDelete), 1 => Just(Annotate),
    ];
    let key = prop_oneof![3 => Just(None), 1 => (0_u8..4).prop_map(Some)];
    let came = prop_oneof![8 => Just(Came::Well), 1 => Just(Came::Unheard), 1 => Just(Came::Badly)];
    let index = any::<Index>;
    let force = prop_oneof![Just(Force::No), Just(Force::Yes)];
    let step = prop_oneof![
        10 => (asks, key).prop_map(|(ask, key)| Step::Ask(ask, key)),
        4 => Just(Step::Create),
        2 => (index(), force).prop_map(|(which, force)| Step::Delete(which, force)),
        3 => index().prop_map(Step::Kill),
        36 => (index(), came).prop_map(|(which, came)| Step::Home(which, came)),
        3 => index().prop_map(Step::Starts),
        2 => index().prop_map(Step::Drains),
        1 => Just(Step::VmDies),
        1 => Just(Step::LinkBreaks),
        1 => Just(Step::ShareBreaks),
        2 => any::<bool>().prop_map(|same_boot| Step::Restart { same_boot }),
    ];
    prop::collection::vec(step, 1..90)
}

fn spec(own: bool, share: bool) -> SandboxSpec {
    let uid = uid();
    let cgroup = |part: &str| Cgroup(format!("/hutch/{uid}/{part}"));
    let folder = std::path::PathBuf::from("/f");
    SandboxSpec {
        uid,
        namespace: Namespace::new("default").unwrap(),
        id: uid.as_id(),
        lifetime: match own {
            true => Lifetime::Own,
            false => Lifetime::Containers,
        },
        created_by: None,
        created: EpochMs(1),
        hostname: "pod".to_owned(),
        premises: PremisesSpec {
            uid,
            folder: folder.clone(),
            vmm: cgroup("vmm"),
            helpers: cgroup("helpers"),
            lodged: BTreeSet::new(),
        },
        network: NetworkSpec {
            uid,
            folder: folder.clone(),
            netns: None,
        },
        share: share.then(|| ShareSpec {
            uid,
            folder: folder.clone(),
            virtiofsd: "/virtiofsd".into(),
            cgroup: cgroup("helpers"),
        }),
        vm: VmSpec {
            uid,
            folder,
            kernel: "/k".into(),
            initrd: Some("/i".into()),
            stdio: StdioKind::Ports,
            kernel_params: Vec::new(),
            vcpus: 1,
            memory_mib: 128,
            machine: MachineType::Q35,
            accelerator: Accelerator::Tcg,
            channel: ChannelKind::Serial,
            cgroup: cgroup("vmm"),
            netns: None,
            share_socket: None,
            own_blocks: 0,
            blocks: Vec::new(),
        },
    }
}

fn container(number: ContainerNumber) -> ContainerSpec {
    ContainerSpec {
        number,
        namespace: Namespace::new("default").unwrap(),
        id: ContainerId::new(format!("c{number}")).unwrap(),
        bundle: "/b".into(),
        rootfs: "/b/r".into(),
        config_json: "{}".to_owned(),
        oci_version: "1.0.2".to_owned(),
        annotations: BTreeMap::new(),
        devices: ContainerDevices {
            container: number,
            bundle: "/b".into(),
            root: "r".into(),
            root_read_only: false,
            binds: Vec::new(),
        },
        hooks: Default::default(),
        guest_hooks_s: 0,
        created: EpochMs(1),
        owner_uid: 0,
        cgroup: None,
        created_by: None,
        relay: None,
    }
}

fn vm() -> VmStatus {
    VmStatus {
        vmm: HostProcess {
            pid: 7,
            start_time: 7,
        },
        control: HostEndpoint::Socket("/c".into()),
    }
}

fn made() -> Made {
    let (lease, warnings) = (lease(), Vec::new());
    Made { lease, warnings }
}

fn lease() -> StreamLease {
    StreamLease {
        number: 1,
        guest: GuestEndpoint::SerialPort("p".to_owned()),
        host: HostEndpoint::Socket("/p".into()),
    }
}

fn block() -> BlockSpec {
    BlockSpec {
        serial: "s".to_owned(),
        path: "/image".into(),
        read_only: false,
    }
}

fn fault(came: Came) -> Fault {
    match came {
        Came::Unheard => Fault::new(Kind::Unavailable, "nobody heard of it"),
        Came::Well | Came::Badly => Fault::new(Kind::Internal, "it is broken"),
    }
}

fn done(came: Came) -> Result<(), Fault> {
    match came {
        Came::Well => Ok(()),
        Came::Unheard | Came::Badly => Err(fault(came)),
    }
}

fn text(refusal: Refusal) -> String {
    match Sandbox::refuse(refusal) {
        Answer::Created(Err(why)) => why.to_string(),
        Answer::Deleted(Err(why)) | Answer::Ordered(Err(why)) => why.to_string(),
        other => panic!("a refusal says no: {other:?}"),
    }
}

/// As the model calls it; nothing comes home of some.
fn named(effect: &World) -> (String, bool) {
    let (name, comes_home) = match effect {
        World::OpenRooms { .. } => ("OpenRooms", true),
        World::Prepare { .. } => ("Prepare", true),
        World::Connect { .. } => ("Connect", true),
        World::OpenShare { .. } => ("OpenShare", true),
        World::StartContainer { .. } => ("StartContainer", true),
        World::Launch { .. } => ("Launch", true),
        World::Link { .. } => ("Link", true),
        World::Greet { .. } => ("Greet", true),
        World::Plug { .. } => ("Plug", true),
        World::TellReady { .. } => ("TellReady", true),
        World::TellGuestGone { why } => {
            let told = format!("TellGuestGone {} {}", why.code(), why.reason().name());
            return (told, false);
        }
        World::Retire {
            guest: Guest::Stays,
            ..
        } => ("Retire Stays", true),
        World::Retire {
            guest: Guest::Goes, ..
        } => ("Retire Goes", true),
        World::Discard { .. } => ("Discard", true),
        World::Leave { .. } => ("Leave", false),
        World::Forget { .. } => ("Forget", false),
        World::AwaitVmExit { .. } => ("AwaitVmExit", true),
        World::TearDown { .. } => ("TearDown", true),
        World::Adopt { .. } => ("Adopt", false),
        World::Begin { .. } => ("Begin", true),
        World::Quiet { .. } => ("Quiet", true),
        World::Pause { .. } => ("Pause", true),
        World::Resume { .. } => ("Resume", true),
        World::Kill { .. } => ("Kill", true),
    };
    (name.to_owned(), comes_home)
}

struct Story {
    sandbox: Sandbox,
    model: Model,
    /// As the store has it.
    record: Option<SandboxRecord>,
    under_way: Vec<(World, u64)>,
    /// What it heard, and where it stood then.
    log: Vec<String>,
    /// Who was not answered yet.
    waiting: BTreeSet<u64>,
    /// What the hooks of deleted containers said, by who waits for the deletion.
    warned: BTreeMap<u64, Warnings>,
    waiters: u64,
    /// Of the network and the share of a start, so many are not there yet.
    unplumbed: usize,
    /// The first container's devices are waited for.
    attaching: bool,
    booted_in: u64,
    /// Its VMM was asked for and its guest has not answered.
    booting: bool,
}

/// Where a container that a sandbox takes in is on record from then on.
fn first_key(effect: &World) -> Option<String> {
    match effect {
        World::StartContainer { spec } => Some(ContainerRecord::key(uid(), spec.number)),
        _ => None,
    }
}

impl Story {
    fn new(own: bool, share: bool) -> Self {
        Self {
            sandbox: Sandbox::new(spec(own, share).into(), BTreeMap::new(), "boot".to_owned()),
            model: Model::new(own, share),
            record: None,
            under_way: Vec::new(),
            log: Vec::new(),
            waiting: BTreeSet::new(),
            warned: BTreeMap::new(),
            waiters: 0,
            unplumbed: 0,
            attaching: false,
            booting: false,
            booted_in: 0,
        }
    }

    fn waiter(&mut self) -> Waiter {
        self.waiters += 1;
        Waiter(self.waiters)
    }

    /// What the model says of it was said before.
    fn hears(&mut self, event: Event, refused: Result<(), String>) {
        let told = format!("{event:?}");
        if refused.is_ok() {
            self.model.idle();
        }
        let (before, mut batch) = (self.sandbox.clone(), Batch::default());
        let denied = self.sandbox.on(event, &mut batch).map_err(text);
        assert_eq!(denied, refused, "{told}");
        if denied.is_err() {
            assert_eq!(
                self.sandbox, before,
                "{told}: denied, and something changed"
            );
            assert!(batch.is_empty(), "{told}: denied, and something happens");
        }
        self.check_answers(&told, batch.replies);
        let mut asked: Vec<_> = batch.world.iter().map(|effect| named(effect).0).collect();
        let mut due = std::mem::take(&mut self.model.due.world);
        asked.sort();
        due.sort();
        assert_eq!(asked, due, "{told}: what the world is asked for");
        let mut taken_in: Vec<_> = batch.world.iter().filter_map(first_key).collect();
        for effect in batch.world {
            self.noticed(&effect);
            if named(&effect).1 {
                self.under_way.push((effect, self.model.era));
            }
        }
        for change in batch.records {
            self.record = match change {
                Change::Put { key, .. } if taken_in.contains(&key) => {
                    taken_in.retain(|due| *due != key);
                    continue;
                }
                Change::Put { value, .. } => Some(decode(&value).unwrap()),
                Change::Delete { .. } => None,
            };
        }
        assert!(taken_in.is_empty(), "{told}: on no record: {taken_in:?}");
        assert_eq!(self.sandbox.standing().name(), self.model.seen(), "{told}");
        self.log.push(format!("{told} -> {}", self.model.seen()));
        assert_eq!(self.record.is_none(), self.model.gone || !self.model.born);
        assert_eq!(*self.sandbox.annotations(), self.model.annotations);
    }

    fn check_answers(&mut self, told: &str, replies: Vec<(Waiter, Answer)>) {
        let mut answered = Vec::new();
        for (waiter, answer) in replies {
            let well = match answer {
                Answer::Created(outcome) => outcome.is_ok(),
                Answer::Ordered(outcome) => outcome.is_ok(),
                Answer::Deleted(Err(_)) => false,
                Answer::Deleted(Ok(warnings)) => {
                    let due = self.warned.remove(&waiter.0).unwrap_or_default();
                    assert_eq!(warnings, due, "{told}: what its hooks said");
                    true
                }
            };
            answered.push((waiter.0, well));
        }
        let mut due = std::mem::take(&mut self.model.due.answers);
        answered.sort_unstable();
        due.sort_unstable();
        assert_eq!(answered, due, "{told}: who is answered");
        for (waiter, _) in answered {
            assert!(self.waiting.remove(&waiter), "{waiter} is answered twice");
        }
    }

    fn noticed(&mut self, effect: &World) {
        match effect {
            World::OpenRooms { .. } => {
                (self.booting, self.attaching) = (false, false);
                self.booted_in = self.model.era;
            }
            World::Connect { .. } => self.unplumbed += 1,
            World::OpenShare { .. } => self.unplumbed += 1,
            World::Prepare { .. } => self.unplumbed = 0,
            World::Launch { .. } => (self.booting, self.attaching) = (true, false),
            // Containers that are being made hear of it too, and say nothing more.
            World::TellGuestGone { .. } => self.under_way.retain(|(effect, _)| {
                !matches!(
                    effect,
                    World::StartContainer { .. } | World::TellReady { .. }
                )
            }),
            _ => {}
        }
    }

    /// Somebody asks; whoever is refused waits no more.
    fn asks(
        &mut self,
        said: impl FnOnce(&mut Model, u64) -> Result<(), String>,
        event: impl FnOnce(Waiter) -> Event,
    ) {
        let waiter = self.waiter();
        let refused = said(&mut self.model, waiter.0);
        if refused.is_ok() {
            self.waiting.insert(waiter.0);
        }
        self.hears(event(waiter), refused);
    }

    fn order(&mut self, ask: Ask, key: Option<u8>) {
        let of_waiter = |waiter: Waiter| ("a".to_owned(), waiter.0.to_string());
        let verb = |waiter| match ask {
            Ask::Start => Verb::Start,
            Ask::Stop => Verb::Stop(Force::No),
            Ask::ForceStop => Verb::Stop(Force::Yes),
            Ask::Pause => Verb::Pause,
            Ask::Resume => Verb::Resume,
            Ask::Delete => Verb::Delete(Force::No),
            Ask::ForceDelete => Verb::Delete(Force::Yes),
            Ask::Annotate => Verb::Annotate(BTreeMap::from([of_waiter(waiter)])),
            Ask::Create => unreachable!("a creation is no order"),
        };
        self.asks(
            |model, waiter| model.ask(waiter, ask, key),
            |waiter| Event::Order {
                waiter,
                order: Order {
                    key: key.map(|key| RequestKey::new(format!("k{key}")).unwrap()),
                    verb: verb(waiter),
                },
            },
        );
    }

    fn create(&mut self) {
        let number = self.sandbox.next_number();
        self.asks(Model::create, |waiter| Event::Create {
            waiter,
            spec: Box::new(container(number)),
        });
    }

    fn some(&self, which: Index, wanted: impl Fn(Life) -> bool) -> Option<ContainerNumber> {
        let all = self.model.containers.iter();
        let all: Vec<_> = all.filter(|(_, one)| wanted(one.life)).collect();
        (!all.is_empty()).then(|| ContainerNumber(*all[which.index(all.len())].0))
    }

    fn delete(&mut self, which: Index, force: Force) {
        // One that was never there, too.
        let container = self.some(which, |_| true).unwrap_or(ContainerNumber(99));
        self.asks(
            |model, waiter| model.delete(waiter, container.0, force == Force::Yes),
            |waiter| {
                Event::Delete(Deletion {
                    waiter,
                    container,
                    force,
                    at: EpochMs(2),
                    warnings: Warnings::new(),
                })
            },
        );
    }

    fn kill(&mut self, which: Index) {
        let Some(container) = self.some(which, |_| true) else {
            return;
        };
        let kill = Kill {
            key: None,
            signal: 9,
            all: false,
        };
        let said = |model: &mut Model, waiter| {
            model.kill(waiter);
            Ok(())
        };
        self.asks(said, |waiter| Event::End {
            waiter,
            killing: Killing {
                container,
                process: ProcessId::Init,
                kill,
            },
        });
    }

    fn tells(&mut self, container: ContainerNumber, notice: container::Notice) {
        self.hears(Event::News { container, notice }, Ok(()));
    }

    /// What was begun before something else came of it changes nothing.
    fn comes_home(&mut self, which: usize, came: Came) {
        let (effect, era) = self.under_way.remove(which);
        let now = era == self.model.era;
        match effect {
            World::Retire { deletion, guest } => {
                let Deletion {
                    waiter,
                    container,
                    force,
                    ..
                } = deletion;
                let what = (waiter.0, container.0, force == Force::Yes);
                self.model.retired(what, came);
                let said = vec![format!("poststop of {container}")];
                let outcome = done(came).map(|()| match self.warned.contains_key(&waiter.0) {
                    // It is gone, and says nothing any more.
                    true => Warnings::new(),
                    false => {
                        self.warned.insert(waiter.0, said.clone());
                        said
                    }
                });
                let retired = Event::Retired {
                    deletion,
                    guest,
                    outcome,
                };
                self.hears(retired, Ok(()));
            }
            World::Kill { waiter, killing } => {
                self.model.killed(waiter.0, came);
                let outcome = done(came);
                let event = Event::Killed {
                    waiter,
                    killing,
                    outcome,
                };
                self.hears(event, Ok(()));
            }
            World::AwaitVmExit { op, share: why } => {
                // It may have been the share of an earlier VM.
                if era >= self.booted_in {
                    self.model.vm_lost(self.booting);
                }
                self.hears(Event::ShareLossDue { op, why }, Ok(()));
            }
            World::StartContainer { spec } => self.attached(spec.number, came),
            // It is closing, and does not listen.
            World::TellReady { container } if container.0 < self.model.first => {}
            World::TellReady { container } => self.created(container, came),
            World::Plug { container, .. } => {
                self.model.plugged(container.0, came);
                let outcome = done(came);
                self.hears(Event::Plugged { container, outcome }, Ok(()));
            }
            World::Discard { container, .. } => {
                self.model.discarded(container.0);
                self.tells(container, container::Notice::Retired);
            }
            World::Begin { op } => {
                if now {
                    self.model.begun(came);
                }
                let outcome = done(came).map(|()| Warnings::new());
                self.hears(Event::Begun { op, outcome }, Ok(()));
            }
            World::Quiet { op } => {
                if now {
                    self.model.quieted();
                }
                self.hears(Event::Quieted { op }, Ok(()));
            }
            World::Pause { op } => {
                if now {
                    self.model.paused(came);
                }
                let outcome = done(came);
                self.hears(Event::PauseDone { op, outcome }, Ok(()));
            }
            World::Resume { op, .. } => {
                if now {
                    self.model.resumed(came);
                }
                let outcome = match came {
                    Came::Well => Ok(()),
                    Came::Badly => Err(ResumeFailed::Vm(fault(came))),
                    Came::Unheard => Err(ResumeFailed::Agent(fault(came))),
                };
                self.hears(Event::ResumeDone { op, outcome }, Ok(()));
            }
            World::TearDown { op, .. } => {
                if let (true, Doing::Release { tries }) = (now, self.model.doing) {
                    self.model.released(tries, came);
                }
                let event = Event::TornDown {
                    op,
                    unwritten: Warnings::new(),
                    outcome: done(came),
                };
                self.hears(event, Ok(()));
            }
            step => self.booted(step, came, now),
        }
    }

    fn booted(&mut self, step: World, came: Came, now: bool) {
        let name = named(&step).0;
        if now {
            let plumbs = matches!(name.as_str(), "Connect" | "OpenShare");
            self.unplumbed -= usize::from(plumbs && came == Came::Well);
            let first = self.model.waits_for_first();
            let next: &[&str] = match name.as_str() {
                "OpenRooms" => &["Prepare"],
                "Prepare" => &["Connect", "OpenShare"],
                "Launch" => &["Link"],
                "Link" => &["Greet"],
                _ if plumbs && self.unplumbed > 0 => &[],
                _ if plumbs && first => &["StartContainer"],
                _ if plumbs => &["Launch"],
                _ => &[],
            };
            let plumbed = plumbs && self.unplumbed == 0;
            self.attaching = plumbed && first && came == Came::Well;
            let said = if plumbed { "plumbed" } else { name.as_str() };
            self.model.booted(said, came, name == "Greet", next);
            self.booting &= name != "Greet";
        }
        let (outcome, failed) = (done(came), fault(came));
        let event = match step {
            World::OpenRooms { op } => Event::RoomsOpened { op, outcome },
            World::Prepare { op } => Event::Prepared { op, outcome },
            World::Connect { op } => {
                let netns = "/netns".into();
                let outcome = outcome.map(|()| NetworkStatus { netns });
                Event::Connected { op, outcome }
            }
            World::OpenShare { op } => {
                let socket = "/share".into();
                let outcome = outcome.map(|()| Share { socket });
                Event::ShareOpened { op, outcome }
            }
            World::Launch { op, .. } => {
                let outcome = outcome.map(|()| vm()).map_err(|_| failed);
                Event::Launched { op, outcome }
            }
            World::Link { op, .. } => Event::Linked { op, outcome },
            World::Greet { op } => Event::Greeted { op, outcome },
            other => panic!("nothing comes home of {other:?}"),
        };
        self.hears(event, Ok(()));
    }

    /// A container has its devices, which are to be plugged here and there.
    fn attached(&mut self, number: ContainerNumber, came: Came) {
        let blocks = match number.0 % 2 {
            0 => Vec::new(),
            _ => vec![block()],
        };
        let notice = match came {
            Came::Well if self.attaching && self.model.doing == Doing::Birth => {
                self.model.booted("attached", came, false, &["Launch"]);
                container::Notice::Attached { blocks }
            }
            Came::Well => {
                self.model.attached(blocks.len());
                container::Notice::Attached { blocks }
            }
            Came::Unheard | Came::Badly => {
                self.model.not_created(number.0);
                container::Notice::Failed { why: fault(came) }
            }
        };
        self.tells(number, notice);
    }

    fn created(&mut self, number: ContainerNumber, came: Came) {
        let notice = match came {
            Came::Well => {
                self.model.created(number.0);
                container::Notice::Created(made())
            }
            Came::Unheard | Came::Badly => {
                self.model.not_created(number.0);
                container::Notice::Failed { why: fault(came) }
            }
        };
        self.tells(number, notice);
    }

    /// The store alone outlives a daemon.
    fn restart(&mut self, same_boot: bool) {
        let Some(record) = self.record.clone() else {
            return;
        };
        self.under_way.clear();
        self.waiting.clear();
        self.warned.clear();
        (self.booting, self.booted_in) = (false, 0);
        let begun = self.model.containers.iter().filter(|(_, one)| one.begun);
        let members = begun.map(|(number, one)| Member {
            number: ContainerNumber(*number),
            id: container(ContainerNumber(*number)).id,
            state: match one.life {
                Life::Making => ContainerState::Creating,
                Life::Created => ContainerState::Created,
                Life::Started => ContainerState::Running,
                Life::Done | Life::Past => ContainerState::Stopped(ExitStatus {
                    code: 0,
                    reason: ExitReason::Exited,
                    detail: String::new(),
                    at: EpochMs(1),
                }),
            },
        });
        self.sandbox = Sandbox::rebuilt(record, members.collect());
        self.model.restart(same_boot);
        self.hears(Event::Resume { same_boot }, Ok(()));
        let unmade = |(number, one): (&u32, &model::Container)| {
            (one.life == Life::Making).then_some(ContainerNumber(*number))
        };
        let unmade: Vec<_> = self.model.containers.iter().filter_map(unmade).collect();
        for number in unmade {
            self.model.not_created(number.0);
            let why = fault(Came::Badly);
            self.tells(number, container::Notice::Failed { why });
        }
    }

    /// Where a story begins: in a birth, in one that is up with three containers, or in that one paused.
    fn come_to(&mut self, place: u8) {
        if place == 0 {
            return;
        }
        self.settle();
        while self.model.containers.len() < 3 {
            self.create();
            self.settle();
        }
        if place == 2 {
            self.order(Ask::Pause, None);
            self.settle();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Ask(ask, key) => self.order(ask, key),
            Step::Create => self.create(),
            Step::Delete(which, force) => self.delete(which, force),
            Step::Kill(which) => self.kill(which),
            Step::Home(which, came) => {
                if !self.under_way.is_empty() {
                    self.comes_home(which.index(self.under_way.len()), came);
                }
            }
            Step::Starts(which) => {
                if let Some(number) = self.some(which, |life| life == Life::Created) {
                    self.model.started(number.0);
                    self.tells(number, container::Notice::Started);
                }
            }
            Step::Drains(which) => {
                let lived = |life| matches!(life, Life::Created | Life::Started);
                if let Some(number) = self.some(which, lived) {
                    self.model.drained(number.0);
                    self.tells(number, container::Notice::Drained);
                }
            }
            Step::VmDies => {
                self.model.vm_lost(self.booting);
                self.hears(Event::VmExited(VmExit::PoweredOff), Ok(()));
            }
            Step::LinkBreaks => {
                self.model.link_lost(self.booting);
                let why = fault(Came::Unheard);
                self.hears(Event::LinkLost { why }, Ok(()));
            }
            Step::ShareBreaks => {
                self.model.due.world.push("AwaitVmExit".to_owned());
                let why = fault(Came::Badly);
                self.hears(Event::ShareLost { why }, Ok(()));
            }
            Step::Restart { same_boot } => self.restart(same_boot),
        }
    }

    /// Everything that is under way comes home well.
    fn settle(&mut self) {
        for _ in 0..2_000 {
            match self.under_way.is_empty() {
                true => return,
                false => self.comes_home(0, Came::Well),
            }
        }
        panic!("it never comes to rest: {:?}", self.sandbox);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_sandbox_does_what_is_promised_of_one(
        own in any::<bool>(),
        share in any::<bool>(),
        place in 0_u8..3,
        steps in steps(),
    ) {
        let mut story = Story::new(own, share);
        match own {
            true => {
                let said = |model: &mut Model, waiter| {
                    model.create_empty(waiter);
                    Ok(())
                };
                story.asks(said, |waiter| Event::CreateEmpty { waiter });
            }
            false => story.create(),
        }
        story.come_to(place);
        for step in steps {
            story.step(step);
        }
        // Faults stop: it comes to rest, and can be deleted.
        story.settle();
        let unanswered = &story.waiting;
        prop_assert!(unanswered.is_empty(), "unanswered at rest: {unanswered:?}: {:#?}", story.log);
        story.order(Ask::ForceDelete, None);
        story.settle();

        prop_assert!(story.model.gone);
        prop_assert_eq!(story.record, None);
        let unanswered = &story.waiting;
        prop_assert!(unanswered.is_empty(), "unanswered: {unanswered:?}: {:#?}", story.log);
    }
}

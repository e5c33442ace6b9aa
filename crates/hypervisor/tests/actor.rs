//! The room as its sandbox sees it: production actor, fake VMMs, a store that takes its time,
//! tokio's paused clock.

#![allow(clippy::unwrap_used)]

use actix::prelude::*;
use hypervisor::{
    actor::{Surroundings, VmDefaults, open},
    fake::{Call, FakeHost, Fate, Outcome},
    port::{ExitHow, PortPlan, Vmm},
    record::{HypervisorRecord, Phase, key},
};
use runtime_core::{
    error::{Fault, Kind},
    hypervisor::{
        Accelerator, Address, AttachBlock, BlockSpec, ChannelKind, DetachBlock, GetStatus,
        HostEndpoint, Launch, LeaseStream, MachineType, Notice, Parent, ReturnStream, RoomGone,
        StdioKind, Stop, VmExit, VmSpec,
    },
    ids::SandboxUid,
    kit::{Gone, Work},
    premises::Cgroup,
    records::{self, Change, Records, Rows},
};
use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep, timeout},
};

const WRITE: Duration = Duration::from_millis(20);
const A_WHILE: Duration = Duration::from_secs(10);

/// A store that takes its time; frozen, it keeps nothing any more and answers nobody.
#[derive(Default)]
struct SlowStore {
    rows: Rc<RefCell<BTreeMap<String, Vec<u8>>>>,
    frozen: Cell<bool>,
    written: Rc<RefCell<Vec<Instant>>>,
}

impl SlowStore {
    fn record(&self) -> Option<HypervisorRecord> {
        let rows = self.rows.borrow();
        let bytes = rows.get(&key(uid()))?;
        Some(records::decode(bytes).unwrap())
    }
}

impl Records for SlowStore {
    fn write(&self, changes: Vec<Change>) -> Work<()> {
        let (rows, written) = (self.rows.clone(), self.written.clone());
        let frozen = self.frozen.get();
        Box::pin(async move {
            sleep(WRITE).await;
            if frozen {
                std::future::pending::<()>().await;
            }
            written.borrow_mut().push(Instant::now());
            for change in changes {
                match change {
                    Change::Put { key, value } => rows.borrow_mut().insert(key, value),
                    Change::Delete { key } => rows.borrow_mut().remove(&key),
                };
            }
        })
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
        let rows = self.rows.borrow().clone();
        let found = rows
            .into_iter()
            .filter(move |(key, _)| key.starts_with(&prefix));
        let found: Rows = found.collect();
        Box::pin(async move { Ok(found) })
    }
}

#[derive(Default)]
struct Sandbox {
    notices: Vec<(Notice, Instant)>,
    gone: Vec<Gone>,
}

impl Actor for Sandbox {
    type Context = Context<Self>;
}

impl Handler<Notice> for Sandbox {
    type Result = ();
    fn handle(&mut self, notice: Notice, _: &mut Self::Context) {
        self.notices.push((notice, Instant::now()));
    }
}

impl Handler<RoomGone> for Sandbox {
    type Result = ();
    fn handle(&mut self, RoomGone(how): RoomGone, _: &mut Self::Context) {
        self.gone.push(how);
    }
}

#[derive(Message)]
#[rtype(result = "(Vec<(Notice, Instant)>, Vec<Gone>)")]
struct TakeHeard;

impl Handler<TakeHeard> for Sandbox {
    type Result = MessageResult<TakeHeard>;
    fn handle(&mut self, _: TakeHeard, _: &mut Self::Context) -> Self::Result {
        MessageResult((
            std::mem::take(&mut self.notices),
            std::mem::take(&mut self.gone),
        ))
    }
}

/// One host with one sandbox, whose daemon may be replaced.
struct House {
    host: FakeHost,
    store: Rc<SlowStore>,
    sandbox: Addr<Sandbox>,
    vmm: Rc<dyn Vmm>,
    boot_id: RefCell<String>,
}

impl House {
    fn new() -> Self {
        let host = FakeHost::new();
        Self {
            vmm: Rc::new(host.driver()),
            host,
            store: Rc::default(),
            sandbox: Sandbox::default().start(),
            boot_id: RefCell::new("first boot".into()),
        }
    }

    async fn open(&self) -> Address {
        self.open_with(BTreeSet::new()).await
    }

    /// Opens the room with this daemon's driver, and the streams that processes have.
    async fn open_with(&self, leased: BTreeSet<u32>) -> Address {
        let around = Surroundings {
            vmm: self.vmm.clone(),
            records: self.store.clone(),
            boot_id: self.boot_id.borrow().clone(),
            defaults: VmDefaults {
                ports: PortPlan { cold: 2, max: 3 },
                slots: 1,
            },
            parent: Parent {
                notices: self.sandbox.clone().recipient().downgrade(),
                gone: self.sandbox.clone().recipient().downgrade(),
            },
        };
        open(uid(), leased, around).await.unwrap()
    }

    /// Another daemon: it knows nothing but the store.
    fn restart_daemon(&mut self) {
        self.vmm = Rc::new(self.host.driver());
        self.store.frozen.set(false);
    }

    async fn heard(&self) -> Vec<Notice> {
        let (notices, _) = self.sandbox.send(TakeHeard).await.unwrap();
        notices.into_iter().map(|(notice, _)| notice).collect()
    }
}

fn uid() -> SandboxUid {
    SandboxUid::from_random(7)
}

fn spec() -> VmSpec {
    VmSpec {
        uid: uid(),
        folder: "/run/hutch/s/7".into(),
        kernel: "/kernel".into(),
        initrd: Some("/initrd".into()),
        stdio: StdioKind::Ports,
        kernel_params: Vec::new(),
        vcpus: 1,
        memory_mib: 128,
        machine: MachineType::Q35,
        accelerator: Accelerator::Tcg,
        channel: ChannelKind::Serial,
        cgroup: Cgroup("/hutch/7/vmm".into()),
        netns: None,
        share_socket: None,
        blocks: Vec::new(),
        own_blocks: 0,
    }
}

async fn story<F: Future<Output = ()>>(test: impl FnOnce(House) -> F) {
    let test = async {
        let told = timeout(Duration::from_secs(86_400), test(House::new())).await;
        told.expect("a story ends");
    };
    LocalSet::new().run_until(test).await;
}

macro_rules! stories {
    ($($(#[$doc:meta])* async fn $name:ident($house:pat_param) $story:block)*) => {
        $(
            $(#[$doc])*
            #[tokio::test(flavor = "current_thread", start_paused = true)]
            async fn $name() {
                story(|house| async move { let $house = house; $story }).await;
            }
        )*
    };
}

stories! {
    async fn nothing_is_spawned_before_the_record_is_confirmed(house) {
        let room = house.open().await;
        let begun = Instant::now();
        let launching = tokio::task::spawn_local(room.launch.send(Launch(spec())));

        sleep(WRITE - Duration::from_millis(1)).await;
        assert!(house.host.live().is_empty());
        assert_eq!(room.status.send(GetStatus).await.unwrap(), None);

        let status = launching.await.unwrap().unwrap().unwrap();
        assert!(begun.elapsed() >= 2 * WRITE, "its process is on record too");
        assert_eq!(house.host.live(), [(uid(), status.vmm)]);
        assert_eq!(status.control, HostEndpoint::Socket("/run/hutch/s/7/control.sock".into()));
        assert_eq!(room.status.send(GetStatus).await.unwrap(), Some(status));
        assert!(house.heard().await.is_empty());
    }

    async fn a_mute_vmm_is_killed_within_its_limit_and_leaves_nothing(house) {
        house.host.bend(|_, call| Fate {
            outcome: match call { Call::Connect => Outcome::Mute, _ => Outcome::AsAsked },
            ..Fate::default()
        });
        let room = house.open().await;
        let begun = Instant::now();

        let why = room.launch.send(Launch(spec())).await.unwrap().unwrap_err();

        assert_eq!(why.kind(), Kind::Timeout);
        let said = why.to_string();
        assert!(said.starts_with("start vmm: no answer from vmm in 60 s (tcg): fake guest"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(61));
        assert!(house.host.live().is_empty());
        assert_eq!(house.store.record(), None);
        assert!(house.heard().await.is_empty());
    }

    async fn a_vm_that_dies_is_told_once_and_after_it_is_on_record(house) {
        let room = house.open().await;
        room.launch.send(Launch(spec())).await.unwrap().unwrap();

        house.host.end(uid(), ExitHow::Reset);
        sleep(A_WHILE).await;

        let (notices, _) = house.sandbox.send(TakeHeard).await.unwrap();
        let [(Notice::VmExited(exit), told)] = &notices[..] else { panic!("{notices:?}") };
        assert_eq!(*exit, VmExit::GuestPanic { console: "fake guest: guest reset".into() });
        assert!(*told >= *house.store.written.borrow().last().unwrap());
        assert_eq!(house.store.record().unwrap().phase, Phase::Ended(exit.clone()));
        assert!(room.lease.send(LeaseStream).await.unwrap().is_err());
    }

    async fn a_stop_is_answered_when_the_process_is_gone_and_twice_is_once(house) {
        let room = house.open().await;
        room.launch.send(Launch(spec())).await.unwrap().unwrap();

        room.stop.send(Stop).await.unwrap().unwrap();

        assert!(house.host.live().is_empty());
        assert_eq!(house.store.record(), None);
        assert_eq!(house.heard().await, [Notice::VmExited(VmExit::Stopped)]);
        room.stop.send(Stop).await.unwrap().unwrap();
        assert!(house.heard().await.is_empty());
    }

    async fn a_stop_overtakes_a_launch(house) {
        let room = house.open().await;
        let launching = room.launch.send(Launch(spec()));
        let stopping = room.stop.send(Stop);

        let (launched, stopped) = tokio::join!(launching, stopping);

        assert_eq!(launched.unwrap().unwrap_err().kind(), Kind::Aborted);
        stopped.unwrap().unwrap();
        assert!(house.host.live().is_empty());
        assert_eq!(house.store.record(), None);
    }

    async fn another_daemon_adopts_the_vm_and_what_processes_have_of_it(mut house) {
        let room = house.open().await;
        let launched = room.launch.send(Launch(spec())).await.unwrap().unwrap();
        let first = room.lease.send(LeaseStream).await.unwrap().unwrap();
        drop(room);
        house.restart_daemon();

        let room = house.open_with(BTreeSet::from([first.number])).await;
        let second = room.lease.send(LeaseStream).await.unwrap().unwrap();

        assert_eq!(house.heard().await, [Notice::Adopted(launched.clone())]);
        assert_ne!(first.number, second.number);
        assert_eq!(house.host.live(), [(uid(), launched.vmm)]);
    }

    async fn a_vmm_whose_pid_was_never_recorded_is_found_and_adopted(mut house) {
        let room = house.open().await;
        let launching = tokio::task::spawn_local(room.launch.send(Launch(spec())));
        sleep(WRITE + Duration::from_millis(1)).await;
        house.store.frozen.set(true);
        sleep(A_WHILE).await;
        let live = house.host.live();
        assert_eq!(live.len(), 1, "spawned, and its pid is not on record");
        drop(room);
        launching.abort();
        house.restart_daemon();

        let room = house.open().await;
        sleep(A_WHILE).await;

        let adopted = room.status.send(GetStatus).await.unwrap().unwrap();
        assert_eq!(house.host.live(), live);
        assert_eq!(adopted.vmm, live[0].1);
        assert_eq!(house.heard().await, [Notice::Adopted(adopted)]);
    }

    async fn a_vm_that_died_with_its_daemon_is_told_as_ended(mut house) {
        let room = house.open().await;
        room.launch.send(Launch(spec())).await.unwrap().unwrap();
        house.store.frozen.set(true);
        house.host.end(uid(), ExitHow::Signal(9));
        drop(room);
        house.restart_daemon();

        let room = house.open().await;
        sleep(A_WHILE).await;

        let heard = house.heard().await;
        assert!(matches!(heard[..], [Notice::VmExited(VmExit::Crashed { .. })]), "{heard:?}");
        assert_eq!(room.status.send(GetStatus).await.unwrap(), None);
    }

    async fn after_a_restart_of_the_host_the_vm_is_told_as_gone_with_it(mut house) {
        let room = house.open().await;
        room.launch.send(Launch(spec())).await.unwrap().unwrap();
        drop(room);
        house.host.restart();
        house.boot_id.replace("second boot".into());
        house.restart_daemon();

        let room = house.open().await;
        sleep(A_WHILE).await;

        assert_eq!(house.heard().await, [Notice::VmExited(VmExit::HostRestarted)]);
        room.stop.send(Stop).await.unwrap().unwrap();
        assert_eq!(house.store.record(), None);
    }

    async fn a_room_that_panics_is_rebuilt_around_the_live_vm(house) {
        let room = house.open().await;
        let launched = room.launch.send(Launch(spec())).await.unwrap().unwrap();
        house.host.bend(|_, call| match call {
            Call::AttachBlock => panic!("as the test wished"),
            _ => Fate::default(),
        });

        let block = BlockSpec { serial: "a".into(), path: "/image".into(), read_only: true };
        let aborted = room.attach_block.send(AttachBlock(block)).await;
        sleep(A_WHILE).await;

        assert!(!matches!(aborted, Ok(Ok(()))));
        let (_, gone) = house.sandbox.send(TakeHeard).await.unwrap();
        assert_eq!(gone, [Gone::Panicked]);
        house.host.bend(|_, _| Fate::default());
        let room = house.open().await;
        sleep(A_WHILE).await;
        assert_eq!(house.heard().await, [Notice::Adopted(launched.clone())]);
        assert_eq!(house.host.live(), [(uid(), launched.vmm)]);
        assert!(house.host.blocks(uid()).is_empty(), "what was half done is undone");
        room.stop.send(Stop).await.unwrap().unwrap();
    }

    async fn ports_are_leased_to_their_bound_and_wait_for_one_that_is_added(house) {
        let room = house.open().await;
        room.launch.send(Launch(spec())).await.unwrap().unwrap();
        let lease = || room.lease.send(LeaseStream);

        let (a, b, c, d) = tokio::join!(lease(), lease(), lease(), lease());

        let numbers = [a, b, c].map(|lease| lease.unwrap().unwrap().number);
        assert_eq!(numbers, [1, 2, 3]);
        let why = d.unwrap().unwrap_err();
        assert_eq!(why.kind(), Kind::Exhausted);
        assert_eq!(why.to_string(), "all 3 stream ports of the vm are in use");
        let number = 2;
        room.give_back.send(ReturnStream { number }).await.unwrap().unwrap();
        assert_eq!(lease().await.unwrap().unwrap().number, 2);
    }

    async fn a_port_that_cannot_be_added_fails_its_caller_and_is_tried_for_the_next(house) {
        let room = house.open().await;
        room.launch.send(Launch(spec())).await.unwrap().unwrap();
        house.host.bend(|_, call| Fate {
            outcome: match call { Call::AddStream => Outcome::Fails, _ => Outcome::AsAsked },
            ..Fate::default()
        });
        let lease = || room.lease.send(LeaseStream);
        lease().await.unwrap().unwrap();
        lease().await.unwrap().unwrap();

        let failed = lease().await.unwrap();
        house.host.bend(|_, _| Fate::default());
        let third = lease().await.unwrap();

        let why = failed.unwrap_err().to_string();
        assert!(why.starts_with("add a stream port: "), "{why}");
        assert_eq!(third.unwrap().number, 3);
    }

    async fn blocks_are_plugged_and_unplugged_and_slots_are_bounded(house) {
        let room = house.open().await;
        room.launch.send(Launch(spec())).await.unwrap().unwrap();
        let block = |serial: &str| BlockSpec {
            serial: serial.into(), path: "/image".into(), read_only: true,
        };

        room.attach_block.send(AttachBlock(block("a"))).await.unwrap().unwrap();
        let full = room.attach_block.send(AttachBlock(block("b"))).await.unwrap();
        assert_eq!(full.unwrap_err().kind(), Kind::Exhausted);
        assert_eq!(house.host.blocks(uid()), ["a".to_owned()].into());

        let serial = "a".to_owned();
        room.detach_block.send(DetachBlock { serial }).await.unwrap().unwrap();
        room.attach_block.send(AttachBlock(block("b"))).await.unwrap().unwrap();
        assert_eq!(house.host.blocks(uid()), ["b".to_owned()].into());
    }

    async fn a_vm_over_vsock_leases_numbers_and_adds_nothing(house) {
        let room = house.open().await;
        let mut spec = spec();
        spec.channel = ChannelKind::Vsock { cid: 9 };
        let status = room.launch.send(Launch(spec)).await.unwrap().unwrap();

        let lease = room.lease.send(LeaseStream).await.unwrap().unwrap();
        sleep(A_WHILE).await;

        assert_eq!(status.control, HostEndpoint::Vsock { cid: 9, port: 1024 });
        assert_eq!(lease.host, HostEndpoint::Vsock { cid: 9, port: 2049 });
        assert_eq!(house.host.streams(uid()).len(), 3);
    }
}

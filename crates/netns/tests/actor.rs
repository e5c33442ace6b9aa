//! The room as its sandbox sees it: the production actor on the fake kernel, in paused time.

#![allow(clippy::unwrap_used)]

use actix::prelude::*;
use netns::fake::{Call, FakeNamespaces, Thing, Trouble};
use runtime_core::{
    error::{Fault, Kind},
    ids::SandboxUid,
    kit::{Gone, Work},
    network::{Address, Connect, Disconnect, NetworkSpec, NetworkStatus, Parent, RoomGone},
    records::{Change, Records, Rows},
};
use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

const WRITE: Duration = Duration::from_millis(20);
const FOLDER: &str = "/run/hutch/s/0000000000000007";
const OWN: &str = "/run/hutch/s/0000000000000007/netns";
const LENT: &str = "/run/netns/cni-7";
const KEY: &str = "network/0000000000000007";

fn uid() -> SandboxUid {
    SandboxUid::from_random(7)
}

/// A store that takes its time.
#[derive(Clone, Default)]
struct SlowRecords(Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

impl SlowRecords {
    fn keys(&self) -> Vec<String> {
        self.0.borrow().keys().cloned().collect()
    }
}

impl Records for SlowRecords {
    fn write(&self, changes: Vec<Change>) -> Work<()> {
        let rows = self.0.clone();
        Box::pin(async move {
            sleep(WRITE).await;
            for change in changes {
                match change {
                    Change::Put { key, value } => rows.borrow_mut().insert(key, value),
                    Change::Delete { key } => rows.borrow_mut().remove(&key),
                };
            }
        })
    }

    fn scan(&self, prefix: String) -> Work<Result<Rows, Fault>> {
        let rows = self.0.borrow();
        let found = rows.iter().filter(|(key, _)| key.starts_with(&prefix));
        let found: Rows = found.map(|(k, v)| (k.clone(), v.clone())).collect();
        Box::pin(async move { Ok(found) })
    }
}

/// The sandbox, as far as this room knows it.
#[derive(Default)]
struct Sandbox(Vec<Gone>);

impl Actor for Sandbox {
    type Context = Context<Self>;
}

impl Handler<RoomGone> for Sandbox {
    type Result = ();
    fn handle(&mut self, RoomGone(how): RoomGone, _: &mut Context<Self>) {
        self.0.push(how);
    }
}

#[derive(Message)]
#[rtype(result = "Vec<Gone>")]
struct TakeGone;

impl Handler<TakeGone> for Sandbox {
    type Result = MessageResult<TakeGone>;
    fn handle(&mut self, _: TakeGone, _: &mut Context<Self>) -> Self::Result {
        MessageResult(std::mem::take(&mut self.0))
    }
}

struct House {
    kernel: FakeNamespaces,
    records: SlowRecords,
    sandbox: Addr<Sandbox>,
    room: Address,
}

impl House {
    async fn new() -> Self {
        let (kernel, records) = (FakeNamespaces::default(), SlowRecords::default());
        let sandbox = Sandbox::default().start();
        let room = open(&kernel, &records, &sandbox).await.unwrap();
        Self {
            kernel,
            records,
            sandbox,
            room,
        }
    }

    /// The sandbox is rebuilt, or the daemon.
    async fn rebuilt(self) -> Self {
        let Self {
            kernel,
            records,
            sandbox,
            room,
        } = self;
        drop(room);
        let room = open(&kernel, &records, &sandbox).await.unwrap();
        Self {
            kernel,
            records,
            sandbox,
            room,
        }
    }

    async fn connect(&self, spec: NetworkSpec) -> Result<NetworkStatus, Fault> {
        self.room.connect.send(Connect(spec)).await.unwrap()
    }

    async fn disconnect(&self) -> Result<(), Fault> {
        self.room.disconnect.send(Disconnect).await.unwrap()
    }

    fn assert_nothing_is_left(&self) {
        assert_eq!(self.kernel.at(OWN), None);
        assert!(self.records.keys().is_empty());
    }
}

async fn open(
    kernel: &FakeNamespaces,
    records: &SlowRecords,
    sandbox: &Addr<Sandbox>,
) -> Result<Address, Fault> {
    let parent = Parent {
        gone: sandbox.clone().recipient().downgrade(),
    };
    let (records, kernel) = (Rc::new(records.clone()), Rc::new(kernel.clone()));
    netns::open(uid(), parent, records, kernel).await
}

fn own() -> NetworkSpec {
    NetworkSpec {
        uid: uid(),
        folder: FOLDER.into(),
        netns: None,
    }
}

fn lent() -> NetworkSpec {
    NetworkSpec {
        netns: Some(LENT.into()),
        ..own()
    }
}

fn make() -> Call {
    Call::Make(OWN.into())
}

fn remove() -> Call {
    Call::Remove(OWN.into())
}

macro_rules! story {
    ($(fn $name:ident() $body:block)*) => {
        $(
            #[tokio::test(flavor = "current_thread", start_paused = true)]
            async fn $name() {
                LocalSet::new().run_until(async $body).await;
            }
        )*
    };
}

story! {
    fn nothing_is_made_before_its_record_is_confirmed() {
        let house = House::new().await;

        let connecting = tokio::task::spawn_local(house.room.connect.send(Connect(own())));
        sleep(WRITE - Duration::from_millis(1)).await;
        assert!(house.kernel.calls().is_empty());
        let status = connecting.await.unwrap().unwrap().unwrap();

        assert_eq!(status.netns.to_str(), Some(OWN));
        assert_eq!(house.kernel.at(OWN), Some(Thing::Network));
        assert_eq!(house.records.keys(), [KEY]);
    }

    fn the_record_is_gone_when_the_namespace_is_said_to_be() {
        let house = House::new().await;
        house.connect(own()).await.unwrap();

        house.disconnect().await.unwrap();
        house.disconnect().await.unwrap();

        house.assert_nothing_is_left();
        assert_eq!(house.kernel.calls(), [make(), remove()]);
    }

    fn disconnecting_while_connecting_waits_for_it() {
        let house = House::new().await;
        house.kernel.slow(Duration::from_secs(3));
        let begun = Instant::now();

        let (connected, disconnected) = tokio::join!(house.connect(own()), house.disconnect());

        assert_eq!(connected.unwrap_err().kind(), Kind::Aborted);
        disconnected.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(6));
        house.assert_nothing_is_left();
        assert_eq!(house.kernel.calls(), [make(), remove()]);
    }

    fn a_rebuilt_room_finds_the_namespace_that_is_there() {
        let house = House::new().await;
        house.connect(own()).await.unwrap();
        let made = house.kernel.identity(OWN);

        let house = house.rebuilt().await;
        let status = house.connect(own()).await.unwrap();

        assert_eq!(status.netns.to_str(), Some(OWN));
        assert_eq!(house.kernel.identity(OWN), made);
        house.disconnect().await.unwrap();
        house.assert_nothing_is_left();
    }

    fn a_rebuilt_room_makes_the_namespace_that_is_not_there() {
        let house = House::new().await;
        house.connect(own()).await.unwrap();
        house.kernel.clear(OWN);

        let house = house.rebuilt().await;
        house.connect(own()).await.unwrap();

        assert_eq!(house.kernel.at(OWN), Some(Thing::Network));
    }

    fn a_rebuilt_room_takes_away_what_its_predecessor_was_still_making() {
        let house = House::new().await;
        house.kernel.slow(Duration::from_secs(3));
        let connecting = tokio::task::spawn_local(house.room.connect.send(Connect(own())));
        sleep(WRITE * 2).await;
        assert_eq!(house.kernel.calls(), [make()]);
        assert_eq!(house.kernel.at(OWN), None);

        let house = house.rebuilt().await;
        house.disconnect().await.unwrap();

        house.assert_nothing_is_left();
        connecting.abort();
        sleep(Duration::from_secs(60)).await;
        house.assert_nothing_is_left();
    }

    fn what_failed_half_way_is_tried_again_and_taken_away() {
        let house = House::new().await;
        house.kernel.fail_next(Trouble::HalfWay);

        let failed = house.connect(own()).await.unwrap_err();

        assert_eq!(failed.kind(), Kind::Exhausted);
        assert!(failed.to_string().contains(OWN), "{failed}");
        assert_eq!(house.records.keys(), [KEY]);
        house.connect(own()).await.unwrap();
        house.kernel.fail_next(Trouble::HalfWay);
        let failed = house.disconnect().await.unwrap_err();
        assert_eq!(failed.kind(), Kind::Internal);
        assert_eq!(house.records.keys(), [KEY]);
        house.disconnect().await.unwrap();
        house.assert_nothing_is_left();
    }

    fn a_namespace_of_the_callers_is_used_as_it_is_and_stays() {
        let house = House::new().await;
        house.kernel.put(LENT, Thing::Network);

        let status = house.connect(lent()).await.unwrap();
        house.disconnect().await.unwrap();

        assert_eq!(status.netns.to_str(), Some(LENT));
        assert_eq!(house.kernel.at(LENT), Some(Thing::Network));
        assert_eq!(house.kernel.calls(), [Call::Check(LENT.into())]);
        assert!(house.records.keys().is_empty());
    }

    fn a_path_of_the_callers_that_is_no_network_is_refused_by_name() {
        let house = House::new().await;
        house.kernel.put(LENT, Thing::Other);

        let refused = house.connect(lent()).await.unwrap_err();

        assert_eq!(refused.kind(), Kind::Invalid);
        assert_eq!(refused.to_string(), "/run/netns/cni-7 is not a network namespace");
        // And the room is as new.
        house.connect(own()).await.unwrap();
    }

    fn what_the_machine_refuses_is_answered_with_its_reason() {
        let house = House::new().await;
        house.connect(own()).await.unwrap();

        let refused = house.connect(lent()).await.unwrap_err();

        assert_eq!(refused.kind(), Kind::Denied);
        let why = "connect network: it has network namespace \
                   /run/hutch/s/0000000000000007/netns already";
        assert_eq!(refused.to_string(), why);
    }

    fn a_record_that_does_not_read_keeps_the_room_shut_and_the_record_kept() {
        let house = House::new().await;
        let newer = br#"{"v":9,"body":{}}"#.to_vec();
        house.records.0.borrow_mut().insert(KEY.to_owned(), newer);

        let opened = open(&house.kernel, &house.records, &house.sandbox).await;

        let why = opened.map(drop).unwrap_err().to_string();
        let wanted = "open network of sandbox 0000000000000007: network record has version 9, \
                      newer than 1: written by a newer hutchd";
        assert_eq!(why, wanted);
        assert_eq!(house.records.keys(), [KEY]);
    }

    fn the_sandbox_hears_when_its_room_is_gone() {
        let house = House::new().await;
        let House { sandbox, room, .. } = house;
        assert!(sandbox.send(TakeGone).await.unwrap().is_empty());

        drop(room);
        sleep(Duration::from_millis(1)).await;

        assert_eq!(sandbox.send(TakeGone).await.unwrap(), [Gone::Stopped]);
    }
}

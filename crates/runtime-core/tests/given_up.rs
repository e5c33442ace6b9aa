//! A sandbox whose room panics again and again, above scripted rooms: what is said of it, what is left of
//! it, and how it goes.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{House, RELAY, settle, told};
use runtime_core::{
    container::{Force, ProcessCommand},
    error::Kind,
    host::{GetUnread, List, ListSandboxes},
    ids::ProcessId,
    sandbox::{SandboxRecord, SandboxView, Standing, Verb},
};
use std::collections::BTreeMap;

/// As often a room is rebuilt; once more, and it is given up.
const REBUILDS_MAX: u32 = 3;

/// Its room panics so often while it is being stopped.
async fn panicking(times: u32) -> House {
    let house = cut(times).await;
    settle().await;
    house
}

/// The moment after the first panic.
async fn cut(times: u32) -> House {
    let house = House::open().await;
    house.create_sandbox("pod", None).await.unwrap();
    house.join("pod", "web").await.unwrap();
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", attach).await.unwrap();
    house.start("web").await.unwrap();
    house.world.panic_at_clear(times);
    let cut = house.order("pod", Verb::Stop(Force::Yes)).await;
    assert!(cut.is_err(), "whoever asked hears that the room is gone");
    house
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_room_that_panics_a_few_times_is_rebuilt_each_time_and_finishes_its_work() {
    told(async {
        let house = panicking(REBUILDS_MAX).await;

        assert_eq!(house.standing("pod").await, Standing::Stopped);
        assert_eq!(house.wait("web").await.unwrap().code, 137);
        house.world.assert_empty();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_sandbox_whose_room_is_being_rebuilt_is_listed_as_its_record_has_it() {
    told(async {
        let house = cut(1).await;

        let all = house.host.send(ListSandboxes { namespace: None }).await;

        let all = all.unwrap();
        let [(view, names)] = all.as_slice() else {
            panic!("{all:?}")
        };
        assert_eq!(view.spec.id.as_str(), "pod");
        assert_eq!(view.standing, Standing::Stopping);
        assert_eq!(view.reason, "its room is being rebuilt");
        assert_eq!(names.len(), 1);
        let listed = house.host.send(List { namespace: None }).await.unwrap();
        let [web] = listed.as_slice() else {
            panic!("{listed:?}")
        };
        assert_eq!(web.view.spec.id.as_str(), "web");
        settle().await;
        assert_eq!(house.standing("pod").await, Standing::Stopped);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_record_that_does_not_read_is_kept_and_named_and_the_others_are_listed() {
    told(async {
        let house = House::open().await;
        let damaged = house.create_sandbox("damaged", None).await.unwrap();
        house.create_sandbox("whole", None).await.unwrap();
        let key = SandboxRecord::key(damaged);
        let kept = house.records.clone();
        kept.0.borrow_mut().insert(key.clone(), b"{\"v\":".to_vec());

        let house = house.restart().await;

        let all = house.host.send(ListSandboxes { namespace: None }).await;
        let all = all.unwrap();
        let seen = |(view, _): &(SandboxView, _)| (view.spec.id.to_string(), view.standing);
        let seen: BTreeMap<_, _> = all.iter().map(seen).collect();
        let failed = (damaged.to_string(), Standing::Failed);
        let whole = ("whole".to_owned(), Standing::Ready);
        assert_eq!(seen, BTreeMap::from([failed, whole]));
        let unread = house.host.send(GetUnread).await.unwrap();
        let [unread] = unread.as_slice() else {
            panic!("{unread:?}")
        };
        assert_eq!(unread.key, key);
        assert!(unread.why.contains("EOF"), "{unread:?}");
        assert!(house.records.keys().contains(&key), "it is not kept");
        assert_eq!(house.world.vms(), 2, "nobody may end what cannot be read");
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_room_that_panics_too_often_is_given_up_its_vm_ended_and_its_records_kept() {
    told(async {
        let house = panicking(REBUILDS_MAX + 1).await;

        let assert_failed = async |house: &House| {
            assert_eq!(house.world.vms(), 0);
            let view = house.view("pod").await.unwrap();
            assert_eq!(view.standing, Standing::Failed);
            assert_eq!(view.reason, "its room panicked too often");
            assert_eq!(view.containers.len(), 1);
            let all = house.host.send(ListSandboxes { namespace: None }).await;
            assert_eq!(all.unwrap().len(), 1);
            let kept = house.records.keys();
            assert!(
                kept.contains(&SandboxRecord::key(view.spec.uid)),
                "{kept:?}"
            );
        };
        assert_failed(&house).await;
        let house = house.restart().await;
        assert_failed(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_is_given_up_refuses_everything_by_name_but_its_forced_deletion() {
    told(async {
        let house = panicking(REBUILDS_MAX + 1).await;

        for refused in [
            house.order("pod", Verb::Start).await,
            house.order("pod", Verb::Stop(Force::Yes)).await,
            house.join("pod", "more").await.map(drop),
            house.start("web").await,
            house.kill_with_key("web", 9, "k").await,
            house.delete_with_key("web", Force::Yes, "d").await,
            house.delete_sandbox("pod", Force::No, None).await,
        ] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("its room panicked too often"), "{text}");
        }
        let taken = house.create_sandbox("pod", Some("k")).await;
        assert_eq!(taken.unwrap_err().kind(), Kind::AlreadyExists);
        let taken = house.create("web").await;
        assert_eq!(taken.unwrap_err().kind(), Kind::AlreadyExists);

        house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
        settle().await;
        house.assert_clean();
        house.create_sandbox("pod", None).await.unwrap();
        house.join("pod", "web").await.unwrap();
    })
    .await;
}

//! A sandbox whose own record does not read, above scripted rooms: what is said of it, that nothing ends
//! what lives in it, and how it goes when somebody says so.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, pass, settle, told};
use runtime_core::{
    container::{Force, ProcessCommand},
    error::{Fault, Kind},
    host::{GetUnread, List, ListSandboxes},
    ids::{ContainerNumber, ProcessId, SandboxUid},
    sandbox::{SandboxRecord, Standing, Verb},
};
use std::time::Duration;

const GARBLED: &[u8] = b"{\"v\":";

/// A sandbox with a container that runs, and whose relay is known.
async fn running() -> (House, SandboxUid) {
    let house = House::open().await;
    let uid = house.create_sandbox("pod", None).await.unwrap();
    house.join("pod", "web").await.unwrap();
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", attach).await.unwrap();
    house.start("web").await.unwrap();
    (house, uid)
}

fn garble(house: &House, uid: SandboxUid) {
    let mut kept = house.records.0.borrow_mut();
    kept.insert(SandboxRecord::key(uid), GARBLED.to_vec());
}

/// Since its record was garbled, a daemon began.
async fn unread() -> (House, SandboxUid) {
    let (house, uid) = running().await;
    garble(&house, uid);
    let house = house.restart().await;
    settle().await;
    (house, uid)
}

fn assert_refused<T: std::fmt::Debug>(outcome: Result<T, Fault>, uid: SandboxUid) {
    let why = outcome.unwrap_err();
    assert_ne!(why.kind(), Kind::Unavailable, "{why}");
    let key = SandboxRecord::key(uid);
    let reason = format!("record {key:?} does not read");
    assert!(why.to_string().contains(&reason), "{why}");
}

/// Nothing of it is left, and its names are free.
async fn assert_gone(house: &House) {
    settle().await;
    house.assert_clean();
    house.world.assert_empty();
    assert_eq!(house.world.dismissed(), [(RELAY, 137)]);
    assert_eq!(house.host.send(GetUnread).await.unwrap(), []);
    house.create_sandbox("pod", None).await.unwrap();
    house.join("pod", "web").await.unwrap();
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn it_is_listed_as_failed_with_the_reason_and_what_lives_in_it_lives_on() {
    told(async {
        let (house, uid) = unread().await;

        let view = house.view(&uid.to_string()).await.unwrap();
        let by_container = house.view("web").await.unwrap();
        let all = house.host.send(ListSandboxes { namespace: None }).await;
        let listed = house.host.send(List { namespace: None }).await.unwrap();

        assert_eq!(view.standing, Standing::Failed);
        assert!(view.reason.contains("does not read"), "{}", view.reason);
        assert_eq!(view.containers, [ContainerNumber(0)]);
        assert_eq!(by_container, view);
        let all = all.unwrap();
        assert!(matches!(all.as_slice(), [(one, names)] if *one == view && names.len() == 1));
        let [web] = listed.as_slice() else {
            panic!("{listed:?}")
        };
        assert_eq!(
            (web.view.spec.id.as_str(), &web.unsure),
            ("web", &view.reason)
        );
        assert_eq!(house.world.vms(), 1);
        assert_eq!(house.world.dismissed(), []);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn it_refuses_everything_at_once_and_keeps_its_names_until_its_forced_deletion() {
    told(async {
        let (house, uid) = unread().await;
        let id = uid.to_string();

        assert_refused(house.order(&id, Verb::Stop(Force::Yes)).await, uid);
        assert_refused(house.join(&id, "more").await, uid);
        assert_refused(house.find("web").await.map(drop), uid);
        assert_refused(house.kill_with_key("web", 9, "k").await, uid);
        assert_refused(house.delete_with_key("web", Force::No, "d").await, uid);
        assert_refused(house.delete_sandbox(&id, Force::No, Some("e")).await, uid);
        let taken = house.create("web").await.unwrap_err();
        assert_eq!(taken.kind(), Kind::AlreadyExists);
        assert_eq!(house.world.vms(), 1);

        house.delete_sandbox(&id, Force::Yes, None).await.unwrap();
        assert_gone(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn its_only_container_takes_it_along_by_force() {
    told(async {
        let (house, _) = unread().await;

        let first = house.delete_with_key("web", Force::Yes, "k").await;
        let again = house.delete_with_key("web", Force::Yes, "k").await;

        assert_eq!((first, again), (Ok(()), Ok(())));
        assert_gone(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn one_of_its_containers_does_not_take_the_others_along() {
    told(async {
        let (house, uid) = running().await;
        house.join("pod", "more").await.unwrap();
        garble(&house, uid);
        let house = house.restart().await;

        let refused = house.delete_with_key("more", Force::Yes, "k").await;

        assert_eq!(refused.as_ref().unwrap_err().kind(), Kind::Denied);
        assert_refused(refused, uid);
        assert_eq!(house.world.vms(), 1);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_does_not_take_one_along_whose_record_does_not_read_either() {
    told(async {
        let (house, uid) = running().await;
        house.join("pod", "more").await.unwrap();
        garble(&house, uid);
        let key = format!("container/{uid}/1");
        let before = house.records.0.borrow_mut().insert(key, GARBLED.to_vec());
        assert!(before.is_some(), "there was no such record");
        let house = house.restart().await;

        assert_refused(house.delete_with_key("web", Force::Yes, "k").await, uid);
        assert_eq!(house.world.vms(), 1);

        let id = uid.to_string();
        house.delete_sandbox(&id, Force::Yes, None).await.unwrap();
        assert_gone(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_that_fails_leaves_its_records_and_can_be_asked_for_again() {
    told(async {
        let (house, uid) = unread().await;
        let id = uid.to_string();
        let before = house.records.keys();

        house.world.break_at(Break::Clear);
        let failed = house.delete_sandbox(&id, Force::Yes, Some("k")).await;

        let why = failed.unwrap_err().to_string();
        assert!(why.contains("Clear is broken"), "{why}");
        assert_eq!(house.records.keys(), before);
        assert_eq!(house.standing(&id).await, Standing::Failed);
        house.world.mend();
        house
            .delete_sandbox(&id, Force::Yes, Some("k"))
            .await
            .unwrap();
        settle().await;
        house.assert_clean();
        house.world.assert_empty();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_that_a_daemon_began_is_finished_by_the_next_one() {
    told(async {
        for step in 0..8 {
            let (house, uid) = unread().await;
            let id = uid.to_string();
            {
                let asked = house.delete_sandbox(&id, Force::Yes, Some("k"));
                tokio::select! {
                    biased;
                    _ = asked => {}
                    () = pass(Duration::from_millis(step)) => {}
                }
            }

            let house = house.restart().await;
            let again = house.delete_sandbox(&id, Force::Yes, Some("k")).await;

            again.unwrap_or_else(|why| panic!("after {step} ms: {why}"));
            settle().await;
            house.assert_clean();
            house.world.assert_empty();
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_room_that_panics_while_its_record_does_not_read_is_not_said_to_be_rebuilt() {
    told(async {
        let (house, uid) = running().await;
        let kept = house.records.clone();
        house.world.panic_at_clear(1);
        house.world.before_panic(move || {
            let mut kept = kept.0.borrow_mut();
            kept.insert(SandboxRecord::key(uid), GARBLED.to_vec());
        });
        let cut = house.order("pod", Verb::Stop(Force::Yes)).await;
        assert!(cut.is_err(), "whoever asked hears that the room is gone");
        settle().await;

        assert_refused(house.order("pod", Verb::Start).await, uid);
        assert_refused(house.find("web").await.map(drop), uid);
        let view = house.view("pod").await.unwrap();
        assert_eq!(view.standing, Standing::Failed);
        assert!(view.reason.contains("does not read"), "{}", view.reason);

        house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
        assert_gone(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn one_of_a_newer_version_keeps_its_name() {
    told(async {
        let (house, uid) = running().await;
        let key = SandboxRecord::key(uid);
        let row = house.records.0.borrow()[&key].clone();
        let mut newer: serde_json::Value = serde_json::from_slice(&row).unwrap();
        newer["v"] = 99.into();
        let newer = newer.to_string().into_bytes();
        house.records.0.borrow_mut().insert(key, newer);

        let house = house.restart().await;

        let view = house.view("pod").await.unwrap();
        assert_eq!((view.spec.uid, view.standing), (uid, Standing::Failed));
        assert!(view.reason.contains("99"), "{}", view.reason);
        let taken = house.create_sandbox("pod", None).await.unwrap_err();
        assert_eq!(taken.kind(), Kind::AlreadyExists);
        house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
        assert_gone(&house).await;
    })
    .await;
}

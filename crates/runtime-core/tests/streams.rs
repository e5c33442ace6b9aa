//! Who has which stream of a VM: on record with who has it, lent to nobody else, and given back once.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, pass, settle, told};
use runtime_core::{
    container::{Force, ProcessCommand},
    ids::{ExecId, ProcessId, SandboxUid},
    sandbox::Verb,
};
use std::time::Duration;

/// Longer than a deletion.
const LONG: Duration = Duration::from_secs(60);

async fn with(containers: &[&str]) -> (House, SandboxUid) {
    let house = House::open().await;
    let uid = house.create_sandbox("pod", None).await.unwrap();
    for id in containers {
        house.join("pod", id).await.unwrap();
        house.start(id).await.unwrap();
    }
    (house, uid)
}

async fn exec(house: &House, id: &str, exec: &str) -> u32 {
    let made = house.exec_with_key(id, exec, exec).await;
    made.unwrap().lease.number
}

async fn over(house: &House, uid: SandboxUid, id: &str, exec: &str) {
    let process = ProcessId::Exec(ExecId::new(exec).unwrap());
    house.world.exit(uid, process.clone(), 0);
    settle().await;
    let done = ProcessCommand::RelayDone(process);
    house.command(id, done).await.unwrap();
    settle().await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_next_daemon_lends_no_stream_that_somebody_has() {
    told(async {
        let (house, uid) = with(&["web"]).await;
        assert_eq!(exec(&house, "web", "a").await, 2);
        assert_eq!(exec(&house, "web", "b").await, 3);
        over(&house, uid, "web", "a").await;

        let house = house.restart().await;
        settle().await;

        assert_eq!(house.world.leased(uid), [1, 3]);
        assert_eq!(exec(&house, "web", "c").await, 2);
        over(&house, uid, "web", "b").await;
        assert_eq!(house.world.leased(uid), [1, 2]);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_room_that_is_opened_again_is_told_who_has_which_stream() {
    told(async {
        let (house, uid) = with(&["web"]).await;
        assert_eq!(exec(&house, "web", "a").await, 2);

        house.world.panic_hypervisor_room(uid);
        settle().await;

        assert_eq!(house.world.leased(uid), [1, 2]);
        assert_eq!(exec(&house, "web", "b").await, 3);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_of_a_vm_that_is_gone_takes_nothing_from_those_of_the_next() {
    told(async {
        let (house, uid) = with(&["web"]).await;
        assert_eq!(exec(&house, "web", "old").await, 2);
        house.order("pod", Verb::Stop(Force::Yes)).await.unwrap();
        house.order("pod", Verb::Start).await.unwrap();
        house.join("pod", "new").await.unwrap();
        assert_eq!(exec(&house, "new", "a").await, 2, "as one that is gone had");

        // Whoever read the output of the old one is done with it only now.
        let old = ProcessId::Exec(ExecId::new("old").unwrap());
        let done = ProcessCommand::RelayDone(old);
        house.command("web", done).await.unwrap();
        settle().await;
        assert_eq!(house.world.leased(uid), [1, 2]);
        house.delete("web", Force::No).await.unwrap();
        settle().await;

        assert_eq!(house.world.leased(uid), [1, 2]);
        let house = house.restart().await;
        settle().await;
        assert_eq!(house.world.leased(uid), [1, 2]);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_the_next_daemon_finds_of_a_vm_that_is_gone_is_lent_anew() {
    told(async {
        let (house, uid) = with(&["web"]).await;
        assert_eq!(exec(&house, "web", "a").await, 2);
        house.order("pod", Verb::Stop(Force::Yes)).await.unwrap();
        let house = house.restart().await;
        settle().await;
        house.order("pod", Verb::Start).await.unwrap();
        house.join("pod", "new").await.unwrap();

        house.world.panic_hypervisor_room(uid);
        settle().await;

        assert_eq!(house.world.leased(uid), [1]);
        house.delete("web", Force::No).await.unwrap();
        settle().await;
        assert_eq!(house.world.leased(uid), [1]);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_stream_that_comes_when_nobody_waits_any_more_is_free() {
    told(async {
        let (house, uid) = with(&["web", "other"]).await;
        assert_eq!(house.world.leased(uid), [1, 2]);
        house.world.slow_down_at(Break::Lease, LONG);
        let asked = house.exec_with_key("web", "late", "late");
        let deleted = async {
            pass(Duration::from_secs(1)).await;
            house.delete("web", Force::Yes).await
        };

        let (refused, deleted) = tokio::join!(asked, deleted);
        pass(LONG * 4).await;

        assert!(refused.is_err());
        deleted.unwrap();
        assert_eq!(house.world.leased(uid), [2]);
    })
    .await;
}

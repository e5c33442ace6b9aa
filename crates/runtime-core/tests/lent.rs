//! A sandbox room that panics while somebody waits for what it lent: its rooms end with it, before the next one's
//! are opened.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, pass, settle, told};
use runtime_core::{
    container::{Force, ProcessCommand},
    ids::{ExecId, ProcessId},
    sandbox::{Standing, Verb},
};
use std::time::Duration;

/// Longer than a stop, and than a rebuild.
const LONG: Duration = Duration::from_secs(60);

async fn running() -> House {
    let house = House::open().await;
    house.create_sandbox("pod", None).await.unwrap();
    house.join("pod", "web").await.unwrap();
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", attach).await.unwrap();
    house.start("web").await.unwrap();
    house
}

/// Its room panics at the end of a stop, and the next one finishes it.
async fn panic_once(house: &House) {
    house.world.panic_at_clear(1);
    let cut = house.order("pod", Verb::Stop(Force::Yes)).await;
    assert!(cut.is_err(), "whoever asked hears that the room is gone");
    settle().await;
    assert_eq!(house.standing("pod").await, Standing::Stopped);
}

/// `question` is asked while the room panics.
async fn asked_meanwhile(house: &House, question: impl Future<Output = ()>) {
    let panics = async {
        pass(Duration::from_secs(1)).await;
        panic_once(house).await;
    };
    tokio::join!(question, panics);
    assert_eq!(house.world.doubles(), Vec::<&str>::new());
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_hypervisor_room_ends_with_its_sandbox_room_though_a_disk_is_being_plugged() {
    told(async {
        let house = running().await;
        house.world.bring_block();
        house.world.slow_down_at(Break::Plug, LONG);

        asked_meanwhile(&house, async {
            let never = house.join("pod", "more").await;
            assert!(never.is_err(), "its disk was never there");
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_hypervisor_room_ends_with_its_sandbox_room_though_a_disk_is_being_unplugged() {
    told(async {
        let house = running().await;
        house.world.bring_block();
        house.join("pod", "more").await.unwrap();
        house.world.slow_down_at(Break::Plug, LONG);

        asked_meanwhile(&house, async {
            // Its guest ends meanwhile, and the disk with it.
            house.delete("more", Force::Yes).await.unwrap();
        })
        .await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_agent_room_ends_with_its_sandbox_room_though_a_process_is_looked_for_again_and_again() {
    told(async {
        let house = running().await;
        house.world.slow_down_at(Break::Exec, LONG);
        let never = tokio::time::timeout(
            Duration::from_secs(1),
            house.exec_with_key("web", "sh", "key"),
        );
        assert!(never.await.is_err(), "its guest is slow");
        let process = ProcessId::Exec(ExecId::new("sh").unwrap());
        house.world.never_make(process);
        let house = house.restart().await;

        asked_meanwhile(&house, async {}).await;
    })
    .await;
}

//! Kills for want of memory, as many as a guest can tell: each is numbered and on record, and they cost few records.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{House, pass, settle, told};
use runtime_core::{
    container::{Force, NextOoms},
    sandbox::NextOomsIn,
};
use std::time::Duration;

/// A write takes a millisecond: one for each would take twice as long as they are given.
const KILLS: u64 = 300;
const GIVEN: Duration = Duration::from_millis(150);

async fn running() -> House {
    let house = House::open().await;
    house.create("web").await.unwrap();
    house.start("web").await.unwrap();
    house
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn kills_for_want_of_memory_that_come_at_once_are_put_on_record_together() {
    told(async {
        let house = running().await;
        let located = house.find("web").await.unwrap();

        house
            .world
            .kill_for_want_of_memory(located.place.uid, KILLS);
        pass(GIVEN).await;

        let next = NextOoms {
            after: 0,
            wait: Duration::ZERO,
        };
        let container = located.place.number;
        let told = located.sandbox.send(NextOomsIn { container, next });
        let told = told.await.unwrap().unwrap();
        assert_eq!(told.ooms.last().unwrap().number, KILLS);
        assert_eq!(house.world.confirmed().last(), Some(&KILLS));
    })
    .await;
}

/// Else the guest would keep them, and every later exit with them.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn kills_for_want_of_memory_of_what_is_deleted_meanwhile_are_confirmed_too() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;
        house.join("web", "stays").await.unwrap();

        house.world.kill_for_want_of_memory(uid, KILLS);
        pass(Duration::from_millis(20)).await;
        house.delete("web", Force::Yes).await.unwrap();
        settle().await;

        assert_eq!(house.world.confirmed().last(), Some(&KILLS));
    })
    .await;
}

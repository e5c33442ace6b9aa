//! A container that lives for months is looked at by an exec every few seconds: what is kept of them has a bound.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, pass, settle, told};
use runtime_core::{
    container::{Force, ProcessCommand},
    error::{Fault, Kind},
    ids::{ExecId, ProcessId},
    sandbox::{Verb, WaitIn},
};
use std::time::Duration;
use tokio::{task::yield_now, time::timeout};

/// As many as a container keeps of those that are over.
const KEPT: usize = 16;

fn id(number: usize) -> ProcessId {
    ProcessId::Exec(ExecId::new(format!("e{number}")).unwrap())
}

/// Runs, ends with its number as its code, and is read.
async fn exec(house: &House, number: usize) {
    let name = format!("e{number}");
    house.exec_with_key("web", &name, &name).await.unwrap();
    let uid = house.find("web").await.unwrap().place.uid;
    let code = u32::try_from(number).unwrap();
    house.world.exit(uid, id(number), code);
    settle().await;
    let done = ProcessCommand::RelayDone(id(number));
    house.command("web", done).await.unwrap();
    settle().await;
}

async fn exit_of(house: &House, number: usize) -> Result<u32, Fault> {
    let located = house.find("web").await.unwrap();
    let (container, process) = (located.place.number, id(number));
    let wait = located.sandbox.send(WaitIn { container, process });
    wait.await.unwrap().map(|exit| exit.code)
}

fn on_record(house: &House) -> usize {
    let keys = house.records.keys();
    let execs = keys.iter().filter(|key| key.starts_with("process/"));
    execs.filter(|key| !key.ends_with("/init")).count()
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_last_execs_of_a_container_are_kept_and_their_number_does_not_end_it() {
    told(async {
        let house = House::open().await;
        house.create("web").await.unwrap();
        house.start("web").await.unwrap();

        for number in 0..KEPT + 5 {
            exec(&house, number).await;
        }
        assert_eq!(on_record(&house), KEPT);
        assert_eq!(exit_of(&house, KEPT + 4).await.unwrap() as usize, KEPT + 4);
        assert_eq!(exit_of(&house, 5).await.unwrap(), 5);
        assert_eq!(exit_of(&house, 4).await.unwrap_err().kind(), Kind::NotFound);
        let again = house.exec_with_key("web", "e20", "e20").await.unwrap_err();
        assert!(again.to_string().contains("its output was read"), "{again}");

        let house = house.restart().await;
        settle().await;
        for number in KEPT + 5..KEPT + 9 {
            exec(&house, number).await;
        }
        assert_eq!(on_record(&house), KEPT);

        house.delete("web", Force::Yes).await.unwrap();
        settle().await;
        house.assert_clean();
    })
    .await;
}

/// Its container may not know yet that there is no guest any more.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_exec_that_meets_the_end_of_its_vm_is_answered() {
    told(async {
        for (millis, turns) in (0..4).flat_map(|millis| (0..40).map(move |turns| (millis, turns))) {
            let house = House::open().await;
            house.create_sandbox("pod", None).await.unwrap();
            house.join("pod", "web").await.unwrap();
            house.start("web").await.unwrap();
            // Streams can be had as long as that takes.
            house
                .world
                .slow_down_at(Break::Stop, Duration::from_secs(5));
            let exec = async {
                pass(Duration::from_millis(millis)).await;
                for _ in 0..turns {
                    yield_now().await;
                }
                let asked = house.exec_with_key("web", "late", "late");
                timeout(Duration::from_secs(60), asked).await
            };

            let (stopped, asked) = tokio::join!(house.order("pod", Verb::Stop(Force::Yes)), exec);

            stopped.unwrap();
            assert!(
                asked.is_ok(),
                "{millis} ms and {turns} turns: nobody answers"
            );
        }
    })
    .await;
}

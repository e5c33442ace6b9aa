//! Every step of an end runs, whatever the others come to, and every failure is told (D6, D17): the release of a
//! sandbox and the deletion of a container, with each set of their steps broken.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, pass, settle, told, wish};
use runtime_core::{
    container::{Force, ProcessCommand},
    error::Kind,
    host::CreateContainer,
    ids::ProcessId,
    premises::Cgroup,
    sandbox::{Standing, Verb},
};
use std::time::Duration;

/// In their order.
const OF_A_RELEASE: [Break; 4] = [Break::Stop, Break::Release, Break::Disconnect, Break::Clear];
const OF_A_DELETION: [Break; 4] = [Break::Remove, Break::Plug, Break::Detach, Break::Vacate];

async fn running(with_disk: bool) -> House {
    let house = House::open().await;
    house.create_sandbox("pod", None).await.unwrap();
    if with_disk {
        house.world.bring_block();
    }
    let mut wish = Box::new(wish("web", 1));
    wish.join = Some("pod".to_owned());
    wish.spec.cgroup = Some(Cgroup("/caller".to_owned()));
    let create = CreateContainer { key: None, wish };
    house.host.send(create).await.unwrap().unwrap();
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", attach).await.unwrap();
    house.start("web").await.unwrap();
    house
}

/// Every set of steps that holds one at least.
fn sets(steps: [Break; 4]) -> impl Iterator<Item = Vec<Break>> {
    (1_u32..16).map(move |set| {
        let broken = steps.iter().enumerate();
        let broken = broken.filter(|(number, _)| set & (1 << number) != 0);
        broken.map(|(_, step)| *step).collect()
    })
}

/// All that are broken are told in their order, and all others were carried out in theirs.
fn assert_joined(house: &House, steps: [Break; 4], broken: &[Break], why: &str) {
    let due: Vec<_> = broken
        .iter()
        .map(|step| format!("{step:?} is broken"))
        .collect();
    assert_eq!(why, due.join("; "));
    let mut done = house.world.take_carried_out();
    done.retain(|step| steps.contains(step));
    let mut well = steps.to_vec();
    well.retain(|step| !broken.contains(step));
    // A release is tried a few times.
    let times = done.len().checked_div(well.len()).unwrap_or(1);
    assert!(times >= 1, "{broken:?}: {done:?}");
    assert_eq!(done, well.repeat(times), "{broken:?}");
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_release_goes_through_every_step_and_tells_each_that_failed() {
    told(async {
        for broken in sets(OF_A_RELEASE) {
            let house = running(false).await;
            house.world.take_carried_out();
            broken.iter().for_each(|step| house.world.break_at(*step));

            let why = house.order("pod", Verb::Stop(Force::Yes)).await;

            let why = why.unwrap_err().to_string();
            let why = why.strip_prefix("release what it held: ").unwrap();
            assert_joined(&house, OF_A_RELEASE, &broken, why);
            assert_eq!(house.standing("pod").await, Standing::Failed);
            house.world.mend();
            house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
            settle().await;
            house.assert_clean();
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_goes_through_every_step_and_tells_each_that_failed() {
    told(async {
        for broken in sets(OF_A_DELETION) {
            let house = running(true).await;
            house.world.take_carried_out();
            broken.iter().for_each(|step| house.world.break_at(*step));

            let why = house.delete("web", Force::Yes).await.unwrap_err();

            assert_joined(&house, OF_A_DELETION, &broken, &why.to_string());
            house.world.mend();
            house.delete("web", Force::No).await.unwrap();
            let gone = house.find("web").await.map(drop).unwrap_err();
            assert_eq!(gone.kind(), Kind::NotFound);
            assert_eq!(house.standing("pod").await, Standing::Running);
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_of_which_the_guest_did_not_hear_takes_nothing_from_the_container() {
    told(async {
        let house = running(true).await;
        house.order("pod", Verb::Pause).await.unwrap();
        house.world.take_carried_out();

        let denied = house.delete("web", Force::No).await;
        pass(Duration::from_secs(1)).await;

        assert!(denied.is_err(), "its sandbox is paused");
        let mut done = house.world.take_carried_out();
        done.retain(|step| OF_A_DELETION.contains(step));
        assert_eq!(done, []);
    })
    .await;
}

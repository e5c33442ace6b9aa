//! What a guest has in memory comes to the disks of its containers before its VM ends, where it can.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, pass, settle, told};
use runtime_core::{
    container::{Force, ProcessCommand},
    ids::{EpochMs, ProcessId, SandboxUid},
    sandbox::{DeleteContainer, Verb},
};
use std::time::Duration;
use tokio::{task::spawn_local, time::Instant};

async fn start(house: &House, id: &str) -> SandboxUid {
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command(id, attach).await.unwrap();
    house.start(id).await.unwrap();
    house.world.take_carried_out();
    house.find(id).await.unwrap().place.uid
}

/// A container that runs, and has a disk to write to, alone in its VM.
async fn alone() -> (House, SandboxUid) {
    let house = House::open().await;
    house.world.bring_block();
    house.create("web").await.unwrap();
    let uid = start(&house, "web").await;
    (house, uid)
}

/// By force; a second of it.
async fn begin_to_delete(house: &House) {
    let located = house.find("web").await.unwrap();
    let delete = DeleteContainer {
        container: located.place.number,
        force: Force::Yes,
        at: EpochMs(2),
    };
    spawn_local(located.sandbox.send(delete));
    pass(Duration::from_secs(1)).await;
}

/// What was done of what has to do with the end of a VM.
fn ends(house: &House) -> Vec<Break> {
    let mut all = house.world.take_carried_out();
    all.retain(|done| matches!(done, Break::Resume | Break::Remove | Break::Stop));
    all
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_vm_ends_after_its_guest_has_let_go_of_the_disks() {
    told(async {
        let (house, _) = alone().await;

        let warnings = house.delete_told("web", Force::Yes).await.unwrap();

        assert_eq!(ends(&house), [Break::Remove, Break::Stop]);
        assert_eq!(warnings, Vec::<String>::new());
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_guest_is_told_when_its_containers_are_done() {
    told(async {
        let (house, uid) = alone().await;

        house.world.exit(uid, ProcessId::Init, 0);
        house.wait("web").await.unwrap();
        let read = ProcessCommand::RelayDone(ProcessId::Init);
        house.command("web", read).await.unwrap();
        settle().await;

        assert_eq!(ends(&house), [Break::Remove, Break::Stop]);
        house.delete("web", Force::No).await.unwrap();
        assert_eq!(ends(&house), []);
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_vm_whose_disks_nobody_writes_to_ends_at_once() {
    told(async {
        let house = House::open().await;
        house.world.bring_read_only_block();
        house.create("web").await.unwrap();
        start(&house, "web").await;

        house.delete("web", Force::Yes).await.unwrap();

        assert_eq!(ends(&house), [Break::Stop]);
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_guest_that_hangs_holds_its_vm_up_for_its_time_only() {
    told(async {
        let (house, _) = alone().await;
        let hour = Duration::from_secs(3600);
        house.world.slow_down_at(Break::Remove, hour);
        let begun = Instant::now();

        let warnings = house.delete_told("web", Force::Yes).await.unwrap();

        // 20 s, six times as long under emulation.
        let took = begun.elapsed().as_secs();
        assert!((120..130).contains(&took), "{took} s");
        assert_eq!(warnings, [SAID]);
        assert_eq!(ends(&house), [Break::Stop]);
        house.assert_clean();
    })
    .await;
}

const SAID: &str =
    "what was written last may not be on its disks: its guest did not do it in 120 s";

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn whoever_ends_a_sandbox_hears_once_what_may_be_missing() {
    told(async {
        let house = House::open().await;
        house.world.bring_block();
        let hour = Duration::from_secs(3600);
        house.world.slow_down_at(Break::Remove, hour);
        for pod in ["stopped", "deleted"] {
            house.create_sandbox(pod, None).await.unwrap();
            house.join(pod, "web").await.unwrap();
            start(&house, "web").await;

            let told = match pod {
                "stopped" => house.order_told(pod, Verb::Stop(Force::Yes)).await,
                _ => house.delete_sandbox_told(pod, Force::Yes, None).await,
            };

            assert_eq!(told.unwrap(), [SAID], "{pod}");
            if pod == "stopped" {
                let told = house.delete_sandbox_told(pod, Force::Yes, None).await;
                assert_eq!(told.unwrap(), Vec::<String>::new());
            }
        }
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_may_be_missing_of_a_container_that_was_done_is_told_by_its_deletion() {
    told(async {
        let (house, uid) = alone().await;
        let hour = Duration::from_secs(3600);
        house.world.slow_down_at(Break::Remove, hour);
        house.world.exit(uid, ProcessId::Init, 0);
        house.wait("web").await.unwrap();
        let read = ProcessCommand::RelayDone(ProcessId::Init);
        house.command("web", read).await.unwrap();
        pass(Duration::from_secs(200)).await;

        let told = house.delete_told("web", Force::No).await.unwrap();

        assert_eq!(told, [SAID]);
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_guest_whose_link_is_being_opened_again_is_asked_when_it_is() {
    told(async {
        let (house, _) = alone().await;
        house.world.lose_requests_for(Break::Remove);
        let mend = async {
            pass(Duration::from_secs(5)).await;
            house.world.mend();
        };

        let (warnings, ()) = tokio::join!(house.delete_told("web", Force::Yes), mend);

        assert_eq!(warnings.unwrap(), Vec::<String>::new());
        assert_eq!(ends(&house), [Break::Remove, Break::Stop]);
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_may_be_missing_is_told_though_the_release_fails_at_first() {
    told(async {
        let (house, _) = alone().await;
        let hour = Duration::from_secs(3600);
        house.world.slow_down_at(Break::Remove, hour);
        house.world.break_at(Break::Release);
        let mend = async {
            pass(Duration::from_millis(120_500)).await;
            house.world.mend();
        };

        let (warnings, ()) = tokio::join!(house.delete_told("web", Force::Yes), mend);

        assert_eq!(warnings.unwrap(), [SAID]);
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_vm_that_was_lost_is_not_asked_for_anything() {
    told(async {
        let (house, uid) = alone().await;

        house.world.crash(uid);
        settle().await;

        assert_eq!(ends(&house), [Break::Stop]);
        house.delete("web", Force::No).await.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_next_daemon_has_a_guest_write_what_the_last_one_did_not() {
    told(async {
        let (house, _) = alone().await;
        let hour = Duration::from_secs(3600);
        house.world.slow_down_at(Break::Remove, hour);
        // Its container has no record any more, and nobody has let go of its disk.
        begin_to_delete(&house).await;
        assert!(house.find("web").await.is_err());
        house.world.slow_down_at(Break::Remove, Duration::ZERO);

        let house = house.restart().await;
        settle().await;

        assert_eq!(ends(&house), [Break::Resume, Break::Remove, Break::Stop]);
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_vm_that_the_last_daemon_has_ended_is_asked_for_nothing() {
    told(async {
        let (house, _) = alone().await;
        house
            .world
            .slow_down_at(Break::Release, Duration::from_secs(3600));
        begin_to_delete(&house).await;
        assert_eq!(ends(&house), [Break::Remove, Break::Stop]);
        house.world.slow_down_at(Break::Release, Duration::ZERO);
        let begun = Instant::now();

        let house = house.restart().await;
        settle().await;

        assert!(!ends(&house).contains(&Break::Remove));
        assert!(begun.elapsed() < Duration::from_secs(10));
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_guest_that_stands_still_goes_on_to_write() {
    told(async {
        let house = House::open().await;
        house.create_sandbox("pod", None).await.unwrap();
        house.world.bring_block();
        house.join("pod", "web").await.unwrap();
        start(&house, "web").await;
        house.order("pod", Verb::Pause).await.unwrap();
        house.world.be_pausing(2);

        house.order("pod", Verb::Stop(Force::Yes)).await.unwrap();

        let tried = [Break::Resume, Break::Resume, Break::Resume];
        let due = [&tried[..], &[Break::Remove, Break::Stop]].concat();
        assert_eq!(ends(&house), due);
        house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_disk_that_left_with_its_container_is_not_asked_for_again() {
    told(async {
        let house = House::open().await;
        house.create_sandbox("pod", None).await.unwrap();
        house.world.bring_block();
        house.join("pod", "web").await.unwrap();
        start(&house, "web").await;
        house.delete("web", Force::Yes).await.unwrap();
        assert_eq!(ends(&house), [Break::Remove]);

        house.order("pod", Verb::Stop(Force::Yes)).await.unwrap();

        assert_eq!(ends(&house), [Break::Stop]);
        house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
        house.assert_clean();
    })
    .await;
}

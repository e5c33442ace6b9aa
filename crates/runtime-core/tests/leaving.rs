//! A stopped container leaves its guest while nobody waits, and its deletion finds nothing to do there.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, pass, settle, told, wish};
use runtime_core::{
    container::{ContainerState, Force, ProcessCommand},
    host::CreateContainer,
    ids::{ExecId, ProcessId, SandboxUid},
    premises::Cgroup,
    sandbox::Verb,
};
use std::time::Duration;
use tokio::time::timeout;

/// Another one keeps the VM. Container 0 runs, with a cgroup of its caller's.
async fn two() -> (House, SandboxUid) {
    let house = House::open().await;
    let mut wish = Box::new(wish("web", 1));
    wish.spec.cgroup = Some(Cgroup("/pods/web".to_owned()));
    let create = CreateContainer { key: None, wish };
    house.host.send(create).await.unwrap().unwrap();
    house.join("web", "side").await.unwrap();
    let relay = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", relay).await.unwrap();
    house.start("web").await.unwrap();
    let uid = house.find("web").await.unwrap().place.uid;
    (house, uid)
}

async fn stop(house: &House, uid: SandboxUid) {
    house.world.exit(uid, ProcessId::Init, 3);
    house.wait("web").await.unwrap();
    house.world.take_carried_out();
    let read = ProcessCommand::RelayDone(ProcessId::Init);
    house.command("web", read).await.unwrap();
}

/// The other one goes, and the VM with it.
async fn end(house: &House) {
    house.delete("side", Force::Yes).await.unwrap();
    house.assert_clean();
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_that_was_read_has_left_before_it_is_deleted() {
    told(async {
        let (house, uid) = two().await;

        stop(&house, uid).await;
        settle().await;

        let left = [Break::RemoveEmpty, Break::Detach];
        assert_eq!(house.world.take_carried_out(), left);
        let state = house.state("web").await.unwrap();
        assert!(matches!(state, ContainerState::Stopped(_)), "{state:?}");
        // Its caller's cgroup is its caller's until then.
        house.delete("web", Force::No).await.unwrap();
        assert_eq!(house.world.take_carried_out(), [Break::Vacate]);
        end(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_lives_on_in_a_stopped_container_lives_until_it_is_deleted() {
    told(async {
        let (house, uid) = two().await;
        house.world.leave_behind(uid);

        stop(&house, uid).await;
        settle().await;

        assert_eq!(house.world.take_carried_out(), [Break::RemoveEmpty]);
        house.delete("web", Force::No).await.unwrap();
        let all = [Break::Remove, Break::Detach, Break::Vacate];
        assert_eq!(house.world.take_carried_out(), all);
        end(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_could_not_leave_goes_with_the_deletion() {
    for broken in [Break::RemoveEmpty, Break::Detach] {
        told(async {
            let (house, uid) = two().await;
            house.world.break_at(broken);
            stop(&house, uid).await;
            settle().await;

            house.world.mend();
            house.world.take_carried_out();
            house.delete("web", Force::No).await.unwrap();

            let all = [Break::Remove, Break::Detach, Break::Vacate];
            assert_eq!(house.world.take_carried_out(), all, "{broken:?}");
            end(&house).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_waits_for_what_is_leaving() {
    told(async {
        let (house, uid) = two().await;
        house
            .world
            .slow_down_at(Break::Detach, Duration::from_secs(1));
        stop(&house, uid).await;
        pass(Duration::from_millis(100)).await;
        assert_eq!(house.world.take_carried_out(), [Break::RemoveEmpty]);

        house.delete("web", Force::No).await.unwrap();

        let all = [Break::Detach, Break::Vacate];
        assert_eq!(house.world.take_carried_out(), all);
        end(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_whose_exec_was_not_read_stays_in_the_guest() {
    told(async {
        let (house, uid) = two().await;
        house.exec_with_key("web", "probe", "k").await.unwrap();
        let exec = ProcessId::Exec(ExecId::new("probe").unwrap());
        let relay = ProcessCommand::AttachRelay(exec.clone(), RELAY.into());
        house.command("web", relay).await.unwrap();
        house.world.exit(uid, exec.clone(), 0);

        stop(&house, uid).await;
        settle().await;
        assert_eq!(house.world.take_carried_out(), []);
        let read = ProcessCommand::RelayDone(exec);
        house.command("web", read).await.unwrap();
        settle().await;

        // Its port is given back too.
        let left = [Break::Lease, Break::RemoveEmpty, Break::Detach];
        assert_eq!(house.world.take_carried_out(), left);
        house.delete("web", Force::No).await.unwrap();
        end(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_was_read_while_its_vm_stood_still_leaves_as_that_goes_on() {
    told(async {
        let (house, uid) = two().await;
        house.world.exit(uid, ProcessId::Init, 3);
        house.wait("web").await.unwrap();
        house.order("web", Verb::Pause).await.unwrap();
        let read = ProcessCommand::RelayDone(ProcessId::Init);
        house.command("web", read).await.unwrap();
        settle().await;
        house.world.take_carried_out();

        house.order("web", Verb::Resume).await.unwrap();
        settle().await;

        let mut carried_out = house.world.take_carried_out();
        carried_out.retain(|step| [Break::RemoveEmpty, Break::Detach].contains(step));
        assert_eq!(carried_out, [Break::RemoveEmpty, Break::Detach]);
        house.delete("web", Force::No).await.unwrap();
        end(&house).await;
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_daemon_killed_while_a_container_leaves_loses_nothing_of_it() {
    /// Milliseconds; before that the store does not know that it was read.
    const ON_RECORD_AFTER: u64 = 2;
    for moment in 0..30 {
        told(async {
            let (house, uid) = two().await;
            stop(&house, uid).await;
            let leaving = timeout(Duration::from_millis(moment), settle());
            leaving.await.unwrap_err();

            let house = house.restart().await;
            settle().await;

            assert_eq!(house.wait("web").await.unwrap().code, 3, "{moment} ms");
            house.world.take_carried_out();
            house.delete("web", Force::No).await.unwrap();
            let carried_out = house.world.take_carried_out();
            if moment >= ON_RECORD_AFTER {
                // The next daemon had it leave.
                assert_eq!(carried_out, [Break::Vacate], "{moment} ms");
            }
            end(&house).await;
        })
        .await;
    }
}

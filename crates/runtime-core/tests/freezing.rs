//! Containers that are paused and resumed, above scripted rooms: what is told, what survives.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, settle, told, warned};
use runtime_core::{
    container::{ContainerState, Force, Freeze, FreezeContainer, ProcessCommand, UpdateLimits},
    error::{Fault, Kind},
    ids::{ProcessId, RequestKey},
    process::Kill,
    sandbox::{FreezeIn, UpdateIn},
};

async fn freeze_under(house: &House, key: Option<&str>, wish: Freeze) -> Result<(), Fault> {
    let located = house.find("web").await?;
    let key = key.map(|key| RequestKey::new(key).unwrap());
    let freeze = FreezeIn {
        container: located.place.number,
        freeze: FreezeContainer { key, wish },
    };
    located.sandbox.send(freeze).await.unwrap()
}

async fn freeze(house: &House, wish: Freeze) -> Result<(), Fault> {
    freeze_under(house, None, wish).await
}

async fn created() -> House {
    let house = House::open().await;
    house.create("web").await.unwrap();
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", attach).await.unwrap();
    house
}

async fn begin(house: &House) -> Result<(), Fault> {
    house.start("web").await
}

async fn signal(house: &House, signal: u32) {
    let kill = Kill {
        key: None,
        signal,
        all: false,
    };
    let kill = ProcessCommand::Kill(ProcessId::Init, kill);
    house.command("web", kill).await.unwrap();
}

const PAUSED: &str = "cannot start a container in the paused state";

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_runs_and_is_paused_is_not_started_because_it_is_paused() {
    told(async {
        let house = created().await;
        house.start_with_key("web", "k").await.unwrap();
        freeze(&house, Freeze::Pause).await.unwrap();

        let again = house.start_with_key("web", "k").await;
        let anew = begin(&house).await.unwrap_err();
        freeze(&house, Freeze::Resume).await.unwrap();
        let running = begin(&house).await.unwrap_err();

        assert_eq!(again, Ok(()), "the same request gets the same answer");
        assert_eq!(anew.to_string(), PAUSED);
        let runs = "cannot start an already running container";
        assert_eq!(running.to_string(), runs);
    })
    .await;
}

async fn state(house: &House) -> ContainerState {
    house.state("web").await.unwrap()
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_is_paused_before_its_start_is_created_afterwards() {
    told(async {
        let house = created().await;

        freeze(&house, Freeze::Pause).await.unwrap();
        assert_eq!(state(&house).await, ContainerState::Paused);
        let started = begin(&house).await.unwrap_err();
        let deleted = house.delete("web", Force::No).await.unwrap_err();
        freeze(&house, Freeze::Resume).await.unwrap();

        assert_eq!(started.kind(), Kind::Denied);
        assert_eq!(started.to_string(), PAUSED);
        let text = deleted.to_string();
        assert!(text.contains("not stopped: paused"), "{text}");
        assert_eq!(state(&house).await, ContainerState::Created);
        begin(&house).await.unwrap();
        assert_eq!(state(&house).await, ContainerState::Running);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_pause_that_fails_says_so_and_leaves_it_running() {
    told(async {
        let house = created().await;
        begin(&house).await.unwrap();
        house.world.break_at(Break::Freeze);

        let failed = freeze(&house, Freeze::Pause).await.unwrap_err();

        let text = failed.to_string();
        assert!(text.contains("Freeze is broken"), "{text}");
        assert_eq!(state(&house).await, ContainerState::Running);
        house.world.mend();
        settle().await;
        freeze(&house, Freeze::Pause).await.unwrap();
        assert_eq!(state(&house).await, ContainerState::Paused);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_resume_that_fails_says_so_and_is_tried_again_until_it_is_done() {
    told(async {
        let house = created().await;
        begin(&house).await.unwrap();
        freeze(&house, Freeze::Pause).await.unwrap();
        house.world.break_at(Break::Thaw);

        let failed = freeze(&house, Freeze::Resume).await.unwrap_err();

        assert!(failed.to_string().contains("Thaw is broken"), "{failed}");
        assert_eq!(state(&house).await, ContainerState::Paused);
        house.world.mend();
        settle().await;
        assert_eq!(state(&house).await, ContainerState::Running);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn each_wrong_order_is_refused_and_changes_nothing() {
    told(async {
        let house = created().await;
        begin(&house).await.unwrap();

        let thawed = freeze(&house, Freeze::Resume).await.unwrap_err();
        freeze(&house, Freeze::Pause).await.unwrap();
        let twice = freeze(&house, Freeze::Pause).await.unwrap_err();
        let deleted = house.delete("web", Force::No).await.unwrap_err();
        let uid = house.find("web").await.unwrap().place.uid;

        assert_eq!(thawed.to_string(), "container not paused");
        assert_eq!(twice.to_string(), "container is already paused");
        let text = deleted.to_string();
        assert!(text.contains("not stopped: paused"), "{text}");
        assert!(house.world.is_frozen(uid));
        signal(&house, 9).await;
        house.world.exit(uid, ProcessId::Init, 137);
        assert_eq!(house.wait("web").await.unwrap().code, 137);
        for wish in [Freeze::Pause, Freeze::Resume] {
            let late = freeze(&house, wish).await.unwrap_err();
            assert_eq!(late.kind(), Kind::Denied);
        }
        let name = state(&house).await.name();
        assert_eq!(name, "stopped");
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_is_paused_and_sent_sigkill_is_paused_no_more_though_its_exit_is_not_known_yet() {
    told(async {
        let house = created().await;
        begin(&house).await.unwrap();
        freeze(&house, Freeze::Pause).await.unwrap();
        let uid = house.find("web").await.unwrap().place.uid;
        house.world.die_late();

        signal(&house, 15).await;
        let behind_another = state(&house).await;
        signal(&house, 9).await;
        let behind_it = state(&house).await;
        let resumed = freeze(&house, Freeze::Resume).await.unwrap_err();
        settle().await;

        assert_eq!(behind_another, ContainerState::Paused);
        assert_eq!(behind_it, ContainerState::Running);
        assert_eq!(resumed.to_string(), "container not paused");
        assert!(!house.world.is_frozen(uid), "the guest thaws what is left");
        house.world.exit(uid, ProcessId::Init, 137);
        assert_eq!(house.wait("web").await.unwrap().code, 137);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_same_request_gets_the_same_answer_after_a_restart_too() {
    told(async {
        let house = created().await;
        begin(&house).await.unwrap();
        freeze_under(&house, Some("k"), Freeze::Pause)
            .await
            .unwrap();

        let house = house.restart().await;

        assert_eq!(state(&house).await, ContainerState::Paused);
        freeze_under(&house, Some("k"), Freeze::Pause)
            .await
            .unwrap();
        let other = freeze_under(&house, Some("l"), Freeze::Pause).await;
        assert_eq!(other.unwrap_err().kind(), Kind::Denied);
        freeze_under(&house, Some("m"), Freeze::Resume)
            .await
            .unwrap();
        freeze_under(&house, Some("m"), Freeze::Resume)
            .await
            .unwrap();
        assert_eq!(state(&house).await, ContainerState::Running);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn limits_are_changed_while_it_lives_and_not_afterwards() {
    told(async {
        let house = created().await;
        let update = || async {
            let located = house.find("web").await.unwrap();
            let resources = b"{}".to_vec();
            let update = UpdateIn {
                container: located.place.number,
                update: UpdateLimits { resources },
            };
            located.sandbox.send(update).await.unwrap()
        };

        assert_eq!(update().await.unwrap(), warned("update"));
        begin(&house).await.unwrap();
        freeze(&house, Freeze::Pause).await.unwrap();
        update().await.unwrap();
        house.world.break_at(Break::Update);
        let failed = update().await.unwrap_err();
        let uid = house.find("web").await.unwrap().place.uid;
        house.world.exit(uid, ProcessId::Init, 0);
        house.wait("web").await.unwrap();
        let late = update().await.unwrap_err();

        assert!(failed.to_string().contains("Update is broken"), "{failed}");
        assert_eq!(late.to_string(), "container not running");
    })
    .await;
}

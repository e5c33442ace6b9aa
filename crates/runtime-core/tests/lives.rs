//! Whole lives of sandboxes, above scripted rooms: what is left, what is told, what is refused.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, settle, told};
use runtime_core::{
    container::{ContainerState, Force, ProcessCommand},
    error::Kind,
    ids::ProcessId,
    process::Kill,
};
use std::time::Duration;
use tokio::time::{sleep, timeout};

async fn running() -> House {
    let house = House::open().await;
    house.create("web").await.unwrap();
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", attach).await.unwrap();
    house.start("web").await.unwrap();
    house
}

fn stopped(state: &ContainerState) -> Option<u32> {
    match state {
        ContainerState::Stopped(status) => Some(status.code),
        _ => None,
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_lives_from_its_creation_to_its_deletion_and_leaves_nothing() {
    told(async {
        let house = House::open().await;

        let created = house.create("web").await.unwrap();
        assert_eq!(house.state("web").await.unwrap(), ContainerState::Created);
        house
            .command(
                "web",
                ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into()),
            )
            .await
            .unwrap();
        house.start("web").await.unwrap();
        assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
        house.world.exit(created.place.uid, ProcessId::Init, 7);

        assert_eq!(house.wait("web").await.unwrap().code, 7);
        assert_eq!(stopped(&house.state("web").await.unwrap()), Some(7));
        house.delete("web", Force::No).await.unwrap();
        settle().await;
        house.assert_clean();
        assert_eq!(
            house.find("web").await.map(drop).unwrap_err().kind(),
            Kind::NotFound
        );
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_relay_that_still_stands_is_told_when_its_container_goes() {
    told(async {
        for exit in [None, Some(7)] {
            let house = running().await;
            let uid = house.find("web").await.unwrap().place.uid;
            if let Some(code) = exit {
                house.world.exit(uid, ProcessId::Init, code);
                house.wait("web").await.unwrap();
            }

            house.delete("web", Force::Yes).await.unwrap();

            let code = exit.map_or(137, |code| u8::try_from(code).unwrap());
            assert_eq!(house.world.dismissed(), [(RELAY, code)]);
        }
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;
        house.world.exit(uid, ProcessId::Init, 7);
        house.wait("web").await.unwrap();
        let done = ProcessCommand::RelayDone(ProcessId::Init);
        house.command("web", done).await.unwrap();

        house.delete("web", Force::No).await.unwrap();

        assert_eq!(house.world.dismissed(), [], "it has its exit");
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_guest_may_forget_an_exit_only_when_it_is_on_record() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;

        house.world.exit(uid, ProcessId::Init, 0);
        assert!(house.world.confirmed().is_empty());
        house.wait("web").await.unwrap();
        sleep(Duration::from_millis(1)).await;

        assert_eq!(house.world.confirmed(), [1]);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn when_its_output_is_drained_an_idle_sandbox_gives_its_vm_back() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;
        house.world.exit(uid, ProcessId::Init, 0);
        house.wait("web").await.unwrap();
        settle().await;
        assert_eq!(house.world.vms(), 1, "the relay may still read");

        house
            .command("web", ProcessCommand::RelayDone(ProcessId::Init))
            .await
            .unwrap();
        settle().await;

        house.world.assert_empty();
        assert_eq!(house.wait("web").await.unwrap().code, 0);
        house.delete("web", Force::No).await.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_creation_that_fails_at_any_step_leaves_nothing_and_says_why() {
    told(async {
        for step in [
            Break::Rooms,
            Break::Prepare,
            Break::Connect,
            Break::OpenShare,
            Break::Attach,
            Break::Launch,
            Break::Open,
            Break::Greet,
            Break::Lease,
            Break::Create,
        ] {
            let house = House::open().await;
            house.world.break_at(step);

            let minute = Duration::from_secs(60);
            let creation = tokio::time::timeout(minute, house.create("web")).await;
            let why = creation
                .unwrap_or_else(|_| panic!("{step:?}: no answer"))
                .unwrap_err();

            assert!(
                why.to_string().contains(&format!("{step:?} is broken")),
                "{step:?}: {why}"
            );
            settle().await;
            house.assert_clean();
            house.world.mend();
            house.create("web").await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_release_that_fails_is_said_and_tried_again() {
    told(async {
        let house = running().await;
        house.world.break_at(Break::Clear);

        let why = house.delete("web", Force::Yes).await.unwrap_err();
        assert!(why.to_string().contains("Clear is broken"), "{why}");
        house.world.mend();
        let house = house.restart().await;
        settle().await;

        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn of_two_creations_with_one_id_one_wins() {
    told(async {
        let house = House::open().await;

        let (a, b) = tokio::join!(
            house.create_with_key("web", None, 1),
            house.create_with_key("web", None, 2)
        );

        assert!(a.is_ok());
        assert_eq!(b.unwrap_err().kind(), Kind::AlreadyExists);
        assert_eq!(house.world.vms(), 1);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_same_key_gets_the_same_answer_and_one_vm() {
    told(async {
        let house = House::open().await;

        let (a, b) = tokio::join!(
            house.create_with_key("web", Some("k"), 1),
            house.create_with_key("web", Some("k"), 2)
        );
        let c = house.create_with_key("web", Some("k"), 3).await;

        assert_eq!(a, b);
        assert_eq!(b, c);
        assert_eq!(house.world.vms(), 1);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_running_container_is_deleted_by_force_only() {
    told(async {
        let house = running().await;

        let why = house.delete("web", Force::No).await.unwrap_err();
        assert_eq!(why.kind(), Kind::Denied);
        assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
        house.delete("web", Force::Yes).await.unwrap();

        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn waiters_of_a_container_that_is_deleted_by_force_hear_137() {
    told(async {
        let house = running().await;

        let (exit, deleted) = tokio::join!(house.wait("web"), async {
            sleep(Duration::from_millis(1)).await;
            house.delete("web", Force::Yes).await
        });

        assert_eq!(exit.unwrap().code, 137);
        deleted.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn any_number_of_waiters_hear_of_one_exit_until_its_container_is_deleted() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;
        let waiters = async |house: &House| {
            futures::future::join_all((0..50).map(|_| house.wait("web"))).await
        };

        let (early, ()) = tokio::join!(waiters(&house), async {
            sleep(Duration::from_millis(1)).await;
            house.world.exit(uid, ProcessId::Init, 9);
        });
        let late = waiters(&house).await;
        let house = house.restart().await;
        let of_the_next_daemon = waiters(&house).await;

        let heard: Vec<_> = [early, late, of_the_next_daemon]
            .into_iter()
            .flatten()
            .collect();
        let first = heard[0].as_ref().unwrap();
        assert_eq!((heard.len(), first.code), (150, 9));
        assert!(heard.iter().all(|exit| exit.as_ref().unwrap() == first));
        house.delete("web", Force::Yes).await.unwrap();
        assert_eq!(house.wait("web").await.unwrap_err().kind(), Kind::NotFound);
    })
    .await;
}

/// The guest may hang: who waits for it is not kept waiting by it.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_exec_that_is_being_made_is_answered_when_its_container_is_deleted_by_force() {
    told(async {
        let house = running().await;
        house.world.slow_down(Duration::from_secs(3600));
        let exec = house.exec_with_key("web", "late", "late");
        let delete = async {
            sleep(Duration::from_millis(100)).await;
            house.world.slow_down(Duration::ZERO);
            house.delete("web", Force::Yes).await
        };

        let (exec, deleted) = timeout(Duration::from_secs(60), async {
            tokio::join!(exec, delete)
        })
        .await
        .expect("somebody waits for what is gone");

        deleted.unwrap();
        let why = exec.unwrap_err().to_string();
        assert!(why.contains("deleted"), "{why}");
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_can_be_deleted_while_it_is_being_created() {
    told(async {
        let house = House::open().await;

        let (created, deleted) = tokio::join!(house.create("web"), async {
            sleep(Duration::from_millis(12)).await;
            let denied = house.delete("web", Force::No).await.unwrap_err();
            assert_eq!(denied.kind(), Kind::Denied);
            house.delete("web", Force::Yes).await
        });

        assert_eq!(created.unwrap_err().kind(), Kind::Aborted);
        deleted.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn whoever_waits_for_a_creation_is_answered_whenever_it_is_deleted() {
    told(async {
        for moment in 1..60 {
            let house = House::open().await;

            let (created, deleted) = tokio::join!(house.create("web"), async {
                sleep(Duration::from_millis(moment)).await;
                house.delete("web", Force::Yes).await
            });

            assert!(deleted.is_ok(), "at {moment} ms: {deleted:?}");
            if let Err(why) = created {
                assert_eq!(why.kind(), Kind::Aborted, "at {moment} ms: {why}");
            }
            house.assert_clean();
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_lost_vm_stops_its_containers_with_255_and_is_released() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;

        house.world.crash(uid);

        let exit = house.wait("web").await.unwrap();
        assert_eq!(exit.code, 255);
        assert!(exit.detail.contains("signal 9"), "{}", exit.detail);
        settle().await;
        house.world.assert_empty();
        house.delete("web", Force::No).await.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn why_a_vmm_ended_is_told_though_its_share_was_seen_to_go_first() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;

        house.world.lose_share(uid);
        sleep(Duration::from_millis(50)).await;
        house.world.crash(uid);

        let exit = house.wait("web").await.unwrap();
        assert_eq!(exit.code, 255);
        assert!(exit.detail.contains("signal 9"), "{}", exit.detail);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_share_that_goes_alone_takes_its_vm_along_and_is_the_reason() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;

        house.world.lose_share(uid);

        let exit = house.wait("web").await.unwrap();
        assert_eq!(exit.code, 255);
        assert!(exit.detail.contains("virtiofsd ended"), "{}", exit.detail);
        settle().await;
        house.world.assert_empty();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn who_stands_for_a_container_is_shown_from_its_word_on_and_until_it_has_gone() {
    told(async {
        let house = House::open().await;
        let created = house.create("web").await.unwrap();
        assert_eq!(house.view_container("web").await.unwrap().relay, None);

        let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
        house.command("web", attach).await.unwrap();
        let shown = house.view_container("web").await.unwrap().relay;
        assert_eq!(shown, Some(RELAY));

        let house = house.restart().await;
        settle().await;
        let shown = house.view_container("web").await.unwrap().relay;
        assert_eq!(shown, Some(RELAY), "also by the next daemon");

        house.start("web").await.unwrap();
        house.world.exit(created.place.uid, ProcessId::Init, 7);
        house.wait("web").await.unwrap();
        house.world.relay_dies(RELAY.pid);
        settle().await;
        assert_eq!(house.view_container("web").await.unwrap().relay, None);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_relay_that_dies_takes_its_process_with_it() {
    told(async {
        let house = running().await;

        house.world.relay_dies(RELAY.pid);

        assert_eq!(house.wait("web").await.unwrap().code, 137);
        assert_eq!(house.world.signals(), [(ProcessId::Init, 9)]);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn sigterm_reaches_the_init_alone_and_nothing_follows_it() {
    told(async {
        let house = running().await;
        let kill = Kill {
            key: None,
            signal: 15,
            all: false,
        };

        house
            .command("web", ProcessCommand::Kill(ProcessId::Init, kill))
            .await
            .unwrap();
        settle().await;

        assert_eq!(house.world.signals(), [(ProcessId::Init, 15)]);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_daemon_that_is_killed_finds_its_containers_again() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;

        let house = house.restart().await;
        settle().await;

        assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
        assert_eq!(house.world.vms(), 1);
        house.world.exit(uid, ProcessId::Init, 3);
        assert_eq!(house.wait("web").await.unwrap().code, 3);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_exit_while_no_daemon_ran_is_told_by_the_next_one() {
    told(async {
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;
        house.world.forget_daemon();
        house.world.exit(uid, ProcessId::Init, 9);

        let house = house.restart().await;

        assert_eq!(house.wait("web").await.unwrap().code, 9);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_daemon_killed_at_any_moment_of_a_creation_leaves_it_complete_or_gone() {
    told(async {
        for moment in 0..60 {
            let house = House::open().await;
            let creation = tokio::task::spawn_local({
                let host = house.host.clone();
                async move {
                    let wish = Box::new(house::wish("web", 1));
                    host.send(runtime_core::host::CreateContainer { key: None, wish })
                        .await
                }
            });
            sleep(Duration::from_millis(moment)).await;
            creation.abort();

            let house = house.restart().await;
            settle().await;

            match house.state("web").await {
                Ok(state) => assert_eq!(state, ContainerState::Created, "at {moment} ms"),
                Err(why) => {
                    assert_eq!(why.kind(), Kind::NotFound, "at {moment} ms: {why}");
                    house.assert_clean();
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn after_a_restart_of_the_host_containers_are_stopped_with_255() {
    told(async {
        let house = running().await;

        let house = house.restart_host().await;

        let exit = house.wait("web").await.unwrap();
        assert_eq!(exit.code, 255);
        settle().await;
        house.world.assert_empty();
        house.delete("web", Force::No).await.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_joins_a_sandbox_and_leaves_it() {
    told(async {
        let house = running().await;

        let joined = house.join("web", "side").await.unwrap();
        assert_eq!(house.world.vms(), 1);
        assert_eq!(joined.place.number.0, 1);
        house.delete("side", Force::Yes).await.unwrap();

        assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
        house.delete("web", Force::Yes).await.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_number_in_a_sandbox_is_given_once_also_to_two_at_a_time_and_after_a_restart() {
    told(async {
        let house = running().await;
        let both = futures::future::join(house.join("web", "a"), house.join("web", "b")).await;
        let (first, second) = (both.0.unwrap(), both.1.unwrap());
        house.delete("a", Force::Yes).await.unwrap();
        house.delete("b", Force::Yes).await.unwrap();
        let third = house.join("web", "c").await.unwrap();
        house.delete("c", Force::Yes).await.unwrap();

        let house = house.restart().await;
        let fourth = house.join("web", "d").await.unwrap();

        let numbers = [first, second, third, fourth].map(|created| created.place.number.0);
        assert_eq!(numbers, [1, 2, 3, 4]);
        house.delete("d", Force::Yes).await.unwrap();
        house.delete("web", Force::Yes).await.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_that_could_not_join_is_undone_as_soon_as_the_guest_can_be_asked() {
    told(async {
        let house = running().await;
        house.world.break_at(Break::Create);
        house.join("web", "side").await.unwrap_err();
        sleep(Duration::from_secs(10)).await;

        house.world.mend();
        sleep(Duration::from_secs(2)).await;
        house.delete("web", Force::Yes).await.unwrap();

        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_prefix_that_is_unique_is_enough() {
    told(async {
        let house = House::open().await;
        house.create_with_key("web-1", None, 1).await.unwrap();
        house.create_with_key("web-2", None, 2).await.unwrap();
        house.create_with_key("db", None, 3).await.unwrap();

        assert!(house.find("d").await.is_ok());
        assert!(house.find("web-1").await.is_ok());
        let ambiguous = house.find("web").await.map(drop).unwrap_err();
        assert!(
            ambiguous.to_string().contains("web-1, web-2"),
            "{ambiguous}"
        );
        assert_eq!(
            house.find("x").await.map(drop).unwrap_err().kind(),
            Kind::NotFound
        );
    })
    .await;
}

/// A cleanup that is repeated must not reach the next container whose id begins like the one that is gone.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_forced_deletion_takes_no_prefix_for_the_id_of_what_is_gone() {
    told(async {
        let house = House::open().await;
        house.create_with_key("web-2", None, 1).await.unwrap();

        for key in ["k", "l"] {
            let done = house.delete_with_key("web", Force::Yes, key).await;
            done.unwrap();
        }

        let same = house.find("web").await.unwrap();
        assert_eq!(same.name.id.as_str(), "web-2");
        let done = house.delete_with_key("web", Force::No, "m").await;
        done.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_creation_is_undone_however_many_daemons_are_killed_while_they_undo_it() {
    told(async {
        for moment in (0..60).step_by(3) {
            let house = House::open().await;
            let creation = tokio::task::spawn_local({
                let host = house.host.clone();
                let wish = Box::new(house::wish("web", 1));
                async move {
                    let create = runtime_core::host::CreateContainer { key: None, wish };
                    host.send(create).await
                }
            });
            sleep(Duration::from_millis(moment)).await;
            creation.abort();

            let mut house = house.restart().await;
            for undoing in 0..5 {
                sleep(Duration::from_millis(undoing)).await;
                house = house.restart().await;
            }
            settle().await;

            match house.state("web").await {
                Ok(state) => assert_eq!(state, ContainerState::Created, "at {moment} ms"),
                Err(why) => {
                    assert_eq!(why.kind(), Kind::NotFound, "at {moment} ms: {why}");
                    house.assert_clean();
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_lost_vm_is_told_to_those_who_had_it_not_on_record_when_the_daemon_ended() {
    told(async {
        for moment in 0..30 {
            let house = running().await;
            let uid = house.find("web").await.unwrap().place.uid;
            house.world.crash(uid);
            sleep(Duration::from_millis(moment)).await;

            let house = house.restart().await;
            settle().await;

            let state = house.state("web").await.unwrap();
            assert_eq!(stopped(&state), Some(255), "at {moment} ms");
            assert_eq!(house.wait("web").await.unwrap().code, 255);
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_nobody_can_name_any_more_is_released_in_the_end() {
    told(async {
        let house = running().await;
        house.world.break_at(Break::Clear);
        house.delete("web", Force::Yes).await.unwrap_err();

        house.world.mend();
        sleep(Duration::from_secs(120)).await;

        house.assert_clean();
    })
    .await;
}

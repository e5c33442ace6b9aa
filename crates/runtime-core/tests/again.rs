//! Requests that are asked again: a daemon is killed at every moment of each, and the next one gives
//! the same key the same answer, once.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, pass, settle, told, warned};
use runtime_core::{
    container::{ContainerState, Force, ProcessCommand},
    error::{Fault, Kind},
    host::List,
    hypervisor::GuestEndpoint,
    ids::{ExecId, ProcessId},
    sandbox::Verb,
};
use std::{rc::Rc, time::Duration};
use tokio::time::Instant;

async fn created() -> House {
    let house = House::open().await;
    house.create("web").await.unwrap();
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", attach).await.unwrap();
    house
}

async fn running() -> House {
    let house = created().await;
    house.start("web").await.unwrap();
    house
}

/// The daemon is killed while this request waits for its answer.
async fn interrupted<T: 'static>(
    house: House,
    after: Duration,
    request: impl AsyncFnOnce(&House) -> Result<T, Fault> + 'static,
) -> House {
    let house = Rc::new(house);
    let asking = tokio::task::spawn_local({
        let house = house.clone();
        async move { request(&house).await.map(drop) }
    });
    pass(after).await;
    asking.abort();
    // A task that was aborted gives its share back.
    let _ = asking.await;
    let house = Rc::into_inner(house).expect("nobody else holds the house");
    house.restart().await
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_lives_in_a_guest_without_streams_is_told_to_the_next_daemons_link() {
    told(async {
        let house = House::open().await;
        house.world.carry_stdio_by_calls();
        house.create("web").await.unwrap();
        house.start_with_key("web", "k").await.unwrap();
        house.create_with_key("done", None, 5).await.unwrap();
        house.start_with_key("done", "k2").await.unwrap();
        let done = house.find("done").await.unwrap().place.uid;
        house.world.exit(done, ProcessId::Init, 3);
        settle().await;
        assert_eq!(house.world.adopted(), []);

        let house = house.restart().await;
        settle().await;

        let adopted = house.world.adopted();
        let [adopt] = adopted.as_slice() else {
            panic!("{adopted:?}")
        };
        assert_eq!(adopt.process, ProcessId::Init);
        assert!(matches!(adopt.stream, GuestEndpoint::Calls(_)), "{adopt:?}");
        assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
    })
    .await;
}

fn moments(up_to_ms: u64) -> impl Iterator<Item = Duration> {
    (0..up_to_ms).map(Duration::from_millis)
}

/// A pod in a guest without streams, with one that runs.
async fn pod_without_streams() -> House {
    let house = House::open().await;
    house.world.carry_stdio_by_calls();
    house.create_sandbox("pod", None).await.unwrap();
    house.join("pod", "web").await.unwrap();
    house.start_with_key("web", "k").await.unwrap();
    house
}

fn assert_adopted_once(house: &House) {
    let adopted = house.world.adopted();
    let [adopt] = adopted.as_slice() else {
        panic!("{adopted:?}")
    };
    assert_eq!(adopt.process, ProcessId::Init);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_lives_in_a_guest_without_streams_is_told_to_an_agents_room_that_was_rebuilt() {
    told(async {
        let house = pod_without_streams().await;
        let uid = house.find("web").await.unwrap().place.uid;

        house.world.panic_agent_room(uid);
        settle().await;

        assert_adopted_once(&house);
        assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_stands_still_in_a_guest_without_streams_is_told_to_the_next_daemons_link_too() {
    told(async {
        let house = pod_without_streams().await;
        house.order("pod", Verb::Pause).await.unwrap();
        let slow = Duration::from_millis(50);
        house.world.slow_down_at(Break::Rooms, slow);

        let house = house.restart().await;
        settle().await;

        assert_adopted_once(&house);
        house.order("pod", Verb::Resume).await.unwrap();
        assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_creation_asked_again_makes_one_container() {
    told(async {
        for moment in moments(60) {
            let house = House::open().await;
            let house = interrupted(house, moment, async |house: &House| {
                house.create_with_key("web", Some("k"), 1).await
            })
            .await;

            let first = house.create_with_key("web", Some("k"), 2).await;
            let again = house.create_with_key("web", Some("k"), 3).await;

            let first = first.unwrap_or_else(|why| panic!("at {moment:?}: {why}"));
            assert_eq!(again.as_ref(), Ok(&first), "at {moment:?}");
            assert_eq!(house.world.vms(), 1, "at {moment:?}");
            assert_eq!(house.state("web").await.unwrap(), ContainerState::Created);
            let house = house.restart().await;
            let later = house.create_with_key("web", Some("k"), 4).await;
            assert_eq!(later, Ok(first), "at {moment:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_the_guest_warned_of_is_told_again_by_the_next_daemon_too() {
    told(async {
        let house = House::open().await;
        let created = house.create_with_key("web", Some("k"), 1).await.unwrap();
        let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
        house.command("web", attach).await.unwrap();
        house.start_with_key("web", "k1").await.unwrap();
        let made = house.exec_with_key("web", "sh", "k2").await.unwrap();

        let house = house.restart().await;
        let created_again = house.create_with_key("web", Some("k"), 2).await;
        let made_again = house.exec_with_key("web", "sh", "k2").await;

        assert_eq!(created.init.warnings, warned("create"));
        assert_eq!(made.warnings, warned("exec"));
        assert_eq!(created_again, Ok(created));
        assert_eq!(made_again, Ok(made));
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_start_asked_again_starts_once() {
    told(async {
        for moment in moments(12) {
            let house = interrupted(created().await, moment, async |house: &House| {
                house.start_with_key("web", "k").await
            })
            .await;

            let started = house.start_with_key("web", "k").await;
            started.unwrap_or_else(|why| panic!("at {moment:?}: {why}"));

            settle().await;
            assert_eq!(house.world.starts(&ProcessId::Init), 1, "at {moment:?}");
            assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
            let other = house.start_with_key("web", "other").await.unwrap_err();
            assert_eq!(other.kind(), Kind::Denied);
            let uid = house.find("web").await.unwrap().place.uid;
            house.world.exit(uid, ProcessId::Init, 7);
            assert_eq!(house.wait("web").await.unwrap().code, 7);
            house.start_with_key("web", "k").await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_start_that_nobody_asks_for_again_is_finished_all_the_same() {
    told(async {
        for moment in moments(12) {
            let house = interrupted(created().await, moment, async |house: &House| {
                house.start_with_key("web", "k").await
            })
            .await;

            settle().await;

            let starts = house.world.starts(&ProcessId::Init);
            match house.state("web").await.unwrap() {
                ContainerState::Running => assert_eq!(starts, 1, "at {moment:?}"),
                state => assert_eq!((starts, state), (0, ContainerState::Created)),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_exec_asked_again_runs_once() {
    told(async {
        let process = ProcessId::Exec(ExecId::new("sh").unwrap());
        for moment in moments(16) {
            let house = interrupted(running().await, moment, async |house: &House| {
                house.exec_with_key("web", "sh", "k").await
            })
            .await;

            // What the guest never heard of is asked for once more, as a caller does.
            let mut lease = house.exec_with_key("web", "sh", "k").await;
            if lease
                .as_ref()
                .is_err_and(|why| why.kind() == Kind::Unavailable)
            {
                lease = house.exec_with_key("web", "sh", "k").await;
            }
            let again = house.exec_with_key("web", "sh", "k").await;

            let lease = lease.unwrap_or_else(|why| panic!("at {moment:?}: {why}"));
            assert_eq!(again, Ok(lease), "at {moment:?}");
            settle().await;
            assert_eq!(house.world.starts(&process), 1, "at {moment:?}");
            let other = house.exec_with_key("web", "sh", "other").await;
            assert_eq!(other.unwrap_err().kind(), Kind::AlreadyExists);
        }
    })
    .await;
}

/// Its link broke, or the guest took longer than it had.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_exec_whose_answer_is_lost_is_looked_for_and_runs_once() {
    told(async {
        let process = ProcessId::Exec(ExecId::new("sh").unwrap());
        let house = running().await;
        house.world.lose_answers_of(Break::Exec);
        // And the guest cannot be asked at first.
        house.world.lose_answers_of(Break::List);
        let asked = house.exec_with_key("web", "sh", "k");
        let mend = async {
            pass(Duration::from_secs(30)).await;
            house.world.mend();
        };

        let (made, ()) = tokio::join!(asked, mend);

        assert_eq!(house.exec_with_key("web", "sh", "k").await, made);
        assert_eq!(house.world.starts(&process), 1);
        let uid = house.find("web").await.unwrap().place.uid;
        let port = made.unwrap().lease.number;
        assert!(house.world.leased(uid).contains(&port));
    })
    .await;
}

/// It hears why, and its port is for others.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_exec_that_the_guest_never_heard_of_fails_as_it_failed() {
    told(async {
        let process = ProcessId::Exec(ExecId::new("sh").unwrap());
        let house = running().await;
        let uid = house.find("web").await.unwrap().place.uid;
        let before = house.world.leased(uid);
        house.world.lose_requests_for(Break::Exec);

        let asked = house.exec_with_key("web", "sh", "k").await;

        assert_eq!(asked.unwrap_err().kind(), Kind::Unavailable);
        settle().await;
        assert_eq!(house.world.leased(uid), before);
        house.world.mend();
        house.exec_with_key("web", "sh", "k").await.unwrap();
        assert_eq!(house.world.starts(&process), 1);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_signal_asked_for_again_is_sent_once() {
    told(async {
        for moment in moments(12) {
            let house = interrupted(running().await, moment, async |house: &House| {
                house.kill_with_key("web", 15, "k").await
            })
            .await;

            let killed = house.kill_with_key("web", 15, "k").await;
            killed.unwrap_or_else(|why| panic!("at {moment:?}: {why}"));

            assert_eq!(house.world.signals(), [(ProcessId::Init, 15)], "{moment:?}");
            let uid = house.find("web").await.unwrap().place.uid;
            house.world.exit(uid, ProcessId::Init, 143);
            house.wait("web").await.unwrap();
            house.kill_with_key("web", 15, "k").await.unwrap();
            let other = house.kill_with_key("web", 15, "other").await;
            assert_eq!(other.unwrap_err().kind(), Kind::Denied);
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_asked_again_is_done() {
    told(async {
        for moment in moments(40) {
            let house = interrupted(running().await, moment, async |house: &House| {
                house.delete_with_key("web", Force::Yes, "k").await
            })
            .await;

            let deleted = house.delete_with_key("web", Force::Yes, "k").await;
            deleted.unwrap_or_else(|why| panic!("at {moment:?}: {why}"));

            house.assert_clean();
            let house = house.restart().await;
            house
                .delete_with_key("web", Force::No, "k")
                .await
                .unwrap_or_else(|why| panic!("at {moment:?}: {why}"));
            let other = house.delete_with_key("web", Force::No, "other").await;
            assert_eq!(other.unwrap_err().kind(), Kind::NotFound);
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_that_was_begun_is_finished_by_the_next_daemon() {
    told(async {
        for moment in moments(40) {
            let house = interrupted(running().await, moment, async |house: &House| {
                house.delete_with_key("web", Force::Yes, "k").await
            })
            .await;

            settle().await;

            match house.state("web").await {
                Ok(state) => {
                    assert_eq!(state, ContainerState::Running, "at {moment:?}");
                    assert!(
                        house.world.is_running(
                            house.find("web").await.unwrap().place.uid,
                            &ProcessId::Init
                        )
                    );
                }
                Err(_) => house.assert_clean(),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_that_was_refused_is_not_done_later() {
    told(async {
        let house = running().await;
        let refused = house.delete_with_key("web", Force::No, "k").await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Denied);
        let uid = house.find("web").await.unwrap().place.uid;
        house.world.exit(uid, ProcessId::Init, 0);
        house.wait("web").await.unwrap();

        let house = house.restart().await;
        settle().await;

        assert!(matches!(
            house.state("web").await,
            Ok(ContainerState::Stopped(_))
        ));
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_is_being_undone_is_waited_for_by_its_name_alone() {
    told(async {
        let house = House::open().await;
        house.create_with_key("db", None, 7).await.unwrap();
        let halfway = Duration::from_millis(20);
        let house = interrupted(house, halfway, async |house: &House| {
            house.create_with_key("web", Some("k"), 1).await
        })
        .await;

        let asked = Instant::now();
        assert_eq!(house.state("db").await.unwrap(), ContainerState::Created);
        let listed = house.host.send(List { namespace: None }).await.unwrap();
        assert_eq!(listed.len(), 1, "what is being undone is not listed");
        assert_eq!(asked.elapsed(), Duration::ZERO, "others wait for nothing");
        let web = house.state("web").await.unwrap_err();

        assert_eq!(web.kind(), Kind::NotFound);
        assert!(asked.elapsed() > Duration::ZERO, "it was waited for");
        assert_eq!(house.world.vms(), 1);
    })
    .await;
}

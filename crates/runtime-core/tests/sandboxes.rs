//! Sandboxes of their own, above scripted rooms: their states, what is refused, what is left.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, pass, settle, told};
use runtime_core::{
    agent::ExitReason,
    container::{ContainerState, Force, ProcessCommand},
    error::Kind,
    host::ListSandboxes,
    ids::{EpochMs, ProcessId},
    process::Kill,
    sandbox::{GetSpent, Happening, NextEvents, Op, Refused, Rule, Standing, Verb, rule},
};
use std::{collections::BTreeMap, time::Duration};
use tokio::{
    task::spawn_local,
    time::{Instant, timeout},
};

fn stopped(state: &ContainerState) -> Option<(u32, ExitReason)> {
    match state {
        ContainerState::Stopped(status) => Some((status.code, status.reason)),
        _ => None,
    }
}

async fn with_sandbox() -> House {
    let house = House::open().await;
    house.create_sandbox("pod", None).await.unwrap();
    house
}

async fn running(house: &House, id: &str) {
    house.join("pod", id).await.unwrap();
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command(id, attach).await.unwrap();
    house.start(id).await.unwrap();
}

fn sigkill() -> ProcessCommand {
    let kill = Kill {
        key: None,
        signal: 9,
        all: false,
    };
    ProcessCommand::Kill(ProcessId::Init, kill)
}

#[test]
fn the_table_in_the_documentation_is_the_one_that_is_obeyed() {
    let text = include_str!("../../../docs/sandbox-states.md");
    let rows: BTreeMap<_, Vec<_>> = text
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'))
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
        .map(|cells| (cells[0], cells[1..].to_vec()))
        .collect();

    let heads: Vec<_> = Standing::ALL.iter().map(|at| at.name()).collect();
    assert_eq!(rows[""], heads);
    for op in Op::ALL {
        let told: Vec<_> = Standing::ALL
            .iter()
            .map(|at| rule(op, *at).name())
            .collect();
        assert_eq!(rows[op.name()], told, "{}", op.name());
    }
}

/// A state, and what is said to do instead.
type Hint = (&'static str, &'static str);

/// Every pair that is refused: what was tried, and in which states it is answered with which hint.
// tidy: a table, one row after the other
fn refused() -> Vec<(Op, &'static str, Vec<Hint>)> {
    const FORCE: &str = ": use --force";
    const RESUME: &str = ": resume it first";
    const RESUME_OR_FORCE: &str = ": resume it first, or use --force";
    const START: &str = ": start it first";
    const STOP_OR_FORCE: &str = ": stop it first, or use --force";
    const STOP_OR_DELETE: &str = ": stop it first, or delete it";
    const DELETE: &str = ": delete it with --force";
    vec![
        (
            Op::CreateContainer,
            "create a container in",
            vec![
                ("creating", ""),
                ("starting", ""),
                ("pausing", ""),
                ("paused", RESUME),
                ("resuming", ""),
                ("stopping", ""),
                ("stopped", START),
                ("failed", STOP_OR_DELETE),
            ],
        ),
        (
            Op::Start,
            "start",
            vec![
                ("creating", ""),
                ("running", ""),
                ("pausing", ""),
                ("paused", ""),
                ("resuming", ""),
                ("stopping", ""),
                ("failed", STOP_OR_DELETE),
            ],
        ),
        (
            Op::Stop,
            "stop",
            vec![
                ("creating", DELETE),
                ("starting", FORCE),
                ("pausing", FORCE),
                ("paused", RESUME_OR_FORCE),
                ("resuming", FORCE),
            ],
        ),
        (Op::ForceStop, "stop", vec![("creating", DELETE)]),
        (
            Op::Pause,
            "pause",
            vec![
                ("creating", ""),
                ("starting", ""),
                ("paused", ""),
                ("resuming", ""),
                ("stopping", ""),
                ("stopped", START),
                ("failed", ""),
            ],
        ),
        (
            Op::Resume,
            "resume",
            vec![
                ("creating", ""),
                ("starting", ""),
                ("ready", ""),
                ("running", ""),
                ("pausing", ""),
                ("stopping", ""),
                ("stopped", ""),
                ("failed", ""),
            ],
        ),
        (
            Op::Delete,
            "delete",
            vec![
                ("creating", FORCE),
                ("starting", FORCE),
                ("running", STOP_OR_FORCE),
                ("pausing", FORCE),
                ("paused", FORCE),
                ("resuming", FORCE),
                ("stopping", FORCE),
                ("failed", FORCE),
            ],
        ),
        (Op::Annotate, "annotate", vec![("failed", "")]),
        (
            Op::UseGuest,
            "reach into",
            vec![("pausing", ""), ("paused", RESUME), ("resuming", "")],
        ),
    ]
}

#[test]
fn every_refusal_names_what_was_tried_and_the_state() {
    let expected: Vec<_> = refused()
        .into_iter()
        .flat_map(|(op, tried, rows)| {
            rows.into_iter()
                .map(move |(at, hint)| (op, format!("cannot {tried} a sandbox that is {at}{hint}")))
        })
        .collect();

    let pairs = Op::ALL
        .into_iter()
        .flat_map(|op| Standing::ALL.map(|at| (op, at)));
    let told: Vec<_> = pairs
        .filter(|&(op, at)| rule(op, at) == Rule::Refused)
        .map(|(op, at)| {
            let fault = runtime_core::error::Fault::from(Refused { op, at });
            assert_eq!(fault.kind(), Kind::Denied);
            (op, fault.to_string())
        })
        .collect();

    assert_eq!(told, expected);
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_sandbox_outlives_its_containers_and_is_deleted_by_its_own_id() {
    told(async {
        let house = House::open().await;

        let uid = house.create_sandbox("pod", None).await.unwrap();
        assert_eq!(house.standing("pod").await, Standing::Ready);
        running(&house, "web").await;
        assert_eq!(house.standing("pod").await, Standing::Running);
        let relay_done = ProcessCommand::RelayDone(ProcessId::Init);
        house.world.exit(uid, ProcessId::Init, 3);
        house.wait("web").await.unwrap();
        house.command("web", relay_done).await.unwrap();
        settle().await;
        house.delete("web", Force::No).await.unwrap();
        settle().await;

        assert_eq!(house.standing("pod").await, Standing::Running);
        assert_eq!(house.world.vms(), 1);
        let running = house.delete_sandbox("pod", Force::No, None).await;
        assert_eq!(
            running.unwrap_err().to_string(),
            "cannot delete a sandbox that is running: stop it first, or use --force"
        );
        house.order("pod", Verb::Stop(Force::No)).await.unwrap();
        assert_eq!(house.standing("pod").await, Standing::Stopped);
        house.world.assert_empty();
        house.delete_sandbox("pod", Force::No, None).await.unwrap();
        settle().await;
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_forced_deletion_of_a_sandbox_takes_no_prefix_for_the_id_of_what_is_gone() {
    told(async {
        let house = House::open().await;
        house.create_sandbox("pod-2", None).await.unwrap();
        let uid = house.view("pod-2").await.unwrap().spec.uid.to_string();

        for gone in ["pod", &uid[..8]] {
            let done = house.delete_sandbox(gone, Force::Yes, None).await;
            done.unwrap();
        }

        assert_eq!(house.view("pod").await.unwrap().spec.uid.to_string(), uid);
        let whole = house.delete_sandbox(&uid, Force::Yes, None).await;
        whole.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_id_names_one_sandbox_and_a_key_one_creation_also_for_the_next_daemon() {
    told(async {
        let house = House::open().await;
        let first = house.create_sandbox("pod", Some("k")).await.unwrap();

        let again = house.create_sandbox("pod", Some("k")).await.unwrap();
        let other = house.create_sandbox("pod", Some("l")).await;
        let house = house.restart().await;
        let later = house.create_sandbox("pod", Some("k")).await.unwrap();

        assert_eq!((again, later), (first, first));
        assert_eq!(other.unwrap_err().kind(), Kind::AlreadyExists);
        assert_eq!(house.world.vms(), 1);
        let deleted = house.delete_sandbox("pod", Force::Yes, Some("d")).await;
        deleted.unwrap();
        let house = house.restart().await;
        let again = house.delete_sandbox("pod", Force::No, Some("d")).await;
        again.unwrap();
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_creation_that_fails_at_any_step_leaves_nothing_and_its_id_is_free() {
    told(async {
        for step in [
            Break::Rooms,
            Break::Prepare,
            Break::Connect,
            Break::OpenShare,
            Break::Launch,
            Break::Open,
            Break::Greet,
        ] {
            let house = House::open().await;
            house.world.break_at(step);

            let failed = house.create_sandbox("pod", Some("k")).await;
            let text = failed.unwrap_err().to_string();

            assert!(text.contains(&format!("{step:?} is broken")), "{text}");
            house.world.mend();
            settle().await;
            house.assert_clean();
            house.create_sandbox("pod", Some("k")).await.unwrap();
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_stopped_sandbox_is_started_with_a_fresh_vm_and_its_containers_stay_stopped() {
    told(async {
        let house = with_sandbox().await;
        running(&house, "web").await;
        house.order("pod", Verb::Stop(Force::Yes)).await.unwrap();
        assert_eq!(
            stopped(&house.state("web").await.unwrap()),
            Some((137, ExitReason::Signaled)),
            "it was killed with its sandbox"
        );

        house.order("pod", Verb::Start).await.unwrap();

        assert_eq!(house.standing("pod").await, Standing::Running);
        assert_eq!(house.world.vms(), 1);
        assert!(stopped(&house.state("web").await.unwrap()).is_some());
        assert_eq!(
            house.start("web").await.unwrap_err().kind(),
            Kind::Denied,
            "a stopped container is final"
        );
        running(&house, "new").await;
        assert_eq!(house.find("new").await.unwrap().place.number.0, 1);
        house.delete("web", Force::No).await.unwrap();
        assert_eq!(house.state("new").await.unwrap(), ContainerState::Running);
        let house = house.restart().await;
        settle().await;
        assert_eq!(house.state("new").await.unwrap(), ContainerState::Running);
        house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
        settle().await;
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_start_that_fails_at_any_step_leaves_a_stopped_sandbox_that_can_be_started() {
    told(async {
        for step in [
            Break::Rooms,
            Break::Prepare,
            Break::Connect,
            Break::OpenShare,
            Break::Launch,
            Break::Open,
            Break::Greet,
        ] {
            let house = with_sandbox().await;
            house.order("pod", Verb::Stop(Force::Yes)).await.unwrap();
            house.world.break_at(step);

            let failed = house.order_with_key("pod", Verb::Start, Some("s")).await;
            house.world.mend();

            let text = failed.unwrap_err().to_string();
            assert!(text.contains(&format!("{step:?} is broken")), "{text}");
            settle().await;
            if step == Break::Rooms {
                // Without rooms nothing can be released either; that is tried again.
                house.order("pod", Verb::Stop(Force::Yes)).await.unwrap();
            }
            house.world.assert_empty();
            let again = house.order_with_key("pod", Verb::Start, Some("s")).await;
            again.unwrap();
            assert_eq!(house.standing("pod").await, Standing::Running);
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_ready_sandbox_starts_its_created_containers_and_says_which_could_not_be() {
    told(async {
        let house = with_sandbox().await;
        house.join("pod", "a").await.unwrap();
        house.join("pod", "b").await.unwrap();
        assert_eq!(house.standing("pod").await, Standing::Ready);

        house.world.break_at(Break::Start);
        let failed = house.order("pod", Verb::Start).await.unwrap_err();
        assert!(
            failed.to_string().starts_with("start container \"a\""),
            "{failed}"
        );
        assert_eq!(house.standing("pod").await, Standing::Ready);
        house.world.mend();

        let both = tokio::join!(
            house.order_with_key("pod", Verb::Start, Some("x")),
            house.order_with_key("pod", Verb::Start, Some("x"))
        );
        assert_eq!(both, (Ok(()), Ok(())));
        assert_eq!(house.standing("pod").await, Standing::Running);
        for id in ["a", "b"] {
            assert_eq!(house.state(id).await.unwrap(), ContainerState::Running);
        }
        let house = house.restart().await;
        let again = house.order_with_key("pod", Verb::Start, Some("x")).await;
        again.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn status_and_list_answer_while_a_creation_and_a_stop_take_their_time() {
    told(async {
        let house = House::open().await;
        house.world.slow_down(Duration::from_secs(20));
        let (host, begun) = (house.host.clone(), Instant::now());
        let create = async {
            house.create_sandbox("pod", None).await.unwrap();
            house.order("pod", Verb::Stop(Force::Yes)).await.unwrap();
        };
        let look = async {
            let mut seen = Vec::new();
            for _ in 0..450 {
                pass(Duration::from_millis(500)).await;
                let asked = Instant::now();
                let all = host.send(ListSandboxes { namespace: None }).await.unwrap();
                let one = house.view("pod").await;
                assert!(asked.elapsed() < Duration::from_millis(10));
                assert_eq!(all.len(), 1);
                let standing = one.unwrap().standing;
                if seen.last() != Some(&standing) {
                    seen.push(standing);
                }
            }
            seen
        };

        let ((), seen) = tokio::join!(create, look);

        assert!(begun.elapsed() > Duration::from_secs(100));
        assert_eq!(
            seen,
            [Standing::Creating, Standing::Stopping, Standing::Stopped]
        );
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_paused_sandbox_refuses_by_name_and_goes_on_as_what_it_was() {
    told(async {
        let house = with_sandbox().await;
        let uid = house.view("pod").await.unwrap().spec.uid;
        house.join("pod", "web").await.unwrap();

        house.order("pod", Verb::Pause).await.unwrap();
        assert!(house.world.is_paused(uid));
        assert_eq!(house.standing("pod").await, Standing::Paused);
        for refused in [
            house.start("web").await,
            house.exec_with_key("web", "e", "k").await.map(drop),
            house.kill_with_key("web", 15, "k").await,
            house.join("pod", "b").await.map(drop),
            house.delete("web", Force::No).await,
        ] {
            let why = refused.unwrap_err();
            assert_eq!(why.kind(), Kind::Denied);
            let text = why.to_string();
            assert!(text.contains("a sandbox that is paused"), "{text}");
        }
        house.order("pod", Verb::Resume).await.unwrap();

        assert!(!house.world.is_paused(uid));
        assert_eq!(
            house.world.clock(uid),
            EpochMs(1),
            "it knows the time again"
        );
        assert_eq!(
            house.standing("pod").await,
            Standing::Ready,
            "nothing in it was started"
        );
        house.start("web").await.unwrap();
        house.order("pod", Verb::Pause).await.unwrap();
        let house = house.restart().await;
        settle().await;
        assert_eq!(house.standing("pod").await, Standing::Paused);
        assert!(house.world.is_paused(uid));
        house.order("pod", Verb::Resume).await.unwrap();
        assert_eq!(house.standing("pod").await, Standing::Running);
        assert_eq!(house.state("web").await.unwrap(), ContainerState::Running);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_pause_that_fails_says_so_and_the_sandbox_goes_on() {
    told(async {
        let house = with_sandbox().await;
        house.world.break_at(Break::Pause);

        let failed = house.order_with_key("pod", Verb::Pause, Some("p")).await;

        assert_eq!(failed.unwrap_err().to_string(), "Pause is broken");
        assert_eq!(house.standing("pod").await, Standing::Ready);
        house.world.mend();
        house.join("pod", "web").await.unwrap();
        let again = house.order_with_key("pod", Verb::Pause, Some("p")).await;
        again.unwrap();
        house.world.break_at(Break::Resume);
        let failed = house.order("pod", Verb::Resume).await;
        assert_eq!(failed.unwrap_err().to_string(), "Resume is broken");
        assert_eq!(house.standing("pod").await, Standing::Paused);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn sigkill_ends_a_process_of_a_paused_sandbox_in_bounded_time_and_it_stays_paused() {
    told(async {
        let house = with_sandbox().await;
        let uid = house.view("pod").await.unwrap().spec.uid;
        running(&house, "web").await;
        house.order("pod", Verb::Pause).await.unwrap();
        let begun = Instant::now();

        house.command("web", sigkill()).await.unwrap();
        let exit = house.wait("web").await.unwrap();

        assert_eq!(exit.code, 137);
        assert!(begun.elapsed() < Duration::from_secs(1));
        settle().await;
        assert!(house.world.is_paused(uid));
        assert_eq!(house.standing("pod").await, Standing::Paused);
        house.delete("web", Force::Yes).await.unwrap();
        settle().await;
        assert!(house.world.is_paused(uid));
        house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
        settle().await;
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn sigkill_and_forced_deletion_in_the_instant_of_a_pause_are_carried_out_all_the_same() {
    told(async {
        for between_us in (0..16_000).step_by(500) {
            let house = with_sandbox().await;
            let uid = house.view("pod").await.unwrap().spec.uid;
            for id in ["web", "other"] {
                running(&house, id).await;
            }
            let pause = async {
                pass(Duration::from_micros(between_us)).await;
                house.order("pod", Verb::Pause).await
            };
            let kill = house.command("web", sigkill());
            let delete = house.delete("other", Force::Yes);

            let done = tokio::join!(kill, delete, pause);

            assert_eq!(done, (Ok(()), Ok(()), Ok(())), "{between_us} us");
            assert_eq!(house.wait("web").await.unwrap().code, 137);
            assert!(house.find("other").await.is_err());
            settle().await;
            assert!(house.world.is_paused(uid));
            assert_eq!(house.standing("pod").await, Standing::Paused);
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn whoever_finishes_a_stop_says_of_what_it_ended_that_it_was_killed() {
    told(async {
        for (force, step_us) in [(Force::Yes, 500), (Force::No, 6_000)] {
            for after_us in (0..30_000).step_by(step_us) {
                let house = with_sandbox().await;
                running(&house, "web").await;
                let stop = house.order_with_key("pod", Verb::Stop(force), Some("s"));
                let cut = timeout(Duration::from_micros(after_us), stop).await;

                let house = house.restart().await;
                let again = house.order_with_key("pod", Verb::Stop(force), Some("s"));
                again.await.unwrap();

                assert_eq!(house.standing("pod").await, Standing::Stopped);
                let exit = house.wait("web").await.unwrap();
                assert_eq!(exit.code, 137, "{force:?} cut after {after_us} us: {cut:?}");
                let reason = house.view("pod").await.unwrap().reason;
                assert_eq!(reason, "it was stopped");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_graceful_stop_that_the_next_daemon_finishes_hears_how_each_ended() {
    told(async {
        let house = with_sandbox().await;
        running(&house, "web").await;
        let uid = house.view("pod").await.unwrap().spec.uid;
        {
            let stop = house.order_with_key("pod", Verb::Stop(Force::No), Some("s"));
            let cut = timeout(Duration::from_millis(100), stop).await;
            assert!(cut.is_err(), "its init has not ended yet");
        }
        assert_eq!(house.world.signals(), [(ProcessId::Init, 15)]);

        let house = house.restart().await;
        house.world.exit(uid, ProcessId::Init, 3);
        let again = house.order_with_key("pod", Verb::Stop(Force::No), Some("s"));
        again.await.unwrap();

        assert_eq!(house.wait("web").await.unwrap().code, 3);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn annotations_are_merged_and_kept() {
    told(async {
        let house = with_sandbox().await;
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let set = |pairs: &[(String, String)]| Verb::Annotate(pairs.iter().cloned().collect());

        let first = set(&[pair("a", "1"), pair("b", "2")]);
        house.order("pod", first).await.unwrap();
        house.order("pod", set(&[pair("b", "3")])).await.unwrap();
        let house = house.restart().await;

        let kept = house.view("pod").await.unwrap().annotations;
        let expected = BTreeMap::from([pair("a", "1"), pair("b", "3")]);
        assert_eq!(kept, expected);
        let large = set(&[pair("c", &"x".repeat(256 * 1024))]);
        let refused = house.order("pod", large).await;
        assert_eq!(refused.unwrap_err().kind(), Kind::Invalid);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn whoever_watches_hears_every_state_and_exit_once_by_number_until_it_is_gone() {
    told(async {
        let house = with_sandbox().await;
        let located = house.find_sandbox("pod").await.unwrap();
        let watch = spawn_local(async move {
            let (mut heard, mut after) = (Vec::new(), 0);
            loop {
                let wait = Duration::from_secs(30);
                let seen = located.sandbox.send(NextEvents { after, wait }).await;
                let seen = seen.unwrap();
                for entry in seen.events {
                    assert_eq!(entry.number, after + 1);
                    after = entry.number;
                    heard.push(match entry.happened {
                        Happening::State { standing, .. } => standing.name().to_owned(),
                        Happening::Exited { container, status } => {
                            format!("{container} {}", status.code)
                        }
                    });
                }
                if seen.over {
                    return heard;
                }
            }
        });
        running(&house, "web").await;
        house.command("web", sigkill()).await.unwrap();
        house.wait("web").await.unwrap();
        running(&house, "side").await;
        house.delete("side", Force::Yes).await.unwrap();
        pass(Duration::from_secs(100)).await;
        house.order("pod", Verb::Stop(Force::No)).await.unwrap();
        house.delete_sandbox("pod", Force::No, None).await.unwrap();

        let heard = watch.await.unwrap();

        assert_eq!(
            heard,
            [
                "ready", "running", "web 137", "side 137", "stopping", "stopped", "stopping",
                "stopped"
            ]
        );
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn an_agent_that_is_lost_is_said_so_also_by_the_next_daemon() {
    told(async {
        let house = with_sandbox().await;
        let uid = house.view("pod").await.unwrap().spec.uid;
        running(&house, "web").await;

        house.world.lose_agent(uid);
        settle().await;
        let exit = house.wait("web").await.unwrap();
        assert_eq!((exit.code, exit.reason), (255, ExitReason::AgentLost));
        assert!(exit.detail.contains("nobody answers"), "{}", exit.detail);
        let house = house.restart().await;

        assert_eq!(
            stopped(&house.state("web").await.unwrap()),
            Some((255, ExitReason::AgentLost))
        );
        assert_eq!(house.view("pod").await.unwrap().standing, Standing::Stopped);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_vm_that_dies_takes_five_containers_with_it_and_each_says_so() {
    told(async {
        let house = with_sandbox().await;
        let uid = house.view("pod").await.unwrap().spec.uid;
        let ids = ["a", "b", "c", "d", "e"];
        for id in ids {
            running(&house, id).await;
        }

        house.world.crash(uid);
        settle().await;

        for id in ids {
            let exit = house.wait(id).await.unwrap();
            assert_eq!((exit.code, exit.reason), (255, ExitReason::VmLost), "{id}");
        }
        let view = house.view("pod").await.unwrap();
        assert_eq!(view.standing, Standing::Stopped);
        assert!(view.reason.contains("vmm died"), "{}", view.reason);
        house.world.assert_empty();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_first_container_can_be_deleted_and_the_others_do_not_notice() {
    told(async {
        let house = House::open().await;
        house.create("first").await.unwrap();
        house.join("first", "second").await.unwrap();
        house.start("second").await.unwrap();

        house.delete("first", Force::Yes).await.unwrap();

        assert_eq!(
            house.state("second").await.unwrap(),
            ContainerState::Running
        );
        let gone = house.join("first", "third").await.unwrap_err();
        assert_eq!(
            gone.to_string(),
            "join sandbox \"first\": sandbox does not exist"
        );
        house.join("second", "third").await.unwrap();
        house.delete("third", Force::Yes).await.unwrap();
        house.delete("second", Force::Yes).await.unwrap();
        settle().await;
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn ten_creations_and_fifty_execs_in_one_sandbox_do_not_wait_for_each_other() {
    told(async {
        let house = with_sandbox().await;
        running(&house, "web").await;
        let one = Instant::now();
        house.join("pod", "alone").await.unwrap();
        let one = one.elapsed();
        let exec = Instant::now();
        house.exec_with_key("web", "alone", "alone").await.unwrap();
        let exec = exec.elapsed();

        let begun = Instant::now();
        let creations = (0..10).map(|n| {
            let house = &house;
            async move { house.join("pod", &format!("c{n}")).await }
        });
        let created = futures::future::join_all(creations).await;
        let ten = begun.elapsed();
        let begun = Instant::now();
        let execs = (0..50).map(|n| {
            let (house, id) = (&house, format!("e{n}"));
            async move { house.exec_with_key("web", &id, &id).await }
        });
        let executed = futures::future::join_all(execs).await;
        let fifty = begun.elapsed();

        let mut numbers: Vec<_> = created
            .into_iter()
            .map(|created| created.unwrap().place.number)
            .collect();
        numbers.sort();
        numbers.dedup();
        assert_eq!(numbers.len(), 10, "each has a number of its own");
        assert!(executed.iter().all(Result::is_ok));
        // The records of one sandbox are written one after the other, a millisecond each.
        assert!(
            ten < one + Duration::from_millis(20),
            "{ten:?} against {one:?}"
        );
        assert!(
            fifty < exec + Duration::from_millis(60),
            "{fifty:?} against {exec:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn what_a_sandbox_costs_is_told_by_part() {
    told(async {
        let house = with_sandbox().await;
        running(&house, "web").await;

        let located = house.find_sandbox("pod").await.unwrap();
        let spent = located.sandbox.send(GetSpent).await.unwrap().unwrap();

        let parts: Vec<_> = spent
            .parts
            .iter()
            .map(|(name, spent)| (*name, spent.processes))
            .collect();
        assert_eq!(parts, [("vmm", 1), ("helpers", 1), ("relays", 1)]);
        assert_eq!(spent.vcpus, 1);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_stop_is_finished_and_a_start_taken_up_by_the_next_daemon() {
    told(async {
        let house = with_sandbox().await;
        running(&house, "web").await;
        let located = house.find_sandbox("pod").await.unwrap();
        drop(located);
        {
            let stop = house.order_with_key("pod", Verb::Stop(Force::Yes), Some("s"));
            let cut = timeout(Duration::from_millis(4), stop).await;
            assert!(cut.is_err(), "it is under way");
        }
        let house = house.restart().await;
        let again = house.order_with_key("pod", Verb::Stop(Force::Yes), Some("s"));
        again.await.unwrap();
        assert_eq!(house.standing("pod").await, Standing::Stopped);
        house.world.assert_empty();
        {
            let start = house.order_with_key("pod", Verb::Start, Some("t"));
            let cut = timeout(Duration::from_millis(8), start).await;
            assert!(cut.is_err(), "it is under way");
        }
        let house = house.restart().await;
        let again = house.order_with_key("pod", Verb::Start, Some("t"));
        again.await.unwrap();
        assert_eq!(house.standing("pod").await, Standing::Running);
        assert_eq!(house.world.vms(), 1);
    })
    .await;
}

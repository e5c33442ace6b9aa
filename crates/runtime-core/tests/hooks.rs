//! Hooks of the host, above scripted rooms: when they run, what they are told, what their failure means.

#![allow(clippy::unwrap_used)] // Tests may.

mod house;

use house::{Break, House, RELAY, settle, told, wish};
use runtime_core::{
    agent::Warnings,
    container::{ContainerState, Force, HostHooks, ProcessCommand},
    host::CreateContainer,
    ids::ProcessId,
    premises::Hook,
    sandbox::Verb,
};
use serde_json::{Value, json};
use std::time::Duration;

fn hook(name: &str) -> Vec<Hook> {
    vec![Hook {
        name: name.to_owned(),
        path: "/hook".into(),
        args: Vec::new(),
        env: Vec::new(),
        timeout_s: None,
    }]
}

fn all() -> HostHooks {
    HostHooks {
        create: hook("prestart"),
        poststart: hook("poststart"),
        poststop: hook("poststop"),
    }
}

fn ran(house: &House) -> Vec<String> {
    let hooks = house.world.hooks();
    hooks.into_iter().map(|run| run.hook.name).collect()
}

fn states(house: &House) -> Vec<Value> {
    let state = |run: runtime_core::premises::HookRun| serde_json::from_slice(&run.state).unwrap();
    house.world.hooks().into_iter().map(state).collect()
}

async fn start(house: &House) -> Warnings {
    let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
    house.command("web", attach).await.unwrap();
    house.start_told("web", None).await.unwrap()
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn each_hook_runs_at_its_time_and_is_told_the_state_of_that_time() {
    told(async {
        let house = House::open().await;

        house.create_with_hooks("web", all()).await.unwrap();
        assert_eq!(ran(&house), ["prestart"]);
        start(&house).await;
        assert_eq!(ran(&house), ["prestart", "poststart"]);
        house.delete("web", Force::Yes).await.unwrap();

        assert_eq!(ran(&house), ["prestart", "poststart", "poststop"]);
        let states = states(&house);
        let status: Vec<_> = states.iter().map(|state| state["status"].clone()).collect();
        assert_eq!(status, ["creating", "running", "stopped"]);
        assert!(states[0]["pid"].is_u64(), "{states:?}");
        assert_eq!(states[1]["pid"], json!(RELAY.pid));
        assert!(states[2]["pid"].is_null(), "{states:?}");
        for state in &states {
            assert_eq!(state["id"], "web");
            assert!(state["bundle"].is_string() && state["ociVersion"].is_string());
        }
        settle().await;
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_creation_whose_hook_fails_leaves_nothing_and_names_the_hook() {
    told(async {
        let house = House::open().await;
        house.world.break_at(Break::Prestart);

        let failed = house.create_with_hooks("web", all()).await.unwrap_err();

        let text = failed.to_string();
        assert!(text.contains("prestart: Prestart is broken"), "{text}");
        settle().await;
        assert_eq!(ran(&house), ["prestart", "poststop"]);
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn hooks_after_the_start_may_fail_and_who_asked_is_told() {
    told(async {
        let house = House::open().await;
        house.world.break_at(Break::LaterHook);
        house.create_with_hooks("web", all()).await.unwrap();

        let started = start(&house).await;
        let state = house.state("web").await.unwrap();
        let deleted = house.delete_told("web", Force::Yes).await.unwrap();

        assert_eq!(state, ContainerState::Running);
        let [poststart, poststop] = [started.concat(), deleted.concat()];
        assert!(poststart.starts_with("poststart failed: "), "{poststart}");
        assert!(poststop.starts_with("poststop failed: "), "{poststop}");
        assert_eq!(ran(&house), ["prestart", "poststart", "poststop"]);
        settle().await;
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn whoever_joins_a_start_or_a_deletion_is_told_the_same() {
    told(async {
        let house = House::open().await;
        house.world.break_at(Break::LaterHook);
        house.create_with_hooks("web", all()).await.unwrap();

        let (first, second) = tokio::join!(
            house.start_told("web", Some("s")),
            house.start_told("web", Some("s")),
        );
        let later = house.start_told("web", Some("s")).await;
        assert_eq!(first.as_ref().unwrap().len(), 1, "{first:?}");
        assert_eq!([&second, &later], [&first, &first]);
        assert_eq!(ran(&house), ["prestart", "poststart"]);

        let (first, second) = tokio::join!(
            house.delete_with_key_told("web", Force::Yes, "d"),
            house.delete_with_key_told("web", Force::Yes, "d"),
        );
        assert_eq!(first.as_ref().unwrap().len(), 1, "{first:?}");
        assert_eq!(second, first);
        assert_eq!(ran(&house), ["prestart", "poststart", "poststop"]);
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_daemon_killed_while_a_container_runs_does_not_run_its_hooks_again() {
    told(async {
        let house = House::open().await;
        house.create_with_hooks("web", all()).await.unwrap();
        start(&house).await;
        settle().await;

        let house = house.restart().await;
        settle().await;

        assert_eq!(ran(&house), ["prestart", "poststart"]);
        house.delete("web", Force::Yes).await.unwrap();
        assert_eq!(ran(&house).last().unwrap(), "poststop");
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_container_that_never_reached_its_guest_has_no_hooks_to_run() {
    told(async {
        let house = House::open().await;
        house.world.break_at(Break::Launch);

        let created = house.create_with_hooks("web", all()).await;

        created.unwrap_err();
        settle().await;
        assert!(ran(&house).is_empty());
        house.assert_clean();
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn a_deletion_beside_a_failing_creation_is_answered_at_whatever_moment_it_comes() {
    told(async {
        for moment_ms in 0..120 {
            let house = House::open().await;
            house.world.break_at(Break::Prestart);

            let (created, deleted) = tokio::join!(house.create_with_hooks("web", all()), async {
                house::pass(Duration::from_millis(moment_ms)).await;
                let deletion = house.delete_with_key("web", Force::Yes, "d");
                tokio::time::timeout(Duration::from_secs(60), deletion).await
            });

            created.unwrap_err();
            let deleted = deleted.unwrap_or_else(|_| panic!("after {moment_ms} ms: no answer"));
            deleted.unwrap();
            settle().await;
            house.assert_clean();
        }
    })
    .await;
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn whoever_starts_a_sandbox_hears_whose_hooks_failed() {
    told(async {
        let house = House::open().await;
        house.create_sandbox("pod", None).await.unwrap();
        for (id, random) in [("web", 81), ("db", 82)] {
            let mut wish = Box::new(wish(id, random));
            wish.join = Some("pod".to_owned());
            wish.spec.hooks = all();
            let create = CreateContainer { key: None, wish };
            house.host.send(create).await.unwrap().unwrap();
            let attach = ProcessCommand::AttachRelay(ProcessId::Init, RELAY.into());
            house.command(id, attach).await.unwrap();
        }
        house.world.break_at(Break::LaterHook);

        let failed = house.order_told("pod", Verb::Start).await.unwrap();

        let due = |id| format!("start container \"{id}\": poststart failed: LaterHook is broken");
        assert_eq!(failed, [due("web"), due("db")]);
        let state = house.state("web").await.unwrap();
        assert_eq!(state, ContainerState::Running);
        house.delete_sandbox("pod", Force::Yes, None).await.unwrap();
        house.assert_clean();
    })
    .await;
}

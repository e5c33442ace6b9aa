//! Containers and execs: their lives, their exits, and what the agent remembers of them.

use super::{
    house::{House, config, process},
    link::deadline,
    vm::asked,
};
use protocols::asynchronous::hutch_agent::{ExitReason, HookProgram, PidsRequest, StartRequest};
use serde_json::json;
use std::time::Instant;

fn code_of<T: std::fmt::Debug>(answer: ttrpc::Result<T>) -> ttrpc::Code {
    match answer.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_container_runs_and_its_exit_is_kept_until_acknowledged() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;

    let begun = Instant::now();
    let mut peer = house
        .create("web", config(&["/bin/sh", "-c", "hostname; exit 7"], false))
        .await;
    eprintln!(
        "create (port added, container made, stream connected) {:?}",
        begun.elapsed()
    );
    assert_eq!(house.list().await, ["web/:created"]);
    let begun = Instant::now();
    house.start("web").await;
    eprintln!("start {:?}", begun.elapsed());

    assert_eq!(peer.exit().await, 7);
    assert_eq!(peer.text(), "box\n");
    let exits = house.exits(0, 30_000).await;
    assert_eq!(exits.len(), 1);
    assert_eq!((exits[0].seq, exits[0].code), (1, 7));
    assert_eq!(exits[0].reason, ExitReason::EXIT_REASON_EXITED.into());
    assert_eq!(house.list().await, ["web/:exited"]);

    house.remove("web").await.unwrap();
    assert_eq!(house.list().await, [""; 0]);
    assert_eq!(
        house.exits(0, 0).await.len(),
        1,
        "kept though the container is gone"
    );
    house.acknowledge(1).await;
    assert_eq!(house.exits(0, 0).await.len(), 0);
    assert_eq!(code_of(house.remove("web").await), ttrpc::Code::NOT_FOUND);
}

#[tokio::test]
async fn execs_signals_and_removal_of_what_still_runs() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let mut init = house
        .run(
            "web",
            "trap 'exit 3' TERM; echo up; while :; do sleep 1 & wait; done",
        )
        .await;
    init.expect("up").await;
    house.start("web").await;

    let begun = Instant::now();
    let mut exec = house
        .exec(
            "web",
            "e1",
            process(&["/bin/sh", "-c", "echo $PATH >&2; exit 4"], false),
        )
        .await;
    eprintln!(
        "exec (port added, process runs, stream connected) {:?}",
        begun.elapsed()
    );
    assert_eq!(exec.exit().await, 4);
    assert_eq!(exec.stderr, b"/bin\n");
    for n in 0..5 {
        let begun = Instant::now();
        let mut exec = house
            .exec("web", &format!("t{n}"), process(&["/bin/true"], false))
            .await;
        let running = begun.elapsed();
        assert_eq!(exec.exit().await, 0);
        eprintln!("exec true {running:?}, to its exit {:?}", begun.elapsed());
    }

    let mut hung = house
        .exec("web", "e2", process(&["/bin/sleep", "1000"], false))
        .await;
    let pids = PidsRequest {
        container_id: "web".to_owned(),
        ..PidsRequest::default()
    };
    let pids = house.link.agent.pids(deadline(), &pids).await.unwrap().pids;
    assert!(
        pids.iter().any(|entry| entry.command == "/bin/sleep 1000"),
        "{pids:?}"
    );
    house.signal("web", "e2", 9).await.unwrap();
    assert_eq!(hung.exit().await, 137);
    assert_eq!(
        code_of(house.signal("web", "e2", 9).await),
        ttrpc::Code::FAILED_PRECONDITION
    );
    let exits = house.exits(0, 0).await;
    let last = exits.last().unwrap();
    assert_eq!(
        (last.exec_id.as_str(), last.reason),
        ("e2", ExitReason::EXIT_REASON_SIGNALED.into())
    );
    house.acknowledge(last.seq).await;
    assert_eq!(
        house.list().await,
        ["web/:running"],
        "execs are forgotten with their exits"
    );
    assert_eq!(
        code_of(house.signal("web", "e2", 9).await),
        ttrpc::Code::NOT_FOUND
    );

    init.signal(15);
    assert_eq!(init.exit().await, 3, "a signal through the stream");

    let mut other = house.run("db", "echo up; sleep 1000").await;
    other.expect("up").await;
    house.remove("db").await.unwrap();
    let exits = house.exits(last.seq, 0).await;
    let ends: Vec<_> = exits
        .iter()
        .map(|exit| (exit.container_id.as_str(), exit.code))
        .collect();
    assert_eq!(
        ends,
        [("web", 3), ("db", 137)],
        "killed by the removal, and told"
    );
}

/// SCHED_FIFO is 1, SCHED_BATCH 3, and what every program begins with is 0: proc_pid_stat(5), field 41.
#[tokio::test]
async fn the_agent_comes_first_its_helpers_last_and_containers_are_as_any_process_is() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let script = "cut -d ' ' -f 41 /proc/1/task/1/stat /proc/self/stat; cd /proc/1/task; \
                  for helper in [0-9]*; do [ $helper = 1 ] || cut -d ' ' -f 41 $helper/stat; done | busybox sort -u";
    let mut config = config(&["/bin/sh", "-c", script], false);
    // The guest's own pids.
    config["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "uts"}]);

    let mut peer = house.create("web", config).await;
    house.start("web").await;

    assert_eq!(peer.exit().await, 0);
    assert_eq!(peer.text(), "1\n0\n3\n");
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;

    for (id, wanted) in [
        ("..", "valid name"),
        ("a/b", "valid name"),
        ("", "valid name"),
    ] {
        let request = super::house::create_request(id, &config(&["/bin/true"], false), None);
        let refused = house
            .link
            .agent
            .create(deadline(), &request)
            .await
            .unwrap_err();
        assert!(refused.to_string().contains(wanted), "{refused}");
    }
    let mut request = super::house::create_request("web", &config(&["/bin/true"], false), None);
    request.config_json = b"{".to_vec();
    let refused = house
        .link
        .agent
        .create(deadline(), &request)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("parse config.json"),
        "{refused}"
    );
    let mut request = super::house::create_request("web", &config(&["/bin/true"], false), None);
    request
        .rootfs
        .mut_or_insert_default()
        .set_share_path("../../etc".to_owned());
    assert_eq!(
        code_of(house.link.agent.create(deadline(), &request).await),
        ttrpc::Code::INVALID_ARGUMENT
    );

    let request = super::house::create_request("web", &config(&["/bin/none"], false), None);
    let refused = house.link.agent.create(deadline(), &request).await;
    let text = format!("{refused:?}");
    assert!(
        text.contains("/bin/none: no such file or directory"),
        "{text}"
    );

    let request = super::house::create_request("web", &config(&["/bin/true"], false), None);
    house.link.agent.create(deadline(), &request).await.unwrap();
    let again = house.link.agent.create(deadline(), &request).await;
    assert_eq!(code_of(again), ttrpc::Code::ALREADY_EXISTS);
    house.remove("web").await.unwrap();
    let start = StartRequest {
        container_id: "web".to_owned(),
        ..StartRequest::default()
    };
    let gone = house.link.agent.start(deadline(), &start).await;
    assert_eq!(code_of(gone), ttrpc::Code::NOT_FOUND);

    let mut peer = house.run("web", "exit 0").await;
    assert_eq!(peer.exit().await, 0);
    house.remove("web").await.unwrap();
    assert_eq!(house.list().await, [""; 0]);
}

#[tokio::test]
async fn a_hook_of_the_host_runs_in_the_guest() {
    if !asked() {
        return;
    }
    let mut house = House::new().await;
    let mut config = config(&["/bin/cat", "/tmp/hook", "/tmp/state"], false);
    // The container's root is where the guest has it; its own is what the second hook sees.
    config["hooks"] = json!({
        "createContainer": [{"path": "/host/hook", "args":
            ["sh", "-c", "echo $0 >/run/hutch/share/c/1/tmp/hook", "made"]}],
        "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "cat >/tmp/state"]}],
    });
    config["process"]["apparmorProfile"] = json!("strict");
    let (name, path) = house.port();
    let mut request = super::house::create_request("web", &config, Some(name));
    request.hook_programs.push(HookProgram {
        share_path: "c/1/bin/busybox".to_owned(),
        ..HookProgram::default()
    });
    request.bundle_path = "/bundles/web".to_owned();

    let made = house.link.agent.create(deadline(), &request).await.unwrap();
    let mut peer = super::peer::Peer::connect(&path).await;
    house.start("web").await;

    assert_eq!(made.warnings.len(), 1);
    assert!(made.warnings[0].contains("AppArmor"), "{:?}", made.warnings);
    assert_eq!(peer.exit().await, 0);
    let text = peer.text();
    assert!(text.starts_with("made\n"), "{text}");
    assert!(text.contains(r#""bundle":"/bundles/web""#), "{text}");
    house.remove("web").await.unwrap();

    config["hooks"]["createContainer"][0]["path"] = json!("/bin/sh");
    let request = super::house::create_request("web", &config, None);
    let refused = house.link.agent.create(deadline(), &request).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("createContainer hook #0"), "{refused}");
    assert_eq!(house.list().await, [""; 0], "nothing of it is left");
}

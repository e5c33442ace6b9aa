//! Hooks that run in the guest.

use crate::bed::{BUSYBOX, Bed, ROOTFS, chain, config, with};
use hutch_agent::engine::{Error, HookFault};
use serde_json::{Value, json};
use std::{fs, path::Path, time::Instant};

super::cases![
    hooks_run_in_order_each_in_its_place,
    a_hook_has_its_own_environment_and_the_state,
    a_hook_before_the_container_that_fails_leaves_nothing,
    a_hook_before_the_program_that_fails_ends_the_container,
    a_hook_that_hangs_is_ended_at_its_timeout,
    what_a_hook_leaves_running_is_not_waited_for,
    a_program_from_elsewhere_stands_in_for_a_hooks_path,
    hooks_that_make_no_sense_are_refused,
    a_hook_of_the_image_is_bound_by_the_containers_filter,
];

/// With the guest's own root; busybox is there.
fn guests(script: &str) -> Value {
    json!({"path": BUSYBOX, "args": ["sh", "-c", script]})
}

fn containers(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script]})
}

fn hooked(program: &str, kind: &str, hooks: &[Value]) -> Value {
    let config = config(&["/bin/sh", "-c", program]);
    with(config, &format!("/hooks/{kind}"), json!(hooks))
}

fn hooks_run_in_order_each_in_its_place() {
    let bed = Bed::make();
    let log = bed.outside().join("log");
    let say = |word: &str| {
        let log = log.display();
        // The mounts of the container are made, and its root is not entered.
        guests(&format!(
            "echo {word} $({BUSYBOX} hostname) $({BUSYBOX} ls -d {ROOTFS}/proc/1) >>{log}"
        ))
    };
    let config = with(
        hooked(
            "cat /tmp/log; echo program",
            "createContainer",
            &[say("one"), say("two")],
        ),
        "/hooks/startContainer",
        json!([
            containers("echo three $(hostname) $$ >/tmp/log"),
            containers("echo four >>/tmp/log; [ -e /mnt/outside ] || echo inside >>/tmp/log"),
        ]),
    );

    let running = bed.create("c", &config).unwrap();
    let created = fs::read_to_string(&log).unwrap();
    let started_early = bed.rootfs().join("tmp/log").exists();
    bed.start("c").unwrap();
    let outcome = running.finish();

    let root = format!("{ROOTFS}/proc/1");
    assert_eq!(created, format!("one bed {root}\ntwo bed {root}\n"));
    assert!(!started_early);
    let lines: Vec<&str> = outcome.out.lines().collect();
    assert!(lines[0].starts_with("three bed "), "{outcome:?}");
    assert_eq!(lines[1..], ["four", "inside", "program"]);
    bed.engine.remove("c").unwrap();
}

fn a_hook_has_its_own_environment_and_the_state() {
    let bed = Bed::make();
    let folder = bed.outside();
    let look = |name: &str| {
        let path = folder.join(name).display().to_string();
        let mut hook = guests(&format!(
            "{BUSYBOX} cat >{path}.state; {BUSYBOX} cat </proc/self/environ >{path}.env; echo lost; \
             pwd >{path}.folder"
        ));
        hook["env"] = json!(["ONLY=this"]);
        hook
    };
    let program = "cat /tmp/state";
    let config = hooked(program, "createContainer", &[look("a"), look("b")]);
    let config = with(config, "/annotations", json!({"z": "1", "a": "2"}));
    let config = with(
        config,
        "/hooks/startContainer",
        json!([containers("cat >/tmp/state")]),
    );

    let outcome = bed.run(&config);

    let state: Value = serde_json::from_slice(&fs::read(folder.join("a.state")).unwrap()).unwrap();
    let again: Value = serde_json::from_slice(&fs::read(folder.join("b.state")).unwrap()).unwrap();
    let mut expected = json!({
        "ociVersion": "1.0.2",
        "id": "c",
        "status": "creating",
        "pid": 1,
        "bundle": "/bundles/bed",
        "annotations": {"a": "2", "z": "1"},
    });
    assert_eq!(state, expected);
    assert_eq!(again, expected);
    let env = fs::read_to_string(folder.join("a.env")).unwrap();
    assert_eq!(env, "ONLY=this\0");
    assert_eq!(fs::read_to_string(folder.join("a.folder")).unwrap(), "/\n");
    expected["status"] = json!("created");
    let started: Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(started, expected);
}

fn a_hook_before_the_container_that_fails_leaves_nothing() {
    let bed = Bed::make();
    let mark = bed.outside().join("mark");
    let fails = guests("echo first >&2; echo no shoes >&2; exit 3");
    let after = guests(&format!("echo >{}", mark.display()));
    let killed = guests("kill -9 $$");

    let failed = bed.refusal(&hooked("true", "createContainer", &[fails, after]));
    let killed = bed.refusal(&hooked("true", "createContainer", &[killed]));
    let missing = json!({"path": "/no/such"});
    let missing = bed.refusal(&hooked("true", "createContainer", &[missing]));

    assert_eq!(
        failed,
        format!("createContainer hook #0 {BUSYBOX:?}: exit status 3: no shoes")
    );
    assert!(!mark.exists(), "no hook after the one that failed");
    assert_eq!(
        killed,
        format!("createContainer hook #0 {BUSYBOX:?}: killed by signal 9")
    );
    assert_eq!(
        missing,
        r#"createContainer hook #0 "/no/such": no such file or directory, or what loads it is not there"#
    );
    assert_eq!(bed.cgroups(), 0);
}

fn a_hook_before_the_program_that_fails_ends_the_container() {
    let bed = Bed::make();
    let config = hooked(
        "echo never",
        "startContainer",
        &[containers("true"), containers("echo not today >&2; exit 4")],
    );

    let running = bed.create("c", &config).unwrap();
    let failed = bed.start("c").unwrap_err();
    let outcome = running.finish();
    let again = bed.start("c").unwrap_err();

    assert_eq!(
        chain(&failed),
        r#"startContainer hook #1 "/bin/sh": exit status 4: not today"#
    );
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""));
    assert_eq!(again.to_string(), r#"container "c" is stopped"#);
    bed.engine.remove("c").unwrap();
}

fn a_hook_that_hangs_is_ended_at_its_timeout() {
    let bed = Bed::make();
    let mut hook = guests(&format!("echo waiting >&2; {BUSYBOX} sleep 1000; true"));
    hook["timeout"] = json!(1);
    let begun = Instant::now();

    let refused = bed
        .create("c", &hooked("true", "createContainer", &[hook]))
        .err()
        .unwrap();

    assert!(
        matches!(
            &refused,
            Error::Hook {
                fault: HookFault::TooLong { seconds: 1, .. },
                ..
            }
        ),
        "{refused:?}"
    );
    assert!(
        refused
            .to_string()
            .ends_with("ran past its timeout of 1 s: waiting")
    );
    assert!(begun.elapsed().as_secs_f64() >= 1.0);
    assert_eq!(bed.cgroups(), 0, "and all that it started went with it");
}

fn what_a_hook_leaves_running_is_not_waited_for() {
    let bed = Bed::make();
    // It holds what the hook's stderr was, and goes on saying things.
    let hook = guests(&format!("{BUSYBOX} yes >&2 & echo done >&2"));

    let outcome = bed.run(&hooked("echo program", "createContainer", &[hook]));

    assert_eq!((outcome.code, outcome.out.as_str()), (0, "program\n"));
    assert_eq!(bed.cgroups(), 0);
}

fn a_program_from_elsewhere_stands_in_for_a_hooks_path() {
    let bed = Bed::make();
    let (program, mark) = (bed.outside().join("program"), bed.outside().join("mark"));
    fs::copy(BUSYBOX, &program).unwrap();
    let script = format!("echo $0 >{}", mark.display());
    let hook = json!({"path": "/host/only", "args": ["sh", "-c", script, "zero"]});
    let config = hooked("true", "createContainer", &[hook]);
    let mut plan = bed.plan("c", &config);
    plan.hook_programs.insert(0, program);

    let running = bed.create_as_planned(plan).unwrap();

    assert_eq!(fs::read_to_string(&mark).unwrap(), "zero\n");
    drop(running);
    bed.engine.remove("c").unwrap();
}

fn hooks_that_make_no_sense_are_refused() {
    let bed = Bed::make();

    for (hook, why) in [
        (json!({"path": "bin/true"}), "its path is not absolute"),
        (
            json!({"path": "/bin/true", "timeout": -1}),
            "its timeout -1 is not above zero",
        ),
    ] {
        for kind in ["createContainer", "startContainer"] {
            let refused = bed.refusal(&hooked("true", kind, std::slice::from_ref(&hook)));

            let path = hook["path"].as_str().unwrap();
            assert_eq!(refused, format!("{kind} hook #0 {path:?}: {why}"));
        }
    }
    assert!(Path::new(BUSYBOX).exists());
}

fn a_hook_of_the_image_is_bound_by_the_containers_filter() {
    let bed = Bed::make();
    let config = hooked(
        "cat /tmp/log",
        "startContainer",
        &[containers("mkdir /tmp/x 2>/tmp/log; id -u >>/tmp/log")],
    );
    let config = with(
        config,
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    fs::set_permissions(
        bed.rootfs().join("tmp"),
        std::os::unix::fs::PermissionsExt::from_mode(0o1777),
    )
    .unwrap();

    let outcome = bed.run(&with(
        config,
        "/process/user",
        json!({"uid": 1000, "gid": 1000}),
    ));

    assert_eq!(
        outcome.out, "mkdir: can't create directory '/tmp/x': Operation not permitted\n1000\n",
        "{outcome:?}"
    );
}

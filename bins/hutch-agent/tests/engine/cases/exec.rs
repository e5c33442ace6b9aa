//! Further processes of a container.

use crate::bed::{Bed, Running, chain, config, exec_plan, pipes, process, wait_for_end, with};
use hutch_agent::engine::{Error, Kind, Target};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, io::Write, thread};

super::cases![
    an_exec_lives_in_its_container,
    an_exec_has_its_own_streams_and_exit_code,
    an_exec_takes_capabilities_and_limits_of_its_container,
    an_exec_has_a_user_of_its_own,
    an_exec_as_nobody_that_can_be_is_refused,
    fifty_execs_at_once_all_run,
    the_last_value_of_a_variable_is_what_a_program_gets_and_is_found_by,
    execs_are_begun_though_none_before_them_goes_on,
    an_exec_can_be_signalled_and_forgotten,
    an_exec_that_cannot_run_says_why,
    an_exec_after_the_end_is_refused,
    an_exec_that_dies_with_its_container_is_told,
    an_exec_can_be_below_its_containers_own_cgroup,
    whoever_is_below_is_found_held_and_removed_however_deep_that_is,
];

fn an_exec_can_be_below_its_containers_own_cgroup() {
    let bed = Bed::make();
    let running = up(&bed);
    fs::create_dir_all(bed.cgroup().join("part/deeper")).unwrap();
    let place = |cgroup: &str| {
        let grep = process(&["/bin/grep", "^0:", "/proc/self/cgroup"]);
        let outcome = bed.exec_in(cgroup, "c", "e", &grep).map(Running::finish);
        if outcome.is_ok() {
            bed.engine.forget("c", "e").unwrap();
        }
        outcome.map_err(|why| chain(&why))
    };

    for (cgroup, own) in [
        ("", "0::/\n"),
        (".", "0::/\n"),
        ("part", "0::/part\n"),
        ("part/deeper", "0::/part/deeper\n"),
    ] {
        assert_eq!(place(cgroup).unwrap().out, own);
    }
    for (cgroup, why) in [
        ("none", "no such file or directory"),
        ("..", "cross-device link"),
        ("/part", "cross-device link"),
    ] {
        let said = place(cgroup).unwrap_err();
        assert_eq!(said, format!("cgroup {cgroup:?} of the container: {why}"));
    }
    down(&bed, running);
}

fn whoever_is_below_is_found_held_and_removed_however_deep_that_is() {
    // Which of them is held first is not the same each time.
    const PAUSES: usize = 20;
    let bed = Bed::make();
    let running = up(&bed);
    let deep = ["d"; 60].join("/");
    let own = bed.cgroup();
    fs::create_dir_all(own.join(&deep)).unwrap();
    fs::create_dir_all(own.join("ice")).unwrap();
    fs::write(own.join("ice/cgroup.freeze"), "1").unwrap();
    let sleep = process(&["/bin/sleep", "1000"]);

    let one = bed.exec_in(&deep, "c", "one", &sleep).unwrap();
    let two = bed.exec_in(&deep, "c", "two", &sleep).unwrap();
    let frozen = chain(&bed.exec_in("ice", "c", "x", &sleep).unwrap_err());

    assert_eq!(frozen, "cgroup \"ice\" of the container: is frozen");
    let most = bed
        .engine
        .cgroup_file("c", "cgroup.max.descendants")
        .unwrap();
    assert_eq!(most, "4096\n");
    let mut all = [&running, &one, &two].map(|one| one.created.pid);
    all.sort_unstable();
    assert_eq!(bed.engine.pids("c").unwrap(), all);
    for _ in 0..PAUSES {
        bed.engine.pause("c").unwrap();
        let held = fs::read_to_string(own.join(&deep).join("cgroup.events")).unwrap();
        assert!(held.contains("frozen 1"), "{held}");
        bed.engine.resume("c").unwrap();
    }
    // To its init, which has no handler, it is nothing.
    bed.engine.signal("c", &Target::All, 15).unwrap();
    assert_eq!([one.finish().code, two.finish().code], [143, 143]);
    down(&bed, running);
    assert_eq!(bed.cgroups(), 0);
}

/// A container whose init reads its stdin.
fn up(bed: &Bed) -> Running {
    let running = bed.create("c", &config(&["/bin/cat"])).unwrap();
    bed.start("c").unwrap();
    running
}

fn down(bed: &Bed, running: Running) {
    bed.engine.remove("c").unwrap();
    assert_eq!(running.finish().code, 137);
}

fn sh(line: &str) -> Value {
    process(&["/bin/sh", "-c", line])
}

fn an_exec_lives_in_its_container() {
    let bed = Bed::make();
    let running = up(&bed);
    let line = "for n in pid uts ipc mnt cgroup; do \
                  [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] && echo $n; done; \
                hostname; [ $$ -gt 1 ] && cat /proc/self/cgroup; ls /mnt";

    let outcome = bed.exec("c", "e", &sh(line)).unwrap().finish();

    let lines: Vec<&str> = outcome.out.lines().collect();
    assert_eq!(lines[..6], ["pid", "uts", "ipc", "mnt", "cgroup", "bed"]);
    assert!(lines.contains(&"0::/"), "{outcome:?}");
    assert!(outcome.err.contains("/mnt: No such file"), "{outcome:?}");
    down(&bed, running);
}

fn an_exec_has_its_own_streams_and_exit_code() {
    let bed = Bed::make();
    let mut running = up(&bed);

    let mut exec = bed
        .exec("c", "e", &sh("read a; echo got $a; echo e >&2; exit 9"))
        .unwrap();
    exec.stdin.write_all(b"word\n").unwrap();
    let outcome = exec.finish();
    running.stdin.write_all(b"for the init").unwrap();

    assert_eq!(
        (outcome.code, outcome.out.as_str(), outcome.err.as_str()),
        (9, "got word\n", "e\n")
    );
    assert_eq!(running.finish().out, "for the init");
    bed.engine.remove("c").unwrap();
}

fn an_exec_takes_capabilities_and_limits_of_its_container() {
    let bed = Bed::make();
    let limits = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
    let config = with(config(&["/bin/cat"]), "/process/rlimits", limits);
    let running = bed.create("c", &config).unwrap();
    bed.start("c").unwrap();
    let line = "grep CapEff /proc/1/status /proc/self/status | cut -f 2; ulimit -Sn; ulimit -Hn";
    let mut silent = sh(line);
    silent.as_object_mut().unwrap().remove("capabilities");

    let outcome = bed.exec("c", "e", &silent).unwrap().finish();

    let lines: Vec<&str> = outcome.out.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert_ne!(u64::from_str_radix(lines[0], 16).unwrap(), 0);
    assert_eq!(lines[2..], ["55", "66"]);
    down(&bed, running);
}

fn an_exec_has_a_user_of_its_own() {
    let bed = Bed::make();
    let running = up(&bed);
    let user = json!({"uid": 1000, "gid": 1000, "additionalGids": [5]});
    let process = with(sh("id -u; id -G; pwd; echo $HOME"), "/user", user);
    let process = with(process, "/env", json!(["PATH=/bin"]));

    let outcome = bed
        .exec("c", "e", &with(process, "/cwd", json!("/tmp")))
        .unwrap()
        .finish();

    assert_eq!(outcome.out, "1000\n1000 5\n/tmp\n/home/user\n");
    down(&bed, running);
}

fn the_last_value_of_a_variable_is_what_a_program_gets_and_is_found_by() {
    let bed = Bed::make();
    let running = up(&bed);
    let mut env = process(&["env"]);
    env["env"] = json!(["A=1", "PATH=/nowhere", "HOME=/x", "A=2", "PATH=/bin"]);
    let mut lost = process(&["env"]);
    lost["env"] = json!(["PATH=/bin", "PATH=/nowhere"]);

    let outcome = bed.exec("c", "e", &env).unwrap().finish();
    let refused = bed.exec("c", "lost", &lost).unwrap_err();

    assert_eq!(outcome.out, "A=2\nPATH=/bin\nHOME=/x\n");
    assert_eq!(
        refused.to_string(),
        r#"exec: "env": executable file not found in $PATH"#
    );
    down(&bed, running);
}

/// What hangs is who forks; nobody who begins waits for it.
fn execs_are_begun_though_none_before_them_goes_on() {
    let bed = Bed::make();
    let running = up(&bed);
    let spawner = bed.spawner();
    kill_process(spawner, Signal::STOP).unwrap();

    let begun: Vec<_> = (0..50)
        .map(|number| {
            let (io, ends) = pipes();
            let line = sh(&format!("exit {number}"));
            let plan = exec_plan(&format!("e{number}"), &line);
            (bed.engine.begin_exec("c", plan, io).unwrap(), ends)
        })
        .collect();

    kill_process(spawner, Signal::CONT).unwrap();
    for (number, (execing, ends)) in (0..).zip(begun) {
        wait_for_end(&execing, execing.limit());
        let outcome = ends.of(execing.conclude().unwrap()).finish();
        assert_eq!(outcome.code, number);
    }
    down(&bed, running);
}

fn an_exec_as_nobody_that_can_be_is_refused() {
    let bed = Bed::make();
    let running = up(&bed);

    for user in [
        json!({"uid": u32::MAX, "gid": u32::MAX}),
        json!({"uid": 0, "gid": u32::MAX}),
        json!({"uid": 0, "gid": 0, "additionalGids": [u32::MAX]}),
    ] {
        let mut wanted = sh("id");
        wanted["user"] = user;
        let refused = bed.exec("c", "e", &wanted).unwrap_err();

        assert_eq!(
            refused.to_string(),
            "process: user: 4294967295: uids and gids must be in range 0-2147483647"
        );
    }
    let mut largest = sh("id -u; id -g");
    largest["user"] = json!({"uid": i32::MAX, "gid": i32::MAX});
    let outcome = bed.exec("c", "e", &largest).unwrap().finish();
    assert_eq!(outcome.out, "2147483647\n2147483647\n", "{outcome:?}");
    down(&bed, running);
}

fn fifty_execs_at_once_all_run() {
    let bed = Bed::make();
    let running = up(&bed);

    let outcomes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..50)
            .map(|number| {
                let bed = &bed;
                scope.spawn(move || {
                    let line = format!("echo {number}; exit {number}");
                    bed.exec("c", &format!("e{number}"), &sh(&line))
                        .unwrap()
                        .finish()
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });

    for (number, outcome) in (0..).zip(&outcomes) {
        assert_eq!(
            (outcome.code, outcome.out.as_str()),
            (number, &*format!("{number}\n"))
        );
    }
    assert_eq!(bed.engine.pids("c").unwrap(), [running.created.pid]);
    down(&bed, running);
}

fn an_exec_can_be_signalled_and_forgotten() {
    let bed = Bed::make();
    let running = up(&bed);
    let exec = bed
        .exec("c", "e", &process(&["/bin/sleep", "1000"]))
        .unwrap();
    let pids: BTreeSet<u32> = bed.engine.pids("c").unwrap().into_iter().collect();
    assert_eq!(
        pids,
        BTreeSet::from([running.created.pid, exec.created.pid])
    );

    let twice = bed.exec("c", "e", &process(&["/bin/true"])).unwrap_err();
    assert!(matches!(twice, Error::ProcessExists { .. }));
    bed.engine
        .signal("c", &Target::Exec("e".to_owned()), 9)
        .unwrap();
    assert_eq!(exec.finish().code, 137);
    bed.engine.forget("c", "e").unwrap();

    let again = bed.exec("c", "e", &process(&["/bin/true"])).unwrap();
    assert_eq!(again.finish().code, 0);
    bed.engine.forget("c", "e").unwrap();
    assert_eq!(
        bed.engine.forget("c", "e").unwrap_err().kind(),
        Kind::NotFound
    );
    down(&bed, running);
}

fn an_exec_that_cannot_run_says_why() {
    let bed = Bed::make();
    let running = up(&bed);
    let refusal = |process: Value| {
        let error = bed.exec("c", "e", &process).expect_err("it cannot run");
        crate::bed::chain(&error)
    };

    assert_eq!(
        refusal(process(&["no-such-program"])),
        r#"exec: "no-such-program": executable file not found in $PATH"#
    );
    assert_eq!(
        refusal(process(&["/no/such"])),
        r#"exec: "/no/such": stat /no/such: no such file or directory"#
    );
    assert_eq!(
        refusal(process(&["/etc/passwd"])),
        r#"exec: "/etc/passwd": permission denied"#
    );
    assert_eq!(
        refusal(process(&["/etc"])),
        r#"exec: "/etc": is a directory"#
    );
    assert_eq!(
        refusal(with(process(&["/bin/true"]), "/cwd", json!("/nope"))),
        r#"chdir to cwd ("/nope") set in config.json failed: no such file or directory"#
    );
    assert_eq!(refusal(process(&[])), "process: args must not be empty");
    // A name that failed is free again.
    assert_eq!(
        bed.exec("c", "e", &process(&["true"]))
            .unwrap()
            .finish()
            .code,
        0
    );
    assert_eq!(bed.engine.pids("c").unwrap(), [running.created.pid]);
    down(&bed, running);
}

fn an_exec_after_the_end_is_refused() {
    let bed = Bed::make();
    let running = up(&bed);
    assert_eq!(running.finish().code, 0);

    let refused = bed.exec("c", "e", &process(&["/bin/true"])).unwrap_err();

    assert_eq!(refused.to_string(), r#"container "c" is stopped"#);
    assert_eq!(refused.kind(), Kind::Denied);
    bed.engine.remove("c").unwrap();
}

fn an_exec_that_dies_with_its_container_is_told() {
    let bed = Bed::make();
    let running = up(&bed);
    let exec = bed
        .exec("c", "e", &process(&["/bin/sleep", "1000"]))
        .unwrap();

    bed.engine.signal("c", &Target::Init, 9).unwrap();

    // The end of its init is the end of a pid namespace.
    assert_eq!(exec.finish().code, 137);
    assert_eq!(running.finish().code, 137);
    bed.engine.remove("c").unwrap();
}

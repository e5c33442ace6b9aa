//! From create to remove.

use crate::bed::{Bed, Outcome, config, no_streams, pipes, process, wait, with};
use hutch_agent::engine::{Error, Kind, Target};
use serde_json::json;
use std::{collections::BTreeSet, fs, io::Write, thread};

super::cases![
    a_program_runs_and_its_exit_code_is_its_own,
    stdin_reaches_the_program_and_ends,
    stdout_and_stderr_do_not_mix,
    nothing_runs_before_start,
    a_container_without_streams_reads_and_writes_nothing,
    a_program_that_was_killed_says_by_what,
    broken_pipes_end_programs_as_they_should,
    a_second_container_of_the_same_name_is_refused,
    what_is_not_there_is_not_found,
    a_container_starts_once,
    remove_kills_what_is_left,
    what_is_at_rest_is_removed_without_a_wait,
    remove_ends_a_container_that_never_started,
    a_deadly_signal_ends_what_waits_for_its_start,
    a_program_meets_signals_as_if_nothing_had_waited_for_it,
    signals_reach_the_init_and_all,
    a_paused_container_stands_still,
    containers_are_made_side_by_side,
    a_hundred_rounds_leave_nothing_behind,
    a_plan_longer_than_one_message_arrives_whole,
];

fn a_program_runs_and_its_exit_code_is_its_own() {
    let bed = Bed::make();

    let outcome = bed.shell("echo hello; echo sorry >&2; exit 7");

    assert_eq!(
        outcome,
        Outcome {
            code: 7,
            out: "hello\n".to_owned(),
            err: "sorry\n".to_owned()
        }
    );
}

fn stdin_reaches_the_program_and_ends() {
    let bed = Bed::make();
    let mut running = bed.create("c", &config(&["/bin/wc", "-c"])).unwrap();
    bed.start("c").unwrap();

    running.stdin.write_all(&[b'x'; 300_000]).unwrap();
    let outcome = running.finish();

    assert_eq!(outcome.out, "300000\n");
    bed.engine.remove("c").unwrap();
}

fn stdout_and_stderr_do_not_mix() {
    let bed = Bed::make();

    let outcome = bed.shell("for i in 1 2 3; do echo o$i; echo e$i >&2; done");

    assert_eq!(outcome.out, "o1\no2\no3\n");
    assert_eq!(outcome.err, "e1\ne2\ne3\n");
}

fn nothing_runs_before_start() {
    let bed = Bed::make();
    let outside = bed.outside();
    let mount = json!({"destination": "/out", "source": outside, "options": ["bind"]});
    let config = config(&["/bin/touch", "/out/ran"]);

    let running = bed.create("c", &with(config, "/mounts/-", mount)).unwrap();
    // An exec goes from fork to exit meanwhile: an init that runs by itself would have, too.
    let exec = bed.exec("c", "e", &process(&["/bin/true"])).unwrap();
    assert_eq!(exec.finish().code, 0);

    assert!(!outside.join("ran").exists());
    bed.start("c").unwrap();
    assert_eq!(running.finish().code, 0);
    assert!(outside.join("ran").exists());
    bed.engine.remove("c").unwrap();
}

fn a_container_without_streams_reads_and_writes_nothing() {
    let bed = Bed::make();
    let line = "readlink /proc/self/fd/0 | grep -q ^/dev/null$ || exit 3; cat; echo lost";
    let plan = bed.plan("c", &config(&["/bin/sh", "-c", line]));

    let created = bed.engine.create(plan, no_streams()).unwrap();
    bed.start("c").unwrap();

    assert_eq!(wait(&created), 0);
    bed.engine.remove("c").unwrap();
}

fn a_program_that_was_killed_says_by_what() {
    let bed = Bed::make();

    // The init of a pid namespace cannot kill itself, so another process is asked about.
    let outcome = bed.shell("sh -c 'kill -9 $$'; echo $?");

    assert_eq!(outcome.out, "137\n");
}

fn broken_pipes_end_programs_as_they_should() {
    let bed = Bed::make();

    let outcome = bed.shell("{ seq 1 100000; echo $? >&2; } | head -n 1");

    assert_eq!(outcome.out, "1\n");
    // 128 + SIGPIPE: a process that inherits it ignored would say 1 and complain.
    assert_eq!(outcome.err, "141\n");
}

fn a_second_container_of_the_same_name_is_refused() {
    let bed = Bed::make();
    let first = bed.create("c", &config(&["/bin/true"])).unwrap();

    let second = bed.create("c", &config(&["/bin/true"]));

    assert!(matches!(second.err(), Some(Error::ContainerExists { id }) if id == "c"));
    bed.start("c").unwrap();
    assert_eq!(first.finish().code, 0);
    bed.engine.remove("c").unwrap();
    assert_eq!(bed.run(&config(&["/bin/true"])).code, 0);
}

fn what_is_not_there_is_not_found() {
    let bed = Bed::make();
    let engine = &bed.engine;
    let answers = [
        engine.begin_start("x").err(),
        engine.remove("x").err(),
        engine.signal("x", &Target::Init, 15).err(),
        engine.pause("x").err(),
        engine.resume("x").err(),
        engine.pids("x").err(),
        engine.oom_kills("x").err(),
        engine.update("x", b"{}").err(),
        engine.forget("x", "e").err(),
    ];

    for answer in answers {
        assert_eq!(answer.unwrap().kind(), Kind::NotFound);
    }
    let _running = bed.create("c", &config(&["/bin/true"])).unwrap();
    let exec = engine
        .signal("c", &Target::Exec("e".to_owned()), 15)
        .unwrap_err();
    assert_eq!(exec.kind(), Kind::NotFound);
    engine.remove("c").unwrap();
}

fn a_container_starts_once() {
    let bed = Bed::make();
    let running = bed.create("c", &config(&["/bin/cat"])).unwrap();
    bed.start("c").unwrap();

    let again = bed.start("c").unwrap_err();
    assert_eq!(again.to_string(), r#"container "c" is running"#);
    assert_eq!(running.finish().code, 0);
    let later = bed.start("c").unwrap_err();

    assert_eq!(later.to_string(), r#"container "c" is stopped"#);
    assert_eq!(later.kind(), Kind::Denied);
    bed.engine.remove("c").unwrap();
}

fn remove_kills_what_is_left() {
    let bed = Bed::make();
    let line = "(sleep 1000 &) ; sh -c 'sleep 1000' & sleep 1000 & echo up; cat";
    let running = bed.create("c", &config(&["/bin/sh", "-c", line])).unwrap();
    bed.start("c").unwrap();
    while bed.engine.pids("c").unwrap().len() < 4 {
        thread::yield_now();
    }
    let pids = bed.engine.pids("c").unwrap();

    bed.engine.remove("c").unwrap();

    assert_eq!(wait(&running.created), 137);
    for pid in pids {
        assert!(!fs::exists(format!("/proc/{pid}")).unwrap(), "{pid} lives");
    }
    assert_eq!(bed.cgroups(), 0);
}

fn what_is_at_rest_is_removed_without_a_wait() {
    let bed = Bed::make();
    for below in [None, Some("made/below")] {
        let running = bed.create("c", &config(&["/bin/cat"])).unwrap();
        bed.start("c").unwrap();
        assert_eq!(bed.engine.remove_bare("c").unwrap(), None, "it runs");
        if let Some(below) = below {
            fs::create_dir_all(bed.cgroup().join(below)).unwrap();
        }
        assert_eq!(running.finish().code, 0);

        let removed = bed.engine.remove_bare("c").unwrap();

        if below.is_some() {
            assert_eq!(removed, None, "what it made may be much");
            bed.engine.remove("c").unwrap();
        } else {
            assert_eq!(removed, Some(0));
        }
        assert_eq!(bed.cgroups(), 0);
        assert!(matches!(
            bed.engine.remove_bare("c"),
            Err(Error::NoContainer { .. })
        ));
    }
}

fn remove_ends_a_container_that_never_started() {
    let bed = Bed::make();
    let running = bed.create("c", &config(&["/bin/true"])).unwrap();

    bed.engine.remove("c").unwrap();

    assert_eq!(wait(&running.created), 137);
    assert_eq!(bed.cgroups(), 0);
}

fn a_deadly_signal_ends_what_waits_for_its_start() {
    let bed = Bed::make();
    let own_pids = config(&["/bin/echo", "ran"]);
    let shared_pids = with(
        own_pids.clone(),
        "/linux/namespaces",
        json!([{"type": "mount"}]),
    );
    let shared_pids = with(shared_pids, "/hostname", json!(null));
    for config in [own_pids, shared_pids] {
        for number in [1, 2, 3, 6, 11, 15] {
            let waiting = bed.create("c", &config).unwrap();

            bed.engine.signal("c", &Target::Init, number).unwrap();
            let outcome = waiting.finish();

            assert_eq!(
                (outcome.code, outcome.out.as_str()),
                (128 + number.cast_signed(), "")
            );
            let started = bed.start("c").unwrap_err();
            assert_eq!(started.to_string(), r#"container "c" is stopped"#);
            bed.engine.remove("c").unwrap();
        }
    }
}

fn a_program_meets_signals_as_if_nothing_had_waited_for_it() {
    let bed = Bed::make();
    let grep = ["/bin/grep", "-E", "^Sig(Blk|Cgt):", "/proc/self/status"];
    let running = bed.create("c", &config(&grep)).unwrap();

    // Harmless before the start: nobody has given it a meaning yet.
    bed.engine.signal("c", &Target::Init, 10).unwrap();
    bed.start("c").unwrap();
    let outcome = running.finish();

    let none = "0000000000000000";
    let expected = format!("SigBlk:\t{none}\nSigCgt:\t{none}\n");
    assert_eq!((outcome.code, outcome.out), (0, expected));
    bed.engine.remove("c").unwrap();
}

fn signals_reach_the_init_and_all() {
    let bed = Bed::make();
    let line = "trap 'echo term; exit 3' TERM; trap 'echo usr' USR1; echo up; \
                while :; do read x || :; done";
    let mut running = bed.create("c", &config(&["/bin/sh", "-c", line])).unwrap();
    bed.start("c").unwrap();
    let child = bed
        .exec("c", "e", &process(&["/bin/sleep", "1000"]))
        .unwrap();
    // The trap is set once the shell has taken what comes after it.
    running.stdin.write_all(b"\n\n\n").unwrap();
    while bed.engine.pids("c").unwrap().len() != 2 {
        thread::yield_now();
    }
    settle(running.created.pid);

    bed.engine.signal("c", &Target::All, 10).unwrap();
    assert_eq!(child.finish().code, 128 + 10);
    let gone = bed
        .engine
        .signal("c", &Target::Exec("e".to_owned()), 15)
        .unwrap_err();
    assert_eq!(
        gone.to_string(),
        r#"process "e" of container "c" has ended"#
    );
    let none = bed.engine.signal("c", &Target::Init, 65).unwrap_err();
    assert_eq!(none.to_string(), "signal 65: there is no such signal");
    bed.engine.signal("c", &Target::Init, 15).unwrap();
    let outcome = running.finish();

    assert_eq!((outcome.code, outcome.out.as_str()), (3, "up\nusr\nterm\n"));
    let gone = bed.engine.signal("c", &Target::Init, 15).unwrap_err();
    assert_eq!(gone.to_string(), r#"container "c" is stopped"#);
    bed.engine.remove("c").unwrap();
}

/// Waits until a process sleeps: what it had to do, it has done.
fn settle(pid: u32) {
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        if stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with('S')
        {
            return;
        }
        thread::yield_now();
    }
}

fn a_paused_container_stands_still() {
    let bed = Bed::make();
    let mut running = bed.create("c", &config(&["/bin/cat"])).unwrap();
    bed.start("c").unwrap();

    bed.engine.pause("c").unwrap();
    bed.engine.pause("c").unwrap();
    let exec = bed.exec("c", "e", &process(&["/bin/true"])).unwrap_err();
    running.stdin.write_all(b"through").unwrap();
    let frozen = fs::read_to_string(bed.cgroup.join("c0/cgroup.events")).unwrap();
    bed.engine.resume("c").unwrap();
    let outcome = running.finish();

    let ended = bed.engine.pause("c").unwrap_err();

    assert_eq!(exec.to_string(), r#"container "c" is paused"#);
    assert!(frozen.contains("frozen 1"), "{frozen}");
    assert_eq!((outcome.code, outcome.out.as_str()), (0, "through"));
    assert_eq!(ended.to_string(), r#"container "c" is stopped"#);
    bed.engine.remove("c").unwrap();
    let running = bed.create("d", &config(&["/bin/cat"])).unwrap();
    bed.start("d").unwrap();
    bed.engine.pause("d").unwrap();
    bed.engine.remove("d").unwrap();
    assert_eq!(wait(&running.created), 137);
}

fn containers_are_made_side_by_side() {
    let bed = Bed::make();

    let outcomes: Vec<Outcome> = thread::scope(|scope| {
        let make = |number: i32| {
            let bed = &bed;
            scope.spawn(move || {
                let id = format!("c{number}");
                let line = format!("echo {number}; exit {number}");
                let running = bed.create(&id, &config(&["/bin/sh", "-c", &line])).unwrap();
                bed.start(&id).unwrap();
                let outcome = running.finish();
                bed.engine.remove(&id).unwrap();
                outcome
            })
        };
        let threads: Vec<_> = (0..20).map(make).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });

    for (number, outcome) in (0..).zip(outcomes) {
        assert_eq!(outcome.code, number);
        assert_eq!(outcome.out, format!("{number}\n"));
    }
    assert_eq!(bed.cgroups(), 0);
}

fn a_hundred_rounds_leave_nothing_behind() {
    let bed = Bed::make();
    let round = |number: usize| {
        let config = match number % 4 {
            0 => config(&["/bin/true"]),
            1 => config(&["/bin/cat"]),
            2 => with(config(&["/bin/true"]), "/process/cwd", json!("/etc/passwd")),
            _ => config(&["/no/such/program"]),
        };
        let Ok(running) = bed.create("c", &config) else {
            assert!(number % 4 >= 2);
            return;
        };
        if number % 8 != 1 {
            bed.start("c").unwrap();
            let exec = bed.exec("c", "e", &process(&["/bin/true"]));
            if let Ok(exec) = exec {
                assert!(matches!(exec.finish().code, 0 | 137));
            }
        }
        bed.engine.remove("c").unwrap();
        wait(&running.created);
    };
    // Before any of them: one that is dead and not reaped yet would be waited for without end.
    let before_processes = processes();
    // The first rounds fill what is kept: programs of device rules, the allocator's pools.
    (0..4).for_each(round);
    let before = traces();

    (0..100).for_each(round);

    // An init that failed is reaped a moment after its failure was told.
    while processes() != before_processes {
        thread::yield_now();
    }
    assert_eq!(traces(), before);
    assert_eq!(bed.cgroups(), 0);
}

/// Open descriptors of this process and of the spawner, and mounts.
fn traces() -> [usize; 3] {
    let count = |path: &str| fs::read_dir(path).unwrap().count();
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .count();
    [count("/proc/self/fd"), count("/proc/2/fd"), mounts]
}

fn processes() -> BTreeSet<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.parse::<u32>().is_ok()).collect()
}

fn a_plan_longer_than_one_message_arrives_whole() {
    let bed = Bed::make();
    let long = format!("LONG={}", "x".repeat(120_000));
    let also = format!("ALSO={}", "y".repeat(120_000));
    let config = config(&["/bin/sh", "-c", "echo ${#LONG} ${#ALSO}"]);
    let config = with(config, "/process/env", json!(["PATH=/bin", long, also]));

    let (io, ends) = pipes();
    let running = ends.of(bed.engine.create(bed.plan("c", &config), io).unwrap());
    bed.start("c").unwrap();

    assert_eq!(running.finish().out, "120000 120000\n");
    bed.engine.remove("c").unwrap();
}

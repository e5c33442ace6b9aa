//! What waits for the next container.

use super::limits;
use crate::bed::{Bed, config, with};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, kill_process},
};
use serde_json::json;
use std::{fs, thread};

super::cases![
    what_waits_becomes_the_init_of_the_next_container,
    what_the_guest_mounted_meanwhile_is_in_the_container,
    what_waited_and_died_is_not_missed,
    what_waits_ends_if_the_next_container_is_of_another_kind,
    a_lone_container_has_nobody_waiting,
    limits_hold_for_what_waited,
    of_two_at_once_one_becomes_what_waits,
    what_is_made_ready_twice_at_once_leaves_one,
];

/// A bed in which an init waits: its pid.
fn with_one_that_waits() -> (Bed, u32) {
    let bed = Bed::make();
    for _ in 0..2 {
        assert_eq!(bed.shell("exit 3").code, 3);
    }
    bed.engine.make_ready().unwrap();
    let pid = one_that_waits(&bed);
    (bed, pid)
}

/// The spawner forks it, and nobody is told.
fn one_that_waits(bed: &Bed) -> u32 {
    loop {
        if let [pid] = waiting(bed)[..] {
            return pid;
        }
        thread::yield_now();
    }
}

/// Of the only cgroup, which is the next container's.
fn waiting(bed: &Bed) -> Vec<u32> {
    let pids = fs::read_to_string(bed.cgroup().join("cgroup.procs")).unwrap();
    pids.lines().map(|pid| pid.parse().unwrap()).collect()
}

fn what_waits_becomes_the_init_of_the_next_container() {
    let (bed, pid) = with_one_that_waits();
    let line = "[ $$ = 1 ] && echo $(hostname) in $(ls /proc | grep -c ^[0-9])";
    let wanted = with(config(&["/bin/sh", "-c", line]), "/hostname", json!("late"));

    let running = bed.create("c", &wanted).unwrap();

    assert_eq!(running.created.pid, pid);
    bed.start("c").unwrap();
    let outcome = running.finish();
    assert!(outcome.out.starts_with("late in "), "{outcome:?}");
    bed.engine.remove("c").unwrap();
    assert_eq!(bed.cgroups(), 0);
}

fn what_the_guest_mounted_meanwhile_is_in_the_container() {
    let (bed, pid) = with_one_that_waits();
    let late = bed.outside().join("late");
    fs::create_dir(&late).unwrap();
    mount(c"late", &late, c"tmpfs", MountFlags::empty(), None).unwrap();
    fs::write(late.join("word"), "there").unwrap();
    let bind = json!({"destination": "/late", "source": late, "options": ["bind"]});
    let wanted = with(config(&["/bin/cat", "/late/word"]), "/mounts/-", bind);

    let running = bed.create("c", &wanted).unwrap();

    assert_eq!(running.created.pid, pid);
    bed.start("c").unwrap();
    assert_eq!(running.finish().out, "there");
    bed.engine.remove("c").unwrap();
    unmount(&late, UnmountFlags::empty()).unwrap();
}

fn what_waited_and_died_is_not_missed() {
    let (bed, pid) = with_one_that_waits();
    let dead = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(dead, Signal::KILL).unwrap();
    while !waiting(&bed).is_empty() {
        thread::yield_now();
    }

    let running = bed.create("c", &config(&["/bin/true"])).unwrap();

    assert_ne!(running.created.pid, pid);
    bed.start("c").unwrap();
    assert_eq!(running.finish().code, 0);
    bed.engine.remove("c").unwrap();
    bed.engine.make_ready().unwrap();
    assert_eq!(bed.cgroups(), 1, "that of the dead one is left");
    assert_eq!(bed.shell("exit 4").code, 4);
    assert_eq!(bed.cgroups(), 0);
}

fn what_waits_ends_if_the_next_container_is_of_another_kind() {
    let (bed, pid) = with_one_that_waits();
    let mut wanted = config(&["/bin/true"]);
    let namespaces = wanted["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|one| one["type"] != "ipc");

    let running = bed.create("c", &wanted).unwrap();

    assert_ne!(running.created.pid, pid);
    bed.start("c").unwrap();
    assert_eq!(running.finish().code, 0);
    bed.engine.remove("c").unwrap();
    // By itself.
    while !waiting(&bed).is_empty() {
        thread::yield_now();
    }
    bed.engine.make_ready().unwrap();
    assert_eq!(bed.cgroups(), 1, "its cgroup is left");
    // Nobody is expected before two were alike.
    assert!(waiting(&bed).is_empty());
    let running = bed.create("c", &wanted).unwrap();
    bed.start("c").unwrap();
    assert_eq!(running.finish().code, 0);
    bed.engine.remove("c").unwrap();
    bed.engine.make_ready().unwrap();
    let pid = one_that_waits(&bed);
    let running = bed.create("c", &wanted).unwrap();
    assert_eq!(running.created.pid, pid);
    bed.start("c").unwrap();
    assert_eq!(running.finish().code, 0);
    bed.engine.remove("c").unwrap();
    assert_eq!(bed.cgroups(), 0);
}

fn a_lone_container_has_nobody_waiting() {
    let bed = Bed::make();
    assert_eq!(bed.shell("exit 3").code, 3);

    bed.engine.make_ready().unwrap();

    assert!(waiting(&bed).is_empty());
    assert_eq!(bed.shell("exit 4").code, 4);
}

fn limits_hold_for_what_waited() {
    if !limits::has_controllers() {
        return;
    }
    let (bed, pid) = with_one_that_waits();
    let line = "cat /sys/fs/cgroup/pids.max; for i in 1 2 3 4; do sleep 9 & done";
    let wanted = config(&["/bin/sh", "-c", line]);
    let wanted = with(wanted, "/linux/resources", json!({"pids": {"limit": 3}}));

    let running = bed.create("c", &wanted).unwrap();

    assert_eq!(running.created.pid, pid);
    bed.start("c").unwrap();
    let outcome = running.finish();
    assert!(outcome.out.starts_with("3\n"), "{outcome:?}");
    assert_ne!(outcome.code, 0, "it could fork all the same: {outcome:?}");
    bed.engine.remove("c").unwrap();
}

fn of_two_at_once_one_becomes_what_waits() {
    let (bed, pid) = with_one_that_waits();
    let wanted = config(&["/bin/true"]);

    let running = thread::scope(|scope| {
        let create = |id| {
            let (bed, wanted) = (&bed, &wanted);
            scope.spawn(move || bed.create(id, wanted).unwrap())
        };
        [create("a"), create("b")].map(|creating| creating.join().unwrap())
    });

    let pids = running.each_ref().map(|one| one.created.pid);
    assert!(pids.contains(&pid) && pids[0] != pids[1], "{pids:?}");
    for (id, running) in ["a", "b"].into_iter().zip(running) {
        bed.start(id).unwrap();
        assert_eq!(running.finish().code, 0);
        bed.engine.remove(id).unwrap();
    }
    assert_eq!(bed.cgroups(), 0);
}

fn what_is_made_ready_twice_at_once_leaves_one() {
    let bed = Bed::make();
    for _ in 0..2 {
        assert_eq!(bed.shell("exit 3").code, 3);
    }

    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| bed.engine.make_ready().unwrap());
        }
    });

    // What one of them had too many is taken away by those that come after, once nobody is in it.
    while bed.cgroups() > 1 {
        bed.engine.make_ready().unwrap();
        thread::yield_now();
    }
    one_that_waits(&bed);
    assert_eq!(bed.shell("exit 4").code, 4);
    assert_eq!(bed.cgroups(), 0);
}

//! Limits that need controllers: these cases run in a guest only, and say so elsewhere.

use crate::bed::{Bed, config, process, wait, with};
use hutch_agent::engine::Error;
use serde_json::{Value, json};
use std::{fs, path::Path};

super::cases![
    limits_are_written_where_the_kernel_looks,
    limits_can_be_changed,
    a_process_that_takes_too_much_memory_is_known,
    more_processes_than_allowed_are_refused,
    devices_that_are_not_allowed_cannot_be_opened,
    a_limit_without_its_controller_is_named,
];

/// Whether this kernel has controllers in cgroup2; a host may keep them in the first version.
fn has_controllers() -> bool {
    let found = fs::read_to_string("/mnt/cgroup/cgroup.controllers").unwrap();
    let all = ["cpu", "memory", "pids", "cpuset"];
    let has = all
        .iter()
        .all(|one| found.split_whitespace().any(|word| word == *one));
    if !has {
        println!("    (not tried: this kernel has no controllers in cgroup2)");
    }
    has
}

fn limited(line: &str, resources: Value) -> Value {
    with(
        config(&["/bin/sh", "-c", line]),
        "/linux/resources",
        resources,
    )
}

fn limits_are_written_where_the_kernel_looks() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let resources = json!({
        "memory": {"limit": 67_108_864, "reservation": 33_554_432},
        "cpu": {"shares": 2048, "quota": 50_000, "period": 100_000, "cpus": "0"},
        "pids": {"limit": 99},
        "unified": {"memory.high": "50331648"},
    });

    let running = bed.create("c", &limited("true", resources)).unwrap();

    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.high", "50331648"),
        ("cpu.max", "50000 100000"),
        ("cpuset.cpus", "0"),
        ("pids.max", "99"),
    ] {
        assert_eq!(
            bed.engine.cgroup_file("c", file).unwrap().trim(),
            value,
            "{file}"
        );
    }
    let weight: u64 = bed
        .engine
        .cgroup_file("c", "cpu.weight")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(weight > 100, "{weight}");
    assert_eq!(running.created.warnings, Vec::<String>::new());
    bed.engine.remove("c").unwrap();
}

fn limits_can_be_changed() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let running = bed.create("c", &config(&["/bin/cat"])).unwrap();
    bed.engine.start("c").unwrap();

    let warnings = bed
        .engine
        .update(
            "c",
            br#"{"memory":{"limit":50331648},"pids":{"limit":7},"shoes":1}"#,
        )
        .unwrap();
    let refused = bed
        .engine
        .update("c", br#"{"cpu":{"cpus":"999"}}"#)
        .unwrap_err();

    assert_eq!(warnings, ["resources: shoes: not a known key, ignored"]);
    assert_eq!(
        bed.engine.cgroup_file("c", "memory.max").unwrap(),
        "50331648\n"
    );
    assert_eq!(bed.engine.cgroup_file("c", "pids.max").unwrap(), "7\n");
    assert!(
        refused
            .to_string()
            .starts_with("set cpuset.cpus to \"999\""),
        "{refused}"
    );
    assert_eq!(running.finish().code, 0);
    bed.engine.remove("c").unwrap();
}

fn a_process_that_takes_too_much_memory_is_known() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let resources = json!({"memory": {"limit": 8_388_608, "swap": 8_388_608}});
    let running = bed.create("c", &limited("read x", resources)).unwrap();
    bed.engine.start("c").unwrap();
    assert_eq!(bed.engine.oom_kills("c").unwrap(), 0);
    let watch = bed.engine.oom_watch("c").unwrap();

    // One block of 32 MiB, in memory.
    let hungry = process(&[
        "/bin/dd",
        "if=/dev/zero",
        "of=/dev/null",
        "bs=32M",
        "count=1",
    ]);
    let hungry = bed.exec("c", "e", &hungry).unwrap();
    let code = wait(&hungry.created);
    let mut polled = [rustix::event::PollFd::new(
        &watch,
        rustix::event::PollFlags::PRI,
    )];
    let told = rustix::event::poll(&mut polled, None).unwrap();

    assert_eq!((code, told), (137, 1));
    assert_eq!(bed.engine.oom_kills("c").unwrap(), 1);
    assert_eq!(running.finish().code, 1);
    bed.engine.remove("c").unwrap();
}

fn more_processes_than_allowed_are_refused() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();

    let outcome = bed.run(&limited(
        "for i in 1 2 3 4 5 6; do sleep 1000 & done; echo no",
        json!({"pids": {"limit": 4}}),
    ));

    assert!(outcome.err.contains("can't fork"), "{outcome:?}");
}

fn devices_that_are_not_allowed_cannot_be_opened() {
    let bed = Bed::make();
    let line = "mknod /dev/loops c 10 237 || exit 9; cat /dev/loops 2>&1 | head -n 1 | cut -c 1-60; \
                head -c 1 /dev/zero | wc -c; echo x >/dev/null && echo null";
    let config = with(
        config(&["/bin/sh", "-c", line]),
        "/linux/resources",
        json!({}),
    );
    // The kernel asks for CAP_SYSLOG where its log is for some only.
    let list = json!(["CAP_MKNOD", "CAP_DAC_OVERRIDE", "CAP_SYSLOG"]);
    let config = with(
        config,
        "/process/capabilities",
        json!({"bounding": list, "effective": list, "permitted": list}),
    );
    let denied = json!({"devices": [{"allow": false, "access": "rwm"}]});
    let allowed = json!({"devices": [
        {"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 237, "access": "r"},
    ]});

    let without = bed.run(&with(config.clone(), "/linux/resources", denied));
    let with_it = bed.run(&with(config, "/linux/resources", allowed));

    assert_eq!(
        without.out, "cat: can't open '/dev/loops': Operation not permitted\n1\nnull\n",
        "{without:?}"
    );
    assert!(!with_it.out.contains("can't open"), "{with_it:?}");
}

fn a_limit_without_its_controller_is_named() {
    let bed = Bed::make();
    let with_it = Path::new("/mnt/cgroup/cgroup.controllers");
    assert!(with_it.exists());

    let resources = json!({"unified": {"shoes.max": "2"}});
    let refused = bed.create("c", &limited("true", resources)).err().unwrap();

    assert!(matches!(refused, Error::Io { .. }));
    assert_eq!(refused.to_string(), r#"set shoes.max to "2""#);
    assert_eq!(bed.cgroups(), 0);
}

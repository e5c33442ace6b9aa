//! Limits that need controllers: these cases run in a guest only, and say so elsewhere.

use crate::{
    bed::{Bed, Running, chain, config, disk, process, wait, with},
    guest,
};
use hutch_agent::engine::Error;
use serde_json::{Value, json};
use std::{fs, path::Path};

super::cases![
    limits_are_written_where_the_kernel_looks,
    limits_can_be_changed,
    what_an_update_leaves_out_stays,
    an_update_that_fails_changes_nothing,
    a_limit_below_what_is_in_use_is_refused_and_kills_nobody,
    what_can_be_given_back_is_no_obstacle_to_a_lower_limit,
    what_a_container_uses_can_be_read,
    a_process_that_takes_too_much_memory_is_known,
    more_processes_than_allowed_are_refused,
    an_exec_is_let_in_where_no_process_may_be_made_any_more,
    an_exec_is_where_the_init_is_once_processes_are_to_be_below,
    devices_that_are_not_allowed_cannot_be_opened,
    a_limit_without_its_controller_is_named,
    names_of_the_first_version_become_those_of_the_second,
    a_container_can_be_idle_and_no_longer,
    the_hosts_name_for_a_cgroup_is_nothing_to_the_guest,
    block_devices_and_huge_pages_are_limited,
    a_weight_for_one_device_is_a_warning,
    limits_of_block_devices_and_huge_pages_can_be_changed,
    an_update_that_fails_changes_no_block_device_and_no_huge_pages,
];

/// Whether this kernel has controllers in cgroup2; a host may keep them in the first version.
pub fn has_controllers() -> bool {
    let found = fs::read_to_string("/mnt/cgroup/cgroup.controllers").unwrap();
    let all = ["cpu", "memory", "pids", "cpuset"];
    let has = all
        .iter()
        .all(|one| found.split_whitespace().any(|word| word == *one));
    if !has {
        assert!(!guest::is_here(), "only {found:?} in a guest");
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
    bed.start("c").unwrap();

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
    assert_eq!(
        refused.to_string(),
        r#"linux.resources.cpu.cpus: "999": the guest has no cpu 999, only 0"#
    );
    assert_eq!(running.finish().code, 0);
    bed.engine.remove("c").unwrap();
}

fn settings(bed: &Bed) -> Vec<String> {
    let files = [
        "memory.max",
        "memory.low",
        "cpu.max",
        "cpu.max.burst",
        "cpu.weight",
        "cpuset.cpus",
        "pids.max",
        "io.max",
    ];
    let read = |file: &&str| bed.engine.cgroup_file("c", file).unwrap();
    files.iter().map(read).collect()
}

fn what_an_update_leaves_out_stays() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let resources = json!({
        "memory": {"limit": 67_108_864},
        "cpu": {"shares": 2048, "quota": 50_000, "period": 200_000, "cpus": "0"},
        "pids": {"limit": 99},
    });
    let running = bed.create("c", &limited("read x", resources)).unwrap();
    bed.start("c").unwrap();
    let before = settings(&bed);

    bed.engine.update("c", b"{}").unwrap();
    let nothing = settings(&bed);
    bed.engine
        .update("c", br#"{"cpu":{"period":100000}}"#)
        .unwrap();
    let period = bed.engine.cgroup_file("c", "cpu.max").unwrap();
    bed.engine
        .update("c", br#"{"cpu":{"quota":30000,"burst":1000}}"#)
        .unwrap();
    bed.engine
        .update("c", br#"{"cpu":{"quota":2000,"burst":1500}}"#)
        .unwrap();

    assert_eq!(nothing, before);
    assert_eq!(period, "50000 100000\n");
    let now = settings(&bed);
    assert_eq!(
        (now[2].as_str(), now[3].as_str()),
        ("2000 100000\n", "1500\n")
    );
    assert_eq!((&now[0], &now[4..]), (&before[0], &before[4..]));
    assert_eq!(running.finish().code, 1);
    bed.engine.remove("c").unwrap();
}

fn an_update_that_fails_changes_nothing() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let resources = json!({"memory": {"limit": 67_108_864}, "cpu": {"quota": 50_000}});
    let running = bed.create("c", &limited("read x", resources)).unwrap();
    bed.start("c").unwrap();
    let before = settings(&bed);
    let wishes = |last: Value| {
        json!({
            "memory": {"limit": 50_331_648, "reservation": 4096},
            "cpu": {"quota": 20_000, "period": 40_000, "shares": 9, "cpus": "0"},
            "pids": {"limit": 3},
            "unified": last,
        })
        .to_string()
    };

    for (last, refusal) in [
        (
            json!({"pids.max": "shoes"}),
            r#"set pids.max to "shoes": invalid argument"#,
        ),
        (
            json!({"shoes.max": "1"}),
            r#"set shoes.max to "1": no such file or directory"#,
        ),
    ] {
        let refused = bed.engine.update("c", wishes(last).as_bytes()).unwrap_err();

        assert_eq!(chain(&refused), refusal);
        assert_eq!(settings(&bed), before);
    }
    assert_eq!(running.finish().code, 1);
    bed.engine.remove("c").unwrap();
}

fn a_limit_below_what_is_in_use_is_refused_and_kills_nobody() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let line = "mkdir -p /tmp/m; mount -t tmpfs m /tmp/m; \
                dd if=/dev/zero of=/tmp/m/x bs=1M count=16 2>/dev/null; echo up; read x; echo alive";
    let list = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE"]);
    let config = with(
        config(&["/bin/sh", "-c", line]),
        "/process/capabilities",
        json!({"bounding": list, "effective": list, "permitted": list}),
    );
    let running = bed.create("c", &config).unwrap();
    bed.start("c").unwrap();
    running.expect("up\n");

    let refused = bed
        .engine
        .update("c", br#"{"memory":{"limit":4194304},"pids":{"limit":3}}"#)
        .unwrap_err();

    assert!(
        matches!(refused, Error::Busy { limit: 4_194_304, in_use, .. } if in_use > 16 << 20),
        "{refused:?}"
    );
    assert!(
        refused.to_string().ends_with("device or resource busy"),
        "{refused}"
    );
    assert_eq!(bed.engine.cgroup_file("c", "memory.max").unwrap(), "max\n");
    assert_eq!(bed.engine.cgroup_file("c", "pids.max").unwrap(), "max\n");
    assert_eq!(bed.engine.oom_kills("c").unwrap(), 0);
    let outcome = running.finish();
    assert_eq!(outcome.out, "up\nalive\n", "{outcome:?}");
    bed.engine.remove("c").unwrap();
}

/// Pages of a file on a disk, which the kernel keeps until somebody wants them.
fn what_can_be_given_back_is_no_obstacle_to_a_lower_limit() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let disk = disk(&bed.outside());
    fs::write(disk.join("x"), vec![7; 8 << 20]).unwrap();
    rustix::fs::sync();
    // Whoever reads them first has them on account, and that is to be the container.
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    let config = with(
        config(&["/bin/sh", "-c", "cat /disk/x | wc -c; read x; echo alive"]),
        "/mounts/-",
        json!({"destination": "/disk", "source": disk, "options": ["bind", "ro"]}),
    );
    let running = bed.create("c", &config).unwrap();
    bed.start("c").unwrap();
    running.expect("8388608\n");
    let used = || -> u64 {
        let text = bed.engine.cgroup_file("c", "memory.current").unwrap();
        text.trim().parse().unwrap()
    };
    let before = used();

    bed.engine
        .update("c", br#"{"memory":{"limit":4194304}}"#)
        .unwrap();

    assert!(before > 8 << 20, "{before}");
    assert!(used() <= 4 << 20, "{}", used());
    assert_eq!(bed.engine.oom_kills("c").unwrap(), 0);
    assert_eq!(running.finish().out, "8388608\nalive\n");
    bed.engine.remove("c").unwrap();
}

fn what_a_container_uses_can_be_read() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let running = bed.create("c", &config(&["/bin/cat"])).unwrap();
    bed.start("c").unwrap();

    let stats = bed.engine.stats("c").unwrap();

    for file in [
        "cpu.stat",
        "memory.current",
        "memory.max",
        "memory.peak",
        "memory.stat",
        "memory.events",
        "memory.swap.current",
        "memory.swap.max",
        "pids.current",
        "pids.max",
        "io.stat",
        "hugetlb.2MB.current",
        "hugetlb.2MB.events",
        "cpu.pressure",
        "memory.pressure",
        "io.pressure",
    ] {
        assert!(stats.contains_key(file), "{file}: {:?}", stats.keys());
    }
    assert!(stats.keys().all(|file| !file.starts_with("cgroup.")));
    assert_eq!(stats["pids.current"], "1\n");
    assert!(stats["cpu.stat"].starts_with("usage_usec "));
    assert!(stats["memory.current"].trim().parse::<u64>().unwrap() > 0);
    assert_eq!(running.finish().code, 0);
    assert!(
        bed.engine.stats("c").is_ok(),
        "what it used is known until it is removed"
    );
    bed.engine.remove("c").unwrap();
    assert!(matches!(
        bed.engine.stats("c"),
        Err(Error::NoContainer { .. })
    ));
}

fn a_process_that_takes_too_much_memory_is_known() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let resources = json!({"memory": {"limit": 8_388_608, "swap": 8_388_608}});
    let running = bed.create("c", &limited("read x", resources)).unwrap();
    bed.start("c").unwrap();
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
    assert_eq!(bed.engine.remove("c").unwrap(), 1, "known to the last");
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

fn an_exec_is_let_in_where_no_process_may_be_made_any_more() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let running = bed.create("c", &config(&["/bin/cat"])).unwrap();
    bed.start("c").unwrap();
    let limit = json!({"pids": {"limit": 1}}).to_string();
    bed.engine.update("c", limit.as_bytes()).unwrap();
    let line = "read own </proc/self/cgroup; echo $own; read word; /bin/true; echo no";

    let exec = bed
        .exec("c", "e", &process(&["/bin/sh", "-c", line]))
        .unwrap();
    let (pid, pids) = (exec.created.pid, bed.engine.pids("c").unwrap());
    let outcome = exec.finish();

    assert!(pids.contains(&pid), "{pid}: {pids:?}");
    // It is in the cgroup, and makes no more processes than others there.
    assert_eq!(outcome.out, "0::/\n", "{outcome:?}");
    assert!(outcome.err.contains("can't fork"), "{outcome:?}");
    bed.engine.remove("c").unwrap();
    assert_eq!(running.finish().code, 137);
}

/// As systemd does it, and whoever runs containers in a container.
fn an_exec_is_where_the_init_is_once_processes_are_to_be_below() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let running = bed.create("c", &config(&["/bin/cat"])).unwrap();
    bed.start("c").unwrap();
    let own = bed.cgroup();
    fs::create_dir_all(own.join("init.scope/inner")).unwrap();
    let init = running.created.pid.to_string();
    let place = || {
        let grep = process(&["/bin/grep", "^0:", "/proc/self/cgroup"]);
        let made = bed.exec("c", "e", &grep);
        let outcome = made.map(Running::finish).map_err(|why| chain(&why));
        if outcome.is_ok() {
            bed.engine.forget("c", "e").unwrap();
        }
        outcome
    };

    for below in ["init.scope", "init.scope/inner"] {
        fs::write(own.join(below).join("cgroup.procs"), &init).unwrap();
        fs::write(own.join("cgroup.subtree_control"), "+pids").unwrap();
        let outcome = place().unwrap();
        assert_eq!(outcome.out, format!("0::/{below}\n"), "{outcome:?}");
    }
    bed.engine.update("c", br#"{"pids":{"limit":9}}"#).unwrap();
    assert_eq!(bed.engine.cgroup_file("c", "pids.max").unwrap(), "9\n");
    let stats = bed.engine.stats("c").unwrap();
    assert_eq!(stats["pids.current"].trim(), "1");
    // Whoever names a place gets that or none.
    fs::write(own.join("init.scope/cgroup.subtree_control"), "+pids").unwrap();
    for taken in [".", "init.scope"] {
        let refused = bed.exec_in(taken, "c", "e", &process(&["/bin/true"]));
        assert_eq!(
            chain(&refused.unwrap_err()),
            "enter the container's cgroup: device or resource busy"
        );
    }
    bed.engine.remove("c").unwrap();
    assert_eq!(running.finish().code, 137);
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
    let refused = bed.create("c", &limited("true", resources)).unwrap_err();

    assert!(matches!(refused, Error::Io { .. }));
    assert_eq!(refused.to_string(), r#"set shoes.max to "2""#);
    assert_eq!(bed.cgroups(), 0);
}

fn names_of_the_first_version_become_those_of_the_second() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let resources = json!({
        "memory": {"limit": 67_108_864, "swap": 134_217_728, "reservation": 1_048_576,
            "kernel": 9, "kernelTCP": 9, "swappiness": 60, "disableOOMKiller": true,
            "useHierarchy": true, "checkBeforeUpdate": true},
        "cpu": {"shares": 1024, "quota": -1, "period": 50_000, "realtimeRuntime": 5,
            "realtimePeriod": 10, "mems": "0", "idle": 0},
        "network": {"classID": 7, "priorities": [{"name": "eth0", "priority": 1}]},
        "pids": {"limit": -1},
    });

    let running = bed.create("c", &limited("true", resources)).unwrap();

    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.swap.max", "67108864"),
        ("memory.low", "1048576"),
        ("cpu.weight", "100"),
        ("cpu.max", "max 50000"),
        ("cpu.idle", "0"),
        ("cpuset.mems", "0"),
        ("pids.max", "max"),
    ] {
        let found = bed.engine.cgroup_file("c", file).unwrap();
        assert_eq!(found.trim(), value, "{file}");
    }
    let warnings: Vec<&str> = running
        .created
        .warnings
        .iter()
        .map(|warning| warning.split(':').next().unwrap())
        .collect();
    assert_eq!(
        warnings,
        [
            "linux.resources.memory.swappiness",
            "linux.resources.memory.kernel",
            "linux.resources.memory.kernelTCP",
            "linux.resources.memory.disableOOMKiller",
            "linux.resources.cpu.realtime*",
            "linux.resources.network",
        ]
    );
    bed.engine.remove("c").unwrap();
}

fn a_container_can_be_idle_and_no_longer() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let idle = json!({"cpu": {"idle": 1}});
    let running = bed.create("c", &limited("read x", idle)).unwrap();
    bed.start("c").unwrap();
    let file = |name| bed.engine.cgroup_file("c", name).unwrap();
    let first = file("cpu.idle");

    bed.engine
        .update("c", br#"{"cpu":{"idle":0,"shares":1024}}"#)
        .unwrap();
    let busy = (file("cpu.idle"), file("cpu.weight"));
    bed.engine.update("c", br#"{"cpu":{"idle":1}}"#).unwrap();

    assert_eq!(first, "1\n");
    assert_eq!(busy, ("0\n".to_owned(), "100\n".to_owned()));
    assert_eq!(file("cpu.idle"), "1\n");
    assert_eq!(running.finish().code, 1);
    bed.engine.remove("c").unwrap();
}

fn the_hosts_name_for_a_cgroup_is_nothing_to_the_guest() {
    let bed = Bed::make();

    for path in ["/machine/one", "machine.slice:engine:one", "../../up"] {
        let config = config(&["/bin/grep", "^0:", "/proc/self/cgroup"]);
        let config = with(config, "/linux/cgroupsPath", json!(path));
        let running = bed.create("c", &config).unwrap();
        let cgroups = bed.cgroups();
        let warnings = running.created.warnings.clone();
        bed.start("c").unwrap();
        let outcome = running.finish();
        bed.engine.remove("c").unwrap();

        assert_eq!(cgroups, 1, "{path}");
        assert_eq!(warnings, Vec::<String>::new(), "{path}");
        assert_eq!(outcome.out, "0::/\n", "{path}: {outcome:?}");
    }
}

/// Of the device under the only disk.
fn number_of_disk() -> String {
    let number = fs::read_to_string("/sys/block/loop0/dev").unwrap();
    number.trim().to_owned()
}

fn throttle(number: &str, rate: u64) -> Value {
    let (major, minor) = number.split_once(':').unwrap();
    let number = |text: &str| text.parse::<u32>().unwrap();
    json!([{"major": number(major), "minor": number(minor), "rate": rate}])
}

fn block_devices_and_huge_pages_are_limited() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let _disk = disk(&bed.outside());
    let number = number_of_disk();
    let device = |rate| throttle(&number, rate);
    let resources = json!({
        "blockIO": {
            "weight": 500,
            "throttleReadBpsDevice": device(1_048_576),
            "throttleWriteBpsDevice": device(2_097_152),
            "throttleReadIOPSDevice": device(100),
            "throttleWriteIOPSDevice": device(200),
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
    });

    let running = bed.create("c", &limited("true", resources)).unwrap();
    let refused = bed
        .create(
            "d",
            &limited(
                "true",
                json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}),
            ),
        )
        .err()
        .unwrap();

    assert_eq!(
        bed.engine.cgroup_file("c", "io.max").unwrap(),
        format!("{number} rbps=1048576 wbps=2097152 riops=100 wiops=200\n")
    );
    assert_eq!(
        bed.engine.cgroup_file("c", "io.weight").unwrap(),
        "default 4950\n"
    );
    assert_eq!(
        bed.engine.cgroup_file("c", "hugetlb.2MB.max").unwrap(),
        "4194304\n"
    );
    assert_eq!(refused.to_string(), r#"set hugetlb.3MB.max to "1""#);
    assert_eq!(running.created.warnings, Vec::<String>::new());
    bed.engine.remove("c").unwrap();
}

fn a_weight_for_one_device_is_a_warning() {
    let bed = Bed::make();
    let device = json!([{"major": 8, "minor": 0, "weight": 500}]);
    let config = limited("true", json!({"blockIO": {"weightDevice": device}}));

    let running = bed.create("c", &config).unwrap();

    let due =
        "linux.resources.blockIO.weightDevice: the guest's kernel weighs no device apart, ignored";
    assert_eq!(running.created.warnings, [due]);
    bed.engine.remove("c").unwrap();
}

/// Limits of block devices and of huge pages.
fn of_devices(bed: &Bed) -> [String; 4] {
    let files = [
        "io.max",
        "io.weight",
        "hugetlb.2MB.max",
        "hugetlb.2MB.rsvd.max",
    ];
    files.map(|file| bed.engine.cgroup_file("c", file).unwrap())
}

fn limits_of_block_devices_and_huge_pages_can_be_changed() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let _disk = disk(&bed.outside());
    let number = number_of_disk();
    let device = |rate| throttle(&number, rate);
    let resources = json!({
        "blockIO": {
            "weight": 500,
            "throttleReadBpsDevice": device(1_048_576),
            "throttleWriteBpsDevice": device(2_097_152),
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
    });
    let running = bed.create("c", &limited("read x", resources)).unwrap();
    bed.start("c").unwrap();
    let wishes = json!({
        "blockIO": {
            "weight": 100,
            "throttleReadBpsDevice": device(0),
            "throttleWriteIOPSDevice": device(200),
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 8_388_608}],
    });

    let warnings = bed
        .engine
        .update("c", wishes.to_string().as_bytes())
        .unwrap();

    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(
        of_devices(&bed),
        [
            format!("{number} rbps=max wbps=2097152 riops=max wiops=200\n"),
            "default 910\n".to_owned(),
            "8388608\n".to_owned(),
            "8388608\n".to_owned(),
        ]
    );
    assert_eq!(running.finish().code, 1);
    bed.engine.remove("c").unwrap();
}

fn an_update_that_fails_changes_no_block_device_and_no_huge_pages() {
    if !has_controllers() {
        return;
    }
    let bed = Bed::make();
    let _disk = disk(&bed.outside());
    let number = number_of_disk();
    let running = bed.create("c", &limited("read x", json!({}))).unwrap();
    bed.start("c").unwrap();
    let wishes = |rate: u64, unified: Value| {
        json!({
            "blockIO": {
                "weight": rate / 10_000,
                "throttleReadBpsDevice": throttle(&number, rate),
                "throttleWriteIOPSDevice": throttle(&number, rate),
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": rate / 1_000_000 * 2_097_152}],
            "unified": unified,
        })
        .to_string()
    };
    let mut seen = Vec::new();

    // With nothing limited before, and with limits.
    for rate in [3_000_000, 5_000_000] {
        let before = of_devices(&bed);
        let refused = bed
            .engine
            .update(
                "c",
                wishes(rate + 1_000_000, json!({"pids.max": "shoes"})).as_bytes(),
            )
            .unwrap_err();

        assert_eq!(
            chain(&refused),
            r#"set pids.max to "shoes": invalid argument"#
        );
        assert_eq!(of_devices(&bed), before);
        bed.engine
            .update("c", wishes(rate, json!({})).as_bytes())
            .unwrap();
        seen.push(before);
    }

    assert_eq!(seen[0], ["", "default 100\n", "max\n", "max\n"]);
    assert_eq!(
        seen[1],
        [
            &format!("{number} rbps=3000000 wbps=max riops=max wiops=3000000\n"),
            "default 2930\n",
            "6291456\n",
            "6291456\n"
        ]
    );
    assert_eq!(running.finish().code, 1);
    bed.engine.remove("c").unwrap();
}

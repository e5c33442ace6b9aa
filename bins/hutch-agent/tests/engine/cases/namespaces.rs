//! What a container shares, and with whom.

use crate::{
    bed::{Bed, config, process, with},
    clocks,
};
use hutch_agent::engine::{NamespaceFrom, NamespaceKind};
use serde_json::{Value, json};
use std::{fs, path::Path};

super::cases![
    a_container_has_its_own_but_the_network,
    a_neighbours_namespaces_are_shared,
    the_guests_namespaces_can_be_kept,
    a_neighbour_that_is_not_there_is_named,
    a_user_namespace_maps_its_ids,
    a_user_namespace_goes_with_the_usual_mounts,
    the_guests_sysfs_stays_read_only_whatever_a_container_with_its_own_ids_may_do,
    a_hostname_without_a_namespace_is_refused,
    a_time_namespace_has_its_own_clocks,
    a_time_namespace_is_seen_without_asking_the_kernel,
    what_is_mounted_inside_stays_inside,
];

const KINDS: [&str; 6] = ["pid", "uts", "ipc", "mnt", "cgroup", "net"];

/// The kernel's names of a process's namespaces.
fn namespaces_of(bed: &Bed, config: &serde_json::Value) -> Vec<String> {
    let outcome = bed.run(config);
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.out.lines().map(str::to_owned).collect()
}

fn readlinks() -> Vec<String> {
    KINDS.map(|kind| format!("/proc/self/ns/{kind}")).to_vec()
}

fn ours() -> Vec<String> {
    readlinks()
        .iter()
        .map(|path| fs::read_link(path).unwrap().to_str().unwrap().to_owned())
        .collect()
}

fn prints_namespaces() -> serde_json::Value {
    let line = readlinks()
        .iter()
        .map(|path| format!("readlink {path};"))
        .collect::<String>();
    config(&["/bin/sh", "-c", &line])
}

fn a_container_has_its_own_but_the_network() {
    let bed = Bed::make();

    let theirs = namespaces_of(&bed, &prints_namespaces());
    let shell = bed.shell("echo $$; hostname; ls /proc | grep -c '^[0-9]'; cat /proc/self/cgroup");

    for ((kind, theirs), ours) in KINDS.iter().zip(theirs).zip(ours()) {
        assert_eq!(theirs == ours, *kind == "net", "{kind}");
    }
    let lines: Vec<&str> = shell.out.lines().collect();
    assert_eq!(lines[..2], ["1", "bed"]);
    assert!(lines[2].parse::<u32>().unwrap() <= 3, "{lines:?}");
    assert!(lines.contains(&"0::/"), "{lines:?}");
}

fn a_neighbours_namespaces_are_shared() {
    let bed = Bed::make();
    let pod = bed.create("pod", &config(&["/bin/cat"])).unwrap();
    bed.start("pod").unwrap();
    let of_pod = bed
        .exec("pod", "e", &prints_namespaces()["process"])
        .unwrap()
        .finish();
    let mut plan = bed.plan("c", &with(prints_namespaces(), "/hostname", json!("other")));
    for kind in [NamespaceKind::Pid, NamespaceKind::Uts, NamespaceKind::Ipc] {
        plan.namespaces
            .insert(kind, NamespaceFrom::Container("pod".to_owned()));
    }

    let running = bed.create_as_planned(plan).unwrap();
    bed.start("c").unwrap();
    let outcome = running.finish();
    let hostname = bed
        .exec("pod", "h", &process(&["/bin/hostname"]))
        .unwrap()
        .finish();

    let (of_pod, of_container): (Vec<&str>, Vec<&str>) =
        (of_pod.out.lines().collect(), outcome.out.lines().collect());
    assert_eq!(of_pod.len(), KINDS.len());
    for (kind, (one, other)) in KINDS.iter().zip(of_pod.iter().zip(&of_container)) {
        assert_eq!(one == other, !matches!(*kind, "mnt" | "cgroup"), "{kind}");
    }
    assert_eq!(hostname.out, "other\n");
    bed.engine.remove("c").unwrap();
    bed.engine.remove("pod").unwrap();
    assert_eq!(pod.finish().code, 137);
}

fn the_guests_namespaces_can_be_kept() {
    let bed = Bed::make();
    let config = with(prints_namespaces(), "/hostname", json!(""));
    let mut plan = bed.plan("c", &config);
    for kind in [NamespaceKind::Pid, NamespaceKind::Uts, NamespaceKind::Ipc] {
        plan.namespaces.insert(kind, NamespaceFrom::Guest);
    }

    let running = bed.create_as_planned(plan).unwrap();
    let exec = bed.exec("c", "e", &config["process"]).unwrap();
    bed.start("c").unwrap();

    let (init, exec) = (running.finish().out, exec.finish().out);
    assert_eq!(init.lines().take(3).collect::<Vec<_>>(), ours()[..3]);
    assert_eq!(init, exec);
    bed.engine.remove("c").unwrap();
}

fn a_neighbour_that_is_not_there_is_named() {
    let bed = Bed::make();
    let mut plan = bed.plan("c", &config(&["/bin/true"]));
    plan.namespaces.insert(
        NamespaceKind::Pid,
        NamespaceFrom::Container("pod".to_owned()),
    );

    let refused = bed.create_as_planned(plan).unwrap_err();

    assert_eq!(refused.to_string(), r#"container "pod" does not exist"#);
    assert_eq!(bed.cgroups(), 0);
}

/// Its ids are others in the guest.
fn of_its_own(config: Value) -> Value {
    let map = |first: u32| json!([{"containerID": 0, "hostID": first, "size": 65_536}]);
    let config = with(config, "/linux/namespaces/-", json!({"type": "user"}));
    let config = with(config, "/linux/uidMappings", map(100_000));
    with(config, "/linux/gidMappings", map(200_000))
}

fn a_user_namespace_goes_with_the_usual_mounts() {
    let bed = Bed::make();
    // No folder of another container, as there is one for each in the guest's.
    let line = "grep -E ' /sys(/fs/cgroup)? ' /proc/mounts | cut -d ' ' -f 1-4 | cut -d , -f 1-4; \
                ls -d /sys/class/net/lo; grep ^0: /proc/self/cgroup; ls -d /sys/fs/cgroup/*/; \
                touch /sys/fs/cgroup/x /sys/x";
    let config = of_its_own(config(&["/bin/sh", "-c", line]));
    // Such as a host without cgroups of the second version asks for.
    let mut alike = config.clone();
    let namespaces = alike["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|one| one["type"] != "cgroup");

    for config in [config, alike] {
        let outcome = bed.run(&config);

        let lines: Vec<&str> = outcome.out.lines().collect();
        assert_eq!(
            lines,
            [
                "sysfs /sys sysfs ro,nosuid,nodev,noexec",
                "cgroup /sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec",
                "/sys/class/net/lo",
                "0::/",
            ],
            "{outcome:?}"
        );
        assert!(outcome.err.contains("Read-only file system"), "{outcome:?}");
    }
}

fn the_guests_sysfs_stays_read_only_whatever_a_container_with_its_own_ids_may_do() {
    let bed = Bed::make();
    let line = "mount -o remount,bind,rw /sys; mount -t sysfs none /tmp; \
                mkdir /tmp/s; mount --bind /sys /tmp/s; mount -o remount,bind,rw /tmp/s; \
                grep sysfs /proc/mounts | cut -d ' ' -f 2,4 | cut -d , -f 1";
    let config = of_its_own(config(&["/bin/sh", "-c", line]));
    let all = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_SYS_CHROOT"]);
    let sets = json!({"bounding": all, "effective": all, "permitted": all});
    let config = with(config, "/process/capabilities", sets);
    // Its ids are those of the guest.
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
    let config = with(config, "/linux/uidMappings", map.clone());
    let config = with(config, "/linux/gidMappings", map);
    let mut writable = config.clone();
    for mount in writable["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "sysfs" {
            mount["options"] = json!(["rw"]);
        }
    }

    for config in [config, writable] {
        let outcome = bed.run(&config);

        assert!(
            matches!(outcome.out.as_str(), "/sys ro\n" | "/sys ro\n/tmp/s ro\n"),
            "{outcome:?}"
        );
        assert!(outcome.err.contains("ermi"), "{outcome:?}");
    }
}

fn a_user_namespace_maps_its_ids() {
    let bed = Bed::make();
    let line = "id -u; id -g; cut -d ' ' -f 1- /proc/self/uid_map; stat -c %u /etc/passwd; \
                echo x >/dev/null && echo null; touch /dev/shm/x && stat -c %u /dev/shm/x";
    let config = config(&["/bin/sh", "-c", line]);
    let namespaces = json!([
        {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "user"},
        {"type": "cgroup"},
    ]);
    let config = with(config, "/linux/namespaces", namespaces);
    let config = with(
        config,
        "/linux/uidMappings",
        json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]),
    );
    let config = with(
        config,
        "/linux/gidMappings",
        json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]),
    );

    let running = bed.create("c", &config).unwrap();
    let exec = bed.exec("c", "e", &process(&["/bin/id", "-u"])).unwrap();
    bed.start("c").unwrap();
    let outcome = running.finish();

    assert_eq!(exec.finish().out, "0\n");
    let words: Vec<&str> = outcome.out.split_whitespace().collect();
    assert_eq!(
        words,
        ["0", "0", "0", "100000", "65536", "65534", "null", "0"],
        "{outcome:?}"
    );
    bed.engine.remove("c").unwrap();
}

fn a_hostname_without_a_namespace_is_refused() {
    let bed = Bed::make();

    let config = with(
        config(&["/bin/true"]),
        "/linux/namespaces",
        json!([{"type": "mount"}]),
    );

    assert_eq!(
        bed.refusal(&config),
        "hostname: cannot be set without a uts namespace"
    );
}

fn a_time_namespace_has_its_own_clocks() {
    let bed = Bed::make();
    let config = config(&["/bin/sh", "-c", "cat /proc/uptime; cat"]);
    let config = with(config, "/linux/namespaces/-", json!({"type": "time"}));
    let config = with(
        config,
        "/linux/timeOffsets",
        json!({"boottime": {"secs": 1_000_000}}),
    );

    let running = bed.create("c", &config).unwrap();
    bed.start("c").unwrap();
    let exec = bed
        .exec("c", "e", &process(&["/bin/cat", "/proc/uptime"]))
        .unwrap()
        .finish();
    let init = running.finish();

    for outcome in [init, exec] {
        let seconds: f64 = outcome.out.split(' ').next().unwrap().parse().unwrap();
        assert!(seconds > 1_000_000.0, "{outcome:?}");
    }
    bed.engine.remove("c").unwrap();
}

/// Seconds of the monotonic clock and of that since boot, of an init and of an exec.
fn clocks_in(bed: &Bed, config: &serde_json::Value) -> [Vec<i64>; 2] {
    let running = bed.create("c", config).unwrap();
    bed.start("c").unwrap();
    running.expect("started");
    let mut again = config["process"].clone();
    again["args"] = json!(["/bin/clocks"]);
    let exec = bed.exec("c", "e", &again).unwrap().finish();
    let init = running.finish();
    bed.engine.remove("c").unwrap();
    [init, exec].map(|outcome| {
        let lines = outcome.out.lines().filter(|line| *line != "started");
        lines
            .map(|line| line.parse().unwrap_or_else(|_| panic!("{outcome:?}")))
            .collect()
    })
}

/// Most programs read clocks from a page that the kernel maps into them, and some may not call it.
fn a_time_namespace_is_seen_without_asking_the_kernel() {
    let bed = Bed::make();
    fs::copy("/proc/self/exe", bed.rootfs().join("bin/clocks")).unwrap();
    let config = config(&["/bin/sh", "-c", "echo started; cat; exec /bin/clocks"]);
    // What it was linked with, where there is such a thing.
    let libraries = ["/lib", "/lib64", "/usr/lib"];
    let libraries = libraries.iter().filter(|path| Path::new(path).exists());
    let config = libraries.fold(config, |config, path| {
        let mount = json!({"destination": path, "source": path, "options": ["rbind", "ro"]});
        with(config, "/mounts/-", mount)
    });
    let asking = |config, way: &str| {
        with(
            config,
            "/process/env/-",
            json!(format!("{}={way}", clocks::ASKED)),
        )
    };
    let forbidden = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["clock_gettime"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
    let silent = with(
        asking(config.clone(), "library"),
        "/linux/seccomp",
        forbidden,
    );
    let away = |config| {
        let config = with(config, "/linux/namespaces/-", json!({"type": "time"}));
        let offsets = json!({"monotonic": {"secs": 3_000_000}, "boottime": {"secs": 5_000_000}});
        with(config, "/linux/timeOffsets", offsets)
    };

    let here = clocks_in(&bed, &silent);
    let there = clocks_in(&bed, &away(silent));
    let by_the_kernel = clocks_in(&bed, &away(asking(config, "kernel")));

    for process in 0..2 {
        for (clock, offset) in [(0, 3_000_000), (1, 5_000_000)] {
            let passed = there[process][clock] - offset - here[process][clock];
            assert!((0..60).contains(&passed), "{here:?} {there:?}");
            let passed = by_the_kernel[process][clock] - there[process][clock];
            assert!((0..60).contains(&passed), "{there:?} {by_the_kernel:?}");
        }
    }
}

fn what_is_mounted_inside_stays_inside() {
    let bed = Bed::make();
    let all = json!(["CAP_SYS_ADMIN"]);
    let outside = bed.outside();
    let config = config(&[
        "/bin/sh",
        "-c",
        "mount -t tmpfs inside /data && grep -c inside /proc/mounts",
    ]);
    let config = with(
        config,
        "/process/capabilities",
        json!({"bounding": all, "effective": all, "permitted": all}),
    );
    let mount = json!({"destination": "/data", "source": outside, "options": ["rbind", "rshared"]});
    let config = with(config, "/mounts/-", mount);

    let outcome = bed.run(&with(config, "/linux/rootfsPropagation", json!("shared")));

    assert_eq!(outcome.out, "1\n", "{outcome:?}");
    assert!(
        !fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains("inside")
    );
}

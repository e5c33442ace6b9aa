//! Configs that cannot be honoured: each is refused by name, and nothing is left of it.

use crate::bed::{Bed, chain, config, with};
use hutch_agent::engine::Error;
use serde_json::json;

super::cases![
    programs_that_cannot_run_are_told_at_create,
    configs_that_make_no_sense_are_named,
    what_the_kernel_refuses_names_object_step_and_cause,
    what_nobody_knows_is_a_warning,
    what_is_for_another_platform_is_a_warning,
    what_a_guest_cannot_give_is_one_warning_with_its_reason,
    a_device_that_the_kernel_has_not_is_made_and_named_in_a_warning,
    what_is_no_json_is_refused,
];

fn programs_that_cannot_run_are_told_at_create() {
    let bed = Bed::make();
    std::fs::write(bed.rootfs().join("bin/text"), "no program").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bed.rootfs().join("bin/text"), mode).unwrap();

    let bare = bed.refusal(&config(&["no-such-program"]));
    let path = bed.refusal(&config(&["/no/such"]));
    let file = bed.refusal(&config(&["/etc/passwd"]));
    let folder = bed.refusal(&config(&["/etc"]));
    let no_path = bed.refusal(&with(config(&["true"]), "/process/env", json!(["A=b"])));
    // Only the kernel knows that a file is no program.
    let _running = bed.create("c", &config(&["/bin/text"])).unwrap();
    let text = chain(&bed.start("c").unwrap_err());
    bed.engine.remove("c").unwrap();

    assert_eq!(
        bare,
        r#"exec: "no-such-program": executable file not found in $PATH"#
    );
    assert_eq!(
        path,
        r#"exec: "/no/such": stat /no/such: no such file or directory"#
    );
    assert_eq!(file, r#"exec: "/etc/passwd": permission denied"#);
    assert_eq!(folder, r#"exec: "/etc": is a directory"#);
    assert_eq!(
        no_path,
        r#"exec: "true": executable file not found in $PATH"#
    );
    assert_eq!(text, "exec /bin/text: exec format error");
    assert_eq!(bed.cgroups(), 0);
}

fn configs_that_make_no_sense_are_named() {
    let bed = Bed::make();
    let base = || config(&["/bin/true"]);

    for (config, refusal) in [
        (
            with(base(), "/process", json!(null)),
            "config.json: process property must not be empty",
        ),
        (
            with(base(), "/process/args", json!([])),
            "process: args must not be empty",
        ),
        (
            with(base(), "/process/cwd", json!("x")),
            "process: Cwd must be an absolute path",
        ),
        (
            with(base(), "/linux/namespaces/4/path", json!("/proc/9/ns/mnt")),
            r#"mount namespace: path "/proc/9/ns/mnt" of the host: not supported in the guest"#,
        ),
        (
            with(
                base(),
                "/process/rlimits",
                json!([{"type": "RLIMIT_CPU", "soft": 1, "hard": 1},
                       {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}]),
            ),
            "process: rlimits: RLIMIT_CPU is there twice",
        ),
        (
            with(
                base(),
                "/mounts/-",
                json!({"destination": "/x", "source": "rel", "options": ["bind"]}),
            ),
            r#"mount 7 on "/x": its source "rel" is not absolute"#,
        ),
        (
            with(base(), "/linux/namespaces/-", json!({"type": "pid"})),
            "pid namespace: it is there twice",
        ),
        (
            with(
                base(),
                "/linux/namespaces/2",
                json!({"type": "ipc", "path": "/proc/9/ns/ipc"}),
            ),
            r#"ipc namespace: path "/proc/9/ns/ipc" of the host: not supported in the guest"#,
        ),
        (
            with(base(), "/linux/sysctl", json!({"kernel/../x": "1"})),
            r#"sysctl "kernel/../x": is no name of a setting"#,
        ),
        (
            with(
                base(),
                "/linux/resources",
                json!({"memory": {"limit": 10, "swap": 5}}),
            ),
            "linux.resources.memory.swap: 5 is below the limit 10",
        ),
        (
            with(
                base(),
                "/linux/uidMappings",
                json!([{"containerID": 0, "hostID": 0, "size": 1}]),
            ),
            "linux.uidMappings: need a user namespace",
        ),
        (
            with(base(), "/linux/rootfsPropagation", json!("sideways")),
            r#"linux.rootfsPropagation: "sideways" is no propagation"#,
        ),
    ] {
        assert_eq!(bed.refusal(&config), refusal);
        assert_eq!(bed.cgroups(), 0);
    }
}

fn what_the_kernel_refuses_names_object_step_and_cause() {
    let bed = Bed::make();
    let base = || config(&["/bin/true"]);
    let mut nowhere = bed.plan("c", &base());
    nowhere.rootfs = "/mnt/no/such".into();

    for (config, refusal) in [
        (
            with(
                base(),
                "/mounts/-",
                json!({"destination": "/x", "source": "/no/such", "options": ["bind"]}),
            ),
            r#"mount 7 on "/x": open source "/no/such": no such file or directory"#,
        ),
        (
            with(
                base(),
                "/mounts/-",
                json!({"destination": "/x", "type": "nofs", "source": "x"}),
            ),
            r#"mount 7 on "/x": mount nofs: no such device"#,
        ),
        (
            with(
                base(),
                "/mounts/-",
                json!({"destination": "/etc/passwd", "type": "tmpfs", "source": "x"}),
            ),
            r#"mount 7 on "/etc/passwd": enter destination: not a directory"#,
        ),
        (
            with(
                base(),
                "/mounts/-",
                json!({"destination": "/etc/passwd", "source": "/mnt", "options": ["bind"]}),
            ),
            r#"mount 7 on "/etc/passwd": its source "/mnt" is a folder, its destination a file: not a directory"#,
        ),
        (
            with(
                base(),
                "/mounts/-",
                json!({"destination": "/etc", "source": "/dev/null", "options": ["rbind", "ro"]}),
            ),
            r#"mount 7 on "/etc": its source "/dev/null" is a file, its destination a folder: not a directory"#,
        ),
        (
            with(base(), "/linux/sysctl", json!({"kernel.no_such": "1"})),
            r#"set sysctl kernel/no_such to "1": no such file or directory"#,
        ),
        (
            with(base(), "/process/cwd", json!("/etc/passwd")),
            r#"chdir to cwd ("/etc/passwd") set in config.json failed: not a directory"#,
        ),
        (
            with(
                base(),
                "/linux/devices",
                json!([{"path": "/etc/passwd", "type": "c", "major": 1, "minor": 3}]),
            ),
            r#"device "/etc/passwd": the image has another file there"#,
        ),
    ] {
        assert_eq!(bed.refusal(&config), refusal);
        assert_eq!(bed.cgroups(), 0);
    }
    assert_eq!(
        chain(&bed.create_as_planned(nowhere).unwrap_err()),
        r#"root file system "/mnt/no/such": bind: no such file or directory"#
    );
}

fn what_nobody_knows_is_a_warning() {
    let bed = Bed::make();
    let config = with(config(&["/bin/true"]), "/linux/sparkles", json!(3));
    let config = with(config, "/process/apparmorProfile", json!("strict"));

    let running = bed.create("c", &config).unwrap();

    assert_eq!(
        running.created.warnings,
        [
            "config.json: linux.?.sparkles: not a known key, ignored",
            r#"process: apparmorProfile "strict": the guest's kernel has no AppArmor, ignored"#,
        ]
    );
    bed.engine.remove("c").unwrap();
}

fn what_is_for_another_platform_is_a_warning() {
    let bed = Bed::make();
    let vm = json!({"hypervisor": {"path": "/vmm"}, "kernel": {"path": "/kernel"}});
    let config = with(config(&["/bin/true"]), "/vm", vm);

    let running = bed.create("c", &config).unwrap();

    let due = "config.json: vm: the configuration of hutchd says what a VM is made of, ignored";
    assert_eq!(running.created.warnings, [due]);
    bed.engine.remove("c").unwrap();
}

/// Numbers for experiments, which no driver of a kernel has.
fn a_device_that_the_kernel_has_not_is_made_and_named_in_a_warning() {
    let bed = Bed::make();
    let script = "stat -c %t:%T /dev/gone; cat /dev/gone; true";
    let devices = json!([
        {"path": "/dev/gone", "type": "c", "major": 60, "minor": 7},
        {"path": "/dev/nil", "type": "c", "major": 1, "minor": 3},
    ]);
    let config = with(
        config(&["/bin/sh", "-c", script]),
        "/linux/devices",
        devices,
    );
    let allowed = json!([{"allow": true, "access": "rwm"}]);
    let config = with(config, "/linux/resources/devices", allowed);

    let running = bed.create("c", &config).unwrap();
    let warnings = running.created.warnings.clone();
    bed.start("c").unwrap();
    let outcome = running.finish();
    bed.engine.remove("c").unwrap();

    let said =
        r#"linux.devices: the guest's kernel has no "/dev/gone" (60:7): their nodes open nothing"#;
    assert_eq!(warnings, [said]);
    assert_eq!(outcome.out, "3c:7\n");
    assert!(
        outcome.err.contains("No such device or address"),
        "{outcome:?}"
    );
}

fn what_is_no_json_is_refused() {
    let bed = Bed::make();
    let mut plan = bed.plan("c", &json!({}));
    plan.config_json = b"{\"process\": ".to_vec();

    let refused = bed.create_as_planned(plan).unwrap_err();

    assert!(matches!(
        refused,
        Error::Parse {
            what: "config.json",
            ..
        }
    ));
}

fn what_a_guest_cannot_give_is_one_warning_with_its_reason() {
    let bed = Bed::make();
    let mut config = config(&["/bin/true"]);
    for (pointer, value) in [
        ("/process/apparmorProfile", json!("strict")),
        ("/process/selinuxLabel", json!("a:b:c")),
        ("/linux/mountLabel", json!("a:b:c")),
        ("/linux/netDevices", json!({"eth1": {"name": "net0"}})),
        (
            "/linux/memoryPolicy",
            json!({"mode": "MPOL_BIND", "nodes": "0"}),
        ),
        ("/linux/intelRdt", json!({"closID": "guaranteed"})),
        (
            "/linux/personality",
            json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]}),
        ),
        ("/process/capabilities/bounding/-", json!("CAP_FLY")),
        (
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/notify", "listenerMetadata": "m",
                "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            }),
        ),
    ] {
        config = with(config, pointer, value);
    }

    let running = bed.create("c", &config).unwrap();
    bed.start("c").unwrap();

    let mut warnings = running.created.warnings.clone();
    warnings.sort();
    assert_eq!(
        warnings,
        [
            "linux.intelRdt: caches and memory bandwidth are shared out by the host alone, ignored",
            "linux.memoryPolicy: the guest's memory is one node, ignored",
            "linux.mountLabel: the guest's kernel has no SELinux, ignored",
            "linux.netDevices: devices of the host's network stay there, ignored",
            r#"linux.personality: flag "ADDR_NO_RANDOMIZE" is not known, ignored"#,
            "linux.seccomp.flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV has no effect without a listener, ignored",
            "linux.seccomp.listenerMetadata: a listener of the host cannot be reached, ignored",
            "linux.seccomp.listenerPath: a listener of the host cannot be reached, ignored",
            r#"process: apparmorProfile "strict": the guest's kernel has no AppArmor, ignored"#,
            "process: capabilities not known, ignored: CAP_FLY",
            r#"process: selinuxLabel "a:b:c": the guest's kernel has no SELinux, ignored"#,
        ]
    );
    assert_eq!(running.finish().code, 0);
    bed.engine.remove("c").unwrap();
}

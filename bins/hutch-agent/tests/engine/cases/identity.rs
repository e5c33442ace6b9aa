//! Who a program is and what it may do.

use crate::bed::{Bed, config, process, with};
use serde_json::json;
use std::fs;

super::cases![
    environment_and_folder_are_those_of_the_config,
    user_group_groups_and_umask_are_those_of_the_config,
    home_comes_from_the_image_if_it_is_not_given,
    cwd_is_made_for_an_init,
    cwd_that_only_root_may_enter_can_still_be_the_start,
    capabilities_of_root_are_those_of_the_config,
    capabilities_of_a_user_survive_through_ambient_ones,
    a_process_without_capabilities_has_none,
    no_new_privileges_is_set_and_not_set,
    limits_are_set,
    oom_score_is_adjusted,
    a_user_can_open_its_streams_anew,
    a_program_has_no_descriptors_but_its_streams,
    io_priority_and_scheduler_are_set,
    a_personality_is_set_for_the_program,
    an_exec_runs_on_the_processors_that_it_names_and_an_init_on_all,
    capabilities_that_cannot_be_granted_are_told_and_do_not_fail,
];

fn environment_and_folder_are_those_of_the_config() {
    let bed = Bed::make();
    let config = config(&["/bin/sh", "-c", "env; pwd"]);
    let config = with(
        config,
        "/process/env",
        json!(["PATH=/bin", "HOME=/h", "A=b c"]),
    );
    let config = with(config, "/process/cwd", json!("/usr/bin"));

    let outcome = bed.run(&config);

    let mut lines: Vec<&str> = outcome.out.lines().collect();
    lines.sort_unstable();
    // The shell adds its own.
    lines.retain(|line| !line.starts_with("SHLVL=") && !line.starts_with("PWD="));
    assert_eq!(lines, ["/usr/bin", "A=b c", "HOME=/h", "PATH=/bin"]);
}

fn user_group_groups_and_umask_are_those_of_the_config() {
    let bed = Bed::make();
    let config = config(&["/bin/sh", "-c", "id -u; id -g; id -G; umask"]);
    let user = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 77], "umask": 0o027});

    let chosen = bed.run(&with(config.clone(), "/process/user", user));
    let root = bed.run(&config);

    assert_eq!(chosen.out, "1000\n1001\n1001 5 77\n0027\n");
    assert_eq!(root.out, "0\n0\n0\n0022\n");
}

fn home_comes_from_the_image_if_it_is_not_given() {
    let bed = Bed::make();
    let config = config(&["/bin/sh", "-c", "echo $HOME"]);
    let config = with(config, "/process/env", json!(["PATH=/bin"]));

    let user = bed.run(&with(
        config.clone(),
        "/process/user",
        json!({"uid": 1000, "gid": 1000}),
    ));
    let root = bed.run(&config);
    let nobody = bed.run(&with(
        config,
        "/process/user",
        json!({"uid": 4242, "gid": 0}),
    ));

    assert_eq!(user.out, "/home/user\n");
    assert_eq!(root.out, "/root\n");
    assert_eq!(nobody.out, "/\n");
}

fn cwd_is_made_for_an_init() {
    let bed = Bed::make();

    let config = with(config(&["/bin/pwd"]), "/process/cwd", json!("/made/for/it"));
    let outcome = bed.run(&config);

    assert_eq!(outcome.out, "/made/for/it\n");
}

fn cwd_that_only_root_may_enter_can_still_be_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::make();
    let root = bed.rootfs().join("root");
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o700)).unwrap();
    let config = with(config(&["/bin/pwd"]), "/process/cwd", json!("/root"));

    let outcome = bed.run(&with(
        config,
        "/process/user",
        json!({"uid": 1000, "gid": 1000}),
    ));

    assert_eq!(outcome.out, "/root\n");
}

/// What the kernel says of a program with these capabilities: inheritable, permitted, effective,
/// bounding, ambient.
fn kernel_says(bed: &Bed, uid: u32, capabilities: serde_json::Value) -> [u64; 5] {
    let config = config(&["/bin/grep", "^Cap", "/proc/self/status"]);
    let config = with(config, "/process/user", json!({"uid": uid, "gid": uid}));
    let config = with(config, "/process/capabilities", capabilities);
    let outcome = bed.run(&config);
    let lines: Vec<u64> = outcome
        .out
        .lines()
        .map(|line| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap())
        .collect();
    lines.try_into().unwrap()
}

const CHOWN: u64 = 1;
const KILL: u64 = 1 << 5;
const NET_RAW: u64 = 1 << 13;

fn capabilities_of_root_are_those_of_the_config() {
    let bed = Bed::make();

    let sets = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN"],
        "inheritable": ["CAP_KILL"],
    });
    let said = kernel_says(&bed, 0, sets);

    // For root an exec makes all effective that is permitted; with no_new_privs it permits no more.
    let both = CHOWN | KILL;
    assert_eq!(said, [KILL, both, both, both | NET_RAW, 0]);
}

fn capabilities_of_a_user_survive_through_ambient_ones() {
    let bed = Bed::make();
    let list = json!(["CAP_CHOWN", "CAP_KILL"]);

    let with_ambient = json!({
        "bounding": list, "permitted": list, "effective": list, "inheritable": list,
        "ambient": ["CAP_KILL"],
    });
    let without = json!({"bounding": list, "permitted": list, "effective": list});

    let both = CHOWN | KILL;
    assert_eq!(
        kernel_says(&bed, 1000, with_ambient),
        [both, KILL, KILL, both, KILL]
    );
    assert_eq!(kernel_says(&bed, 1000, without), [0, 0, 0, both, 0]);
}

fn a_process_without_capabilities_has_none() {
    let bed = Bed::make();

    assert_eq!(kernel_says(&bed, 0, json!(null)), [0; 5]);
}

fn no_new_privileges_is_set_and_not_set() {
    let bed = Bed::make();
    let config = config(&["/bin/grep", "NoNewPrivs", "/proc/self/status"]);

    let set = bed.run(&config);
    let unset = bed.run(&with(config, "/process/noNewPrivileges", json!(false)));

    assert_eq!(set.out, "NoNewPrivs:\t1\n");
    assert_eq!(unset.out, "NoNewPrivs:\t0\n");
}

fn limits_are_set() {
    let bed = Bed::make();
    let config = config(&["/bin/sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc"]);
    let limits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);

    let outcome = bed.run(&with(config, "/process/rlimits", limits));

    assert_eq!(outcome.out, "100\n200\n0\n");
}

fn oom_score_is_adjusted() {
    let bed = Bed::make();
    let config = config(&["/bin/cat", "/proc/self/oom_score_adj"]);

    let outcome = bed.run(&with(config, "/process/oomScoreAdj", json!(321)));

    assert_eq!(outcome.out, "321\n");
}

fn a_user_can_open_its_streams_anew() {
    let bed = Bed::make();
    let config = config(&[
        "/bin/sh",
        "-c",
        "echo out >/dev/stdout; echo err >/proc/self/fd/2",
    ]);

    let outcome = bed.run(&with(
        config,
        "/process/user",
        json!({"uid": 1000, "gid": 1000}),
    ));

    assert_eq!(
        (outcome.out.as_str(), outcome.err.as_str()),
        ("out\n", "err\n")
    );
}

fn a_program_has_no_descriptors_but_its_streams() {
    let bed = Bed::make();
    let mut neighbour = bed.create("n", &config(&["/bin/cat"])).unwrap();
    bed.start("n").unwrap();

    let init = bed.run(&config(&["/bin/ls", "/proc/self/fd"]));
    let exec = bed
        .exec(
            "n",
            "e",
            &crate::bed::process(&["/bin/ls", "/proc/self/fd"]),
        )
        .unwrap();

    // The fourth is the folder that ls reads.
    assert_eq!(init.out, "0\n1\n2\n3\n");
    assert_eq!(exec.finish().out, "0\n1\n2\n3\n");
    std::io::Write::write_all(&mut neighbour.stdin, b"x").unwrap();
    assert_eq!(neighbour.finish().out, "x");
    bed.engine.remove("n").unwrap();
}

fn io_priority_and_scheduler_are_set() {
    let bed = Bed::make();
    // Field 41 of stat is the policy, field 19 niceness.
    let line = "cut -d ' ' -f 19,41 /proc/self/stat; busybox ionice -p $$";
    let config = config(&["/bin/sh", "-c", line]);
    let config = with(
        config,
        "/process/ioPriority",
        json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0}),
    );
    let config = with(
        config,
        "/process/scheduler",
        json!({"policy": "SCHED_BATCH", "nice": 5}),
    );

    let outcome = bed.run(&config);

    assert_eq!((outcome.code, outcome.out.as_str()), (0, "5 3\nidle\n"));
}

fn a_personality_is_set_for_the_program() {
    let bed = Bed::make();
    let config = config(&["/bin/cat", "/proc/self/personality"]);

    let outcome = bed.run(&with(
        config,
        "/linux/personality",
        json!({"domain": "LINUX32"}),
    ));

    assert_eq!(outcome.out, "00000008\n");
}

fn an_exec_runs_on_the_processors_that_it_names_and_an_init_on_all() {
    let bed = Bed::make();
    let cpus = |status: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with("Cpus_allowed_list:"));
        line.unwrap().split_whitespace().last().unwrap().to_owned()
    };
    let all = cpus(&fs::read_to_string("/proc/self/status").unwrap());
    let first = all.split([',', '-']).next().unwrap().to_owned();
    let affinity = json!({"initial": first, "final": first});
    let status = ["/bin/cat", "/proc/self/status"];
    let config = with(
        config(&["/bin/sh", "-c", "cat /proc/self/status; cat"]),
        "/process/execCPUAffinity",
        affinity.clone(),
    );

    let running = bed.create("c", &config).unwrap();
    bed.start("c").unwrap();
    let exec = with(process(&status), "/execCPUAffinity", affinity);
    let exec = bed.exec("c", "e", &exec).unwrap().finish();
    let plain = bed.exec("c", "p", &process(&status)).unwrap().finish();
    let init = running.finish();

    assert_eq!(cpus(&exec.out), first);
    assert_eq!((cpus(&plain.out), cpus(&init.out)), (all.clone(), all));
    bed.engine.remove("c").unwrap();
}

fn capabilities_that_cannot_be_granted_are_told_and_do_not_fail() {
    let bed = Bed::make();
    let config = with(
        config(&["/bin/grep", "Cap", "/proc/self/status"]),
        "/process/capabilities",
        json!({
            "bounding": ["CAP_KILL", "CAP_FLY"],
            "permitted": ["CAP_KILL"],
            "effective": ["CAP_KILL", "CAP_CHOWN"],
            "inheritable": ["CAP_KILL", "CAP_CHOWN"],
            "ambient": ["CAP_KILL", "CAP_CHOWN"],
        }),
    );

    let running = bed.create("c", &config).unwrap();
    bed.start("c").unwrap();

    assert_eq!(
        running.created.warnings.len(),
        4,
        "{:?}",
        running.created.warnings
    );
    let outcome = running.finish();
    let kill = "0000000000000020";
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(
            outcome.out.contains(&format!("{name}:\t{kill}")),
            "{outcome:?}"
        );
    }
    bed.engine.remove("c").unwrap();
}

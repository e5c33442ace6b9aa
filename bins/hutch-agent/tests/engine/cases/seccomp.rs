//! Filters of system calls.

use crate::{
    bed::{Bed, config, process, with},
    calls,
};
use serde_json::{Value, json};
use std::{fs, path::Path};

super::cases![
    a_call_answers_with_the_number_of_the_profile,
    only_what_is_allowed_is_allowed,
    a_call_that_is_newer_than_the_profile_does_not_exist,
    the_default_answers_with_a_number_of_its_own,
    arguments_decide,
    every_comparison_of_an_argument_is_the_profiles,
    several_conditions_on_one_argument_are_alternatives,
    a_forbidden_call_can_kill,
    a_filter_works_without_no_new_privileges_too,
    an_exec_is_filtered_as_its_container,
    calls_that_nobody_knows_are_told,
    what_needs_a_listener_is_refused,
    a_filter_takes_its_flags,
    what_is_for_a_listener_and_empty_is_no_warning,
    a_number_for_an_action_that_has_none_is_refused,
];

fn profile(default: &str, rules: Value) -> Value {
    json!({
        "defaultAction": default,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

fn filtered(line: &str, profile: Value) -> Value {
    with(config(&["/bin/sh", "-c", line]), "/linux/seccomp", profile)
}

fn a_call_answers_with_the_number_of_the_profile() {
    let bed = Bed::make();
    let rules = json!([
        {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122},
        {"names": ["sethostname"], "action": "SCMP_ACT_ERRNO"},
    ]);

    let outcome = bed.run(&filtered(
        "mkdir /x; hostname y; echo still here; grep Seccomp: /proc/self/status",
        profile("SCMP_ACT_ALLOW", rules),
    ));

    let errors: Vec<&str> = outcome.err.lines().collect();
    assert!(errors[0].ends_with("Disk quota exceeded"), "{outcome:?}");
    assert!(
        errors[1].ends_with("Operation not permitted"),
        "{outcome:?}"
    );
    assert_eq!(outcome.out, "still here\nSeccomp:\t2\n");
}

/// The calls of a static shell that prints.
const NEEDED: &[&str] = &[
    "execve",
    "brk",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "readlink",
    "readlinkat",
    "getrandom",
    "mprotect",
    "mmap",
    "munmap",
    "read",
    "write",
    "writev",
    "close",
    "open",
    "openat",
    "stat",
    "fstat",
    "newfstatat",
    "lseek",
    "rt_sigaction",
    "rt_sigprocmask",
    "getpid",
    "getppid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getcwd",
    "ioctl",
    "fcntl",
    "dup2",
    "uname",
    "exit_group",
    "exit",
    "prctl",
    "getpgrp",
];

fn only_what_is_allowed_is_allowed() {
    let bed = Bed::make();
    let rules = json!([{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}]);

    let outcome = bed.run(&filtered(
        "echo here; kill -0 1",
        profile("SCMP_ACT_ERRNO", rules),
    ));

    assert_eq!(outcome.out, "here\n", "{outcome:?}");
    assert!(
        outcome.err.contains("Operation not permitted"),
        "{outcome:?}"
    );
}

/// What a program of the standard library calls besides, linked one way or the other.
const NEEDED_BESIDES: &[&str] = &[
    "poll",
    "ppoll",
    "sigaltstack",
    "sched_getaffinity",
    "pread64",
    "access",
    "gettid",
];

fn a_call_that_is_newer_than_the_profile_does_not_exist() {
    let bed = Bed::make();
    fs::copy("/proc/self/exe", bed.rootfs().join("bin/calls")).unwrap();
    let names = [NEEDED, NEEDED_BESIDES].concat();
    let rules = json!([{"names": names, "action": "SCMP_ACT_ALLOW"}]);
    let mut config = with(
        config(&["/bin/calls"]),
        "/linux/seccomp",
        profile("SCMP_ACT_ERRNO", rules),
    );
    // What it was linked with, where there is such a thing.
    for path in ["/lib", "/lib64", "/usr/lib"] {
        if Path::new(path).exists() {
            let mount = json!({"destination": path, "source": path, "options": ["rbind", "ro"]});
            config = with(config, "/mounts/-", mount);
        }
    }
    // The highest that is named is rseq.
    let (older, highest) = (libc::SYS_getitimer, libc::SYS_rseq);
    let numbers = format!("{older},{},600", highest + 100);
    let asked = json!(format!("{}={numbers}", calls::ASKED));

    let outcome = bed.run(&with(config, "/process/env/-", asked));

    let said = format!(
        "{older}: {}\n{}: {nosys}\n600: {nosys}\n",
        libc::EPERM,
        highest + 100,
        nosys = libc::ENOSYS
    );
    assert_eq!(outcome.out, said, "{outcome:?}");
}

fn the_default_answers_with_a_number_of_its_own() {
    let bed = Bed::make();
    let rules = json!([{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}]);
    let mut profile = profile("SCMP_ACT_ERRNO", rules);
    profile["defaultErrnoRet"] = json!(122);

    let outcome = bed.run(&filtered("echo here; kill -0 1", profile));

    assert_eq!(outcome.out, "here\n", "{outcome:?}");
    assert!(outcome.err.contains("Disk quota exceeded"), "{outcome:?}");
}

fn arguments_decide() {
    let bed = Bed::make();
    let rules = json!([{
        "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
        "args": [{"index": 1, "value": 12, "op": "SCMP_CMP_EQ"}],
    }]);

    let outcome = bed.run(&filtered(
        "kill -0 $$ && echo zero; kill -12 $$; echo end",
        profile("SCMP_ACT_ALLOW", rules),
    ));

    assert_eq!(outcome.out, "zero\nend\n");
    assert!(outcome.err.contains("Permission denied"), "{outcome:?}");
}

fn every_comparison_of_an_argument_is_the_profiles() {
    let bed = Bed::make();
    // Signals that do nothing: CHLD, CONT, URG and WINCH.
    let line = "for one in 17 18 23 28; do kill -$one $$ 2>/dev/null || echo $one; done";

    for (comparison, value_two, refused) in [
        ("NE", 0, "17 23 28"),
        ("LT", 0, "17"),
        ("LE", 0, "17 18"),
        ("EQ", 0, "18"),
        ("GE", 0, "18 23 28"),
        ("GT", 0, "23 28"),
        // Of 18 as a mask is left: 16, 18, 18, 16.
        ("MASKED_EQ", 16, "17 28"),
    ] {
        let rules = json!([{
            "names": ["kill"], "action": "SCMP_ACT_ERRNO",
            "args": [{
                "index": 1, "value": 18, "valueTwo": value_two,
                "op": format!("SCMP_CMP_{comparison}"),
            }],
        }]);

        let outcome = bed.run(&filtered(line, profile("SCMP_ACT_ALLOW", rules)));

        let said: Vec<&str> = outcome.out.lines().collect();
        assert_eq!(said.join(" "), refused, "{comparison}: {outcome:?}");
    }
}

fn several_conditions_on_one_argument_are_alternatives() {
    let bed = Bed::make();
    let rules = json!([{
        "names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
        "args": [
            {"index": 1, "value": 10, "op": "SCMP_CMP_EQ"},
            {"index": 1, "value": 12, "op": "SCMP_CMP_EQ"},
        ],
    }]);

    let outcome = bed.run(&filtered(
        "kill -10 $$; kill -12 $$; kill -0 $$ && echo zero",
        profile("SCMP_ACT_ALLOW", rules),
    ));

    assert_eq!(outcome.out, "zero\n");
    assert_eq!(
        outcome.err.matches("Permission denied").count(),
        2,
        "{outcome:?}"
    );
}

fn a_forbidden_call_can_kill() {
    let bed = Bed::make();
    let rules = json!([{"names": ["sethostname"], "action": "SCMP_ACT_KILL_PROCESS"}]);

    let outcome = bed.run(&filtered(
        "hostname x; echo $?",
        profile("SCMP_ACT_ALLOW", rules),
    ));

    // 128 + SIGSYS.
    assert_eq!(outcome.out, "159\n", "{outcome:?}");
}

fn a_filter_works_without_no_new_privileges_too() {
    let bed = Bed::make();
    let rules = json!([{"names": ["mkdir", "chdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]);
    let line = "mkdir /x; grep -e NoNewPrivs -e CapEff -e CapPrm -e CapAmb /proc/self/status";
    let config = filtered(line, profile("SCMP_ACT_ALLOW", rules));
    let config = with(config, "/process/noNewPrivileges", json!(false));
    let list = json!(["CAP_KILL"]);
    let sets = json!({
        "bounding": list, "permitted": list, "effective": list, "inheritable": list,
        "ambient": list,
    });
    let config = with(config, "/process/capabilities", sets);

    for uid in [0, 1000] {
        let user = json!({"uid": uid, "gid": uid});
        let outcome = bed.run(&with(config.clone(), "/process/user", user));

        assert!(outcome.err.contains("Disk quota exceeded"), "{outcome:?}");
        let values: Vec<&str> = outcome.out.split_whitespace().skip(1).step_by(2).collect();
        let kill = "0000000000000020";
        assert_eq!(values, [kill, kill, kill, "0"], "{uid}: {outcome:?}");
    }
}

fn an_exec_is_filtered_as_its_container() {
    let bed = Bed::make();
    let rules = json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]);
    let config = filtered("read x", profile("SCMP_ACT_ALLOW", rules));
    let running = bed.create("c", &config).unwrap();
    bed.start("c").unwrap();

    let outcome = bed
        .exec("c", "e", &process(&["/bin/mkdir", "/x"]))
        .unwrap()
        .finish();

    assert!(outcome.err.contains("Disk quota exceeded"), "{outcome:?}");
    drop(running.finish());
    bed.engine.remove("c").unwrap();
}

fn calls_that_nobody_knows_are_told() {
    let bed = Bed::make();
    let rules = json!([{"names": ["mkdir", "make_coffee"], "action": "SCMP_ACT_ERRNO"}]);
    let config = filtered("true", profile("SCMP_ACT_ALLOW", rules));

    let first = bed.create("a", &config).unwrap();
    let second = bed.create("b", &config).unwrap();

    for running in [&first, &second] {
        assert_eq!(
            running.created.warnings,
            ["linux.seccomp: system calls not known, ignored: make_coffee"]
        );
    }
    bed.engine.remove("a").unwrap();
    bed.engine.remove("b").unwrap();
}

fn what_needs_a_listener_is_refused() {
    let bed = Bed::make();
    let rules = json!([{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]);

    let refused = bed.refusal(&filtered("true", profile("SCMP_ACT_ALLOW", rules)));

    assert_eq!(
        refused,
        "linux.seccomp: SCMP_ACT_NOTIFY: not supported in the guest"
    );
}

fn a_filter_takes_its_flags() {
    let bed = Bed::make();
    let rules = json!([{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]);
    let mut profile = profile("SCMP_ACT_ALLOW", rules);
    profile["flags"] = json!([
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        "SECCOMP_FILTER_FLAG_TSYNC",
    ]);

    let outcome = bed.run(&filtered("mkdir /x; echo $?", profile.clone()));
    profile["flags"] = json!(["SECCOMP_FILTER_FLAG_PRAY"]);
    let refused = bed.refusal(&filtered("true", profile));

    assert_eq!(outcome.out, "1\n", "{outcome:?}");
    assert!(refused.contains("SECCOMP_FILTER_FLAG_PRAY"), "{refused}");
}

fn a_number_for_an_action_that_has_none_is_refused() {
    let bed = Bed::make();
    let rules = json!([{"names": ["mkdir"], "action": "SCMP_ACT_KILL", "errnoRet": 5}]);
    let mut default = profile("SCMP_ACT_ALLOW", json!([]));
    default["defaultErrnoRet"] = json!(7);

    for (profile, number) in [(profile("SCMP_ACT_ALLOW", rules), 5), (default, 7)] {
        let refused = bed.refusal(&filtered("true", profile));

        assert!(
            refused.starts_with(&format!("linux.seccomp: errnoRet {number}: SCMP_ACT_")),
            "{refused}"
        );
    }
}

fn what_is_for_a_listener_and_empty_is_no_warning() {
    let bed = Bed::make();
    let mut profile = profile("SCMP_ACT_ALLOW", json!([]));
    profile["listenerPath"] = json!("");
    profile["listenerMetadata"] = json!("");
    profile["flags"] = json!([]);

    let running = bed.create("c", &filtered("true", profile)).unwrap();

    assert!(
        running.created.warnings.is_empty(),
        "{:?}",
        running.created.warnings
    );
    bed.engine.remove("c").unwrap();
}

//! What the program says where no daemon runs, and that it starts none to say it.

#![allow(clippy::unwrap_used)]

use oci_spec::runtime::Spec;
use serde_json::{Value, json};
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};
use tempfile::TempDir;

const VERBS: [&str; 15] = [
    "create", "start", "state", "kill", "delete", "run", "exec", "list", "ps", "pause", "resume",
    "update", "events", "features", "spec",
];

/// `hutch` on a state folder that nobody has used.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> std::path::PathBuf {
        self.0.path().join("r")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut hutch = Command::new(env!("CARGO_BIN_EXE_hutch"));
        hutch.arg("--root").arg(self.root()).args(words);
        hutch
    }

    fn hutch(&self, words: &[&str]) -> Output {
        let output = self.command(words).output().unwrap();
        assert!(!self.root().exists(), "a daemon was started: {output:?}");
        output
    }

    /// What it prints; it succeeds and says nothing else.
    fn says(&self, words: &[&str]) -> String {
        let output = self.hutch(words);
        assert!(
            output.status.success() && output.stderr.is_empty(),
            "{output:?}"
        );
        String::from_utf8(output.stdout).unwrap()
    }
}

fn refused(output: &Output, code: i32) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

#[test]
fn doctor_finds_something_about_everything_as_json() {
    let place = Place::new();

    let output = place.hutch(&["doctor", "--json"]);

    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = findings
        .iter()
        .map(|finding| finding["check"].as_str().unwrap())
        .collect();
    for name in [
        "user",
        "acceleration",
        "vsock",
        "cgroups",
        "kernel",
        "qemu",
        "space",
        "daemon",
        "state",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let is_bad = |finding: &Value| finding["verdict"] == "bad";
    for finding in &findings {
        let verdict = finding["verdict"].as_str().unwrap();
        assert!(["ok", "warning", "bad"].contains(&verdict), "{finding}");
        assert_ne!(finding["text"], "", "{finding}");
        assert!(
            !is_bad(finding) || finding["advice"] != "",
            "what to do? {finding}"
        );
    }
    let bad = findings.iter().any(is_bad);
    assert_eq!(output.status.code(), Some(i32::from(bad)));
}

#[test]
fn versions_are_told_with_and_without_a_daemon() {
    let place = Place::new();
    let ours = env!("CARGO_PKG_VERSION");

    let text = place.says(&["version"]);
    let json: Value = serde_json::from_str(&place.says(&["version", "--format", "json"])).unwrap();

    assert!(text.contains(&format!("hutch version {ours}\n")), "{text}");
    assert!(text.contains("hutchd: not running\n"), "{text}");
    assert_eq!(json["hutch"], ours);
    assert_eq!(json["hutchd"], Value::Null);
    assert!(json["spec"].as_str().unwrap().starts_with("1."), "{json}");
    assert_eq!(place.says(&["--version"]), format!("hutch {ours}\n"));
}

#[test]
fn a_spec_is_one_that_can_be_started_from() {
    let place = Place::new();
    let folder = place.0.path();

    place.says(&["spec", "--bundle", folder.to_str().unwrap()]);

    let text = fs::read_to_string(folder.join("config.json")).unwrap();
    let spec: Spec = serde_json::from_str(&text).unwrap();
    assert_eq!(spec.root().as_ref().unwrap().path(), Path::new("rootfs"));
    let process = spec.process().as_ref().unwrap();
    assert_eq!(process.args().as_ref().unwrap(), &["sh"]);
    assert_eq!(process.terminal(), Some(true));
    let config: Value = serde_json::from_str(&text).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({"type": "pid"})), "{text}");
    let capabilities = &config["process"]["capabilities"];
    assert_eq!(capabilities["ambient"], Value::Null, "nobody can have them");
}

#[test]
fn every_shell_is_told_every_verb() {
    let place = Place::new();

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = place.says(&["completions", shell]);

        for verb in VERBS {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn manual_pages_tell_of_verbs_and_flags() {
    let place = Place::new();
    let folder = place.0.path().join("man");
    fs::create_dir(&folder).unwrap();

    place.says(&["man", folder.to_str().unwrap()]);

    let page = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    for verb in VERBS {
        assert!(
            page("hutch.1").contains(&format!("hutch\\-{verb}(1)")),
            "{verb}"
        );
        assert!(
            page(&format!("hutch-{verb}.1")).contains(".SH NAME"),
            "{verb}"
        );
    }
    let create = page("hutch-create.1");
    for flag in ["bundle", "pid\\-file", "console\\-socket", "preserve\\-fds"] {
        assert!(create.contains(flag), "{flag}: {create}");
    }
}

#[test]
fn words_that_are_not_understood_are_answered_in_one_line_with_the_codes_of_runc() {
    let place = Place::new();

    let unknown = refused(&place.hutch(&["fly"]), 3);
    let flag = refused(&place.hutch(&["exec", "--colour", "web"]), 1);
    let missing = refused(&place.hutch(&["kill"]), 1);

    assert!(
        unknown.starts_with("hutch: unrecognized subcommand 'fly'"),
        "{unknown}"
    );
    assert!(
        flag.starts_with("hutch: unexpected argument '--colour' found"),
        "{flag}"
    );
    assert!(
        missing.contains("not provided: <ID>; see hutch --help"),
        "{missing}"
    );
    let nothing = refused(&place.hutch(&[]), 1);
    assert!(nothing.contains("requires a subcommand"), "{nothing}");
    assert!(place.says(&["run", "--help"]).contains("--console-socket"));
}

#[test]
fn what_is_wrong_by_itself_is_refused_before_a_daemon_is_started() {
    let place = Place::new();
    let file = place.0.path().join("resources.json");
    fs::write(&file, "{\"pids\": {\"limit\": ").unwrap();
    let file = file.to_str().unwrap();

    for (words, said) in [
        (&["update", "--resources", file, "web"][..], "resources "),
        (
            &["update", "--memory", "lots", "web"],
            "invalid value for memory",
        ),
        (
            &["update", "--l3-cache-schema", "L3:0=f", "web"],
            "cannot divide",
        ),
        (&["events", "--interval", "fast", "web"], "not a duration"),
        (
            &["events", "--interval", "0s", "web"],
            "must be greater than 0",
        ),
        (&["top", "--interval", "0s"], "must be greater than 0"),
        (&["kill", "web", "FLY"], "unknown signal"),
        (&["kill", "--escalate", "5", "web"], "not a duration"),
        (&["stop", "--signal", "FLY", "web"], "unknown signal"),
        (&["stop", "--signal", "0", "web"], "asks nobody to end"),
        (&["stop", "--time", "5", "web"], "not a duration"),
        (&["stop", "--time", "-1s", "web"], "greater than 0"),
        (&["ps", "web", "-o", "user"], "ps column"),
        (&["checkpoint", "--image-path", "/x", "web"], "snapshots"),
        (&["restore", "web"], "snapshots"),
        (&["spec", "--rootless"], "not supported"),
        (
            &["--rootless", "true", "list"],
            "'--rootless <WHETHER>': rootless is not supported",
        ),
        (
            &["--rootless", "maybe", "list"],
            "invalid value 'maybe' for '--rootless <WHETHER>': true, false or auto",
        ),
    ] {
        let text = refused(&place.hutch(words), 1);
        assert!(text.contains(said), "{words:?}: {text}");
    }
}

/// A shell on it would never hear that there is no more input.
#[test]
fn a_terminal_in_the_foreground_is_refused_where_there_is_none() {
    let place = Place::new();
    let folder = place.0.path();
    let folder = folder.to_str().unwrap();
    place.says(&["spec", "--bundle", folder]);
    let mut command = place.command(&["run", "--bundle", folder, "web"]);
    // A session of its own has no terminal.
    proc::berth::arrange(&mut command, proc::berth::Berth::default());

    let text = refused(&command.output().unwrap(), 1);

    assert!(!place.root().exists(), "a daemon was started");
    assert!(text.contains("no terminal"), "{text}");
    assert!(text.contains("/dev/tty"), "{text}");
}

#[test]
fn what_is_wrong_with_a_value_is_said_of_the_value() {
    let place = Place::new();

    for (words, said) in [
        (&["sandbox", "create", ""][..], "an id is not empty"),
        (&["create", "--sandbox", "", "web"], "an id is not empty"),
        (&["events", "--interval", "-1s", "web"], "greater than 0"),
        (&["top", "--interval", "-1s"], "greater than 0"),
        (&["kill", "--escalate", "-1s", "web"], "greater than 0"),
        (
            &["run", "--preserve-fds", "-1", "web"],
            "invalid value '-1'",
        ),
        (
            &["update", "--cpu-share", "-5", "web"],
            "invalid value '-5'",
        ),
        (&["sandbox", "run", "--vcpus", "-1"], "invalid value '-1'"),
    ] {
        let text = refused(&place.hutch(words), 1);
        assert!(text.contains(said), "{words:?}: {text}");
    }
}

/// As with runc: a script that adds a flag to those of another overrides it.
#[test]
fn of_two_values_of_one_flag_the_last_one_counts() {
    let place = Place::new();
    let (first, last) = (place.0.path().join("a"), place.0.path().join("b"));
    fs::create_dir(&last).unwrap();
    let [first, last] = [&first, &last].map(|path| path.to_str().unwrap());

    place.says(&["spec", "--bundle", first, "--bundle", last]);
    let said = place.hutch(&[
        "--root",
        "/nowhere",
        "events",
        "--interval",
        "1s",
        "--interval",
        "0s",
        "x",
    ]);

    assert!(Path::new(last).join("config.json").exists());
    refused(&said, 1);
}

#[test]
fn whoever_reads_no_further_hears_no_complaint() {
    let place = Place::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);

    let done = place
        .command(&["features"])
        .stdout(writer)
        .output()
        .unwrap();

    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!((done.status.code(), said.as_str()), (Some(141), ""));
}

#[test]
fn features_are_told_without_a_daemon() {
    let place = Place::new();

    let features: Value = serde_json::from_str(&place.says(&["features"])).unwrap();

    assert_eq!(features["linux"]["cgroup"]["v2"], true);
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
}

#[test]
fn an_error_is_also_in_the_log_that_was_asked_for() {
    let place = Place::new();
    let log = place.0.path().join("log");
    let log = log.to_str().unwrap();

    for format in ["text", "json"] {
        let words = [
            "--log",
            log,
            "--log-format",
            format,
            "create",
            "--bundle",
            "/nowhere",
            "web",
        ];
        let said = refused(&place.hutch(&words), 1);
        assert!(
            said.starts_with("hutch: create container \"web\": bundle /nowhere: "),
            "{said}"
        );
    }

    let text = fs::read_to_string(log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].starts_with("level=error msg=\"create container"),
        "{text}"
    );
    let entry: Value = serde_json::from_str(lines[1]).unwrap();
    assert_eq!(entry["level"], "error");
    assert!(
        entry["msg"].as_str().unwrap().contains("/nowhere"),
        "{entry}"
    );
}

//! What only a guest can judge, in the sandbox of the container `house`.

use super::{Bench, FAILED, Row};
use anyhow::Result;
use serde_json::{Value, json};
use std::process::Command;

macro_rules! row {
    ($what:literal, $change:expr, $($says:literal),+ $(,)?) => {
        Row {
            what: $what,
            command: |bench| joined(bench, $change),
            code: FAILED,
            says: &["hutch: create container \"bad\": ", $($says),+],
        }
    };
}

fn joined(bench: &Bench<'_, '_>, change: impl Fn(&mut Value)) -> Result<Command> {
    let mut command = bench
        .world
        .hutch(&["create", "--sandbox", "house", "--bundle"]);
    command.arg(bench.changed(change)?).arg("bad");
    Ok(command)
}

pub fn rows() -> Vec<Row> {
    let mut rows = processes();
    rows.extend(linux());
    rows
}

// tidy: a table, one row after the other
fn processes() -> Vec<Row> {
    vec![
        row!(
            "a program that is not there",
            |config| config["process"]["args"] = json!(["/nonexistent"]),
            "/nonexistent",
            "no such file",
        ),
        row!(
            "a program that is in no folder of PATH",
            |config| config["process"]["args"] = json!(["nonexistent"]),
            "nonexistent",
            "not found",
        ),
        row!(
            "a program that is a folder",
            |config| config["process"]["args"] = json!(["/etc"]),
            "\"/etc\": is a directory",
        ),
        row!(
            "a limit above its own end",
            |config| {
                config["process"]["rlimits"] =
                    json!([{"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1}]);
            },
            "set limit 7 to 2 of 1",
        ),
        row!(
            "a score of 99,999",
            |config| config["process"]["oomScoreAdj"] = json!(99_999),
            "oom score adjustment to 99999",
        ),
        row!(
            "a working directory that is a file",
            |config| config["process"]["cwd"] = json!("/etc/passwd"),
            "/etc/passwd",
        ),
    ]
}

// tidy: a table, one row after the other
fn linux() -> Vec<Row> {
    vec![
        row!(
            "a namespace that is there twice",
            |config| {
                config["linux"]["namespaces"] =
                    json!([{"type": "pid"}, {"type": "mount"}, {"type": "pid"}]);
            },
            "pid",
            "twice",
        ),
        row!(
            "a setting that is none",
            |config| config["linux"]["sysctl"] = json!({"foo.bar": "1"}),
            "set sysctl foo/bar",
        ),
        row!(
            "a setting that climbs out",
            |config| config["linux"]["sysctl"] = json!({"../../etc/passwd": "1"}),
            "../../etc/passwd",
            "is no name of a setting",
        ),
        row!(
            "a device at a relative path",
            |config| {
                config["linux"]["devices"] =
                    json!([{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]);
            },
            "dev/x",
        ),
        row!(
            "a device without a path",
            |config| {
                config["linux"]["devices"] = json!([{"type": "c", "major": 1, "minor": 3}]);
            },
            "device \"\": its path is not absolute",
        ),
        row!(
            "a device with a number below zero",
            |config| {
                config["linux"]["devices"] =
                    json!([{"path": "/dev/x", "type": "c", "major": -1, "minor": 3}]);
            },
            "/dev/x",
        ),
        row!(
            "a propagation that nobody knows",
            |config| config["linux"]["rootfsPropagation"] = json!("sideways"),
            "linux.rootfsPropagation",
            "sideways",
        ),
        row!(
            "a hook of the guest at a relative path",
            |config| config["hooks"] = json!({"startContainer": [{"path": "bin/none"}]}),
            "hooks.startContainer[0]: path \"bin/none\"",
            "is not an absolute path",
        ),
        row!(
            "a file system that nobody knows",
            |config| config["mounts"] =
                json!([{"destination": "/x", "type": "dreamfs", "source": "x"}]),
            "/x",
        ),
        row!(
            "a mount with an option that nobody knows",
            |config| {
                config["mounts"] = json!([{
                    "destination": "/x", "type": "tmpfs", "source": "x", "options": ["size=much"],
                }]);
            },
            "/x",
        ),
        row!(
            "a host name without a namespace for it",
            |config| config["linux"]["namespaces"] = json!([{"type": "mount"}]),
            "hostname",
            "uts namespace",
        ),
    ]
}

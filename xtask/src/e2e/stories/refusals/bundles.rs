//! Bundles that no container can be made of, found wrong before anything exists.

use super::{FAILED, Row};
use anyhow::Context;
use serde_json::json;
use std::{fs, os::unix::fs::symlink};

/// Above what is read of a config.json at all, and far above.
const LARGE_BYTES: usize = 3 * 1024 * 1024;
const HUGE_BYTES: u64 = 100 * 1024 * 1024;
/// Deeper than any config, and than any stack of a careless reader.
const DEEP: usize = 200_000;

pub fn rows() -> Vec<Row> {
    let mut rows = files();
    rows.extend(processes());
    rows.extend(roots_and_mounts());
    rows.extend(linux());
    rows
}

/// A row of `create container "bad": …`.
macro_rules! row {
    ($what:literal, $command:expr, $($says:literal),+ $(,)?) => {
        Row {
            what: $what,
            command: $command,
            code: FAILED,
            says: &["hutch: create container \"bad\": ", $($says),+],
        }
    };
}

// tidy: a table, one row after the other
fn files() -> Vec<Row> {
    vec![
        row!(
            "a bundle that is not there",
            |bench| Ok(bench.create(&bench.fresh()?.join("none"))),
            "bundle",
            "No such file",
        ),
        row!(
            "a bundle that is a file",
            |bench| Ok(bench.create(&bench.good.join("config.json"))),
            "config.json",
            "Not a directory",
        ),
        row!(
            "no config.json",
            |bench| Ok(bench.create(&bench.fresh()?)),
            "JSON specification file",
            "config.json",
            "No such file",
        ),
        row!(
            "a config.json that is a folder",
            |bench| {
                let folder = bench.fresh()?;
                fs::create_dir(folder.join("config.json")).context("make a folder")?;
                Ok(bench.create(&folder))
            },
            "config.json: not a file",
        ),
        row!(
            "an empty config.json",
            |bench| bench.text(""),
            "config.json",
            "EOF"
        ),
        row!(
            "half an object",
            |bench| bench.text("{"),
            "config.json",
            "EOF"
        ),
        row!(
            "no JSON",
            |bench| bench.text("ociVersion: 1.0.2"),
            "config.json",
            "expected"
        ),
        row!(
            "a list",
            |bench| bench.text("[]"),
            "config.json",
            "ociVersion"
        ),
        row!(
            "an empty object",
            |bench| bench.text("{}"),
            "config.json",
            "ociVersion"
        ),
        row!(
            "something after the object",
            |bench| bench.text("{\"ociVersion\": \"1.0.2\"} and more"),
            "config.json",
            "trailing characters",
        ),
        row!(
            "a key that is there twice",
            |bench| bench.text("{\"ociVersion\": \"1.0.2\", \"ociVersion\": \"1.0.0\"}"),
            "config.json",
            "duplicate field `ociVersion`",
        ),
        row!(
            "a nesting without an end",
            |bench| bench.text("[".repeat(DEEP)),
            "config.json",
            "recursion limit",
        ),
        row!(
            "bytes that are no text",
            |bench| bench.text(b"{\"ociVersion\": \"\xff\xfe\"}"),
            "config.json",
        ),
        row!(
            "a config of 3 MiB",
            |bench| bench.config(|config| config["hostname"] = json!("x".repeat(LARGE_BYTES))),
            "config.json has 31",
            "at most 2097152",
        ),
        row!(
            "a config of 100 MiB",
            |bench| {
                let folder = bench.fresh()?;
                // All holes: nothing of it must be read to know that it is too large.
                fs::File::create(folder.join("config.json"))
                    .and_then(|file| file.set_len(HUGE_BYTES))
                    .context("make a large config")?;
                Ok(bench.create(&folder))
            },
            "config.json",
            "104857600 bytes",
        ),
        row!(
            "no ociVersion",
            |bench| bench.config(|config| {
                config
                    .as_object_mut()
                    .map(|config| config.remove("ociVersion"));
            }),
            "ociVersion is missing or empty",
        ),
        row!(
            "a version of the future",
            |bench| bench.config(|config| config["ociVersion"] = json!("2.0.0")),
            "ociVersion \"2.0.0\" is not supported",
        ),
        row!(
            "a version that is none",
            |bench| bench.config(|config| config["ociVersion"] = json!("latest")),
            "ociVersion \"latest\" is not a version",
        ),
        row!(
            "annotations of half a MiB",
            |bench| bench.config(|config| {
                config["annotations"] = json!({"a": "x".repeat(512 * 1024)});
            }),
            "annotations have 524289 bytes; at most 262144",
        ),
        row!(
            "an annotation without a name",
            |bench| bench.config(|config| config["annotations"] = json!({"": "x"})),
            "annotations: a key is empty",
        ),
        row!(
            "an annotation that is no text",
            |bench| bench.config(|config| config["annotations"] = json!({"a": 1})),
            "config.json",
            "expected a string",
        ),
    ]
}

// tidy: a table, one row after the other
fn processes() -> Vec<Row> {
    vec![
        row!(
            "no process",
            |bench| bench.config(|config| config["process"] = json!(null)),
            "process is missing",
        ),
        row!(
            "no arguments",
            |bench| bench.config(|config| config["process"]["args"] = json!([])),
            "process.args is empty",
        ),
        row!(
            "arguments that are no list",
            |bench| bench.config(|config| config["process"]["args"] = json!("sh")),
            "config.json",
            "expected a sequence",
        ),
        row!(
            "a program without a name",
            |bench| bench.config(|config| config["process"]["args"] = json!([""])),
            "process.args: the program's name is empty",
        ),
        row!(
            "a NUL in an argument",
            |bench| bench.config(|config| config["process"]["args"] = json!(["sh", "a\0b"])),
            "process.args holds a NUL byte",
        ),
        row!(
            "a NUL in the environment",
            |bench| bench.config(|config| config["process"]["env"] = json!(["A=\0"])),
            "process.env",
            "NUL byte",
        ),
        row!(
            "a working directory that is relative",
            |bench| bench.config(|config| config["process"]["cwd"] = json!("tmp")),
            "process.cwd \"tmp\" is not an absolute path",
        ),
        row!(
            "no working directory",
            |bench| bench.config(|config| {
                config["process"]
                    .as_object_mut()
                    .map(|process| process.remove("cwd"));
            }),
            "config.json",
            "cwd",
        ),
        row!(
            "a uid below zero",
            |bench| bench.config(|config| config["process"]["user"]["uid"] = json!(-1)),
            "config.json",
            "invalid value: integer `-1`, expected u32",
        ),
        row!(
            "a uid that is a name",
            |bench| bench.config(|config| config["process"]["user"]["uid"] = json!("root")),
            "config.json",
            "expected u32",
        ),
        row!(
            "capabilities that are no list",
            |bench| bench.config(|config| {
                config["process"]["capabilities"]["bounding"] = json!("CAP_KILL");
            }),
            "config.json",
            "expected a sequence",
        ),
        row!(
            "a limit that is none",
            |bench| bench.config(|config| {
                config["process"]["rlimits"] = json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]);
            }),
            "config.json",
            "RLIMIT_X",
        ),
        row!(
            "a limit below zero",
            |bench| bench.config(|config| {
                config["process"]["rlimits"] =
                    json!([{"type": "RLIMIT_CPU", "soft": -1, "hard": 1}]);
            }),
            "config.json",
            "-1",
        ),
        row!(
            "a terminal that is a word",
            |bench| bench.config(|config| config["process"]["terminal"] = json!("yes")),
            "config.json",
            "expected a boolean",
        ),
        row!(
            "a terminal that nobody would hold",
            |bench| bench.config(|config| config["process"]["terminal"] = json!(true)),
            "cannot allocate tty if runc will detach without setting console socket",
        ),
        row!(
            "a host name of 65 bytes",
            |bench| bench.config(|config| config["hostname"] = json!("h".repeat(65))),
            "hostname has 65 bytes; at most 64",
        ),
    ]
}

// tidy: a table, one row after the other
fn roots_and_mounts() -> Vec<Row> {
    vec![
        row!(
            "no root",
            |bench| bench.config(|config| config["root"] = json!(null)),
            "root is missing",
        ),
        row!(
            "a root without a path",
            |bench| bench.config(|config| config["root"]["path"] = json!("")),
            "root.path is empty",
        ),
        row!(
            "a root that is not there",
            |bench| bench.config(|config| config["root"]["path"] = json!("rootfs")),
            "root \"rootfs\" does not exist",
        ),
        row!(
            "an absolute root that is not there",
            |bench| bench.config(|config| config["root"]["path"] = json!("/nonexistent/root")),
            "root \"/nonexistent/root\" does not exist",
        ),
        row!(
            "a root that is a text file",
            |bench| {
                let folder = bench.changed(|config| config["root"]["path"] = json!("rootfs"))?;
                fs::write(folder.join("rootfs"), "text").context("write a file")?;
                Ok(bench.create(&folder))
            },
            "root \"rootfs\" is a file without an ext4 or erofs file system",
        ),
        row!(
            "a root that is a device",
            |bench| bench.config(|config| config["root"]["path"] = json!("/dev/null")),
            "root \"/dev/null\" is a character device",
        ),
        row!(
            "a root that is a link out of the bundle",
            |bench| {
                let folder = bench.changed(|config| config["root"]["path"] = json!("rootfs"))?;
                symlink("/etc", folder.join("rootfs")).context("make a link")?;
                Ok(bench.create(&folder))
            },
            "root \"rootfs\" is a link out of the bundle, to \"/etc\"",
        ),
        row!(
            "a root below a link out of the bundle",
            |bench| {
                let folder = bench.changed(|config| config["root"]["path"] = json!("a/ssl"))?;
                symlink("/etc", folder.join("a")).context("make a link")?;
                Ok(bench.create(&folder))
            },
            "is a link out of the bundle",
        ),
        row!(
            "a root that is a link to itself",
            |bench| {
                let folder = bench.changed(|config| config["root"]["path"] = json!("rootfs"))?;
                symlink("rootfs", folder.join("rootfs")).context("make a link")?;
                Ok(bench.create(&folder))
            },
            "rootfs",
        ),
        row!(
            "a mount at a relative place",
            |bench| bench.config(|config| config["mounts"][0]["destination"] = json!("proc")),
            "mounts[0]: destination \"proc\" is not an absolute path",
        ),
        row!(
            "a mount at no place",
            |bench| bench.config(|config| config["mounts"] = json!([{"type": "proc"}])),
            "config.json",
            "destination",
        ),
        row!(
            "a bind of nothing",
            |bench| bench.config(|config| {
                config["mounts"] = json!([{"destination": "/x", "type": "bind"}]);
            }),
            "mounts[0]: a bind mount needs a source",
        ),
        row!(
            "a bind of what is not there",
            |bench| bench.config(|config| {
                config["mounts"] =
                    json!([{"destination": "/x", "type": "bind", "source": "/nonexistent"}]);
            }),
            "mount 0: source \"/nonexistent\" does not exist",
        ),
        row!(
            "a bind that climbs out of the bundle",
            |bench| bench.config(|config| {
                config["mounts"] =
                    json!([{"destination": "/x", "type": "bind", "source": "../../etc"}]);
            }),
            "mounts[0]: source \"../../etc\" leaves the bundle",
        ),
        row!(
            "a bind of a device",
            |bench| bench.config(|config| {
                config["mounts"] =
                    json!([{"destination": "/x", "type": "bind", "source": "/dev/zero"}]);
            }),
            "mount 0: source \"/dev/zero\" is a character device, which cannot enter a VM",
        ),
        row!(
            "too many binds",
            |bench| bench.config(|config| {
                let bind = json!({"destination": "/x", "type": "bind", "source": "/etc"});
                config["mounts"] = json!(vec![bind; 513]);
            }),
            "513 host mounts; at most 512",
        ),
    ]
}

// tidy: a table, one row after the other
fn linux() -> Vec<Row> {
    vec![
        row!(
            "nothing of Linux",
            |bench| bench.config(|config| config["linux"] = json!(null)),
            "linux is missing",
        ),
        row!(
            "a namespace of an unknown kind",
            |bench| bench.config(|config| {
                config["linux"]["namespaces"] = json!([{"type": "dream"}]);
            }),
            "config.json",
            "dream",
        ),
        row!(
            "a pid namespace of the host",
            |bench| bench.config(|config| {
                config["linux"]["namespaces"] = json!([{"type": "pid", "path": "/proc/1/ns/pid"}]);
            }),
            "/proc/1/ns/pid cannot enter a vm",
        ),
        row!(
            "a network namespace that is not there",
            |bench| bench.config(|config| {
                config["linux"]["namespaces"] =
                    json!([{"type": "network", "path": "/nonexistent/netns"}]);
            }),
            "/nonexistent/netns",
        ),
        row!(
            "a network namespace that is a file",
            |bench| bench.config(|config| {
                config["linux"]["namespaces"] = json!([{"type": "network", "path": "/etc/passwd"}]);
            }),
            "/etc/passwd",
        ),
        row!(
            "a network namespace at a relative path",
            |bench| bench.config(|config| {
                config["linux"]["namespaces"] = json!([{"type": "network", "path": "netns"}]);
            }),
            "\"netns\" is not an absolute path",
        ),
        row!(
            "a filter that does what nobody knows",
            |bench| bench.config(|config| {
                config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_PRAY"});
            }),
            "config.json",
            "SCMP_ACT_PRAY",
        ),
        row!(
            "a device of an unknown kind",
            |bench| bench.config(|config| {
                config["linux"]["devices"] =
                    json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]);
            }),
            "config.json",
            "`z`",
        ),
        row!(
            "a cgroup above its parent",
            |bench| bench.config(|config| config["linux"]["cgroupsPath"] = json!("/../../x")),
            "linux.cgroupsPath \"/../../x\": \".\" and \"..\" name no cgroup",
        ),
        row!(
            "a cgroup with a line break",
            |bench| bench.config(|config| config["linux"]["cgroupsPath"] = json!("/a\nb")),
            "linux.cgroupsPath \"/a\\nb\": holds a control character",
        ),
        row!(
            "a cgroup with a name of 300 bytes",
            |bench| bench.config(|config| {
                config["linux"]["cgroupsPath"] = json!(format!("/{}", "c".repeat(300)));
            }),
            "linux.cgroupsPath",
            "too long for a name",
        ),
        row!(
            "a cgroup with a path of 8 KiB",
            |bench| bench.config(|config| {
                config["linux"]["cgroupsPath"] = json!("/c".repeat(4096));
            }),
            "linux.cgroupsPath",
            "too long for a path",
        ),
        row!(
            "a hook at a relative path",
            |bench| bench.config(|config| {
                config["hooks"] = json!({"createRuntime": [{"path": "bin/hook"}]});
            }),
            "hooks.createRuntime[0]: path \"bin/hook\" is not an absolute path",
        ),
        row!(
            "a hook without time",
            |bench| bench.config(|config| {
                config["hooks"] = json!({"poststop": [{"path": "/bin/true", "timeout": 0}]});
            }),
            "hooks.poststop[0]: timeout 0 is not above 0",
        ),
        row!(
            "a memory limit that is a word",
            |bench| bench.config(|config| {
                config["linux"]["resources"]["memory"] = json!({"limit": "much"});
            }),
            "config.json",
            "much",
        ),
    ]
}

//! Ids and flags that no verb takes.

use super::{EXEC_FAILED, FAILED, Row, UNKNOWN_VERB};
use anyhow::Context;
use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, os::unix::net::UnixListener};

/// As much as the kernel lets one word of a command have, with its closing NUL.
const WORD_BYTES: usize = 128 * 1024 - 1;

pub fn rows() -> Vec<Row> {
    let mut rows = ids();
    rows.extend(unknown_ids());
    rows.extend(flags());
    rows.extend(files());
    rows
}

macro_rules! row {
    ($what:literal, $code:expr, $command:expr, $($says:literal),+ $(,)?) => {
        Row { what: $what, command: $command, code: $code, says: &["hutch: ", $($says),+] }
    };
}

/// `hutch create` of a good bundle under this id.
macro_rules! id {
    ($what:literal, $id:expr, $($says:literal),+ $(,)?) => {
        row!(
            $what,
            FAILED,
            |bench| {
                let mut command = bench.world.hutch(&["create", "--bundle"]);
                command.arg(&bench.good).arg("--").arg($id);
                Ok(command)
            },
            $($says),+
        )
    };
}

// tidy: a table, one row after the other
fn ids() -> Vec<Row> {
    vec![
        id!(
            "no id at all",
            "",
            "create container \"\": container id must not be empty"
        ),
        id!(
            "one dot",
            ".",
            "create container \".\": invalid container id"
        ),
        id!(
            "two dots",
            "..",
            "create container \"..\": invalid container id"
        ),
        id!(
            "a path",
            "a/b",
            "invalid container id \"a/b\": only letters"
        ),
        id!(
            "a path upwards",
            "../../x",
            "invalid container id \"../../x\""
        ),
        id!("a leading dot", ".hidden", "no leading dot"),
        row!(
            "a leading dash",
            FAILED,
            |bench| bench.hutch(&["state", "-x"]),
            "unexpected argument '-x'",
        ),
        id!("a blank", "a b", "invalid container id \"a b\""),
        id!("a line break", "a\nb", "invalid container id \"a\\nb\""),
        id!(
            "a control sequence",
            "\u{1b}[2J",
            "invalid container id \"\\u{1b}[2J\""
        ),
        id!(
            "a letter of another alphabet",
            "behälter",
            "invalid container id \"behälter\""
        ),
        id!(
            "bytes that are no text",
            OsStr::from_bytes(b"a\xff"),
            "UTF-8"
        ),
        id!(
            "1,025 bytes",
            "i".repeat(1025),
            "container id has 1025 bytes; at most 1024 are allowed",
        ),
        id!(
            "as much as a word may have",
            "i".repeat(WORD_BYTES),
            "container id has 131071 bytes; at most 1024 are allowed",
        ),
        row!(
            "a namespace that is a path",
            FAILED,
            |bench| bench.hutch(&["--namespace", "../x", "state", "nope"]),
            "state of container \"nope\": invalid namespace \"../x\"",
        ),
        row!(
            "the sandbox of nobody",
            FAILED,
            |bench| {
                let mut command = bench
                    .world
                    .hutch(&["create", "--sandbox", "nope", "--bundle"]);
                command.arg(&bench.good).arg("guest");
                Ok(command)
            },
            "create container \"guest\"",
            "does not exist",
        ),
    ]
}

// tidy: a table, one row after the other
fn unknown_ids() -> Vec<Row> {
    vec![
        row!(
            "the state of nobody",
            FAILED,
            |bench| bench.hutch(&["state", "nope"]),
            "state of container \"nope\": container does not exist",
        ),
        row!(
            "a start of nobody",
            FAILED,
            |bench| bench.hutch(&["start", "nope"]),
            "start container \"nope\": container does not exist",
        ),
        row!(
            "a kill of nobody",
            FAILED,
            |bench| bench.hutch(&["kill", "nope"]),
            "kill container \"nope\": container does not exist",
        ),
        row!(
            "a delete of nobody",
            FAILED,
            |bench| bench.hutch(&["delete", "nope"]),
            "delete container \"nope\": container does not exist",
        ),
        row!(
            "the processes of nobody",
            FAILED,
            |bench| bench.hutch(&["ps", "nope"]),
            "list processes of container \"nope\": container does not exist",
        ),
        row!(
            "an exec in nobody",
            EXEC_FAILED,
            |bench| bench.hutch(&["exec", "nope", "sh"]),
            "exec in container \"nope\": ",
            "container does not exist",
        ),
        row!(
            "the sandbox of an unknown name",
            FAILED,
            |bench| bench.hutch(&["sandbox", "inspect", "nope"]),
            "inspect sandbox \"nope\": sandbox does not exist",
        ),
        row!(
            "the console of nobody",
            FAILED,
            |bench| bench.hutch(&["console", "nope"]),
            "show console of \"nope\": sandbox does not exist",
        ),
    ]
}

// tidy: a table, one row after the other
fn flags() -> Vec<Row> {
    vec![
        row!(
            "an unknown verb",
            UNKNOWN_VERB,
            |bench| bench.hutch(&["fly"]),
            "'fly'"
        ),
        row!(
            "an unknown flag",
            FAILED,
            |bench| bench.hutch(&["create", "--colour", "x"]),
            "'--colour'",
        ),
        row!(
            "an unknown flag of exec",
            FAILED,
            |bench| bench.hutch(&["exec", "--colour", "x"]),
            "'--colour'",
        ),
        row!(
            "create without an id",
            FAILED,
            |bench| bench.hutch(&["create"]),
            "<ID>"
        ),
        row!(
            "state without an id",
            FAILED,
            |bench| bench.hutch(&["state"]),
            "<ID>"
        ),
        row!(
            "two ids",
            FAILED,
            |bench| bench.hutch(&["state", "a", "b"]),
            "'b'"
        ),
        row!(
            "a signal too many",
            FAILED,
            |bench| bench.hutch(&["kill", "a", "TERM", "KILL"]),
            "'KILL'",
        ),
        row!(
            "a signal of an unknown name",
            FAILED,
            |bench| bench.hutch(&["kill", "nope", "SIGFOO"]),
            "kill container \"nope\": unknown signal \"SIGFOO\"",
        ),
        row!(
            "a signal of an unknown number",
            FAILED,
            |bench| bench.hutch(&["kill", "nope", "65"]),
            "kill container \"nope\": unknown signal \"65\"",
        ),
        row!(
            "an unknown format of a list",
            FAILED,
            |bench| bench.hutch(&["list", "--format", "xml"]),
            "'xml'",
        ),
        row!(
            "an unknown format of the log",
            FAILED,
            |bench| bench.hutch(&["--log-format", "xml", "list"]),
            "'xml'",
        ),
        row!(
            "descriptors that cannot enter a guest",
            FAILED,
            |bench| {
                let mut command = bench
                    .world
                    .hutch(&["create", "--preserve-fds", "1", "--bundle"]);
                command.arg(&bench.good).arg("bad");
                Ok(command)
            },
            "create container \"bad\": --preserve-fds 1: a file descriptor cannot enter",
        ),
        row!(
            "descriptors for an exec",
            EXEC_FAILED,
            |bench| bench.hutch(&["exec", "--preserve-fds", "1", "nope", "sh"]),
            "exec in container \"nope\": --preserve-fds 1",
        ),
        row!(
            "a number of descriptors that is none",
            FAILED,
            |bench| bench.hutch(&["create", "--preserve-fds", "many", "x"]),
            "'many'",
        ),
        row!(
            "a spec for a user who is not root",
            FAILED,
            |bench| bench.hutch(&["spec", "--rootless"]),
            "--rootless is not supported",
        ),
        row!(
            "a shell that nobody knows",
            FAILED,
            |bench| bench.hutch(&["completions", "ksh93"]),
            "'ksh93'",
        ),
    ]
}

// tidy: a table, one row after the other
fn files() -> Vec<Row> {
    vec![
        row!(
            "a state folder too long for its sockets",
            FAILED,
            |bench| {
                let root = bench.folder.join("r".repeat(100));
                Ok(bench.elsewhere(&root))
            },
            "list containers: --root ",
            "longer than 74 bytes",
        ),
        row!(
            "a state folder below a file",
            FAILED,
            |bench| Ok(bench.elsewhere(&bench.good.join("config.json/r"))),
            "list containers: ",
            "config.json: File exists",
        ),
        row!(
            "a log in a folder that is not there",
            FAILED,
            |bench| bench.hutch(&["--log", "/nonexistent/log", "state", "nope"]),
            "open --log /nonexistent/log: No such file",
        ),
        row!(
            "a pid file in a folder that is not there",
            FAILED,
            |bench| {
                let words = ["create", "--pid-file", "/nonexistent/pid", "--bundle"];
                let mut command = bench.world.hutch(&words);
                command.arg(&bench.good).arg("bad");
                Ok(command)
            },
            "create container \"bad\": write pid file /nonexistent/pid: No such file",
        ),
        row!(
            "a pid file of an exec in a folder that is not there",
            EXEC_FAILED,
            |bench| bench.hutch(&["exec", "--pid-file", "/nonexistent/pid", "nope", "sh"]),
            "exec in container \"nope\": write pid file /nonexistent/pid: No such file",
        ),
        row!(
            "a console socket without a terminal",
            FAILED,
            |bench| {
                let socket = bench.fresh()?.join("socket");
                UnixListener::bind(&socket).context("listen")?;
                let mut command = bench.world.hutch(&["create", "--console-socket"]);
                command
                    .arg(socket)
                    .arg("--bundle")
                    .arg(&bench.good)
                    .arg("bad");
                Ok(command)
            },
            "create container \"bad\": cannot use console socket",
        ),
        row!(
            "a console socket that is not there",
            FAILED,
            |bench| {
                let bundle = bench.changed(|config| config["process"]["terminal"] = true.into())?;
                let words = ["create", "--console-socket", "/nonexistent/s", "--bundle"];
                let mut command = bench.world.hutch(&words);
                command.arg(bundle).arg("bad");
                Ok(command)
            },
            "create container \"bad\": console socket /nonexistent/s: No such file",
        ),
        row!(
            "a spec where one is",
            FAILED,
            |bench| {
                let mut command = bench.world.hutch(&["spec", "--bundle"]);
                command.arg(&bench.good);
                Ok(command)
            },
            "config.json exists. Remove it first",
        ),
        row!(
            "manual pages for a folder that is not there",
            FAILED,
            |bench| bench.hutch(&["man", "/nonexistent"]),
            "write manual pages into /nonexistent",
            "No such file",
        ),
        row!(
            "a process file that is no JSON",
            EXEC_FAILED,
            |bench| {
                let file = bench.fresh()?.join("process.json");
                fs::write(&file, "args: sh").context("write a file")?;
                let mut command = bench.world.hutch(&["exec", "--process"]);
                command.arg(file).arg("nope");
                Ok(command)
            },
            "exec in container \"nope\": process file",
            "expected value",
        ),
    ]
}

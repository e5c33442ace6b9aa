//! Verbs of `hutch sandbox` at the wrong time, on the sandbox of the container `house`, and on one that is not there.

use super::{EXEC_FAILED, FAILED, Row};

macro_rules! row {
    ($what:literal, $words:expr, $says:literal) => {
        Row {
            what: $what,
            command: |bench| bench.hutch(&[&["sandbox"], &$words[..]].concat()),
            code: FAILED,
            says: &[concat!("hutch: ", $says, "\n")],
        }
    };
}

/// A container that would join.
fn joins(says: &'static [&'static str]) -> Row {
    Row {
        what: "a container for it",
        command: |bench| {
            let mut command = bench.world.hutch(&["create", "--sandbox", "house"]);
            command.arg("--bundle").arg(&bench.good).arg("guest");
            Ok(command)
        },
        code: FAILED,
        says,
    }
}

// tidy: a table, one row after the other
pub fn of_nobody() -> Vec<Row> {
    vec![
        row!(
            "a start of no sandbox",
            ["start", "nope"],
            "start sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "a stop of no sandbox",
            ["stop", "nope"],
            "stop sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "a stop of no sandbox by force",
            ["stop", "--force", "nope"],
            "stop sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "a pause of no sandbox",
            ["pause", "nope"],
            "pause sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "a resume of no sandbox",
            ["resume", "nope"],
            "resume sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "a delete of no sandbox",
            ["delete", "nope"],
            "delete sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "the status of no sandbox",
            ["status", "nope"],
            "status of sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "what no sandbox costs",
            ["stats", "nope"],
            "stats of sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "the changes of no sandbox",
            ["monitor", "nope"],
            "watch sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "the annotations of no sandbox",
            ["annotation", "get", "nope"],
            "annotations of sandbox \"nope\": sandbox does not exist"
        ),
        row!(
            "an annotation for no sandbox",
            ["annotation", "set", "nope", "a=b"],
            "annotate sandbox \"nope\": sandbox does not exist"
        ),
    ]
}

pub fn of_a_ready_one() -> Vec<Row> {
    vec![row!(
        "a resume of what is ready",
        ["resume", "house"],
        "resume sandbox \"house\": cannot resume a sandbox that is ready"
    )]
}

// tidy: a table, one row after the other
pub fn of_a_running_one() -> Vec<Row> {
    vec![
        row!(
            "a start of what runs",
            ["start", "house"],
            "start sandbox \"house\": cannot start a sandbox that is running"
        ),
        row!(
            "a resume of what runs",
            ["resume", "house"],
            "resume sandbox \"house\": cannot resume a sandbox that is running"
        ),
        row!(
            "a delete of what runs",
            ["delete", "house"],
            "delete sandbox \"house\": cannot delete a sandbox that is running: stop it first, or use --force"
        ),
        row!(
            "an annotation that it does not have",
            ["annotation", "get", "house", "no.such/key"],
            "annotations of sandbox \"house\": it has no annotation \"no.such/key\""
        ),
        row!(
            "an annotation without a value",
            ["annotation", "set", "house", "key"],
            "invalid value 'key' for '<KEY=VALUE>...': KEY=VALUE is expected; see hutch --help"
        ),
    ]
}

// tidy: a table, one row after the other
pub fn of_a_paused_one() -> Vec<Row> {
    vec![
        row!(
            "a start of what is paused",
            ["start", "house"],
            "start sandbox \"house\": cannot start a sandbox that is paused"
        ),
        row!(
            "a second pause",
            ["pause", "house"],
            "pause sandbox \"house\": cannot pause a sandbox that is paused"
        ),
        row!(
            "a stop of what is paused",
            ["stop", "house"],
            "stop sandbox \"house\": cannot stop a sandbox that is paused: resume it first, or use --force"
        ),
        row!(
            "a delete of what is paused",
            ["delete", "house"],
            "delete sandbox \"house\": cannot delete a sandbox that is paused: use --force"
        ),
        joins(&[
            "create container \"guest\": cannot create a container in a sandbox that is paused: resume it first",
        ]),
        Row {
            what: "an exec in what is paused",
            command: |bench| bench.hutch(&["exec", "house", "true"]),
            code: EXEC_FAILED,
            says: &["cannot reach into a sandbox that is paused: resume it first"],
        },
    ]
}

pub fn of_a_stopped_one() -> Vec<Row> {
    vec![
        row!(
            "a pause of what is stopped",
            ["pause", "house"],
            "pause sandbox \"house\": cannot pause a sandbox that is stopped: start it first"
        ),
        row!(
            "a resume of what is stopped",
            ["resume", "house"],
            "resume sandbox \"house\": cannot resume a sandbox that is stopped"
        ),
        joins(&[
            "create container \"guest\": cannot create a container in a sandbox that is stopped: start it first",
        ]),
    ]
}

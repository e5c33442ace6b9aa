//! Verbs at the wrong time, on the container `house`.

use super::{EXEC_FAILED, FAILED, Row};

macro_rules! row {
    ($what:literal, $code:expr, $words:expr, $($says:literal),+ $(,)?) => {
        Row {
            what: $what,
            command: |bench| bench.hutch(&$words),
            code: $code,
            says: &["container \"house\": ", $($says),+],
        }
    };
}

fn again() -> Row {
    Row {
        what: "an id that is taken",
        command: |bench| {
            let mut command = bench.world.hutch(&["create", "--bundle"]);
            command.arg(&bench.good).arg("house");
            Ok(command)
        },
        code: FAILED,
        says: &["hutch: create container \"house\": container with given ID already exists"],
    }
}

pub fn of_a_created_one() -> Vec<Row> {
    vec![
        again(),
        row!(
            "an exec of nothing",
            EXEC_FAILED,
            ["exec", "house"],
            "process args cannot be empty"
        ),
        row!(
            "a signal that is none",
            FAILED,
            ["kill", "house", "FOO"],
            "unknown signal \"FOO\""
        ),
    ]
}

// tidy: a table, one row after the other
pub fn of_a_running_one() -> Vec<Row> {
    vec![
        again(),
        row!(
            "a second start",
            FAILED,
            ["start", "house"],
            "cannot start an already running container"
        ),
        row!(
            "a delete without force",
            FAILED,
            ["delete", "house"],
            "running"
        ),
        row!(
            "an exec of a program without a name",
            EXEC_FAILED,
            ["exec", "house", ""],
            "process.args: the program's name is empty",
        ),
        row!(
            "an exec of what is not there",
            EXEC_FAILED,
            ["exec", "house", "/nonexistent"],
            "/nonexistent",
            "no such file",
        ),
        row!(
            "an exec of what is in no folder of PATH",
            EXEC_FAILED,
            ["exec", "house", "nonexistent"],
            "nonexistent",
            "not found",
        ),
        row!(
            "an exec of a folder",
            EXEC_FAILED,
            ["exec", "house", "/etc"],
            "\"/etc\": is a directory",
        ),
        row!(
            "an exec of what is no program",
            EXEC_FAILED,
            ["exec", "house", "/etc/passwd"],
            "/etc/passwd",
            "ermission denied",
        ),
        row!(
            "an exec in a folder that is not there",
            EXEC_FAILED,
            ["exec", "--cwd", "/nonexistent", "house", "/bin/true"],
            "/nonexistent",
        ),
        row!(
            "an exec in a relative folder",
            EXEC_FAILED,
            ["exec", "--cwd", "tmp", "house", "/bin/true"],
            "Cwd must be an absolute path",
        ),
        row!(
            "an exec for a user who is no number",
            EXEC_FAILED,
            ["exec", "--user", "root", "house", "/bin/true"],
            "--user \"root\": \"root\" is not a number",
        ),
        row!(
            "an exec of an empty file",
            EXEC_FAILED,
            ["exec", "--process", "/dev/null", "house"],
            "process file /dev/null",
        ),
        row!(
            "a terminal that nobody would hold",
            EXEC_FAILED,
            ["exec", "--tty", "--detach", "house", "/bin/true"],
            "cannot allocate tty if runc will detach without setting console socket",
        ),
    ]
}

pub fn of_a_stopped_one() -> Vec<Row> {
    vec![
        again(),
        row!(
            "a start of what has ended",
            FAILED,
            ["start", "house"],
            "stopped"
        ),
        row!(
            "a kill of what has ended",
            FAILED,
            ["kill", "house"],
            "container not running"
        ),
        row!(
            "an exec in what has ended",
            EXEC_FAILED,
            ["exec", "house", "/bin/true"],
            "stopped",
        ),
    ]
}

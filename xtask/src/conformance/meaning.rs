//! What an error means, whoever says it: the phrases that callers know errors by.

/// The first whose phrase occurs is the meaning.
const MEANINGS: &[(&str, &[&str])] = &[
    (
        "unknown format",
        &[
            "invalid format option",
            "for '--format",
            "for '--log-format",
            "invalid log-format",
        ],
    ),
    (
        "usage",
        &[
            "requires a maximum",
            "flag provided but not defined",
            "flag needs an argument",
            "requires exactly",
            "requires a minimum",
            "No help topic",
            "for flag -",
            "strconv.ParseBool",
            "invalid value for cpu-",
            "see hutch --help",
        ],
    ),
    (
        "no part of a cgroup",
        &["is not a sub cgroup path", "invalid --cgroup argument"],
    ),
    ("no such controller", &["unknown controller"]),
    ("no SELinux", &["selinux is disabled"]),
    (
        "more is in use",
        &["unable to set memory limit", "device or resource busy"],
    ),
    (
        "unknown word for ps",
        &["unknown gnu long option", "ps option", "ps column"],
    ),
    ("no pid to show", &["couldn't find PID field"]),
    ("bad interval", &["duration interval must be greater"]),
    (
        "no such processors",
        &[
            "umerical result out of range",
            "math result not representable",
            "the guest has no cpu",
        ],
    ),
    ("ambiguous", &["is ambiguous"]),
    (
        "exists already",
        &["already exists", "exists. Remove it first"],
    ),
    (
        "stopped for good",
        &["cannot start a container that has stopped"],
    ),
    (
        "runs already",
        &["cannot start an already running container"],
    ),
    (
        "is paused, not created",
        &["cannot start a container in the paused state"],
    ),
    ("not stopped", &["that is not stopped"]),
    (
        "paused",
        &["cannot exec in a paused container", "in the paused state"],
    ),
    (
        "stopped",
        &["cannot exec in a stopped container", "in the stopped state"],
    ),
    ("not paused", &["container not paused"]),
    ("not running", &["not running", "is already paused"]),
    (
        "bad id",
        &[
            "invalid container ID format",
            "invalid container id",
            "container id cannot be empty",
            "container id must not be empty",
        ],
    ),
    ("no container", &["container does not exist"]),
    (
        "unknown signal",
        &["unknown signal", "unable to signal init: invalid argument"],
    ),
    (
        "no terminal's holder",
        &["cannot allocate tty if runc will detach"],
    ),
    ("no terminal", &["open /dev/tty"]),
    (
        "a socket without a terminal",
        &["cannot use console socket"],
    ),
    (
        "no checkpoint",
        &[
            "msg=\"container paused",
            "cannot be checkpointed",
            "CRIU",
            "container still running",
            "snapshots",
        ],
    ),
    (
        "working directory not absolute",
        &["Cwd must be an absolute path", "process.cwd"],
    ),
    (
        "no arguments",
        &[
            "process.args is empty",
            "args must not be empty",
            "args cannot be empty",
        ],
    ),
    (
        "bad configuration",
        &[
            "destination \"mnt\"",
            "ociVersion is missing",
            "is not supported; 1.x.y is",
            "name no cgroup",
            "leaves the bundle",
            "process property must not be empty",
            "process is missing",
            "root must be specified",
            "root is missing",
            "invalid device type",
            "invalid character",
            "unexpected end of JSON",
            "unexpected EOF",
            "failed: EOF\"",
            "msg=EOF",
            "exec: no command",
            "EOF while parsing",
            "cannot unmarshal",
            "expected value",
            "expected ident",
            "key must be a string",
            "trailing characters",
            "invalid type",
            "invalid length",
            "not an object",
            "missing field",
            "unknown variant",
            "no variant for",
            "did not match any variant",
            "Cwd property must not be empty",
            "is not a version",
            "holds a NUL byte",
            "is not a valid",
            "invalid value for",
        ],
    ),
    ("no config", &["JSON specification file"]),
    ("cannot be mounted", &["error mounting", ": mount "]),
    (
        "program not found",
        &["executable file not found", "program's name is empty"],
    ),
    (
        "no working directory",
        &["chdir to cwd", "mkdir cwd", "working directory"],
    ),
    (
        "bad user",
        &[
            "uids and gids must be in range",
            "for uid failed",
            "for gid failed",
            "is not a number",
            "ids are 0 to",
            "additional-gids",
        ],
    ),
    ("bad environment", &["invalid environment variable"]),
    ("unknown rlimit", &["invalid rlimit type", "rlimit"]),
    ("there twice", &["duplicated ns", "it is there twice"]),
    ("unknown namespace", &["namespace"]),
    ("bad sysctl", &["sysctl"]),
    ("a hook failed", &["hook"]),
    ("no root", &["rootfs", "root.path", ": root \""]),
    (
        "not permitted",
        &[
            "is a directory",
            "permission denied",
            "Permission denied",
            "not permitted",
        ],
    ),
    (
        "no file",
        &[
            "no such file or directory",
            "No such file or directory",
            "not a directory",
            "Not a directory",
            "does not exist",
        ],
    ),
    (
        "invalid",
        &[
            "invalid argument",
            "is no size",
            "allowed cpu-shares",
            "Invalid argument",
            // What runc says when its own first step has said more.
            "can't get final child's PID",
        ],
    ),
];

/// Nobody has said yet what these words mean.
pub const UNKNOWN: &str = "?";

/// The runtime's own words in what came out of standard error, and those of the program. Warnings are not compared.
pub fn parted(stderr: &str) -> (Vec<&str>, Vec<&str>) {
    let is_warning =
        |line: &&str| line.contains("level=warning") || line.starts_with("hutch: warning");
    stderr
        .lines()
        .filter(|line| !is_warning(line))
        .partition(|line| line.starts_with("time=\"") || line.starts_with("hutch: "))
}

/// What a line of a runtime means.
pub fn of(line: &str) -> &'static str {
    let found = MEANINGS
        .iter()
        .find(|(_, phrases)| phrases.iter().any(|phrase| line.contains(phrase)));
    found.map_or(UNKNOWN, |(meaning, _)| meaning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_say_the_same_in_their_own_words() {
        let runc = "time=\"2026-11-28T22:30:31Z\" level=error msg=\"exec failed: unable to start container process: exec: \\\"nope\\\": executable file not found in $PATH\"";
        let hutch =
            "hutch: exec in container \"one\": \"nope\": executable file not found in $PATH";

        assert_eq!(of(runc), of(hutch));
        assert_eq!(of(hutch), "program not found");
        assert_eq!(of("hutch: what is this"), UNKNOWN);
    }

    #[test]
    fn a_programs_words_are_not_the_runtimes() {
        let (ours, theirs) = parted("time=\"x\" level=error msg=\"y\"\nsh: z\nhutch: w\n");

        assert_eq!(ours.len(), 2);
        assert_eq!(theirs, ["sh: z"]);
    }
}

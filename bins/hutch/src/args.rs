//! The arguments of every verb: runc's names and meanings where runc has the verb.

mod sandbox;

pub use sandbox::{
    AnnotationGet, AnnotationSet, AnnotationVerb, SandboxCreate, SandboxDelete, SandboxId,
    SandboxList, SandboxMonitor, SandboxStats, SandboxStop, SandboxVerb,
};

use crate::verbs::{events::Events, kill::Kill, stop::Stop, top::Top, update::Update};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Where the daemon of this host keeps its state unless --root says otherwise.
pub const DEFAULT_ROOT: &str = "/run/hutch";

/// Runs containers, each in its own small virtual machine.
#[derive(Debug, Parser)]
#[command(
    name = "hutch",
    version,
    disable_version_flag = true,
    // As with runc, the last one of two counts.
    args_override_self = true
)]
pub struct Cli {
    /// Print version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    pub version: (),
    /// State folder of the daemon to speak to.
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub root: PathBuf,
    /// Also write errors to this file.
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Form of what is written to --log.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Say more, on standard error or in the file of --log.
    #[arg(long, global = true)]
    pub debug: bool,
    /// Accepted for callers of runc; cgroups are made without systemd.
    #[arg(long, global = true, hide = true)]
    pub systemd_cgroup: bool,
    /// Accepted for callers of runc, unless it is true: a sandbox is made by root. Before the verb: spec has its own.
    #[arg(long, hide = true, value_name = "WHETHER", value_parser = rootless)]
    pub rootless: Option<Rootless>,
    /// Accepted for callers of runc; checkpoint and restore come with snapshots.
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub criu: Option<String>,
    /// What keeps the ids of one caller apart from another's.
    #[arg(long, global = true, default_value = "default", value_name = "NAME")]
    pub namespace: String,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What --rootless may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rootless {
    Auto,
    No,
}

/// Takes the words that runc takes: its own, and those of its language for a truth.
fn rootless(word: &str) -> Result<Rootless, &'static str> {
    match word {
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(Rootless::No),
        "1" | "t" | "T" | "true" | "True" | "TRUE" => {
            Err("rootless is not supported: a sandbox is made by root")
        }
        other if other.is_empty() || other.eq_ignore_ascii_case("auto") => Ok(Rootless::Auto),
        _ => Err("true, false or auto"),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

// The arguments of one verb are built, not those of forty.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Verb {
    /// Create a container; its program waits for `start`.
    Create(Create),
    /// Run the program of a created container.
    Start(Id),
    /// Create a container, run its program, and exit with its code.
    Run(Run),
    /// Print the state of a container as JSON.
    State(Id),
    /// Send a signal to a container's init (SIGTERM unless one is named).
    Kill(Kill),
    /// Ask a container to end, and kill it if it has not after a while.
    Stop(Stop),
    /// Wait for the end of a container, and print its exit code.
    Wait(Id),
    /// Delete a container that is stopped.
    Delete(Delete),
    /// Run a further program in a running container.
    Exec(Exec),
    /// List containers.
    List(List),
    /// List the processes of a container, as its guest numbers them.
    Ps(Ps),
    /// Freeze every process of a container.
    Pause(Id),
    /// Let a paused container go on.
    Resume(Id),
    /// Change the limits of a container.
    Update(Box<Update>),
    /// Print what a container uses, and its kills for want of memory.
    Events(Events),
    /// Show what all containers use.
    Top(Top),
    /// Print what a config.json may ask for.
    Features,
    /// Not yet: it comes with snapshots.
    Checkpoint(Snapshot),
    /// Not yet: it comes with snapshots.
    Restore(Snapshot),
    /// Write a config.json to start from.
    Spec(Spec),
    /// Sandboxes: the virtual machines and what they hold.
    #[command(subcommand)]
    Sandbox(SandboxVerb),
    /// Print what a sandbox's guest wrote to its console.
    Console(Console),
    /// Check this host: acceleration, cgroups, programs, kernel, space, stale state.
    Doctor(Doctor),
    /// Print the versions of the command line and of the daemon.
    Version(Version),
    /// Print a shell's completion script.
    Completions(Completions),
    /// Write the manual pages into a folder.
    Man(Man),
}

#[derive(Debug, Args)]
pub struct Id {
    /// Id of the container, or a unique prefix of one.
    pub id: String,
}

// What `create` and `run` share. No doc comment: it would be taken for what the verbs do.
#[derive(Debug, Args)]
pub struct Creation {
    /// Folder that holds config.json.
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub bundle: PathBuf,
    /// Unix socket that receives the master end of the pseudo terminal.
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// File that receives the pid of the process that stands for the container on the host.
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Accepted for callers of runc; the guest decides how to change its root.
    #[arg(long)]
    pub no_pivot: bool,
    /// Accepted for callers of runc; the guest has its own session keyring.
    #[arg(long)]
    pub no_new_keyring: bool,
    /// Refused above 0: a file descriptor cannot enter a virtual machine.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub preserve_fds: u32,
    /// Join the sandbox of this id or uid, or of this container.
    #[arg(long, value_name = "ID", value_parser = given)]
    pub sandbox: Option<String>,
    /// Id of the container.
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    pub creation: Creation,
}

#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub creation: Creation,
    /// Return when the program runs; a relay stands for it from then on.
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the container when its program has exited.
    #[arg(long)]
    pub keep: bool,
    /// Accepted for callers of runc; the guest reaps what loses its parent, with or without it.
    #[arg(long)]
    pub no_subreaper: bool,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Kill it first if it runs; takes a whole id, and one that does not exist is no error.
    #[arg(short, long)]
    pub force: bool,
    /// Id of the container, or a unique prefix of one.
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Exec {
    /// Unix socket that receives the master end of the pseudo terminal.
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,
    /// Working directory.
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<String>,
    /// Environment variable; may be given more than once.
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Allocate a pseudo terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// UID[:GID]
    #[arg(short, long, value_name = "UID[:GID]", allow_hyphen_values = true)]
    pub user: Option<String>,
    /// Additional group; may be given more than once.
    #[arg(short = 'g', long, value_name = "GID", allow_hyphen_values = true)]
    pub additional_gids: Vec<i64>,
    /// File with an OCI process object, in place of a command.
    #[arg(short, long, value_name = "FILE")]
    pub process: Option<PathBuf>,
    /// Return when the program runs; a relay stands for it from then on.
    #[arg(short, long)]
    pub detach: bool,
    /// File that receives the pid of the process that stands for the program on the host.
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// SELinux label of the program.
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,
    /// AppArmor profile of the program.
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,
    /// Add a capability; may be given more than once.
    #[arg(short, long, value_name = "CAP")]
    pub cap: Vec<String>,
    /// Set no_new_privs.
    #[arg(long)]
    pub no_new_privs: bool,
    /// Refused above 0: a file descriptor cannot enter a virtual machine.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub preserve_fds: u32,
    /// Put it into this cgroup, "/" being the container's own: "part", "/part/deeper", "memory:part".
    #[arg(long, value_name = "[CONTROLLER:]PATH")]
    pub cgroup: Vec<String>,
    /// Refused while the container is paused: its programs would stand still with it.
    #[arg(long)]
    pub ignore_paused: bool,
    pub id: String,
    /// Command and arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct List {
    /// table or json.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Ids only.
    #[arg(short, long)]
    pub quiet: bool,
    /// Containers of every namespace.
    #[arg(long)]
    pub all_namespaces: bool,
}

#[derive(Debug, Args)]
pub struct Ps {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    pub id: String,
    /// Of ps: -e and -f are taken, and -o with pid, comm, cmd and args.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Snapshot {
    /// Whatever a caller of runc says.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Spec {
    /// Folder to write config.json into.
    #[arg(short, long, value_name = "DIR")]
    pub bundle: Option<PathBuf>,
    /// Not supported: a sandbox needs root.
    #[arg(long)]
    pub rootless: bool,
}

#[derive(Debug, Args)]
pub struct Console {
    /// A sandbox's uid or a prefix of it, or the id of a container in it.
    pub id: String,
    /// Go on as more is written.
    #[arg(short, long)]
    pub follow: bool,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// Print the findings as JSON.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Version {
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

#[derive(Debug, Args)]
pub struct Completions {
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub struct Man {
    /// Folder for the pages; it must exist.
    pub folder: PathBuf,
}

/// An empty id would be taken for none.
fn given(id: &str) -> Result<String, String> {
    match id.is_empty() {
        true => Err("an id is not empty".to_owned()),
        false => Ok(id.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory as _};

    #[test]
    fn the_flags_of_callers_of_runc_are_taken() {
        let said = |words: &[&str]| {
            let words = ["hutch"].iter().chain(words);
            Cli::try_parse_from(words).unwrap()
        };

        let cli = said(&["--rootless", "auto", "--criu", "/sbin/criu", "list"]);
        let run = said(&[
            "--rootless=false",
            "--criu",
            "",
            "run",
            "--no-subreaper",
            "web",
        ]);

        assert_eq!(cli.rootless, Some(Rootless::Auto));
        assert_eq!(cli.criu.as_deref(), Some("/sbin/criu"));
        assert_eq!(run.rootless, Some(Rootless::No));
        assert!(matches!(run.verb, Verb::Run(run) if run.no_subreaper));
    }

    #[test]
    fn rootless_is_taken_in_every_word_of_runcs_but_those_for_true() {
        for word in ["", "auto", "AUTO", "0", "f", "FALSE"] {
            assert!(rootless(word).is_ok(), "{word:?}");
        }
        for word in ["1", "t", "true", "TRUE"] {
            let why = rootless(word).unwrap_err();
            assert!(why.starts_with("rootless is not supported"), "{word:?}");
        }
        for word in ["maybe", "no", "tRUE"] {
            assert_eq!(rootless(word), Err("true, false or auto"), "{word:?}");
        }
    }

    /// What a verb takes must not change what it says of itself: `verbs` lists each as it was declared.
    fn check(mut verbs: Command) {
        let listed = verbs.render_help().to_string();
        let mut built = verbs.clone();
        built.build();
        for verb in built.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let long = verb.clone().render_long_help().to_string();
            let first = long.lines().next().unwrap_or_default();
            let name = verb.get_name();
            assert!(
                listed.contains(first),
                "{name}: {first:?} is not in {listed}"
            );
        }
        for verb in verbs.get_subcommands() {
            check(verb.clone());
        }
    }

    #[test]
    fn the_help_of_every_verb_begins_with_what_it_does() {
        check(Cli::command());
    }
}

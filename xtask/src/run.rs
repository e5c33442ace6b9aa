//! `cargo xtask run`: a command in a container in a fresh VM, from whatever state the machine is in.
//!
//! Our own words go to standard error; standard output belongs to the command.

use crate::{
    assets::{self, Assets},
    bundle, daemon,
    scratch::Scratch,
    workspace::Workspace,
};
use anyhow::{Context, Result, bail};
use clap::Args;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::{
    fs,
    io::IsTerminal,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
};

/// Short, since sockets below it must stay within 107 bytes.
const STATE: &str = "/run/hutch-dev";
/// What a shell reports for a program that a signal ended.
const SIGNALLED: i32 = 128;

#[derive(Args)]
pub struct Arguments {
    /// Run in this root file system instead of busybox
    #[arg(long, value_name = "DIR", conflicts_with = "bundle")]
    rootfs: Option<PathBuf>,
    /// Run this OCI bundle; its config.json says what
    #[arg(long, value_name = "DIR", conflicts_with_all = ["command", "terminal"])]
    bundle: Option<PathBuf>,
    /// Give the command a terminal
    #[arg(short = 't', long = "tty")]
    terminal: bool,
    /// State folder of the daemon, which is started if none runs there
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// The command and its arguments
    #[arg(
        value_name = "CMD",
        trailing_var_arg = true,
        required_unless_present = "bundle"
    )]
    command: Vec<String>,
}

pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<ExitCode> {
    let scratch = Scratch::new()?;
    let assets = assets::ensure(workspace)?;
    let bundle = bundle_of(arguments, scratch.path())?;
    daemon::retire_older(&arguments.state, &assets.binaries.hutchd)?;
    let id = format!("xtask-{}", std::process::id());
    let status = foreground(
        hutch(&assets, &arguments.state)
            .args(["run", "--bundle"])
            .arg(bundle)
            .arg(id),
    )?;
    Ok(ExitCode::from(exit_code(status)))
}

/// The command line with this checkout's daemon and assets.
fn hutch(assets: &Assets, state: &Path) -> Command {
    let mut command = Command::new(&assets.binaries.hutch);
    command
        .env(assets::VARIABLE, &assets.folder)
        .arg("--root")
        .arg(state);
    command
}

fn bundle_of(arguments: &Arguments, scratch: &Path) -> Result<PathBuf> {
    if let Some(bundle) = &arguments.bundle {
        return fs::canonicalize(bundle)
            .with_context(|| format!("open bundle {}", bundle.display()));
    }
    let process = bundle::Process {
        args: &arguments.command,
        terminal: arguments.terminal,
    };
    match &arguments.rootfs {
        None => bundle::busybox(scratch, &process)?,
        Some(rootfs) => {
            let rootfs = fs::canonicalize(rootfs)
                .with_context(|| format!("open root file system {}", rootfs.display()))?;
            if !rootfs.is_dir() {
                bail!("root file system {} is not a folder", rootfs.display());
            }
            bundle::with_rootfs(scratch, &rootfs, &process)?;
        }
    }
    Ok(scratch.to_owned())
}

/// Runs it with our streams. We stay to clean up after it, so what would end us goes to it instead.
fn foreground(command: &mut Command) -> Result<ExitStatus> {
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])
        .context("watch for signals")?;
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", command.get_program().display()))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let from_terminal = std::io::stdin().is_terminal();
    let handle = signals.handle();
    let forwarder = std::thread::spawn(move || {
        for number in &mut signals {
            // A terminal sends these to the whole foreground group: the child has them already.
            if from_terminal && matches!(number, SIGINT | SIGQUIT) {
                continue;
            }
            if let Ok(signal) = Signal::try_from(number) {
                // A child that just ended needs no signal.
                let _ = kill(pid, signal);
            }
        }
    });
    let status = child.wait().context("wait for hutch");
    handle.close();
    forwarder.join().expect("the forwarder does not panic");
    status
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or_default());
    u8::try_from(code).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_of_the_command_is_ours() {
        let code = |raw| exit_code(ExitStatus::from_raw(raw));

        assert_eq!(code(7 << 8), 7);
        assert_eq!(code(255 << 8), 255);
        assert_eq!(code(9), 137);
    }

    #[test]
    fn a_foreground_command_is_waited_for() {
        let status = foreground(Command::new("sh").args(["-c", "exit 7"])).unwrap();

        assert_eq!(status.code(), Some(7));
    }

    #[test]
    fn a_root_file_system_that_is_not_there_is_named() {
        let scratch = Scratch::new().unwrap();
        let arguments = Arguments {
            rootfs: Some("/no/such/folder".into()),
            bundle: None,
            terminal: false,
            state: STATE.into(),
            command: vec!["true".into()],
        };

        let error = bundle_of(&arguments, scratch.path()).unwrap_err();

        let text = format!("{error:#}");
        assert!(
            text.starts_with("open root file system /no/such/folder"),
            "{text}"
        );
    }
}

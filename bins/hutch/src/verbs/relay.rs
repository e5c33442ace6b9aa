//! Who stands for a process on the host: this program in the foreground, or a relay left behind.

use crate::daemon::{Daemon, socket_path, soon};
use anyhow::{Context as _, Result, bail};
use hutch_relay::{Outcome, Relay, Session, Stdio, VM_LOST};
use protocols::blocking::hutch::{
    AttachRequest, ExitedRequest, ProcessRef, StreamAddress, WaitRequest,
};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process,
    time::Duration,
};

/// How long the guest may take to answer on a fresh stream; emulated guests are slow, not silent.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// How long the daemon may take to say how a process ended whose stream is gone: it may have to be
/// started, and the VM's end to be noticed.
const EXIT_MAX: Duration = Duration::from_secs(30);

/// A process, and how it is to be stood for.
pub struct Stands<'a> {
    pub process: ProcessRef,
    pub stream: StreamAddress,
    pub terminal: bool,
    pub console_socket: Option<&'a Path>,
    pub pid_file: Option<&'a Path>,
}

impl Stands<'_> {
    fn address(&self) -> hutch_relay::StreamAddress {
        hutch_relay::StreamAddress {
            socket: PathBuf::from(&self.stream.socket),
            connect_port: self.stream.connect_port,
        }
    }
}

/// Field 22 of a process's stat line. proc(5).
pub fn start_time(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The second field is a name in parentheses and may hold anything, also parentheses.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields);
    let field = fields.and_then(|fields| fields.split(' ').nth(19));
    let start = field.and_then(|field| field.parse().ok());
    start.with_context(|| format!("{path} has no start time"))
}

fn attach(daemon: &mut Daemon, process: &ProcessRef, pid: u32) -> Result<()> {
    let request = AttachRequest {
        process: Some(process.clone()).into(),
        relay_pid: pid,
        relay_start_time: start_time(pid)?,
        ..Default::default()
    };
    daemon.ask(|client| client.attach(soon(), &request))?;
    Ok(())
}

/// This very program stands for the process.
pub fn attach_self(daemon: &mut Daemon, stands: &Stands<'_>) -> Result<()> {
    attach(daemon, &stands.process, process::id())?;
    match stands.pid_file {
        Some(path) => write_pid_file(path, process::id()),
        None => Ok(()),
    }
}

/// Whole or not at all, and last: its existence means that the container is there.
pub fn write_pid_file(path: &Path, pid: u32) -> Result<()> {
    let about = || format!("write pid file {}", path.display());
    let name = path.file_name().with_context(about)?.to_string_lossy();
    let fresh = path.with_file_name(format!(".{name}.{}", process::id()));
    let written = fs::File::create(&fresh)
        .and_then(|mut file| write!(file, "{pid}"))
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // It may not have come to be.
        let _ = fs::remove_file(&fresh);
    }
    written.with_context(about)
}

/// Relays until the process has exited; its exit code.
pub fn foreground(daemon: &mut Daemon, stands: Stands<'_>) -> Result<u8> {
    let stdio =
        hutch_relay::take_stdio_keeping_stderr().context("take standard input and output")?;
    let mut session = Session::new(stands.address(), stdio, ANSWER_MAX);
    session.terminal = stands.terminal;
    let report = Relay::open(session)?.run()?;
    match report.outcome {
        Outcome::Exited(code) => {
            let request = ExitedRequest {
                process: Some(stands.process.clone()).into(),
                code: u32::from(code),
                ..Default::default()
            };
            // The exit is known; a daemon that is away learns it from the guest.
            let _ = daemon.ask(|client| client.exited(soon(), &request));
            Ok(code)
        }
        Outcome::Lost => lost(daemon, stands.process),
    }
}

/// The stream is gone for good: the daemon knows why.
fn lost(daemon: &mut Daemon, process: ProcessRef) -> Result<u8> {
    let request = WaitRequest {
        process: Some(process).into(),
        ..Default::default()
    };
    let limit = || ttrpc::context::with_duration(EXIT_MAX);
    let answer = daemon.ask(|client| client.wait(limit(), &request))?;
    let exit = answer.exit.unwrap_or_default();
    if !exit.detail.is_empty() {
        eprintln!("hutch: {}", exit.detail);
    }
    Ok(u8::try_from(exit.code).unwrap_or(VM_LOST))
}

/// Leaves a relay behind that stands for the process.
pub fn leave(daemon: &mut Daemon, stands: Stands<'_>) -> Result<()> {
    let _ = (daemon, socket_path as fn(&Path) -> PathBuf, Stdio::terminal);
    let _ = stands.console_socket;
    bail!("relay")
}

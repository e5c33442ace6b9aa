//! Who stands for a process on the host: this program in the foreground, or a relay left behind.

use crate::{
    daemon::{Daemon, socket_path, soon},
    log::one_line,
};
use anyhow::{Context as _, Result, bail};
use hutch_relay::{HostProcess, Outcome, Place, Relay, Session, VM_LOST};
use nix::unistd::AccessFlags;
use proc::departure::{self, Departed};
use protocols::asynchronous::hutch::{
    AttachRequest, ExitInfo, ExitedRequest, ProcessRef, StreamAddress, WaitRequest,
};
use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, IsTerminal as _, PipeReader, PipeWriter, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::FileTypeExt as _,
    },
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
    pub terminal: bool,
    pub console_socket: Option<&'a Path>,
    pub pid_file: Option<&'a Path>,
    /// Made when the process was killed for want of memory.
    pub oom_note: Option<PathBuf>,
}

/// A relay that has been started, and waits to be told where the stream is: what it stands for is made meanwhile.
pub struct Waiting<'a> {
    child: Departed,
    ready: PipeReader,
    tell: Option<PipeWriter>,
    pid_file: Option<&'a Path>,
}

/// # Errors
/// A terminal that nobody would hold, or that there is nobody to type at; or a console socket without a terminal.
pub fn check_terminal(terminal: bool, detached: bool, socket: Option<&Path>) -> Result<()> {
    // runc's words for both.
    match (terminal, detached, socket) {
        (true, true, None) => {
            bail!("cannot allocate tty if runc will detach without setting console socket")
        }
        (false, _, Some(_)) | (_, false, Some(_)) => {
            bail!("cannot use console socket if runc will not detach or allocate tty")
        }
        (true, false, None) => check_own_terminal(),
        (true, true, Some(_)) | (false, _, None) => Ok(()),
    }
}

/// One of our standard files, or the terminal that controls us, as runc looks for it: else whatever reads from the
/// container's terminal would wait for ever.
fn check_own_terminal() -> Result<()> {
    if io::stderr().is_terminal() || io::stdout().is_terminal() || io::stdin().is_terminal() {
        return Ok(());
    }
    let about = "cannot allocate tty: this command has no terminal itself (open /dev/tty)";
    fs::File::open("/dev/tty").map(drop).context(about)
}

/// What can be known to fail is known before a machine boots for it.
///
/// # Errors
/// The pid file could not be written, or nothing could listen on the console socket.
pub fn check_files(pid_file: Option<&Path>, console_socket: Option<&Path>) -> Result<()> {
    if let Some(path) = pid_file {
        let about = || format!("write pid file {}", path.display());
        path.file_name()
            .context("not a file's name")
            .with_context(about)?;
        // The file's own folder may be this one, which has no name.
        let folder = std::path::absolute(path).with_context(about)?;
        let folder = folder.parent().unwrap_or(Path::new("/"));
        if !fs::metadata(folder).with_context(about)?.is_dir() {
            bail!("{}: {} is not a folder", about(), folder.display());
        }
    }
    if let Some(path) = console_socket {
        let about = || format!("console socket {}", path.display());
        let found = fs::metadata(path).with_context(about)?;
        if !found.file_type().is_socket() {
            bail!("{}: not a socket", about());
        }
    }
    Ok(())
}

/// This program, as the daemon is told of it.
///
/// # Errors
/// /proc does not show us.
pub fn myself() -> Result<HostProcess> {
    let myself = HostProcess::myself().context("read our start time")?;
    myself.context("this process is not in /proc")
}

/// This program stands for the process: it goes where a relay would be, so that whoever looks at its pid finds the
/// container's cgroup and the sandbox's network. It is there until its process has ended. Where it cannot be it says so,
/// and stands all the same.
pub fn sit(at: &super::Place, daemon: &mut Daemon, process: ProcessRef, myself: HostProcess) {
    let request = AttachRequest {
        process: Some(process).into(),
        relay_pid: myself.pid,
        relay_start_time: myself.start_time,
        ..Default::default()
    };
    let attached = daemon.ask(async |client| client.attach(soon(), &request).await);
    let sits = attached.and_then(|place| daemon.visit(&Place::of(place)));
    if let Err(why) = sits {
        at.log.warn(&format!("{why:#}"));
    }
}

/// Leaves where it [sat](sit). Whoever cannot keeps its container's cgroup, which whoever removes that will tell.
pub fn come_home(at: &super::Place, daemon: &mut Daemon) {
    if let Err(why) = daemon.come_home() {
        at.log.warn(&format!("{why:#}"));
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
pub fn foreground(
    at: &super::Place,
    daemon: &mut Daemon,
    stands: Stands<'_>,
    stream: &StreamAddress,
) -> Result<u8> {
    let stderr = nix::unistd::dup(io::stderr()).context("keep standard error")?;
    let stdio = hutch_relay::take_stdio().context("take standard input and output")?;
    let socket = PathBuf::from(&stream.socket);
    let address = hutch_relay::StreamAddress::read(socket, stream.connect_port);
    let mut session = Session::new(address, stdio, ANSWER_MAX);
    session.terminal = stands.terminal;
    let report = Relay::open(session).and_then(Relay::run);
    // The process is done with it; what is to be said now is ours.
    nix::unistd::dup2_stderr(stderr).context("take standard error back")?;
    // Nobody is stood for any more, and its cgroup may be on its way out.
    come_home(at, daemon);
    match report?.outcome {
        Outcome::Exited(code) => {
            let request = ExitedRequest {
                process: Some(stands.process).into(),
                code: u32::from(code),
                ..Default::default()
            };
            // The exit is known; a daemon that is away learns it from the guest.
            let _ = daemon.ask(async |client| client.exited(soon(), &request).await);
            Ok(code)
        }
        Outcome::Lost => lost(daemon, stands.process),
    }
}

/// How it ended, when the daemon knows.
pub fn exit(daemon: &mut Daemon, process: ProcessRef) -> Result<ExitInfo> {
    let request = WaitRequest {
        process: Some(process).into(),
        ..Default::default()
    };
    let limit = || ttrpc::context::with_duration(EXIT_MAX);
    let answer = daemon.ask(async |client| client.wait(limit(), &request).await)?;
    Ok(answer.exit.unwrap_or_default())
}

/// The stream is gone for good: the daemon knows why.
fn lost(daemon: &mut Daemon, process: ProcessRef) -> Result<u8> {
    let exit = exit(daemon, process)?;
    if !exit.detail.is_empty() {
        eprintln!("hutch: {}", one_line(&exit.detail));
    }
    Ok(u8::try_from(exit.code).unwrap_or(VM_LOST))
}

/// The relay beside this program, or in PATH.
fn program() -> PathBuf {
    let beside = env::current_exe()
        .ok()
        .map(|me| me.with_file_name("hutch-relay"));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| "hutch-relay".into())
}

/// What can be known before anything is made: whoever starts the relay does not wait until it runs.
fn check_program(program: &Path) -> Result<()> {
    let by_path = program.components().nth(1).is_some();
    match by_path {
        true => nix::unistd::access(program, AccessFlags::X_OK)
            .map_err(io::Error::from)
            .with_context(|| format!("start {}", program.display())),
        false => Ok(()),
    }
}

/// Starts a relay that is to stand for the process with our standard files.
///
/// # Errors
/// It could not be started.
pub fn prepare<'a>(daemon: &Daemon, stands: Stands<'a>) -> Result<Waiting<'a>> {
    let about = "make pipes to relay";
    let (ready, said) = io::pipe().context(about)?;
    let (told, tell) = io::pipe().context(about)?;
    let said = OwnedFd::from(said);
    let tell_of_start = said.try_clone().context(about)?;
    let program = program();
    check_program(&program)?;
    let mut words: Vec<OsString> = vec![program.into()];
    let mut give = |flag: &str, value: &dyn AsRef<OsStr>| {
        words.extend([flag.into(), value.as_ref().to_owned()]);
    };
    give("--hutchd", &socket_path(daemon.root()));
    give("--namespace", &stands.process.namespace);
    give("--container", &stands.process.container_id);
    if !stands.process.exec_id.is_empty() {
        give("--exec", &stands.process.exec_id);
    }
    if let Some(socket) = stands.console_socket {
        give("--console-socket", &socket);
    }
    if let Some(path) = &stands.oom_note {
        give("--oom-note", path);
    }
    give("--ready-fd", &said.as_raw_fd().to_string());
    give("--stream-fd", &told.as_raw_fd().to_string());
    if stands.terminal {
        words.push("--terminal".into());
    }
    // These ends are the relay's alone: nobody else must keep the pipes open.
    let inherited = vec![said, told.into()];
    let child = departure::depart(words, inherited, tell_of_start).context("start a relay")?;
    Ok(Waiting {
        child,
        ready,
        tell: Some(tell),
        pid_file: stands.pid_file,
    })
}

impl Waiting<'_> {
    /// As the daemon is told of it.
    ///
    /// # Errors
    /// /proc does not show it.
    pub fn relay(&self) -> Result<HostProcess> {
        let relay = HostProcess::of(self.child.pid()).context("read start time of relay")?;
        relay.context("the relay is not in /proc")
    }

    /// Leaves it behind; writes the pid file once it stands for the process.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn stand(mut self, stream: &StreamAddress) -> Result<()> {
        let spelled = hutch_relay::StreamAddress::spelled(&stream.socket, stream.connect_port);
        if let Some(mut tell) = self.tell.take() {
            // One that has ended says why.
            let _ = tell.write_all(spelled.as_bytes());
        }
        let mut text = String::new();
        let heard = self.ready.read_to_string(&mut text);
        heard.context("hear from relay")?;
        if text != "ready" {
            // It has said why, or died; either way it ends.
            let status = self.child.wait().context("wait for relay")?;
            match text.is_empty() {
                true => bail!("relay ended before it stood for the process ({status})"),
                false => bail!("relay: {text}"),
            }
        }
        match self.pid_file {
            Some(path) => write_pid_file(path, self.child.pid()),
            None => Ok(()),
        }
    }
}

impl Drop for Waiting<'_> {
    /// One that has nothing to stand for ends, and is not left to others.
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            drop(tell);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_needs_someone_who_holds_it() {
        assert!(check_terminal(true, true, None).is_err());
        assert!(check_terminal(false, true, Some(Path::new("/s"))).is_err());
        assert!(check_terminal(true, true, Some(Path::new("/s"))).is_ok());
        assert!(check_terminal(false, false, None).is_ok());
    }

    #[test]
    fn files_that_could_not_be_written_or_reached_are_refused_early() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();

        for bad in [
            folder.path().join("none/pid"),
            file.join("pid"),
            "..".into(),
        ] {
            assert!(check_files(Some(&bad), None).is_err(), "{}", bad.display());
        }
        for bad in [file.as_path(), &folder.path().join("none")] {
            assert!(check_files(None, Some(bad)).is_err(), "{}", bad.display());
        }
        assert!(check_files(Some(&file), None).is_ok());
        assert!(check_files(Some(Path::new("pid")), None).is_ok());
    }
}

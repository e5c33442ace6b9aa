//! Stands for one process of a guest on the host: has its files, gets its signals and ends with its
//! exit code. Started by `hutch create` and `hutch exec --detach`; waited for by whoever supervises
//! the pid file.

mod args;

use args::{Args, Stream};
use hutch_relay::daemon::{Daemon, Process};
use hutch_relay::{Outcome, Relay, Session, Stdio, StreamAddress, VM_LOST};
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::exit;
use std::time::Duration;

/// A daemon that is being restarted may take so long until it knows us.
const ATTACH_LIMIT: Duration = Duration::from_secs(10);

/// The exit code does not wait longer for the daemon than this.
const EXITED_LIMIT: Duration = Duration::from_secs(1);

/// When the VM is gone, the daemon learns it within a second or two; it may be being restarted.
const LOST_LIMIT: Duration = Duration::from_secs(5);

/// What a process is killed with for want of memory: SIGKILL.
const KILLED: u8 = 128 + 9;

fn main() {
    // A caller that already leads a session for us is fine.
    let _ = rustix::process::setsid();
    let args = match Args::parse(std::env::args_os().skip(1)) {
        Ok(args) => args,
        Err(wrong) => {
            eprintln!("hutch-relay: {wrong}");
            exit(i32::from(VM_LOST));
        }
    };
    let mut caller = args.ready_fd.and_then(inherited).map(File::from);
    let daemon = Daemon {
        socket: args.hutchd.clone(),
        process: Process {
            namespace: args.namespace.clone(),
            container_id: args.container.clone(),
            exec_id: args.exec.clone(),
        },
    };
    let code = match stand(&args, &daemon, &mut caller) {
        Ok(None) => exit(i32::from(VM_LOST)),
        Ok(Some(Outcome::Exited(code))) => {
            note_oom(&args, &daemon, code);
            code
        }
        Ok(Some(Outcome::Lost)) => {
            let exit = daemon.exit_of(LOST_LIMIT);
            exit.map_or(VM_LOST, |exit| exit.code)
        }
        Err(error) => {
            // Nothing has exited but us; a daemon that knows us sees that.
            tell(&mut caller, &chain(&*error));
            exit(i32::from(VM_LOST));
        }
    };
    // The daemon hears of it from the guest too; the code waits for nobody.
    let _ = daemon.exited(code, EXITED_LIMIT);
    exit(i32::from(code));
}

/// conmon cannot see the memory of a guest; a file of this name in the bundle is what it would leave, and what Podman
/// looks for. A daemon that does not answer in time costs the note, not the exit.
fn note_oom(args: &Args, daemon: &Daemon, code: u8) {
    let Some(path) = args.oom_note.as_deref().filter(|_| code == KILLED) else {
        return;
    };
    let exit = daemon.exit_of(EXITED_LIMIT);
    if exit.is_ok_and(|exit| exit.was_oom)
        && let Err(why) = File::create(path)
    {
        eprintln!("hutch-relay: note oom in {}: {why}", path.display());
    }
}

/// `None`: there is no process to stand for.
fn stand(
    args: &Args,
    daemon: &Daemon,
    caller: &mut Option<File>,
) -> Result<Option<Outcome>, Box<dyn Error>> {
    let inherited = hutch_relay::take_stdio()?;
    let stream = match &args.stream {
        Stream::Known(address) => address.clone(),
        Stream::ToldBy(number) => match told(*number)? {
            Some(address) => address,
            None => return Ok(None),
        },
    };
    let stdio = match &args.console_socket {
        Some(path) => {
            drop(inherited);
            Stdio::terminal(hutch_relay::open_console(path)?)?
        }
        None => inherited,
    };
    let greeted = Relay::greeting(Session {
        terminal: args.terminal,
        resume: args.resume,
        stdin_from: args.stdin_from,
        ..Session::new(stream, stdio, None)
    })?;
    daemon.attach(ATTACH_LIMIT)?.enter()?;
    // The guest has made the process already, and answers as it finds the time: nobody needs to wait for that.
    tell(caller, "ready");
    Ok(Some(greeted.join()?.run()?.outcome))
}

/// What the caller says once it knows where the stream is. `None`: it says nothing, since it failed or is gone.
fn told(number: i32) -> Result<Option<StreamAddress>, Box<dyn Error>> {
    let from = inherited(number).ok_or_else(|| format!("--stream-fd {number} is not open"))?;
    let text = std::io::read_to_string(File::from(from))?;
    match text.as_str() {
        "" => Ok(None),
        text => match StreamAddress::understood(text) {
            Some(address) => Ok(Some(address)),
            None => Err(format!("the stream's address is not understood: {text:?}").into()),
        },
    }
}

/// Says it once, and closes: a caller reads to the end.
fn tell(caller: &mut Option<File>, text: &str) {
    if let Some(mut caller) = caller.take() {
        // A caller that has gone does not need to know.
        let _ = caller.write_all(text.as_bytes());
    }
}

/// The error and its causes in one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// A descriptor that the caller left open for us, by its number; none of ours has it.
#[allow(unsafe_code)]
fn inherited(number: i32) -> Option<OwnedFd> {
    // SAFETY: fcntl looks at a number and changes nothing; above 2 and open, before we opened any
    // file, means that the caller meant it for us alone.
    unsafe {
        let is_open = number > 2 && libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) == 0;
        is_open.then(|| OwnedFd::from_raw_fd(number))
    }
}

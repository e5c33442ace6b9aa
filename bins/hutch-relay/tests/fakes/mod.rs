//! A guest behind a unix socket, as QEMU offers one: one peer at a time, and what a dead peer left
//! unread in its socket is lost. Its process is a real one. And a daemon that listens.

#![allow(dead_code)]

pub mod daemon;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use stream::{Channel, GuestEnd, Outputs, Request};
use tempfile::TempDir;

/// Long enough for a loaded machine; nothing waits for it when all is well.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Looks at a level until it is as wanted.
pub fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < until, "{what}: not within {LIMIT:?}");
        // tidy: this is the wait on a level
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Held while something is started: a descriptor that is meant for one child must not reach another.
pub static STARTING: Mutex<()> = Mutex::new(());

/// How the socket is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Serial,
    /// A `CONNECT` line comes first, and every connection is a new one in the guest too.
    Hybrid,
    /// AF_VSOCK, on this port.
    Vsock(u32),
}

fn listen(kind: Kind, socket: &Path) -> OwnedFd {
    let listener: OwnedFd = match kind {
        Kind::Serial | Kind::Hybrid => UnixListener::bind(socket).unwrap().into(),
        Kind::Vsock(port) => {
            let any = vsock::VMADDR_CID_ANY;
            let listener = vsock::VsockListener::bind_with_cid_port(any, port).unwrap();
            OwnedFd::from(listener)
        }
    };
    rustix::io::ioctl_fionbio(&listener, true).unwrap();
    listener
}

#[derive(Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    news: Condvar,
}

pub struct FakeGuest {
    pub dir: TempDir,
    pub pid: Pid,
    seen: Arc<Seen>,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// Whoever started us may have us ignore them (nohup); a guest's processes know nothing of that.
#[allow(unsafe_code)]
fn heed_hangups(command: &mut Command) {
    // SAFETY: signal(2) may be called between fork and exec, and runs no code of ours.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
            Ok(())
        });
    }
}

impl FakeGuest {
    pub fn run(outputs: Outputs, argv: &[&str]) -> Self {
        Self::start(Kind::Serial, outputs, argv)
    }

    pub fn start(kind: Kind, outputs: Outputs, argv: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(kind, &dir.path().join("p1.sock"));
        let starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new(argv[0]);
        command
            .args(&argv[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        heed_hangups(&mut command);
        let child = command.spawn().unwrap();
        drop(starting);
        let pid = Pid::from_child(&child);
        let seen = Arc::new(Seen::default());
        let (stop, stopped) = UnixStream::pair().unwrap();
        let port = Port {
            kind,
            listener: Some(listener),
            peer: None,
            end: GuestEnd::new(outputs),
            process: Process::new(child),
            seen: seen.clone(),
            stopped,
        };
        Self {
            dir,
            pid,
            seen,
            stop: Some(stop),
            thread: Some(std::thread::spawn(move || port.serve())),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("p1.sock")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The VM dies: its socket is gone, and so is the process.
    pub fn die(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    pub fn wait_for_request(&self, wanted: Request) {
        let seen = self.seen.requests.lock().unwrap();
        let missing = |seen: &mut Vec<Request>| !seen.contains(&wanted);
        let (seen, outcome) = self
            .seen
            .news
            .wait_timeout_while(seen, LIMIT, missing)
            .unwrap();
        assert!(!outcome.timed_out(), "{wanted:?} is not among {seen:?}");
    }
}

impl Drop for FakeGuest {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let outcome = thread.join();
            assert!(outcome.is_ok() || std::thread::panicking());
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
    }
}

struct Process {
    group: Pid,
    stdin: Option<OwnedFd>,
    outputs: [Option<OwnedFd>; 2],
    exit: UnixStream,
}

impl Process {
    fn new(mut child: Child) -> Self {
        let group = Pid::from_child(&child);
        let stdin = child.stdin.take().map(OwnedFd::from);
        let outputs = [
            child.stdout.take().map(OwnedFd::from),
            child.stderr.take().map(OwnedFd::from),
        ];
        for fd in stdin.iter().chain(outputs.iter().flatten()) {
            rustix::io::ioctl_fionbio(fd, true).unwrap();
        }
        let (mut told, exit) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let status = child.wait().unwrap();
            let signal = status.signal().map(|signal| 128 + signal);
            let code = status.code().or(signal).unwrap();
            let _ = told.write_all(&[u8::try_from(code).unwrap()]);
        });
        Self {
            group,
            stdin,
            outputs,
            exit,
        }
    }
}

struct Port {
    kind: Kind,
    listener: Option<OwnedFd>,
    peer: Option<UnixStream>,
    end: GuestEnd,
    process: Process,
    seen: Arc<Seen>,
    stopped: UnixStream,
}

const CHANNELS: [Channel; 2] = [Channel::Stdout, Channel::Stderr];

impl Port {
    fn serve(mut self) {
        let mut exited = false;
        while !self.wait(exited) {
            if self.peer.is_none() {
                self.accept();
            }
            self.read_peer();
            self.obey();
            self.write_stdin();
            exited = exited || self.look_for_exit();
            for (index, channel) in CHANNELS.into_iter().enumerate() {
                self.read_output(index, channel);
            }
            self.write_peer();
        }
    }

    /// True when it is time to stop.
    fn wait(&mut self, exited: bool) -> bool {
        let sending = !self.end.outgoing().is_empty();
        let mut fds = vec![PollFd::new(&self.stopped, PollFlags::IN)];
        match (&self.peer, &self.listener) {
            (Some(peer), _) if sending => {
                fds.push(PollFd::new(peer, PollFlags::IN | PollFlags::OUT))
            }
            (Some(peer), _) => fds.push(PollFd::new(peer, PollFlags::IN)),
            (None, Some(listener)) => fds.push(PollFd::new(listener, PollFlags::IN)),
            (None, None) => {}
        }
        if !exited {
            fds.push(PollFd::new(&self.process.exit, PollFlags::IN));
        }
        for (fd, channel) in self.process.outputs.iter().zip(CHANNELS) {
            if let Some(fd) = fd
                && self.end.room(channel) > 0
            {
                fds.push(PollFd::new(fd, PollFlags::IN));
            }
        }
        if let Some(stdin) = &self.process.stdin
            && !self.end.stdin().is_empty()
        {
            fds.push(PollFd::new(stdin, PollFlags::OUT));
        }
        rustix::event::poll(&mut fds, None).unwrap();
        !fds[0].revents().is_empty()
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let Ok(peer) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) else {
            return;
        };
        // Of another family perhaps: bytes come and go all the same.
        let mut peer = UnixStream::from(peer);
        if let Kind::Vsock(_) = self.kind {
            self.end.reconnected();
        }
        if self.kind == Kind::Hybrid {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                let mut byte = [0];
                peer.read_exact(&mut byte).unwrap();
                line.push(byte[0]);
            }
            assert_eq!(line, b"CONNECT 1025\n");
            peer.write_all(b"OK 1073741824\n").unwrap();
            self.end.reconnected();
        }
        peer.set_nonblocking(true).unwrap();
        self.peer = Some(peer);
    }

    fn read_peer(&mut self) {
        let mut buffer = [0; 65536];
        let Some(peer) = &mut self.peer else {
            return;
        };
        match rustix::io::read(&*peer, &mut buffer) {
            Ok(0) => self.peer = None,
            Ok(count) => {
                // A frame that a dead relay cut off may leave a fault behind.
                let _ = self.end.feed(&buffer[..count]);
            }
            Err(Errno::AGAIN) => {}
            Err(_) => self.peer = None,
        }
    }

    fn write_peer(&mut self) {
        if let Some(peer) = &mut self.peer
            && let bytes @ [_, ..] = self.end.outgoing()
            && let Ok(count) = rustix::io::write(&*peer, bytes)
        {
            self.end.sent(count);
        }
    }

    fn obey(&mut self) {
        while let Some(request) = self.end.next_request() {
            match request {
                Request::Signal(number) => {
                    let signal = Signal::from_named_raw(i32::try_from(number).unwrap()).unwrap();
                    let _ = kill_process_group(self.process.group, signal);
                }
                Request::Resize(_) => {}
                Request::CloseOutput(Channel::Stdout) => self.process.outputs[0] = None,
                Request::CloseOutput(_) => self.process.outputs[1] = None,
            }
            self.seen.requests.lock().unwrap().push(request);
            self.seen.news.notify_all();
        }
    }

    fn write_stdin(&mut self) {
        if let Some(stdin) = &self.process.stdin
            && let bytes @ [_, ..] = self.end.stdin()
        {
            match rustix::io::write(stdin, bytes) {
                Ok(count) => self.end.stdin_taken(count),
                Err(Errno::AGAIN) => {}
                Err(_) => {
                    self.end.stdin_closed();
                    self.process.stdin = None;
                }
            }
        }
        if self.end.stdin_is_over() {
            self.process.stdin = None;
        }
    }

    fn look_for_exit(&mut self) -> bool {
        let mut code = [0];
        self.process.exit.set_nonblocking(true).unwrap();
        let exited = matches!(self.process.exit.read(&mut code), Ok(1));
        if exited {
            self.end.exited(u32::from(code[0]));
        }
        exited
    }

    fn read_output(&mut self, index: usize, channel: Channel) {
        let Some(fd) = &self.process.outputs[index] else {
            self.end.output_ended(channel);
            return;
        };
        let mut buffer = [0; 65536];
        let room = self.end.room(channel).min(buffer.len());
        if room == 0 {
            return;
        }
        match rustix::io::read(fd, &mut buffer[..room]) {
            Ok(0) => {
                self.process.outputs[index] = None;
                self.end.output_ended(channel);
            }
            Ok(count) => assert_eq!(self.end.output(channel, &buffer[..count]), count),
            Err(Errno::AGAIN) => self.end.output_dry(channel),
            Err(errno) => panic!("read {channel}: {errno}"),
        }
    }
}

/// A terminal: master and slave.
pub fn open_terminal() -> (OwnedFd, OwnedFd) {
    let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let slave = File::options()
        .read(true)
        .write(true)
        .open(Path::new(name.to_str().unwrap()))
        .unwrap();
    (master, slave.into())
}

pub fn is_raw(terminal: impl AsFd) -> bool {
    let modes = rustix::termios::tcgetattr(terminal).unwrap();
    !modes
        .local_modes
        .contains(rustix::termios::LocalModes::ICANON)
}

pub fn set_size(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = rustix::termios::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).unwrap();
}

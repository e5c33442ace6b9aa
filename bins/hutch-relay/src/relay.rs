//! The loop: polls the files, the socket and the signals, and moves bytes between them and the
//! reader machine. Decides nothing about bytes; the machine does.
//!
//! ```text
//!   open ──► joined (the guest has answered) ── run ──► exited │ lost
//!              ▲ │ link breaks
//!              └─┘ a bounded number of times
//! ```

use crate::{
    error::{RelayError, doing},
    files::{Sink, Source},
    link::{Change, Link},
    session::{BrokenOutput, Outcome, Report, Session, Stdio, VM_LOST},
    signals::{Arrived, Signals},
    terminal::{self, RawTerminal},
};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};
use stream::{Channel, Fault, Nonce, Padding, Reader};

const SIGHUP: u32 = libc::SIGHUP as u32;

/// One read: two frames.
const BUFFER_LEN: usize = 64 * 1024;

/// A guest that breaks the protocol is greeted anew so many times in all: it may have lost its place.
const FAULTS_MAX: u32 = 5;

/// A guest that does not answer the first HELLO for so long may have taken it for a part of what one before us began and
/// did not end, as it was killed: it is greeted again, behind enough to end anything.
const DOUBT: Duration = Duration::from_secs(1);

/// A stream that was silent for so long gives its buffers back.
const IDLE: Duration = Duration::from_secs(1);

/// Removed containers' exits come within milliseconds: a guest has so long to tell it, whatever else it says. A reader has
/// as long for what has come, anew with each write that he makes room for. The container's cgroup waits for both.
const DISMISSAL: Duration = Duration::from_secs(5);

/// So long is the guest told that its exit has arrived; it does not matter much.
const FAREWELL: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Relay {
    reader: Reader,
    link: Link,
    stdin: Option<Source>,
    outputs: [Output; 2],
    signals: Signals,
    terminal: Terminal,
    raw: Option<RawTerminal>,
    buffer: Box<[u8]>,
    activity: Activity,
    faults: u32,
    broken: Vec<BrokenOutput>,
    dismissed: Option<Dismissed>,
}

/// A relay whose guest was greeted, and may not have answered: until then none of its files is touched.
#[derive(Debug)]
pub struct Greeted {
    relay: Relay,
    stdio: Stdio,
    answer_limit: Option<Duration>,
}

/// The container is gone, and perhaps the guest says how the process ended.
#[derive(Debug, Clone, Copy)]
struct Dismissed {
    exit_code: u8,
    /// The guest is heard until then.
    until: Instant,
    /// Readers are waited for until then, once the guest is not heard any more.
    readers_until: Instant,
}

/// What the user sits at, if it is one.
#[derive(Debug)]
enum Terminal {
    None,
    Ours(OwnedFd),
    /// Its end was read before the kernel's own SIGHUP came, and the process was told.
    HungUp,
}

#[derive(Debug)]
struct Output {
    channel: Channel,
    sink: Option<Sink>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activity {
    /// Something moved since the last poll.
    Busy,
    Trimmed,
}

/// Whether the first HELLO was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    Unspoken,
    Due(Instant),
    Spoken,
}

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Signals,
    Link,
    Stdin,
    Output(usize),
}

impl Relay {
    /// Connects, greets the guest and waits for its answer.
    ///
    /// # Errors
    /// As [`Self::greeting`] and [`Greeted::join`].
    pub fn open(session: Session) -> Result<Self, RelayError> {
        Self::greeting(session)?.join()
    }

    /// Connects and greets the guest, and does not wait for its answer. Signals wait for the guest from here on.
    ///
    /// # Errors
    /// When nobody will ever listen there, or there are no file descriptors left.
    pub fn greeting(session: Session) -> Result<Greeted, RelayError> {
        let Session {
            stream,
            stdio,
            terminal,
            resume,
            stdin_from,
            answer_limit,
        } = session;
        let now = Instant::now();
        let signals = Signals::open()?;
        let terminal = match (terminal, &stdio.stdin) {
            (true, Some(fd)) if rustix::termios::isatty(fd) => {
                let copy = rustix::io::fcntl_dupfd_cloexec(fd, 3);
                Terminal::Ours(copy.map_err(doing("copy terminal"))?)
            }
            (true | false, _) => Terminal::None,
        };
        let mut relay = Self {
            reader: Reader::new(resume, stdin_from),
            link: Link::new(stream, now),
            stdin: None,
            outputs: [Channel::Stdout, Channel::Stderr].map(|channel| Output {
                channel,
                sink: None,
            }),
            signals,
            terminal,
            raw: None,
            buffer: vec![0; BUFFER_LEN].into_boxed_slice(),
            activity: Activity::Busy,
            faults: 0,
            broken: Vec::new(),
            dismissed: None,
        };
        relay.resize();
        let change = relay.link.advance(now);
        relay.greet(change)?;
        relay.write_link();
        relay.expect_link()?;
        Ok(Greeted {
            relay,
            stdio,
            answer_limit,
        })
    }

    fn expect_link(&self) -> Result<(), RelayError> {
        match self.link.lost() {
            Some(source) => Err(RelayError::Connect {
                address: self.link.address().clone(),
                source,
            }),
            None => Ok(()),
        }
    }

    /// `None`: as long as there is a guest.
    fn answered(&mut self, limit: Option<Duration>) -> Result<(), RelayError> {
        let until = limit.map(|limit| Instant::now() + limit);
        let mut doubt = Doubt::Unspoken;
        while !self.reader.is_established() {
            if self.link.lost().is_some() && (self.dismissed.is_some() || limit.is_none()) {
                // Nobody will answer, and what became of the process is known.
                break;
            }
            self.expect_link()?;
            if let (Some(limit), Some(until)) = (limit, until)
                && until <= Instant::now()
            {
                return Err(RelayError::NoAnswer {
                    address: self.link.address().clone(),
                    limit,
                });
            }
            let doubtful = match (doubt, self.link.socket()) {
                (Doubt::Unspoken, Some(_)) => {
                    let at = Instant::now() + DOUBT;
                    doubt = Doubt::Due(at);
                    Some(at)
                }
                (Doubt::Due(at), _) => Some(at),
                (Doubt::Unspoken | Doubt::Spoken, _) => None,
            };
            self.step([doubtful, until].into_iter().flatten().min())?;
            if let Doubt::Due(at) = doubt
                && at <= Instant::now()
            {
                doubt = Doubt::Spoken;
                // A connection that broke meanwhile was followed by one that brought padding.
                if self.link.socket().is_some() && !self.reader.is_established() {
                    self.greet(Change::Up(Padding::Full))?;
                }
            }
        }
        Ok(())
    }

    fn take_files(&mut self, stdio: Stdio) -> Result<(), RelayError> {
        self.stdin = stdio.stdin.map(Source::new);
        if self.stdin.is_none() {
            self.reader.end_stdin();
        }
        for (output, fd) in self.outputs.iter_mut().zip([stdio.stdout, stdio.stderr]) {
            let fd = match fd {
                Some(fd) => fd,
                None => open_null()?,
            };
            output.sink = Some(Sink::new(fd));
        }
        Ok(())
    }

    /// Relays until the process has exited and all its output up to there is written, or the VM is
    /// gone. A terminal is raw meanwhile.
    ///
    /// # Errors
    /// When poll itself or the guest's protocol fails for good.
    pub fn run(mut self) -> Result<Report, RelayError> {
        if let Terminal::Ours(terminal) = &self.terminal {
            let copy = rustix::io::fcntl_dupfd_cloexec(terminal, 3);
            self.raw = Some(RawTerminal::new(copy.map_err(doing("copy terminal"))?)?);
        }
        let outcome = loop {
            if let Some(code) = self.reader.exit() {
                break Outcome::Exited(u8::try_from(code).unwrap_or(VM_LOST));
            }
            if self.link.lost().is_some() && (!self.has_output() || self.is_overdue()) {
                break match self.dismissed {
                    Some(Dismissed { exit_code, .. }) => Outcome::Exited(exit_code),
                    None => Outcome::Lost,
                };
            }
            self.step(None)?;
        };
        self.say_farewell();
        Ok(Report {
            outcome,
            broken: self.broken,
        })
    }

    fn has_output(&self) -> bool {
        let mut outputs = self.outputs.iter();
        outputs.any(|output| !self.reader.output(output.channel).is_empty())
    }

    /// Tells the guest that its exit has arrived.
    fn say_farewell(&mut self) {
        let until = Instant::now() + FAREWELL;
        while !self.reader.is_exit_acknowledged() && Instant::now() < until {
            self.write_link();
            let Some(socket) = self.link.socket() else {
                return;
            };
            let mut fds = [PollFd::new(socket, PollFlags::OUT)];
            if poll(&mut fds, Some(until)).is_err() {
                return;
            }
        }
    }

    /// Waits for something to happen, and deals with it.
    fn step(&mut self, until: Option<Instant>) -> Result<(), RelayError> {
        let idle = match self.activity {
            Activity::Busy => Some(Instant::now() + IDLE),
            Activity::Trimmed => None,
        };
        let waits = [until, idle, self.link.due(), self.due_dismissal()];
        let until = waits.into_iter().flatten().min();
        let ready = self.wait(until).map_err(doing("poll files"))?;
        if ready.is_empty() && idle.is_some_and(|idle| idle <= Instant::now()) {
            self.rest();
        }
        self.close_ended();
        for slot in ready {
            self.activity = Activity::Busy;
            match slot {
                Slot::Signals => self.take_signals(),
                Slot::Link => self.serve_link()?,
                Slot::Stdin => self.read_stdin(),
                Slot::Output(index) => self.write_output(index),
            }
        }
        if self.link.lost().is_none() && self.is_overdue() {
            self.reader.disconnected();
            self.link.give_up();
        }
        let change = self.link.advance(Instant::now());
        self.greet(change)
    }

    /// When the guest, or then its readers, are waited for no longer.
    fn due_dismissal(&self) -> Option<Instant> {
        let is_heard = self.link.lost().is_none();
        self.dismissed.map(|one| match is_heard {
            true => one.until,
            false => one.readers_until,
        })
    }

    fn is_overdue(&self) -> bool {
        self.due_dismissal()
            .is_some_and(|due| due <= Instant::now())
    }

    /// Polls what there is interest in, and nothing else: a closed pipe is always ready.
    fn wait(&mut self, until: Option<Instant>) -> Result<Vec<Slot>, Errno> {
        let sending = self.link.is_connecting() || !self.reader.outgoing().is_empty();
        let mut slots = vec![Slot::Signals];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(socket) = self.link.readable() {
            let sending = if sending {
                PollFlags::OUT
            } else {
                PollFlags::empty()
            };
            slots.push(Slot::Link);
            fds.push(PollFd::from_borrowed_fd(socket, PollFlags::IN | sending));
        }
        if let Some(stdin) = &self.stdin
            && self.reader.stdin_room() > 0
        {
            slots.push(Slot::Stdin);
            fds.push(PollFd::new(stdin, PollFlags::IN));
        }
        for (index, output) in self.outputs.iter().enumerate() {
            if let Some(sink) = &output.sink
                && !self.reader.output(output.channel).is_empty()
            {
                slots.push(Slot::Output(index));
                fds.push(PollFd::new(sink, PollFlags::OUT));
            }
        }
        poll(&mut fds, until)?;
        let ready = slots.into_iter().zip(&fds);
        Ok(ready
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(slot, _)| slot)
            .collect())
    }

    /// Whoever reads an output learns that nothing will follow.
    fn close_ended(&mut self) {
        for output in &mut self.outputs {
            if self.reader.output_is_over(output.channel) {
                output.sink = None;
            }
        }
    }

    fn rest(&mut self) {
        if self.activity == Activity::Busy {
            self.reader.trim();
            proc::memory::give_back();
            self.activity = Activity::Trimmed;
        }
    }

    fn take_signals(&mut self) {
        for arrived in self.signals.read() {
            match arrived {
                Arrived::Forward(SIGHUP) => self.hang_up(),
                Arrived::Forward(number) => self.signal(number),
                Arrived::Resized => self.resize(),
                Arrived::Dismissed(exit_code) => {
                    let until = Instant::now() + DISMISSAL;
                    self.dismissed.get_or_insert(Dismissed {
                        exit_code,
                        until,
                        readers_until: until,
                    });
                }
                Arrived::Continued => {
                    if let Some(raw) = &self.raw {
                        // The terminal may be gone; then its end is read next.
                        let _ = raw.apply();
                    }
                    self.resize();
                }
            }
        }
    }

    fn signal(&mut self, number: u32) {
        // A guest that takes no signals for so long has more of them than it can use.
        let _ = self.reader.signal(number);
    }

    /// A terminal that hangs up says so twice, and the process hears it once.
    fn hang_up(&mut self) {
        match &self.terminal {
            Terminal::HungUp => self.terminal = Terminal::None,
            Terminal::Ours(terminal) if terminal::is_hung_up(terminal) => {
                self.terminal = Terminal::None;
                self.signal(SIGHUP);
            }
            Terminal::Ours(_) | Terminal::None => self.signal(SIGHUP),
        }
    }

    fn resize(&mut self) {
        if let Terminal::Ours(terminal) = &self.terminal
            && let Some(size) = terminal::size_of(terminal)
        {
            self.reader.resize(size);
        }
    }

    fn serve_link(&mut self) -> Result<(), RelayError> {
        let change = self.link.take_answer(Instant::now());
        self.greet(change)?;
        self.write_link();
        self.read_link()
    }

    fn greet(&mut self, change: Change) -> Result<(), RelayError> {
        match change {
            Change::Nothing => {}
            Change::Up(padding) => {
                self.reader.connected(fresh_nonce()?, padding);
                self.activity = Activity::Busy;
            }
        }
        Ok(())
    }

    fn read_link(&mut self) -> Result<(), RelayError> {
        let Some(socket) = self.link.socket() else {
            return Ok(());
        };
        match rustix::io::read(socket, &mut *self.buffer) {
            Ok(0) => self.unlink(Errno::CONNRESET),
            Ok(count) => match self.reader.feed(&self.buffer[..count]) {
                Ok(()) if self.reader.is_established() => self.link.proven(),
                Ok(()) => {}
                Err(fault) => return self.condemn(fault),
            },
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(cause) => self.unlink(cause),
        }
        Ok(())
    }

    fn write_link(&mut self) {
        let Some(socket) = self.link.socket() else {
            return;
        };
        let bytes = self.reader.outgoing();
        if bytes.is_empty() {
            return;
        }
        match rustix::io::write(socket, bytes) {
            Ok(count) => self.reader.sent(count),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(cause) => self.unlink(cause),
        }
    }

    /// The connection is gone. What has arrived is still written out.
    fn unlink(&mut self, cause: Errno) {
        self.reader.disconnected();
        self.link.broke(cause, Instant::now());
    }

    fn condemn(&mut self, fault: Fault) -> Result<(), RelayError> {
        self.unlink(Errno::PROTO);
        self.faults += 1;
        let hopeless = matches!(fault, Fault::Gone { .. } | Fault::Version { .. });
        if hopeless || self.faults > FAULTS_MAX {
            return Err(RelayError::Protocol {
                address: self.link.address().clone(),
                source: fault,
            });
        }
        Ok(())
    }

    fn read_stdin(&mut self) {
        let room = self.reader.stdin_room().min(self.buffer.len());
        let Some(stdin) = &self.stdin else {
            return;
        };
        match stdin.read(&mut self.buffer[..room]) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal that was hung up says EIO, perhaps before its SIGHUP is here.
            Ok(0) | Err(_) => {
                if let Terminal::Ours(_) = &self.terminal {
                    self.terminal = Terminal::HungUp;
                    self.signal(SIGHUP);
                }
                self.reader.end_stdin();
                self.stdin = None;
            }
            Ok(count) => {
                self.reader.stdin(&self.buffer[..count]);
            }
        }
    }

    fn write_output(&mut self, index: usize) {
        let output = &mut self.outputs[index];
        let Some(sink) = &output.sink else {
            return;
        };
        match sink.write(self.reader.output(output.channel)) {
            Ok(count) => {
                self.reader.output_taken(output.channel, count);
                // Whoever reads on gets all that has come.
                if let Some(dismissed) = &mut self.dismissed {
                    dismissed.readers_until = Instant::now() + DISMISSAL;
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => {
                self.reader.refuse_output(output.channel);
                self.broken.push(BrokenOutput {
                    channel: output.channel,
                    errno,
                });
            }
        }
    }
}

impl Greeted {
    /// Waits for the guest's answer.
    ///
    /// # Errors
    /// When nothing answers there in time.
    pub fn join(self) -> Result<Relay, RelayError> {
        let mut relay = self.relay;
        relay.answered(self.answer_limit)?;
        relay.take_files(self.stdio)?;
        Ok(relay)
    }
}

/// EINTR is nothing ready: the loop looks again.
fn poll(fds: &mut [PollFd<'_>], until: Option<Instant>) -> Result<(), Errno> {
    let timeout = until.map(|until| {
        let left = until.saturating_duration_since(Instant::now());
        Timespec::try_from(left).expect("a wait is shorter than an age")
    });
    match rustix::event::poll(fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Swallows an output that nobody asked for; the process must not notice.
fn open_null() -> Result<OwnedFd, RelayError> {
    let null = File::options().write(true).open("/dev/null");
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    Ok(null.map_err(errno).map_err(doing("open /dev/null"))?.into())
}

fn fresh_nonce() -> Result<Nonce, RelayError> {
    let mut bytes = [0; 16];
    let flags = rustix::rand::GetRandomFlags::empty();
    rustix::rand::getrandom(&mut bytes, flags).map_err(doing("get random bytes"))?;
    Ok(Nonce(bytes))
}

//! Carries the stdio of one process over its stream until the host has its exit.
//!
//! The machine at this end is `stream::GuestEnd`; here it is asked and told. One turn of
//! `Carrier::turn` tries everything once; when nothing moved, it waits for whatever may.

use super::{
    Near,
    pipe::Pipe,
    wire::{Wire, Woken},
};
use crate::ports::Attempt;
use nix::sys::termios::{LocalFlags, SpecialCharacterIndices, tcgetattr};
use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};
use stream::{Channel, GuestEnd, Outputs, Request, Winsize};
use tokio::{
    io::Interest,
    select,
    sync::watch,
    task::yield_now,
    time::{Instant, sleep_until},
};

/// One attempt at a pipe, and at the wire.
const BUFFER: usize = 32_768;

thread_local! {
    /// What is read goes on at once, so all carriers of a thread read into one buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}
/// An output that ended is told of with the exit, if that comes so soon: a process closes its files as it exits, and each
/// message of its own costs an emulated guest more than what it says.
const EXIT_FOLLOWS: Duration = Duration::from_millis(10);
/// Turns that moved something before others of the agent get theirs.
const TURNS: u32 = 4;
/// Turns after the container is gone: more than its pipes can hold. Whoever still writes has got them from it.
const LAST_TURNS: u32 = 64;

/// Sends a signal to the process.
pub type Kill = Box<dyn Fn(u32) + Send>;

pub struct Carrier {
    end: GuestEnd,
    wire: Wire,
    stdin: Option<Pipe>,
    stdout: Option<Pipe>,
    stderr: Option<Pipe>,
    console: Option<OwnedFd>,
    kill: Kill,
    stage: Stage,
    held: Option<HeldEnds>,
    /// Once the container is gone: so many turns more, in which what can be sent without waiting is sent, its exit
    /// above all.
    turns_left: Option<u32>,
}

/// Outputs that have ended, of which the host is not told yet.
#[derive(Debug)]
struct HeldEnds {
    channels: Vec<Channel>,
    /// When it is told at the latest.
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// The machine knows of the exit.
    Exited,
}

impl Carrier {
    pub fn new(near: Near, wire: Wire, kill: Kill) -> Self {
        let outputs = match near.console {
            Some(_) => Outputs::Terminal,
            None => Outputs::StdoutAndStderr,
        };
        Self {
            end: GuestEnd::new(outputs),
            wire,
            stdin: near.stdin,
            stdout: near.stdout,
            stderr: near.stderr,
            console: near.console,
            kill,
            stage: Stage::Running,
            held: None,
            turns_left: None,
        }
    }

    /// Carries until the host has acknowledged the exit, or `stop` is dropped: the container is
    /// gone, and nobody is waited for any more. `exit` has the exit code once there is one.
    ///
    /// # Errors
    /// The port was unplugged, or a pipe is of no more use.
    pub async fn carry(
        mut self,
        mut exit: watch::Receiver<Option<u32>>,
        mut stop: watch::Receiver<()>,
    ) -> io::Result<()> {
        let mut moved = 0;
        loop {
            self.note_exit(&mut exit);
            if self
                .held
                .as_ref()
                .is_some_and(|held| held.until <= Instant::now())
            {
                self.tell_ended();
            }
            if self.turn()? && self.may_turn_again() {
                moved += 1;
                if moved % TURNS == 0 {
                    yield_now().await;
                }
                continue;
            }
            if self.is_over() {
                return Ok(());
            }
            self.wait(&mut exit, &mut stop).await?;
        }
    }

    fn may_turn_again(&mut self) -> bool {
        self.turns_left = self.turns_left.map(|left| left.saturating_sub(1));
        self.turns_left != Some(0)
    }

    fn is_over(&mut self) -> bool {
        self.turns_left.is_some()
            || (self.end.is_exit_acknowledged() && self.end.outgoing().is_empty())
    }

    fn note_exit(&mut self, exit: &mut watch::Receiver<Option<u32>>) {
        if self.stage != Stage::Running {
            return;
        }
        if let Some(code) = *exit.borrow_and_update() {
            self.tell_ended();
            self.end.exited(code);
            self.stage = Stage::Exited;
            self.try_outputs_again();
        }
    }

    /// Only an attempt after the exit shows that all its output was read.
    fn try_outputs_again(&mut self) {
        for pipe in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            pipe.try_again();
        }
    }

    fn output_ended(&mut self, channel: Channel) {
        let held = self.held.get_or_insert_with(|| HeldEnds {
            channels: Vec::new(),
            until: Instant::now() + EXIT_FOLLOWS,
        });
        held.channels.push(channel);
        // No exit is waited for any more.
        if self.stage == Stage::Exited || self.turns_left.is_some() {
            self.tell_ended();
        }
    }

    fn tell_ended(&mut self) {
        for channel in self.held.take().into_iter().flat_map(|held| held.channels) {
            self.end.output_ended(channel);
        }
    }

    fn stop(&mut self) {
        self.tell_ended();
        self.turns_left = Some(LAST_TURNS);
        self.wire.try_again();
        self.try_outputs_again();
    }

    /// Tries everything once; whether anything moved.
    fn turn(&mut self) -> io::Result<bool> {
        let received = self.receive()?;
        self.obey();
        let stdout = self.read_output(Channel::Stdout)?;
        let stderr = self.read_output(Channel::Stderr)?;
        let stdin = self.write_stdin()?;
        let sent = self.send()?;
        Ok(received || stdout || stderr || stdin || sent)
    }

    fn receive(&mut self) -> io::Result<bool> {
        SCRATCH.with_borrow_mut(|buffer| {
            let count = self.wire.read(buffer)?;
            if let Err(fault) = self.end.feed(&buffer[..count]) {
                crate::note!("stdio stream: {fault}");
            }
            Ok(count > 0)
        })
    }

    fn send(&mut self) -> io::Result<bool> {
        let outgoing = self.end.outgoing();
        if outgoing.is_empty() {
            return Ok(false);
        }
        let count = self.wire.write(outgoing)?;
        self.end.sent(count);
        Ok(count > 0)
    }

    fn obey(&mut self) {
        while let Some(request) = self.end.next_request() {
            match request {
                Request::Signal(number) => (self.kill)(number),
                Request::Resize(size) => {
                    if let Some(console) = &self.console
                        && let Err(error) = resize(console.as_fd(), size)
                    {
                        crate::note!("resize a terminal: {error}");
                    }
                }
                Request::CloseOutput(Channel::Stdout) => self.stdout = None,
                Request::CloseOutput(Channel::Stderr) => self.stderr = None,
                Request::CloseOutput(Channel::Stdin | Channel::Control) => {}
            }
        }
    }

    fn read_output(&mut self, channel: Channel) -> io::Result<bool> {
        let pipe = match channel {
            Channel::Stderr => &mut self.stderr,
            Channel::Stdout | Channel::Stdin | Channel::Control => &mut self.stdout,
        };
        let room = self.end.room(channel).min(BUFFER);
        let Some(open) = pipe.as_mut().filter(|pipe| room > 0 && pipe.is_ready()) else {
            return Ok(false);
        };
        let attempt = SCRATCH.with_borrow_mut(|buffer| {
            let attempt = open.read(&mut buffer[..room])?;
            if let Attempt::Moved(count) = attempt {
                let taken = self.end.output(channel, &buffer[..count]);
                assert_eq!(taken, count, "no more is read than there is room for");
            }
            io::Result::Ok(attempt)
        });
        match attempt? {
            Attempt::Moved(_) => Ok(true),
            Attempt::Blocked => {
                self.end.output_dry(channel);
                Ok(false)
            }
            Attempt::Away => {
                *pipe = None;
                self.output_ended(channel);
                Ok(true)
            }
        }
    }

    fn write_stdin(&mut self) -> io::Result<bool> {
        let Some(pipe) = self.stdin.as_mut() else {
            return Ok(false);
        };
        let bytes = self.end.stdin();
        if bytes.is_empty() {
            if self.end.stdin_is_over() && pipe.is_ready() {
                return self.close_stdin();
            }
            return Ok(false);
        }
        if !pipe.is_ready() {
            return Ok(false);
        }
        match pipe.write(bytes)? {
            Attempt::Moved(count) => {
                self.end.stdin_taken(count);
                Ok(true)
            }
            Attempt::Blocked => Ok(false),
            Attempt::Away => {
                self.stdin = None;
                // What comes is dropped, and the host is told.
                self.end.stdin_closed();
                Ok(true)
            }
        }
    }

    /// A pipe ends by being closed, a terminal by a character, as from a keyboard.
    fn close_stdin(&mut self) -> io::Result<bool> {
        if let (Some(console), Some(pipe)) = (&self.console, self.stdin.as_mut())
            && let Some(character) = end_of_input(console.as_fd())
            && pipe.write(&[character])? == Attempt::Blocked
        {
            return Ok(false);
        }
        self.stdin = None;
        Ok(true)
    }

    async fn wait(
        &mut self,
        exit: &mut watch::Receiver<Option<u32>>,
        stop: &mut watch::Receiver<()>,
    ) -> io::Result<()> {
        let sending = !self.end.outgoing().is_empty();
        let stdout_wanted = self.end.room(Channel::Stdout) > 0;
        let stderr_wanted = self.end.room(Channel::Stderr) > 0;
        let stdin_wanted = !self.end.stdin().is_empty() || self.end.stdin_is_over();
        let running = self.stage == Stage::Running;
        let held_until = self.held.as_ref().map(|held| held.until);
        select! {
            biased;
            // Nothing is ever sent on it: it only closes.
            _ = stop.changed() => self.stop(),
            changed = exit.changed(), if running => if changed.is_err() {
                self.stop();
            },
            woken = self.wire.wait(sending) => if woken? == Woken::Replaced {
                self.end.reconnected();
            },
            () = wait(&mut self.stdout, Interest::READABLE), if stdout_wanted => {}
            () = wait(&mut self.stderr, Interest::READABLE), if stderr_wanted => {}
            () = wait(&mut self.stdin, Interest::WRITABLE), if stdin_wanted => {}
            // Looked at by the next turn.
            () = until(held_until) => {}
        }
        Ok(())
    }
}

async fn wait(pipe: &mut Option<Pipe>, interest: Interest) {
    match pipe {
        Some(pipe) => pipe.wait(interest).await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The character that ends the input of a terminal, if it reads lines.
fn end_of_input(console: BorrowedFd<'_>) -> Option<u8> {
    let modes = tcgetattr(console).ok()?;
    let lines = modes.local_flags.contains(LocalFlags::ICANON);
    lines.then(|| modes.control_chars[SpecialCharacterIndices::VEOF as usize])
}

nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);

/// Tells a terminal its size; the process hears SIGWINCH.
#[allow(unsafe_code)]
pub fn resize(console: BorrowedFd<'_>, size: Winsize) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the request reads one winsize, which outlives it.
    unsafe { set_size(console.as_raw_fd(), &raw const size) }?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::ProcessIo,
        ports::{Port, Reactor},
        stdio::{Terminal, prepare, wire::Flow},
    };
    use std::{
        fs::File,
        io::{Read, Write},
        os::unix::net::UnixStream,
    };
    use stream::{Nonce, Padding, Reader, Resume, StdinFrom};
    use tokio::task::JoinHandle;

    /// Nothing that should come may take longer, even on a loaded machine.
    const LIMIT: Duration = Duration::from_secs(20);

    /// A process whose host has greeted the guest and was answered.
    struct Joined {
        stdout: Option<File>,
        stderr: Option<File>,
        host: UnixStream,
        reader: Reader,
        exit: watch::Sender<Option<u32>>,
        stop: watch::Sender<()>,
        carrying: JoinHandle<io::Result<()>>,
    }

    impl Joined {
        async fn new() -> Self {
            let (near, host) = UnixStream::pair().unwrap();
            for end in [&near, &host] {
                end.set_nonblocking(true).unwrap();
            }
            let reactor = Reactor::start().unwrap();
            let port = Port::new(File::from(OwnedFd::from(near)), &reactor).unwrap();
            let (far, prepared) = prepare(Terminal::No).unwrap();
            let near = prepared.near(None).unwrap();
            let carrier = Carrier::new(near, Wire::Serial(Flow::new(port)), Box::new(|_| {}));
            let ProcessIo::Pipes { stdout, stderr, .. } = far else {
                panic!("no terminal was asked for");
            };
            let (exit, stop) = (watch::Sender::new(None), watch::Sender::new(()));
            let carrying = tokio::spawn(carrier.carry(exit.subscribe(), stop.subscribe()));
            let mut joined = Self {
                stdout: stdout.map(File::from),
                stderr: stderr.map(File::from),
                host,
                reader: Reader::new(Resume::Acked, StdinFrom::Next),
                exit,
                stop,
                carrying,
            };
            joined.greet().await;
            joined
        }

        async fn greet(&mut self) {
            self.reader.connected(Nonce([7; 16]), Padding::None);
            let greeting = self.reader.outgoing().to_vec();
            self.host.write_all(&greeting).unwrap();
            self.reader.sent(greeting.len());
            for _ in 0..100 {
                if self.reader.is_established() {
                    return;
                }
                self.hear().await;
            }
            panic!("the guest does not answer");
        }

        /// What the guest says meanwhile, if it says anything: so many bytes.
        async fn hear(&mut self) -> usize {
            // The runtime looks for what is ready once in so many turns of its tasks.
            for _ in 0..1000 {
                yield_now().await;
            }
            let mut said = [0; 4096];
            let count = self.host.read(&mut said).unwrap_or(0);
            self.reader.feed(&said[..count]).unwrap();
            count
        }
    }

    #[tokio::test]
    async fn a_process_that_ends_with_its_container_has_its_output_and_its_exit_sent() {
        let mut joined = Joined::new().await;

        let mut stdout = joined.stdout.take().unwrap();
        stdout.write_all(b"last words").unwrap();
        joined.exit.send_replace(Some(137));
        drop(joined.stop);
        let carried = tokio::time::timeout(LIMIT, joined.carrying).await;

        carried.unwrap().unwrap().unwrap();
        let mut sent = Vec::new();
        joined.host.read_to_end(&mut sent).unwrap();
        joined.reader.feed(&sent).unwrap();
        assert_eq!(joined.reader.output(Channel::Stdout), b"last words");
        joined.reader.output_taken(Channel::Stdout, 10);
        assert_eq!(joined.reader.exit(), Some(137));
    }

    // The clock stands while a task is at work.
    #[tokio::test(start_paused = true)]
    async fn outputs_that_end_as_the_process_exits_are_told_of_with_its_exit() {
        let mut joined = Joined::new().await;

        drop((joined.stdout.take(), joined.stderr.take()));
        assert_eq!(joined.hear().await, 0);
        joined.exit.send_replace(Some(3));
        joined.hear().await;

        assert_eq!(joined.reader.exit(), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_output_that_ends_is_told_of_soon_though_the_process_goes_on() {
        let mut joined = Joined::new().await;

        drop(joined.stdout.take());
        joined.hear().await;
        tokio::time::sleep(EXIT_FOLLOWS).await;
        joined.hear().await;

        assert!(joined.reader.output_is_over(Channel::Stdout));
        assert!(!joined.reader.output_is_over(Channel::Stderr));
    }
}

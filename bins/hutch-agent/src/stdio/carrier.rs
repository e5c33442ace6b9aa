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
};
use stream::{Channel, GuestEnd, Outputs, Request, Winsize};
use tokio::{io::Interest, select, sync::watch, task::yield_now};

/// One attempt at a pipe, and at the wire.
const BUFFER: usize = 32_768;

thread_local! {
    /// What is read goes on at once, so all carriers of a thread read into one buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into_boxed_slice());
}
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
    /// Once the container is gone: so many turns more, in which what can be sent without waiting is sent, its exit
    /// above all.
    turns_left: Option<u32>,
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

    fn stop(&mut self) {
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
                self.end.output_ended(channel);
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
        time::Duration,
    };
    use stream::{Nonce, Padding, Reader, Resume, StdinFrom};

    /// Nothing that should come may take longer, even on a loaded machine.
    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_process_that_ends_with_its_container_has_its_output_and_its_exit_sent() {
        let (near, mut host) = UnixStream::pair().unwrap();
        for end in [&near, &host] {
            end.set_nonblocking(true).unwrap();
        }
        let reactor = Reactor::start().unwrap();
        let port = Port::new(File::from(OwnedFd::from(near)), &reactor).unwrap();
        let (far, prepared) = prepare(Terminal::No).unwrap();
        let near = prepared.near(None).unwrap();
        let carrier = Carrier::new(near, Wire::Serial(Flow::new(port)), Box::new(|_| {}));
        let mut reader = Reader::new(Resume::Acked, StdinFrom::Next);
        reader.connected(Nonce([7; 16]), Padding::None);
        let greeting = reader.outgoing().to_vec();
        host.write_all(&greeting).unwrap();
        reader.sent(greeting.len());
        let (exit, stop) = (watch::Sender::new(None), watch::Sender::new(()));
        let carrying = tokio::spawn(carrier.carry(exit.subscribe(), stop.subscribe()));
        let mut said = [0; 4096];
        while !reader.is_established() {
            yield_now().await;
            if let Ok(count) = host.read(&mut said) {
                reader.feed(&said[..count]).unwrap();
            }
        }

        let ProcessIo::Pipes { stdout, .. } = far else {
            panic!("no terminal was asked for");
        };
        File::from(stdout.unwrap())
            .write_all(b"last words")
            .unwrap();
        exit.send_replace(Some(137));
        drop(stop);
        let carried = tokio::time::timeout(LIMIT, carrying).await;

        carried.unwrap().unwrap().unwrap();
        let mut sent = Vec::new();
        host.read_to_end(&mut sent).unwrap();
        reader.feed(&sent).unwrap();
        assert_eq!(reader.output(Channel::Stdout), b"last words");
        reader.output_taken(Channel::Stdout, 10);
        assert_eq!(reader.exit(), Some(137));
    }
}

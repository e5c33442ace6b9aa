//! The host's end of a process's stdio stream, which outlives its connections. No I/O: whoever owns
//! the socket and the files asks it what to do, and tells it what was done.
//!
//! ```text
//!             connected            WELCOME
//!   Apart ───────────────► Greeting ────────► Established
//!     ▲                        │ fault            │ fault
//!     └──────── disconnected ──┴── Failed ◄───────┘
//! ```
//!
//! Invariants:
//! - Output is acknowledged when it was taken, not when it came: what a dead reader had not written
//!   out is sent to the next one.
//! - Stdin is kept until the process took it, and after a reconnect goes on behind what had arrived.
//! - The exit shows once everything sent before it was taken, and then stays.

use crate::{
    decoder::HostDecoder,
    fault::Fault,
    frame::{
        Channel, Encoder, FRAME_MAX, Frame, Hello, Nonce, Padding, Resume, VERSION, Welcome,
        Winsize,
    },
    guest::SIGNALS_MAX,
    half::{ReceiveHalf, SendHalf},
    outgoing::Outgoing,
};
use std::collections::VecDeque;

/// Where what is written as stdin has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinFrom {
    /// Behind what the guest has received so far.
    Next,
    /// The source is read from this byte on: what the guest has of it is skipped.
    At(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{SIGNALS_MAX} signals wait for the guest already")]
pub struct SignalsFull;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    session: Session,
    origin: Origin,
    outgoing: Outgoing,
    stdin: SendHalf,
    stdout: ReceiveHalf,
    stderr: ReceiveHalf,
    exit: Exit,
    signals: Signals,
    winsize: Resize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Session {
    Apart,
    Greeting {
        encoder: Encoder,
        decoder: HostDecoder,
    },
    Established {
        encoder: Encoder,
        decoder: HostDecoder,
    },
    Failed,
}

/// Whether the offsets are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// No guest has answered yet.
    Wanted {
        resume: Resume,
        stdin: StdinFrom,
    },
    Settled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Unknown,
    /// It came when so much output had come.
    Received {
        code: u32,
        stdout: u64,
        stderr: u64,
    },
    /// All of that was taken. The guest is to be told.
    Shown {
        code: u32,
    },
    /// This session has told the guest.
    Acknowledged {
        code: u32,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Signals {
    /// Not acknowledged.
    waiting: VecDeque<u32>,
    acknowledged: u64,
    /// How many of those waiting were sent in this session.
    sent: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resize {
    Unknown,
    Untold(Winsize),
    Told(Winsize),
}

impl Reader {
    pub fn new(resume: Resume, stdin: StdinFrom) -> Self {
        Self {
            session: Session::Apart,
            origin: Origin::Wanted { resume, stdin },
            outgoing: Outgoing::default(),
            stdin: SendHalf::new(Channel::Stdin),
            stdout: ReceiveHalf::new(Channel::Stdout),
            stderr: ReceiveHalf::new(Channel::Stderr),
            exit: Exit::Unknown,
            signals: Signals::default(),
            winsize: Resize::Unknown,
        }
    }

    /// There is a connection: greets the guest. `nonce` is fresh random bytes. What came before and
    /// was not taken will come again.
    pub fn connected(&mut self, nonce: Nonce, padding: Padding) {
        self.disconnected();
        self.stdout.forget_untaken();
        self.stderr.forget_untaken();
        self.exit = match self.exit {
            Exit::Unknown | Exit::Received { .. } => Exit::Unknown,
            Exit::Shown { code } | Exit::Acknowledged { code } => Exit::Shown { code },
        };
        let resume = match self.origin {
            Origin::Wanted { resume, .. } => resume,
            Origin::Settled => Resume::At {
                stdout: self.stdout.taken_offset(),
                stderr: self.stderr.taken_offset(),
            },
        };
        let encoder = Encoder::new(nonce);
        let hello = Hello {
            nonce,
            version: VERSION,
            resume,
        };
        padding.write(&mut self.outgoing.bytes);
        encoder.encode(&Frame::Hello(hello), &mut self.outgoing.bytes);
        self.session = Session::Greeting {
            encoder,
            decoder: HostDecoder::new(nonce),
        };
    }

    /// The connection is gone. What came can still be taken: there may never be another one.
    pub fn disconnected(&mut self) {
        self.session = Session::Apart;
        self.outgoing.clear();
    }

    pub fn is_established(&self) -> bool {
        matches!(self.session, Session::Established { .. })
    }

    /// Takes bytes that came from the guest, all of them.
    ///
    /// # Errors
    /// This session is over: connect again.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        // The frame borrows the decoder and the rest of the machine reacts to it.
        let session = std::mem::replace(&mut self.session, Session::Failed);
        self.session = match session {
            Session::Apart => Session::Apart,
            Session::Failed => Session::Failed,
            Session::Greeting {
                encoder,
                mut decoder,
            } => {
                if !self.greeted(&mut decoder, &mut bytes)? {
                    Session::Greeting { encoder, decoder }
                } else {
                    self.read_frames(&mut decoder, &mut bytes)?;
                    Session::Established { encoder, decoder }
                }
            }
            Session::Established {
                encoder,
                mut decoder,
            } => {
                self.read_frames(&mut decoder, &mut bytes)?;
                Session::Established { encoder, decoder }
            }
        };
        Ok(())
    }

    /// Whether the answer to our HELLO is here.
    fn greeted(&mut self, decoder: &mut HostDecoder, bytes: &mut &[u8]) -> Result<bool, Fault> {
        match decoder.read(bytes)? {
            None => Ok(false),
            Some(Frame::Welcome(welcome)) => self.welcomed(&welcome).map(|()| true),
            Some(other) => Err(Fault::OutOfPlace { kind: other.kind() }),
        }
    }

    fn read_frames(&mut self, decoder: &mut HostDecoder, bytes: &mut &[u8]) -> Result<(), Fault> {
        while let Some(frame) = decoder.read(bytes)? {
            self.follow(frame)?;
        }
        Ok(())
    }

    fn welcomed(&mut self, welcome: &Welcome) -> Result<(), Fault> {
        let (received, acked) = (welcome.stdin_received, welcome.stdin_acked);
        let (unknown, signals_unknown) = (welcome.stdin_unknown, welcome.signals_unknown);
        match self.origin {
            Origin::Wanted { resume, stdin } => {
                if let Resume::At { stdout, stderr } = resume {
                    self.stdout.settle(stdout);
                    self.stderr.settle(stderr);
                    expect_from(Channel::Stdout, &self.stdout, welcome.stdout_from)?;
                    expect_from(Channel::Stderr, &self.stderr, welcome.stderr_from)?;
                }
                self.stdout.settle(welcome.stdout_from);
                self.stderr.settle(welcome.stderr_from);
                let from = match stdin {
                    StdinFrom::Next => None,
                    StdinFrom::At(offset) => Some(offset),
                };
                match (unknown, from) {
                    (false, _) => self.stdin.settle(from, received, acked)?,
                    (true, from) => self.stdin.begin_at(from.unwrap_or(0)),
                }
                self.signals.acknowledged = welcome.signals_received;
                self.origin = Origin::Settled;
            }
            Origin::Settled => {
                match unknown {
                    false => self.stdin.restart_after(received, acked)?,
                    true => self.stdin.restart_unacked(),
                }
                expect_from(Channel::Stdout, &self.stdout, welcome.stdout_from)?;
                expect_from(Channel::Stderr, &self.stderr, welcome.stderr_from)?;
                if !signals_unknown {
                    self.signals.acknowledge(welcome.signals_received)?;
                }
            }
        }
        if welcome.stdin_ended {
            self.stdin.refused();
        }
        self.signals.sent = 0;
        self.winsize = match self.winsize {
            Resize::Unknown => Resize::Unknown,
            Resize::Untold(size) | Resize::Told(size) => Resize::Untold(size),
        };
        self.stdout.resumed();
        self.stderr.resumed();
        Ok(())
    }

    fn follow(&mut self, frame: Frame<'_>) -> Result<(), Fault> {
        match frame {
            Frame::Data {
                channel: Channel::Stdout,
                offset,
                bytes,
            } => self.stdout.data(offset, bytes),
            Frame::Data {
                channel: Channel::Stderr,
                offset,
                bytes,
            } => self.stderr.data(offset, bytes),
            Frame::End {
                channel: Channel::Stdout,
                offset,
            } => self.stdout.ended(offset),
            Frame::End {
                channel: Channel::Stderr,
                offset,
            } => self.stderr.ended(offset),
            Frame::Ack {
                channel: Channel::Stdin,
                offset,
            } => self.stdin.acknowledge(offset),
            Frame::Refused {
                channel: Channel::Stdin,
            } => {
                self.stdin.refused();
                Ok(())
            }
            Frame::SignalAck { seq } => self.signals.acknowledge(seq),
            Frame::Exit { code } => {
                self.exited(code);
                Ok(())
            }
            Frame::Resync => Err(Fault::ResyncAsked),
            other @ (Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Data { .. }
            | Frame::End { .. }
            | Frame::Ack { .. }
            | Frame::Refused { .. }
            | Frame::Winsize(_)
            | Frame::Signal { .. }
            | Frame::ExitAck) => Err(Fault::OutOfPlace { kind: other.kind() }),
        }
    }

    fn exited(&mut self, code: u32) {
        match self.exit {
            Exit::Unknown => {
                self.exit = Exit::Received {
                    code,
                    stdout: self.stdout.received(),
                    stderr: self.stderr.received(),
                };
                self.note_exit();
            }
            // Once is enough; and a guest cannot change its mind.
            Exit::Received { .. } | Exit::Shown { .. } | Exit::Acknowledged { .. } => {}
        }
    }

    fn note_exit(&mut self) {
        if let Exit::Received {
            code,
            stdout,
            stderr,
        } = self.exit
            && self.stdout.taken_offset() >= stdout
            && self.stderr.taken_offset() >= stderr
        {
            self.exit = Exit::Shown { code };
        }
    }

    /// What is to be written to the connection next. Empty when there is nothing to say.
    pub fn outgoing(&mut self) -> &[u8] {
        if let Session::Established { encoder, .. } = &self.session
            && self.outgoing.is_empty()
        {
            let encoder = *encoder;
            while self.outgoing.bytes.len() < FRAME_MAX / 2 && self.write_next(&encoder) {}
        }
        self.outgoing.pending()
    }

    /// The first `count` bytes of [`Self::outgoing`] were written.
    pub fn sent(&mut self, count: usize) {
        self.outgoing.sent(count);
    }

    /// What lets the guest go on comes first, then what is short, then stdin.
    fn write_next(&mut self, encoder: &Encoder) -> bool {
        let frame = self
            .stdout
            .next_ack()
            .or_else(|| self.stderr.next_ack())
            .or_else(|| self.stdout.next_refusal())
            .or_else(|| self.stderr.next_refusal())
            .or_else(|| next_winsize(&mut self.winsize))
            .or_else(|| self.signals.next())
            .or_else(|| next_exit_ack(&mut self.exit))
            .or_else(|| self.stdin.next_end());
        let Some(frame) = frame.or_else(|| self.stdin.next_data()) else {
            return false;
        };
        encoder.encode(&frame, &mut self.outgoing.bytes);
        true
    }

    /// Bytes that the process wrote; more may follow when these are taken.
    pub fn output(&self, output: Channel) -> &[u8] {
        match output {
            Channel::Stdout => self.stdout.bytes(),
            Channel::Stderr => self.stderr.bytes(),
            Channel::Stdin | Channel::Control => &[],
        }
    }

    /// The first `count` bytes of [`Self::output`] are where they belong.
    pub fn output_taken(&mut self, output: Channel, count: usize) {
        self.half(output).take(count);
        self.note_exit();
    }

    /// No byte will follow.
    pub fn output_is_over(&self, output: Channel) -> bool {
        match output {
            Channel::Stdout => self.stdout.is_over(),
            Channel::Stderr => self.stderr.is_over(),
            Channel::Stdin | Channel::Control => true,
        }
    }

    /// Nobody wants any more of this output: what comes is dropped, and the process will find its
    /// pipe broken.
    pub fn refuse_output(&mut self, output: Channel) {
        self.half(output).refuse();
        self.note_exit();
    }

    /// The offset of the next byte to take: what a successor has to ask for.
    pub fn output_offset(&self, output: Channel) -> u64 {
        match output {
            Channel::Stdout => self.stdout.taken_offset(),
            Channel::Stderr => self.stderr.taken_offset(),
            Channel::Stdin | Channel::Control => 0,
        }
    }

    fn half(&mut self, output: Channel) -> &mut ReceiveHalf {
        match output {
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
            Channel::Stdin | Channel::Control => panic!("{output} is not an output"),
        }
    }

    /// How many bytes of stdin can be kept now. While it is 0, leave the source alone.
    pub fn stdin_room(&self) -> usize {
        self.stdin.room()
    }

    /// Takes bytes for the process, as many as there is room for; returns how many.
    pub fn stdin(&mut self, bytes: &[u8]) -> usize {
        self.stdin.write(bytes)
    }

    /// The source of stdin has ended.
    pub fn end_stdin(&mut self) {
        self.stdin.end();
    }

    /// False once it was ended, or the process reads no more.
    pub fn wants_stdin(&self) -> bool {
        !self.stdin.is_ended()
    }

    /// The size of the terminal; the latest counts.
    pub fn resize(&mut self, size: Winsize) {
        self.winsize = Resize::Untold(size);
    }

    /// A signal for the process.
    ///
    /// # Errors
    /// Too many wait already.
    pub fn signal(&mut self, number: u32) -> Result<(), SignalsFull> {
        if self.signals.waiting.len() == SIGNALS_MAX {
            return Err(SignalsFull);
        }
        self.signals.waiting.push_back(number);
        Ok(())
    }

    /// The exit code, once everything that was sent before it was taken.
    pub fn exit(&self) -> Option<u32> {
        match self.exit {
            Exit::Unknown | Exit::Received { .. } => None,
            Exit::Shown { code } | Exit::Acknowledged { code } => Some(code),
        }
    }

    /// The guest has been told that the exit is known here, as far as writing it can tell.
    pub fn is_exit_acknowledged(&self) -> bool {
        matches!(self.exit, Exit::Acknowledged { .. }) && self.outgoing.is_empty()
    }

    /// Gives memory back that an idle stream does not need.
    pub fn trim(&mut self) {
        self.outgoing.trim();
        self.stdin.trim();
        self.stdout.trim();
        self.stderr.trim();
    }
}

impl Signals {
    fn acknowledge(&mut self, seq: u64) -> Result<(), Fault> {
        let last = self.acknowledged + self.waiting.len() as u64;
        if seq < self.acknowledged || seq > last {
            return Err(Fault::SignalsExceeded);
        }
        let count = usize::try_from(seq - self.acknowledged).expect("at most those that wait");
        self.waiting.drain(..count);
        self.sent = self.sent.saturating_sub(count);
        self.acknowledged = seq;
        Ok(())
    }

    fn next(&mut self) -> Option<Frame<'static>> {
        let number = *self.waiting.get(self.sent)?;
        self.sent += 1;
        Some(Frame::Signal {
            seq: self.acknowledged + self.sent as u64,
            number,
        })
    }
}

/// A guest that begins elsewhere has forgotten what is missing here, or invents.
fn expect_from(channel: Channel, half: &ReceiveHalf, from: u64) -> Result<(), Fault> {
    let wanted = half.taken_offset();
    if from == wanted || half.is_refused() {
        return Ok(());
    }
    if from > wanted {
        return Err(Fault::Gone {
            channel,
            wanted,
            oldest: from,
        });
    }
    Err(Fault::WrongOffset {
        channel,
        expected: wanted,
        got: from,
    })
}

fn next_winsize(winsize: &mut Resize) -> Option<Frame<'static>> {
    match *winsize {
        Resize::Untold(size) => {
            *winsize = Resize::Told(size);
            Some(Frame::Winsize(size))
        }
        Resize::Unknown | Resize::Told(_) => None,
    }
}

fn next_exit_ack(exit: &mut Exit) -> Option<Frame<'static>> {
    match *exit {
        Exit::Shown { code } => {
            *exit = Exit::Acknowledged { code };
            Some(Frame::ExitAck)
        }
        Exit::Unknown | Exit::Received { .. } | Exit::Acknowledged { .. } => None,
    }
}

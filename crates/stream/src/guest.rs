//! The guest's end of a process's stdio stream. No I/O: whoever owns the port and the pipes asks
//! it what to do, and tells it what was done.
//!
//! ```text
//!            HELLO                       ┌── HELLO: continue where the new reader wants
//!   Waiting ───────► Established ────────┤
//!                        ▲   │ fault     └── (also from Lost)
//!                        └── Lost
//!
//!   Running ── exited(code) ──► Draining ── what was there is read and sent ──► EXIT ──► acknowledged
//! ```
//!
//! It is asked and told rather than driven by one event enum, since readiness is a level: a pipe is
//! read while there is room, a port written while there is something pending.
//!
//! Invariants:
//! - Output is kept until it is acknowledged; no byte is sent twice in a session, none is left out.
//! - EXIT follows all output that existed at the exit, and does not wait for more: a background child
//!   may hold the pipe open, and what it writes still flows.
//! - At most [`WINDOW`](crate::half::WINDOW) bytes are kept per channel. When one is full its pipe is
//!   not read; the others go on.

use crate::{
    decoder::GuestDecoder,
    fault::Fault,
    frame::{Channel, Encoder, FRAME_MAX, Frame, Hello, Resume, VERSION, Welcome, Winsize},
    half::{ReceiveHalf, SendHalf},
    heir::{Place, Places},
    outgoing::Outgoing,
    signals::Signals,
};
use std::collections::VecDeque;

/// Signals on their way that the process has not got yet. There are 64 signals; nobody needs more
/// of them at once.
pub const SIGNALS_MAX: usize = 64;

/// After an exit, so much is read of a pipe that never runs dry: no pipe holds more, since the
/// kernel lets nobody but root raise one above 1 MiB.
pub const DRAIN_MAX: u64 = 1024 * 1024;

/// Where the output of a process comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Two pipes.
    StdoutAndStderr,
    /// One terminal: there is no stderr.
    Terminal,
}

/// What the host wants done in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    Signal(u32),
    Resize(Winsize),
    /// Nobody reads this output any more: close the pipe, so that the writer learns of it.
    CloseOutput(Channel),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestEnd {
    session: Session,
    places: Places,
    decoder: GuestDecoder,
    outgoing: Outgoing,
    stdin: ReceiveHalf,
    stdout: SendHalf,
    stderr: SendHalf,
    /// Who sends next, so that neither output starves the other.
    turn: Turn,
    exit: Exit,
    signals: Signals,
    resize: Option<Winsize>,
    closed_outputs: VecDeque<Channel>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Waiting,
    Established {
        encoder: Encoder,
    },
    /// Nothing makes sense until the next HELLO.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Stdout,
    Stderr,
}

impl Turn {
    fn other(self) -> Self {
        match self {
            Turn::Stdout => Turn::Stderr,
            Turn::Stderr => Turn::Stdout,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Running,
    Draining {
        code: u32,
        stdout: Mark,
        stderr: Mark,
    },
    Due {
        code: u32,
        stdout: u64,
        stderr: u64,
        telling: Telling,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    Untold,
    /// This session was told.
    Told,
    Acknowledged,
}

/// Where the output ends that existed at the exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// Not known: the pipe was not seen dry since. So much had been read of it before.
    Unknown {
        read: u64,
    },
    At(u64),
}

impl GuestEnd {
    pub fn new(outputs: Outputs) -> Self {
        let mut stderr = SendHalf::new(Channel::Stderr);
        match outputs {
            Outputs::StdoutAndStderr => {}
            Outputs::Terminal => stderr.end(),
        }
        Self {
            session: Session::Waiting,
            places: Places::FIRST,
            decoder: GuestDecoder::new(),
            outgoing: Outgoing::default(),
            stdin: ReceiveHalf::new(Channel::Stdin),
            stdout: SendHalf::new(Channel::Stdout),
            stderr,
            turn: Turn::Stdout,
            exit: Exit::Running,
            signals: Signals::default(),
            resize: None,
            closed_outputs: VecDeque::new(),
        }
    }

    /// Takes the place of a guest end that is gone with all that it knew. Nothing may be read of the
    /// process before the host has said where it is: there is no room until then.
    pub fn succeeding(outputs: Outputs) -> Self {
        Self {
            places: Places::HEIR,
            ..Self::new(outputs)
        }
    }

    pub fn is_established(&self) -> bool {
        matches!(self.session, Session::Established { .. })
    }

    /// The connection itself was replaced (a vsock connection; never a serial port): the next byte
    /// is the first of a HELLO.
    pub fn reconnected(&mut self) {
        self.decoder = GuestDecoder::new();
        self.outgoing.clear();
        self.session = match self.session {
            Session::Waiting => Session::Waiting,
            Session::Established { .. } | Session::Lost => Session::Lost,
        };
    }

    /// Takes bytes that came from the host, all of them.
    ///
    /// # Errors
    /// The first fault, for the log. It is dealt with: the host is asked to begin anew.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        let mut outcome = Ok(());
        // The frame borrows the decoder and the rest of the machine reacts to it.
        let mut decoder = std::mem::take(&mut self.decoder);
        loop {
            let reaction = match decoder.read(&mut bytes) {
                Ok(None) => break,
                Ok(Some(frame)) => self.react(frame),
                Err(fault) => Err(fault),
            };
            if let Err(fault) = reaction {
                self.lose();
                outcome = outcome.and(Err(fault));
            }
        }
        self.decoder = decoder;
        outcome
    }

    fn react(&mut self, frame: Frame<'_>) -> Result<(), Fault> {
        match (self.session, frame) {
            (_, Frame::Hello(hello)) => self.greet(hello),
            (Session::Waiting | Session::Lost, _) => Ok(()),
            (Session::Established { .. }, frame) => self.follow(frame),
        }
    }

    fn greet(&mut self, hello: Hello) -> Result<(), Fault> {
        let encoder = Encoder::new(hello.nonce);
        self.outgoing.clear();
        if hello.version != VERSION {
            let answer = Frame::Welcome(Welcome::plain(hello.nonce));
            encoder.encode(&answer, &mut self.outgoing.bytes);
            self.session = Session::Lost;
            return Err(Fault::Version {
                ours: VERSION,
                theirs: hello.version,
            });
        }
        self.learn_outputs(hello.resume);
        let (stdout, stderr) = match hello.resume {
            Resume::Acked => (self.stdout.first(), self.stderr.first()),
            Resume::At { stdout, stderr } => (stdout, stderr),
        };
        let welcome = Welcome {
            stdout_from: self.stdout.restart_at(stdout),
            stderr_from: self.stderr.restart_at(stderr),
            stdin_received: self.stdin.received(),
            stdin_acked: self.stdin.taken_offset(),
            stdin_ended: self.stdin.is_closed(),
            stdin_unknown: self.places.stdin == Place::Unknown,
            signals_unknown: self.places.signals == Place::Unknown,
            signals_received: self.signals.received,
            ..Welcome::plain(hello.nonce)
        };
        self.stdin.resumed();
        self.signals.told = self.signals.taken();
        if let Exit::Due { telling, .. } = &mut self.exit {
            // A reader that asks again has not got it, whatever its predecessor said.
            *telling = Telling::Untold;
        }
        encoder.encode(&Frame::Welcome(welcome), &mut self.outgoing.bytes);
        self.session = Session::Established { encoder };
        Ok(())
    }

    fn learn_outputs(&mut self, resume: Resume) {
        if self.places.outputs == Place::Unknown {
            self.places.outputs = Place::Known;
            if let Resume::At { stdout, stderr } = resume {
                self.stdout.begin_at(stdout);
                self.stderr.begin_at(stderr);
            }
        }
    }

    fn learn_stdin(&mut self, offset: u64) {
        if self.places.stdin == Place::Unknown {
            self.places.stdin = Place::Known;
            self.stdin.settle(offset);
        }
    }

    fn follow(&mut self, frame: Frame<'_>) -> Result<(), Fault> {
        match frame {
            Frame::Data {
                channel: Channel::Stdin,
                offset,
                bytes,
            } => {
                self.learn_stdin(offset);
                self.stdin.data(offset, bytes)
            }
            Frame::End {
                channel: Channel::Stdin,
                offset,
            } => {
                self.learn_stdin(offset);
                self.stdin.ended(offset)
            }
            Frame::Ack {
                channel: Channel::Stdout,
                offset,
            } => self.stdout.acknowledge(offset),
            Frame::Ack {
                channel: Channel::Stderr,
                offset,
            } => self.stderr.acknowledge(offset),
            Frame::Refused {
                channel: channel @ (Channel::Stdout | Channel::Stderr),
            } => {
                self.refused(channel);
                Ok(())
            }
            Frame::Winsize(size) => {
                self.resize = Some(size);
                Ok(())
            }
            Frame::Signal { seq, number } => self.signal(seq, number),
            Frame::ExitAck => {
                self.exit_acknowledged();
                Ok(())
            }
            other @ (Frame::Hello(_)
            | Frame::Welcome(_)
            | Frame::Data { .. }
            | Frame::End { .. }
            | Frame::Ack { .. }
            | Frame::Refused { .. }
            | Frame::SignalAck { .. }
            | Frame::Exit { .. }
            | Frame::Resync) => Err(Fault::OutOfPlace { kind: other.kind() }),
        }
    }

    fn refused(&mut self, channel: Channel) {
        let half = self.half(channel);
        if !half.is_ended() {
            half.refused();
            self.closed_outputs.push_back(channel);
            self.note_marks();
        } else {
            half.refused();
        }
    }

    fn signal(&mut self, seq: u64, number: u32) -> Result<(), Fault> {
        if self.places.signals == Place::Unknown {
            self.places.signals = Place::Known;
            self.signals.begin_at(seq);
        }
        if seq != self.signals.received + 1 || self.signals.waiting.len() >= SIGNALS_MAX {
            return Err(Fault::SignalsExceeded);
        }
        self.signals.received = seq;
        self.signals.waiting.push_back(number);
        Ok(())
    }

    fn exit_acknowledged(&mut self) {
        if let Exit::Due { telling, .. } = &mut self.exit
            && *telling == Telling::Told
        {
            *telling = Telling::Acknowledged;
        }
    }

    fn lose(&mut self) {
        if let Session::Established { encoder } = self.session {
            encoder.encode(&Frame::Resync, &mut self.outgoing.bytes);
            self.session = Session::Lost;
        }
    }

    /// What is to be written to the port next. Empty when there is nothing to say.
    pub fn outgoing(&mut self) -> &[u8] {
        if let Session::Established { encoder } = self.session
            && self.outgoing.is_empty()
        {
            // A frame more or less: enough for one write of the guest's driver.
            while self.outgoing.bytes.len() < FRAME_MAX / 2 && self.write_next(&encoder) {}
        }
        self.outgoing.pending()
    }

    /// The first `count` bytes of [`Self::outgoing`] were written.
    pub fn sent(&mut self, count: usize) {
        self.outgoing.sent(count);
    }

    /// What lets the host go on comes first, then what is short, then output in turns.
    fn write_next(&mut self, encoder: &Encoder) -> bool {
        let out = &mut self.outgoing.bytes;
        let frame = self
            .stdin
            .next_ack()
            .or_else(|| self.stdin.next_refusal())
            .or_else(|| self.signals.next_ack())
            .or_else(|| self.stdout.next_end())
            .or_else(|| self.stderr.next_end())
            .or_else(|| next_exit(&mut self.exit, &self.stdout, &self.stderr));
        if let Some(frame) = frame {
            encoder.encode(&frame, out);
            return true;
        }
        let mut halves = [&mut self.stdout, &mut self.stderr];
        if self.turn == Turn::Stderr {
            halves.swap(0, 1);
        }
        let [first, second] = halves;
        if let Some(frame) = first.next_data() {
            self.turn = self.turn.other();
            encoder.encode(&frame, out);
        } else if let Some(frame) = second.next_data() {
            encoder.encode(&frame, out);
        } else {
            return false;
        }
        true
    }

    /// How many bytes of this output can be kept now. While it is 0, leave the pipe alone.
    pub fn room(&self, output: Channel) -> usize {
        match (self.places.outputs, output) {
            (Place::Known, Channel::Stdout) => self.stdout.room(),
            (Place::Known, Channel::Stderr) => self.stderr.room(),
            (Place::Unknown, _) | (_, Channel::Stdin | Channel::Control) => 0,
        }
    }

    /// Takes bytes that were read from the process, as many as there is room for; returns how many.
    /// After [`Request::CloseOutput`] there is room for none.
    pub fn output(&mut self, output: Channel, bytes: &[u8]) -> usize {
        let taken = self.half(output).write(bytes);
        self.note_marks();
        taken
    }

    /// A read of this output would have waited. Tell it after every such read: after an exit it
    /// shows that everything is there.
    pub fn output_dry(&mut self, output: Channel) {
        let written = self.half(output).written();
        if let Exit::Draining { stdout, stderr, .. } = &mut self.exit {
            match output {
                Channel::Stdout => stdout.set(written),
                Channel::Stderr => stderr.set(written),
                Channel::Stdin | Channel::Control => {}
            }
        }
        self.note_marks();
    }

    /// The process and its children have closed this output.
    pub fn output_ended(&mut self, output: Channel) {
        self.half(output).end();
        self.note_marks();
    }

    /// The process has exited. Read its outputs on, until each was dry or ended.
    pub fn exited(&mut self, code: u32) {
        if self.exit == Exit::Running {
            let [stdout, stderr] = [&self.stdout, &self.stderr].map(|half| Mark::Unknown {
                read: half.written(),
            });
            self.exit = Exit::Draining {
                code,
                stdout,
                stderr,
            };
            self.note_marks();
        }
    }

    /// Both marks known: the exit is due.
    fn note_marks(&mut self) {
        if let Exit::Draining {
            code,
            stdout,
            stderr,
        } = &mut self.exit
        {
            stdout.note(&self.stdout);
            stderr.note(&self.stderr);
            if let (Mark::At(out), Mark::At(err)) = (*stdout, *stderr) {
                self.exit = Exit::Due {
                    code: *code,
                    stdout: out,
                    stderr: err,
                    telling: Telling::Untold,
                };
            }
        }
    }

    fn half(&mut self, output: Channel) -> &mut SendHalf {
        match output {
            Channel::Stderr => &mut self.stderr,
            Channel::Stdout => &mut self.stdout,
            Channel::Stdin | Channel::Control => panic!("{output} is not an output"),
        }
    }

    /// Bytes for the process; more may follow when these are taken.
    pub fn stdin(&self) -> &[u8] {
        self.stdin.bytes()
    }

    /// The first `count` bytes of [`Self::stdin`] were written to the process.
    pub fn stdin_taken(&mut self, count: usize) {
        self.stdin.take(count);
    }

    /// The host has closed its half and the process has got everything: close the pipe.
    pub fn stdin_is_over(&self) -> bool {
        self.stdin.is_over()
    }

    /// The process reads no more: what comes is dropped, and the host is told.
    pub fn stdin_closed(&mut self) {
        self.stdin.refuse();
    }

    /// Something to do in the guest. Ask until there is nothing.
    pub fn next_request(&mut self) -> Option<Request> {
        if let Some(channel) = self.closed_outputs.pop_front() {
            return Some(Request::CloseOutput(channel));
        }
        if let Some(size) = self.resize.take() {
            return Some(Request::Resize(size));
        }
        self.signals.waiting.pop_front().map(Request::Signal)
    }

    /// A reader has got the exit.
    pub fn is_exit_acknowledged(&self) -> bool {
        matches!(
            self.exit,
            Exit::Due {
                telling: Telling::Acknowledged,
                ..
            }
        )
    }

    /// Nothing will ever be sent again, unless a reader comes that asks anew.
    pub fn is_finished(&self) -> bool {
        self.is_exit_acknowledged()
            && self.stdout.is_finished()
            && self.stderr.is_finished()
            && self.outgoing.is_empty()
    }

    /// Gives memory back that an idle stream does not need.
    pub fn trim(&mut self) {
        self.outgoing.trim();
        self.stdin.trim();
        self.stdout.trim();
        self.stderr.trim();
    }
}

impl Mark {
    fn set(&mut self, written: u64) {
        if let Mark::Unknown { .. } = self {
            *self = Mark::At(written);
        }
    }

    fn note(&mut self, half: &SendHalf) {
        match *self {
            Mark::Unknown { read } if half.is_ended() || half.written() - read >= DRAIN_MAX => {
                *self = Mark::At(half.written());
            }
            Mark::Unknown { .. } | Mark::At(_) => {}
        }
    }
}

fn next_exit(exit: &mut Exit, out: &SendHalf, err: &SendHalf) -> Option<Frame<'static>> {
    match exit {
        Exit::Due {
            code,
            stdout,
            stderr,
            telling: telling @ Telling::Untold,
        } if out.sent() >= *stdout && err.sent() >= *stderr => {
            *telling = Telling::Told;
            Some(Frame::Exit { code: *code })
        }
        Exit::Running | Exit::Draining { .. } | Exit::Due { .. } => None,
    }
}

//! A process, its guest end, a serial port as QEMU has it, and readers that come and go.
//!
//! The port keeps what a dead reader left: of the bytes to the guest a prefix arrives, of the bytes
//! from the guest those in the reader's socket are lost and the rest meets the next reader.

use std::sync::OnceLock;
use stream::{
    Channel, GuestEnd, Nonce, Outputs, Padding, Reader, Request, Resume, StdinFrom, WINDOW, Winsize,
};

/// A prime: no frame, window or pipe size divides it.
const PERIOD: usize = 1_000_003;

/// The bytes that belong at this place; a shift, a loss or a repeat shows.
fn bytes_at(channel: Channel, offset: u64, count: usize) -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        let scattered = (0..PERIOD as u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let bytes: Vec<u8> = scattered.map(|value| (value >> 32) as u8).collect();
        bytes.repeat(2)
    });
    let start = (offset as usize + 1000 * channel as usize) % PERIOD;
    &pattern[start..start + count]
}

/// What one channel has carried so far.
#[derive(Debug, Default)]
pub struct Tally {
    pub written: u64,
    pub taken: u64,
}

impl Tally {
    fn check(&mut self, channel: Channel, bytes: &[u8]) {
        assert_eq!(
            bytes,
            bytes_at(channel, self.taken, bytes.len()),
            "{channel} at {}",
            self.taken
        );
        self.taken += bytes.len() as u64;
    }
}

pub struct World {
    pub guest: GuestEnd,
    pub reader: Reader,
    up: Vec<u8>,
    down: Vec<u8>,
    sessions: u8,
    pub stdin: Tally,
    /// How much of its source any reader has ever read.
    pub stdin_source: u64,
    pub stdout: Tally,
    pub stderr: Tally,
    pub exits: u32,
    pub signals_sent: Vec<u32>,
    pub signals_got: Vec<u32>,
    pub size: Option<Winsize>,
    pub size_got: Option<Winsize>,
    /// What was read when the exit showed: (stdout, stderr).
    pub written_at_exit: Option<(u64, u64)>,
}

impl World {
    pub fn new() -> Self {
        let mut world = Self {
            guest: GuestEnd::new(Outputs::StdoutAndStderr),
            reader: Reader::new(Resume::Acked, StdinFrom::Next),
            up: Vec::new(),
            down: Vec::new(),
            sessions: 0,
            stdin: Tally::default(),
            stdin_source: 0,
            stdout: Tally::default(),
            stderr: Tally::default(),
            exits: 0,
            signals_sent: Vec::new(),
            signals_got: Vec::new(),
            size: None,
            size_got: None,
            written_at_exit: None,
        };
        world.connect(Padding::None);
        world
    }

    fn connect(&mut self, padding: Padding) {
        self.sessions += 1;
        self.reader.connected(Nonce([self.sessions; 16]), padding);
    }

    pub fn write_output(&mut self, channel: Channel, count: usize) {
        let tally = match channel {
            Channel::Stderr => &mut self.stderr,
            _ => &mut self.stdout,
        };
        let room = self.guest.room(channel);
        assert!(room <= WINDOW);
        let bytes = bytes_at(channel, tally.written, count);
        let taken = self.guest.output(channel, bytes);
        assert_eq!(taken, count.min(room));
        tally.written += taken as u64;
    }

    pub fn write_stdin(&mut self, count: usize) {
        let room = self.reader.stdin_room();
        let bytes = bytes_at(Channel::Stdin, self.stdin.written, count);
        let taken = self.reader.stdin(bytes);
        assert_eq!(taken, count.min(room));
        self.stdin.written += taken as u64;
        self.stdin_source = self.stdin_source.max(self.stdin.written);
    }

    /// The process reads its stdin.
    pub fn take_stdin(&mut self, count: usize) {
        let count = count.min(self.guest.stdin().len());
        let bytes = self.guest.stdin()[..count].to_vec();
        self.guest.stdin_taken(count);
        self.stdin.check(Channel::Stdin, &bytes);
        while let Some(request) = self.guest.next_request() {
            match request {
                Request::Signal(number) => self.signals_got.push(number),
                Request::Resize(size) => self.size_got = Some(size),
                Request::CloseOutput(_) => {}
            }
        }
    }

    /// The reader writes output where it belongs.
    pub fn take_output(&mut self, channel: Channel, count: usize) {
        let count = count.min(self.reader.output(channel).len());
        let bytes = self.reader.output(channel)[..count].to_vec();
        self.reader.output_taken(channel, count);
        match channel {
            Channel::Stderr => self.stderr.check(channel, &bytes),
            _ => self.stdout.check(channel, &bytes),
        }
        self.look_for_exit();
    }

    fn look_for_exit(&mut self) {
        if let (Some(code), 0) = (self.reader.exit(), self.exits) {
            assert_eq!(code, 42);
            self.exits += 1;
            let (stdout, stderr) = self.written_at_exit.expect("the process has exited");
            assert!(self.stdout.taken >= stdout && self.stderr.taken >= stderr);
        }
    }

    pub fn signal(&mut self, number: u32) {
        if self.reader.signal(number).is_ok() {
            self.signals_sent.push(number);
        }
    }

    pub fn resize(&mut self, size: Winsize) {
        self.size = Some(size);
        self.reader.resize(size);
    }

    /// The process exits, and its pipes are seen dry.
    pub fn exit(&mut self) {
        if self.written_at_exit.is_none() {
            self.written_at_exit = Some((self.stdout.written, self.stderr.written));
        }
        self.guest.exited(42);
        self.guest.output_dry(Channel::Stdout);
        self.guest.output_dry(Channel::Stderr);
    }

    /// Moves so many bytes a step further, in both directions.
    pub fn carry(&mut self, count: usize) {
        let out = self.reader.outgoing();
        let moved = count.min(out.len());
        self.down.extend_from_slice(&out[..moved]);
        self.reader.sent(moved);

        let out = self.guest.outgoing();
        let moved = count.min(out.len());
        self.up.extend_from_slice(&out[..moved]);
        self.guest.sent(moved);
    }

    pub fn deliver(&mut self, count: usize) {
        let bytes: Vec<u8> = self.down.drain(..count.min(self.down.len())).collect();
        // A frame cut off by a dead reader may leave a fault behind; never more than that.
        let _ = self.guest.feed(&bytes);

        let bytes: Vec<u8> = self.up.drain(..count.min(self.up.len())).collect();
        self.reader.feed(&bytes).expect("the guest keeps the rules");
        self.look_for_exit();
    }

    /// The connection breaks: `lost` bytes from the guest were in the reader's socket, `arrived`
    /// bytes of those to the guest still reach it.
    pub fn cut(&mut self, lost: usize, arrived: usize) {
        self.up.drain(..lost.min(self.up.len()));
        self.down.truncate(arrived);
        self.reader.disconnected();
        self.connect(Padding::Full);
    }

    /// The reader is killed. Its successor knows what had been written out, and reads the source of
    /// stdin again from the start.
    pub fn replace(&mut self, lost: usize, arrived: usize) {
        let resume = Resume::At {
            stdout: self.stdout.taken,
            stderr: self.stderr.taken,
        };
        let exits = self.exits;
        self.reader = Reader::new(resume, StdinFrom::At(0));
        self.cut(lost, arrived);
        self.stdin.written = 0;
        // It has to hear of the exit, and is the one to report it.
        self.exits = 0;
        assert!(exits <= 1);
    }

    fn progress(&self) -> [u64; 5] {
        let queued = (self.up.len() + self.down.len()) as u64;
        let taken = [&self.stdin, &self.stdout, &self.stderr].map(|tally| tally.taken);
        [taken[0], taken[1], taken[2], queued, u64::from(self.exits)]
    }

    /// Everything flows until nothing moves any more.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        while quiet < 4 {
            let before = self.progress();
            self.carry(usize::MAX);
            self.deliver(usize::MAX);
            self.take_stdin(usize::MAX);
            self.take_output(Channel::Stdout, usize::MAX);
            self.take_output(Channel::Stderr, usize::MAX);
            quiet = if self.progress() == before {
                quiet + 1
            } else {
                0
            };
        }
    }
}

//! What a frame is and how it is written. Reading is in `decoder`.
//!
//! ```text
//!  0      1         2       4        8               16           16+n        24+n
//!  ├ kind ┼ channel ┼ flags ┼ length ┼ offset or seq ┼ payload (n) ┼ trailer ──┤   little endian
//! ```
//!
//! The trailer is made from the session's nonce: a frame that was cut off when its host end died
//! and was completed by the padding of the next one has a wrong trailer and is dropped.
//! A single zero byte between frames is padding and means nothing.

use crate::fault::Fault;
use std::fmt;

/// Raised whenever an old peer could misread a frame. HELLO and WELCOME keep their lengths for ever,
/// so that peers of different versions can at least say so.
pub const VERSION: u16 = 1;

pub const HEADER_LEN: usize = 16;
pub const TRAILER_LEN: usize = 8;

/// The guest's virtio-serial driver takes at most 32 KiB per write: a whole frame fits in one.
pub const FRAME_MAX: usize = 32 * 1024;

/// What is left of the longest frame for its payload.
pub const PAYLOAD_MAX: usize = FRAME_MAX - HEADER_LEN - TRAILER_LEN;

pub(crate) const HELLO: u8 = 1;
pub(crate) const WELCOME: u8 = 2;
pub(crate) const DATA: u8 = 3;
pub(crate) const END: u8 = 4;
pub(crate) const ACK: u8 = 5;
pub(crate) const REFUSED: u8 = 6;
pub(crate) const WINSIZE: u8 = 7;
pub(crate) const SIGNAL: u8 = 8;
pub(crate) const SIGNAL_ACK: u8 = 9;
pub(crate) const EXIT: u8 = 10;
pub(crate) const EXIT_ACK: u8 = 11;
pub(crate) const RESYNC: u8 = 12;

/// No stream gets this far; sums of offsets below it cannot overflow.
const OFFSET_MAX: u64 = 1 << 62;

const NONCE_LEN: usize = 16;
const HELLO_LEN: usize = 36;
const WELCOME_LEN: usize = 60;

const RESUME_ACKED: u16 = 0;
const RESUME_AT: u16 = 1;
const STDIN_ENDED: u16 = 1;
const STDIN_UNKNOWN: u16 = 2;
const SIGNALS_UNKNOWN: u16 = 4;

/// Names a session. Fresh random bytes for every HELLO: the host finds its answer by them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Nonce(pub [u8; NONCE_LEN]);

/// Ends every frame of a session.
pub(crate) type Trailer = [u8; TRAILER_LEN];

impl Nonce {
    /// Not a secret: it only has to differ between sessions, and from padding.
    pub(crate) fn trailer(self) -> Trailer {
        let [low, high] = [0, 8].map(|at| u64_at(&self.0, at));
        // Padding can never stand for a whole trailer, since no byte of it is zero.
        let mixed = scatter(low) ^ scatter(high).rotate_left(32);
        mixed.to_le_bytes().map(|byte| byte.max(1))
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({:032x})", u128::from_be_bytes(self.0))
    }
}

/// A bijection in which every input bit reaches every output bit (the finish of splitmix64).
fn scatter(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    Stdin,
    Stdout,
    Stderr,
    /// The agent protocol; on the control stream alone.
    Control,
}

impl Channel {
    fn code(self) -> u8 {
        match self {
            Channel::Stdin => 0,
            Channel::Stdout => 1,
            Channel::Stderr => 2,
            Channel::Control => 3,
        }
    }

    fn from_code(code: u8) -> Result<Self, Fault> {
        match code {
            0 => Ok(Channel::Stdin),
            1 => Ok(Channel::Stdout),
            2 => Ok(Channel::Stderr),
            3 => Ok(Channel::Control),
            unknown => Err(Fault::UnknownChannel(unknown)),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Channel::Stdin => "stdin",
            Channel::Stdout => "stdout",
            Channel::Stderr => "stderr",
            Channel::Control => "control",
        })
    }
}

/// What a host end has to send before its HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// Nobody has written to this connection before: a new vsock connection, a port never used. Or most often whoever did
    /// was not killed in the middle of a frame; a guest that does not answer is greeted again, behind [`Self::Full`].
    None,
    /// As many zero bytes as the longest frame: they complete a frame that a predecessor left half sent.
    Full,
}

impl Padding {
    pub(crate) fn write(self, out: &mut Vec<u8>) {
        match self {
            Padding::None => {}
            Padding::Full => out.resize(out.len() + FRAME_MAX, 0),
        }
    }
}

/// From where the host end wants the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// From the first byte that nobody has acknowledged.
    Acked,
    /// From these bytes on; the guest may forget what lies before.
    At { stdout: u64, stderr: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    pub nonce: Nonce,
    pub version: u16,
    pub resume: Resume,
}

/// The guest's answer: where everything stands. All zero on the control stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    pub nonce: Nonce,
    pub version: u16,
    /// Bytes of stdin that have arrived, and how many of them the process has taken.
    pub stdin_received: u64,
    pub stdin_acked: u64,
    /// No more stdin is expected, since its end arrived or the process closed it.
    pub stdin_ended: bool,
    /// The guest end succeeds one that is gone: it goes on with stdin, and with signals, wherever the
    /// host does, and its numbers of them mean nothing.
    pub stdin_unknown: bool,
    pub signals_unknown: bool,
    /// The offsets of the first bytes of output that follow.
    pub stdout_from: u64,
    pub stderr_from: u64,
    pub signals_received: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Winsize {
    pub rows: u16,
    pub columns: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    Hello(Hello),
    Welcome(Welcome),
    Data {
        channel: Channel,
        offset: u64,
        /// At most [`PAYLOAD_MAX`].
        bytes: &'a [u8],
    },
    /// The sender's half of a channel ends before byte `offset`.
    End {
        channel: Channel,
        offset: u64,
    },
    /// Everything before byte `offset` was taken; it may be forgotten, and as much more be sent.
    Ack {
        channel: Channel,
        offset: u64,
    },
    /// The receiver's half of a channel is closed: nobody will read any more of it.
    Refused {
        channel: Channel,
    },
    Winsize(Winsize),
    /// Signals are numbered from 1, so that none is lost or sent twice over a reconnect.
    Signal {
        seq: u64,
        number: u32,
    },
    SignalAck {
        seq: u64,
    },
    Exit {
        code: u32,
    },
    ExitAck,
    /// The guest cannot make sense of what it read and waits for a HELLO.
    Resync,
}

/// Writes the frames of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoder {
    trailer: Trailer,
}

impl Encoder {
    pub fn new(nonce: Nonce) -> Self {
        Self {
            trailer: nonce.trailer(),
        }
    }

    /// Appends `frame` to `out`. The payload of a data frame is at most [`PAYLOAD_MAX`] bytes.
    pub fn encode(&self, frame: &Frame<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        let (kind, channel, offset) = frame.head();
        out.extend_from_slice(&[kind, channel, 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&offset.to_le_bytes());
        frame.write_payload(out);
        let length = out.len() - start - HEADER_LEN;
        assert!(length <= PAYLOAD_MAX, "the caller cuts its data to size");
        let length = u32::try_from(length).expect("a payload is below 32 KiB");
        out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&self.trailer);
    }
}

impl Frame<'_> {
    /// Kind, channel and offset, as the header holds them.
    fn head(&self) -> (u8, u8, u64) {
        match *self {
            Frame::Hello(_) => (HELLO, 0, 0),
            Frame::Welcome(_) => (WELCOME, 0, 0),
            Frame::Data {
                channel, offset, ..
            } => (DATA, channel.code(), offset),
            Frame::End { channel, offset } => (END, channel.code(), offset),
            Frame::Ack { channel, offset } => (ACK, channel.code(), offset),
            Frame::Refused { channel } => (REFUSED, channel.code(), 0),
            Frame::Winsize(_) => (WINSIZE, 0, 0),
            Frame::Signal { seq, .. } => (SIGNAL, 0, seq),
            Frame::SignalAck { seq } => (SIGNAL_ACK, 0, seq),
            Frame::Exit { .. } => (EXIT, 0, 0),
            Frame::ExitAck => (EXIT_ACK, 0, 0),
            Frame::Resync => (RESYNC, 0, 0),
        }
    }

    fn write_payload(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Hello(hello) => hello.write(out),
            Frame::Welcome(welcome) => welcome.write(out),
            Frame::Data { bytes, .. } => out.extend_from_slice(bytes),
            Frame::Winsize(size) => {
                out.extend_from_slice(&size.rows.to_le_bytes());
                out.extend_from_slice(&size.columns.to_le_bytes());
            }
            Frame::Signal { number: value, .. } | Frame::Exit { code: value } => {
                out.extend_from_slice(&value.to_le_bytes());
            }
            Frame::End { .. }
            | Frame::Ack { .. }
            | Frame::Refused { .. }
            | Frame::SignalAck { .. }
            | Frame::ExitAck
            | Frame::Resync => {}
        }
    }

    /// The number that stands for this kind of frame, for faults.
    pub(crate) fn kind(&self) -> u8 {
        self.head().0
    }
}

impl Hello {
    fn write(&self, out: &mut Vec<u8>) {
        let (kind, stdout, stderr) = match self.resume {
            Resume::Acked => (RESUME_ACKED, 0, 0),
            Resume::At { stdout, stderr } => (RESUME_AT, stdout, stderr),
        };
        out.extend_from_slice(&self.nonce.0);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&stdout.to_le_bytes());
        out.extend_from_slice(&stderr.to_le_bytes());
    }

    fn read(payload: &[u8]) -> Result<Self, Fault> {
        let resume = match u16_at(payload, 18) {
            RESUME_ACKED => Resume::Acked,
            RESUME_AT => Resume::At {
                stdout: u64_at(payload, 20),
                stderr: u64_at(payload, 28),
            },
            _ => return Err(Fault::WrongValue { kind: HELLO }),
        };
        Ok(Self {
            nonce: nonce_of(payload),
            version: u16_at(payload, 16),
            resume,
        })
    }
}

impl Welcome {
    /// The answer of a stream that keeps no offsets.
    pub(crate) fn plain(nonce: Nonce) -> Self {
        Self {
            nonce,
            version: VERSION,
            stdin_received: 0,
            stdin_acked: 0,
            stdin_ended: false,
            stdin_unknown: false,
            signals_unknown: false,
            stdout_from: 0,
            stderr_from: 0,
            signals_received: 0,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags = flag(self.stdin_ended, STDIN_ENDED)
            | flag(self.stdin_unknown, STDIN_UNKNOWN)
            | flag(self.signals_unknown, SIGNALS_UNKNOWN);
        out.extend_from_slice(&self.nonce.0);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        for position in [
            self.stdin_received,
            self.stdin_acked,
            self.stdout_from,
            self.stderr_from,
            self.signals_received,
        ] {
            out.extend_from_slice(&position.to_le_bytes());
        }
    }

    fn read(payload: &[u8]) -> Result<Self, Fault> {
        if [20, 28, 36, 44, 52]
            .map(|at| u64_at(payload, at))
            .iter()
            .any(|&offset| offset > OFFSET_MAX)
        {
            return Err(Fault::WrongValue { kind: WELCOME });
        }
        Ok(Self {
            nonce: nonce_of(payload),
            version: u16_at(payload, 16),
            stdin_ended: u16_at(payload, 18) & STDIN_ENDED != 0,
            stdin_unknown: u16_at(payload, 18) & STDIN_UNKNOWN != 0,
            signals_unknown: u16_at(payload, 18) & SIGNALS_UNKNOWN != 0,
            stdin_received: u64_at(payload, 20),
            stdin_acked: u64_at(payload, 28),
            stdout_from: u64_at(payload, 36),
            stderr_from: u64_at(payload, 44),
            signals_received: u64_at(payload, 52),
        })
    }
}

/// A header whose kind, channel and length fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: u8,
    channel: Channel,
    length: usize,
    offset: u64,
}

impl Header {
    pub fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let kind = bytes[0];
        let channel = Channel::from_code(bytes[1])?;
        let length = u32_at(bytes, 4);
        let (least, most) = match kind {
            HELLO => (HELLO_LEN, HELLO_LEN),
            WELCOME => (WELCOME_LEN, WELCOME_LEN),
            DATA => (0, PAYLOAD_MAX),
            WINSIZE | SIGNAL | EXIT => (4, 4),
            END | ACK | REFUSED | SIGNAL_ACK | EXIT_ACK | RESYNC => (0, 0),
            unknown => return Err(Fault::UnknownType(unknown)),
        };
        let checked = length as usize;
        if checked < least || checked > most {
            return Err(Fault::WrongLength { kind, length });
        }
        let offset = u64_at(bytes, 8);
        if offset > OFFSET_MAX {
            return Err(Fault::WrongValue { kind });
        }
        Ok(Self {
            kind,
            channel,
            length: checked,
            offset,
        })
    }

    /// Header, payload and trailer.
    pub fn frame_len(&self) -> usize {
        HEADER_LEN + self.length + TRAILER_LEN
    }

    /// The first bytes of the answer to the HELLO with this nonce.
    pub fn of_welcome(nonce: Nonce) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + WELCOME_LEN + TRAILER_LEN);
        Encoder::new(nonce).encode(&Frame::Welcome(Welcome::plain(nonce)), &mut bytes);
        bytes.truncate(HEADER_LEN + NONCE_LEN);
        bytes
    }

    /// The payload has the length that this header says.
    pub fn frame<'a>(&self, payload: &'a [u8]) -> Result<Frame<'a>, Fault> {
        let (channel, offset) = (self.channel, self.offset);
        Ok(match self.kind {
            HELLO => Frame::Hello(Hello::read(payload)?),
            WELCOME => Frame::Welcome(Welcome::read(payload)?),
            DATA => Frame::Data {
                channel,
                offset,
                bytes: payload,
            },
            END => Frame::End { channel, offset },
            ACK => Frame::Ack { channel, offset },
            REFUSED => Frame::Refused { channel },
            WINSIZE => Frame::Winsize(Winsize {
                rows: u16_at(payload, 0),
                columns: u16_at(payload, 2),
            }),
            SIGNAL => Frame::Signal {
                seq: offset,
                number: u32_at(payload, 0),
            },
            SIGNAL_ACK => Frame::SignalAck { seq: offset },
            EXIT => Frame::Exit {
                code: u32_at(payload, 0),
            },
            EXIT_ACK => Frame::ExitAck,
            RESYNC => Frame::Resync,
            unknown => return Err(Fault::UnknownType(unknown)),
        })
    }
}

/// HELLO and WELCOME both begin with the nonce.
pub(crate) fn nonce_of(payload: &[u8]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce.copy_from_slice(&payload[..NONCE_LEN]);
    Nonce(nonce)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_frame_fits_one_write_of_the_guests_driver() {
        let mut out = Vec::new();
        let bytes = [7; PAYLOAD_MAX];

        Encoder::new(Nonce([3; 16])).encode(
            &Frame::Data {
                channel: Channel::Stdout,
                offset: 9,
                bytes: &bytes,
            },
            &mut out,
        );

        assert_eq!(out.len(), FRAME_MAX);
    }

    #[test]
    fn no_byte_of_a_trailer_is_padding() {
        for seed in 0..=255 {
            assert!(!Nonce([seed; 16]).trailer().contains(&0), "{seed}");
        }
    }

    #[test]
    fn nonces_that_differ_in_one_bit_have_different_trailers() {
        let nonce = Nonce([0x5a; 16]);
        for bit in 0..128 {
            let mut other = nonce.0;
            other[bit / 8] ^= 1 << (bit % 8);

            assert_ne!(Nonce(other).trailer(), nonce.trailer(), "bit {bit}");
        }
    }
}

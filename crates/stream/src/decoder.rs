//! Finds frames in bytes that may have been cut anywhere, and may be hostile. Holds one frame at
//! most and allocates nothing that was not checked before.
//!
//! At the host, nothing counts until the WELCOME that echoes the session's nonce; the guest learns
//! the nonce only from this session's HELLO, so what comes before it cannot hold it. After it,
//! every byte must make sense.
//!
//! In the guest, a new HELLO may come at any frame boundary, since host ends are replaced:
//!
//! ```text
//!            ┌── frame ──┐ dropped when its trailer is not of this session
//!            ▼           │
//!   ──► Assembling ──────┘◄─────────────────┐
//!            │ header without a meaning     │ FRAME_MAX zero bytes, then another
//!            └────────► Hunting ────────────┘
//! ```
//!
//! A serial port that passes from one process to another is opened anew by the guest: what the last host end had sent by
//! then is thrown away with the decoder. Whoever leaves a half frame after that has the next HELLO swallowed, and must be
//! followed by padding.

use crate::{
    fault::Fault,
    frame::{
        FRAME_MAX, Frame, HEADER_LEN, HELLO, Header, Nonce, TRAILER_LEN, Trailer, VERSION, nonce_of,
    },
};

/// Collects the bytes of one frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Assembly {
    bytes: Vec<u8>,
    header: Option<Header>,
}

enum Assembled {
    /// The input is used up.
    Hungry,
    Whole(Header),
    Senseless(Fault),
}

impl Assembly {
    /// Takes what belongs to the frame from `input`, and no more.
    fn take(&mut self, input: &mut &[u8]) -> Assembled {
        if self.bytes.is_empty() {
            let padding = input.iter().take_while(|&&byte| byte == 0).count();
            *input = &input[padding..];
        }
        let header = match self.header {
            Some(header) => header,
            None => {
                if !self.fill(HEADER_LEN, input) {
                    return Assembled::Hungry;
                }
                match Header::read(&self.bytes) {
                    Ok(header) => header,
                    Err(fault) => return Assembled::Senseless(fault),
                }
            }
        };
        self.header = Some(header);
        if self.fill(header.frame_len(), input) {
            Assembled::Whole(header)
        } else {
            Assembled::Hungry
        }
    }

    fn fill(&mut self, length: usize, input: &mut &[u8]) -> bool {
        let missing = length.saturating_sub(self.bytes.len());
        let (taken, rest) = input.split_at(missing.min(input.len()));
        self.bytes.extend_from_slice(taken);
        *input = rest;
        taken.len() == missing
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..self.bytes.len() - TRAILER_LEN]
    }

    fn trailer(&self) -> &[u8] {
        &self.bytes[self.bytes.len() - TRAILER_LEN..]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.header = None;
    }
}

/// Reads what the guest sends, from the WELCOME of this session on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDecoder {
    state: HostState,
    trailer: Trailer,
    assembly: Assembly,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostState {
    /// Looks for the first bytes of the WELCOME. The last bytes read are in the assembly.
    Scanning {
        welcome: Vec<u8>,
    },
    Reading,
    /// The assembly holds the frame that was returned last.
    Returned,
}

impl HostDecoder {
    pub fn new(nonce: Nonce) -> Self {
        Self {
            state: HostState::Scanning {
                welcome: Header::of_welcome(nonce),
            },
            trailer: nonce.trailer(),
            assembly: Assembly::default(),
        }
    }

    /// Takes bytes from `input` up to the end of a frame; `None` when all is taken.
    ///
    /// # Errors
    /// The guest sent something without a meaning. The session is over.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Frame<'_>>, Fault> {
        match &self.state {
            HostState::Scanning { welcome } => {
                if !scan(&mut self.assembly.bytes, welcome, input) {
                    return Ok(None);
                }
            }
            HostState::Reading => {}
            HostState::Returned => self.assembly.clear(),
        }
        self.state = HostState::Reading;
        let header = match self.assembly.take(input) {
            Assembled::Hungry => return Ok(None),
            Assembled::Senseless(fault) => return Err(fault),
            Assembled::Whole(header) => header,
        };
        if self.assembly.trailer() != self.trailer {
            return Err(Fault::ForeignFrame);
        }
        self.state = HostState::Returned;
        let frame = header.frame(self.assembly.payload())?;
        if let Frame::Welcome(welcome) = frame
            && welcome.version != VERSION
        {
            return Err(Fault::Version {
                ours: VERSION,
                theirs: welcome.version,
            });
        }
        Ok(Some(frame))
    }
}

/// Looks for `wanted` in what was read. When it was found, `seen` holds it and `input` what follows;
/// else `seen` holds the last bytes, which may be its beginning.
fn scan(seen: &mut Vec<u8>, wanted: &[u8], input: &mut &[u8]) -> bool {
    while !input.is_empty() {
        let (piece, rest) = input.split_at(input.len().min(FRAME_MAX));
        let before = seen.len();
        seen.extend_from_slice(piece);
        if let Some(at) = seen.windows(wanted.len()).position(|bytes| bytes == wanted) {
            *input = &input[at + wanted.len() - before..];
            seen.clear();
            seen.extend_from_slice(wanted);
            return true;
        }
        seen.drain(..seen.len().saturating_sub(wanted.len() - 1));
        *input = rest;
    }
    false
}

/// Reads what host ends send, one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GuestDecoder {
    state: GuestState,
    /// Of the last HELLO; before it, nothing else counts.
    trailer: Option<Trailer>,
    assembly: Assembly,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum GuestState {
    #[default]
    Assembling,
    /// The assembly holds the frame that was returned last.
    Returned,
    /// The place in the stream is lost; only full padding gives it back.
    Hunting { zeros: usize },
}

impl GuestDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes from `input` up to the end of a frame; `None` when all is taken. A frame of
    /// another session is dropped. A [`Frame::Hello`] begins a session: from there on, frames must
    /// bear its trailer.
    ///
    /// # Errors
    /// The place in the stream is lost. Read on: the next padding and HELLO give it back.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Frame<'_>>, Fault> {
        if self.state == GuestState::Returned {
            self.assembly.clear();
            self.state = GuestState::Assembling;
        }
        let header = loop {
            if let GuestState::Hunting { zeros } = &mut self.state {
                if !hunt(zeros, input) {
                    return Ok(None);
                }
                self.state = GuestState::Assembling;
            }
            match self.assembly.take(input) {
                Assembled::Hungry => return Ok(None),
                Assembled::Senseless(fault) => {
                    self.lose_place();
                    return Err(fault);
                }
                Assembled::Whole(header) if self.belongs(&header) => break header,
                Assembled::Whole(_) => self.assembly.clear(),
            }
        };
        self.state = GuestState::Returned;
        header.frame(self.assembly.payload()).map(Some)
    }

    /// A HELLO proves itself by its own nonce, every other frame by that of the last HELLO.
    fn belongs(&mut self, header: &Header) -> bool {
        if header.kind != HELLO {
            return self
                .trailer
                .is_some_and(|wanted| self.assembly.trailer() == wanted);
        }
        let own = nonce_of(self.assembly.payload()).trailer();
        let proven = self.assembly.trailer() == own;
        if proven {
            self.trailer = Some(own);
        }
        proven
    }

    fn lose_place(&mut self) {
        let held = self.assembly.bytes.iter().rev();
        let zeros = held.take_while(|&&byte| byte == 0).count();
        self.assembly.clear();
        self.state = GuestState::Hunting { zeros };
    }
}

/// Whether full padding has just ended; what follows it is left in `input`.
fn hunt(zeros: &mut usize, input: &mut &[u8]) -> bool {
    while let Some((&byte, rest)) = input.split_first() {
        if byte == 0 {
            // No need to count on: padding may be longer.
            *zeros = (*zeros + 1).min(FRAME_MAX);
        } else if *zeros == FRAME_MAX {
            return true;
        } else {
            *zeros = 0;
        }
        *input = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Channel, Encoder, Hello, PAYLOAD_MAX, Padding, Resume, Welcome, Winsize};

    const OLD: Nonce = Nonce([1; 16]);
    const NEW: Nonce = Nonce([2; 16]);

    fn hello(nonce: Nonce) -> Frame<'static> {
        Frame::Hello(Hello {
            nonce,
            version: VERSION,
            resume: Resume::At {
                stdout: 5,
                stderr: 6,
            },
        })
    }

    fn data(bytes: &[u8]) -> Frame<'_> {
        Frame::Data {
            channel: Channel::Stdin,
            offset: 3,
            bytes,
        }
    }

    fn encoded(nonce: Nonce, frames: &[Frame<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            Encoder::new(nonce).encode(frame, &mut out);
        }
        out
    }

    /// Every frame as text, and every fault.
    fn read_all(decoder: &mut GuestDecoder, mut input: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            match decoder.read(&mut input) {
                Ok(Some(frame)) => seen.push(format!("{frame:?}")),
                Ok(None) => return seen,
                Err(fault) => seen.push(fault.to_string()),
            }
        }
    }

    fn padded_hello(nonce: Nonce) -> Vec<u8> {
        let mut out = Vec::new();
        Padding::Full.write(&mut out);
        out.extend(encoded(nonce, &[hello(nonce)]));
        out
    }

    #[test]
    fn every_frame_is_read_as_it_was_written() {
        let frames = [
            hello(NEW),
            data(b"some bytes"),
            data(b""),
            Frame::End {
                channel: Channel::Stderr,
                offset: 1 << 62,
            },
            Frame::Ack {
                channel: Channel::Stdout,
                offset: 1 << 40,
            },
            Frame::Refused {
                channel: Channel::Stdin,
            },
            Frame::Winsize(Winsize {
                rows: 24,
                columns: 80,
            }),
            Frame::Signal { seq: 7, number: 15 },
            Frame::SignalAck { seq: 7 },
            Frame::Exit { code: 255 },
            Frame::ExitAck,
            Frame::Resync,
            Frame::Welcome(Welcome {
                stdin_received: 1,
                stdin_acked: 2,
                stdin_ended: true,
                stdout_from: 3,
                stderr_from: 4,
                signals_received: 5,
                ..Welcome::plain(NEW)
            }),
        ];
        let wanted: Vec<_> = frames.iter().map(|frame| format!("{frame:?}")).collect();

        let mut decoder = GuestDecoder::new();
        let bytes = encoded(NEW, &frames);
        let bytewise = bytes.chunks(1);

        assert_eq!(read_all(&mut decoder, &bytes), wanted);
        let one_by_one: Vec<_> = bytewise
            .flat_map(|byte| read_all(&mut decoder, byte))
            .collect();
        assert_eq!(one_by_one, wanted);
    }

    #[test]
    fn a_host_end_may_die_at_any_byte() {
        let kilobyte = [0xaa; 1024];
        let signal = Frame::Signal { seq: 1, number: 15 };
        let session = encoded(OLD, &[hello(OLD), data(&kilobyte), signal, data(b"x")]);
        for cut in 0..session.len() {
            let mut decoder = GuestDecoder::new();
            read_all(&mut decoder, &session[..cut]);

            let seen = read_all(&mut decoder, &padded_hello(NEW));
            let after = read_all(&mut decoder, &encoded(NEW, &[data(b"new")]));

            let wanted = format!("{:?}", hello(NEW));
            assert_eq!(seen.last(), Some(&wanted), "cut at {cut}");
            assert_eq!(after, [format!("{:?}", data(b"new"))], "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_completed_by_padding_is_dropped() {
        let mut decoder = GuestDecoder::new();
        let session = encoded(OLD, &[hello(OLD), data(&[0xaa; PAYLOAD_MAX])]);
        read_all(&mut decoder, &session[..session.len() - PAYLOAD_MAX]);

        let seen = read_all(&mut decoder, &padded_hello(NEW));

        assert_eq!(seen, [format!("{:?}", hello(NEW))]);
    }

    #[test]
    fn a_frame_of_the_last_session_is_dropped() {
        let mut decoder = GuestDecoder::new();
        read_all(&mut decoder, &encoded(NEW, &[hello(NEW)]));

        assert!(read_all(&mut decoder, &encoded(OLD, &[data(b"old")])).is_empty());
    }

    #[test]
    fn a_guest_that_lost_its_place_finds_it_after_full_padding() {
        let mut decoder = GuestDecoder::new();
        let faults = read_all(&mut decoder, b"GET / HTTP/1.1\r\n\r\n\0\0\0");
        let too_early = read_all(&mut decoder, &encoded(OLD, &[hello(OLD)]));

        let seen = read_all(&mut decoder, &padded_hello(NEW));

        assert_eq!(faults.len(), 1);
        assert!(too_early.is_empty());
        assert_eq!(seen, [format!("{:?}", hello(NEW))]);
    }

    #[test]
    fn a_length_is_checked_before_anything_is_kept() {
        let mut decoder = GuestDecoder::new();
        let mut frame = encoded(NEW, &[data(b"")]);
        frame[4..8].copy_from_slice(&u32::MAX.to_le_bytes());

        let seen = read_all(&mut decoder, &frame);

        let fault = Fault::WrongLength {
            kind: 3,
            length: u32::MAX,
        };
        assert_eq!(seen[0], fault.to_string());
        assert!(decoder.assembly.bytes.capacity() <= FRAME_MAX);
    }

    #[test]
    fn the_host_discards_everything_before_its_welcome() {
        let mut stale = encoded(OLD, &[Frame::Welcome(Welcome::plain(OLD)), data(b"old")]);
        stale.extend(&encoded(OLD, &[data(&[9; 2 * 1024])])[..1500]);
        let wanted = Frame::Welcome(Welcome::plain(NEW));
        let fresh = encoded(NEW, &[wanted, data(b"new")]);
        for chunk in [1, 7, 31, 32, 33, 40_000] {
            let mut decoder = HostDecoder::new(NEW);
            let mut seen = Vec::new();
            for mut input in [&stale[..], &fresh[..]].concat().chunks(chunk) {
                while let Some(frame) = decoder.read(&mut input).unwrap() {
                    seen.push(format!("{frame:?}"));
                }
            }

            assert_eq!(
                seen,
                [format!("{wanted:?}"), format!("{:?}", data(b"new"))],
                "chunks of {chunk}"
            );
        }
    }

    #[test]
    fn the_host_refuses_a_frame_of_another_session_after_its_welcome() {
        let mut decoder = HostDecoder::new(NEW);
        let welcome = encoded(NEW, &[Frame::Welcome(Welcome::plain(NEW))]);
        decoder.read(&mut &welcome[..]).unwrap();

        let foreign = encoded(OLD, &[data(b"old")]);

        assert_eq!(decoder.read(&mut &foreign[..]), Err(Fault::ForeignFrame));
    }

    #[test]
    fn the_host_says_so_when_the_guest_speaks_another_version() {
        let mut decoder = HostDecoder::new(NEW);
        let welcome = Welcome {
            version: 9,
            ..Welcome::plain(NEW)
        };

        let answer = encoded(NEW, &[Frame::Welcome(welcome)]);

        assert_eq!(
            decoder.read(&mut &answer[..]),
            Err(Fault::Version {
                ours: VERSION,
                theirs: 9
            })
        );
    }
}
